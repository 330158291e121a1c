"""Damaged and hostile checkpoint folders: `cases` mutates what each part of one means, and uses the zoo on the result.

The folders are those of a tiny model of every family, some in shards, and of the smallest bundled checkpoints. A case
writes one, mutated, makes its card and its row of `zoo list`, loads it, draws two images and asks how likely they are,
builds its data and chooses what `zoo evaluate` would measure. It ends there or in a `ZooError`; all else is a fault
of the zoo's.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from damage import join, split
from test_contract import FAMILIES

from zoo.errors import DataError, ZooError, plain
from zoo.evaluation.choice import choose
from zoo.hub import card, finding, store, tables
from zoo.hub.config import read_config
from zoo.hub.data import datamodule
from zoo.model.asking import draws
from zoo.training.families import families

CONFIG, WEIGHTS, INDEX, CARD = "config.json", "model.safetensors", "model.safetensors.index.json", "README.md"
SMALLEST = 8  # bundled checkpoints
Files = dict[str, bytes]

SIZES = [
    0,
    1,
    -1,
    2,
    3,
    5,
    7,
    255,
    257,
    1000,
    20_000,
    10**5,
    2**20,
    2**24,
    10**9,
    2**31 - 1,
    2**31,
    2**62,
    2**64,
    10**25,
]
NUMBERS = [*SIZES, 0.5, -0.5, -0.0, 5e-324, 1e-300, 1e-40, 1e-30, 1e30, 1e300, 10**400]
WORDS = [
    "",
    "x",
    "4",
    "\0",
    "\ud800",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "a\u202eb\u2066c",
    "a\nb\r\n| c | d |",
    "<script>alert(1)</script>",
    "![x](https://example.org/x.png) [y](https://example.org)",
    "`; rm -rf ~",
    "../../etc/passwd",
    "/dev/zero",
    "/dev/stdin",
    "~/.ssh/id_rsa",
    "http://example.org/x",
    "model.safetensors",
    "float16",
    "${name} %s {0.__class__}",
    "a" * 5000,
    "b" * 300_000,
]
OTHERS = [
    None,
    True,
    False,
    [],
    {},
    [[]],
    [1, 4, 4],
    [1, 1, 16],
    [2**31 - 1, 1, 1],
    {"a": 1},
    [None] * 50,
    [7] * 30_000,
]
BITS = [0.0, -1.0, 1e-30, 1e4, 6e4, 1e30, -1e30, 3e38, float("nan"), float("inf")]

NAMED: list[tuple[str, dict[str, Any]]] = [
    *(("autoregressive.PixelCNNPP", {"shape": [n, 1, 1]}) for n in (100, 10_000, 10**7)),
    *(("flows.ContinuousFlow", {"layers": n}) for n in (20_000, 10**6, 2**31 - 1)),
    *(("flows.ContinuousFlow", {"flows": n}) for n in (20_000, 2**31 - 1)),
    *(("adversarial.LAPGAN", {"scales": n}) for n in (60, 10**6, 2**31 - 1)),
    ("adversarial.LAPGAN", {"channels": [8] * 100_000, "scales": 100_000}),
    ("mixtures.GaussianMixture", {"shape": [1, 2**12, 2**12]}),
    ("mixtures.GaussianMixture", {"components": 2**31 - 1}),
    ("flows.MAF", {"shape": [2**24]}),
    ("autoregressive.MADE", {"masks": 2**31 - 1}),
    ("autoregressive.EoNADE", {"orderings": 2**31 - 1}),
]
"""Sizes that took seconds and gigabytes to refuse, by family."""


def cases(seed: int, n: int, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """At most `n` cases, the named sizes first: a description, and a function that tries it in a folder of its own."""
    names = [*FAMILIES, *(f"{name} in shards" for name in ("flows.Glow", "autoregressive.PixelCNN")), *_bundled()]
    for i in range(n):
        rng = random.Random(f"{seed} {i}")
        if i < len(NAMED):
            name, arguments = NAMED[i]
            kind: Any = functools.partial(_with_arguments, arguments=arguments)
            said = f"{name} with {str(arguments)[:60]}"
        else:
            name, kind = rng.choice(names), rng.choice(KINDS)
            said = f"{name}: {kind.__name__.strip('_')}"
        yield f"{said} ({seed} {i})", functools.partial(_try, name, kind, rng, folder / f"checkpoint-{i}")


def _try(name: str, kind: Callable[[Files, random.Random], Files], rng: random.Random, folder: Path) -> None:
    files = kind(dict(_files(name)), rng)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file, data in files.items():
        (folder / file).write_bytes(data)
    if kind is _odd_files:
        _make_odd(folder, rng)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            use(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def use(folder: Path) -> None:
    """All that is done with a stranger's checkpoint; what is printed of it has no control characters."""
    config = read_config(folder)
    rows = tables.table({folder.name: config})
    texts = [card.render(config, folder.name), *(cell for row in rows for cell in row), tables.effort(config)]
    for text in texts:
        assert plain(text) == text, ascii(text[:300])
    body = re.sub(r"`[^`]*`", "", texts[0].partition("\n---\n")[2])  # but for code, which is shown
    assert not re.search(r"(?<!\\)(<script|\]\(https://example)", body), ascii(body)
    model = store.load(folder)
    if draws(model):
        x = model.sample(2, seed=0)
        assert x.shape == (2, *model.spec.shape)
        try:
            model.spec.check(x, "a sample")
        except ZooError as error:  # which is no refusal
            raise AssertionError(str(error)) from error
        if getattr(model, "likelihood", None):
            model.negative_log_likelihood(x)
    choose(model, None, config)
    if config.get("data"):
        data = datamodule(config["data"], root=folder / "data")
        with contextlib.suppress(DataError):  # those of the tiny models are not MNIST's
            model.check_data(data)


