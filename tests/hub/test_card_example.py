"""The example on a card runs as it is pasted, for every bundled checkpoint and under the name that it was pushed by."""

from __future__ import annotations

import os
import re
import warnings

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

import zoo
from zoo.autoregressive import GatedPixelCNN
from zoo.data import Digits
from zoo.hub import card, finding, store
from zoo.hub.config import read_config

FOLDERS = {
    "AnimeFaces": "anime-faces64",
    "CIFAR10": "cifar-10-batches-bin",
    "MNIST": "MNIST/raw",
    "FashionMNIST": "FashionMNIST/raw",
}


def code(text: str, language: str = "python") -> str:
    """The one block of a language on a card."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return block


def data_of(name: str) -> str | None:
    """The folder of the files that the example of a checkpoint needs."""
    used = re.search(r"from zoo\.data import (\w+)", card.render(read_config(finding.find(name)), name))
    return FOLDERS.get(used[1]) if used else None


# All but those of points and digits take seconds, or need files: of these one of each kind of example is run, and with
# ZOO_EXAMPLES=all every one.
QUICK = {"maf-moons", "planar-energy1", "radial-energy4", "maf-breast-cancer", "pixelcnn-digits"}
KINDS = {"biggan-cifar10", "continuous-moons", "dcgan-fashion-mnist", "gaussian-cifar10", "made-mnist", "nice-cifar10"}
RUN = finding.names() if os.environ.get("ZOO_EXAMPLES") == "all" else sorted(QUICK | KINDS)


@pytest.mark.parametrize("name", finding.names())
def test_every_example_is_python_and_names_its_checkpoint(name):
    example = code((finding.find(name) / "README.md").read_text(encoding="utf-8"))
    compile(example, name, "exec")
    assert f'zoo.load("{name}")' in example


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in RUN])
def test_the_example_runs_as_pasted(name, tmp_path, monkeypatch, capsys, real_data):
    if data_of(name):
        real_data(data_of(name))
    if name.startswith("continuous"):
        pytest.importorskip("torchdiffeq", reason="continuous flows need it")
    text = (finding.find(name) / "README.md").read_text(encoding="utf-8")
    # Fewer images and points: drawing pixel by pixel, and a mean over orderings, take their time.
    example = code(text)
    for given, fewer in (("sample(16,", "sample(1,"), ("sample(10000,", "sample(100,"), (".x[:8]", ".x[:2]")):
        example = example.replace(given, fewer)
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    # What is kept for a gradient, which nobody asks for, is gigabytes for the larger models.
    kept: list = []
    keeping = torch.autograd.graph.saved_tensors_hooks(kept.append, lambda each: each)
    with torch.random.fork_rng(devices=[]), keeping:
        exec(compile(example, name, "exec"), namespace)
    if "x" in namespace:  # a critic with spectral norms keeps something while it is made
        assert not kept
    spec = namespace["model"].spec
    spec.check(namespace["samples"])
    if spec.picture:
        assert min(Image.open(tmp_path / f"{name}.png").size) >= 60
    assert ("print(" in example) == ("x" in namespace)
    if "x" in namespace:
        assert len(namespace["x"]) == 2
        assert "tensor(" in capsys.readouterr().out
    assert re.search(r"^pip install -e ", text, flags=re.MULTILINE)


def test_a_model_of_classes_is_asked_for_one_and_loaded_by_the_name_it_was_pushed_by(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = GatedPixelCNN(shape=[1, 8, 8], levels=17, classes=10, channels=2, blocks=1)
    folder = store.save(model, tmp_path / "gated-mine", data=Digits().config)
    text = card.render(read_config(folder), "alice/gated-theirs")
    assert 'zoo.load("alice/gated-theirs")' in text
    assert "label=" in code(text)
    assert "levels=17" in code(text)
    load = zoo.load
    monkeypatch.setattr(zoo, "load", lambda name: load({"alice/gated-theirs": folder}[name]), raising=False)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        exec(code(text), {})
    assert (tmp_path / "gated-theirs.png").is_file()


@pytest.mark.parametrize("name", finding.names())
def test_the_hub_reads_the_front_matter_of_each_card(name):
    text = (finding.find(name) / "README.md").read_text(encoding="utf-8")
    data = ModelCard(text).data
    assert (data.license, data.library_name, data.model_name) == ("mit", "generative-zoo", name)
    assert len(data.eval_results) == len(read_config(finding.find(name))["results"])
    assert all(result.metric_value is not None for result in data.eval_results)
    for section in ("## Use", "## Numbers", "## Intended use and limits", "## Training", "## Weights"):
        assert f"\n{section}\n" in text
    papers = read_config(finding.find(name))["papers"]
    assert ("\n## Paper\n" in text) == bool(papers)
    assert text.count("\n@") == len(papers)
    assert "icence of the training data" in text or "no licence and nobody's privacy" in text
