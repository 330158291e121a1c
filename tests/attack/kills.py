"""Kills (-9) during fit, export, pull and push.

Each kind of command is killed before each of its changes of files, at each of its requests to the Hub, where a file
has grown to some size, and at random times. What then is under the name is the old thing or the new one, whole, read
to the last file; the same command run again succeeds; a training resumed from what there is ends in the same bits.
"""

from __future__ import annotations

import functools
import itertools
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import victims
from bench import NAME, Bench, digest, zoo_command
from victims import Moment, contents

from zoo.errors import ZooError
from zoo.hub import remote, store
from zoo.training.files import read_run

BYTES = 30_000  # more than the largest file that is written here


class Kind:
    """A command that is killed: what lies there before, what it does, what must hold afterwards."""

    watched: list[Path]
    requests = False  # whether it asks the Hub

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.watched = [bench.work, bench.home]

    def prepare(self, case: object) -> None:
        """Lay out what is there before a case, which is named."""

    def action(self) -> Callable[[], int]:
        """What is done and killed."""
        raise NotImplementedError

    def check(self) -> None:
        """What is there is whole; run again, all is as without the kill."""
        raise NotImplementedError

    def again(self, action: Callable[[], int] | None = None) -> None:
        """Run the command again, which must succeed."""
        victims.run(action or self.action(), self.bench.work).check()


class Fit(Kind):
    """A training, and its resumption."""

    def action(self) -> Callable[[], int]:
        return self.bench.fit(self.bench.work / "run")

    def check(self) -> None:
        run = self.bench.work / "run"
        there = sorted(path.name for path in run.glob("checkpoints/*.ckpt"))
        for name in there:
            read_run(run / "checkpoints" / name)
        more = ["--ckpt_path", "last"] if "last.ckpt" in there else []
        self.again(self.bench.fit(run, *more))
        assert digest(run) == digest(self.bench.run), "last.ckpt differs in some bit"
        # Of its weights it need not be: a run killed in its last validation has no step left before which to repeat it.
        read_run(run / "checkpoints" / "best.ckpt")


class Export(Kind):
    """A checkpoint folder, made from a run."""

    overwrite = False

    def prepare(self, case: object) -> None:
        if self.overwrite:
            shutil.copytree(self.bench.old, self.bench.work / "checkpoints" / NAME)

    def action(self) -> Callable[[], int]:
        more = ["--overwrite"] if self.overwrite else []
        return zoo_command("export", str(self.bench.folder / "second"), NAME, *more)

    def check(self) -> None:
        old, new = contents(self.bench.old), contents(self.bench.new)
        try:
            found = contents(store.find(NAME))
        except ZooError:
            found = {}
        assert found in ([old, new] if self.overwrite else [{}, new]), f"neither: {_differences(found, old, new)}"
        if self.overwrite or not found:
            self.again()
        assert contents(store.find(NAME)) == new


class Overwrite(Export):
    """A checkpoint folder in the place of another one."""

    overwrite = True


class Pull(Kind):
    """A checkpoint fetched from the Hub."""

    requests = True
    update = False

    def prepare(self, case: object) -> None:
        self.repo = f"alice/pixelcnn-{type(self).__name__.lower()}-{case}"
        if self.update:
            self.bench.hub("hold", self.repo, contents(self.bench.old))
            self.again()
        self.bench.hub("hold", self.repo, contents(self.bench.new))

    def action(self) -> Callable[[], int]:
        return zoo_command("pull", self.repo)

    def check(self) -> None:
        old, new = contents(self.bench.old), contents(self.bench.new)
        try:
            found = contents(remote.pull(self.repo, local_files_only=True))
        except ZooError:
            found = {}
        assert found in ([old, new] if self.update else [{}, new]), f"neither: {_differences(found, old, new)}"
        self.again()
        assert contents(remote.pull(self.repo, local_files_only=True)) == new


class Update(Pull):
    """A newer version of a checkpoint that is in the cache."""

    update = True


