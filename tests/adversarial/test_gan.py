"""Generators and critics: samples, turns, what holds a critic, and what stops a run."""

from __future__ import annotations

import csv
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from tiny_runs import FewDigits, Patches, Stop, differences, fit, last
from torch import nn

import zoo
from zoo import metrics
from zoo.adversarial import GAN
from zoo.callbacks.ema import EMA
from zoo.callbacks.speed import Compile
from zoo.data import Digits, Points
from zoo.errors import DataError, TrainingError
from zoo.evaluation import measure
from zoo.metrics.objectives import NAMES, distance
from zoo.training import cli as training
from zoo.training.export import export_run

HERE = Path(__file__).parent
KINDS = {
    "mlp": {"network": "mlp", "channels": 16},
    "mlp, labels": {"network": "mlp", "channels": 16, "classes": 10, "critic_norm": "spectral"},
    "dcgan": {"network": "dcgan", "channels": 4, "critic_norm": "batch"},
    "dcgan, labels": {"network": "dcgan", "channels": 4, "classes": 10, "critic_norm": "spectral"},
    "resnet": {"network": "resnet", "channels": 4, "critic_norm": "spectral"},
    "resnet, labels": {"network": "resnet", "channels": 4, "classes": 10, "critic_norm": "none"},
}


def gan(**arguments) -> GAN:
    """Of the digits, 8x8 with 17 levels; its weights are those of the seed that was set last."""
    usual = {"shape": [1, 8, 8], "levels": 17, "latent_dim": 6, "network": "mlp", "channels": 16}
    return GAN(**{**usual, **arguments})


def plane(**arguments) -> GAN:
    """Of points in the plane."""
    return GAN(**{"shape": [2], "levels": None, "network": "mlp", "latent_dim": 4, "channels": 32, **arguments})


def spread(model: GAN) -> GAN:
    """The same with larger weights in the generator, whose first samples would else all be of one level."""
    with torch.no_grad():
        for parameter in model.net.parameters():
            if parameter.ndim > 1 and model.hparams.network == "dcgan":
                parameter.mul_(20)
    return model


def digits(**arguments) -> Digits:
    return FewDigits(**{"batch_size": 16, "validation": 100, **arguments})


@pytest.fixture(params=KINDS, ids=str)
def kind(request):
    return spread(gan(**KINDS[request.param]))


# -- samples -------------------------------------------------------------------------------------------------


def test_samples_are_data(kind):
    x = kind.sample(5, seed=3)
    kind.spec.check(x)
    assert len(x) == 5
    assert x.float().std() > 0
    assert kind.training, "as it was"


def test_a_seed_means_the_same_samples_and_nothing_else(kind):
    state = torch.get_rng_state()
    x = kind.sample(3, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, kind.sample(3, seed=3))
    assert not torch.equal(x, kind.sample(3, seed=4))
    assert not torch.equal(kind.sample(3), kind.sample(3)), "without a seed, others each time"


def test_samples_do_not_depend_on_how_many_are_drawn_at_once():
    model = gan()
    z = model.latents(8, seed=0)
    model.chunk = 5
    torch.testing.assert_close(model.decode(z)[5:], model.decode(z[5:]))


@pytest.mark.parametrize("name", [name for name in KINDS if "labels" in name])
def test_labels_condition_the_samples(name):
    model = spread(gan(**KINDS[name]))
    for label in (3, [3] * 4, torch.tensor(3)):
        assert torch.equal(model.sample(4, seed=0, label=label), model.sample(4, seed=0, label=3))
    assert not torch.equal(model.sample(4, seed=0, label=3), model.sample(4, seed=0, label=4))
    for label in (10, -1, [1, 2], 1.5, "cat"):
        with pytest.raises(DataError, match=r"label (is|must be|has shape)|no class 'cat'"):
            model.sample(4, label=label)
    with pytest.raises(DataError, match=r"conditioned on labels: give one of 0\.\.9"):
        model.decode(model.latents(2))
    with pytest.raises(DataError, match="without classes: leave out the label"):
        gan().sample(4, label=3)


