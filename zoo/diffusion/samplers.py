"""From noise to data: a sampler is one function of a denoiser.

A denoiser tells the mean of x given z = alpha x + sigma epsilon at a log-SNR. A sampler takes it, a state z, the
log-SNRs of its steps in the order in which they are passed (rising; the last may be infinite, where z is x), and a
source of standard normal numbers; it yields the state after each step. Without its noise each of them solves

    dz / d lambda = alpha (E[x | z] - alpha z) / 2,

the probability-flow equation (Song et al. 2021, arXiv 2011.13456) in this time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from zoo.diffusion.schedules import alpha_sigma
from zoo.errors import DataError

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""z (N, *shape) and a log-SNR () to the mean of x, (N, *shape)."""

Normal = Callable[[], Tensor]
"""Standard normal numbers in the shape of z."""

Sampler = Callable[[Denoiser, Tensor, Tensor, Normal], Iterator[Tensor]]


def ancestral(denoise: Denoiser, z: Tensor, log_snrs: Tensor, normal: Normal) -> Iterator[Tensor]:
    """Draw from q(z_s | z_t, x) with the denoiser's mean in the place of x (Ho et al. 2020, arXiv 2006.11239, algorithm
    2; for any two noise levels Kingma et al. 2021, arXiv 2107.00630, equation 4). The variance is the posterior's.
    """
    for here, there in pairwise(log_snrs):
        yield (z := step_ancestral(denoise(z, here), z, here, there, normal))


def step_ancestral(x: Tensor, z: Tensor, here: Tensor, there: Tensor, normal: Normal) -> Tensor:
    """z at `there` given z at `here` and x."""
    mean, deviation = posterior(x, z, here, there)
    return mean + deviation * normal() if deviation > 0 else mean


def ancestral_beta(denoise: Denoiser, z: Tensor, log_snrs: Tensor, normal: Normal) -> Iterator[Tensor]:
    """As `ancestral`, with the variance of q(z_t | z_s), the paper's beta and the larger one of the two that it has
    (arXiv 2006.11239, section 3.2): the best one for data that are standard normal. The last step adds no noise.
    What is known of a datum gets on its way more noise than the forward process gives it.
    """
    for here, there in pairwise(log_snrs):
        mean, _ = posterior(denoise(z, here), z, here, there)
        beta = -torch.expm1(here - there) * torch.sigmoid(-here)
        yield (z := mean + beta.sqrt() * normal() if there.isfinite() else mean)


def posterior(x: Tensor, z: Tensor, here: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of z at the log-SNR `there` given z at `here`, where there is more noise, and x."""
    (alpha_here, _), (alpha_there, sigma_there) = alpha_sigma(here), alpha_sigma(there)
    fresh = -torch.expm1(here - there)  # the share of z that does not come from where it is
    return alpha_there * ((1 - fresh) / alpha_here * z + fresh * x), sigma_there * fresh.sqrt()


def ddim(denoise: Denoiser, z: Tensor, log_snrs: Tensor, normal: Normal) -> Iterator[Tensor]:
    """Keep the noise that is left in z (Song et al. 2021, *Denoising diffusion implicit models*, arXiv 2010.02502,
    equation 12 with sigma = 0): Euler's method in s = sigma / alpha, of first order.
    """
    for here, there in pairwise(log_snrs):
        yield (z := _with_noise_of(z, denoise(z, here), here, there))


def heun(denoise: Denoiser, z: Tensor, log_snrs: Tensor, normal: Normal) -> Iterator[Tensor]:
    """Heun's method in s = sigma / alpha (Karras et al. 2022, arXiv 2206.00364, algorithm 1), of second order.

    Two passes a step, but for one to no noise at all, which is Euler's: 2 S - 1 in all.
    """
    for here, there in pairwise(log_snrs):
        x = denoise(z, here)
        ahead = _with_noise_of(z, x, here, there)
        if there.isfinite():
            (alpha, sigma), (alpha_there, sigma_there) = alpha_sigma(here), alpha_sigma(there)
            # In y = z / alpha the slope is (y - x) / s.
            y, s, s_there = z / alpha, sigma / alpha, sigma_there / alpha_there
            slope = (y - x) / s + (ahead / alpha_there - denoise(ahead, there)) / s_there
            ahead = alpha_there * (y + (s_there - s) * slope / 2)
        yield (z := ahead)


def dpm2m(denoise: Denoiser, z: Tensor, log_snrs: Tensor, normal: Normal) -> Iterator[Tensor]:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2): of second order by one pass a step, which it
    gets from the pass before. The first step, and one to no noise at all, are of first order.
    """
    before: tuple[Tensor, Tensor] | None = None  # the last x, and the width of its step
    for here, there in pairwise(log_snrs):
        x, width = denoise(z, here), (there - here) / 2
        ahead = x
        if before is not None and width.isfinite():
            ahead = x + width / before[1] / 2 * (x - before[0])
        before = x, width
        yield (z := _with_noise_of(z, ahead, here, there))


def _with_noise_of(z: Tensor, x: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """z at `there` that has x, and the noise that z at `here` has beside alpha x."""
    (alpha, sigma), (alpha_there, sigma_there) = alpha_sigma(here), alpha_sigma(there)
    return alpha_there * x + sigma_there / sigma * (z - alpha * x)


SAMPLERS: dict[str, Sampler] = {
    "ancestral": ancestral,
    "ancestral_beta": ancestral_beta,
    "ddim": ddim,
    "heun": heun,
    "dpm2m": dpm2m,
}


def passes(name: str, log_snrs: Tensor) -> int:
    """How often a sampler asks the denoiser on the way through these log-SNRs."""
    steps = len(log_snrs) - 1
    return steps + int(log_snrs[1:].isfinite().sum()) if name == "heun" else steps


def sampler_of(name: str) -> Sampler:
    """The sampler of a name.

    Raises:
        DataError: there is none of that name.
    """
    if not isinstance(name, str) or name not in SAMPLERS:
        raise DataError(f"sampler must be one of {', '.join(SAMPLERS)}, not {name!r}.")
    return SAMPLERS[name]
