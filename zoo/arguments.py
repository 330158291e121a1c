"""The numbers that public functions are asked with: seeds, counts, and real numbers with a range.

A whole number is an `int` or what stands for one, as NumPy's integers and a tensor of none but one do. A truth value
is none, nor is a float, not even 3.0: it would be a mistake in most calls, and silent in the rest.
"""

from __future__ import annotations

import math
import operator
import os
from typing import Any

from zoo.errors import DataError, show


def whole(value: Any) -> int | None:
    """`value` as an `int` where it is a whole number, else None."""
    # NumPy's and torch's truth values have a dtype whose name says so; torch's count as integers.
    if isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")) or getattr(value, "ndim", 0):
        return None
    try:
        return operator.index(value)
    except Exception:  # what a foreign class, or a tensor without a value, raises is its own affair
        return None


def seed_of(seed: Any, what: str = "seed", *, bits: int = 64) -> int | None:
    """A seed as an `int` of 0..2**64-1, or None where none is given.

    Args:
        seed: the number.
        what: its name, in the sentence.
        bits: 32 for one of NumPy's `RandomState`, whose seeds are fewer.

    Raises:
        DataError: it is no whole number, or none of these.
    """
    if seed is None:
        return None
    number = whole(seed)
    if number is None or not 0 <= number < 2**bits:
        raise DataError(f"{what} must be a whole number from 0 to 2**{bits} - 1, or None, not {_shown(seed)}.")
    return number


def count_of(n: Any, what: str = "n", *, least: int = 1, size: int = 1) -> int:
    """A number of things as an `int`.

    Args:
        n: the number.
        what: its name, in the sentence.
        least: the smallest that is taken.
        size: bytes that each of them takes in memory, at the least.

    Raises:
        DataError: it is no whole number, below `least`, or so large that no memory of this machine holds them.
    """
    number = whole(n)
    if number is None:
        raise DataError(f"{what} must be a whole number, at least {least}, not {_shown(n)}.")
    if number < least:
        raise DataError(f"{what} must be at least {least}, not {_shown(n)}.")
    if number * size > _memory():
        raise DataError(
            f"{what} is {_shown(n)}, more than the memory of this machine holds at {size} bytes each: ask for fewer."
        )
    return number


def real_of(value: Any, what: str, *, zero: bool = False, most: float = math.inf) -> float:
    """A number as a `float`, positive and finite.

    Args:
        value: the number, of Python, NumPy or a tensor of one.
        what: its name, in the sentence.
        zero: whether 0 is taken as well.
        most: the largest that is taken.

    Raises:
        DataError: it is no such number.
    """
    try:
        if isinstance(value, (bool, str, bytes)) or getattr(value, "ndim", 0):
            raise TypeError
        number = float(value)
    except Exception:
        number = math.nan
    if not (0 < number <= most or (zero and number == 0)) or number == math.inf:
        least, greatest = "0 or positive" if zero else "positive", "finite" if most == math.inf else f"at most {most:g}"
        raise DataError(f"{what} must be {least} and {greatest}, not {_shown(value)}.")
    return number


def _memory() -> int:
    """Bytes of this machine's memory, where the system says."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**48


def _shown(value: Any) -> str:
    return show(value) if type(value).__module__ == "builtins" else f"{show(value)} ({type(value).__name__})"