def test_interpolation_begins_and_ends_where_it_should(kind):
    start, end = kind.latents(2, seed=0), kind.latents(2, seed=1)
    label = [1, 2] if kind.spec.classes else None
    x = kind.interpolate(start, end, 5, label=label)
    assert x.shape == (2, 5, 1, 8, 8)
    assert torch.equal(x[:, 0], kind.decode(start, label))
    assert (x[:, -1].int() - kind.decode(end, label).int()).abs().max() <= 1, "rounding alone"


# -- turns ---------------------------------------------------------------------------------------------------


def steps(state: dict) -> list[int]:
    """Optimizer steps of the generator and of the critic, as their Adam counted them."""
    return [int(optimizer["state"][0]["step"]) for optimizer in state["optimizer_states"]]


@pytest.mark.parametrize(
    ("critic_steps", "generator_steps", "expected"), [(1, 1, [6, 6]), (3, 1, [6, 18]), (1, 3, [6, 2])]
)
def test_turns_are_taken_as_asked(tmp_path, critic_steps, generator_steps, expected):
    model = gan(critic_steps=critic_steps, generator_steps=generator_steps)
    fit(tmp_path, model=model, data=digits(), max_steps=6)
    state = last(tmp_path)
    assert steps(state) == expected
    assert state["global_step"] == 6, "a step is one of the generator"


@pytest.mark.parametrize("arguments", [{"critic_steps": 2}, {"generator_steps": 2}, {"critic_norm": "batch"}])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, arguments):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for folder, end in ((whole, None), (pieces, 5)):
        torch.manual_seed(1)
        model = gan(**{**KINDS["dcgan, labels"], "decay": True, **arguments})
        stop = [Stop(end)] if end else []
        fit(folder, EMA(0.9), *stop, model=model, data=digits(), max_steps=11)
    torch.manual_seed(2)
    model = gan(**{**KINDS["dcgan, labels"], "decay": True, **arguments})
    path = pieces / "checkpoints" / "last.ckpt"
    fit(pieces, EMA(0.9), model=model, data=digits(), max_steps=11, ckpt_path=path)
    assert not list(differences(last(whole), last(pieces)))
    assert last(whole)["global_step"] == 11


def test_the_rates_fall_to_zero_where_asked(tmp_path):
    rates = {}

    class Rates(Callback):
        def on_train_batch_end(self, trainer, *_):
            rates[trainer.global_step] = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]

    fit(tmp_path / "a", Rates(), model=gan(lr=1e-3, critic_lr=2e-3, decay=True), data=digits(), max_steps=10)
    assert rates[5] == pytest.approx([5e-4, 1e-3])
    assert rates[10] == pytest.approx([0, 0])
    fit(tmp_path / "b", Rates(), model=gan(lr=1e-3), data=digits(), max_steps=10)
    assert rates[10] == [1e-3, 1e-3]
    # Where epochs end the run, two batches are a step.
    model = gan(lr=1e-3, decay=True, critic_steps=2)
    fit(tmp_path / "c", Rates(), model=model, data=digits(), max_steps=-1, max_epochs=1, limit_train_batches=8)
    assert rates[4] == pytest.approx([0, 0])


@pytest.mark.parametrize("name", ["mlp", "dcgan", "resnet, labels"])
def test_in_16_bits_each_weight_learns_as_in_32(tmp_path, name):
    """Those that were cast without gradients, for the critic's samples, must not serve the generator's own step."""
    moved = {}
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        model = spread(gan(**KINDS[name]))
        before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
        fit(tmp_path / precision, model=model, data=digits(), max_steps=2, precision=precision)
        moved[precision] = {key: parameter.detach() - before[key] for key, parameter in model.named_parameters()}
    for key, exact in moved["32-true"].items():
        if exact.ndim > 1 and exact.norm() > 0:  # a bias before a batch normalization has no gradient but rounding
            assert torch.cosine_similarity(exact.flatten(), moved["bf16-mixed"][key].flatten(), dim=0) > 0.5, key


