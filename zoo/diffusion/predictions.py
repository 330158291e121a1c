"""What a network's output means: one conversion, linear in what it reads and in what it gives.

A network F reads z = alpha x + sigma epsilon at a log-SNR and is meant to tell the datum x. It may tell it by way of
the noise, of a velocity or of a residual; each is

    x = skip z + out F(scale z),

with three numbers that depend on the log-SNR alone. The mean squared error of F's own target is that of x divided by
out^2, so the weights that a paper gives to noise levels follow from its prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.diffusion.schedules import alpha_sigma, over
from zoo.errors import DataError


class Coefficients(NamedTuple):
    """Those of x = skip z + out F(scale z) at a log-SNR, each in its shape."""

    scale: Tensor
    skip: Tensor
    out: Tensor


Prediction = Callable[[Tensor, float], Coefficients]
"""From log-SNRs, and the standard deviation of the data, to the coefficients."""


def epsilon(log_snr: Tensor, deviation: float = 1.0) -> Coefficients:
    """F is the noise: x = (z - sigma F) / alpha (Ho et al. 2020, arXiv 2006.11239, equation 15)."""
    alpha, sigma = alpha_sigma(log_snr)
    return Coefficients(torch.ones_like(alpha), 1 / alpha, -sigma / alpha)


def datum(log_snr: Tensor, deviation: float = 1.0) -> Coefficients:
    """F is x itself."""
    one = torch.ones_like(log_snr)
    return Coefficients(one, torch.zeros_like(one), one)


def velocity(log_snr: Tensor, deviation: float = 1.0) -> Coefficients:
    """F is v = alpha epsilon - sigma x: x = alpha z - sigma F (Salimans & Ho 2022, arXiv 2202.00512, section 4)."""
    alpha, sigma = alpha_sigma(log_snr)
    return Coefficients(torch.ones_like(alpha), alpha, -sigma)


def preconditioned(log_snr: Tensor, deviation: float = 0.5) -> Coefficients:
    """Input and target of F have unit variance for data of a standard deviation d, and the error of F counts least
    (Karras et al. 2022, arXiv 2206.00364, table 1, written for z = alpha (x + s epsilon), s = sigma / alpha).
    """
    alpha, sigma = alpha_sigma(log_snr)
    total = sigma.square() + (deviation * alpha).square()  # the variance of z
    return Coefficients(total.rsqrt(), alpha * deviation**2 / total, sigma * deviation * total.rsqrt())


PREDICTIONS: dict[str, Prediction] = {
    "epsilon": epsilon,
    "x": datum,
    "v": velocity,
    "preconditioned": preconditioned,
}


def prediction_of(name: str) -> Prediction:
    """The prediction of a name.

    Raises:
        DataError: there is none of that name.
    """
    if not isinstance(name, str) or name not in PREDICTIONS:
        raise DataError(f"prediction must be one of {', '.join(PREDICTIONS)}, not {name!r}.")
    return PREDICTIONS[name]


def datum_of(output: Tensor, z: Tensor, coefficients: Coefficients) -> Tensor:
    """x from what a network gave, (N, *shape)."""
    _, skip, out = (over(each, z) for each in coefficients)
    return skip * z + out * output


def target_of(x: Tensor, z: Tensor, coefficients: Coefficients) -> Tensor:
    """What a network should give where the datum is x: the inverse of `datum_of`, where out is not 0."""
    _, skip, out = (over(each, z) for each in coefficients)
    return (x - skip * z) / out
