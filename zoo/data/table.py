"""Tables of numbers from files of one's own: binary, integers of a few levels, or continuous."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.classes import class_path_of
from zoo.data.decoding import said_name
from zoo.data.tensors import TensorData
from zoo.data.text import read_text
from zoo.errors import DataError, show

TEXT = (".csv", ".tsv", ".txt", ".dat", ".amat")


class Table(TensorData):
    """Rows of D numbers, one file a split: a .npy of two dimensions, or text with a line for each row, as CSV is.

    Rows (N, D) are uint8 with values 0..levels-1 (int64 for more than 256 levels) or, without levels, float32, and have
    no labels. Text is UTF-8; its first line is a header where each of its fields has a letter and none is a number. The
    whole rule, by which text that can be read in two ways is refused, is in `zoo.data.text`; the names of the columns
    are the attribute `columns`, None where no file has a header.

    Args:
        train: file of the training rows.
        test: file of the test rows.
        validation: file of the validation rows, or the number of training rows, the last ones, that are held out;
            default a tenth of them.
        levels: number of integer values 0..levels-1, or None for continuous numbers.
        delimiter: what separates the numbers of a line; default semicolon, tab or comma, the first of these that the
            first line has, else spaces.
        root: folder to which the names of files are relative; default the current one. A checkpoint holds the names
            without their folders, so evaluating one needs it.
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
        if delimiter is not None and (delimiter.isalnum() or delimiter in '+-._"\r\n\0'):
            raise DataError(f"delimiter must be no part of a number or a quote, as {delimiter!r} is.")
        self.files = {"train": train, "test": test}
        if isinstance(validation, str):
            self.files["validation"] = validation
            self.splits = ("train", "validation", "test")
        self.validation, self.levels, self.delimiter = validation, levels, delimiter
        self.columns: tuple[str, ...] | None = None
        self._tables: dict[str, Tensor] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """(D,); a file is read for it, where none was read before.

        Raises:
            DataError: no file is there, or it is damaged.
        """
        if not self._tables:
            self._table("test" if os.path.isfile(self._path("test")) else "train")
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

    def exact(self, split: str) -> Tensor:
        """The rows of a split in float64, (N, D): far from the origin, numbers of a file are lost in float32.

        Raises:
            DataError: the file is absent or damaged.
        """
        path = self._path(split)
        table, self.columns = _read(path, self.delimiter, False)
        return _checked(table, path, None, np.float64)

    def _path(self, split: str) -> Path:
        return self.root / Path(self.files[split]).expanduser()

    def _table(self, split: str) -> Tensor:
        """The checked rows of a file, (N, D), read once."""
        if split not in self._tables:
            path = self._path(split)
            table, names = _read(path, self.delimiter, self.levels is not None)
            rows = _checked(table, path, self.levels)
            if names and self.columns and names != self.columns and len(names) == len(self.columns):
                k = next(k for k, name in enumerate(names) if name != self.columns[k])
                raise DataError(
                    f"Column {k + 1} of {said_name(str(path))} is {show(names[k], 40)}, but that of another split is "
                    f"{show(self.columns[k], 40)}: give all splits the same columns in the same order."
                )
            self.columns = self.columns or names
            for other, table in self._tables.items():
                if table.shape[1] != rows.shape[1]:
                    raise DataError(
                        f"{said_name(str(path))} has {rows.shape[1]} columns, but "
                        f"{said_name(str(self._path(other)))} has {table.shape[1]}: give all splits the same columns."
                    )
            self._tables[split] = rows
        return self._tables[split]


def _read(path: Path, delimiter: str | None, whole: bool) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """A file's numbers, (N, D) with N and D positive, and the names of its columns."""
    where = said_name(str(path.absolute()))
    if os.path.exists(path) and not os.path.isfile(path):  # a device or a pipe may never end
        raise DataError(f"{where} is no file: put the table there, or give another name.")
    if path.suffix.lower() not in (".npy", *TEXT):
        raise DataError(f"{where} has an unknown format: save it as .npy, or as text named {', '.join(TEXT)}.")
    try:
        table, names = (_npy(path), None) if path.suffix.lower() == ".npy" else read_text(path, delimiter, whole)
    except FileNotFoundError:
        raise DataError(
            f"{where} is no file: put the table there, or say in which folder it is by root (--data.root, or --root to "
            f"evaluate)."
        ) from None
    except OSError as error:
        raise DataError(f"{where} cannot be read ({error.strerror}): make it readable.") from None
    except MemoryError:
        raise DataError(f"{where} does not fit into memory: give fewer rows.") from None
    if not table.size:
        more = " beside its header" if names else ""
        raise DataError(f"{where} is empty: it needs at least one row of numbers{more}.")
    return table, names


def _npy(path: Path) -> np.ndarray:
    where, wrong = said_name(str(path.absolute())), None
    try:
        # What the header promises is compared with the file before any memory is taken for it.
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
            shape, _, dtype = read(file)
            promised = math.prod(shape) * dtype.itemsize
            if dtype.hasobject:
                wrong = "is no array of numbers, but of Python's objects: save one with numpy.save"
            elif dtype.kind not in "biuf":
                wrong = "is not numeric: save an array of integers or floats with numpy.save"
            elif len(shape) != 2:
                wrong = f"has shape {show(shape)}: save a table, (rows, columns)"
            elif promised > os.fstat(file.fileno()).st_size - file.tell():
                wrong = f"is no array of numbers, for it is cut off: {show(shape, 60)} of them are promised"
        table = None if wrong else np.load(path, allow_pickle=False)
    except (OSError, MemoryError):
        raise
    except Exception:  # headers are Python's literals, in which much can be wrong
        raise DataError(f"{where} is no array of numbers: save one with numpy.save.") from None
    if wrong:
        raise DataError(f"{where} {wrong}.")
    return table


def _checked(table: np.ndarray, path: Path, levels: int | None, dtype: type[np.floating] = np.float32) -> Tensor:
    """Numbers as the model takes them, (N, D): uint8, int64 or, of this type, floats."""
    if levels is None:
        with np.errstate(over="ignore"):
            rows = table.astype(dtype)
        beyond = f"replace or leave out what is NaN, infinite or beyond {dtype.__name__}"
        _refuse(~np.isfinite(rows), table, path, beyond)
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
        raise DataError(f"{said_name(str(path))}, row {row + 1}, column {column + 1}, has the value {value}: {remedy}.")