@pytest.mark.slow
def test_two_processes_have_the_same_weights(tmp_path):
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    loopback = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(HERE / "ddp_gan.py"), str(tmp_path)]
    done = subprocess.run(
        command, env=os.environ | loopback | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["weights"] == second["weights"]
    assert first["noise"] != second["noise"], "each draws its own samples"
    assert first["moved"]


# -- what is learned -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "arguments"),
    [
        (400, {"distance": "jensen_shannon", "critic_norm": "spectral"}),
        (200, {"distance": "wasserstein", "penalty": 0.1, "lr": 1e-3, "critic_lr": 4e-3}),
        (200, {"distance": "energy", "features": 4, "critic_norm": "spectral"}),
        (200, {"distance": "sinkhorn", "features": 4, "critic_norm": "spectral", "options": {"iterations": 5}}),
    ],
    ids=lambda value: value["distance"] if isinstance(value, dict) else str(value),
)
def test_it_comes_closer_to_its_data(tmp_path, steps, arguments):
    model = plane(**{"lr": 2e-3, **arguments})
    data = Points("moons", train=2000, validation=500, batch_size=64)
    data.setup("fit")
    before = metrics.energy_distance(model.sample(500, seed=0), data.val[0])
    fit(tmp_path, model=model, data=data, max_steps=steps)
    after = metrics.energy_distance(model.sample(500, seed=0), data.val[0])
    assert after < before / 4


# -- what holds a critic -------------------------------------------------------------------------------------


def test_clipped_weights_stay_clipped(tmp_path):
    model = gan(distance="wasserstein", clip=0.01)
    fit(tmp_path, model=model, data=digits(), max_steps=3)
    largest = max(parameter.abs().max().item() for parameter in model.critic.parameters())
    assert largest == pytest.approx(0.01)
    assert max(parameter.abs().max() for parameter in model.net.parameters()) > 0.01


@pytest.mark.parametrize("slope", [1.0, 3.0])
def test_the_penalty_is_zero_at_the_slope_of_one(slope):
    model = plane(distance="wasserstein", penalty=10.0)

    class Linear(nn.Module):
        def forward(self, x, label=None):
            return x @ torch.tensor([[0.6], [0.8]]) * slope

    model.critic = Linear()
    real, fake = torch.randn(5, 2), torch.randn(5, 2)
    found = model.gradient_penalty(real, fake, None, model.critic(real), model.critic(fake))
    torch.testing.assert_close(found, torch.tensor((slope - 1) ** 2))


def test_a_spectral_critic_has_slopes_of_at_most_one():
    model = plane(critic_norm="spectral", channels=8)
    for _ in range(50):
        model.critic(torch.randn(2, 2))  # each pass in training comes closer to the singular values
    x = (3 * torch.randn(200, 2)).requires_grad_()
    (slope,) = torch.autograd.grad(model.critic.eval()(x).sum(), x)
    assert slope.norm(dim=1).max() <= 1 + 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [({}, ("net", "critic")), ({"penalty": 1.0}, ("net",)), ({"critic_norm": "spectral"}, ("net", "critic"))],
    ids=["no penalty", "penalty", "spectral"],
)
def test_a_compiled_run_is_the_run(tmp_path, monkeypatch, arguments, parts):
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    runs = []
    for callbacks in ([], [Compile()]):
        torch.manual_seed(0)
        model = gan(network="resnet", distance="energy", features=3, critic_steps=2, **arguments)
        assert model.compiled == parts
        runs.append(fit(tmp_path, *callbacks, model=model, data=digits(), max_steps=3)[0])
    eager, compiled = (run.critic.state_dict() for run in runs)
    # It moves all features alike, and the generator has biases before batch normalization: such parameters have no
    # gradient but rounding, of which Adam makes whole steps.
    eager["head.linear.bias"] = compiled["head.linear.bias"]
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()


