"""`ImageFolder`: a folder of anybody's pictures becomes splits that stay, labels that do not shift, and images."""

from __future__ import annotations

import json
import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.cli import main
from zoo.data import ImageFolder, own_images
from zoo.errors import DataError
from zoo.hub.config import read_config
from zoo.hub.data import datamodule
from zoo.hub.store import load
from zoo.training.export import export_run


def picture(path, seed: int, shape=(4, 4), value: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (*shape, 3)).astype(np.uint8)
    Image.fromarray(pixels if value is None else np.full_like(pixels, value)).save(path)


def pictures(folder, n: int, first: int = 0, **arguments) -> None:
    for i in range(first, first + n):
        picture(folder / f"{i}.png", i, **arguments)


def folder(root, **arguments) -> ImageFolder:
    return ImageFolder(str(root), **{"size": 4, "batch_size": 2, **arguments})


def members(data: ImageFolder) -> dict[str, set]:
    """The images of each split."""
    data.setup()
    return {name: {tuple(x.flatten().tolist()) for x in getattr(data, name).x} for name in ("train", "val", "test")}


# -- layouts -------------------------------------------------------------------------------------------------


def test_classes_by_subfolder(tmp_path):
    for label, kind in enumerate(("cat", "dog", "owl")):
        for i in range(15):
            picture(tmp_path / kind / f"{i}.png", i + 100 * label, value=label * 80 + i)
    data = folder(tmp_path)
    data.setup()
    assert (data.spec.shape, data.spec.levels, data.spec.classes) == ((3, 4, 4), 256, 3)
    assert data.spec.class_names == ("cat", "dog", "owl")
    for part in (data.train, data.val, data.test):
        assert part.x.dtype == torch.uint8
        assert torch.equal(part.label, part.x[:, 0, 0, 0].long() // 80)
    assert sum(len(part.x) for part in (data.train, data.val, data.test)) == 45
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(data.train.x[batch.index], batch.x)


def test_pictures_without_classes(tmp_path):
    pictures(tmp_path, 20)
    data = folder(tmp_path)
    data.setup()
    assert (data.spec.classes, data.spec.class_names, data.train.label) == (0, None, None)


@pytest.mark.parametrize("name", ["val", "validation", "Valid"])
def test_folders_of_splits_are_the_splits(tmp_path, name):
    sizes = {"train": 7, name: 3, "test": 2}
    for k, (split, n) in enumerate(sizes.items()):
        pictures(tmp_path / split, n, first=10 * k)
    data = folder(tmp_path)
    data.setup()
    assert [len(part.x) for part in (data.train, data.val, data.test)] == [7, 3, 2]
    assert "by their hash" not in data.protocol


def test_a_class_that_is_missing_from_test_shifts_no_label(tmp_path):
    for split, kinds in (("train", ("ant", "bee", "cow")), ("test", ("ant", "cow", "dog"))):
        for kind in kinds:
            value = "abcd".index(kind[0]) * 10
            for i in range(6 if split == "train" else 1):
                picture(tmp_path / split / kind / f"{i}.png", 0, (4, 4 + i), value)
    (tmp_path / "test" / "bee").mkdir()
    data = folder(tmp_path)
    with pytest.warns(UserWarning, match=r"1 folders without a picture \(as test/bee\)"):
        data.setup()
    assert data.spec.class_names == ("ant", "bee", "cow", "dog")
    for part in (data.train, data.test):
        assert torch.equal(part.label, part.x[:, 0, 0, 0].long() // 10)
    assert data.test.label.tolist() == [0, 2, 3]


def test_a_class_called_train_is_one_among_others(tmp_path):
    for kind in ("car", "train"):
        pictures(tmp_path / kind, 8)
    assert folder(tmp_path).spec.class_names == ("car", "train")


def test_class_names_say_the_order_and_are_part_of_a_checkpoint(tmp_path):
    for kind in ("cat", "dog"):
        pictures(tmp_path / kind, 10, first=50 * (kind == "dog"))
    data = folder(tmp_path, class_names=["dog", "cat", "owl"])
    data.setup("fit")
    assert data.spec.class_names == ("dog", "cat", "owl")
    config = json.loads(json.dumps(data.config))
    assert str(tmp_path) not in json.dumps(config)
    again = datamodule(config, root=tmp_path)
    again.setup("fit")
    assert torch.equal(again.train.x, data.train.x)
    assert torch.equal(again.train.label, data.train.label)
    with pytest.raises(DataError, match="has the class 'cat', and class_names has 'dog'"):
        folder(tmp_path, class_names=["dog"]).setup("fit")


# -- splits by hash ------------------------------------------------------------------------------------------


def test_another_file_and_a_new_name_move_no_picture(tmp_path):
    pictures(tmp_path / "cat", 60)
    before = members(folder(tmp_path))
    assert all(before.values())
    pictures(tmp_path / "cat", 20, first=60)
    pictures(tmp_path / "dog", 20, first=80)
    (tmp_path / "cat" / "3.png").rename(tmp_path / "cat" / "zzz.png")
    after = members(folder(tmp_path))
    for split, images in before.items():
        assert images <= after[split], split
    assert sum(map(len, after.values())) == 100
    assert 3 <= len(after["test"]) <= 25


def test_copies_of_a_picture_are_on_one_side(tmp_path):
    pictures(tmp_path / "a", 50)
    pictures(tmp_path / "b", 50)
    parts = list(members(folder(tmp_path)).values())
    assert sum(map(len, parts)) == len(set.union(*parts)) == 50


@pytest.mark.parametrize("n", [3, 4, 5])
def test_few_pictures_are_shared_out_one_each(tmp_path, n):
    pictures(tmp_path, n)
    parts = members(folder(tmp_path))
    assert all(parts.values())
    assert sum(map(len, parts.values())) == n


def test_too_few_pictures(tmp_path):
    pictures(tmp_path, 2)
    with pytest.raises(DataError, match="has 2 pictures to train on, too few to hold some out for test and validation"):
        folder(tmp_path).setup("fit")


# -- what is left out ----------------------------------------------------------------------------------------


def test_what_is_left_out_is_said_once_with_its_number(tmp_path):
    pictures(tmp_path / "cat", 30)
    pictures(tmp_path / "dog", 30, first=30)
    pictures(tmp_path / "cat" / "kittens", 3, first=70)
    pictures(tmp_path, 2, first=80)
    for name in ("notes.txt", "Thumbs.db", ".hidden.png"):
        (tmp_path / "dog" / name).write_bytes(b"x")
    for i, content in enumerate((b"", b"no picture", (tmp_path / "cat" / "1.png").read_bytes()[:60])):
        (tmp_path / "dog" / f"bad{i}.png").write_bytes(content)
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    (tmp_path / "dog" / "gone.png").symlink_to("nowhere.png")
    data = folder(tmp_path)
    with pytest.warns(UserWarning, match="is left out") as caught:
        data.setup()
    assert len(caught) == 1
    said = str(caught[0].message)
    for part in (
        "2 of other endings (as dog/Thumbs.db)",
        "1 hidden (as dog/.hidden.png)",
        "1 folders in folders of classes (as cat/kittens)",
        "2 beside the folders of classes (as 80.png)",
        "2 no regular files (as dog/gone.png)",
        "3 unreadable (as dog/bad0.png cannot be read",
    ):
        assert part in said
    assert len(said) < 700
    assert sum(len(part.x) for part in (data.train, data.val, data.test)) == 60
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.setup()


@pytest.mark.parametrize(
    ("names", "complaint"),
    [(("0.heic", "1.HEIC"), "There is no picture to train on"), (("0.heic", "1.HEIC", "2.png"), "has 1 picture to")],
)
def test_of_too_few_pictures_it_is_said_what_was_left_out(tmp_path, names, complaint):
    for name in names:
        picture(tmp_path / f"{name}.png", int(name[0]))
        (tmp_path / f"{name}.png").rename(tmp_path / name)
    data = folder(tmp_path)
    said = r"is left out: 2 of other endings \(as 0\.heic\)"
    with pytest.warns(UserWarning, match=said), pytest.raises(DataError, match=complaint):
        data.setup("fit")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda root: None, "There is no folder /"),
        (lambda root: root.mkdir(), "There is no picture to train on in /"),
        (lambda root: root.write_text("x"), "There is no folder /"),
        (lambda root: (root / "train" / "a").mkdir(parents=True), "There is no picture to train on in"),
        (lambda root: pictures(root / "a" / "b", 3), "There is no picture to train on in"),
        (lambda root: [pictures(root / each, 3) for each in ("train", "val", "valid")], "both for validation: rename"),
        (lambda root: (root.mkdir(), (root / "x.png").write_text("x")), "has 1 picture to train on, too few"),
    ],
    ids=["absent", "empty", "a file", "no pictures", "too deep", "twice", "unreadable"],
)
def test_a_folder_without_pictures(tmp_path, make, complaint):
    make(tmp_path / "some")
    with pytest.raises(DataError, match=complaint) as error:
        folder(tmp_path / "some").setup("fit")
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


