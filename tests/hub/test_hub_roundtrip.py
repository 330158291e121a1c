"""What is saved is what is loaded, up to the rounding that was asked for."""

import hashlib
import json

import pytest
import torch
from damage import rehash
from safetensors.torch import load_file, save_file
from torch import nn

from zoo.autoregressive import DARN, MADE, PixelCNN, PixelRNN
from zoo.errors import CheckpointError, ZooError
from zoo.flows import MAF
from zoo.hub import store
from zoo.hub.config import read_config, write_config
from zoo.model import GenerativeModel
from zoo.nn.masked import visible_entries
from zoo.spec import DataSpec


class Toy(GenerativeModel):
    """A class outside the zoo, with every kind of tensor a state dict may hold."""

    def __init__(self, width: int = 3, names: list[str] | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec = DataSpec((width,), None)
        self.weight = nn.Parameter(torch.randn(width, width))
        self.tied = self.weight
        self.short = nn.Parameter(torch.zeros(width, dtype=torch.bfloat16))
        self.empty = nn.Parameter(torch.zeros(0, width))
        self.register_buffer("order", torch.randperm(width))
        self.register_buffer("flags", torch.ones(2, dtype=torch.bool))
        self.register_buffer("table", torch.full((2,), 1 / 3, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(7))


class Other(Toy):
    """Another class outside the zoo."""


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_parameters_are_rounded_as_torch_rounds(model, tmp_path, dtype):
    folder = store.save(model, tmp_path / "pixelcnn-tiny", dtype=dtype)
    loaded = store.load(folder)
    assert type(loaded) is PixelCNN
    assert not loaded.training
    assert loaded.hparams == model.hparams
    rounded = {key: value.to(getattr(torch, dtype)).float() for key, value in model.state_dict().items()}
    assert loaded.state_dict().keys() == rounded.keys()
    for key, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, rounded[key])
    x = model.sample(2, seed=0)
    if dtype == "float32":
        assert torch.equal(loaded.log_prob(x), model.log_prob(x))


def test_saving_what_was_loaded_changes_no_byte(pristine, tmp_path):
    again = store.save(store.load(pristine), tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (again / file).read_bytes() == (pristine / file).read_bytes()


def test_every_kind_of_tensor(tmp_path):
    toy = Toy(width=4, names=["a"], scale=0.5)
    folder = store.save(toy, tmp_path / "toy", dtype="float16")
    loaded = store.load(folder, cls=Toy)
    for key, value in toy.state_dict().items():
        got = loaded.state_dict()[key]
        assert got.dtype == value.dtype
        is_parameter = key in ("weight", "tied", "short", "empty")
        assert torch.equal(got, value.half().to(value.dtype) if is_parameter else value)
    assert dict(loaded.hparams) == {"width": 4, "names": ["a"], "scale": 0.5}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 127], torch.int8),
        ([-128, 5], torch.int8),
        ([-129, 5], torch.int16),
        ([128, 0], torch.int16),
        ([0, 2**15], torch.int32),
        ([-(2**31), 2**31 - 1], torch.int32),
        ([0, 2**31], torch.int64),
        ([-(2**63), 2**63 - 1], torch.int64),
    ],
)
def test_integers_are_stored_in_the_bits_they_need(tmp_path, values, kind):
    toy = Toy(width=2)
    toy.order.copy_(torch.tensor(values))
    folder = store.save(toy, tmp_path / "toy")
    assert load_file(folder / "model.safetensors")["order"].dtype == kind
    order = store.load(folder, cls=Toy).order
    assert order.dtype == torch.int64
    assert order.tolist() == values


MASKED = {
    "pixelcnn": lambda: PixelCNN(shape=[3, 4, 4], levels=4, channels=6, blocks=1),
    "pixelrnn": lambda: PixelRNN(shape=[3, 4, 4], levels=4, channels=6, layers=1),
    "darn": lambda: DARN(shape=[1, 2, 3], latent_dim=4, width=5, masked=2, layers=2),
    "linear darn": lambda: DARN(shape=[1, 2, 3], latent_dim=4, width=0, masked=0),
    "made": lambda: MADE(shape=[1, 2, 3], hidden=16, direct=True, ordering_seed=3),
    "maf": lambda: MAF(shape=[2], layers=2, hidden=8),
}