def test_both_losses_are_logged_when_lightning_reads_them(tmp_path):
    """Also that of the generator, which was trained some batches before."""
    logger = CSVLogger(tmp_path, name="", version="")
    settings = {"max_steps": 5, "logger": logger, "log_every_n_steps": 4, "limit_val_batches": 0}
    fit(tmp_path, model=gan(critic_steps=3), data=digits(), **settings)
    with open(tmp_path / "metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["train_distance"]]
    assert len(rows) == 15 // 4
    assert all(float(row["train_generator"]) > 0 for row in rows)


# -- what stops a run ----------------------------------------------------------------------------------------


def test_a_loss_without_a_value_stops_the_run(tmp_path):
    class Failing(GAN):
        def fake(self, real, batch):
            fake = super().fake(real, batch)
            return fake * torch.nan if self.global_step == 3 else fake

    model = Failing([1, 8, 8], 17, network="mlp", channels=8)
    with pytest.raises(TrainingError, match="optimizer step 4 is not finite"):
        fit(tmp_path, model=model, data=digits(), max_steps=10)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_collapsed_generator_stops_the_run(tmp_path):
    model = gan()
    with torch.no_grad():
        model.net.layers[-1].weight.zero_()
    model.net.layers[-1].weight.requires_grad_(False)
    with pytest.raises(TrainingError, match="All samples of optimizer step 1 are alike") as caught:
        fit(tmp_path, model=model, data=digits(), max_steps=10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"network": "transformer"}, "network must be one of mlp, dcgan, resnet, not 'transformer'"),
        ({"critic_norm": "layer"}, "critic_norm must be one of"),
        ({"critic_norm": "batch"}, "A perceptron's critic has no batch normalization"),
        ({"network": "resnet", "critic_norm": "batch"}, "A residual critic has no batch normalization"),
        ({"network": "dcgan", "critic_norm": "batch", "penalty": 1.0}, "needs critic_norm spectral or none"),
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"critic_steps": 2, "generator_steps": 2}, "must be 1, not 2 and 2"),
        ({"features": 4}, "takes one number of a critic"),
        ({"distance": "energy"}, "set features to more than 1"),
        ({"classes": 1}, "classes must be 0 or the number of labels"),
        ({"levels": 1}, "levels must be 2..256"),
        ({"clip": -1.0}, "clip must be 0 or positive"),
        ({"network": "dcgan", "shape": [2], "levels": None}, "shape must be"),
        ({"network": "dcgan", "levels": None}, "set network to mlp"),
        ({"network": "dcgan", "shape": [1, 30, 30]}, "cannot be halved 3 times"),
        ({"network": "resnet", "classes": 10, "latent_dim": 5}, "latent_dim must be a multiple of 2"),
        ({"distance": "far"}, "distance must be one of"),
    ],
)
def test_what_makes_no_model_is_refused(arguments, said):
    with pytest.raises(DataError, match=said):
        gan(**arguments)


def test_data_of_another_kind_are_refused(tmp_path):
    with pytest.raises(DataError, match="Patches gives image data of shape"):
        fit(tmp_path, model=gan(), data=Patches())
    with pytest.raises(DataError, match="has 10 classes, but the model is conditioned on 5"):
        fit(tmp_path, model=gan(classes=5), data=digits())


# -- published weights ---------------------------------------------------------------------------------------


def test_published_weights_draw_what_they_drew(kind, tmp_path):
    folder = zoo.save(kind, tmp_path / "gan-digits", dtype="float32")
    model = zoo.load(folder)
    label = 3 if kind.spec.classes else None
    assert torch.equal(model.sample(4, seed=0, label=label), kind.sample(4, seed=0, label=label))
    assert model.critic.state_dict().keys() == kind.critic.state_dict().keys(), "for fine-tuning"


