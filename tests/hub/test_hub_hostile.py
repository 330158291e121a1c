"""Broken and hostile checkpoints: one sentence names what is wrong with each, and nothing is executed."""

import json
import os
import pickle
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from damage import join, read_config, rehash, split, write_config
from safetensors.torch import load_file, save_file

from zoo.errors import CheckpointError
from zoo.flows import EnergyFlow
from zoo.hub import building, store
from zoo.hub import config as configuration
from zoo.hub.data import datamodule
from zoo.targets import GaussianRing

WEIGHTS = "model.safetensors"
RESULT = {"metric": "nats", "kind": "bound", "value": 1.0, "n": 1, "split": "test", "dataset": "MNIST", "protocol": ""}


def refused(folder: Path, *words: str) -> str:
    """Loading fails with one sentence that has these words."""
    with pytest.raises(CheckpointError) as caught:
        store.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    for word in words:
        assert word in message
    return message


def edit_config(folder: Path, path: str, value: object) -> None:
    """Set a dotted field of config.json, or remove it if the value is `...`."""
    config = read_config(folder)
    *parents, last = path.split(".")
    node = config
    for key in parents:
        node = node[key]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    write_config(folder, config)


def edit_weights(folder: Path, edit: Callable[[dict], object]) -> None:
    """Change the tensors, and the SHA-256 with them."""
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)
    rehash(folder)


def edit_header(folder: Path, edit: Callable[[dict], object], length: int | None = None) -> None:
    """Change the header of the weights file, and the SHA-256 with it."""
    header, buffer = split((folder / WEIGHTS).read_bytes())
    edit(header)
    (folder / WEIGHTS).write_bytes(join(header, buffer, length))
    rehash(folder)


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.path}'",)


# ---------------------------------------------------------------------------------------------- the files


def test_an_empty_folder(tmp_path):
    refused(tmp_path, "config.json is missing")


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(CheckpointError, match="no folder"):
        store.load(tmp_path / "x")
    with pytest.raises(CheckpointError, match="not a folder"):
        configuration.read_config(tmp_path / "x")


def test_weights_missing(checkpoint):
    (checkpoint / WEIGHTS).unlink()
    refused(checkpoint, f"{WEIGHTS} is missing")


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, -1])
def test_weights_truncated(checkpoint, keep):
    path = checkpoint / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    refused(checkpoint, WEIGHTS, "SHA-256")
    rehash(checkpoint)
    refused(checkpoint, WEIGHTS, "not a readable safetensors")


@pytest.mark.parametrize("place", [0, 7, 8, 30, -1])
def test_a_bit_flipped(checkpoint, place):
    data = bytearray((checkpoint / WEIGHTS).read_bytes())
    data[place] ^= 4
    (checkpoint / WEIGHTS).write_bytes(data)
    refused(checkpoint, WEIGHTS, "SHA-256")


def test_bytes_appended(checkpoint):
    path = checkpoint / WEIGHTS
    path.write_bytes(path.read_bytes() + b"\0")
    rehash(checkpoint)
    refused(checkpoint, WEIGHTS, "not a readable safetensors")


@pytest.mark.parametrize("file", [WEIGHTS, "config.json"])
def test_not_a_regular_file(checkpoint, file):
    for target in ("/dev/zero", "/dev/stdin", str(checkpoint)):
        (checkpoint / file).unlink()
        (checkpoint / file).symlink_to(target)
        refused(checkpoint, file, "no regular file")
    (checkpoint / file).unlink()
    os.mkfifo(checkpoint / file)
    refused(checkpoint, file, "no regular file")


def test_enormous_files(checkpoint):
    with (checkpoint / WEIGHTS).open("r+b") as file:
        file.truncate(2**34)  # sparse: it takes no space
    refused(checkpoint, WEIGHTS, "bytes are more than")
    (checkpoint / "config.json").write_bytes(b" " * (2**20 + 1))
    refused(checkpoint, "config.json", "bytes are more than")


def test_unreadable_files(checkpoint):
    (checkpoint / WEIGHTS).chmod(0)
    if os.access(checkpoint / WEIGHTS, os.R_OK):
        pytest.skip("permissions do not bind this user")
    refused(checkpoint, WEIGHTS, "cannot be read")


def test_links_as_the_hubs_cache_has_them(checkpoint, tmp_path):
    for file in (WEIGHTS, "config.json"):
        (checkpoint / file).rename(tmp_path / f"blob-{file}")
        (checkpoint / file).symlink_to(tmp_path / f"blob-{file}")
    store.load(checkpoint)


