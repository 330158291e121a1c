"""A command of the zoo in a process of its own, which is killed or whose disk breaks at a chosen moment.

Processes are forked from one that has imported everything, so that hundreds of them take a minute and not an hour.
Where a file is about to be changed Python tells its audit hooks: there a process can be killed before the k-th change,
or told that the disk is full. What libraries write without Python (`torch.save`) is reached by a limit on the size
of a file, at which the system either ends the process, as `kill -9` does, or refuses to write.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 60  # after which a command hangs
CPU_SECONDS = 10
_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
_FREES = ("os.remove", "os.rmdir", "os.chmod")  # what a full disk still does
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Ending(NamedTuple):
    """How a process ended: its status, minus a signal's number where that ended it, and what it printed."""

    status: int
    out: str
    err: str

    def check(self) -> Ending:
        """Raise unless it went well."""
        if self.status != 0:
            raise AssertionError(f"status {self.status}: {self.err[-1500:]}")
        return self


class Moment(NamedTuple):
    """When something happens to a process: before a "call", at a "byte" or "request", or after a "part" of its time."""

    kind: str
    at: float

    def __str__(self) -> str:
        if self.kind == "byte":
            return f"when a file grows beyond {self.at} bytes"
        if self.kind == "part":
            return f"after {self.at:.1%} of its time"
        return f"before change {self.at} of a file" if self.kind == "call" else f"at request {self.at}"


def run(
    action: Callable[[], Any],
    folder: Path,
    *,
    before: Callable[[], None] | None = None,
    started: Callable[[int], None] | None = None,
    kill_after: float | None = None,
) -> Ending:
    """Fork a process that runs `action` in `folder`, and wait for its end.

    Args:
        action: what it does; its status is what this returns, 0 for None, and 70 where it raises.
        folder: the working directory.
        before: called in the process first, to break what is to break.
        started: called here with the process's id, before it begins.
        kill_after: seconds after which it is killed.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    gate, out, err = os.pipe(), os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.dup2(out[1], 1)
            os.dup2(err[1], 2)
            # New ones, as of a new process: the old may have known that what they wrote to was a file.
            sys.stdout, sys.stderr = (open(each, "w", buffering=1, closefd=False) for each in (1, 2))  # noqa: SIM115
            os.read(gate[0], 1)
            for name in (signal.SIGPROF, signal.SIGALRM):
                signal.signal(name, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            signal.setitimer(signal.ITIMER_REAL, 2 * SECONDS)  # should nobody wait for it any more
            os.chdir(folder)
            if before is not None:
                before()
            status = action() or 0
        except SystemExit as ending:
            status = ending.code if isinstance(ending.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)
    for descriptor in (gate[0], out[1], err[1]):
        os.close(descriptor)
    if started is not None:
        started(pid)
    os.write(gate[1], b"!")
    os.close(gate[1])
    texts = _read(pid, out[0], err[0], kill_after)
    _, waited = os.waitpid(pid, 0)
    return Ending(os.waitstatus_to_exitcode(waited), *texts)


def _read(pid: int, out: int, err: int, kill_after: float | None) -> list[str]:
    """What a process prints until its end, by which time it is killed at the latest."""
    start, deadline, killed = time.monotonic(), SECONDS if kill_after is None else kill_after, False
    texts = {out: bytearray(), err: bytearray()}
    left = [out, err]
    while left:
        rest = None if killed else max(0.0, start + deadline - time.monotonic())
        ready, _, _ = select.select(left, [], [], rest)
        if not ready:
            killed = True
            if kill_after is None:
                texts[err] += b"\nTraceback: it never ended\n"
            os.kill(pid, signal.SIGKILL)
        for descriptor in ready:
            piece = os.read(descriptor, 1 << 16)
            texts[descriptor] += piece
            if not piece:
                left.remove(descriptor)
                os.close(descriptor)
    return [bytes(text).decode(errors="replace") for text in texts.values()]


# -- what changes files ----------------------------------------------------------------------------------------------


def on_changes(folders: list[Path], act: Callable[[int, str], None]) -> None:
    """From now on call `act` before each change of a file below `folders`: with its number, from 0, and its kind.

    This cannot be undone: it is for processes that end soon.
    """
    places = tuple(f"{os.path.realpath(folder)}{os.sep}" for folder in folders)
    count, inside = 0, False

    def below(path: Any, directory: Any = None) -> bool:
        if isinstance(path, int) or path is None:
            return False
        text = os.fsdecode(path)
        if not os.path.isabs(text):
            start = os.getcwd()
            if isinstance(directory, int) and directory >= 0:
                start = os.readlink(f"/proc/self/fd/{directory}") if os.path.isdir("/proc/self/fd") else start
            text = os.path.join(start, text)
        # Not of the last part: it is the link that is changed, and not what it points to.
        parent, name = os.path.split(os.path.normpath(text))
        return f"{os.path.realpath(parent)}{os.sep}{name}".startswith(places)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count, inside
        if inside or (event != "open" and event not in _CHANGES):
            return
        inside = True
        try:
            if event == "open":
                touched = bool(args[2] & _WRITES) and below(args[0])
            elif event in ("os.rename", "os.link"):
                touched = below(args[0], args[2]) or below(args[1], args[3])
            elif event == "os.symlink":
                touched = below(args[1], args[2])
            else:
                touched = below(args[0], args[-1] if len(args) > 1 else None)
            if touched:
                number, count = count, count + 1
                act(number, event)
        finally:
            inside = False

    sys.addaudithook(hook)


def changes(action: Callable[[], Any], folder: Path, watched: list[Path]) -> int:
    """How many changes of files an action makes; it must succeed."""
    reading, writing = os.pipe()
    run(action, folder, before=lambda: on_changes(watched, lambda *_: os.write(writing, b"."))).check()
    os.close(writing)
    count = 0
    while piece := os.read(reading, 1 << 16):
        count += len(piece)
    os.close(reading)
    return count


def kill_at(moment: Moment, watched: list[Path]) -> Callable[[], None]:
    """What a process does to die at a call or a byte, as for `before` of `run`."""

    def before() -> None:
        if moment.kind == "call":
            on_changes(watched, lambda number, _: number == moment.at and os.kill(os.getpid(), signal.SIGKILL))
        elif moment.kind == "byte":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which ends the process; Python ignores it
            _limit_files(moment.at)

    return before


def break_from(call: int, error: int, watched: list[Path]) -> Callable[[], None]:
    """From a call on, changes of files fail with this errno; a full disk still removes files."""

    def act(number: int, event: str) -> None:
        if number >= call and not (error == errno.ENOSPC and event in _FREES):
            raise OSError(error, os.strerror(error))

    return lambda: on_changes(watched, act)


def full_at(size: int) -> Callable[[], None]:
    """No file grows beyond `size` bytes."""
    return lambda: _limit_files(size)


def _limit_files(size: float) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


# -- what files there are ----------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder, by their paths in it; hidden ones, which nobody takes for whole, are left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") or part.endswith(".partial") for part in parts):
            found["/".join(parts)] = path.read_bytes()
    return found


def sizes(*folders: Path) -> list[int]:
    """Limits within the files of folders: none, half of each and all but a byte of it."""
    lengths = {path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()}
    return sorted({0, *(n // 2 for n in lengths), *(n - 1 for n in lengths if n)})


@contextlib.contextmanager
def fresh(folder: Path) -> Iterator[Path]:
    """An empty folder, which is removed afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