@pytest.mark.parametrize("name", ["dcgan", "resnet, labels"])
def test_batch_normalization_settles_on_the_weights_as_they_are(name):
    model = gan(**KINDS[name])
    with torch.no_grad():  # as an average leaves them: the statistics are those of other weights
        for parameter in model.net.parameters():
            parameter.mul_(1.5)
    inside = []
    norm = next(module for module in model.net.modules() if isinstance(module, nn.BatchNorm2d))
    norm.register_forward_hook(lambda module, inputs, output: inside.append(inputs[0]))
    trained = model.training
    model.recalibrate_batch_norm()
    assert model.training == trained
    assert norm.momentum == 0.1
    inside.clear()
    model.sample(2000, seed=1)
    values = torch.cat(inside)
    torch.testing.assert_close(norm.running_mean, values.mean((0, 2, 3)), rtol=0.05, atol=0.05)
    torch.testing.assert_close(norm.running_var, values.var((0, 2, 3)), rtol=0.1, atol=0.0)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.recalibrate_batch_norm()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items()), "the same again"


def test_export_settles_and_has_no_best_by_likelihood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind = ["--model", "zoo.adversarial.GAN", "--model.shape=[1,8,8]", "--model.levels=17", "--model.channels=4"]
    run = ["--trainer.max_steps=30", "--trainer.accelerator=cpu", "--data", "zoo.data.Digits", "--data.batch_size=32"]
    run += ["--trainer.enable_model_summary=false"]
    training.main(["fit", *kind, *run])
    assert [path.name for path in Path("runs/unnamed/checkpoints").iterdir()] == ["last.ckpt"]
    training.main(["fit", *kind, *run, "--trainer.max_steps=35", "--ckpt_path=last"])
    assert steps(torch.load("runs/unnamed/checkpoints/last.ckpt", weights_only=True)) == [35, 35], "it went on"
    settled = []
    monkeypatch.setattr(GAN, "recalibrate_batch_norm", lambda self: settled.append(self))
    folder = export_run("runs/unnamed", "gan-digits", out=tmp_path / "gan-digits")
    assert len(settled) == 1
    assert zoo.load(folder).sample(2, seed=0).shape == (2, 1, 8, 8)


# -- how close they come -------------------------------------------------------------------------------------


class Pixels(nn.Module):
    """In place of Inception: the pixels themselves."""

    def forward(self, x):
        return x[:, 0].float().flatten(1) / 255


def test_zoo_evaluate_measures_fidelity(monkeypatch):
    monkeypatch.setattr(metrics, "Inception", lambda root: Pixels())
    model, data = gan(), digits()
    results = measure.evaluate(model, data=data)
    assert [result.metric.name for result in results] == ["fid", "kid", "precision", "recall"]
    data.setup("fit")
    images = torch.cat([data.train[0], data.val[0]])
    n = len(images)
    for result in results:
        assert (result.n, result.split, result.kind, result.limit) == (n, "train", "samples", False)
        assert f"{n:,} against {n:,} images; Inception v3" in result.protocol
        assert result.protocol.startswith("17 levels")
    ours, theirs = (
        (x.double() * (255 / 16)).round().float()[:, 0].flatten(1) / 255 for x in (model.sample(n, seed=0), images)
    )
    assert results[0].value == pytest.approx(float(metrics.frechet_distance(ours, theirs)), rel=1e-4)
    few = measure.evaluate(model, data=data, limit=20)
    assert (few[0].n, few[0].limit) == (20, True)


def test_points_are_measured_by_their_energy_distance():
    model, data = plane(), Points("moons", train=100, validation=50, test=300, batch_size=64)
    (result,) = measure.evaluate(model, data=data)
    exact = metrics.energy_distance(model.sample(300, seed=0).double(), data.test[0].double())
    assert result.value == pytest.approx(float(exact), rel=1e-6)
    assert (result.metric.name, result.n, result.split) == ("energy_distance", 300, "test")


def test_every_distance_fits_a_recipe():
    for name in NAMES:
        features = 8 if distance(name).features else 1
        GAN([3, 32, 32], channels=4, critic_norm="spectral", distance=name, features=features)
