"""Tables of numbers from files of one's own: binary, integers of a few levels, or continuous."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.classes import class_path_of
from zoo.data.tensors import TensorData
from zoo.errors import DataError

TEXT = (".csv", ".tsv", ".txt", ".dat", ".amat")


class Table(TensorData):
    """Rows of D numbers, one file a split: a .npy of two dimensions, or text with a line for each row and no header.

    Rows (N, D) are uint8 with values 0..levels-1 (int64 for more than 256 levels) or, without levels, float32, and have
    no labels.

    Args:
        train: file of the training rows.
        test: file of the test rows.
        validation: file of the validation rows, or the number of training rows, the last ones, that are held out;
            default a tenth of them.
        levels: number of integer values 0..levels-1, or None for continuous numbers.
        delimiter: what separates the numbers of a line; default comma, semicolon or tab where the first line has one,
            else spaces.
        root: folder to which the names of files are relative; default the current one.
        batch_size: rows in a training batch of one device.
        eval_batch_size: most rows in a validation or test batch; default `batch_size`.
        seed: of the order in which training rows come; each epoch has its own.
    """

    title = "the table"

    def __init__(
        self,
        train: str,
        test: str,
        validation: int | str | None = None,
        levels: int | None = 2,
        delimiter: str | None = None,
        root: str | None = None,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(root or os.curdir, batch_size, None, eval_batch_size, seed, download=False)
        if levels is not None and not 2 <= levels < 2**31:
            raise DataError(f"levels must be at least 2, or null for continuous numbers, not {levels}.")
        if delimiter is not None and len(delimiter) != 1:
            raise DataError(f"delimiter must be one character, or null to guess it, not {delimiter!r}.")
        self.files = {"train": train, "test": test}
        if isinstance(validation, str):
            self.files["validation"] = validation
            self.splits = ("train", "validation", "test")
        self.validation, self.levels, self.delimiter = validation, levels, delimiter
        self._tables: dict[str, Tensor] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """(D,); a file is read for it, where none was read before.

        Raises:
            DataError: no file is there, or it is damaged.
        """
        if not self._tables:
            self._table("test" if self._path("test").is_file() else "train")
        return tuple(next(iter(self._tables.values())).shape[1:])

    @property
    def config(self) -> dict[str, Any]:
        """`class_path` and those `init_args` that say which data this is: the files' names without their folders."""
        arguments: dict[str, Any] = {name: Path(file).name for name, file in self.files.items()}
        arguments |= {"levels": self.levels, "delimiter": self.delimiter}
        return {"class_path": class_path_of(type(self)), "init_args": {"validation": self.validation, **arguments}}

    def read(self, split: str) -> Tensor:
        """The rows of a file, checked; "train" with those held out, where no file has them.

        Raises:
            DataError: the file is absent or damaged, or has other columns than another split.
        """
        return self._table(split)

    def _path(self, split: str) -> Path:
        return self.root / Path(self.files[split]).expanduser()

    def _table(self, split: str) -> Tensor:
        """The checked rows of a file, (N, D), read once."""
        if split not in self._tables:
            path = self._path(split)
            rows = _checked(_read(path, self.delimiter), path, self.levels)
            for other, table in self._tables.items():
                if table.shape[1] != rows.shape[1]:
                    raise DataError(
                        f"{path} has {rows.shape[1]} columns, but {self._path(other)} has {table.shape[1]}: "
                        f"give all splits the same columns."
                    )
            self._tables[split] = rows
        return self._tables[split]


def _read(path: Path, delimiter: str | None) -> np.ndarray:
    """A file's numbers, (N, D) with N and D positive."""
    if not path.is_file():  # nor a device or a pipe, which may never end
        raise DataError(f"{path} is no file: put the table there, or give another name.")
    if path.suffix not in (".npy", *TEXT):
        raise DataError(f"{path} has an unknown format: save it as .npy, or as text named {', '.join(TEXT)}.")
    try:
        table = _npy(path) if path.suffix == ".npy" else _text(path, delimiter)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): make it readable.") from None
    if not table.size:
        raise DataError(f"{path} is empty: it needs at least one row of numbers.")
    return table


def _npy(path: Path) -> np.ndarray:
    try:
        table = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, MemoryError):
        raise DataError(f"{path} is no array of numbers: save one with numpy.save.") from None
    if not isinstance(table, np.ndarray) or table.dtype.kind not in "biuf":
        raise DataError(f"{path} is not numeric: save an array of integers or floats with numpy.save.")
    if table.ndim != 2:
        raise DataError(f"{path} has shape {table.shape}: save a table, (rows, columns).")
    return table


def _text(path: Path, delimiter: str | None) -> np.ndarray:
    try:
        # A byte-order mark, as spreadsheets write it, is no number.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text: save numbers as UTF-8 text, or as .npy.") from None
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        return np.empty((0, 0))
    delimiter = delimiter or next((mark for mark in ",;\t" if mark in first), None)
    delimiter = None if delimiter == " " else delimiter  # columns may be aligned with several
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return np.loadtxt(lines, delimiter=delimiter, comments=None, ndmin=2)
    except (ValueError, TypeError, Warning):
        raise DataError(f"{path}{_mistake(lines, delimiter)}.") from None


def _mistake(lines: list[str], delimiter: str | None) -> str:
    """What is wrong with the first bad line, and the remedy."""
    columns = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        fields = line.split(delimiter)
        columns = columns or len(fields)
        for field in fields:
            try:
                float(field)
            except ValueError:
                return (
                    f", line {number}, has {field.strip()[:24]!r}, which is not numeric: remove headers and text, "
                    f"and say delimiter where it is not {delimiter or ' '!r}"
                )
        if len(fields) != columns:
            return (
                f", line {number}, has {len(fields)} numbers, but the first has {columns}: make all lines equally long"
            )
    return " is no table of numbers: save it as .npy"


def _checked(table: np.ndarray, path: Path, levels: int | None) -> Tensor:
    """Numbers as the model takes them, (N, D): uint8, int64 or float32."""
    if levels is None:
        with np.errstate(over="ignore"):
            rows = table.astype(np.float32)
        _refuse(~np.isfinite(rows), table, path, "replace or leave out what is NaN, infinite or beyond float32")
        return torch.from_numpy(rows)
    # NaN is in no interval.
    with np.errstate(invalid="ignore"):
        good = (table >= 0) & (table < levels) & (table % 1 == 0)
    _refuse(~good, table, path, f"with {levels} levels values are integers 0..{levels - 1}, and levels: null takes all")
    return torch.from_numpy(table.astype(np.uint8 if levels <= 256 else np.int64))


def _refuse(bad: np.ndarray, table: np.ndarray, path: Path, remedy: str) -> None:
    if bad.any():
        row, column = np.argwhere(bad)[0]
        value = table[row, column].item()
        raise DataError(f"{path}, row {row + 1}, column {column + 1}, has the value {value}: {remedy}.")