# -- what is mutated -----------------------------------------------------------------------------------------------


@functools.cache
def _bundled() -> tuple[str, ...]:
    """The smallest bundled checkpoints."""
    size = {name: sum(file.stat().st_size for file in (finding.BUNDLED / name).iterdir()) for name in finding.names()}
    return tuple(sorted(size, key=lambda name: size[name])[:SMALLEST])


@functools.cache
def _files(name: str) -> Files:
    """The files of a sound checkpoint, by name."""
    if name in _bundled():
        kept = (CONFIG, WEIGHTS, CARD)
        return {file.name: file.read_bytes() for file in (finding.BUNDLED / name).iterdir() if file.name in kept}
    family, _, shards = name.partition(" ")
    with tempfile.TemporaryDirectory() as temporary, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = families()[family](**FAMILIES[family][0]).eval()
        with mock.patch("zoo.hub.folder.SHARD_BYTES", 1500 if shards else 2**24):
            folder = store.save(
                model, Path(temporary) / "sound-one", data=_DATA, results=[_RESULT], reference=_REFERENCE
            )
        card.write(folder)
        return {file.name: file.read_bytes() for file in folder.iterdir()}


_DATA = {"class_path": "zoo.data.MNIST", "init_args": {"binarized": True}, "title": "MNIST", "hub_id": "ylecun/mnist"}
_RESULT = {
    "metric": "nats",
    "kind": "upper",
    "value": 90.0,
    "standard_error": 0.2,
    "n": 100,
    "split": "test",
    "dataset": "MNIST",
    "protocol": "binarized once by sampling",
    "samples": 2,
    "unit": "nats",
    "decimals": 2,
}
_REFERENCE = {
    "metric": "nats",
    "value": 85.0,
    "source": "a paper",
    "kind": "upper",
    "also": [{"value": 86.0, "kind": "exact"}],
    "best": {"value": 80.0, "source": "another"},
}


