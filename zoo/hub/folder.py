"""The checkpoint folder: config.json and safetensors, in and out.

A folder is untrusted: it may be truncated, mixed up or made to harm. So everything here reads only JSON and
safetensors, bounds what it reads, and refuses with one `CheckpointError` sentence that says what and where.
Nothing in this file imports torch before weights are touched.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import CheckpointError, listed, refusing, show
from zoo.hub.config import CONFIG, DTYPES, FILE_NAME, WEIGHTS, dump_json, read_config
from zoo.hub.header import shapes_of
from zoo.hub.reading import opened, read_bytes, read_json

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
SHARD_BYTES = 16 * 2**20
# A checkpoint of the zoo is at most 48 MiB; what a stranger publishes may be larger, but a (sparse) file of
# terabytes must neither fill the memory nor be hashed for an hour.
_MAX_WEIGHTS_BYTES = 8 * 2**30
_QUICK_BYTES = 2**26  # are read and hashed in a quarter of a second
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")


# -------------------------------------------------------------------------------------------------- weights


def verify(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Check config.json, the index and every SHA-256 of a folder, and return its configuration (no torch).

    Raises:
        CheckpointError: a file is missing, damaged or does not belong.
    """
    folder = Path(folder)
    config = read_config(folder)
    _shards(folder, config)
    for name, digest in config["weights"]["sha256"].items():
        _check_present(folder / name)
        _check_digest(folder / name, digest)
    return config


def weight_files(config: Mapping[str, Any]) -> set[str]:
    """Names of the files in a checkpoint folder that hold its weights, the index of shards among them."""
    files = set(config["weights"]["sha256"])
    return files if files == {WEIGHTS} else files | {INDEX}


