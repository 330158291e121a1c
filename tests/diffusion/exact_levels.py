"""A diffusion of independent components whose levels have known probabilities, with the exact denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from zoo.diffusion.predictions import epsilon, velocity
from zoo.diffusion.schedules import alpha_sigma, over
from zoo.diffusion.vdm import VDM

PROBABILITIES = (0.1, 0.4, 0.3, 0.2)
VALUES = torch.linspace(-1, 1, len(PROBABILITIES), dtype=torch.float64)
LOG_PROBABILITIES = torch.tensor(PROBABILITIES, dtype=torch.float64).log()
ENTROPY = -float((LOG_PROBABILITIES.exp() * LOG_PROBABILITIES).sum())


class Exact(nn.Module):
    """The noise, or the velocity, that E[x | z] tells."""

    def __init__(self, prediction: str) -> None:
        super().__init__()
        self.prediction, self.weight = prediction, nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None) -> Tensor:
        logits = log_joint(z, log_snr)
        x = (logits.softmax(-1) * VALUES.to(z)).sum(-1)
        alpha, sigma = (over(each, z) for each in alpha_sigma(log_snr))
        noise = (z - alpha * x) / sigma
        return noise if self.prediction == "epsilon" else alpha * noise - sigma * x


def log_joint(z: Tensor, log_snr: Tensor) -> Tensor:
    """log p(x, z) of all levels, (..., levels)."""
    alpha, sigma = (over(each, z)[..., None] for each in alpha_sigma(log_snr))
    density = -((z[..., None] - alpha * VALUES.to(z)) / sigma).square() / 2 - sigma.log() - math.log(2 * math.pi) / 2
    return LOG_PROBABILITIES.to(z) + density


def exact(first: float = 8.0, last: float = -8.0, prediction: str = "epsilon", side: int = 1) -> VDM:
    """The model of images of so many pixels in height and width, in float64."""
    small = {"channels": 2, "multipliers": [1], "blocks": 1, "attention": []}
    model = VDM(shape=[1, side, side], levels=len(VALUES), prediction=prediction, first=first, last=last, **small)
    assert model.prediction is {"epsilon": epsilon, "v": velocity}[prediction]
    model.net = Exact(prediction)
    return model.double().eval()


def times(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of an integral over [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def normals(n: int = 120) -> tuple[Tensor, Tensor]:
    """Nodes and weights of a mean over a standard normal number."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return torch.from_numpy(nodes), torch.from_numpy(weights / math.sqrt(2 * math.pi))


def mean_over(function: Callable[[Tensor], Tensor], log_snr: Tensor) -> float:
    """The mean of a function of z over q(z) at a log-SNR."""
    nodes, weights = normals()
    alpha, sigma = alpha_sigma(log_snr)
    z = alpha * VALUES[:, None] + sigma * nodes
    return float((LOG_PROBABILITIES.exp()[:, None] * weights * function(z)).sum())