# ---------------------------------------------------------------------------------------------- pickles


@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_in_place_of_weights(checkpoint, tmp_path, zipped):
    sprung = tmp_path / "sprung"
    if zipped:
        torch.save({"weight": Trap(sprung)}, checkpoint / WEIGHTS)
    else:
        (checkpoint / WEIGHTS).write_bytes(pickle.dumps(Trap(sprung)))
    refused(checkpoint, WEIGHTS, "is a pickle")
    rehash(checkpoint)
    refused(checkpoint, WEIGHTS, "is a pickle")
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "last.ckpt", "weights.pt", "weights.pth", "x.pkl"])
def test_a_pickle_beside_missing_weights(checkpoint, tmp_path, name):
    sprung = tmp_path / "sprung"
    (checkpoint / WEIGHTS).rename(checkpoint / name)
    (checkpoint / name).write_bytes(pickle.dumps(Trap(sprung)))
    refused(checkpoint, name, "pickle", "safetensors")
    edit_config(checkpoint, "weights.sha256", {name: "0" * 64})
    refused(checkpoint, name, "weights.sha256")
    assert not sprung.exists()


def test_a_pickle_in_place_of_the_configuration(checkpoint, tmp_path):
    sprung = tmp_path / "sprung"
    (checkpoint / "config.json").write_bytes(pickle.dumps(Trap(sprung)))
    refused(checkpoint, "config.json", "not JSON")
    assert not sprung.exists()


# ---------------------------------------------------------------------------------------------- tensors


def test_keys_missing_and_unexpected(checkpoint):
    key = "net.first.weight"
    edit_weights(checkpoint, lambda tensors: tensors.update({"net.intruder": tensors.pop(key)}))
    refused(checkpoint, str(checkpoint), f"lack '{key}'", "unexpected 'net.intruder'", "PixelCNN")


def test_many_keys_missing_are_counted(checkpoint):
    def keep_one(tensors: dict) -> None:
        for key in list(tensors)[1:]:
            del tensors[key]

    total = len(load_file(checkpoint / WEIGHTS))
    edit_weights(checkpoint, keep_one)
    refused(checkpoint, f"and {total - 1 - 3} more")


def test_wrong_shapes(checkpoint):
    key = "net.row_bias"
    edit_weights(checkpoint, lambda tensors: tensors.update({key: tensors[key].T.contiguous()[:3]}))
    refused(checkpoint, f"'{key}' has shape (3, 4)", "the model's is (4, 4)")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_values_that_are_not_finite(checkpoint, value):
    key = "net.hidden.bias"
    edit_weights(checkpoint, lambda tensors: tensors[key].view(-1)[-1:].fill_(float(value)))
    refused(checkpoint, f"'{key}'", WEIGHTS, "NaN or infinite")


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float64, torch.complex64])
def test_wrong_dtypes(checkpoint, dtype):
    key = "net.hidden.bias"
    edit_weights(checkpoint, lambda tensors: tensors.update({key: tensors[key].to(dtype)}))
    refused(checkpoint, f"'{key}'", str(dtype))


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F4", "C64", "F128", "", None, 7, ["F16"]])
def test_strange_dtypes_in_the_header(checkpoint, dtype):
    edit_header(checkpoint, lambda header: header["net.hidden.bias"].update(dtype=dtype))
    refused(checkpoint, WEIGHTS)


@pytest.mark.parametrize(
    "shape", [[2**62], [2**63, 2**63], [10**6, 10**6], [-4], [0], [], [4.0], "4", None, [1] * 5000, [2**64]]
)
def test_shapes_that_do_not_fit_their_bytes(checkpoint, shape):
    edit_header(checkpoint, lambda header: header["net.hidden.bias"].update(shape=shape))
    refused(checkpoint, WEIGHTS)


@pytest.mark.parametrize("offsets", [[0, 2**63], [-8, 0], [8, 0], [0, 0], [0], "0", None, [2**40, 2**40 + 8]])
def test_offsets_outside_the_file(checkpoint, offsets):
    edit_header(checkpoint, lambda header: header["net.hidden.bias"].update(data_offsets=offsets))
    refused(checkpoint, WEIGHTS, "not a readable safetensors")


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_header_lengths_that_lie(checkpoint, length):
    edit_header(checkpoint, lambda header: None, length)
    refused(checkpoint, WEIGHTS, "not a readable safetensors")