def test_without_a_folder_the_sentence_says_how_to_give_it():
    with pytest.raises(DataError, match=r"root \(--data.root, or --root to evaluate\) is their folder"):
        ImageFolder().setup("fit")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"size": 0}, "size must be of 1 to"),
        ({"size": [1, 10**6]}, "size must be of 1 to 32,768 pixels a side"),
        ({"class_names": "ab"}, "class_names must be a list of names, not 'ab'"),
        ({"held_out": "x"}, "held_out must be a share"),
        ({"channels": 2}, "channels must be 3 for colour or 1 for grey, not 2"),
        ({"levels": 257}, "levels of pictures must be 2 to 256, not 257"),
        ({"held_out": 0}, "held_out must be a share above 0 and below 0.5, not 0"),
        ({"held_out": 2000}, "not 2000"),
    ],
)
def test_bad_arguments(tmp_path, arguments, complaint):
    with pytest.raises(DataError, match=complaint):
        folder(tmp_path, **arguments)


def test_images_that_do_not_fit_into_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    pictures(tmp_path, 30)
    monkeypatch.setattr(own_images, "memory", lambda: 2 * 48 * 20)
    with pytest.raises(DataError, match=r"images of 4x4, more than half of the memory here.*: choose a smaller size"):
        folder(tmp_path).setup("fit")


