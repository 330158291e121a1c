"""Samplers against what is known of their limits: closed forms of the probability flow, exact moments of the chains.

Denoisers are exact, in float64. Data are Gaussian, or mixtures of two Gaussians in one dimension, of which the flow
carries quantiles to quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from zoo.diffusion.samplers import SAMPLERS, Denoiser, passes, posterior, sampler_of
from zoo.diffusion.schedules import Karras, Linear, alpha_sigma
from zoo.errors import DataError

MEAN, DEVIATION = 0.7, 0.4
CENTRES, WEIGHTS, WIDTH = torch.tensor([-1.0, 0.8]).double(), torch.tensor([0.3, 0.7]).double(), 0.5


def gaussian(z: Tensor, log_snr: Tensor, mean: float = MEAN, deviation: float = DEVIATION) -> Tensor:
    """E[x | z] of x ~ N(mean, deviation^2)."""
    alpha, sigma = alpha_sigma(log_snr)
    gain = deviation**2 * alpha / (deviation**2 * alpha**2 + sigma**2)
    return mean + gain * (z - alpha * mean)


def mixture(z: Tensor, log_snr: Tensor) -> Tensor:
    """E[x | z] of the mixture: those of its parts, by how likely z is under each."""
    alpha, sigma = alpha_sigma(log_snr)
    variance = WIDTH**2 * alpha**2 + sigma**2
    apart = z[..., None] - alpha * CENTRES
    chance = (WEIGHTS.log() - apart.square() / (2 * variance)).softmax(-1)
    return (chance * (CENTRES + WIDTH**2 * alpha / variance * apart)).sum(-1)


def gaussian_flow(z: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """z at `there` on the probability flow: of y = z / alpha and s = sigma / alpha, y - mean goes with the deviation of
    the marginal, sqrt(deviation^2 + s^2)."""
    (alpha, sigma), (alpha_there, sigma_there) = alpha_sigma(here), alpha_sigma(there)
    width, width_there = (torch.sqrt(DEVIATION**2 + s**2) for s in (sigma / alpha, sigma_there / alpha_there))
    return alpha_there * (MEAN + (z / alpha - MEAN) * width_there / width)


def mixture_flow(z: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """In one dimension the flow keeps the order, and so each quantile of the marginals."""

    def share(y: Tensor, s: Tensor) -> Tensor:
        return (WEIGHTS * torch.special.ndtr((y[..., None] - CENTRES) / torch.sqrt(WIDTH**2 + s**2))).sum(-1)

    (alpha, sigma), (alpha_there, sigma_there) = alpha_sigma(here), alpha_sigma(there)
    wanted = share(z / alpha, sigma / alpha)
    low, high = torch.full_like(z, -50.0), torch.full_like(z, 50.0)
    for _ in range(80):  # bisection, to the last bit
        middle = (low + high) / 2
        below = share(middle, sigma_there / alpha_there) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return alpha_there * (low + high) / 2


def run(name: str, denoise: Denoiser, z: Tensor, log_snrs: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = lambda: torch.randn(z.shape, dtype=z.dtype, generator=generator)  # noqa: E731
    *_, z = sampler_of(name)(denoise, z, log_snrs, normal)
    return z


def grid(steps: int, first: float = -5.0, last: float = 6.0) -> Tensor:
    return torch.linspace(first, last, steps + 1, dtype=torch.float64)


# -- solvers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("denoise", "flow"), [(gaussian, gaussian_flow), (mixture, mixture_flow)], ids=["gaussian", "mixture"]
)
@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("heun", 2), ("dpm2m", 2)])
def test_a_solver_comes_to_the_flow_with_its_order(name: str, order: int, denoise: Denoiser, flow: Callable) -> None:
    z = torch.linspace(-2, 2, 41, dtype=torch.float64)
    exact = flow(z, *grid(1))
    counts = [80, 160, 320, 640]
    errors = [float((run(name, denoise, z, grid(steps)) - exact).abs().max()) for steps in counts]
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (counts, errors))
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    assert slope == pytest.approx(-order, abs=0.1), errors
    assert errors[-1] < 0.05 / counts[-1] ** (order - 1)


@pytest.mark.parametrize("name", ["ddim", "heun", "dpm2m"])
def test_a_solver_draws_no_noise_and_is_exact_where_the_datum_is_known(name):
    """With E[x | z] = c for all z, z keeps its noise: in one step or in many."""

    def never() -> Tensor:
        raise AssertionError("no noise is asked for")

    z, log_snrs = torch.linspace(-2, 2, 5, dtype=torch.float64), grid(7)
    *_, found = SAMPLERS[name](lambda z, _: torch.full_like(z, 0.3), z, log_snrs, never)
    (alpha, sigma), (alpha_there, sigma_there) = alpha_sigma(log_snrs[0]), alpha_sigma(log_snrs[-1])
    torch.testing.assert_close(found, alpha_there * 0.3 + sigma_there * (z - alpha * 0.3) / sigma)


def test_heun_is_the_papers_algorithm():
    """Algorithm 1 of arXiv 2206.00364 in its own coordinates, y = z / alpha and s = sigma / alpha, to no noise."""
    t = torch.linspace(1, 0, 9, dtype=torch.float64)
    log_snrs = torch.cat([Karras(0.01, 20.0)(t), torch.tensor([torch.inf], dtype=torch.float64)])
    alpha = alpha_sigma(log_snrs[0])[0]
    y = z = torch.randn(50, dtype=torch.float64)
    y = z / alpha
    levels = [*(-log_snrs[:-1] / 2).exp(), torch.zeros((), dtype=torch.float64)]

    def told(y: Tensor, s: Tensor) -> Tensor:
        log_snr = -2 * s.log()
        return mixture(alpha_sigma(log_snr)[0] * y, log_snr)

    for s, s_next in pairwise(levels):
        slope = (y - told(y, s)) / s
        ahead = y + (s_next - s) * slope
        if s_next > 0:
            ahead = y + (s_next - s) * (slope + (ahead - told(ahead, s_next)) / s_next) / 2
        y = ahead
    torch.testing.assert_close(run("heun", mixture, z, log_snrs), y, rtol=1e-9, atol=1e-9)


# -- chains --------------------------------------------------------------------------------------------------------


def moments(log_snrs: Tensor, beta: bool, mean: float, deviation: float) -> tuple[float, float]:
    """Mean and variance at the end of the chain of Gaussian data, by its recursion: z_s = a z_t + b + c noise.

    From the textbook's form: with beta = 1 - (alpha_t / alpha_s)^2, the mean of z_s given z_t and x is
    (alpha_t / alpha_s) sigma_s^2 / sigma_t^2 z_t + alpha_s beta / sigma_t^2 x.
    """
    (alpha, sigma) = alpha_sigma(log_snrs[0])
    centre, variance = float(alpha * mean), float(alpha**2 * deviation**2 + sigma**2)
    for t, s in pairwise(log_snrs):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (tuple(map(float, alpha_sigma(each))) for each in (t, s))
        ratio = alpha_t / alpha_s
        rate = 1 - ratio**2
        gain = deviation**2 * alpha_t / (deviation**2 * alpha_t**2 + sigma_t**2)
        of_z, of_x = ratio * sigma_s**2 / sigma_t**2, alpha_s * rate / sigma_t**2
        centre = of_z * centre + of_x * (mean + gain * (centre - alpha_t * mean))
        noise = rate if beta else rate * sigma_s**2 / sigma_t**2
        variance = (of_z + of_x * gain) ** 2 * variance + (noise if sigma_s else 0.0)
    return centre, variance


@pytest.mark.parametrize("end", [4.0, math.inf], ids=["noisy", "data"])
@pytest.mark.parametrize("name", ["ancestral", "ancestral_beta"])
def test_the_moments_of_a_chain_are_its_recursions(name, end):
    log_snrs = torch.cat([grid(6, -4.0, 3.0), torch.tensor([end], dtype=torch.float64)])
    centre, variance = moments(log_snrs, name == "ancestral_beta", MEAN, DEVIATION)
    n, generator = 200_000, torch.Generator().manual_seed(5)
    alpha, sigma = alpha_sigma(log_snrs[0])
    start = math.sqrt(float(alpha**2 * DEVIATION**2 + sigma**2))
    z = alpha * MEAN + start * torch.randn(n, dtype=torch.float64, generator=generator)
    z = run(name, gaussian, z, log_snrs, seed=6)
    assert abs(float(z.mean()) - centre) < 4 * math.sqrt(variance / n)
    assert abs(float(z.var()) / variance - 1) < 4 * math.sqrt(2 / n)


@pytest.mark.parametrize("name", ["ancestral", "ancestral_beta"])
def test_a_chain_comes_to_the_marginal_with_its_steps(name):
    """Its mean is the marginal's in any steps, and its variance off by a share that halves where these are doubled."""
    alpha, sigma = map(float, alpha_sigma(torch.tensor(6.0, dtype=torch.float64)))
    gaps = []
    for steps in (200, 400, 800):
        centre, variance = moments(grid(steps), name == "ancestral_beta", MEAN, DEVIATION)
        assert centre == pytest.approx(alpha * MEAN)
        gaps.append(variance / (alpha**2 * DEVIATION**2 + sigma**2) - 1)
    assert all((gap > 0) == (name == "ancestral_beta") for gap in gaps), "too much noise by beta, else too little"
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.02)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.02)
    assert abs(gaps[-1]) < 0.02