@pytest.mark.parametrize("header", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b'{"a": 1}', b"[" * 200000])
def test_headers_that_are_no_header(checkpoint, header):
    (checkpoint / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    rehash(checkpoint)
    refused(checkpoint)


# ---------------------------------------------------------------------------------------------- config.json


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("{'format': 1}", "not JSON"),
        ("format: 1", "not JSON"),
        ("\x00", "not JSON"),
        ("[]", "must hold a JSON object"),
        ("null", "must hold a JSON object"),
        ("3", "must hold a JSON object"),
        ('"' + "x" * 1000 + '"', "must hold a JSON object"),
        ("[" * 100000 + "]" * 100000, "nested too deeply"),
        ('{"a":' * 100000 + "1" + "}" * 100000, "nested too deeply"),
        ('{"format": NaN}', "NaN"),
        ('{"format": -Infinity}', "Infinity"),
        ('{"format": 1e999}', "1e999"),
        ('{"format": ' + "9" * 5000 + "}", "not JSON"),
        ('{"format": 1, "format": 1}', "'format' twice"),
        ('{"weights": {"a": 1, "a": 2}}', "'a' twice"),
    ],
)
def test_config_is_strict_json(checkpoint, text, words):
    (checkpoint / "config.json").write_text(text)
    refused(checkpoint, "config.json", words)


def test_config_is_utf_8(checkpoint):
    (checkpoint / "config.json").write_bytes('{"format": "ä"}'.encode("latin-1"))
    refused(checkpoint, "config.json", "not JSON")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("format", [..., 2, 0, True, "1", 1.0, None]),
        (
            "class_path",
            [..., None, 7, "", "PixelCNN", "zoo.", ".PixelCNN", "zoo..x", "zoo.a b", "zoo.é", ["zoo"]],
        ),
        ("init_args", [..., None, [], "x", 1]),
        ("data", [[], "zoo.data.MNIST", {}, {"class_path": 1}, {"class_path": "a.b", "init_args": []}]),
        ("recipe", [7, [], {}]),
        ("training", ["fast", [], 7]),
        ("reference", ["x", {}, {"metric": "nats", "value": "1", "source": "s"}, {"metric": 1}]),
        ("reference", [{"metric": "nats", "value": 1, "source": "s", "target": t} for t in (1, "yes", None)]),
        ("reference", [{"metric": "nats", "value": 1, "source": "s", "whose": w} for w in (1, "mine", [])]),
        ("reference", [{"metric": "nats", "value": 1, "source": "s", "kind": k} for k in (1, "bound", {})]),
        ("reference", [{"metric": "nats", "value": 1, "source": "s", "also": a} for a in (1, [1], [{}], {"value": 2})]),
        ("weights", [..., None, [], "x"]),
        ("weights.dtype", [..., None, "int8", "float8_e4m3fn", 16, "torch.float16", "__class__"]),
        ("weights.parameters", [..., None, -1, 1.5, True, "12"]),
        ("weights.bytes", [-1, 1.5, True, "12"]),
        ("weights.sha256", [..., None, {}, [], "0" * 64]),
        ("results", [None, {}, [1], [{}], [{"metric": "nats"}], *([{**RESULT, "samples": n}] for n in (0, "2", 1.5))]),
        ("results", [[{**RESULT, "split": 1}], [{**RESULT, "spread": "0.1"}], [{"split": None}]]),
        ("results", [[{key: value for key, value in RESULT.items() if key != "split"}]]),
        ("notes", [None, "note", [1], {}]),
        ("draws", [None, "no", 1]),
    ],
)
def test_fields_of_the_wrong_kind(checkpoint, field, values):
    good = (checkpoint / "config.json").read_text()
    for value in values:
        (checkpoint / "config.json").write_text(good)
        edit_config(checkpoint, field, value)
        refused(checkpoint, "config.json", field.rpartition(".")[2])


@pytest.mark.parametrize("depth", [100, 400, 900])
@pytest.mark.parametrize("field", ["strange", "init_args.levels", "notes"])
def test_what_is_nested_more_than_a_checkpoint_needs(checkpoint, field, depth):
    nested = []
    for _ in range(depth):
        nested = [nested]
    edit_config(checkpoint, field, nested)
    refused(checkpoint, "nested too deeply")


def test_the_sha256_is_not_optional(checkpoint):
    for value in (None, "", "0" * 63, "0" * 65, "g" * 64, "A" * 64, 7, ["0" * 64]):
        edit_config(checkpoint, "weights.sha256", {WEIGHTS: value})
        refused(checkpoint, "weights.sha256", "64 hexadecimal digits")


