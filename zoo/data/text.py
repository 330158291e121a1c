"""A text file of numbers -> its rows, by one rule, or one sentence that says where it is not met.

- The text is UTF-8, with or without a byte-order mark. Lines end in a line feed, a carriage return or both; blank ones
  are passed over.
- What separates fields is said, else it is what the first line has: semicolons or tabs, of which it may not have both,
  else commas, else spaces, any number of them.
- The first line is a header where each of its fields has a letter and none is a number; then each names a column. `#`
  before it is dropped.
- Names that are numbers look like a row. A first line that may have such names is refused: it alone is in quotes, or
  counts up from 0, as columns without names are saved, before a line of fractions, or from 1000 on, as years do.
- Every other field is a number with a decimal point, `-12`, `0.5` or `1e-3`, in double quotes or not. All lines have
  equally many.
- So none is missing (empty, NA, NaN), none infinite, and none has a decimal comma or something between its thousands.
- `1,5` might be one number or two. Where nothing but commas separates, no header says how many columns there are, and
  every line would be one number with a decimal comma, or with a comma before each three digits, the separator has to be
  said; whole numbers of a few levels are two.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zoo.errors import DataError, said_name, show
from zoo.files import read_regular

MOST_BYTES = 2**32
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_INFINITE = re.compile(r"\s*[+-]?inf(inity)?\s*", re.IGNORECASE)
_MISSING = ("", "na", "n/a", "nan", "null", "none", "?", "-", ".", "#n/a")
_COMMA_NUMBER = re.compile(r"\s*[+-]?\d+,\d+([eE][+-]?\d+)?\s*", re.ASCII)
_THOUSANDS = re.compile(r"\s*[+-]?\d{1,3}([, '_.]\d{3})+([.,]\d+)?\s*", re.ASCII)
_COMMA_THOUSANDS = re.compile(r"\s*[+-]?\d{1,3}(,\d{3})+(\.\d*)?\s*", re.ASCII)
_SPACES = None  # as `str.split` and NumPy say it


def read_text(path: Path, delimiter: str | None, whole: bool) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """The numbers of a text file, float64 (N, D), and the names of its columns, None where it has no header.

    Args:
        path: the file.
        delimiter: what separates the fields of a line, None to see for itself.
        whole: whether the numbers are known to be integers.

    Raises:
        DataError: it is no such text; the sentence names the line, and the column by its name.
        OSError: it cannot be read.
    """
    lines = _lines(path)
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is None:
        return np.empty((0, 0)), None
    where, said = said_name(str(path)), delimiter is not None
    separator = (_SPACES if delimiter == " " else delimiter) if said else _separator(lines[first], where, first + 1)
    names = _header(lines[first], separator, where, first + 1)
    rows = lines[first + (names is not None) :]
    if names is None:
        _check_numbers_as_names(rows, separator, where, first + 1)
    if not said and separator == "," and names is None and not whole:
        _check_commas(rows, where)
    if not any(row.strip() for row in rows):
        return np.empty((0, len(names or ()))), names
    try:
        # Quotes would hide what is between them from the checks.
        table = np.loadtxt(rows, delimiter=separator, comments=None, quotechar='"', ndmin=2)
    except (ValueError, TypeError, OverflowError):
        table = None
    named = names is not None and table is not None
    if table is None or (named and (table.shape[1] != len(names) or not np.isfinite(table).all())):
        _refuse(rows, separator, names, where, len(lines) - len(rows) + 1)
        if table is None:
            raise DataError(f"{where} is no table of numbers: save it as .npy.")
    return table, names


def _lines(path: Path) -> list[str]:
    data = read_regular(path, MOST_BYTES)
    where = said_name(str(path))
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{where} is no text in UTF-8 but in UTF-16: save it as UTF-8, or as .npy.")
    if b"\0" in data:
        raise DataError(f"{where} is no text, for it holds NUL bytes: save it as UTF-8 text, or as .npy.")
    try:
        return re.split("\r\n|\r|\n", data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{where} is no text in UTF-8, first in line {line}: save it as UTF-8, or as .npy.") from None


def _separator(line: str, where: str, number: int) -> str | None:
    line = re.sub(r'"[^"]*"', "", line)
    marks = [mark for mark in ";\t" if mark in line]
    if len(marks) > 1:
        raise DataError(
            f"{where}, line {number}, has both semicolons and tabs: separate its numbers by one of them, or say "
            f"delimiter."
        )
    return marks[0] if marks else "," if "," in line else _SPACES


def _fields(line: str, separator: str | None) -> list[str]:
    """The fields of a line, without their quotes.

    Raises:
        ValueError: a quote is not closed, or something follows it.
    """
    if '"' not in line:
        return line.split(separator)
    try:
        # Spaces in a row separate once.
        line, mark = (" ".join(line.split()), " ") if separator is None else (line, separator)
        return next(csv.reader([line], delimiter=mark, strict=True, skipinitialspace=True))
    except csv.Error:
        raise ValueError from None


def _header(line: str, separator: str | None, where: str, number: int) -> tuple[str, ...] | None:
    """The names of columns, where the first line has them."""
    line = line.strip().removeprefix("#") if line.lstrip().startswith("#") else line
    try:
        fields = [field.strip() for field in _fields(line, separator)]
    except ValueError:
        raise DataError(f"{where}, line {number}, has a quote that is not closed: close or remove it.") from None
    letters = [any(each.isalpha() for each in field) and not _number_like(field) for field in fields]
    if not any(letters) or not all(has or not field for has, field in zip(letters, fields, strict=True)):
        return None
    if "" in fields:
        raise DataError(
            f"{where}, line {number}, column {fields.index('') + 1}, has no name, as numbers of rows have none where a "
            f"table is saved with them: name the column, or save the table without it."
        )
    return tuple(fields)


def _check_numbers_as_names(rows: Sequence[str], separator: str | None, where: str, number: int) -> None:
    """Refuse a first line of numbers that may be names of columns: by its quotes, or because it counts."""
    found = list(itertools.islice((row for row in rows if row.strip()), 2))
    if len(found) < 2:
        return
    first, second = found
    try:
        fields = [field.strip() for field in _fields(first, separator)]
    except ValueError:  # which is said of the line later
        return
    quoted = first.count('"') == 2 * len(fields) and '"' not in second
    start = int(fields[0]) if re.fullmatch(r"\d{1,9}", fields[0], re.ASCII) else None
    counts = len(fields) > 1 and start is not None and fields == [str(start + i) for i in range(len(fields))]
    if quoted or (counts and (start >= 1000 or (start == 0 and re.search(r"\d\.\d|\d[eE]-", second)))):
        how = "is alone in quotes" if quoted else "counts up"
        raise DataError(
            f"{where}, line {number}, {how}, so that its numbers may be names of columns or a row: give columns names "
            f"that have letters, or put another row first."
        )


def _number_like(field: str) -> bool:
    """Whether a field with a letter is no name: a number, an infinite or a missing one."""
    return bool(_NUMBER.fullmatch(field) or _INFINITE.fullmatch(field)) or field.lower() in _MISSING


def _check_commas(rows: Sequence[str], where: str) -> None:
    """Refuse lines of which each field between spaces might be one number that has a comma."""
    rows = [row for row in rows if row.strip()]
    for pattern, what in ((_COMMA_NUMBER, "decimal commas"), (_COMMA_THOUSANDS, "commas between thousands")):
        if all(pattern.fullmatch(field) for row in rows for field in re.split(r",?\s+", row.strip())):
            raise DataError(
                f"{where} may have {what} or be separated by commas, which {show(rows[0].strip(), 30)} does not tell: "
                f"say delimiter ',' for the latter, else write decimal points and nothing between thousands."
            )


def _refuse(rows: Sequence[str], separator: str | None, names: tuple[str, ...] | None, where: str, number: int) -> None:
    """Raise for the first line that is no row of numbers as the first one is."""
    columns, first = (len(names), "the header") if names is not None else (None, "the first")
    for number, line in enumerate(rows, number):  # noqa: B020
        if not line.strip():
            continue
        try:
            fields = _fields(line, separator)
        except ValueError:
            raise DataError(f"{where}, line {number}, has a quote that is not closed: close or remove it.") from None
        stripped = tuple(field.strip() for field in fields)
        if names is not None and stripped == names:
            raise DataError(f"{where}, line {number}, repeats the header: remove it there.")
        bad = next((i for i, field in enumerate(fields) if not _NUMBER.fullmatch(field)), None)
        if bad is not None and not (columns not in (None, len(fields)) and fields[bad].strip() == ""):
            column = f"column {bad + 1}"
            if names is not None and bad < len(names):
                column = f"column {show(names[bad], 40)}"
            raise DataError(f"{where}, line {number}, {column}, {_mistake(fields[bad], separator)}.")
        columns = columns or len(fields)
        if len(fields) != columns:
            raise DataError(
                f"{where}, line {number}, has {len(fields)} numbers, but {first} has {columns}: make all lines equally "
                f"long, and say delimiter where it is not {show(separator or ' ')}."
            )


def _mistake(field: str, separator: str | None) -> str:
    """What is wrong with a field, and the remedy."""
    text, value = field.strip(), show(field.strip(), 40)
    if text.lower() in _MISSING:
        has = f"has {value}, which is" if text else "is empty,"
        return f"{has} not numeric: fill in what is missing, or leave out its row or column"
    if _INFINITE.fullmatch(field):
        return f"has the value {value}: replace or leave out what is infinite"
    if _COMMA_NUMBER.fullmatch(field) and _COMMA_THOUSANDS.fullmatch(field):
        return f"has {value}, which is not numeric: write a decimal point, or nothing between thousands, for the comma"
    if _COMMA_NUMBER.fullmatch(field):
        return f"has {value}, which is not numeric: write a decimal point in place of a decimal comma"
    if _THOUSANDS.fullmatch(field):
        return f"has {value}, which is not numeric: write nothing between thousands"
    parts = [each for each in re.split(r"[,;\t|\s]+", text) if each]
    if len(parts) > 1 and all(_NUMBER.fullmatch(each) for each in parts):
        return f"has {value}, which is not numeric: separate all numbers alike, and say delimiter where it is not " + (
            show(separator or " ")
        )
    return (
        f"has {value}, which is not numeric: leave out columns of text or write them as numbers, and say delimiter "
        f"where it is not {show(separator or ' ')}"
    )
