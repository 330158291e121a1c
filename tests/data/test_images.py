"""The data modules: splits, binarization, flips and, where they are present, the real data sets."""

import json
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from small_sets import CIFAR_FILES, MNIST_FILES, SmallCIFAR10, SmallMNIST, write

from zoo.batch import Batch
from zoo.data import CIFAR10, MNIST, AnimeFaces, Digits, FashionMNIST
from zoo.data.images import binarize, binarize_once
from zoo.errors import DataError
from zoo.spec import DataSpec


@pytest.fixture
def small_mnist(tmp_path):
    write(tmp_path / "MNIST" / "raw", MNIST_FILES)

    def make(**arguments):
        return SmallMNIST(str(tmp_path), validation=10, download=False, **arguments)

    return make


class Collector(LightningModule):
    """Keeps the batches that reach its steps."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches = {"train": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch, batch_idx):
        self.batches["train"].append(batch)
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.batches["val"].append(batch)

    def test_step(self, batch, batch_idx):
        self.batches["test"].append(batch)

    def predict_step(self, batch, batch_idx):
        self.batches["predict"].append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())


def collect(data, epochs=3):
    model = Collector()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(accelerator="cpu", max_epochs=epochs, enable_checkpointing=False, **quiet)
        trainer.fit(model, datamodule=data)
        trainer.test(model, datamodule=data, verbose=False)
        trainer.predict(model, datamodule=data)
    return model.batches


# Splits


def test_digits_have_fixed_disjoint_splits():
    from sklearn.datasets import load_digits

    data, again = Digits(), Digits(batch_size=7, seed=5)
    data.setup()
    again.setup()
    splits = [data.train, data.val, data.test]
    assert [split.size for split in splits] == [1257, 180, 360]
    for split, same in zip(splits, [again.train, again.val, again.test], strict=True):
        data.spec.check(split.x)
        assert torch.equal(split.x, same.x)
        assert torch.equal(split.label, same.label)
        assert (split.condition, split.index) == (None, None)
    together = torch.cat([split.x for split in splits]).flatten(1)
    labels = torch.cat([split.label for split in splits])
    rows = sorted(map(tuple, torch.cat([together, labels[:, None]], 1).tolist()))
    everything = np.concatenate([load_digits().data, load_digits().target[:, None]], 1).astype(int)
    assert rows == sorted(map(tuple, everything.tolist()))


def test_setup_reads_only_what_the_stage_needs(small_mnist):
    data = small_mnist()
    data.setup("test")
    assert not hasattr(data, "train")
    data.setup("fit")
    train = data.train[0]
    data.setup()
    assert data.train[0] is train


def test_root_is_the_argument_else_the_variable_else_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "variable"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert MNIST("here").root.name == "here"
    assert MNIST().root == tmp_path / "variable"
    monkeypatch.delenv("ZOO_DATA")
    assert MNIST().root == tmp_path / "cache" / "zoo" / "data"


def test_config_says_which_data_without_paths():
    grey, binarized = MNIST("there", batch_size=3), MNIST("there", binarized=True)
    for data in (grey, binarized, FashionMNIST(), CIFAR10(flip=True), AnimeFaces(flip=True), Digits()):
        config = json.loads(json.dumps(data.config))
        assert config["class_path"] == f"zoo.data.{type(data).__name__}"
        again = type(data)(**config["init_args"])
        assert (again.spec, again.protocol) == (data.spec, data.protocol)
    assert grey.config["init_args"] == {"binarized": False}
    assert (grey.spec, binarized.spec) == (DataSpec((1, 28, 28), 256, 10), DataSpec((1, 28, 28), 2, 10))


# Binarization


@pytest.mark.parametrize("draw", [binarize, binarize_once])
def test_binarization_has_the_intensity_as_its_mean(draw):
    n = 40_000
    torch.manual_seed(0)
    for intensity in (0, 1, 17, 128, 254, 255):
        bits = draw(torch.full((n, 1, 1, 1), intensity, dtype=torch.uint8))
        assert bits.dtype == torch.uint8
        assert bits.max() <= 1
        p = intensity / 255
        # Five standard errors; nothing at all for the two certain ones.
        assert abs(bits.double().mean().item() - p) <= 5 * math.sqrt(p * (1 - p) / n)


def test_binarizing_once_is_the_published_definition():
    images = torch.randint(256, (50, 1, 4, 4), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    before = torch.get_rng_state()
    bits = binarize_once(images)
    assert torch.equal(torch.get_rng_state(), before)
    uniform = np.random.RandomState(0).random_sample((50, 1, 4, 4))
    assert torch.equal(bits, torch.from_numpy(uniform * 255 < images.numpy()).to(torch.uint8))
    assert torch.equal(bits, binarize_once(images))
    assert not torch.equal(bits, binarize_once(images, seed=1))


def test_training_is_binarized_anew_and_evaluation_once(small_mnist):
    data = small_mnist(binarized=True, batch_size=20)
    data.prepare_data()
    batches = collect(data)
    grey = {tuple(image.flatten().tolist()) for image in data.train[0]}
    assert max(max(image) for image in grey) > 1  # intensities, until a batch is made of them

    by_image = []
    for images, labels, *_ in batches["train"]:
        data.spec.check(images)
        assert labels.sort().values.equal(data.train[1].sort().values)
        by_image.append({tuple(image.flatten().tolist()) for image in images})
    assert len(by_image) == 3
    assert by_image[0].isdisjoint(by_image[1])
    assert by_image[1].isdisjoint(by_image[2])

    validations = [torch.cat([images for images, *_ in batches["val"][i : i + 1]]) for i in range(3)]
    assert all(torch.equal(images, data.val[0]) for images in validations)
    assert torch.equal(batches["test"][0][0], data.test[0])
    again, plain = small_mnist(binarized=True), small_mnist()
    again.setup()
    plain.setup()
    assert torch.equal(again.test[0], data.test[0])
    assert torch.equal(again.val[0], data.val[0])
    assert torch.equal(data.test[0], binarize_once(plain.test[0]))


def test_grey_batches_are_the_images(small_mnist):
    data = small_mnist(batch_size=5)
    batches = collect(data, epochs=1)
    seen = torch.cat([images for images, *_ in batches["train"]])
    assert sorted(map(bytes, seen.flatten(1).numpy())) == sorted(map(bytes, data.train[0].flatten(1).numpy()))


# Larochelle's files


def amat(images):
    return "".join(" ".join(map(str, image)) + " \n" for image in images).encode()


@pytest.fixture
def fixed(tmp_path):
    random = np.random.default_rng(0)
    splits = {name: random.integers(0, 2, (n, 784)) for name, n in SmallMNIST.fixed_counts.items()}
    for name, images in splits.items():
        (tmp_path / f"binarized_mnist_{name}.amat").write_bytes(amat(images))
    return tmp_path, splits


def test_fixed_binarization_replaces_all_splits(fixed):
    folder, splits = fixed
    data = SmallMNIST("nowhere", fixed=str(folder), batch_size=5)
    assert data.spec == DataSpec((1, 28, 28), 2, 0)
    assert "Larochelle" in data.protocol
    batches = collect(data, epochs=2)
    for split, name in ((data.train, "train"), (data.val, "valid"), (data.test, "test")):
        data.spec.check(split[0])
        assert split[0].flatten(1).tolist() == splits[name].tolist()
        assert split.label is None
    for images, *_ in batches["train"]:
        assert sorted(images.flatten(1).tolist()) == sorted(splits["train"].tolist())


def test_a_checkpoint_says_that_its_images_were_binarized_once_and_for_all(fixed, monkeypatch):
    folder, splits = fixed
    config = SmallMNIST(fixed=str(folder)).config
    assert config["init_args"] == {"binarized": True, "fixed": True}, "and no folder"
    assert SmallMNIST(binarized=True).config["init_args"] == {"binarized": True}
    assert SmallMNIST(binarized=True, fixed=False).fixed is None
    root = folder / "root"
    root.mkdir()
    again = SmallMNIST(str(root), **config["init_args"])
    assert again.protocol == "Larochelle's fixed binarization"
    with pytest.raises(DataError, match=r"binarized_mnist_test\.amat cannot be read"):
        again.setup("test")
    (root / "binarized_mnist").mkdir()
    for file in folder.glob("*.amat"):
        file.rename(root / "binarized_mnist" / file.name)
    again.setup("test")
    assert again.test[0].flatten(1).tolist() == splits["test"].tolist()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-10],
        lambda text: text + b"0\n",
        lambda text: text.replace(b"1", b"2", 1),
        lambda text: text.replace(b"1", b"-", 1),
        lambda text: text.replace(b"\n", b" "),
        lambda text: b"",
        None,
    ],
    ids=["truncated", "too long", "a two", "a minus", "one line", "empty", "absent"],
)
def test_bad_fixed_files_are_refused(fixed, change):
    path = fixed[0] / "binarized_mnist_valid.amat"
    if change:
        path.write_bytes(change(path.read_bytes()))
    else:
        path.unlink()
    with pytest.raises(DataError) as error:
        SmallMNIST(fixed=str(fixed[0])).setup("fit")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


# Flips


def test_flips_mirror_half_of_the_training_images(tmp_path):
    images = torch.randint(256, (4000, 3, 2, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels = torch.arange(4000)
    torch.manual_seed(0)
    data = CIFAR10(str(tmp_path), flip=True)
    data.trainer = SimpleNamespace(training=True)
    mixed, same_labels, *_ = data.on_after_batch_transfer(Batch(images, labels), 0)
    assert torch.equal(labels, same_labels)
    mirrored = (mixed == images.flip(3)).flatten(1).all(1)
    kept = (mixed == images).flatten(1).all(1)
    assert bool((mirrored ^ kept).all())
    assert abs(mirrored.sum().item() - 2000) < 5 * math.sqrt(4000 / 4)

    data.trainer = SimpleNamespace(training=False)
    assert torch.equal(data.on_after_batch_transfer(Batch(images, labels), 0)[0], images)
    data = CIFAR10(str(tmp_path))
    data.trainer = SimpleNamespace(training=True)
    assert torch.equal(data.on_after_batch_transfer(Batch(images, labels), 0)[0], images)


def test_evaluation_sees_every_image_in_order(tmp_path):
    write(tmp_path / SmallCIFAR10.folder, CIFAR_FILES)
    data = SmallCIFAR10(str(tmp_path), validation=11, batch_size=4, eval_batch_size=3, flip=True)
    batches = collect(data, epochs=1)
    for stage in ("test", "predict"):
        assert torch.equal(torch.cat([images for images, *_ in batches[stage]]), data.test[0])
    seen = torch.cat([labels for _, labels, *_ in batches["val"]])
    # The trainer's two sanity batches come first.
    assert torch.equal(seen[-11:], data.val[1])


# Real data, where it is


def test_real_mnist(real_data):
    data = MNIST(real_data("MNIST/raw"), download=False)
    data.setup()
    images, labels = (torch.cat(pair) for pair in zip(data.train[:2], data.val[:2], strict=True))
    assert [len(split[0]) for split in (data.train, data.val, data.test)] == [55_000, 5_000, 10_000]
    assert labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.test[1].bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]
    # The mean and deviation everyone normalizes MNIST with.
    assert images.double().mean().item() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert images.double().std().item() / 255 == pytest.approx(0.3081, abs=5e-5)


def test_real_mnist_binarized(real_data):
    root = real_data("MNIST/raw")
    grey, data = MNIST(root, download=False), MNIST(root, download=False, binarized=True)
    grey.setup("test")
    data.setup("test")
    data.spec.check(data.test[0])
    p = grey.test[0].double() / 255
    error = math.sqrt((p * (1 - p)).sum().item()) / p.numel()
    assert abs(data.test[0].double().mean() - p.mean()) <= 5 * error


def test_real_fashion_mnist(real_data):
    data = FashionMNIST(real_data("FashionMNIST/raw"), download=False)
    data.setup()
    assert torch.cat([data.train[1], data.val[1]]).bincount().tolist() == [6000] * 10
    assert data.test[1].bincount().tolist() == [1000] * 10
    images = torch.cat([data.train[0], data.val[0]])
    assert images.double().mean().item() / 255 == pytest.approx(0.2860, abs=5e-5)


def test_real_cifar10(real_data):
    data = CIFAR10(real_data("cifar-10-batches-bin"), download=False)
    data.setup()
    images, labels = (torch.cat(pair) for pair in zip(data.train[:2], data.val[:2], strict=True))
    assert images.shape == (50_000, 3, 32, 32)
    assert labels.bincount().tolist() == [5000] * 10
    assert data.test[1].bincount().tolist() == [1000] * 10
    assert data.test[1][:4].tolist() == [3, 8, 8, 0]  # cat, ship, ship, airplane
    # The means everyone normalizes CIFAR-10 with, red, green, blue: the order of the planes is right.
    means = [images[:, c].double().mean().item() / 255 for c in range(3)]
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    # Neighbours along rows and columns are alike: the planes' shape is right.
    x = images[:1000].double()
    spread = x.std()
    assert (x[..., 1:] - x[..., :-1]).std() < 0.5 * spread
    assert (x[..., 1:, :] - x[..., :-1, :]).std() < 0.5 * spread
