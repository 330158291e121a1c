"""Some thousands of mutated checkpoint folders: a sound model or the package's own error, and nothing else.

Mutations are seeded; `ZOO_FUZZ=100000 pytest tests/hub/test_hub_fuzz.py` looks further than the suite does.
"""

import copy
import faulthandler
import json
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import join, rehash, split
from safetensors.torch import load

from zoo.autoregressive import PixelCNN
from zoo.errors import ZooError
from zoo.hub import store
from zoo.nn.masked import visible_entries

ROUNDS = int(os.environ.get("ZOO_FUZZ", 3500))
SECONDS = 20  # far more than any single load takes on a busy machine
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"

NUMBERS = [
    0,
    1,
    -1,
    2,
    3,
    4,
    7,
    255,
    256,
    257,
    10**5,
    2**31 - 1,
    2**31,
    2**63,
    10**25,
    0.5,
    -0.0,
    1e-300,
    1e300,
]
STRINGS = [
    "",
    "x",
    "4",
    "../x",
    "/etc/passwd",
    "\0",
    "\ud800",
    "ä\n",
    "model.safetensors",
    "float16",
    "a" * 5000,
]
OTHERS = [None, True, False, [], {}, [[]], [1, 4, 4], [1, 1, 16], {"a": 1}, [None] * 50]
CLASS_PATHS = [
    *("os.system", "builtins.exec", "zoo.hub.os.system", "zoo.errors.ZooError", "zoo.model.GenerativeModel"),
    *(
        "zoo.autoregressive.pixelcnn.PixelCNN",
        "zoo.autoregressive.pixelcnn.Block",
        "zoo.hub.push",
        "zoo.data.Digits",
    ),
    *(
        "zoo",
        "zoo.",
        "zoo..x",
        "zoo.x.y",
        "zoo.autoregressive.PixelCNN.sample",
        "zoo.__builtins__.eval",
        "torch.load",
    ),
]
DTYPES = ["F16", "BF16", "F32", "F64", "I64", "I8", "U8", "BOOL", "F8_E4M3", "C64", "U16", "", None, 3]


class Hang(BaseException):
    """A load took too long."""


def paths_of(value: object, path: tuple = ()) -> list[tuple]:
    """The paths of all nodes of a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, child in children for p in paths_of(child, (*path, key)))]


def mutate_json(value: Any, rng: random.Random, under: tuple = ()) -> Any:
    """One node replaced, removed, renamed, copied or grown."""
    value = copy.deepcopy(value)
    candidates = [path for path in paths_of(value) if path[: len(under)] == under and len(path) > len(under)]
    if not candidates:
        return value
    *parents, key = rng.choice(candidates)
    node = value
    for parent in parents:
        node = node[parent]
    kind = rng.randrange(8)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[rng.choice([*STRINGS, *node])] = node.pop(key)
    elif kind == 2:
        other = value
        for step in rng.choice(paths_of(value)):
            other = other[step]
        node[key] = copy.deepcopy(other)
    elif kind == 3 and isinstance(node[key], (int, float)):
        node[key] = rng.choice([node[key] + 1, node[key] - 1, node[key] * 2, -node[key], node[key] / 2])
    elif kind == 4:
        for _ in range(rng.choice([1, 3, 200])):
            node[key] = rng.choice([[node[key]], {"x": node[key]}])
    else:
        node[key] = copy.deepcopy(rng.choice([*NUMBERS, *STRINGS, *OTHERS]))
    return value


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped, cut, grown, overwritten, or pieces moved."""
    data = bytearray(data)
    place = rng.randrange(len(data))
    kind = rng.randrange(6)
    if kind == 0:
        for _ in range(rng.choice([1, 1, 1, 8])):
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
    return bytes(data)


