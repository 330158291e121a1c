"""Names of classes: checked where a stranger gives them, and the label that somebody means by one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any

from zoo.errors import DataError, show

MOST_NAME = 100  # characters of a class's name


def checked_names(names: Any, classes: int) -> tuple[str, ...]:
    """The names of classes: one for each label, short, printable on a line, and different.

    Raises:
        DataError: they are not.
    """
    if not isinstance(names, (list, tuple)) or len(names) != classes:
        raise DataError(f"class_names must be one name for each of the {classes} classes, not {show(names)}.")
    for name in names:
        if not isinstance(name, str) or not 1 <= len(name) <= MOST_NAME or not name.isprintable():
            raise DataError(f"The name of a class must be of 1 to {MOST_NAME} printable characters, not {show(name)}.")
    if len(set(names)) != len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))
        raise DataError(f"Two classes have the name {show(twice)}: give each its own.")
    return tuple(names)


def label_of(name: str, names: Sequence[str] | None, classes: int) -> int:
    """The label of a class by its name, in which capitals matter where two differ in them alone.

    Text that is no name but a number is that number.

    Raises:
        DataError: there is no such class; the sentence has the close ones.
    """
    names = names or ()
    if name in names:
        return names.index(name)
    alike = [i for i, each in enumerate(names) if each.casefold() == name.strip().casefold()]
    if len(alike) == 1:
        return alike[0]
    if re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", name):
        return int(name)
    if not names:
        raise DataError(
            f"There is no class {show(name)}, for the names of the {classes} are not known: give a number, "
            f"0..{classes - 1}."
        )
    by_form = {each.casefold(): each for each in names}
    close = [by_form[each] for each in difflib.get_close_matches(name[:MOST_NAME].casefold(), by_form, n=3)]
    if close:
        hint = f"close to it {'is' if len(close) == 1 else 'are'} {', '.join(close)}"
    else:
        hint = f"there are {', '.join(names[:10])}{' and more' if len(names) > 10 else ''}"
    raise DataError(f"There is no class {show(name)}: {hint}.")
