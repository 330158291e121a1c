"""Kills (-9) during fit, export, pull and push.

Each kind of command is killed before each of its changes of files, at each of its requests to the Hub, where a file
has grown to some size, and at random times. What then is under the name is the old thing or the new one, whole, read
to the last file; the same command run again succeeds; a training resumed from what there is ends in the same bits.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import victims
from bench import Bench
from kinds import KINDS, Kind
from victims import Moment

KILLED = [name for name in KINDS if name.startswith(("fit", "export", "pull", "push"))]
BYTES = 30_000  # more than the largest file that is written here
SOME = 5  # sizes and times, beside all changes and requests


def cases(seed: int, n: int, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """n kills: all the chosen moments, of one kind after the other, and then random times."""
    bench = Bench(folder)
    kinds = {name: KINDS[name](bench) for name in KILLED}
    planned = []
    for name, kind in kinds.items():
        kind.count()
        planned.append([(name, moment) for moment in _moments(kind, random.Random(f"{seed} {name}"))])
    rng = random.Random(seed)
    found = [each for row in itertools.zip_longest(*planned) for each in row if each is not None]
    found += [(rng.choice(KILLED), Moment("part", rng.random())) for _ in range(n - len(found))]
    for number, (name, moment) in enumerate(found[:n]):
        yield f"{name}: killed {moment}", functools.partial(_kill, kinds[name], moment, number)


def _moments(kind: Kind, rng: random.Random) -> list[Moment]:
    """When a command is killed: at each call and request, at some sizes and some times, in any order."""
    moments = [Moment("call", k) for k in range(kind.calls)] + [Moment("request", k) for k in range(kind.asked)]
    moments += [Moment("byte", int(BYTES ** rng.random())) for _ in range(SOME)]
    moments += [Moment("part", rng.random()) for _ in range(SOME)]
    rng.shuffle(moments)
    return moments


def _kill(kind: Kind, moment: Moment, number: int) -> None:
    """One kill, and what must hold after it."""
    bench = kind.bench

    def started(pid: int) -> None:
        if moment.kind == "request":
            bench.hub("break_at", int(moment.at), "kill", pid)

    with victims.fresh(bench.work):
        kind.prepare(number)
        try:
            victims.run(
                kind.action(),
                bench.work,
                before=victims.kill_at(moment, kind.watched),
                started=started,
                kill_after=moment.at * kind.duration if moment.kind == "part" else None,
            )
        finally:
            bench.hub("break_at", None, "")
        kind.check()
