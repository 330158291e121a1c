"""The contract, kept by every exported family and by a toy of each kind of data to come.

Each is trained, with the usual callbacks around it, exported, loaded, evaluated and put on a card; its resumed run is
the uninterrupted one, bit for bit; two processes are one; it can be built on the meta device; and the random numbers of
a datum are its own, whatever is drawn beside it. A toy (tests/toys)
brings its model, its data and its measurements in one file of its own, and no other file knows of it.
"""

from __future__ import annotations

import copy
import functools
import importlib
import os
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from tiny_runs import Patches, Stop, differences, fit, last, sealed

from zoo import metrics
from zoo.batch import as_batch
from zoo.callbacks import EMA, Compile, SampleGrid
from zoo.classes import class_path_of
from zoo.data import Digits, Points
from zoo.evaluation.measure import evaluate
from zoo.hub import card, store
from zoo.hub.config import read_config
from zoo.model import Model
from zoo.model.asking import can_sample, draws, needed
from zoo.nn.masked import visible_entries
from zoo.results import results_of
from zoo.training.export import export_run
from zoo.training.families import families

HERE = Path(__file__).resolve().parent
TOYS = sorted(file.stem for file in (HERE / "toys").glob("*.py") if re.search(r"^def toy\(", file.read_text(), re.M))

QUICK = {"lr": 1e-3, "warmup": 2}
UNET = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "dropout": 0.1}
BINARY, GREY, PLANE = {"shape": [1, 4, 4]}, {"shape": [1, 8, 8], "levels": 17}, {"shape": [2]}
SMALL = {"channels": 2, "multipliers": [1, 1], "blocks": 1, "attention": []}  # a U-Net
FAMILIES: dict[str, tuple[dict[str, Any], Any]] = {
    "autoregressive.DARN": ({**BINARY, "latent_dim": 3, "width": 4, **QUICK}, Patches),
    "autoregressive.EoNADE": ({**BINARY, "hidden": 4, "layers": 1, "orderings": 2, **QUICK}, Patches),
    "autoregressive.GatedPixelCNN": ({**GREY, "classes": 10, "channels": 2, "blocks": 1, **QUICK}, Digits),
    "autoregressive.MADE": ({**BINARY, "hidden": 8, "masks": 2, **QUICK}, Patches),
    "autoregressive.MultiScalePixelRNN": (
        {**GREY, "channels": 2, "layers": 1, "small_channels": 2, "small_layers": 1, **QUICK},
        Digits,
    ),
    "autoregressive.NADE": ({**BINARY, "hidden": 4, **QUICK}, Patches),
    "autoregressive.PixelCNN": ({**BINARY, "levels": 2, "channels": 2, "blocks": 1, **QUICK}, Patches),
    "autoregressive.PixelCNNPP": ({**GREY, "channels": 8, "blocks": 2, "mixtures": 2, **QUICK}, Digits),
    "autoregressive.PixelRNN": ({**BINARY, "levels": 2, "channels": 2, "layers": 1, **QUICK}, Patches),
    "diffusion.BinomialDiffusion": (
        {**BINARY, "timesteps": 6, "channels": 2, "multipliers": [1, 1], "blocks": 1, "steps": 4, **QUICK},
        Patches,
    ),
    "diffusion.DDPM": ({**GREY, "timesteps": 12, "steps": 4, **UNET, **QUICK}, Digits),
    "diffusion.Diffusion": ({**GREY, **SMALL, "timesteps": 6, "first": 8.0, "learned_betas": True, **QUICK}, Digits),
    "diffusion.EDM": ({**GREY, "classes": 10, "label_dropout": 0.2, "steps": 3, **UNET, **QUICK}, Digits),
    "diffusion.VDM": ({**GREY, **SMALL, "noise_schedule": "learned", "first": 8.0, **QUICK}, Digits),
    "flows.ContinuousFlow": ({**PLANE, "hidden": 4, "layers": 1, **QUICK}, Points),
    "flows.EnergyFlow": ({"energy": "energy2", "layers": 2, "warmup": 2}, lambda **a: Points("energy2", **a)),
    "flows.Glow": ({**GREY, "steps": 1, "channels": 4, "blocks": 1, **QUICK}, Digits),
    "flows.MAF": ({**PLANE, "layers": 2, "hidden": 4, **QUICK}, Points),
    "flows.NICE": ({**GREY, "channels": 4, "blocks": 1, **QUICK}, Digits),
    "flows.RealNVP": ({**GREY, "channels": 4, "blocks": 1, "couplings": 2, **QUICK}, Digits),
    "latent.FlowVAE": ({**BINARY, "latent_dim": 2, "layers": 1, "channels": 2, "hidden": 4, **QUICK}, Patches),
    "mixtures.GaussianMixture": ({**GREY}, Digits),
    "mixtures.Uniform": ({**GREY}, Digits),
    "adversarial.GAN": ({"shape": [2], "levels": None, "network": "mlp", "latent_dim": 2, "channels": 4}, Points),
    "adversarial.LAPGAN": ({**GREY, "scales": 2, "latent_dim": 2, "channels": 2}, Digits),
}
ENDS = {"mixtures.Uniform", "mixtures.GaussianMixture"}  # trained by epochs, not by steps
SLOW = {"adversarial.LAPGAN"}  # of many networks, each of which is traced for its compilation


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE / "toys"))
    monkeypatch.setattr(metrics, "Inception", lambda root: Pixels())
    with sealed(monkeypatch):
        yield