def test_a_parameter_count_that_lies(checkpoint):
    edit_config(checkpoint, "weights.parameters", 5)
    refused(checkpoint, "weights.parameters is 5")


# ---------------------------------------------------------------------------------------------- the class


@pytest.mark.parametrize(
    "class_path",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "torch.nn.Linear",
        "zoological.Model",
        "Zoo.x",
        "__main__.x",
    ],
)
def test_classes_outside_the_zoo(checkpoint, class_path):
    edit_config(checkpoint, "class_path", class_path)
    refused(checkpoint, class_path, "outside zoo", "cls")


@pytest.mark.parametrize(
    "class_path",
    [
        "zoo.hub.os.system",
        "zoo.errors.ZooError",
        "zoo.model.GenerativeModel",
        "zoo.model.LightningModule",
        "zoo.model.torch.nn.Module",
        "zoo.hub.load",
        "zoo.names",
        "zoo.data.Digits",
        "zoo.autoregressive.PixelCNN.load_from_checkpoint",
        "zoo.autoregressive.pixelcnn.PixelCNNNet",
        "zoo.autoregressive.pixelcnn",
        "zoo.no_such_family.Model",
        "zoo.autoregressive.NoSuchModel",
        "zoo.autoregressive.__builtins__.eval",
        "zoo.__init__.load",
        "zoo.__main__.main",
        "zoo._private.Model",
    ],
)
def test_what_is_no_model_of_the_zoo(checkpoint, class_path):
    edit_config(checkpoint, "class_path", class_path)
    refused(checkpoint, "config.json", class_path)


def test_nothing_is_imported_for_a_class_outside_the_zoo(checkpoint, monkeypatch):
    (checkpoint / "trap_module.py").write_text("raise SystemExit('sprung')")
    monkeypatch.syspath_prepend(checkpoint)
    edit_config(checkpoint, "class_path", "trap_module.Model")
    refused(checkpoint, "trap_module.Model", "outside zoo")
    assert "trap_module" not in sys.modules


def test_a_module_path_alone_is_accepted(checkpoint):
    edit_config(checkpoint, "class_path", "zoo.autoregressive.pixelcnn.PixelCNN")
    store.load(checkpoint)


# ---------------------------------------------------------------------------------------------- its arguments


def test_unknown_arguments(checkpoint):
    edit_config(checkpoint, "init_args.hyper", 1)
    refused(checkpoint, "config.json", "'hyper'", "channels")


def test_defaults_may_be_left_out(checkpoint):
    edit_config(checkpoint, "init_args.lr", ...)
    store.load(checkpoint)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("blocks", True),
        ("blocks", "1"),
        ("blocks", 1.0),
        ("blocks", None),
        ("blocks", [1]),
        ("blocks", {}),
        ("dropout", "0.5"),
        ("dropout", False),
        ("shape", 4),
        ("shape", "144"),
        ("shape", [1, 4, "4"]),
        ("shape", [1, 4, True]),
        ("shape", {"0": 1}),
    ],
)
def test_arguments_of_the_wrong_type(checkpoint, argument, value):
    edit_config(checkpoint, f"init_args.{argument}", value)
    refused(checkpoint, "config.json", f"PixelCNN's {argument} must be")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("blocks", 0),
        ("blocks", -1),
        ("channels", 0),
        ("channels", -2),
        ("kernel_size", 2),
        ("kernel_size", 0),
        ("levels", 0),
        ("levels", -5),
        ("dropout", 1.5),
        ("dropout", -1.0),
        ("shape", []),
        ("shape", [1, 4]),
        ("shape", [0, 4, 4]),
        ("shape", [1, 4, 4, 4]),
        ("shape", [3, 4, 4]),
    ],
)
def test_arguments_the_constructor_refuses(checkpoint, argument, value):
    edit_config(checkpoint, f"init_args.{argument}", value)
    refused(checkpoint, str(checkpoint), "PixelCNN", str(value))