@pytest.mark.parametrize("name", MASKED)
def test_what_a_mask_hides_is_not_stored(tmp_path, name):
    torch.manual_seed(0)
    model = MASKED[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()  # also where masks hide it
    folder = store.save(model, tmp_path / "a-b", dtype="float32")
    stored, visible = load_file(folder / "model.safetensors"), visible_entries(model)
    assert not all(mask.all() for mask in visible.values())
    assert all(stored[key].shape == (int(mask.sum()),) for key, mask in visible.items())
    assert sum(value.numel() for key, value in stored.items() if key in visible) < sum(
        map(torch.numel, visible.values())
    )
    loaded = store.load(folder)
    for key, value in model.state_dict().items():
        expected = value * visible[key] if key in visible else value
        assert torch.equal(loaded.state_dict()[key], expected)
    # The whole weights will do as well.
    whole = store.save(MASKED[name](), tmp_path / "c-d", dtype="float32")
    save_file({key: value.clone() for key, value in model.state_dict().items()}, whole / "model.safetensors")
    rehash(whole)
    for key, value in model.state_dict().items():
        assert torch.equal(store.load(whole).state_dict()[key], value)


def test_a_mask_follows_from_what_is_stored(tmp_path):
    made = MADE(shape=[1, 2, 3], hidden=16, ordering_seed=3)
    # As if another version had drawn the degrees.
    made.net.load_state_dict({"degrees": made.net.degrees.flip(2)}, strict=False)
    x = torch.randint(2, (5, 1, 2, 3), dtype=torch.uint8)
    loaded = store.load(store.save(made, tmp_path / "a-b", dtype="float32"))
    assert torch.equal(loaded.net.degrees, made.net.degrees)
    torch.testing.assert_close(loaded.log_prob(x), made.log_prob(x))


def test_a_vector_that_no_mask_explains_is_refused(tmp_path):
    folder = store.save(MASKED["pixelcnn"](), tmp_path / "a-b")
    path = folder / "model.safetensors"
    stored = load_file(path)
    visible = visible_entries(MASKED["pixelcnn"]())
    for key in (next(iter(visible)), next(key for key in stored if key not in visible and stored[key].ndim > 1)):
        save_file({**stored, key: stored[key].flatten()[:-1].clone()}, path)
        rehash(folder)
        with pytest.raises(CheckpointError, match=rf"'{key}' has shape \(\d+,\); the model's is \(\d+, .*\d+\)"):
            store.load(folder)


def test_the_files_are_as_documented(model, tmp_path):
    facts = {
        "data": {"class_path": "zoo.data.Digits", "init_args": {}},
        "recipe": "pixelcnn-digits",
        "training": {"hardware": "2 CPU cores", "minutes": 1.5},
        "reference": {"metric": "nats", "value": 1.0, "source": "somebody 2016"},
        "results": [
            {
                "metric": "nats",
                "kind": "exact",
                "value": 1.25,
                "standard_error": 0.5,
                "n": 10,
                "split": "test",
            }
            | {"dataset": "digits", "protocol": "17 levels", "limit": False}
        ],
        "notes": ["a note"],
    }
    folder = store.save(model, tmp_path / "pixelcnn-tiny", **facts)
    config = read_config(folder)
    assert config == json.loads((folder / "config.json").read_text())
    assert {key: config[key] for key in facts} == facts
    assert config["format"] == 1
    assert config["class_path"] == "zoo.autoregressive.PixelCNN"
    assert config["init_args"] == dict(model.hparams)
    data = (folder / "model.safetensors").read_bytes()
    assert config["weights"] == {
        "dtype": "float16",
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": len(data),
        "sha256": {"model.safetensors": hashlib.sha256(data).hexdigest()},
    }
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pixelcnn-tiny"]


def test_shards(model, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.hub.folder.SHARD_BYTES", 1500)
    folder = store.save(model, tmp_path / "pixelcnn-tiny")
    shards = sorted(folder.glob("*.safetensors"))
    assert [path.name for path in shards] == [
        f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)
    ]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    total = 0
    for path in shards:
        tensors = load_file(path)
        assert path.stat().st_size <= 1500 or len(tensors) == 1
        assert {key for key, name in index["weight_map"].items() if name == path.name} == tensors.keys()
        total += sum(tensor.nbytes for tensor in tensors.values())
    assert index["metadata"]["total_size"] == total
    assert set(read_config(folder)["weights"]["sha256"]) == {path.name for path in shards}
    loaded = store.load(folder)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value.half().float())