def test_the_variances_are_those_of_their_best_data():
    """Posterior: of a single datum the chain is exact in any steps; beta: of standard normal data (section 3.2)."""
    for log_snrs in (grid(1), grid(3), torch.tensor([-3.0, -2.5, 1.0, 4.0], dtype=torch.float64)):
        alpha, sigma = map(float, alpha_sigma(log_snrs[-1]))
        assert moments(log_snrs, False, 0.4, 0.0) == pytest.approx((alpha * 0.4, sigma**2))
        assert moments(log_snrs, True, 0.0, 1.0) == pytest.approx((0.0, 1.0))


def test_the_posterior_is_that_of_bayes():
    """q(z_s | z_t, x) from q(z_s | x) and q(z_t | z_s), two Gaussians: precisions add, and means by precision."""
    t, s, x, z = (torch.tensor(value, dtype=torch.float64) for value in (-0.7, 1.9, 0.3, -1.2))
    (alpha_t, _), (alpha_s, sigma_s) = alpha_sigma(t), alpha_sigma(s)
    ratio = alpha_t / alpha_s
    precision = 1 / sigma_s**2 + ratio**2 / (1 - ratio**2)
    mean = (alpha_s * x / sigma_s**2 + ratio * z / (1 - ratio**2)) / precision
    found = posterior(x, z, t, s)
    torch.testing.assert_close(found[0], mean)
    torch.testing.assert_close(found[1], precision.rsqrt())


