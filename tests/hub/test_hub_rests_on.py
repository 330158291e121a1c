"""A model that rests on another names it in its checkpoint, and is handed that very model."""

from __future__ import annotations

import copy
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from damage import read_config, write_config
from torch import Tensor, nn

from zoo import cli
from zoo.autoregressive import PixelCNN
from zoo.errors import CheckpointError, HubError, ZooError
from zoo.hub import building, card, finding, store
from zoo.model import GenerativeModel
from zoo.spec import DataSpec

BASE = "pixelcnn-tiny"


class Above(GenerativeModel):
    """Likelihoods of another model, less a constant that is learned.

    Args:
        below: name of that model's checkpoint.
        lr: peak learning rate.
        warmup: steps.
        weight_decay: of the weights.
    """

    def __init__(self, below: str | None = BASE, lr: float = 0.1, warmup: int = 0, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.rests_on = below
        self.spec = DataSpec((1, 8, 8), 17)
        self.constant = nn.Parameter(torch.zeros(()))

    def log_prob(self, x: Tensor) -> Tensor:
        return self.foundation.log_prob(x) - self.constant.square()

    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        return self.foundation.sample(n, seed=seed)


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """Where the bundled checkpoints are, one of them to rest on."""
    monkeypatch.setattr(finding, "BUNDLED", tmp_path / "checkpoints")
    torch.manual_seed(0)
    store.save(PixelCNN(shape=[1, 8, 8], levels=17, channels=2, blocks=1), finding.BUNDLED / BASE)
    return finding.BUNDLED


@pytest.fixture
def above(bundled):
    return store.save(Above(), bundled / "above-tiny", dtype="float32")


def load(folder: Path) -> GenerativeModel:
    return store.load(folder, cls=Above)


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_it_is_recorded_and_handed_over(above, bundled):
    config = read_config(above)
    assert config["rests_on"] == {"name": BASE, "sha256": read_config(bundled / BASE)["weights"]["sha256"]}
    base, model = store.load(BASE), load(above)
    x = model.sample(3, seed=0)
    assert torch.equal(x, base.sample(3, seed=0))
    assert torch.equal(model.log_prob(x), base.log_prob(x))
    assert not model.foundation.training


def test_models_that_rest_on_none_say_nothing(bundled):
    assert "rests_on" not in read_config(bundled / BASE)
    model = store.load(BASE)
    assert model.rests_on is None
    model.attach(None)  # nobody is asked


def test_its_weights_are_neither_saved_nor_trained(above):
    model = load(above)
    model.train()
    assert list(model.state_dict()) == [name for name, _ in model.named_parameters()] == ["constant"]
    assert not any(parameter.requires_grad for parameter in model.foundation.parameters())
    assert not model.foundation.training
    loss = model.loss(model.sample(2, seed=0)).mean()
    loss.backward()
    assert read_config(above)["weights"]["parameters"] == 1
    twin = copy.deepcopy(model)
    assert twin.foundation is not model.foundation


def test_it_follows_to_the_models_device(above):
    model = load(above)
    model.foundation.to(torch.float64)
    model.to("meta")
    with torch.inference_mode():
        assert model.foundation.device.type == "meta"
    assert not any(parameter.is_inference() for parameter in model.foundation.parameters())


def test_the_card_names_it(above, bundled):
    (digest,) = read_config(bundled / BASE)["weights"]["sha256"].values()
    assert f"- used with the weights of `{BASE}`, of SHA-256 `{digest}`" in card.render(
        read_config(above), "above-tiny"
    )


def test_one_that_was_not_handed_over():
    with pytest.raises(ZooError, match=r"Above rests on pixelcnn-tiny, .*: call attach\(zoo\.load\)\."):
        Above().sample(1)


def test_a_missing_one(above, bundled):
    shutil.rmtree(bundled / BASE)
    refused(above, f"above-tiny rests on {BASE}, which is not there", "no bundled checkpoint")
    with pytest.raises(CheckpointError, match="no bundled checkpoint"):
        store.save(Above(), above)


def test_a_changed_one(above, bundled):
    torch.manual_seed(1)
    store.save(PixelCNN(shape=[1, 8, 8], levels=17, channels=2, blocks=1), bundled / BASE)
    refused(above, f"made for other weights of {BASE}", "SHA-256 differ")


def test_a_damaged_one(above, bundled):
    with (bundled / BASE / "model.safetensors").open("ab") as file:
        file.write(b" ")
    refused(above, BASE, "is damaged")


@pytest.mark.parametrize("name", ["other-tiny", None])
def test_a_name_that_differs_from_the_arguments(above, name):
    config = read_config(above)
    config["rests_on"] = None if name is None else {**config["rests_on"], "name": name}
    write_config(above, config)
    refused(above, f"rests_on names {name!r}, but the model rests on 'pixelcnn-tiny'")


def test_a_name_where_the_model_rests_on_none(above, bundled):
    config = read_config(bundled / BASE)
    write_config(bundled / BASE, {**config, "rests_on": read_config(above)["rests_on"]})
    with pytest.raises(CheckpointError, match="rests_on names 'pixelcnn-tiny', but the model rests on None"):
        store.load(BASE)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((None, value) for value in ("x", 1, [], {}, True)),
        *(("name", value) for value in (None, 7, "", "/etc", "./x", "../x", "~", "a/b/c", "a b", "..", "https://a/b")),
        *(("sha256", value) for value in (None, {}, [], "0" * 64, {"model.safetensors": "0"}, {"../x": "0" * 64})),
    ],
)
def test_fields_of_the_wrong_kind(above, field, value):
    config = read_config(above)
    if field is None:
        config["rests_on"] = value
    else:
        config["rests_on"][field] = value
    write_config(above, config)
    refused(above, "config.json", f"rests_on.{field}" if field else "rests_on")


