"""Schedules of noise: what the forward process makes of data, and that there is ever more noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from zoo.diffusion.schedules import (
    SCHEDULES,
    Cosine,
    Karras,
    Learned,
    Linear,
    LinearBeta,
    Schedule,
    alpha_sigma,
    over,
    schedule_of,
)
from zoo.errors import DataError

DOUBLE = {"dtype": torch.float64}


def learned(seed: int = 0, deviation: float = 1.0) -> Learned:
    """One whose weights all are random, in float64."""
    torch.manual_seed(seed)
    schedule = Learned(9.0, -4.0, hidden=32).double()
    with torch.no_grad():
        for name, parameter in schedule.named_parameters():
            if name != "ends":
                parameter.copy_(deviation * torch.randn_like(parameter))
    return schedule


def every() -> list[Schedule]:
    return [*(make() for make in SCHEDULES.values()), learned(), LinearBeta(20, 1e-3, 0.5), Karras(0.1, 3.0, 1.0)]


def times(n: int = 201) -> Tensor:
    return torch.linspace(0, 1, n, **DOUBLE)


def linear(t: Tensor) -> Tensor:
    """log alpha^2 of log-SNRs from 13.3 to -5 at an even pace: minus softplus of their negatives."""
    return -torch.log1p(torch.exp(18.3 * t - 13.3))


def cosine(t: Tensor) -> Tensor:
    """Twice the log of a cosine, of angles whose tangents are the ends' sigma / alpha."""
    start, end = math.atan(math.exp(-9.7 / 2)), math.atan(math.exp(13.0 / 2))
    return 2 * torch.log(torch.cos(start + (end - start) * t))


def linear_beta(t: Tensor) -> Tensor:
    """The integral of -beta, whose rate goes evenly from 0.1 to 20 in one unit of time, from 0 to 1/1000 .. 1."""
    u = (1 + 999 * t) / 1000
    return -(0.1 * u + 19.9 * u**2 / 2)


def karras(t: Tensor) -> Tensor:
    """Data with noise of s beside them have a share of 1 / (1 + s^2)."""
    s = (0.002 ** (1 / 7) + (80 ** (1 / 7) - 0.002 ** (1 / 7)) * t) ** 7
    return -torch.log1p(s**2)


@pytest.mark.parametrize(
    ("schedule", "log_alpha_squared"),
    [(Linear(), linear), (Cosine(), cosine), (LinearBeta(), linear_beta), (Karras(), karras)],
    ids=["linear", "cosine", "linear_beta", "karras"],
)
def test_the_forward_marginal_is_its_closed_form(schedule: Schedule, log_alpha_squared: Callable[[Tensor], Tensor]):
    """z = alpha x + sigma epsilon, with alpha from the papers' formulas and sigma^2 = 1 - alpha^2."""
    t = times()
    alpha, sigma = alpha_sigma(schedule(t))
    log_alpha = log_alpha_squared(t) / 2
    torch.testing.assert_close(alpha, log_alpha.exp(), rtol=1e-9, atol=0)
    torch.testing.assert_close(sigma, (-torch.expm1(2 * log_alpha)).sqrt(), rtol=1e-9, atol=0)


def test_the_steps_of_linear_beta_are_ddpms():
    """log prod_k (1 - beta_k), but for what continuous time leaves out: of each step the orders of beta beyond the
    first, and of their sum, an integral by right ends of its steps, k (T - k) / (2 T (T - 1)) of beta's rise.
    """
    beta, k = torch.linspace(1e-4, 0.02, 1000, **DOUBLE), torch.arange(1, 1001, **DOUBLE)
    found = torch.nn.functional.logsigmoid(LinearBeta()(times(1000)))
    log_alpha_squared = torch.log1p(-beta).cumsum(0)
    orders = (-torch.log1p(-beta) - beta).cumsum(0)
    torch.testing.assert_close(found, log_alpha_squared + orders - (0.02 - 1e-4) * k * (1000 - k) / (2000 * 999))
    assert abs(float(found[-1] / log_alpha_squared[-1]) - 1) < 0.01


