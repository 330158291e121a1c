"""The terminal: what it cannot show, and what to say on it when a command fails."""

# ruff: noqa: RUF001  the letters that are replaced look like others

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import re
import sys
import threading
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo.errors import ZooError, ZooWarning, one_line, plain
from zoo.files import FULL, unwritable

STAND_INS = {
    "≤": "<=", "≥": ">=", "≈": "~", "±": "+-", "×": "x", "·": ".", "−": "-", "–": "-", "—": "-", "…": "...",
    "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "→": "->", "←": "<-", "²": "^2", "³": "^3", "µ": "u", "∞": "inf",
    "█": "#", "💡": "*",
}  # fmt: skip


def readable() -> None:
    """Let stdout and stderr show what their encoding lacks by stand-ins: `<=` for `≤`, and not end in an error."""
    codecs.register_error("zoo", _stand_in)
    for stream in (sys.stdout, sys.stderr):
        # What stands in their place, as in a notebook, takes all characters or has a rule of its own.
        if getattr(stream, "errors", None) in ("strict", "surrogateescape", "backslashreplace") and hasattr(
            stream, "reconfigure"
        ):
            stream.reconfigure(errors="zoo")


def tell(path: object) -> None:
    """Print the name of a file or folder: as it is into a pipe, for the next command; a terminal gets no escapes."""
    print(plain(str(path)) if sys.stdout.isatty() else path)


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    shown = []
    for letter in error.object[error.start : error.end]:
        plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
        shown.append(STAND_INS.get(letter) or plain or ("" if unicodedata.combining(letter) else "?"))
    return "".join(shown), error.end


@contextlib.contextmanager
def plain_warnings(program: str) -> Iterator[None]:
    """Our own warnings are sentences, as our refusals are, and not a line of code with its file before it."""
    usual = warnings.formatwarning

    def sentence(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
        return (
            f"{program}: {message}\n" if issubclass(category, ZooWarning) else usual(message, category, *where, **line)
        )

    warnings.formatwarning = sentence
    try:
        yield
    finally:
        if warnings.formatwarning is sentence:  # else Lightning, imported meanwhile, has put its own before it
            warnings.formatwarning = usual


@contextlib.contextmanager
def elsewhere() -> Iterator[list[OSError]]:
    """Errors of files in other threads, and in the clean-up of objects, while a command runs.

    Python prints a traceback of each, as of the thread by which TensorBoard writes on a full disk. They are in the list
    instead, for the command to say; all other errors are shown as they were.
    """
    heard: list[OSError] = []
    before = threading.excepthook, sys.unraisablehook

    def of_thread(args: Any) -> None:
        _hear(args, before[0])

    def of_clean_up(args: Any) -> None:
        _hear(args, before[1])

    def _hear(args: Any, otherwise: Any) -> None:
        if isinstance(args.exc_value, OSError):
            heard.append(args.exc_value)
        else:
            otherwise(args)

    threading.excepthook, sys.unraisablehook = of_thread, of_clean_up
    try:
        yield heard
    finally:
        threading.excepthook, sys.unraisablehook = before


def sentence_of(error: BaseException) -> str | None:
    """What to say of an error that is nobody's mistake in the code, with the remedy; None for one that may be.

    It is a refusal of ours, of the file system, of memory, or of Lightning's settings. All else keeps its traceback.
    """
    said = _said_of(error)
    return None if said is None else str(ZooError(said))  # on one line, without control characters, cut where too long


def _said_of(error: BaseException) -> str | None:
    if isinstance(error, ZooError):
        return str(error)
    if isinstance(error, OSError):
        return _of_files(error)
    kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    text = one_line(error)
    # Lightning adds what else one may want, a sentence each: the first says what is wrong.
    first = re.split(r"[.!]+(?=\s+[A-Z])|!$", text)[0]
    if isinstance(error, MemoryError) or "torch.OutOfMemoryError" in kinds or _no_memory(error, text):
        where = "of the GPU" if "CUDA" in text else "of this machine"
        return (
            f"The memory {where} does not suffice: take smaller batches (--data.batch_size and --data.eval_batch_size "
            f"in training, --batch-size in evaluate and distance) or draw fewer at once (-n)."
        )
    if "lightning.MisconfigurationException" in kinds:
        return f"{first}: change the trainer's settings."
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != "zoo":
        return f"The package {error.name} is needed for this, and is not installed: install it."
    if isinstance(error, ModuleNotFoundError) and _raised_by(error, "lightning"):
        return f"{first}."  # it says what to install
    if isinstance(error, (ValueError, RuntimeError)) and _raised_by(error, "lightning"):
        return f"{first}: change the trainer's settings."
    if "torch.DistError" in kinds:
        return f"The processes cannot reach each other ({text}): see MASTER_ADDR and MASTER_PORT."
    return None


def _no_memory(error: BaseException, text: str) -> bool:
    words = ("not enough memory", "can't allocate memory", "out of memory", "Unable to allocate")
    return isinstance(error, RuntimeError) and any(each in text for each in words)


def _of_files(error: OSError) -> str | None:
    number, name = error.errno, error.filename
    if number is None:  # of a library, as of a network or a picture
        return f"{one_line(error)}." if type(error) is not OSError or str(error) else None
    if name is None:
        name = error.filename2
    why = error.strerror or os.strerror(number)
    if number in (*FULL, errno.EROFS):
        return str(unwritable(name or "a file", error))
    if number == errno.EMFILE:
        return f"{why}: let the process open more files (ulimit -n), or take fewer workers."
    if number == errno.ENOMEM:
        return f"{why}: take smaller batches, or a machine with more memory."
    if name is None:
        return f"{one_line(error)}."
    if number in (errno.EACCES, errno.EPERM):
        parent = Path(os.fsdecode(name)).parent if isinstance(name, (str, bytes)) else name
        return f"{name}: {why}: make it, or the folder {parent}, yours to read and write, or choose another."
    if number in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST):
        return f"{name}: {why}: give another path."
    return f"{name}: {why}."


def _raised_by(error: BaseException, package: str) -> bool:
    """Whether a package's own code raised it, and not ours or what it called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return module.partition(".")[0] == package
