"""The package's own exceptions: one sentence each, naming the thing that is wrong and the remedy.

How values and a stranger's words are shown, in such sentences and elsewhere, is here too.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LONGEST = 480  # characters of a sentence; of a longer one the middle is left out, for the remedy ends it


def plain(text: str) -> str:
    r"""Text that a terminal shows and does not obey: control characters are written as JSON writes them, `\u001b`.

    These are the C0 and C1 controls but tabs and ends of lines, and what is invisible or turns the direction of
    writing; the joiners that scripts and pictures of faces need stay. All that a stranger wrote, in a config.json or a
    name, passes through here before it is printed.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character in "\t\n\u200c\u200d" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    return json.dumps(character)[1:-1]


def literal(text: object) -> str:
    """Text as one line of Markdown that shows it as it is, but for `code` between single backticks.

    No tag, link, picture, heading or fence is made of a stranger's words, wherever the line is put.
    """
    line = plain(" ".join(str(text).split()))
    # Runs of backticks would pair otherwise than one by one, and so would one behind a backslash.
    parts = re.split(r"(`[^`]*`)", re.sub(r"`{2,}", "`", line))
    parts[::2] = [re.sub(r"([\\\[\]<>`])", r"\\\1", part) for part in parts[::2]]
    # Nor may it begin as a heading, a rule, a fence or a list does.
    line = re.sub(r"^(?=[#=~*]|[-+](\s|[-+]|$))", r"\\", "".join(parts))
    return re.sub(r"^(\d+)(?=[.)](\s|$))", r"\1\\", line)


class ZooError(ValueError):
    """Anything `zoo` refuses or cannot do; the command line prints its text alone, without a traceback.

    Whatever the sentence quotes, it is on one line, has no control characters and fewer than 500 characters.
    """

    def __init__(self, sentence: object = "") -> None:
        text = plain(re.sub(r"\s*[\t\n\r]\s*", " ", str(sentence)))
        if len(text) > LONGEST:
            half = (LONGEST - 5) // 2
            text = f"{text[:half]} ... {text[-half:]}"
        super().__init__(text)


class DataError(ZooError):
    """A data set is absent or damaged, or a batch does not fit the model's `DataSpec`."""


class CheckpointError(ZooError):
    """A checkpoint folder is missing, damaged, hostile or does not fit the model it names."""


class TrainingError(ZooError):
    """A run cannot go on: its loss is no finite number."""


class HubError(ZooError):
    """The Hugging Face Hub refused, failed or could not be reached."""


class ZooWarning(UserWarning):
    """Something that is gone on with, and that who reads the result should know; a command prints its text alone."""


def show(value: object, limit: int = 80) -> str:
    """`value` for a sentence: quoted, ASCII, on one line, at most `limit` characters."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or lists in lists in lists
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def said_name(path: str, limit: int = 160) -> str:
    """A path for a sentence: not quoted, without what moves a terminal's cursor; of a long one the end."""
    text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in path)
    return text if len(text) <= limit else "..." + text[3 - limit :]


def one_line(error: BaseException) -> str:
    """The text of an error on one line, without its full stop."""
    return plain(" ".join(str(error).split()).rstrip(".")[:200]) or type(error).__name__


@contextmanager
def refusing(sentence: str, kind: type[ZooError] = CheckpointError) -> Iterator[None]:
    """Whatever else is raised inside becomes an error of `kind`: the sentence, a colon and what it said.

    A panic of a library in Rust is no `Exception` of Python's, and is caught as well; Ctrl-C is not.
    """
    try:
        yield
    except kind:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise kind(f"{sentence}: {one_line(error)}.") from error


def warn(sentence: str) -> None:
    """Warn at the line outside the package that led here: it is there that something can be done about it.

    Where the package names its own line, Python shows the warning once and not once for each caller.
    """
    level, frame, inside = 1, sys._getframe(), ("zoo", "torch", "lightning")
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in inside:
        level, frame = level + 1, frame.f_back
    warnings.warn(sentence, ZooWarning, stacklevel=level)


def close_to(word: str, known: Iterable[str]) -> str | None:
    """The known word that somebody who wrote `word` may have meant, if any is close."""
    return next(iter(difflib.get_close_matches(word, list(known), 1, 0.6)), None)


def listed(names: Iterable[str]) -> str:
    """The first three names, shown, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(show, names[:3])) + more
