"""The verbs that people know from elsewhere: from_pretrained, save_pretrained, push_to_hub."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_client import ROOT, fails, one_sentence
from torch import nn

import zoo
from zoo.autoregressive import PixelCNN, PixelRNN
from zoo.errors import CheckpointError
from zoo.hub import store
from zoo.hub.config import read_config
from zoo.model import GenerativeModel, Model
from zoo.spec import DataSpec

TOKEN = "hf_alice"


class Own(GenerativeModel):
    """A class of somebody's own."""

    def __init__(self, width: int, double: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec = DataSpec((width,), None)
        self.weight = nn.Parameter(torch.full((width,), 1 / 3, dtype=torch.float64 if double else torch.float32))


class Forgetful(Own):
    """One that keeps no arguments."""

    def __init__(self, width: int) -> None:
        GenerativeModel.__init__(self)
        self.spec = DataSpec((width,), None)
        self.weight = nn.Parameter(torch.zeros(width))


class Silent(GenerativeModel):
    """One that does not say what its data are."""


@pytest.mark.parametrize("cls", [PixelCNN, GenerativeModel, Model])
def test_a_model_of_the_class_is_loaded(cls, pristine):
    loaded = cls.from_pretrained(pristine, device="cpu")
    assert type(loaded) is PixelCNN
    assert not loaded.training
    assert type(zoo.from_pretrained(pristine)) is PixelCNN


def test_a_model_of_another_class_is_refused(pristine):
    with pytest.raises(CheckpointError, match="is a PixelCNN and no PixelRNN"):
        PixelRNN.from_pretrained(pristine)
    with pytest.raises(CheckpointError, match="not the"):
        Own.from_pretrained(pristine)


@pytest.mark.parametrize("double", [False, True])
def test_ones_own_class_is_saved_without_rounding(double, tmp_path):
    own = Own(3, double)
    folder = own.save_pretrained(tmp_path / "own-model", notes=["a note"])
    loaded = Own.from_pretrained(folder)
    assert torch.equal(loaded.weight, own.weight)
    assert loaded.weight.dtype == own.weight.dtype
    assert read_config(folder)["notes"] == ["a note"]
    with pytest.raises(CheckpointError, match="lies outside zoo"):
        Model.from_pretrained(folder)


def test_what_is_missing_to_be_saved_is_said(tmp_path):
    with pytest.raises(CheckpointError, match=r"Forgetful has not kept its argument width: call self\.save_hyperpar"):
        Forgetful(3).save_pretrained(tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"Silent does not say what its data are: set self\.spec"):
        Silent().save_pretrained(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_model_in_memory_is_published(client, server, pristine, repo_id, model):
    options = {"token": TOKEN, "commit_message": "First", "branch": "dev", "private": True, "notes": ["by hand"]}
    url = client("push_loaded", pristine, f"hf-hub:{repo_id}", **options)
    sha = server.repos[repo_id].branches["dev"]
    assert url == f"{server.endpoint}/{repo_id}/commit/{sha}"
    assert server.repos[repo_id].private
    files = server.files(repo_id, "dev")
    assert files.keys() == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    card = files["README.md"].decode()
    assert f'zoo.load("{repo_id}")' in card
    assert "by hand" in card
    folder = Path(client("pull", repo_id, revision="dev", token=TOKEN))
    loaded, once = store.load(folder), store.load(pristine)
    assert read_config(folder)["weights"]["dtype"] == "float32"
    for key, value in once.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    assert client("from_pretrained", repo_id, revision="dev", token=TOKEN).startswith("PixelCNN(")
    one_sentence(fails(client, "push_loaded", pristine, "no-namespace", token=TOKEN), "no-namespace")


def test_a_family_alone_has_the_verbs():
    """Whichever room is imported first, the face has been before."""
    code = (
        "from zoo.autoregressive import PixelCNN; import sys; assert 'zoo.hub.store' not in sys.modules; "
        "print(PixelCNN.from_pretrained('pixelcnn-digits').spec.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "(1, 8, 8)\n", done.stderr


def test_a_default_device_changes_nothing_of_what_is_loaded():
    usual = zoo.load("maf-moons").sample(3, seed=0)
    torch.set_default_device("meta")
    try:
        found = zoo.load("maf-moons").sample(3, seed=0)
    finally:
        torch.set_default_device(None)
    assert torch.equal(found, usual)
