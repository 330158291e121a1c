"""The package's own exceptions: one sentence each, naming the thing that is wrong and the remedy.

How values are shown in such sentences is here too.
"""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable


class ZooError(ValueError):
    """Anything `zoo` refuses or cannot do; the command line prints its text alone, without a traceback."""


class DataError(ZooError):
    """A data set is absent or damaged, or a batch does not fit the model's `DataSpec`."""


class CheckpointError(ZooError):
    """A checkpoint folder is missing, damaged, hostile or does not fit the model it names."""


class TrainingError(ZooError):
    """A run cannot go on: its loss is no finite number."""


class HubError(ZooError):
    """The Hugging Face Hub refused, failed or could not be reached."""


def show(value: object, limit: int = 80) -> str:
    """`value` for a sentence: quoted, ASCII, on one line, at most `limit` characters."""
    text = ascii(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def one_line(error: BaseException) -> str:
    """The text of an error on one line, without its full stop."""
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__


def warn(sentence: str) -> None:
    """Warn at the line outside the package that led here: it is there that something can be done about it.

    Where the package names its own line, Python shows the warning once and not once for each caller.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("zoo", "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(sentence, stacklevel=level)


def close_to(word: str, known: Iterable[str]) -> str | None:
    """The known word that somebody who wrote `word` may have meant, if any is close."""
    return next(iter(difflib.get_close_matches(word, list(known), 1, 0.6)), None)


def listed(names: Iterable[str]) -> str:
    """The first three names, shown, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(show, names[:3])) + more