def _paths(value: object, path: tuple = ()) -> list[tuple]:
    """The paths of all nodes of a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, child in children for p in _paths(child, (*path, key)))]


def _mutated(value: Any, rng: random.Random, under: tuple = ()) -> Any:
    """One node of a JSON value replaced, removed, renamed, copied, grown or multiplied."""
    value = copy.deepcopy(value)
    candidates = [path for path in _paths(value) if path[: len(under)] == under and len(path) > len(under)]
    if not candidates:
        return value
    *parents, key = rng.choice(candidates)
    node = value
    for parent in parents:
        node = node[parent]
    kind = rng.randrange(9)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[rng.choice([*WORDS[:-1], *node])] = node.pop(key)
    elif kind == 2:
        other = value
        for step in rng.choice(_paths(value)):
            other = other[step]
        node[key] = copy.deepcopy(other)
    elif kind == 3:
        for _ in range(rng.choice([1, 3, 90, 200, 5000])):
            node[key] = rng.choice([[node[key]], {"x": node[key]}])
    elif kind == 4:
        node[key] = [node[key]] * rng.choice([2, 1500, 20_000])
    elif kind == 5 and isinstance(node[key], str):
        node[key] = node[key] + rng.choice(WORDS)
    elif isinstance(node[key], (int, float)) and rng.random() < 0.6:
        node[key] = rng.choice([*NUMBERS, node[key] + 1, node[key] - 1, node[key] * 2, -node[key]])
    else:
        node[key] = copy.deepcopy(rng.choice([*NUMBERS, *WORDS, *OTHERS]))
    return value


def _dump(value: object) -> bytes:
    """JSON, of whatever depth."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)
    try:
        return json.dumps(value).encode()
    finally:
        sys.setrecursionlimit(limit)


def _config(files: Files, rng: random.Random) -> Files:
    config = json.loads(files[CONFIG])
    for _ in range(rng.choice([1, 1, 2, 4])):
        with contextlib.suppress(RecursionError):  # it is nested too deeply already
            changed = _mutated(config, rng)
            if _values(changed, {}) < 2**18:  # else what was multiplied is multiplied again, and writing it takes hours
                config = changed
    return files | {CONFIG: _dump(config)}


def _values(value: object, known: dict[int, int]) -> int:
    """How many values JSON has to write, those that stand in several places as often."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if children and id(value) not in known:
        known[id(value)] = sum(_values(child, known) for child in children)
    return 1 + (known[id(value)] if children else 0)


def _arguments(files: Files, rng: random.Random) -> Files:
    return files | {CONFIG: _dump(_mutated(json.loads(files[CONFIG]), rng, ("init_args",)))}


def _sizes(files: Files, rng: random.Random) -> Files:
    """One or two of a constructor's integers, lists of them among these, made hostile."""
    config = json.loads(files[CONFIG])
    arguments = config["init_args"]
    for _ in range(rng.choice([1, 1, 2])):
        key = rng.choice([key for key, value in arguments.items() if isinstance(value, (int, list))])
        size = rng.choice(SIZES)
        if isinstance(arguments[key], list) and arguments[key]:
            arguments[key] = list(arguments[key])
            arguments[key][rng.randrange(len(arguments[key]))] = size
        else:
            arguments[key] = size
    return files | {CONFIG: _dump(config)}


def _with_arguments(files: Files, rng: random.Random, arguments: dict[str, Any]) -> Files:
    config = json.loads(files[CONFIG])
    config["init_args"] |= arguments
    return files | {CONFIG: _dump(config)}


def _words(files: Files, rng: random.Random) -> Files:
    """A stranger's words in a part that people read."""
    config = json.loads(files[CONFIG])
    part = rng.choice(["data", "recipe", "training", "reference", "results", "notes"])
    config["notes"], config["recipe"] = ["a note"], "a-recipe"
    config["training"] = {"hardware": "a GPU", "minutes": 3.0, "from": {"name": "x", "sha256": {"a": "b"}}}
    if config.get(part) is None:
        return files
    texts = [path for path in _paths(config) if path[0:1] == (part,) and isinstance(_at(config, path), str)]
    for path in rng.sample(texts, min(len(texts), rng.choice([1, 2, 9]))):
        _at(config, path[:-1])[path[-1]] = rng.choice(["", "a "]) + rng.choice(WORDS)
    return files | {CONFIG: _dump(config)}


def _at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


def _numbers(files: Files, rng: random.Random) -> Files:
    """Results and references without end."""
    config = json.loads(files[CONFIG])
    result = (config["results"] or [_RESULT])[0]
    count = rng.choice([1, 3, 200, 3000])
    config["results"] = [result | {"samples": rng.choice(SIZES), "kind": "upper"} for _ in range(count)]
    for part in (config["results"][0], config.get("reference") or {}, (config.get("training") or {})):
        for key in part:
            if rng.random() < 0.2:
                part[key] = rng.choice(NUMBERS)
    if rng.random() < 0.3:
        config["reference"] = _REFERENCE | {"also": [_REFERENCE] * rng.choice([2, 3000])}
    return files | {CONFIG: _dump(config)}


