"""Chains of Gaussian steps whose network is replaced by what is known exactly, in the paper's beta_t."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.diffusion.nonequilibrium import Diffusion

DTYPE = torch.float64


class Told(nn.Module):
    """In the place of the network: E[x | z] and a share, functions of z and of the state's number."""

    def __init__(self, model: Diffusion, mean: Callable, share: Callable) -> None:
        super().__init__()
        self.states, self.mean, self.share = model.states().detach(), mean, share
        self.weight = nn.Parameter(torch.zeros((), dtype=DTYPE))

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None) -> Tensor:
        k = (self.states.to(z) - log_snr[:, None]).abs().argmin(1)
        each = [k.view(-1, *[1] * (z.ndim - 1)), z]
        share = self.share(*each).expand_as(z)
        return torch.cat([self.mean(*each).expand_as(z), 2 * share - 1], 1) + 0 * self.weight


class Chain:
    """What the paper says of a model's chain: betas, alphas, posteriors, and the reverse kernel of a share."""

    def __init__(self, model: Diffusion) -> None:
        alpha2 = model.states().sigmoid()
        self.alpha, self.noise = alpha2.sqrt(), 1 - alpha2
        self.beta = 1 - alpha2 / torch.cat([torch.ones(1, dtype=DTYPE), alpha2[:-1]])
        self.alpha_before = torch.cat([torch.ones(1, dtype=DTYPE), self.alpha[:-1]])
        self.noise_before = torch.cat([torch.zeros(1, dtype=DTYPE), self.noise[:-1]])
        self.least = self.beta * self.noise_before / self.noise

    def posterior(self, k: int, x: Tensor, z: Tensor) -> Tensor:
        """The mean of q(x_{t-1} | x_t, x_0), t = k + 1: (Ho et al. 2020, arXiv 2006.11239, equation 7)."""
        known = self.alpha_before[k] * self.beta[k] / self.noise[k]
        return known * x + (1 - self.beta[k]).sqrt() * self.noise_before[k] / self.noise[k] * z

    def variance(self, k: int, share: Tensor | float) -> Tensor:
        """The reverse kernel's."""
        least = self.least[max(k, 1)]
        return torch.exp(share * self.beta[k].log() + (1 - share) * least.log())

    def share(self, k: int, variance: Tensor) -> Tensor:
        """The share of a reverse kernel with this variance."""
        least = self.least[max(k, 1)]
        return (variance / least).log() / (self.beta[k] / least).log()


def made(steps: int, **arguments) -> Diffusion:
    return Diffusion(**{"shape": [1], "first": 6.0, "prediction": "x", **arguments}, timesteps=steps).double().eval()


def gaussian(model: Diffusion, variance: float = 0.36, share: float | None = None) -> Diffusion:
    """A model that knows E[x | z] of Gaussian data, and the variance of its steps unless a share is given."""
    chain = Chain(model)
    total = variance * chain.alpha**2 + chain.noise
    told = (chain.alpha_before * chain.beta / chain.noise) ** 2 * variance * chain.noise / total
    shares = torch.stack(
        [
            chain.share(k, told[k] + chain.least[k]) if k == 0 or share is None else told.new_tensor(share)
            for k in range(len(told))
        ]
    )
    model.net = Told(model, lambda k, z: (variance * chain.alpha / total)[k] * z, lambda k, z: shares[k])
    return model


def moments(x: Tensor, mean: float, variance: float) -> None:
    """Those of draws (N, 1) within four standard errors."""
    x, n = x.double().flatten(), x.numel()
    assert abs(float(x.mean()) - mean) < 4 * math.sqrt(variance / n)
    assert abs(float(x.var()) / variance - 1) < 4 * math.sqrt(2 / n)
