"""The contract of every model: what it can do, in which unit, and how it is trained."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from tiny_runs import BATCH, VALIDATION, Patches, fit, last, patch_model, sealed
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.callbacks.run import SaveLast
from zoo.data import Digits, Table
from zoo.errors import DataError, TrainingError, ZooError
from zoo.model import GenerativeModel
from zoo.spec import DataSpec


@pytest.fixture(autouse=True)
def _untouched(monkeypatch):
    """Neither the global random state nor the seed in the environment outlive a test."""
    with sealed(monkeypatch):
        yield


class Noisy(GenerativeModel):
    """Its bound, its loss and its weight depend on random numbers; it notes those it draws in training."""

    def __init__(self, levels: int = 2, lr: float = 0.1, warmup: int = 4, weight_decay: float = 0.3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec = DataSpec((1, 4, 4), levels)
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.matrix = torch.nn.Parameter(torch.ones(2, 2))
        self.drawn: list[float] = []

    def elbo(self, x: Tensor, *, samples: int = 1, seed: int | None = None) -> Tensor:
        """Any number for each datum."""
        noise = torch.rand(len(x))
        if self.training:
            self.drawn.append(noise[0].item())
        return -(x.float().flatten(1).mean(1) + noise) * (self.scale + self.matrix.sum())


class Exact(Noisy):
    """Both a density and a bound."""

    def log_prob(self, x: Tensor) -> Tensor:
        """-1, -2, ..."""
        return -torch.arange(1, len(x) + 1).float()


class Sampler(GenerativeModel):
    """Neither."""

    spec = DataSpec((1, 4, 4), 256)


# -- likelihood ----------------------------------------------------------------------------------------------


def test_a_model_says_what_it_can_do():
    exact, bound, neither = Exact(), Noisy(), Sampler()
    assert [m.likelihood for m in (exact, bound, neither)] == ["exact", "bound", None]
    assert [hasattr(m, "log_prob") for m in (exact, bound, neither)] == [True, False, False]
    x = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    for name in ("bits_per_dim", "negative_log_likelihood"):
        assert [hasattr(m, name) for m in (exact, bound, neither)] == [True, True, False]
    with pytest.raises(ZooError, match="Sampler has no likelihood"):
        neither.loss(x)
    with pytest.raises(ZooError, match="Sampler cannot be sampled"):
        neither.sample(3)


@pytest.mark.parametrize(("levels", "metric"), [(2, "nats"), (256, "bits_per_dim"), (None, "nats")])
def test_units(levels, metric):
    model = Exact(levels)
    x = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    nats = torch.tensor([1.0, 2.0, 3.0])
    assert model.metric == metric
    assert torch.equal(model.negative_log_likelihood(x), nats), "the density goes before the bound"
    torch.testing.assert_close(model.bits_per_dim(x), nats / (16 * math.log(2)))
    torch.testing.assert_close(model.loss(x), nats if metric == "nats" else nats / (16 * math.log(2)))


def test_a_generator_is_private():
    state = torch.get_rng_state()
    first, again, other = (torch.rand(4, generator=GenerativeModel.generator(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    unseeded = [torch.rand(4, generator=GenerativeModel.generator(None)) for _ in range(2)]
    assert not torch.equal(*unseeded)
    assert torch.equal(torch.get_rng_state(), state)


# -- validation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_drawing_is_in_evaluation_mode_and_leaves_each_module_as_it_was(training):
    model = Noisy().train(training)
    model.part = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout().eval()).eval()
    model.part[0].train()
    before, threads = [module.training for module in model.modules()], torch.get_num_threads()
    with model.sampling_mode(cached=True):
        assert not any(module.training for module in model.modules())
        assert torch.get_num_threads() == 1
    assert [module.training for module in model.modules()] == before
    assert torch.get_num_threads() == threads


def test_validation_is_the_mean_over_the_split(tmp_path):
    data = Patches()
    model, trainer = fit(tmp_path, data=data, max_steps=10)
    images = data.val.x
    assert len(images) == VALIDATION, "in batches of 3, 2 and 2: a mean of means would differ"
    with torch.no_grad():
        expected = -model.eval().log_prob(images).double().mean()
    assert trainer.callback_metrics["val_nats"].item() == pytest.approx(expected.item(), rel=1e-6)

    (result,) = trainer.test(model, datamodule=data, verbose=False)
    with torch.no_grad():
        expected = -model.log_prob(data.test[0]).double().mean()
    assert result == {"test_nats": pytest.approx(expected.item(), rel=1e-6)}
    losses = torch.cat(trainer.predict(model, datamodule=data))
    assert losses.mean().item() == pytest.approx(expected.item(), rel=1e-6)


def test_nan_shows_as_nan(tmp_path):
    model = patch_model()
    value = {True: 1.0, False: torch.nan}
    model.log_prob = lambda x: model.net.row_bias.sum() * torch.full((len(x),), value[model.training])
    _, trainer = fit(tmp_path, model=model, max_steps=10)
    assert math.isnan(trainer.callback_metrics["val_nats"])


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (Digits(), r"Digits gives image data of shape \[1, 8, 8\] with 17 levels, but the model takes"),
        (Patches(binarized=False), "with 256 levels, but the model takes .* with 2 levels"),
    ],
    ids=["shape", "levels"],
)
def test_data_of_another_kind_is_refused(tmp_path, data, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        fit(tmp_path, data=data)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "checkpoints").exists()


# -- what stops a run ----------------------------------------------------------------------------------------


class Failing(Noisy):
    """Its loss has no value at one step."""

    def __init__(self, at: int, value: float) -> None:
        super().__init__()
        self.at, self.value = at, value

    def elbo(self, x: Tensor, *, samples: int = 1, seed: int | None = None) -> Tensor:
        """Any number for each datum, but at one step."""
        bound = super().elbo(x)
        return bound * self.value if self.training and self.global_step == self.at else bound


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_without_a_value_stops_the_run_and_harms_nothing(tmp_path, value):
    model = Failing(3, value)
    weights = []

    class Keep(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            weights.append(pl_module.scale.detach().clone())

    with pytest.raises(TrainingError, match=r"optimizer step 4 is not finite: lower the learning rate") as caught:
        fit(tmp_path, Keep(), SaveLast(every_n_steps=1), model=model, max_steps=10)
    assert "\n" not in str(caught.value)
    assert torch.equal(model.scale, weights[2])
    state = last(tmp_path)
    assert state["global_step"] == 3
    assert torch.equal(state["state_dict"]["scale"], weights[2])


def test_nothing_is_saved_before_its_loss_was_looked_at():
    model = Noisy()
    event = SimpleNamespace(query=lambda: False, synchronize=lambda: None)  # of a GPU that is not so far
    model._watched.extend([(torch.tensor(True), event, "step 1"), (torch.tensor(False), event, "step 2")])
    with pytest.raises(TrainingError, match="step 2"):
        model.on_save_checkpoint({})
    model.on_save_checkpoint({})


def test_nan_in_a_batch_is_refused(tmp_path):
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}.npy", rows)
    data = Table("train.npy", "test.npy", levels=None, root=str(tmp_path), batch_size=8)
    data.setup("fit")
    data.train[0][:8, 1] = torch.nan  # at most four rows sit out an epoch
    model = Noisy()
    model.spec = DataSpec((3,), None)
    with pytest.raises(DataError, match="a training batch holds NaN or infinite values"):
        fit(tmp_path, data=data, model=model, max_epochs=1, max_steps=-1)
    assert torch.isfinite(model.scale)


class Stranger(LightningDataModule):
    """Images of a stranger's loader, which says nothing of them."""

    def __init__(self, largest: int) -> None:
        super().__init__()
        self.images = torch.full((16, 1, 4, 4), largest, dtype=torch.uint8)

    def train_dataloader(self) -> DataLoader:
        """Batches of eight."""
        return DataLoader(self.images, 8)