def mutate_tensors(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with another header or other values."""
    header, buffer = split(data)
    names = [name for name in header if name != "__metadata__"]
    entry = header[rng.choice(names)]
    kind = rng.randrange(10)
    length = None
    if kind == 0:
        entry["dtype"] = rng.choice(DTYPES)
    elif kind == 1:
        entry["shape"] = [*entry["shape"], 1] if rng.random() < 0.5 else entry["shape"][::-1]
    elif kind == 2:
        entry["shape"] = [rng.choice(NUMBERS[:15]) for _ in range(rng.randrange(5))]
    elif kind == 3:
        entry["data_offsets"][rng.randrange(2)] = rng.choice(NUMBERS[:15])
    elif kind == 4:
        a, b = rng.choice(names), rng.choice(names)
        header[a], header[b] = header[b], header[a]
    elif kind == 5:
        header[rng.choice([*STRINGS[:8], "net.extra", "__metadata__"])] = header.pop(rng.choice(names))
    elif kind == 6:
        length = rng.choice([0, 1, 7, 8, 2**31, 2**63, 2**64 - 1, len(buffer)])
    elif kind == 7:  # values: NaN, infinities, or any bits
        place = rng.randrange(0, len(buffer) - 2, 2)
        bits = rng.choice([0x7E00, 0x7C00, 0xFC00, 0x3C00, rng.randrange(2**16)])
        buffer = buffer[:place] + bits.to_bytes(2, "little") + buffer[place + 2 :]
    elif kind == 8:
        header["__metadata__"] = rng.choice([{"format": "np"}, {"a": 1}, [], None, {"a": "b" * 3000}])
    else:
        header = mutate_json(header, rng)
    return join(header, buffer, length)


def mutate(files: dict[str, bytes], rng: random.Random) -> tuple[dict[str, bytes], str, bool]:
    """Mutated files, the kind of mutation, and whether the SHA-256 is to be made right again."""
    files = dict(files)
    weights = rng.choice([name for name in files if name.endswith(".safetensors")])
    kinds = ["arguments"] * 4 + ["config"] * 4 + ["text", "class", "bytes", "files"] + ["tensors"] * 5
    kind = rng.choice(kinds + ["index"] * 4 if INDEX in files else kinds)
    config = json.loads(files[CONFIG])
    fix = rng.random() < 0.8
    if kind in ("arguments", "config"):
        for _ in range(rng.choice([1, 1, 2])):
            config = mutate_json(config, rng, ("init_args",) if kind == "arguments" else ())
        files[CONFIG] = json.dumps(config).encode()
        fix = False
    elif kind == "class":
        files[CONFIG] = json.dumps(config | {"class_path": rng.choice(CLASS_PATHS)}).encode()
        fix = False
    elif kind == "text":
        name = rng.choice([name for name in files if name.endswith(".json")])
        files[name] = mutate_bytes(files[name], rng)
        fix = False
    elif kind == "index":
        files[INDEX] = json.dumps(mutate_json(json.loads(files[INDEX]), rng)).encode()
    elif kind == "bytes":
        files[weights] = mutate_bytes(files[weights], rng)
    elif kind == "files":
        other = rng.choice(list(files))
        files[weights], files[other] = files[other], files[weights]
        if rng.random() < 0.5:
            del files[rng.choice(list(files))]
    else:
        files[weights] = mutate_tensors(files[weights], rng)
    return files, kind, fix


def write(folder: Path, files: dict[str, bytes], fix: bool) -> dict[str, bytes]:
    for name in (CONFIG, WEIGHTS, INDEX, *files):
        (folder / name).unlink(missing_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    if fix and CONFIG in files:
        try:
            rehash(folder)
        except ValueError:
            return files  # weights have taken the place of the configuration
        files[CONFIG] = (folder / CONFIG).read_bytes()
    return files


@pytest.fixture
def watched():
    """Notes of what only running somebody's code would do, and an alarm clock."""
    events: list[str] = []
    active = True
    forbidden = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class")

    def audit(event: str, args: tuple) -> None:
        if active and event.startswith((*forbidden, "socket.", "shutil.", "os.remove", "os.rename", "ctypes.dlopen")):
            events.append(event)

    def ring(*_: object) -> None:
        raise Hang

    sys.addaudithook(audit)  # cannot be taken away again, hence `active`
    previous = signal.signal(signal.SIGALRM, ring)
    faulthandler.dump_traceback_later(600, exit=True)  # code that never returns to Python
    yield events
    faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)
    active = False


@pytest.mark.slow
def test_mutated_checkpoints(model, tmp_path, monkeypatch, watched):
    torch.set_num_threads(1)
    single = store.save(model, tmp_path / "pixelcnn-single")
    monkeypatch.setattr("zoo.hub.folder.SHARD_BYTES", 1500)
    sharded = store.save(model, tmp_path / "pixelcnn-shards")
    originals = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (single, sharded)]
    folder = tmp_path / "pixelcnn-fuzz"
    folder.mkdir()
    outcomes: Counter[tuple[str, bool]] = Counter()
    for i in range(ROUNDS):
        rng = random.Random(i)
        files, kind, fix = mutate(rng.choice(originals), rng)
        for path in folder.iterdir():
            path.unlink()
        files = write(folder, files, fix)
        watched.clear()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            loaded = store.load(folder)
        except ZooError as error:
            loaded = None
            message = str(error)
            assert message.endswith("."), (i, message)
            assert message.isprintable(), (i, message)  # one line, in particular
            assert len(message) < 2000, (i, message)
        except BaseException as error:
            raise AssertionError(f"round {i} ({kind}) raised {type(error).__name__}: {error}") from error
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert watched == [], (i, kind, watched)
        outcomes[kind, loaded is not None] += 1
        if loaded is not None:
            assert type(loaded) is PixelCNN, (i, kind)
            stored: dict[str, torch.Tensor] = {}
            for name in json.loads(files[CONFIG])["weights"]["sha256"]:
                stored |= load(files[name])
            state = loaded.state_dict()
            assert stored.keys() == state.keys(), (i, kind)
            visible = visible_entries(loaded)
            for key, value in stored.items():
                got = state[key][visible[key]] if value.shape != state[key].shape else state[key]
                assert torch.equal(got, value.to(got.dtype)), (i, kind, key)
    print(dict(sorted(outcomes.items())))
    refused = sum(count for (_, sound), count in outcomes.items() if not sound)
    assert ROUNDS // 2 < refused < ROUNDS  # the mutations bite, and do not only bite