@pytest.mark.parametrize("value", [5e-324, -1e-40, 1e308, [1e-31], {"x": -1e31}])
def test_numbers_that_leave_float32_are_refused(checkpoint, value):
    """1 over the smallest of them is infinite: a `soft_limit` of it would divide by zero."""
    edit_config(checkpoint, "init_args.lr", value)
    assert re.search("is absurd; 0, or 1e-30 to 1e[+]30, is accepted|must be float", refused(checkpoint))
    with pytest.raises(CheckpointError, match="is absurd; 0, or"):
        building._check_numbers(value, "it")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("blocks", 10**9),
        ("blocks", 10**30),
        ("channels", 10**9),
        ("channels", 2**40),
        ("kernel_size", 99_999),
        ("kernel_size", 2**31 + 1),
        ("levels", 10**9),
        ("shape", [1, 10**6, 10**6]),
        ("shape", [1, 2**40, 1]),
        ("shape", [10**9, 1, 1]),
        ("shape", [1] * 10**5),
    ],
)
def test_absurd_sizes_take_neither_memory_nor_time(checkpoint, argument, value):
    edit_config(checkpoint, f"init_args.{argument}", value)
    before, start = _peak_memory(), time.monotonic()
    message = refused(checkpoint)
    assert len(message) < 1000
    assert time.monotonic() - start < 30
    assert _peak_memory() - before < 500e6


def _peak_memory() -> int:
    status = Path("/proc/self/status").read_text() if Path("/proc/self/status").exists() else "VmHWM: 0 kB"
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1000


# ---------------------------------------------------------------------------------------------- shards


@pytest.fixture
def shards(model, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.hub.folder.SHARD_BYTES", 1500)
    folder = store.save(model, tmp_path / "pixelcnn-shards")
    monkeypatch.undo()
    assert len(list(folder.glob("model-*"))) >= 3
    return folder


def edit_index(folder: Path, edit: Callable[[dict], object]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    edit(index)
    path.write_text(json.dumps(index))


def test_a_missing_shard(shards):
    victim = sorted(shards.glob("model-*"))[1]
    victim.unlink()
    refused(shards, f"{victim.name} is missing")


def test_a_missing_index(shards):
    (shards / "model.safetensors.index.json").unlink()
    refused(shards, "model.safetensors.index.json is missing")


def test_shards_swapped(shards):
    first, second = sorted(shards.glob("model-*"))[:2]
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)
    refused(shards, "SHA-256")
    rehash(shards)
    refused(shards, "disagree")


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "model.ckpt", "", 7, None, []])
def test_index_names_outside_the_folder(shards, name):
    edit_index(shards, lambda index: index["weight_map"].update({"net.hidden.bias": name}))
    refused(shards, "index.json", "weight_map")


def test_an_index_that_disagrees(shards):
    good = (shards / "model.safetensors.index.json").read_text()
    names = sorted(path.name for path in shards.glob("model-*"))
    edits = [
        lambda index: index["weight_map"].update({"net.intruder": names[0]}),
        lambda index: index["weight_map"].pop("net.hidden.bias"),
        lambda index: index["weight_map"].update({"net.first.weight": names[-1]}),
        lambda index: index["weight_map"].clear(),
        lambda index: index["weight_map"].update({"net.hidden.bias": "other.safetensors"}),
        lambda index: index.update(weight_map=[]),
        lambda index: index.pop("weight_map"),
        lambda index: index.pop("metadata"),
        lambda index: index["metadata"].update(total_size=5),
        lambda index: index["metadata"].update(total_size="5"),
        lambda index: index["metadata"].update(total_size=True),
    ]
    for edit in edits:
        (shards / "model.safetensors.index.json").write_text(good)
        edit_index(shards, edit)
        refused(shards, "index.json")


def test_the_same_tensor_in_two_shards(shards):
    first, second = sorted(shards.glob("model-*"))[:2]
    tensors = load_file(second) | dict(list(load_file(first).items())[:1])
    save_file(tensors, second)
    rehash(shards)
    refused(shards, "disagree")


# ---------------------------------------------------------------------------------------------- a target in it


@pytest.fixture
def flow(tmp_path):
    energy = {"class_path": "zoo.targets.GaussianRing", "init_args": {"modes": 3}}
    return store.save(EnergyFlow(energy, layers=1), tmp_path / "planar-ring", dtype="float32")


def test_a_target_of_the_zoo_is_built(flow):
    assert store.load(flow).energy.modes == 3


