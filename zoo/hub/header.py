"""The header of a safetensors file, which says what tensors it holds: read and checked before any of them is."""

from __future__ import annotations

import math
from pathlib import Path

from zoo.errors import CheckpointError, one_line, show
from zoo.hub.reading import opened, parse_json

MOST_BYTES = 2**22
MOST_TENSORS = 2**12
MOST_SIZES = 8  # of a shape; torch itself takes 64 at most
BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "F16": 2, "BF16": 2, "F32": 4, "F64": 8}

_LARGEST = 16  # bytes of a number of a type that is none of these, and will be refused


def shapes_of(path: Path, limit: int) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a safetensors file, by name; only its header is read.

    Together they have as many bytes as there are behind the header, so that no more is read than a model takes. Whether
    they overlap is left to the library that reads them.

    Args:
        path: the file.
        limit: the bytes that it may have.

    Raises:
        CheckpointError: it is no such file, or names more or larger tensors than it can hold.
    """
    unreadable = f"{path} is not a readable safetensors file"
    with opened(path, limit) as (file, size):
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise CheckpointError(f"{unreadable}: it is cut off.")
        if length > MOST_BYTES:
            raise CheckpointError(f"{unreadable}: its header has {length} bytes; at most {MOST_BYTES} are accepted.")
        header = file.read(length)
    try:
        parsed = parse_json(header, path)
    except CheckpointError as error:
        raise CheckpointError(f"{unreadable}: {one_line(error)}.") from error
    parsed.pop("__metadata__", None)
    if len(parsed) > MOST_TENSORS:
        raise CheckpointError(f"{path} names {len(parsed)} tensors; at most {MOST_TENSORS} are accepted.")
    shapes, held = {}, 0
    for name, entry in parsed.items():
        entry = entry if isinstance(entry, dict) else {}
        shape, places, each = entry.get("shape"), entry.get("data_offsets"), BYTES.get(str(entry.get("dtype")))
        if not _whole(shape) or len(shape) > MOST_SIZES:
            raise CheckpointError(
                f"{unreadable}: {show(name)} must have a shape of at most {MOST_SIZES} sizes, not {show(shape)}."
            )
        lies = _whole(places) and len(places) == 2 and each and places[1] - places[0] == each * math.prod(shape)
        if each is not None and not lies:
            raise CheckpointError(f"{unreadable}: {show(name)} does not lie where its header says.")
        held += places[1] - places[0] if lies else _LARGEST * math.prod(shape)
        shapes[name] = tuple(shape)
    if held < size - 8 - length:
        raise CheckpointError(f"{unreadable}: it has {size} bytes, more than its header names.")
    if sum(map(math.prod, shapes.values())) > 2 * (size - 8 - length):  # no type takes less than half a byte
        raise CheckpointError(f"{path} names more numbers than its {size} bytes hold.")
    return shapes


def _whole(value: object) -> bool:
    """Whether it is a list of sizes."""
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)