class Pixels(torch.nn.Module):
    """In place of Inception, whose file need not be there: the pixels themselves."""

    def forward(self, x):
        return x[:, 0].float().flatten(1) / 255


def made(name: str, batch_size: int = 8) -> tuple[Model, LightningDataModule]:
    """A tiny model and its data, anew; its weights are those of the seed that was set last."""
    sizes = {"batch_size": batch_size, "validation": 20}
    if name in TOYS:
        return importlib.import_module(name).toy(**sizes)
    arguments, data = FAMILIES[name]
    if data is Patches:
        sizes = {}
    elif data not in (Digits,):
        sizes |= {"train": 60, "test": 30}
    return families()[name](**arguments), data(**sizes)


def steps(name: str, n: int) -> dict[str, Any]:
    """The settings of a trainer that takes `n` steps, or a few epochs of those that are trained so."""
    return {"max_epochs": 3, "max_steps": -1, "limit_train_batches": 2} if name in ENDS else {"max_steps": n}


def train(folder: Path, name: str, *callbacks: Any, **settings: Any) -> Model:
    torch.manual_seed(1)
    model, data = made(name)
    return fit(folder, *callbacks, model=model, data=data, **settings)[0]


def test_every_exported_family_is_here():
    assert set(FAMILIES) == set(families())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in (*TOYS, *FAMILIES)]
)
def test_from_training_to_the_card(tmp_path, monkeypatch, name):
    torch._dynamo.reset()  # which gives up a function after so many models
    # What is traced runs as it is, for the compiler takes its time.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    around = [SampleGrid(n=2), EMA(0.9), Compile()]
    model = train(tmp_path / "run", name, *around, max_steps=25 if name in TOYS else 4, val_check_interval=4)
    assert all(getattr(model, network)._compiled_call_impl is not None for network in model.compiled)
    pictures = list((tmp_path / "run").glob("samples/*.png"))
    assert bool(pictures) == (draws(model) and model.spec.picture is not None)
    folder = export_run(tmp_path / "run", "toy-one", out=tmp_path / "toy-one", dtype="float32", cls=type(model))

    config = read_config(folder)
    assert config["class_path"] == class_path_of(type(model))
    assert config["spec"] == model.spec.config
    loaded = store.load(folder, cls=type(model))
    kept, visible = last(tmp_path / "run")["state_dict"], visible_entries(loaded)
    for key, tensor in loaded.state_dict().items():
        if "running_" in key or "num_batches" in key:
            continue  # measured anew, of the averaged weights
        shown = visible.get(key, torch.ones_like(tensor, dtype=torch.bool))
        assert torch.equal(tensor[shown], kept[key].to(tensor.dtype)[shown]), key

    _, data = made(name)
    assert config["data"]["title"] == data.title
    limit = 10 if name not in TOYS else None
    results = evaluate(loaded, data=data, limit=limit, device="cpu")
    assert results
    assert [each.config for each in evaluate(loaded, data=made(name)[1], limit=limit, device="cpu")] == [
        each.config for each in results
    ]
    store.save(loaded, folder, dtype="float32", data=config["data"], training=config["training"], results=results)
    again = read_config(folder)
    assert results_of(again) == results
    text = card.render(again, "toy-one")
    for each in results:
        assert each.written in text
        assert each.metric.unit in text
    if name in TOYS:
        toy = importlib.import_module(name)
        toy.check(loaded)
        assert {each.metric.name: each.kind for each in results} == toy.METRICS
        assert data.title in text


@pytest.mark.parametrize("name", [*TOYS, *FAMILIES])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, name):
    settings = steps(name, 6)
    train(tmp_path / "whole", name, EMA(0.9), **settings)
    train(tmp_path / "parts", name, EMA(0.9), Stop(3 if name not in ENDS else 1), **settings)
    train(tmp_path / "parts", name, EMA(0.9), ckpt_path=tmp_path / "parts" / "checkpoints" / "last.ckpt", **settings)
    assert list(differences(last(tmp_path / "whole"), last(tmp_path / "parts"))) == []


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """Both end with the same weights; of the toys, whose noise is that of the data, with those of one process.

    A model without weights, which DDP refuses, has nothing to train in several.
    """
    names = [*TOYS, *(name for name in FAMILIES if name != "mixtures.Uniform")]
    path = os.pathsep.join(map(str, [HERE.parent, HERE, HERE / "toys"]))
    loopback = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(HERE / "ddp_contract.py"), str(tmp_path), *names],
        env=os.environ | loopback | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert list(first) == list(second) == names
    for name, weights in first.items():
        torch.manual_seed(1)
        model, data = made(name)
        start = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
        assert weights.keys() == second[name].keys() == start.keys(), name
        for key, tensor in weights.items():
            assert tensor.isfinite().all(), (name, key)
            assert torch.equal(tensor, second[name][key]), (name, key)
        assert any(not torch.equal(weights[key], start[key]) for key in start), name
        if name in TOYS:
            fit(tmp_path / name, model=model, data=data, **steps(name, 5))
            for key, parameter in model.named_parameters():
                torch.testing.assert_close(weights[key], parameter.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*TOYS, *FAMILIES])
