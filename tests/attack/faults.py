"""Full disks, read-only folders, no network, slow and broken networks, servers' errors, wrong contents.

Each command meets each of them at each of its changes of files or requests. It ends in one sentence and status 1, or,
where it can do without, well; no file is lost or cut; and the same command without the fault then succeeds.
"""

from __future__ import annotations

import errno
import functools
import itertools
import random
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import victims
from bench import Bench
from kinds import KINDS, Fit, Kind
from victims import Ending

BYTES = 30_000  # more than the largest file that is written here
FOR_EVER = 10**6  # requests
BROKEN_AT = (0, 200, 700, 3000)  # bytes of answers, within their heads and within their bodies


class Break(NamedTuple):
    """A fault: what it is called, what it does in the process, what it does to the Hub, and whether it may go well."""

    fault: str
    details: str
    before: Callable[[], None] | None = None
    hub: tuple[object, ...] = ()
    must_work: bool = False


def cases(seed: int, n: int, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """At most n faults, of one kind after the other."""
    bench = Bench(folder)
    kinds = {name: kind(bench) for name, kind in KINDS.items()}
    planned: dict[str, list[tuple[str, Break]]] = {}
    for name, kind in kinds.items():
        kind.count()
        for each in [*_of_disks(kind, random.Random(f"{seed} {name}")), *_of_networks(kind)]:
            planned.setdefault(each.fault, []).append((name, each))
    for fault, breaks in planned.items():
        random.Random(f"{seed} {fault}").shuffle(breaks)
    found = [each for row in itertools.zip_longest(*planned.values()) for each in row if each is not None]
    for number, (name, each) in enumerate(found[:n]):
        yield f"{each.fault}: {name}, {each.details}", functools.partial(_break, kinds[name], each, number)


def _of_disks(kind: Kind, rng: random.Random) -> Iterator[Break]:
    """A disk that is full, or not to be written, from each change of a file on."""
    for k in range(kind.calls):
        for fault, number in (
            ("full disk", errno.ENOSPC),
            ("read-only folder", errno.EROFS),
            ("read-only folder", errno.EACCES),
        ):
            before = victims.break_from(k, number, kind.watched)
            yield Break(fault, f"{errno.errorcode[number]} from change {k} of a file on", before)
    for size in sorted({0, 1, *(int(BYTES ** rng.random()) for _ in range(8))}) if kind.calls else ():
        yield Break("full disk", f"for what is beyond {size} bytes of a file", victims.full_at(size))


def _of_networks(kind: Kind) -> Iterator[Break]:
    """A network or a server that breaks, at each request."""
    if not kind.requests:
        return
    yield Break("no network", "no names are found", _nameless)
    yield Break("no network", "nobody listens", hub=("paced", "gone"))
    yield Break("slow network", "a few bytes at a time", hub=("paced", "slow"), must_work=True)
    for size in BROKEN_AT:
        yield Break("slow network", f"silent after {size} bytes", hub=("paced", "dead", size))
        yield Break("broken connection", f"each after {size} bytes", hub=("paced", "closed", size))
    for k in range(kind.asked):
        yield Break("slow network", f"request {k} is not answered", hub=("break_at", k, "stall"))
        yield Break("slow network", f"none is answered from request {k} on", hub=("break_at", k, "stall", 0, FOR_EVER))
        for status in (500, 503):
            said = f"request {k} is answered with {status}"
            yield Break("server error", said, hub=("break_at", k, "status", status))
            yield Break("server error", f"{said}, and all after it", hub=("break_at", k, "status", status, FOR_EVER))
        for size in (0, 100):
            said = f"request {k} ends after {size} bytes of its answer"
            yield Break("broken connection", said, hub=("break_at", k, "cut", size))
            yield Break("broken connection", f"{said}, and all after it", hub=("break_at", k, "cut", size, FOR_EVER))
    for name in kind.served():
        yield Break("wrong content", f"{name} has one wrong byte", hub=("spoil", name, "flip"))
        yield Break("wrong content", f"{name} is cut", hub=("spoil", name, "cut"))
        yield Break("wrong content", f"{name} is another file", hub=("spoil", name, "other"))


def _nameless() -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    socket.getaddrinfo = refuse


def _break(kind: Kind, fault: Break, number: int) -> None:
    """One fault, and what must hold after it."""
    bench = kind.bench
    with victims.fresh(bench.work):
        kind.prepare(number)
        try:
            if fault.hub:
                call, *arguments = fault.hub
                bench.hub(call, *([kind.repo, *arguments] if call == "spoil" else arguments))
            ending = victims.run(kind.action(), bench.work, before=fault.before)
        finally:
            bench.hub("break_at", None, "")
            bench.hub("paced", "good")
            if fault.hub[:1] == ("spoil",):
                kind.serve()
        assert ending.status in ((0,) if fault.must_work else (0, 1)), f"status {ending.status}: {ending.err[-1000:]}"
        if ending.status == 1:
            check_sentence(ending, alone=not isinstance(kind, Fit))
        kind.check()


def check_sentence(ending: Ending, *, alone: bool) -> None:
    """What a command that failed printed is one sentence; `alone` where nothing else may be said before it."""
    lines = [line for line in ending.err.splitlines() if line.strip()]
    assert "Traceback" not in ending.err, ending.err[-1000:]
    own = [line for line in lines if line.startswith("zoo: ")]
    assert own == lines[-1:], f"no sentence at the end: {lines[-5:]}"
    if alone:
        # A push lists the files that it is to send.
        lines = [line for line in lines if not re.fullmatch(r" *[\d,]+ bytes  .*", line)]
        assert lines == own, f"more than one sentence: {lines}"
    (said,) = own
    assert len(said) < 500, f"{len(said)} characters: {said}"
    assert said.isprintable(), ascii(said)
    assert said.endswith("."), said