def weight_shapes(folder: str | os.PathLike[str], config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of a checkpoint folder's tensors by name, from the headers of its files, of which no more is read.

    Raises:
        CheckpointError: a file is missing, a pickle, or has no sound header.
    """
    folder = Path(folder)
    weight_map, _ = _shards(folder, config)
    shapes: dict[str, tuple[int, ...]] = {}
    for name in config["weights"]["sha256"]:
        _check_present(folder / name)
        found = shapes_of(folder / name, _MAX_WEIGHTS_BYTES)
        _check_mapped(folder, name, found, weight_map)
        shapes |= found
    return shapes


def _check_mapped(folder: Path, name: str, tensors: Iterable[str], weight_map: Mapping[str, str] | None) -> None:
    """Refuse a shard that holds other tensors than the index says."""
    if weight_map is not None:
        strays = sorted({key for key, file in weight_map.items() if file == name}.symmetric_difference(tensors))
        if strays:
            raise CheckpointError(f"{folder / INDEX} and {name} disagree about {listed(strays)}.")


def check_undamaged(folder: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
    """Refuse files of weights that are not those of config.json, which is why nothing fits; large ones are not read.

    Raises:
        CheckpointError: naming the first.
    """
    for name, digest in config["weights"]["sha256"].items():
        path = Path(folder) / name
        if path.is_file() and path.stat().st_size <= _QUICK_BYTES:
            _read_weights(path, digest)


def load_weights(folder: str | os.PathLike[str], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint folder, checked: SHA-256, completeness, dtypes, finite values.

    Args:
        folder: the checkpoint folder.
        config: what `read_config` returned for it.

    Returns:
        name -> tensor on the CPU; float16 and bfloat16 are widened to float32, which is exact.

    Raises:
        CheckpointError: a file is missing, damaged, a pickle, or holds what no checkpoint may hold.
    """
    import safetensors.torch
    import torch

    folder = Path(folder)
    weight_map, total_size = _shards(folder, config)
    weights: dict[str, Tensor] = {}
    total = 0
    for name, digest in config["weights"]["sha256"].items():
        path = folder / name
        data = _read_weights(path, digest)
        with refusing(f"{path} is not a readable safetensors file"):
            tensors = safetensors.torch.load(bytes(data))
        _check_mapped(folder, name, tensors, weight_map)
        for key, tensor in tensors.items():
            total += tensor.numel() * tensor.element_size()
            weights[key] = _checked(tensor, f"{show(key)} in {path}", torch)
    if total_size not in (None, total):
        raise CheckpointError(f"{folder / INDEX}: metadata.total_size is not the {total} bytes of the tensors.")
    return weights


def _checked(tensor: Tensor, what: str, torch: Any) -> Tensor:
    floats = {getattr(torch, name) for name in DTYPES}
    others = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
    if tensor.dtype in others:
        return tensor
    if tensor.dtype not in floats:
        raise CheckpointError(f"{what} has dtype {tensor.dtype}; a checkpoint holds {', '.join(DTYPES)} or integers.")
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{what} holds NaN or infinite values.")
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _check_present(path: Path) -> None:
    """Refuse weights that are not there, and point to a pickle that is."""
    if not path.exists():
        pickles = sorted(p.name for p in path.parent.iterdir() if p.suffix in _PICKLES)
        if pickles:
            raise CheckpointError(
                f"{path} is missing and {listed(pickles)} beside it is a pickle, which zoo never loads; "
                "export the model as safetensors."
            )
        raise CheckpointError(f"{path} is missing.")


def _check_digest(path: Path, digest: str) -> None:
    """Refuse a damaged file of weights, of which no more than a piece is in memory at once."""
    found = hashlib.sha256()
    with opened(path, _MAX_WEIGHTS_BYTES) as (file, _):
        start = file.read(16)
        _refuse_pickle(path, start)
        found.update(start)
        while piece := file.read(1 << 20):
            found.update(piece)
    if found.hexdigest() != digest:
        raise _damaged(path)


def _refuse_pickle(path: Path, data: bytes | bytearray) -> None:
    # A safetensors header is an object behind an 8-byte length; pickles open with 0x80, torch's zips with PK.
    if data[8:9] != b"{" and (data[:1] == b"\x80" or data[:2] == b"PK"):
        raise CheckpointError(f"{path} is a pickle, not safetensors; zoo never loads pickles.")


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: its SHA-256 is not the one in {CONFIG}; fetch or export it again.")


def _read_weights(path: Path, digest: str) -> bytearray:
    """A weights file as bytes. Read once, so that what was hashed is what is parsed."""
    _check_present(path)
    data = read_bytes(path, _MAX_WEIGHTS_BYTES)
    _refuse_pickle(path, data)
    if hashlib.sha256(data).hexdigest() != digest:
        raise _damaged(path)
    return data


def _shards(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, str] | None, int | None]:
    """Weight map and bytes of a sharded checkpoint, agreeing with config.json; None, None for one file."""
    files = set(config["weights"]["sha256"])
    if files == {WEIGHTS}:
        return None, None
    path = folder / INDEX
    index = read_json(path)
    metadata, weight_map = index.get("metadata"), index.get("weight_map")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    if not isinstance(size, int) or isinstance(size, bool):
        raise CheckpointError(f"{path}: metadata.total_size must be a number of bytes, not {show(size)}.")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{path}: weight_map must be an object from tensor to file name.")
    for name in weight_map.values():
        if FILE_NAME.fullmatch(name) is None:
            raise CheckpointError(f"{path}: weight_map must name plain *.safetensors files, not {show(name)}.")
    strays = sorted(files.symmetric_difference(weight_map.values()))
    if strays:
        raise CheckpointError(f"{path} and the SHA-256 list of {CONFIG} disagree about {listed(strays)}.")
    return weight_map, size


def write_weights(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, str]:
    """Write tensors into `folder`, in shards of at most 16 MiB with an index where one file is not enough.

    A single tensor larger than 16 MiB gets a shard of its own.

    Returns:
        file name -> SHA-256, for config.json.
    """
    from safetensors.torch import save

    # The header takes some 100 bytes and the name for each tensor; count them to stay below the limit.
    sizes = {key: t.numel() * t.element_size() + len(key.encode()) + 200 for key, t in tensors.items()}
    groups: list[list[str]] = [[]]
    room = SHARD_BYTES
    for key in tensors:
        if groups[-1] and sizes[key] > room:
            groups.append([])
            room = SHARD_BYTES
        groups[-1].append(key)
        room -= sizes[key]
    single = len(groups) == 1
    names = [WEIGHTS if single else f"model-{i:05}-of-{len(groups):05}.safetensors" for i in range(1, len(groups) + 1)]
    hashes = {}
    for name, group in zip(names, groups, strict=True):
        data = save({key: tensors[key] for key in group}, metadata={"format": "pt"})
        (folder / name).write_bytes(data)
        hashes[name] = hashlib.sha256(data).hexdigest()
    if not single:
        total = sum(t.numel() * t.element_size() for t in tensors.values())
        weight_map = {key: name for name, group in zip(names, groups, strict=True) for key in group}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(dump_json(index, INDEX), encoding="utf-8")
    return hashes