class Push(Kind):
    """A checkpoint sent to the Hub."""

    requests = True
    update = False

    def prepare(self, case: object) -> None:
        self.repo = f"alice/pixelcnn-{type(self).__name__.lower()}-{case}"
        if self.update:
            self.bench.hub("hold", self.repo, contents(self.bench.old))

    def action(self) -> Callable[[], int]:
        return zoo_command("push", str(self.bench.new), "--repo-id", self.repo)

    def check(self) -> None:
        old, new = contents(self.bench.old), contents(self.bench.new)
        found = self.bench.hub("held", self.repo)
        assert found in ([old, new] if self.update else [{}, new]), f"neither: {_differences(found, old, new)}"
        self.again()
        assert self.bench.hub("held", self.repo) == new


class PushUpdate(Push):
    """A newer version sent to the Hub."""

    update = True


KINDS: dict[str, type[Kind]] = {
    "fit": Fit,
    "export": Export,
    "export --overwrite": Overwrite,
    "pull": Pull,
    "pull of a newer version": Update,
    "push": Push,
    "push of a newer version": PushUpdate,
}


def _differences(found: dict[str, bytes], old: dict[str, bytes], new: dict[str, bytes]) -> str:
    """Of each file, whether it is the old one, the new one or another."""

    def said(name: str) -> str:
        data = found.get(name)
        if data is None:
            return "absent"
        return "new" if data == new.get(name) else "old" if data == old.get(name) else "another"

    return ", ".join(f"{name} is {said(name)}" for name in sorted({*found, *new}))


def cases(seed: int, n: int, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """n kills: all the chosen moments, of one kind after the other, and then random times."""
    bench = Bench(folder)
    kinds = {name: kind(bench) for name, kind in KINDS.items()}
    durations, planned = {}, {}
    for name, kind in kinds.items():
        rng = random.Random(f"{seed} {name}")
        durations[name], planned[name] = _moments(kind, rng)
    rng = random.Random(seed)
    rows = itertools.zip_longest(*([(name, moment) for moment in moments] for name, moments in planned.items()))
    found = [each for row in rows for each in row if each is not None]
    found += [(rng.choice([*KINDS]), Moment("part", rng.random())) for _ in range(n - len(found))]
    for number, (name, moment) in enumerate(found[:n]):
        yield f"{name}: killed {moment}", functools.partial(_kill, kinds[name], moment, durations[name], number)


def _moments(kind: Kind, rng: random.Random) -> tuple[float, list[Moment]]:
    """How long a command takes, and when it is killed: at each call and request, some sizes and some times."""
    with victims.fresh(kind.bench.work):
        kind.prepare("counted")
        calls = victims.changes(kind.action(), kind.bench.work, kind.watched)
    requests, start = 0, 0.0
    with victims.fresh(kind.bench.work):
        kind.prepare("timed")
        kind.bench.hub("break_at", None, "")
        start = time.monotonic()
        kind.again()
        duration = time.monotonic() - start
        requests = kind.bench.hub("asked")
    moments = [Moment("call", k) for k in range(calls)] + [Moment("request", k) for k in range(requests)]
    moments += [Moment("byte", int(BYTES ** rng.random())) for _ in range(5)]
    moments += [Moment("part", rng.random()) for _ in range(5)]
    rng.shuffle(moments)
    return duration, moments


def _kill(kind: Kind, moment: Moment, duration: float, number: int) -> None:
    """One kill, and what must hold after it."""
    bench = kind.bench
    with victims.fresh(bench.work):
        kind.prepare(number)
        try:
            victims.run(
                kind.action(),
                bench.work,
                before=victims.kill_at(moment, kind.watched),
                started=lambda pid: (
                    bench.hub("break_at", int(moment.at), "kill", pid) if moment.kind == "request" else None
                ),
                kill_after=moment.at * duration if moment.kind == "part" else None,
            )
        finally:
            bench.hub("break_at", None, "")
        kind.check()
