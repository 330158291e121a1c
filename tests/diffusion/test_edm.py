"""EDM: the paper's table 1 in its own coordinates, its loss for a fixed network, its noise levels, its refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_runs import FewDigits, fit, sealed
from torch import Tensor, nn

from zoo.data import Points
from zoo.diffusion import EDM
from zoo.diffusion.schedules import alpha_sigma
from zoo.errors import DataError
from zoo.evaluation.measure import evaluate
from zoo.metrics import energy_distance

SMALL = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": []}


@pytest.fixture(autouse=True)
def _untouched(monkeypatch):
    with sealed(monkeypatch):
        yield


def digits(**arguments: Any) -> EDM:
    return EDM(**{"shape": [1, 8, 8], "levels": 17, "steps": 4, **SMALL, **arguments})


def points(**arguments: Any) -> EDM:
    return EDM(**{"shape": [2], "levels": None, "hidden": 16, "layers": 1, **arguments})


class Fixed(nn.Module):
    """Some function of input and noise level, and of nothing else; it keeps its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.inputs = nn.Parameter(torch.tensor(0.7, dtype=torch.float64)), []

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None) -> Tensor:
        self.inputs.append((z, log_snr))
        return torch.tanh(self.weight * z + 0.1 * log_snr.view(-1, *[1] * (z.ndim - 1)))


class Table1:
    """D(x; s) = c_skip x + c_out F(c_in x; s) and the loss's weight, as arXiv 2206.00364 has them in table 1."""

    def __init__(self, s: Tensor, deviation: float) -> None:
        total = s**2 + deviation**2
        self.skip, self.out = deviation**2 / total, s * deviation / total.sqrt()
        self.scale, self.weight = 1 / total.sqrt(), total / (s * deviation) ** 2


@pytest.mark.parametrize("deviation", [0.5, 0.3])
def test_the_denoiser_is_that_of_table_1(deviation):
    """Of a state z = alpha (x + s noise) the core's denoiser says what the paper's says of x + s noise."""
    model = digits(deviation=deviation).double()
    model.net = Fixed()
    s = torch.tensor([0.002, 0.1, 0.5, 3.0, 80.0], dtype=torch.float64)
    noisy = torch.randn(5, 1, 8, 8, dtype=torch.float64) * s[:, None, None, None]
    log_snr = -2 * s.log()
    found = model.mean(alpha_sigma(log_snr)[0][:, None, None, None] * noisy, log_snr)
    own = Table1(s[:, None, None, None], deviation)
    torch.testing.assert_close(found, own.skip * noisy + own.out * model.net(own.scale * noisy, log_snr, None))
    (first, *_), (second, *_) = model.net.inputs
    torch.testing.assert_close(first, second)


def test_the_loss_is_equation_8():
    """The weight, (s^2 + deviation^2) / (s deviation)^2, times the denoiser's squared error."""
    model = digits().double()
    model.net = Fixed()
    x, noise = (torch.randn(6, 1, 8, 8, dtype=torch.float64) for _ in range(2))
    s = torch.tensor([0.004, 0.05, 0.3, 1.0, 10.0, 60.0], dtype=torch.float64)[:, None, None, None]
    log_snr = -2 * s.flatten().log()
    own = Table1(s, 0.5)
    told = own.skip * (x + s * noise) + own.out * model.net(own.scale * (x + s * noise), log_snr, None)
    expected = (own.weight * (told - x).square()).mean((1, 2, 3))
    torch.testing.assert_close(model.errors(x, log_snr, noise), expected)


def test_training_looks_at_log_normal_noise():
    """The quantiles of log s, evenly spread over a batch, are those of the normal distribution of the arguments."""
    model = points(p_mean=-1.2, p_std=1.2)
    n = 4000
    uniform = (torch.arange(n) + torch.rand(n)) / n
    log_s = -model.levels(uniform) / 2
    normal = torch.distributions.Normal(-1.2, 1.2)
    torch.testing.assert_close(normal.cdf(log_s), uniform, rtol=0, atol=1e-5)
    assert float(log_s.mean()) == pytest.approx(-1.2, abs=0.01)
    assert float(log_s.std()) == pytest.approx(1.2, abs=0.01)
    assert model.levels(torch.tensor([0.0, 1.0])).isfinite().all(), "rounding may bring either"