@pytest.mark.parametrize(
    "class_path",
    [
        *("os.system", "pathlib.Path", "builtins.eval", "torch.nn.Linear", "trap_module.Target", "", "Energy"),
        *("zoo.flows.EnergyFlow", "zoo.data.Points", "zoo.hub.os.system", "zoo.targets", "zoo.targetsx.Energy"),
        *(None, 7, True, [], ["zoo.targets.Energy"], {"class_path": "zoo.targets.Energy"}),
    ],
)
@pytest.mark.parametrize("place", ["energy", "list", "within"])
def test_a_nested_class_outside_the_targets(flow, class_path, place, monkeypatch):
    (flow / "trap_module.py").write_text("raise SystemExit('sprung')")
    monkeypatch.syspath_prepend(flow)
    monkeypatch.setattr(building, "build", None)
    bad = {"class_path": class_path}
    within = {"class_path": "zoo.targets.GaussianRing", "init_args": {"modes": [bad]}}
    edit_config(flow, "init_args.energy", {"energy": bad, "list": {"a": [[1, {"b": bad}]]}, "within": within}[place])
    refused(flow, "config.json", "class_path", "zoo.targets, so its code is not run")
    assert "trap_module" not in sys.modules


@pytest.mark.parametrize("argument", ["layers", "flow", "lr"])
def test_a_nested_class_in_another_argument(flow, argument):
    edit_config(flow, f"init_args.{argument}", {"class_path": "os.system"})
    refused(flow, "'os.system' is not one of zoo.targets")
    edit_config(flow, f"init_args.{argument}", {"class_path": "zoo.targets.GaussianRing"})
    refused(flow, f"EnergyFlow's {argument} must be")


@pytest.mark.parametrize(
    "class_path",
    [
        "zoo.targets.energies",
        "zoo.targets.energies.np",
        "zoo.targets.energies.np.load",
        "zoo.targets.energies.functools.partial",
        "zoo.targets.energies.quadrature",
        "zoo.targets.base.importlib.import_module",
        "zoo.targets.base.Target",
        "zoo.targets.base.Known",
        "zoo.targets.base.DataSpec",
        "zoo.targets.base.DataError",
        "zoo.targets.target_of",
        "zoo.targets.Energy.sample",
        "zoo.targets.NoSuchTarget",
        "zoo.targets.no_such_file.Target",
        "zoo.targets._private.Target",
        "zoo.targets.gaussians._Gaussians",
        "zoo.targets.__builtins__.eval",
        "zoo.targets..Energy",
        "zoo.targets.Energy.",
        "zoo.targets.a b",
    ],
)
def test_what_is_no_target_of_the_zoo(flow, class_path):
    edit_config(flow, "init_args.energy", {"class_path": class_path})
    refused(flow, str(flow), class_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mode": 3}, ("GaussianRing takes no argument 'mode'", "modes")),
        ({"modes": "3"}, ("GaussianRing's modes must be", "'3'")),
        ({"modes": 10**12}, ("absurd",)),
        ({"modes": 0}, ("modes must be from 1",)),
        ({"modes": 2**30}, ("modes must be from 1",)),
        ({"dims": 2**30}, ("far larger than its weights",)),
        ({"scale": [1]}, ("GaussianRing's scale must be",)),
        ([], ("class_path and init_args alone",)),
        ("x", ("class_path and init_args alone",)),
    ],
)
def test_arguments_of_a_target(flow, arguments, words):
    edit_config(flow, "init_args.energy.init_args", arguments)
    refused(flow, *words)


def test_a_target_with_more_than_class_and_arguments(flow):
    edit_config(flow, "init_args.energy.dict_kwargs", {"modes": 3})
    refused(flow, "class_path and init_args alone")


@pytest.mark.parametrize(
    "given", [{}, {"init_args": {}}, {"name": "energy1"}, {"Class_path": "os.system"}, 7, None, []]
)
def test_what_names_no_target(flow, given):
    edit_config(flow, "init_args.energy", given)
    refused(flow, "EnergyFlow")


def test_a_target_from_elsewhere_is_not_saved(tmp_path):
    class Elsewhere(GaussianRing):
        """Its code is not that of the zoo."""

    globals()["Elsewhere"] = Elsewhere
    model = EnergyFlow({"class_path": f"{__name__}.Elsewhere"}, layers=1)
    with pytest.raises(CheckpointError, match=r"Elsewhere' is not one of zoo\.targets"):
        store.save(model, tmp_path / "planar-elsewhere")
    assert not list(tmp_path.iterdir())


def test_a_nested_class_of_the_data(flow):
    with pytest.raises(CheckpointError, match=r"'os\.system' is not one of zoo\.targets"):
        datamodule({"class_path": "zoo.data.Points", "init_args": {"name": {"class_path": "os.system"}}})