def test_a_tensor_larger_than_a_shard_gets_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.hub.folder.SHARD_BYTES", 700)
    folder = store.save(Toy(width=50), tmp_path / "toy")
    sizes = {path.name: len(load_file(path)) for path in folder.glob("*.safetensors")}
    assert all(size == 1 or (folder / name).stat().st_size <= 700 for name, size in sizes.items())
    assert store.load(folder, cls=Toy).weight.shape == (50, 50)


def test_a_checkpoint_is_replaced_whole(model, tmp_path, monkeypatch):
    folder = tmp_path / "pixelcnn-tiny"
    monkeypatch.setattr("zoo.hub.folder.SHARD_BYTES", 1500)
    store.save(model, folder)
    monkeypatch.undo()
    store.save(model, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pixelcnn-tiny"]


def test_a_failed_save_leaves_what_was_there(model, checkpoint):
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    with pytest.raises(CheckpointError, match=r"config\.json must hold plain JSON"):
        store.save(model, checkpoint, training={"minutes": float("nan")})
    with pytest.raises(CheckpointError, match=r"reference\.value"):
        store.save(model, checkpoint, reference={"metric": "nats", "value": "low", "source": "x"})
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]


def test_a_folder_of_something_else_is_not_replaced(model, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        store.save(model, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").exists()


def test_what_cannot_be_stored_is_refused(tmp_path):
    toy = Toy()
    with pytest.raises(CheckpointError, match="float8"):
        store.save(toy, tmp_path / "toy", dtype="float8_e4m3fn")
    toy.weight.data[0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"'weight' overflows float16.*float32"):
        store.save(toy, tmp_path / "toy")
    store.save(toy, tmp_path / "toy", dtype="bfloat16")
    toy.weight.data[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"'weight' of Toy holds NaN"):
        store.save(toy, tmp_path / "toy", dtype="float32")
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_a_class_from_elsewhere_must_be_passed(tmp_path):
    folder = store.save(Toy(), tmp_path / "toy")
    with pytest.raises(CheckpointError, match=r"outside zoo.*cls"):
        store.load(folder)
    with pytest.raises(CheckpointError, match=r"Toy, not the .*Other"):
        store.load(folder, cls=Other)
    with pytest.raises(CheckpointError, match="PixelCNN"):
        store.load(folder, cls=PixelCNN)
    assert type(store.load(folder, cls=Toy)) is Toy


def test_loading_leaves_the_global_random_state(pristine):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    store.load(pristine)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_device_that_is_not_there(pristine):
    if not torch.cuda.is_available():
        with pytest.raises(ZooError, match="cuda"):
            store.load(pristine, device="cuda")
    with pytest.raises(ZooError, match="abacus"):
        store.load(pristine, device="abacus")


def test_write_config_replaces_in_one_step(checkpoint):
    config = read_config(checkpoint)
    write_config(checkpoint, config | {"notes": ["ä new note"]})
    assert read_config(checkpoint) == config | {"notes": ["ä new note"]}
    with pytest.raises(CheckpointError, match="notes"):
        write_config(checkpoint, config | {"notes": "not a list"})
    assert read_config(checkpoint)["notes"] == ["ä new note"]
    assert len(list(checkpoint.iterdir())) == 4