def test_a_path_is_no_name_to_publish(bundled):
    model = Above(below=str(bundled / BASE))
    model.attach(store.load)
    assert model.sample(1, seed=0).shape == (1, 1, 8, 8)
    with pytest.raises(CheckpointError, match=r"rests_on\.name must be a checkpoint's name"):
        store.save(model, bundled / "above-path")


@pytest.fixture
def anywhere(monkeypatch):
    """`Above` counts as a class of the zoo, that chains of it can be made."""
    resolve = building.resolve
    monkeypatch.setattr(building, "resolve", lambda path, cls=None: Above if "Above" in path else resolve(path, cls))


def test_one_that_rests_on_itself(above, bundled, anywhere):
    config = read_config(above)
    config["init_args"]["below"] = "above-tiny"
    config["rests_on"] = {"name": "above-tiny", "sha256": config["weights"]["sha256"]}
    write_config(above, config)
    refused(above, "above-tiny rests on above-tiny", "none on itself")
    other = Path(shutil.copytree(above, bundled / "above-other"))
    config["init_args"]["below"] = config["rests_on"]["name"] = "above-other"
    write_config(above, config)
    refused(above, "rests on above-tiny", "none on itself")  # by way of the other
    refused(other, "rests on above-other", "none on itself")


def test_a_chain_has_an_end(bundled, anywhere):
    names = [BASE, *(f"above-{k}" for k in range(store.MOST_BELOW + 1))]
    for below, name in pairwise(names[: store.MOST_BELOW + 1]):
        store.save(Above(below), bundled / name, dtype="float32")
    model = store.load(names[store.MOST_BELOW])
    assert torch.equal(model.sample(2, seed=0), store.load(BASE).sample(2, seed=0))
    with pytest.raises(CheckpointError, match=f"at most {store.MOST_BELOW} may"):
        store.save(Above(names[-2]), bundled / names[-1], dtype="float32")


def test_options_of_the_hub_reach_it(above, bundled, monkeypatch):
    seen = []

    def pull(name, **options):
        seen.append((name, options))
        raise HubError("There is no network.")

    monkeypatch.setattr(finding, "pull", pull)
    config = read_config(above)
    config["init_args"]["below"] = config["rests_on"]["name"] = "alice/pixelcnn-tiny"
    write_config(above, config)
    with pytest.raises(HubError):
        store.load(above, cls=Above, local_files_only=True, token="t")
    assert seen == [("alice/pixelcnn-tiny", {"revision": None, "local_files_only": True, "token": "t"})]


def test_a_run_is_handed_it(bundled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    quiet = ["--trainer.enable_model_summary=false", "--trainer.limit_val_batches=1", "--data.batch_size=4"]
    assert cli.main(["fit", "--model", f"{__name__}.Above", *options, *quiet]) in (0, None)
    saved = torch.load(tmp_path / "runs" / "unnamed" / "checkpoints" / "last.ckpt", weights_only=True)
    assert list(saved["state_dict"]) == ["constant"]
    assert saved["hyper_parameters"]["below"] == BASE
