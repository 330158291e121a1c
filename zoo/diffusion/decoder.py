"""What a state with little noise says of the levels: p(x | z_0) of Kingma et al. 2021, arXiv 2107.00630, section 3.

For each component p(x | z) is proportional to q(z | x), the density of z = alpha x + sigma epsilon, over all levels x:
a softmax of -(z - alpha x)^2 / (2 sigma^2). It is the exact posterior where components are independent and their levels
equally likely, and close to it wherever sigma is small beside the distance of two levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.diffusion.schedules import alpha_sigma

BEYOND = 40.0  # nats below the nearest level's, at which a level is left out: float32 would not see all of them


def log_decoder(x: Tensor, z: Tensor, log_snr: Tensor, levels: int) -> Tensor:
    """log p(x | z) of levels spread over [-1, 1], at one log-SNR () for all: (N, *shape) and (N, *shape) to (N,) nats.

    Args:
        x: levels 0..levels-1.
        z: states.
        log_snr: of the states; on the CPU a GPU does not have to wait for it.
        levels: number of values.
    """
    place, ratio = _place(z, log_snr, levels)
    _, logits = _near(place, ratio, levels)
    own = -(ratio * (place - x)).square() / 2
    return (own - logits.logsumexp(-1)).flatten(1).sum(1)


def decode(z: Tensor, log_snr: Tensor, levels: int, uniform: Tensor) -> Tensor:
    """Levels that are drawn from p(x | z), uint8 (N, *shape), with numbers uniform on [0, 1) in the shape of z."""
    place, ratio = _place(z, log_snr, levels)
    first, logits = _near(place, ratio, levels)
    cumulative = logits.double().softmax(-1).cumsum(-1)
    # Not beyond the last level of any weight, whose sum rounding may leave below one.
    chosen = (cumulative[..., :-1] <= uniform.double()[..., None] * cumulative[..., -1:]).sum(-1)
    return (first + chosen).to(torch.uint8)


def _place(z: Tensor, log_snr: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Where z / alpha is, in levels, and how many deviations of its noise are from one level to the next."""
    alpha, sigma = alpha_sigma(log_snr)
    return (z / alpha + 1) * ((levels - 1) / 2), 2 / (levels - 1) * alpha / sigma


def _near(place: Tensor, ratio: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """The levels that count, around the nearest: the first of them, (N, *shape), which may be below 0, and the logits
    of all, (N, *shape, K), -infinite where there is no such level.

    A level k further away is below the nearest by ratio^2 k (k - 1) / 2 nats at least.
    """
    reach = min(levels - 1, 1 + math.ceil(math.sqrt(2 * BEYOND) / max(float(ratio.detach()), 1e-3)))
    first = place.detach().round().clamp(0, levels - 1) - reach
    level = first[..., None] + torch.arange(2 * reach + 1, device=place.device)
    logits = -(ratio * (place[..., None] - level)).square() / 2
    return first, logits.masked_fill((level < 0) | (level >= levels), -math.inf)