@pytest.mark.parametrize("steps", [2, 18])
def test_drawing_goes_through_the_levels_of_equation_5(steps):
    """s_i = (80^(1/7) + i / (N - 1) (.002^(1/7) - 80^(1/7)))^7, then none."""
    found = digits().log_snrs(steps)
    i = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    s = (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close((-found[:-1] / 2).exp(), s)
    assert found[-1] == math.inf
    ends = digits(sigma_min=0.01, sigma_max=20.0, rho=3.0).log_snrs(steps)
    torch.testing.assert_close((-ends[[0, -2]] / 2).exp(), torch.tensor([20.0, 0.01], dtype=torch.float64))


def test_the_first_error_is_the_variance_of_the_target():
    """At first the network gives zeros; of Gaussian points of the deviation that it is told, the target is normal."""
    model, x = points(deviation=2.0), 2.0 * torch.randn(20_000, 2)
    with torch.no_grad():
        errors = model.errors(model.scaled(x), model.levels(torch.rand(len(x))), torch.randn_like(x))
    assert errors.shape == (len(x),)
    assert float(errors.mean()) == pytest.approx(1, abs=4 * math.sqrt(2 / x.numel()))


def test_it_has_no_likelihood_and_says_so():
    model = digits()
    assert model.likelihood is None
    for name in ("elbo", "log_prob", "bits_per_dim", "negative_log_likelihood"):
        assert not hasattr(model, name)
    assert model.monitor.name == "error", "by which the best weights are told, logged as val_error"


def test_validation_sees_noise_that_belongs_to_the_datum(tmp_path):
    model, data = digits(dropout=0.3, label_dropout=0.2, classes=10), FewDigits(batch_size=16, validation=40)
    _, trainer = fit(tmp_path, model=model, data=data, max_steps=3, val_check_interval=3)
    batch = data.val
    with torch.no_grad():
        each = model.eval().loss(batch.x, label=batch.label, index=torch.arange(40))
        index = torch.tensor([30, 4])
        some = model.loss(batch.x[index], label=batch.label[index], index=index)
    torch.testing.assert_close(some, each[index])
    assert float(trainer.callback_metrics["val_error"]) == pytest.approx(float(each.mean()), rel=1e-5)
    assert "train_error" in trainer.callback_metrics


def test_it_learns(tmp_path):
    """Two moons: samples come closer to them than a Gaussian of their mean and covariance, by each sampler."""
    model = points(hidden=64, layers=2, optimizer="muon", lr=1e-2, warmup=20, hold=0.3, deviation=1.5)
    data = Points("moons", train=20_000, validation=2000, test=10, batch_size=500)
    _, trainer = fit(tmp_path, model=model, data=data, max_steps=200, check_val_every_n_epoch=5)
    assert float(trainer.callback_metrics["val_error"]) < 0.9, "1 at first"
    x = data.val.x.double()
    normal = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
    least = energy_distance(normal.sample((2000,)), x) / 2
    model.eval()
    for sampler, steps in (("heun", None), ("dpm2m", 30), ("ddim", 60), ("ancestral", 60)):
        drawn = model.sample(2000, seed=0, sampler=sampler, steps=steps).double()
        assert energy_distance(drawn, x) < least, sampler


def test_points_are_measured_by_their_energy_distance_and_how_they_are_drawn():
    data = Points("moons", train=50, validation=10, test=40)
    (found,) = evaluate(points(), data=data, device="cpu", options={"steps": 3})
    assert found.metric.name == "energy_distance"
    assert found.protocol.endswith("40 samples; unbiased; 3 steps of heun, 5 passes")
    (found,) = evaluate(points(), data=data, device="cpu")
    assert found.protocol.endswith("18 steps of heun, 35 passes")
    guided = {"steps": 4, "label": 1, "guidance": 2.0}
    assert points(classes=2).way_of_sampling(**guided) == "4 steps of heun, 14 passes, label 1, guidance 2.0"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"p_std": 0.0}, "p_std must be positive"),
        ({"p_mean": math.nan}, "p_mean must be the mean of log s"),
        ({"sigma_min": 1.0, "sigma_max": 0.5}, "A schedule is monotone"),
        ({"rho": 0.0}, "A schedule is monotone"),
        ({"deviation": -1.0}, "deviation must be positive"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"sampler": "euler"}, "sampler must be one of"),
        ({"levels": 300}, "levels must be from 2 to 256"),
        ({"label_dropout": 0.1}, "There are no labels to drop where classes is 0"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        digits(**arguments)