# -- what images are -----------------------------------------------------------------------------------------


def test_grey_levels_and_sizes(tmp_path):
    for i in range(12):
        picture(tmp_path / f"{i}.png", i, (9 + i, 20), value=20 * i)
    data = folder(tmp_path, channels=1, levels=2, size=[3, 5])
    data.setup()
    x = torch.cat([data.train.x, data.val.x, data.test.x])
    assert x.shape == (12, 1, 3, 5)
    assert sorted(x.flatten(1).float().mean(1).tolist()) == [0.0] * 7 + [1.0] * 5
    data.spec.check(x)


def test_a_data_module_travels_to_another_process(tmp_path):
    pictures(tmp_path, 12)
    data = folder(tmp_path)
    assert data.spec.classes == 0
    again = pickle.loads(pickle.dumps(data))
    again.setup("test")
    data.setup("test")
    assert torch.equal(again.test.x, data.test.x)


# -- from the folder to a checkpoint -------------------------------------------------------------------------

RECIPE = """
model:
  class_path: zoo.autoregressive.GatedPixelCNN
  init_args: {shape: [3, 4, 4], levels: 256, classes: 2, channels: 12, blocks: 1, kernel_size: 3}
data:
  class_path: zoo.data.CIFAR10
  init_args: {batch_size: 4, validation: 2000, flip: true}
reference: {metric: bits_per_dim, value: 3.0, source: of CIFAR-10}
trainer: {max_steps: 2, accelerator: cpu, devices: 1, enable_progress_bar: false, logger: false}
"""


@pytest.mark.slow
def test_fine_tuning_on_a_folder_takes_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for kind in ("cat", "dog"):
        pictures(tmp_path / "pets" / kind, 15, first=50 * (kind == "dog"), shape=(6, 9))
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    own = ["--data", "zoo.data.ImageFolder", "--data.root", "pets", "--data.size", "4"]
    assert main(["fit", "--config", "tiny.yaml", *own]) == 0, capsys.readouterr().err
    start = export_run("runs/tiny", "tiny-pets", out=tmp_path / "tiny-pets")
    more = ["--from", "./tiny-pets", "--trainer.default_root_dir", "more"]
    assert main(["fit", "--config", "tiny.yaml", *more, *own]) == 0, capsys.readouterr().err
    tuned = export_run("more", "tuned-pets", out=tmp_path / "tuned-pets")

    config = read_config(tuned)
    assert config["training"]["from"]["name"] == start.name
    assert config["data"]["title"] == "pets"
    assert config["spec"]["class_names"] == ["cat", "dog"]
    assert config["reference"] is None, "the recipe's number is one of CIFAR-10"
    assert str(tmp_path) not in json.dumps(config)
    model = load(tuned)
    assert torch.equal(model.sample(2, label="dog", seed=0), model.sample(2, label=1, seed=0))

    capsys.readouterr()
    assert main(["evaluate", "./tuned-pets", "--device", "cpu"]) == 1
    assert "root (--data.root, or --root to evaluate) is their folder" in capsys.readouterr().err
    assert main(["evaluate", "./tuned-pets", "--root", "pets", "--device", "cpu", "--write"]) == 0
    assert "pets" in (tuned / "README.md").read_text()
    assert main(["sample", "./tuned-pets", "--label", "dgo", "--out", "x.png"]) == 1
    assert "There is no class 'dgo': close to it is dog." in capsys.readouterr().err
    assert main(["sample", "./tuned-pets", "--label", "dog", "-n", "2", "--out", "x.png"]) == 0