def _data(files: Files, rng: random.Random) -> Files:
    """Data of another class, with other arguments, and paths among them."""
    config = json.loads(files[CONFIG])
    name = rng.choice(["MNIST", "FashionMNIST", "CIFAR10", "Points", "Table", "Digits", "BreastCancer", "Nothing"])
    arguments = {
        rng.choice(
            ["fixed", "train", "test", "validation", "name", "levels", "seed", "data_seed", "root", "delimiter", "x"]
        ): rng.choice([*WORDS, *NUMBERS, *OTHERS])
        for _ in range(rng.choice([0, 1, 3]))
    }
    if name == "Table":
        arguments = {"train": rng.choice(WORDS), "test": rng.choice(WORDS)} | arguments
    config["data"] = {"class_path": f"zoo.data.{name}", "init_args": arguments}
    return files | {CONFIG: _dump(config)}


def _bytes(files: Files, rng: random.Random) -> Files:
    """Bits flipped, cut, grown, overwritten or moved in any file."""
    name = rng.choice(list(files))
    data = bytearray(files[name])
    place = rng.randrange(len(data))
    kind = rng.randrange(6)
    if kind == 0:
        for _ in range(rng.choice([1, 1, 8])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[place:]
    elif kind == 2:
        del data[place : place + rng.choice([1, 2, 50])]
    elif kind == 3:
        data[place:place] = rng.randbytes(rng.choice([1, 8, 300]))
    elif kind == 4:
        data[place : place + 8] = rng.choice([b"\0" * 8, b"\xff" * 8, (2**40).to_bytes(8, "little"), b'{"[]":,1'])
    else:
        data = data[place:] + data[:place]
    return _rehashed(files | {name: bytes(data)}, rng)


def _header(files: Files, rng: random.Random) -> Files:
    """A safetensors file with another header, and the SHA-256 of that."""
    name = _weights(files, rng)
    header, buffer = split(files[name])
    names = [key for key in header if key != "__metadata__"] or ["x"]
    entry = header.setdefault(rng.choice(names), {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})
    kind, length = rng.randrange(12), None
    if kind == 0:
        entry["dtype"] = rng.choice(["F16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "C64", "F4", "", None, 3, []])
    elif kind == 1:
        entry["shape"] = [1] * rng.choice([1, 9, 64, 65, 100, 1000, 100_000]) + entry["shape"]
    elif kind == 2:
        entry["shape"] = [rng.choice(SIZES) for _ in range(rng.randrange(5))]
    elif kind == 3:
        entry["data_offsets"] = [rng.choice(SIZES) for _ in range(rng.choice([1, 2, 2, 2, 3]))]
    elif kind == 4:
        a, b = rng.choice(names), rng.choice(names)
        header[a], header[b] = header.get(b), header.get(a)
    elif kind == 5:
        header[rng.choice([*WORDS, "net.extra", "__metadata__"])] = header.pop(rng.choice(list(header)))
    elif kind == 6:
        length = rng.choice([0, 1, 7, 8, 2**31, 2**63, 2**64 - 1, len(buffer)])
    elif kind == 7:
        header["__metadata__"] = rng.choice([{"format": "np"}, {"a": 1}, [], None, {"a": "b" * 3000}])
    elif kind == 8:
        header |= {f"net.x{i}": dict(entry) for i in range(rng.choice([3, 5000, 60_000]))}
    elif kind == 9:  # all tensors in one place
        for key in names:
            header[key]["data_offsets"] = list(entry["data_offsets"])
    elif kind == 10:
        for _ in range(rng.choice([3, 200, 5000])):
            entry["shape"] = [entry["shape"]]
    else:
        header = _mutated(header, rng)
    text = _dump(header)
    data = (len(text) if length is None else length).to_bytes(8, "little") + text + buffer
    return _rehashed(files | {name: data}, rng)


def _tensors(files: Files, rng: random.Random) -> Files:
    """Finite weights that are none: all of a tensor, or of all tensors, extreme, or any bits."""
    name = _weights(files, rng)
    header, buffer = split(files[name])
    data = bytearray(buffer)
    names = [key for key in header if key != "__metadata__"]
    every = rng.random() < 0.3
    for key in names if every else rng.sample(names, min(len(names), rng.choice([1, 1, 3]))):
        start, end = header[key]["data_offsets"]
        types = {
            "F16": torch.float16,
            "BF16": torch.bfloat16,
            "F32": torch.float32,
            "I8": torch.int8,
            "I64": torch.int64,
        }
        kind = types.get(header[key]["dtype"])
        if kind is None or start == end:
            continue
        values = torch.frombuffer(data, dtype=kind, offset=start, count=(end - start) // kind.itemsize)
        if not kind.is_floating_point:
            values.fill_(rng.choice([0, 1, -1, 127]))
            continue
        most = torch.finfo(kind).max
        if rng.random() < 0.3:
            values.mul_(rng.choice([1e2, 1e4, -1.0, 1e-4])).clamp_(-most, most)
        elif rng.random() < 0.2:
            values.view(torch.int16)[:] = torch.frombuffer(
                bytearray(rng.randbytes(len(values) * kind.itemsize)), dtype=torch.int16
            )
        else:
            values.fill_(max(-most, min(most, x)) if abs(x := rng.choice(BITS)) < float("inf") else x)
    return _rehashed(files | {name: join(header, bytes(data))}, rng, always=True)


def _index(files: Files, rng: random.Random) -> Files:
    """The index of shards, or one where there are none; or another number of files in config.json."""
    files = dict(files)
    if INDEX in files and rng.random() < 0.7:
        return files | {INDEX: _dump(_mutated(json.loads(files[INDEX]), rng))}
    config = json.loads(files[CONFIG])
    hashes = config["weights"]["sha256"]
    for _ in range(rng.choice([1, 3, 4000])):
        hashes[f"model-{rng.randrange(10**6)}.safetensors"] = rng.choice([*hashes.values(), "0" * 64])
    return files | {CONFIG: _dump(config)}


def _moved_files(files: Files, rng: random.Random) -> Files:
    """Files in one another's place, or gone."""
    files = dict(files)
    a, b = rng.choice(list(files)), rng.choice(list(files))
    files[a], files[b] = files[b], files[a]
    if rng.random() < 0.5:
        del files[rng.choice(list(files))]
    return files


def _odd_files(files: Files, rng: random.Random) -> Files:
    """Files that are none: `_make_odd` puts them there."""
    return files


def _make_odd(folder: Path, rng: random.Random) -> None:
    file = folder / rng.choice([each.name for each in folder.iterdir()])
    data = file.read_bytes()
    file.unlink()
    kind = rng.randrange(5)
    if kind == 0:
        os.mkfifo(file)
    elif kind == 1:
        file.mkdir()
    elif kind == 2:
        file.symlink_to(rng.choice(["/dev/zero", "/dev/full", "/proc/self/mem", "/nowhere", file.name, "/etc/passwd"]))
    elif kind == 3:
        file.write_bytes(rng.choice([b"", data]))  # what it held, and then a hole
        os.truncate(file, rng.choice([2**20 + 1, 2**32, 2**34, 2**40]))
    else:
        file.write_bytes(rng.choice([b"", b"\x80\x04K\x01.", b"PK\x03\x04", b"\0" * 9, b"\x01\0\0\0\0\0\0\0{"]))


def _card(files: Files, rng: random.Random) -> Files:
    """A README.md of any words, which nobody needs."""
    return files | {CARD: rng.choice(WORDS).encode("utf-8", "surrogatepass") * rng.choice([1, 100])}


KINDS = [
    *[_config, _arguments, _sizes, _sizes, _words, _numbers, _data, _bytes],
    *[_header, _header, _tensors, _tensors, _tensors, _index, _moved_files, _odd_files, _card],
]


def _weights(files: Files, rng: random.Random) -> str:
    return rng.choice([name for name in files if name.endswith(".safetensors")])


def _rehashed(files: Files, rng: random.Random, always: bool = False) -> Files:
    """The files with the SHA-256 that they have now, nearly always: where they are wrong all else is hidden."""
    if not always and rng.random() < 0.1:
        return files
    try:
        config = json.loads(files[CONFIG])
        for name in config["weights"]["sha256"]:
            config["weights"]["sha256"][name] = hashlib.sha256(files[name]).hexdigest()
    except (ValueError, KeyError, TypeError, AttributeError):
        return files
    return files | {CONFIG: _dump(config)}