def test_levels_that_a_model_has_not_are_refused_in_a_strangers_batch(tmp_path):
    with pytest.raises(DataError, match=r"a training batch has values 7\.\.7; this model takes 0\.\.1"):
        fit(tmp_path, data=Stranger(7), max_steps=1)
    fit(tmp_path, data=Stranger(1), max_steps=1)


# -- optimizer -----------------------------------------------------------------------------------------------


class Rates(Callback):
    """Notes the learning rate of each optimizer step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"max_steps": 25}, 25),
        ({"max_epochs": 2, "max_steps": -1}, 20),
        ({"max_epochs": 2, "max_steps": 1000}, 20),
        ({"max_epochs": 3, "max_steps": -1, "accumulate_grad_batches": 2}, 15),
        ({"max_steps": 2}, 2),
    ],
)
def test_warm_up_then_cosine_to_zero_at_the_last_step(tmp_path, settings, steps):
    rates = Rates()
    fit(tmp_path, rates, model=Noisy(lr=0.1, warmup=4), **settings)
    t = torch.arange(steps, dtype=torch.float64)
    cosine = 0.5 * (1 + torch.cos(math.pi * ((t - 4) / max(1, steps - 4)).clamp(max=1)))
    expected = 0.1 * torch.where(t < 4, (t + 1) / 4, cosine)
    torch.testing.assert_close(torch.tensor(rates.rates, dtype=torch.float64), expected)


def test_no_warm_up(tmp_path):
    rates = Rates()
    fit(tmp_path, rates, model=Noisy(lr=0.1, warmup=0), max_steps=3)
    assert rates.rates == pytest.approx([0.1, 0.075, 0.025])


class Held(Noisy):
    """Whose rate is held for a share of the steps."""

    def __init__(self, hold: float, lr: float = 0.1, warmup: int = 4, weight_decay: float = 0.0) -> None:
        super().__init__(lr=lr, warmup=warmup, weight_decay=weight_decay)
        self.save_hyperparameters()


def test_a_rate_is_held_before_it_falls(tmp_path):
    """For a third of the 21 steps after the warm-up, and then along half a cosine over the other 14."""
    rates = Rates()
    fit(tmp_path, rates, model=Held(1 / 3), max_steps=25)
    t = torch.arange(25, dtype=torch.float64) - 4
    cosine = 0.5 * (1 + torch.cos(math.pi * (t - 7).clamp(min=0) / 14))
    expected = 0.1 * torch.where(t < 0, (t + 5) / 4, cosine)
    torch.testing.assert_close(torch.tensor(rates.rates, dtype=torch.float64), expected)
    free, never = Rates(), Rates()
    fit(tmp_path, free, model=Noisy(lr=0.1, warmup=4), max_steps=9)
    fit(tmp_path, never, model=Held(0.0), max_steps=9)
    assert free.rates == never.rates
    for hold in (1.0, -0.1):
        with pytest.raises(DataError, match="hold must be"):
            fit(tmp_path, model=Held(hold), max_steps=1)


def test_weight_decay_is_for_matrices(tmp_path):
    _, trainer = fit(tmp_path, model=Noisy(weight_decay=0.3), max_steps=1)
    groups = trainer.optimizers[0].param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert [p.ndim for group in groups for p in group["params"]] == [2, 0]


class Layers(Noisy):
    """All kinds of parameters: weights of layers, tables, norms and biases."""

    def __init__(self, optimizer: str = "muon", lr: float = 0.01, warmup: int = 0, weight_decay: float = 0.3) -> None:
        super().__init__(lr=lr, warmup=warmup, weight_decay=weight_decay)
        self.save_hyperparameters()
        self.conv = torch.nn.Conv2d(1, 4, 3)
        self.norm = torch.nn.GroupNorm(2, 4)
        self.table = torch.nn.Embedding(3, 4)
        self.linear = torch.nn.Linear(4, 4)

    def elbo(self, x: Tensor, *, samples: int = 1, seed: int | None = None) -> Tensor:
        """A network of each of them."""
        h = self.norm(self.conv(x.float())).mean((2, 3)) + self.table.weight[1]
        return super().elbo(x) - self.linear(h).square().mean(1)


def test_muon_takes_the_weights_of_layers(tmp_path):
    model = Layers()
    before = {name: value.clone() for name, value in model.named_parameters()}
    _, trainer = fit(tmp_path, model=model, max_steps=2)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = trainer.optimizers[0].param_groups
    found = [(g["orthogonal"], g["weight_decay"], sorted(names[p] for p in g["params"])) for g in groups]
    assert found == [
        (True, 0.3, ["conv.weight", "linear.weight"]),
        (False, 0.3, ["matrix", "table.weight"]),
        (False, 0.0, ["conv.bias", "linear.bias", "norm.bias", "norm.weight", "scale"]),
    ]
    assert all((value != before[name]).any() for name, value in model.named_parameters())


def test_an_unknown_optimizer_is_refused(tmp_path):
    with pytest.raises(DataError, match="optimizer must be adamw or muon, not 'sgd'"):
        fit(tmp_path, model=Layers(optimizer="sgd"), max_steps=1)


class Norm(Callback):
    """Notes the norm of the gradient as the optimizer gets it."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if grads:
            self.norms.append(torch.cat([grad.flatten() for grad in grads]).norm().item())


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped_as_the_trainer_says(tmp_path, algorithm):
    free, clipped = Norm(), Norm()
    fit(tmp_path, free, max_steps=4)
    fit(tmp_path, clipped, max_steps=4, gradient_clip_val=1e-3, gradient_clip_algorithm=algorithm)
    assert min(free.norms) > 0.1
    if algorithm == "norm":
        assert clipped.norms == pytest.approx([1e-3] * len(clipped.norms), rel=1e-2)
    else:
        entries = sum(p.numel() for p in patch_model().parameters())
        assert max(clipped.norms) <= 1e-3 * math.sqrt(entries)


