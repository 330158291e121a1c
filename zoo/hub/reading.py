"""Files of a stranger's: regular ones, of a bounded size, and JSON read strictly."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from zoo.errors import CheckpointError, one_line, show
from zoo.files import opened_regular

PNG = b"\x89PNG\r\n\x1a\n"  # how such a file begins
PICTURES = re.compile(r"[\w-]+\.(png|webp)", re.ASCII)  # the names of pictures that may lie in a checkpoint's folder
_MAX_JSON_BYTES = 2**20
_MAX_DEPTH = 100
_MAX_DIGITS = 30  # of an integer; one of 400 is too large for a float


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a small regular file, strictly: no duplicate keys, no NaN, no infinity."""
    return parse_json(read_bytes(path, _MAX_JSON_BYTES), path)


def parse_json(data: bytes | bytearray, path: Path) -> dict[str, Any]:
    """The JSON object that the file `path` holds as `data`, as strictly as `read_json`."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            seen: set[str] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))
            raise CheckpointError(f"{path} has the key {show(twice)} twice in one object; keep one of them.")
        return result

    def refuse(constant: str) -> Any:
        raise CheckpointError(f"{path} holds {constant}, which is not JSON; write a finite number or null.")

    def number(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else refuse(show(text))

    def whole(text: str) -> int:
        return int(text) if len(text) <= _MAX_DIGITS else refuse(show(text))

    how = {"object_pairs_hook": pairs, "parse_constant": refuse, "parse_float": number, "parse_int": whole}
    try:
        value = json.loads(data.decode("utf-8"), **how)
    except CheckpointError:
        raise
    except RecursionError as error:
        raise CheckpointError(f"{path} is nested too deeply to be a checkpoint's.") from error
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError
        raise CheckpointError(f"{path} is not JSON: {one_line(error)}.") from error
    _check_depth(value, path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {show(value)}.")
    return value


def _check_depth(value: object, path: Path) -> None:
    """Refuse objects in objects in objects, through which everything else goes by recursion."""
    left = [(value, 1)]
    while left:
        item, depth = left.pop()
        if depth > _MAX_DEPTH:
            raise CheckpointError(f"{path} is nested too deeply to be a checkpoint's.")
        if isinstance(item, (dict, list)):
            left += [(each, depth + 1) for each in (item.values() if isinstance(item, dict) else item)]


@contextmanager
def opened(path: Path, limit: int) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file of at most `limit` bytes, open, and how many it has; whatever fails is one sentence."""
    try:
        with opened_regular(path, limit) as found:
            yield found
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing.") from error
    except MemoryError as error:
        raise CheckpointError(f"{path} does not fit into memory.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error


def read_bytes(path: Path, limit: int) -> bytearray:
    """All of a regular file of at most `limit` bytes."""
    with opened(path, limit) as (file, size):
        data = bytearray(size)
        if file.readinto(data) != size or file.read(1):
            raise CheckpointError(f"{path} changed while it was read; load it again.")
        return data


def is_picture(start: bytes) -> bool:
    """Whether a file is a PNG or WebP picture, by its first bytes, of which 16 suffice."""
    return start.startswith(PNG) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")


def pictures_in(folder: Path) -> list[str]:
    """The names of the pictures in a checkpoint's folder, in their order; empty where there is none."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path.name for path in found if PICTURES.fullmatch(path.name))
