"""An action that is killed, or that meets a full disk, at each of the things that it does to files.

It runs in a fork of this process, where an audit hook counts what Python does to files: opened to be written, renamed,
removed, made. What happens between two of these, as an exchange of two names, is seen by stopping at the next.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
from collections.abc import Callable

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.link", "os.symlink", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
KILLED = 99


def killed(action: Callable[[], object], step: int) -> bool:
    """Run an action that is killed before its `step`-th change; False where it makes fewer and has ended."""

    def stop(event: str, path: object) -> None:
        os._exit(KILLED)

    return _forked(action, step, stop)[0] == KILLED


def refused(action: Callable[[], object], step: int, number: int = errno.ENOSPC) -> tuple[list[str], str] | None:
    """Run an action for which nothing more can be written from its `step`-th change on.

    Returns:
        The names of the classes of what it raised, and its text; None where it makes fewer changes or needs none.
    """

    def stop(event: str, path: object) -> None:
        if event not in ("os.remove", "os.rmdir"):  # which make room
            raise OSError(number, os.strerror(number), str(path))

    return _forked(action, step, stop)[1]


def refused_beyond(action: Callable[[], object], size: int) -> tuple[list[str], str] | None:
    """Run an action for which no file may grow beyond `size` bytes: as on a full disk, half of one is written."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        action()

    return _forked(limited, 1 << 60, lambda event, path: None)[1]


def _forked(action: Callable[[], object], step: int, stop: Callable[[str, object], None]) -> tuple[int, object]:
    """The exit status of a fork that runs an action, and what it raised."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 0
        try:
            os.close(reader)
            left = step

            def hook(event: str, args: tuple) -> None:
                nonlocal left
                opened = event == "open" and isinstance(args[2], int) and args[2] & WRITING
                special = str(args[0]).startswith(("/dev/", "/proc/")) if args else False
                if (opened or event in CHANGES) and not special:
                    left -= 1
                    if left <= 0:
                        stop(event, args[0])

            sys.addaudithook(hook)
            action()
        except BaseException as error:
            said = json.dumps([[kind.__name__ for kind in type(error).__mro__], str(error)])
            os.write(writer, said.encode())
            status = 1
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, tuple(json.loads(said)) if said else None