def test_it_can_be_built_on_the_meta_device(name):
    model, _ = made(name)
    with torch.device("meta"):
        shadow, _ = made(name)
    assert all(tensor.is_meta for tensor in shadow.state_dict().values())
    assert shapes(shadow) == shapes(model)


def shapes(model: Model) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Of all that is saved."""
    return {key: (tensor.shape, tensor.dtype) for key, tensor in model.state_dict().items()}


# -- random numbers --------------------------------------------------------------------------------------------------


def spread(name: str) -> tuple[Model, LightningDataModule]:
    """A model in float64 and evaluation mode whose weights, some of which begin at zero, all say something."""
    torch.manual_seed(1)
    model, data = made(name)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    data.prepare_data()
    data.setup("test")
    return model.double().eval(), data


def equal_draws(name: str, drawn: Any, expected: Any) -> None:
    if isinstance(drawn, torch.Tensor):
        # A continuous flow is solved for all data together, to a tolerance; all else is the same to the last bits.
        tolerance = 1e-3 if name == "flows.ContinuousFlow" else 1e-10
        torch.testing.assert_close(drawn, expected, rtol=0, atol=tolerance)
    else:
        assert len(drawn) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(drawn.nodes, expected.nodes, strict=True))


@pytest.mark.parametrize("name", [*TOYS, *FAMILIES])
def test_the_first_of_many_samples_are_those_of_few_in_chunks_of_any_size(name):
    model, data = spread(name)
    if not can_sample(model):
        pytest.skip("it does not draw")
    batch = as_batch(next(iter(data.test_dataloader()))).first(5)
    given = {key: getattr(batch, key) for key in needed(model.sample)}
    whole = model.sample(5, seed=0, **given)
    if isinstance(whole, torch.Tensor):
        assert len({str(row.tolist()) for row in whole}) > 1, "the data differ, or nothing is tested"
    equal_draws(name, model.sample(2, seed=0, **{key: value[:2] for key, value in given.items()}), whole[:2])
    for chunk in (1, 2, 4):
        model.chunk = chunk
        equal_draws(name, model.sample(5, seed=0, **given), whole)


@pytest.mark.parametrize("name", [*TOYS, *FAMILIES])
def test_a_trace_is_the_way_of_a_sample(name):
    model, _ = spread(name)
    if not hasattr(model, "trace"):
        pytest.skip("it draws at once")
    states, shape = model.trace(3, frames=4, seed=0), model.spec.shape
    assert states.shape == (4, 3, *shape)
    equal_draws(name, states[-1], model.sample(3, seed=0))
    equal_draws(name, model.trace(2, frames=2, seed=0), states[[0, -1], :2])
    model.spec.check(states.flatten(0, 1).to(model.sample(1, seed=0).dtype))
    assert model.trace(1).shape == (8, 1, *shape)


@pytest.mark.parametrize("name", [*TOYS, *FAMILIES])
def test_a_bound_does_not_depend_on_the_batch(name):
    model, _ = spread(name)
    if getattr(model, "likelihood", None) != "bound":
        pytest.skip("it has no bound")
    one, several = (evaluate(model, data=made(name, size)[1], limit=14, device="cpu", samples=2) for size in (20, 3))
    assert [each.value for each in one] == pytest.approx([each.value for each in several], rel=1e-9)
    values = []
    for size in (20, 3):
        trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.validate(model, made(name, size)[1], verbose=False)
        values.append(float(trainer.callback_metrics[f"val_{model.metric}"]))
    assert values[0] == pytest.approx(values[1], rel=1e-6)


@pytest.mark.parametrize("name", [*TOYS, *FAMILIES])
def test_it_can_be_pickled_and_copied(tmp_path, name):
    """As spawned processes and notebooks do; also after a run, which leaves its traces in a model."""
    model = train(tmp_path, name, **steps(name, 2))
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert type(other) is type(model)
        assert other.hparams == model.hparams
        assert list(differences({"state_dict": other.state_dict()}, {"state_dict": model.state_dict()})) == []
        if draws(model) and model.spec.kind != "graph":
            assert torch.equal(other.eval().sample(2, seed=3), model.eval().sample(2, seed=3))