# -- ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("name", SAMPLERS)
def test_passes_are_as_many_as_is_said(name, steps):
    asked = []

    def denoise(z: Tensor, log_snr: Tensor) -> Tensor:
        asked.append(float(log_snr))
        return gaussian(z, log_snr)

    t = torch.linspace(1, 0, steps, dtype=torch.float64) if steps > 1 else torch.ones(1, dtype=torch.float64)
    log_snrs = torch.cat([Linear(5.0, -5.0)(t), torch.tensor([torch.inf], dtype=torch.float64)])
    x = run(name, denoise, torch.randn(3, dtype=torch.float64), log_snrs)
    assert len(asked) == passes(name, log_snrs) == (2 * steps - 1 if name == "heun" else steps)
    assert all(map(math.isfinite, asked)), "nothing is asked of data without noise"
    assert x.isfinite().all()
    asked.clear()
    log_snrs[-1] = 9.0  # noise is left, and Heun's method looks there, too
    run(name, denoise, torch.randn(3, dtype=torch.float64), log_snrs)
    assert len(asked) == passes(name, log_snrs) == (2 * steps if name == "heun" else steps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_state_of_a_way_to_no_noise_is_what_the_denoiser_tells(name, dtype):
    """Of the last state before it, to which solvers hold; by the chains it is the mean of the last step."""
    told = []

    def denoise(z: Tensor, log_snr: Tensor) -> Tensor:
        told.append(gaussian(z, log_snr))
        return told[-1]

    log_snrs = torch.tensor([-4.0, 0.0, 5.0, torch.inf], dtype=dtype)
    x = run(name, denoise, torch.randn(100, dtype=dtype), log_snrs)
    torch.testing.assert_close(x, told[-1])


def test_each_step_is_yielded():
    z, log_snrs = torch.zeros(2, 3, dtype=torch.float64), grid(4)
    for sampler in SAMPLERS.values():
        states = list(sampler(gaussian, z, log_snrs, lambda: torch.ones_like(z)))
        assert [state.shape for state in states] == [z.shape] * 4


def test_a_sampler_of_no_such_name():
    with pytest.raises(DataError, match="sampler must be one of ancestral, ancestral_beta, ddim, heun, dpm2m, not 'x'"):
        sampler_of("x")
