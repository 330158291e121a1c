"""Classes by their names: of each data set, in a checkpoint's config.json, and where a label is asked for."""

from __future__ import annotations

import json

import pytest
import torch

import zoo.data
from zoo.classes import CLASS_NAMES
from zoo.cli import main
from zoo.data import CIFAR10, MNIST, Digits
from zoo.errors import CheckpointError
from zoo.hub.config import CONFIG, read_config, spec_of
from zoo.hub.finding import config_of, find
from zoo.hub.store import load


@pytest.mark.parametrize("path", CLASS_NAMES)
def test_a_data_set_names_its_classes(path):
    data = getattr(zoo.data, path.rpartition(".")[2])()
    assert data.spec.class_names == CLASS_NAMES[path]
    assert len(set(CLASS_NAMES[path])) == data.spec.classes


def test_names_are_in_the_order_of_the_labels():
    assert CIFAR10().spec.class_names.index("horse") == 7
    assert Digits().spec.labels("3", 1).tolist() == [3]
    assert MNIST(fixed=True).spec.class_names is None, "those have no labels"


def test_a_published_checkpoint_of_before_knows_the_names_of_its_data():
    config = config_of("biggan-cifar10")
    assert "class_names" not in config["spec"]
    assert spec_of(config).class_names == CLASS_NAMES["zoo.data.CIFAR10"]
    assert spec_of({**config, "data": None}).class_names is None
    assert spec_of({**config, "data": {"class_path": "zoo.data.BreastCancer"}}).class_names is None, "of other number"
    assert spec_of(config_of("pixelcnn-cifar10")).class_names is None, "it takes no labels"


@pytest.mark.slow
def test_a_label_is_given_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = load("biggan-cifar10")
    horse = model.sample(2, label=7, seed=0)
    assert torch.equal(model.sample(2, label="horse", seed=0), horse)
    assert torch.equal(model.sample(2, label=["horse", "7"], seed=0), horse)
    assert torch.equal(model.decode(model.latents(2, seed=0), "horse"), horse)
    for label, name in (("horse", "a"), ("7", "b")):
        assert (
            main(["sample", "biggan-cifar10", "--label", label, "-n", "2", "--seed", "0", "--out", f"{name}.png"]) == 0
        )
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    capsys.readouterr()
    assert main(["sample", "biggan-cifar10", "--label", "hrose", "--out", "c.png"]) == 1
    assert capsys.readouterr().err == "zoo: There is no class 'hrose': close to it is horse.\n"
    with pytest.raises(SystemExit):
        main(["sample", "biggan-cifar10", "--help"])
    assert "Classes: airplane, automobile" in " ".join(capsys.readouterr().out.split())


def changed(tmp_path, **spec):
    """The folder of a checkpoint, whose config.json says something else of its data."""
    config = json.loads((find("biggan-cifar10") / CONFIG).read_text())
    config["spec"] |= spec
    (tmp_path / CONFIG).write_text(json.dumps(config))
    return tmp_path


def test_names_in_a_config_are_those_of_the_checkpoint(tmp_path):
    names = [f"kind {i}" for i in range(10)]
    assert spec_of(read_config(changed(tmp_path, class_names=names))).class_names == tuple(names)


def test_a_name_in_a_config_does_not_move_the_cursor(tmp_path):
    names = [*"abcdefghi", "\x1b]0;x\x07"]
    assert "".join(spec_of(read_config(changed(tmp_path, class_names=names))).class_names).isprintable()


@pytest.mark.parametrize(
    "names",
    [
        ["a"],
        ["a"] * 10,
        [*"abcdefghi", "x" * 10_000],
        [*"abcdefghi", 1],
        {"a": 1},
        "abcdefghij",
        3,
    ],
)
def test_a_strangers_names_are_refused_in_a_sentence(tmp_path, names):
    with pytest.raises(CheckpointError, match="spec is none of data") as error:
        read_config(changed(tmp_path, class_names=names))
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()
