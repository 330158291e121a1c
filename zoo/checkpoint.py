"""The checkpoint folder: config.json and safetensors, in and out.

A folder is untrusted: it may be truncated, mixed up or made to harm. So everything here reads only JSON and
safetensors, bounds what it reads, and refuses with one `CheckpointError` sentence that says what and where.
Nothing in this file imports torch before weights are touched.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 16 * 2**20
DTYPES = ("float16", "bfloat16", "float32", "float64")

_MAX_JSON_BYTES = 2**20
# A checkpoint of the zoo is at most 48 MiB; what a stranger publishes may be larger, but a (sparse) file of
# terabytes must neither fill the memory nor be hashed for an hour.
_MAX_WEIGHTS_BYTES = 8 * 2**30
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors")
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")


def show(value: object, limit: int = 80) -> str:
    """`value` for a sentence: quoted, ASCII, on one line, at most `limit` characters."""
    text = ascii(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


# ---------------------------------------------------------------------------------------------- config.json


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The validated config.json of a checkpoint folder (imports no torch).

    Raises:
        CheckpointError: the folder or its config.json is absent, too large, not JSON or not of this format.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; a checkpoint is a folder with {CONFIG} and {WEIGHTS}.")
    config = _read_json(folder / CONFIG)
    _check_config(config, folder / CONFIG)
    return config


def write_config(folder: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
    """Validate `config` and put it into `folder` as config.json, replacing the old one in one step.

    Raises:
        CheckpointError: `config` would not be accepted by `read_config`.
    """
    path = Path(folder) / CONFIG
    text = dump_json(config, str(path))
    # Checked as a reader will see it: tuples have become lists by now.
    _check_config(json.loads(text), path)
    _write_atomically(path, text)


def dump_json(value: object, what: str) -> str:
    """`value` as indented JSON; raises `CheckpointError` naming `what` if it is not plain JSON."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} must hold plain JSON values only: {error}.") from error