# -- noise ---------------------------------------------------------------------------------------------------


def test_noise_depends_on_seed_rank_and_batches_before(tmp_path, monkeypatch):
    """Not on validation, nor on anything else that draws from the global random state."""
    plain, _ = fit(tmp_path, model=Noisy())
    validated, _ = fit(tmp_path, model=Noisy(), check_val_every_n_epoch=None, val_check_interval=3)
    assert plain.drawn == validated.drawn
    assert len(set(plain.drawn)) == 25
    disturbed, _ = fit(tmp_path, Disturb(), model=Noisy())
    assert plain.drawn == disturbed.drawn
    other, _ = fit(tmp_path, model=Noisy(), seed=6)
    assert not set(plain.drawn) & set(other.drawn)
    monkeypatch.setattr(Noisy, "global_rank", 1)
    ranked, _ = fit(tmp_path, model=Noisy())
    assert not set(plain.drawn) & set(ranked.drawn)


class Disturb(Callback):
    """Draws at the end of each batch and around validation."""

    def on_train_batch_end(self, *_: Any) -> None:
        torch.rand(3)

    def on_validation_end(self, *_: Any) -> None:
        torch.rand(3)

    def on_train_start(self, *_: Any) -> None:
        torch.rand(3)


def test_training_draws_binary_images_anew(tmp_path):
    class Keep(Callback):
        def __init__(self) -> None:
            self.batches = []

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.batches.append(batch[0])

    keep, again = Keep(), Keep()
    fit(tmp_path, keep, max_steps=30, overfit_batches=1, limit_val_batches=0)
    fit(tmp_path, again, max_steps=30, overfit_batches=1, limit_val_batches=0)
    assert torch.stack(keep.batches).shape == (30, BATCH, 1, 4, 4)
    assert all(torch.equal(*pair) for pair in zip(keep.batches, again.batches, strict=True))
    images = Patches()
    images.setup("fit")
    mean = torch.stack(keep.batches).double().mean(0)
    # 64 pixels, each the mean of 30 Bernoulli draws with p = intensity / 255: within five deviations.
    assert (mean - images.train[0][:BATCH].double() / 255).abs().max() < 5 * 0.5 / math.sqrt(30)
    assert not torch.equal(keep.batches[0], keep.batches[1])
