"""Posteriors of a chain against those of Gaussian data: denoising, known factors, and what inpainting misses."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from exact_chains import DTYPE, Chain, Told, gaussian, made, moments
from tiny_runs import sealed
from torch import Tensor

from zoo.diffusion.nonequilibrium import Diffusion
from zoo.errors import DataError


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


def test_data_with_noise_are_denoised_exactly():
    """p(x | y) of Gaussian data, from a y whose noise is that of a state of the chain."""
    model = gaussian(made(6, deviation=2.0), variance=0.36)
    deviation = 2 * math.exp(-0.5 * float(model.states()[3]))
    y = torch.full((20_000, 1), 1.1, dtype=DTYPE)
    total = 4 * 0.36 + deviation**2
    moments(model.denoise(y, deviation, seed=0), 4 * 0.36 / total * 1.1, 4 * 0.36 * deviation**2 / total)
    assert (model.denoise(y[:5], 1e-4, seed=0) - y[:5]).abs().max() < 10 * math.exp(-3)
    with pytest.raises(DataError, match=r"deviation must be at most 24\.365, as in the chain's last state, not 25"):
        model.denoise(y[:2], 25.0)
    with pytest.raises(DataError, match="deviation must be positive"):
        model.denoise(y[:2], 0.0)


def test_images_are_denoised_in_their_own_unit():
    model = made(30, shape=[1, 2, 2], levels=5, channels=8, multipliers=[1], attention=[], last=-6.0)
    chain = Chain(model)

    def mean(k: Tensor, z: Tensor) -> Tensor:  # of images that are all 0 or all 4
        return torch.tanh((z * chain.alpha[k] / chain.noise[k]).sum((1, 2, 3), keepdim=True))

    model.net = Told(model, mean, lambda k, z: torch.zeros_like(z))
    x = torch.tensor([0, 4] * 200, dtype=torch.uint8).view(400, 1, 1, 1).expand(400, 1, 2, 2)
    denoised = model.denoise(x + 2.0 * torch.randn(x.shape), 2.0, seed=0)
    # Four pixels with noise of a half of the distance: wrong as often as a normal number is beyond two deviations.
    wrong = float((denoised != x).any(1).any(1).any(1).double().mean())
    assert denoised.dtype == torch.uint8
    assert wrong < 0.12


def perturbed(steps: int, y: float, variance: float, aware: bool = True) -> tuple[Diffusion, float, float]:
    """A chain of Gaussian data of variance 0.36 under a Gaussian factor around y: mean and variance of its draws, by
    carrying them through steps that are linear.
    """
    model = gaussian(made(steps, last=-12.0, first=10.0))
    chain, mean, spread, own = Chain(model), 0.0, 1.0, 0.36
    for k in range(steps - 1, -1, -1):
        alpha, noise = float(chain.alpha[k]), float(chain.noise[k])
        gain, left = own * alpha / (own * alpha**2 + noise), own * noise / (own * alpha**2 + noise)
        back = float(chain.alpha_before[k] * chain.beta[k] / chain.noise[k])
        step = back**2 * left + float(chain.least[k])
        pull = step / (variance + left * aware) * (gain if k else 1.0)
        slope = float((1 - chain.beta[k]).sqrt() * chain.noise_before[k] / chain.noise[k]) + (back - pull) * gain
        mean, spread = slope * mean + pull * y, slope**2 * spread + step
    return model, mean, spread


def test_a_factor_gives_the_posterior_of_gaussian_data_with_an_error_as_one_over_t():
    y, variance = 1.1, 0.2
    exact = 0.36 / (0.36 + variance) * y, 0.36 * variance / (0.36 + variance)
    errors = []
    for steps in (40, 80, 160, 320):
        _, mean, spread = perturbed(steps, y, variance)
        errors.append((abs(mean - exact[0]), abs(spread - exact[1])))
    for wide, narrow in pairwise(errors):
        assert wide[0] / narrow[0] == pytest.approx(2, abs=0.25)
        assert wide[1] / narrow[1] == pytest.approx(2, abs=0.25)
    # A factor that does not look at the variance stays too strong, whatever T is.
    _, mean, _ = perturbed(5000, y, variance, aware=False)
    assert mean > exact[0] + 0.05


@pytest.mark.parametrize("aware", [True, False])
def test_draws_under_a_factor_are_what_its_steps_make_of_them(aware):
    model, mean, spread = perturbed(20, 1.1, 0.2, aware)

    def log_factor(x: Tensor, variance: Tensor) -> Tensor:
        return -((x - 1.1).square() / (2 * (0.2 + variance * aware))).sum(1)

    with torch.inference_mode():
        x = model.posterior_sample(20_000, log_factor, seed=0)
    moments(x, mean, spread)
    torch.testing.assert_close(model.posterior_sample(2, log_factor, seed=0), x[:2].clone())


def test_a_factor_sees_data_in_their_own_unit():
    model, seen = gaussian(made(5, deviation=3.0)), []

    def log_factor(x: Tensor, variance: Tensor) -> Tensor:
        seen.append((float(x.detach().std()), float(variance.mean())))
        return 0 * x.sum(1)

    plain = model.posterior_sample(2000, log_factor, seed=0, steps=5)
    torch.testing.assert_close(plain, model.sample(2000, seed=0, steps=5))
    assert seen[-1][0] == pytest.approx(3 * 0.6, abs=0.1), "the last states are nearly data"
    assert seen[0][1] == pytest.approx(9 * 0.36, abs=0.1), "the first say nothing of them"


@pytest.mark.parametrize(
    ("log_factor", "sentence"),
    [
        (lambda x, v: x, r"of shape \(3,\), not \(3, \d+"),
        (lambda x, v: x.sum(), r"of shape \(3,\), not \(\)"),
        (lambda x, v: 3.0, r"of shape \(3,\), not float"),
        (lambda x, v: x.flatten(1).sum(1).detach(), "differentiable in x, and has no gradient"),
    ],
)
def test_what_is_no_factor_is_one_sentence(log_factor, sentence):
    with pytest.raises(DataError, match=f"log_factor must give .*{sentence}"):
        gaussian(made(5)).posterior_sample(3, log_factor)


# -- inpainting --------------------------------------------------------------------------------------------------


def replaced(rho: float, steps: int, first: float = 12.0, last: float = -12.0) -> tuple[float, float]:
    """Mean and variance of the second of two standard normal components, of correlation rho, of which the first is
    known to be 1, drawn by replacement with the exact E[x | z]: moments carried through linear steps.
    """
    log_snr = np.concatenate([np.linspace(last, first, steps), [np.inf]])
    alpha, noise = np.sqrt(1 / (1 + np.exp(-log_snr))), 1 / (1 + np.exp(log_snr))
    own = np.array([[1, rho], [rho, 1]])
    mean, spread, known = np.array([alpha[0], 0.0]), np.diag([noise[0], 1.0]), np.array([1.0, 0.0])
    for k in range(steps):
        gain = alpha[k] * own @ np.linalg.inv(alpha[k] ** 2 * own + noise[k] * np.eye(2))
        gain[0] = 0  # of the known component E[x | z] is replaced
        fresh = -np.expm1(log_snr[k] - log_snr[k + 1])
        step = alpha[k + 1] * ((1 - fresh) / alpha[k] * np.eye(2) + fresh * gain)
        mean, spread = (
            step @ mean + alpha[k + 1] * fresh * known,
            step @ spread @ step.T + noise[k + 1] * fresh * np.eye(2),
        )
    return float(mean[1]), float(spread[1, 1])


@pytest.mark.parametrize("rho", [0.5, 0.8, 0.95])
def test_inpainting_by_replacement_is_not_the_conditional(rho):
    """The exact one is N(rho, 1 - rho^2): what is drawn has a mean of tan(arcsin(rho) / 2), in the limit of many steps,
    and a larger variance. The numbers stand in the docstring of `complete`.
    """
    mean, variance = replaced(rho, 20_000)
    assert mean == pytest.approx(math.tan(math.asin(rho) / 2), abs=1e-3)
    assert mean < 0.85 * rho
    assert variance > 1.1 * (1 - rho**2)
    if rho == 0.8:
        assert (round(mean, 2), round(variance, 2)) == (0.5, 0.54)


def test_completions_have_the_moments_of_replacement():
    model = made(25, shape=[2], first=12.0, last=-12.0)
    chain, own = Chain(model), torch.tensor([[1, 0.8], [0.8, 1]], dtype=DTYPE)

    def mean(k: Tensor, z: Tensor) -> Tensor:
        i = int(k[0])
        inverse = torch.linalg.inv(chain.alpha[i] ** 2 * own + chain.noise[i] * torch.eye(2, dtype=DTYPE))
        return chain.alpha[i] * z @ (own @ inverse)

    # The least variance, and a last step without noise: as the recursion has it.
    model.net = Told(model, mean, lambda k, z: torch.where(k == 0, -50.0, 0.0) * torch.ones_like(z))
    x = model.complete(torch.ones(20_000, 2), torch.tensor([True, False]), seed=0)
    assert (x[:, 0] == 1).all()
    moments(x[:, 1], *replaced(0.8, 25))


def test_what_is_known_goes_along_as_the_forward_process_has_it_whatever_the_variance_is():
    model, seen = made(6, shape=[2]), []

    def mean(k: Tensor, z: Tensor) -> Tensor:
        seen.append((int(k[0]), z[:, 0]))
        return 0.5 * z

    model.net = Told(model, mean, lambda k, z: torch.full_like(z, 2.0))
    model.complete(torch.full((4000, 2), 0.7), torch.tensor([True, False]), seed=0)
    chain = Chain(model)
    assert len(seen) == 6
    for k, z in seen:
        moments(z - 0.7 * chain.alpha[k], 0.0, float(chain.noise[k]))