def _write_atomically(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        try:
            file.write(text)
            file.close()
            os.chmod(file.name, 0o644)  # temporary files are private, a checkpoint is not
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a small regular file, strictly: no duplicate keys, no NaN, no infinity."""
    data = _read_bytes(path, _MAX_JSON_BYTES)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            seen: set[str] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))
            raise CheckpointError(f"{path} has the key {show(twice)} twice in one object; keep one of them.")
        return result

    def refuse(constant: str) -> float:
        raise CheckpointError(f"{path} holds {constant}, which is not JSON; write a finite number or null.")

    def number(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else refuse(show(text))

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_constant=refuse, parse_float=number)
    except CheckpointError:
        raise
    except RecursionError as error:
        raise CheckpointError(f"{path} is nested too deeply to be a checkpoint's.") from error
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, and integers of thousands of digits
        raise CheckpointError(f"{path} is not JSON: {one_line(error)}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {show(value)}.")
    return value


def _read_bytes(path: Path, limit: int) -> bytearray:
    """All of a regular file of at most `limit` bytes."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is not a regular file.")
        if status.st_size > limit:
            raise CheckpointError(f"{path} has {status.st_size} bytes; at most {limit} are accepted.")
        data = bytearray(status.st_size)
        with path.open("rb") as file:
            if file.readinto(data) != len(data) or file.read(1):
                raise CheckpointError(f"{path} changed while it was read; load it again.")
        return data
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing.") from error
    except MemoryError as error:
        raise CheckpointError(f"{path} does not fit into memory.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error


def one_line(error: BaseException) -> str:
    """The text of an error on one line, without its full stop."""
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__


def _check_config(config: dict[str, Any], path: Path) -> None:
    """Refuse a config.json that is not of the format, naming the field."""

    def need(condition: bool, field: str, wanted: str, value: object) -> None:
        if not condition:
            raise CheckpointError(f"{path}: {field} must be {wanted}, not {show(value)}.")

    def text(value: object) -> bool:
        return isinstance(value, str)

    def integer(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def number(value: object) -> bool:
        return isinstance(value, float) or integer(value)

    for key in ("format", "class_path", "init_args", "weights"):
        if key not in config:
            raise CheckpointError(f'{path} has no "{key}"; export the checkpoint again.')
    version = config["format"]
    need(
        integer(version) and version == FORMAT,
        "format",
        f"{FORMAT}, the one this version of zoo reads",
        version,
    )

    def component(value: object, field: str) -> None:
        need(isinstance(value, dict), field, "an object", value)
        path_ = value.get("class_path")
        dotted = text(path_) and _CLASS_PATH.fullmatch(path_) is not None
        need(dotted, f"{field}.class_path".lstrip("."), "a dotted class name", path_)
        arguments = value.get("init_args", {})
        need(isinstance(arguments, dict), f"{field}.init_args".lstrip("."), "an object", arguments)

    component(config, "")
    if config.get("data") is not None:
        component(config["data"], "data")
    recipe = config.get("recipe")
    need(recipe is None or text(recipe), "recipe", "a string or null", recipe)
    training = config.get("training")
    need(training is None or isinstance(training, dict), "training", "an object or null", training)

    reference = config.get("reference")
    if reference is not None:
        need(isinstance(reference, dict), "reference", "an object or null", reference)
        for key, fits, wanted in (
            ("metric", text, "a string"),
            ("value", number, "a number"),
            ("source", text, "a string"),
        ):
            need(fits(reference.get(key)), f"reference.{key}", wanted, reference.get(key))
        target = reference.get("target", False)
        need(isinstance(target, bool), "reference.target", "true or false", target)

    weights = config["weights"]
    need(isinstance(weights, dict), "weights", "an object", weights)
    dtype, parameters, hashes = (weights.get(key) for key in ("dtype", "parameters", "sha256"))
    need(text(dtype) and dtype in DTYPES, "weights.dtype", f"one of {', '.join(DTYPES)}", dtype)
    need(integer(parameters) and parameters >= 0, "weights.parameters", "a count", parameters)
    size = weights.get("bytes")  # which early checkpoints lack
    need(size is None or (integer(size) and size >= 0), "weights.bytes", "a count or null", size)
    need(isinstance(hashes, dict) and bool(hashes), "weights.sha256", "an object from file to SHA-256", hashes)
    for name, digest in hashes.items():
        need(_FILE_NAME.fullmatch(name) is not None, "a name in weights.sha256", "a plain *.safetensors", name)
        valid = text(digest) and _SHA256.fullmatch(digest) is not None
        need(valid, f"weights.sha256[{show(name)}]", "64 hexadecimal digits", digest)

    results = config.get("results", [])
    need(isinstance(results, list), "results", "a list", results)
    for i, result in enumerate(results):
        field = f"results[{i}]"
        need(isinstance(result, dict), field, "an object", result)
        for key in ("metric", "kind", "dataset", "protocol"):
            need(text(result.get(key)), f"{field}.{key}", "a string", result.get(key))
        need("split" in result, field, "a result with a split, which may be null", result)
        need(result["split"] is None or text(result["split"]), f"{field}.split", "a string or null", result["split"])
        need(number(result.get("value")), f"{field}.value", "a number", result.get("value"))
        for key in ("standard_error", "spread"):
            error = result.get(key)
            need(error is None or number(error), f"{field}.{key}", "a number or null", error)
        n = result.get("n")
        need(integer(n) and n > 0, f"{field}.n", "a positive count", n)
        samples = result.get("samples", 1)
        need(integer(samples) and samples > 0, f"{field}.samples", "a positive count", samples)
    notes = config.get("notes", [])
    need(isinstance(notes, list) and all(map(text, notes)), "notes", "a list of strings", notes)


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
        _read_weights(folder / name, digest)
    return config


def weight_files(config: Mapping[str, Any]) -> set[str]:
    """Names of the files in a checkpoint folder that hold its weights, the index of shards among them."""
    files = set(config["weights"]["sha256"])
    return files if files == {WEIGHTS} else files | {INDEX}


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
        try:
            tensors = safetensors.torch.load(bytes(data))
        except Exception as error:
            raise CheckpointError(f"{path} is not a readable safetensors file: {one_line(error)}.") from error
        if weight_map is not None:
            mapped = {key for key, file in weight_map.items() if file == name}
            strays = sorted(mapped.symmetric_difference(tensors))
            if strays:
                raise CheckpointError(f"{folder / INDEX} and {name} disagree about {_listed(strays)}.")
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


def _read_weights(path: Path, digest: str) -> bytearray:
    """A weights file as bytes. Read once, so that what was hashed is what is parsed."""
    if not path.exists():
        pickles = sorted(p.name for p in path.parent.iterdir() if p.suffix in _PICKLES)
        if pickles:
            raise CheckpointError(
                f"{path} is missing and {_listed(pickles)} beside it is a pickle, which zoo never loads; "
                "export the model as safetensors."
            )
    data = _read_bytes(path, _MAX_WEIGHTS_BYTES)
    # A safetensors header is an object behind an 8-byte length; pickles open with 0x80, torch's zips with PK.
    if data[8:9] != b"{" and (data[:1] == b"\x80" or data[:2] == b"PK"):
        raise CheckpointError(f"{path} is a pickle, not safetensors; zoo never loads pickles.")
    if hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one in {CONFIG}; fetch or export it again.")
    return data


def _shards(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, str] | None, int | None]:
    """Weight map and bytes of a sharded checkpoint, agreeing with config.json; None, None for one file."""
    files = set(config["weights"]["sha256"])
    if files == {WEIGHTS}:
        return None, None
    path = folder / INDEX
    index = _read_json(path)
    metadata, weight_map = index.get("metadata"), index.get("weight_map")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    if not isinstance(size, int) or isinstance(size, bool):
        raise CheckpointError(f"{path}: metadata.total_size must be a number of bytes, not {show(size)}.")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{path}: weight_map must be an object from tensor to file name.")
    for name in weight_map.values():
        if _FILE_NAME.fullmatch(name) is None:
            raise CheckpointError(f"{path}: weight_map must name plain *.safetensors files, not {show(name)}.")
    strays = sorted(files.symmetric_difference(weight_map.values()))
    if strays:
        raise CheckpointError(f"{path} and the SHA-256 list of {CONFIG} disagree about {_listed(strays)}.")
    return weight_map, size


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(show, names[:3])) + more


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


def replace_folder(new: Path, folder: Path) -> None:
    """Put the folder `new`, a sibling, in the place of `folder`; a reader sees the old one or the new one."""
    if not folder.exists():
        new.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old-", dir=folder.parent))
    folder.rename(old / folder.name)
    try:
        new.rename(folder)
    except OSError:
        (old / folder.name).rename(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