@pytest.mark.parametrize("k", range(len(every())))
def test_the_slope_is_the_derivative(k):
    schedule, t = every()[k], times()[1:-1].requires_grad_()
    (slope,) = torch.autograd.grad(schedule(t).sum(), t)
    torch.testing.assert_close(schedule.slope(t.detach()).detach(), slope, rtol=1e-6, atol=0)


@pytest.mark.parametrize("k", range(len(every())))
def test_it_falls_from_first_to_last(k):
    schedule = every()[k]
    log_snr = schedule(times()).detach()
    assert (log_snr.diff() < 0).all()
    assert (schedule.slope(times()) < 0).all()
    assert schedule.first > schedule.last
    torch.testing.assert_close(
        log_snr[[0, -1]], torch.tensor([schedule.first, schedule.last], **DOUBLE), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_learned_one_is_monotone_whatever_its_weights(seed):
    schedule = learned(seed, 3.0)
    log_snr = schedule(times(2001))
    assert (log_snr.diff() < 0).all()
    assert log_snr[[0, -1]].tolist() == pytest.approx([9.0, -4.0])
    straight = torch.linspace(9, -4, 2001, **DOUBLE)
    assert (log_snr - straight).abs().max() > 0.1, "it bends"


def test_a_learned_one_begins_nearly_straight():
    torch.manual_seed(0)
    t = torch.linspace(0, 1, 101)
    assert (Learned(9.0, -4.0)(t) - (9 - 13 * t)).abs().max() < 0.2


def test_its_ends_are_what_it_learns_of_the_ends():
    schedule = learned()
    with torch.no_grad():
        schedule.ends.copy_(torch.tensor([11.0, -7.0]))
    assert schedule(times(2)).tolist() == pytest.approx([11.0, -7.0])
    share, pace = schedule.share(times())
    assert share[[0, -1]].tolist() == pytest.approx([0.0, 1.0])
    torch.testing.assert_close(schedule(times()), 11 - 18 * share)
    torch.testing.assert_close(schedule.slope(times()), -18 * pace)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_learned_one_takes_times_of_either_precision_and_no_autocast(kind):
    schedule, t = learned().to(kind), times()
    exact = learned()(t)
    for given in (t, t.float()):
        found = schedule(given)
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(schedule(given), found)


def test_no_noise_and_nothing_but_noise():
    for log_snr, expected in ((math.inf, (1.0, 0.0)), (-math.inf, (0.0, 1.0)), (0.0, (0.5**0.5, 0.5**0.5))):
        assert [float(each) for each in alpha_sigma(torch.tensor(log_snr))] == pytest.approx(expected)
    values, x = torch.arange(3.0), torch.ones(3, 2, 4, 4)
    assert torch.equal((over(values, x) * x)[:, 1, 2, 3], values)
    assert torch.equal(over(values[2], x) * x, 2 * x)


@pytest.mark.parametrize("t", [-1e-6, 1.0001, math.nan, -math.inf])
@pytest.mark.parametrize("name", SCHEDULES)
def test_times_outside_are_refused(name, t):
    with pytest.raises(DataError, match=r"t must be in \[0, 1\], not"):
        schedule_of(name)(torch.tensor([0.5, t]))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("linear", {"first": -5.0, "last": 13.0}),
        ("linear", {"first": 1.0, "last": 1.0}),
        ("linear", {"first": math.inf}),
        ("cosine", {"last": math.nan}),
        ("learned", {"first": -1.0, "last": 0.0}),
        ("linear_beta", {"beta_first": 0.02, "beta_last": 1e-4}),
        ("linear_beta", {"beta_last": 1.0}),
        ("linear_beta", {"steps": 1}),
        ("karras", {"sigma_min": 80.0, "sigma_max": 0.002}),
        ("karras", {"rho": 0.0}),
    ],
)
def test_what_is_not_monotone_is_refused(name, settings):
    with pytest.raises(DataError, match="A schedule is monotone"):
        schedule_of(name, **settings)


def test_other_names_and_no_hidden_units_are_refused():
    with pytest.raises(DataError, match="schedule must be one of linear, cosine, linear_beta, karras, learned"):
        schedule_of("sigmoid")
    with pytest.raises(DataError, match="hidden must be at least 1, not 0"):
        schedule_of("learned", hidden=0)
