"""Equal Gaussians on a ring and on a grid: targets whose modes lie apart, and of which everything is known.

A flow that is fitted by KL(q || p) leaves modes out, and a Markov chain seldom goes from one to another; here the share
of each mode is known. Eight Gaussians on a ring and 25 on a grid are the usual test (Metz et al. 2017, *Unrolled
Generative Adversarial Networks*, arXiv 1611.02163; Lin et al. 2018, *PacGAN*, arXiv 1712.04086).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.targets.base import Known, Random

MOST = 10_000
"""Modes of a ring, and of a grid along one dimension: a few bytes of configuration must not fill the memory."""


class _Gaussians(Known):
    """What ring and grid share: the checks of sizes."""

    def __init__(self, dims: int, modes: int, lengths: dict[str, float], least: int) -> None:
        if dims < least:
            raise DataError(f"dims must be at least {least}, not {dims}.")
        if not 1 <= modes <= MOST:
            raise DataError(f"modes must be from 1 to {MOST:,}, not {modes}.")
        for name, value in lengths.items():
            if not 0 < value < math.inf:
                raise DataError(f"{name} must be positive, not {value}.")
        self.dims, self.modes = dims, modes
        self.shape = (dims,)


class GaussianRing(_Gaussians):
    """K equal Gaussians at even distances on a circle in the plane of the first two dimensions.

        p(x) = 1/K sum_k N(x; m_k, s^2 I),    m_k = R (cos 2 pi k / K, sin 2 pi k / K, 0, ..., 0)

    Args:
        modes: K.
        radius: R.
        scale: s.
        dims: D, at least 2.

    Example:
        >>> target = GaussianRing(modes=8)
        >>> target.log_density(x)         # (N, 2) to (N,) nats, differentiable
        >>> target.sample(1000, seed=0)   # (1000, 2), exact

    Raises:
        DataError: a size is not positive.
    """

    def __init__(self, modes: int = 8, radius: float = 2.0, scale: float = 0.2, dims: int = 2) -> None:
        super().__init__(dims, modes, {"radius": radius, "scale": scale}, 2)
        self.radius, self.scale = radius, scale
        self.name = f"{modes} Gaussians on a ring in {dims} dimensions"

    def log_density(self, x: Tensor) -> Tensor:
        """log sum_k exp(-|x - m_k|^2 / 2 s^2): floats (N, D) to (N,) nats."""
        x = self.checked(x)
        angle = 2 * math.pi / self.modes * torch.arange(self.modes, dtype=x.dtype, device=x.device)
        centres = self.radius * torch.stack([angle.cos(), angle.sin()], 1)
        square = (x[:, None, :2] - centres).square().sum(2) + x[:, None, 2:].square().sum(2)
        return torch.logsumexp(-square / (2 * self.scale**2), 1)

    def log_normalizer(self) -> float:
        """log K + D/2 log(2 pi s^2) in nats."""
        return math.log(self.modes) + self.dims / 2 * math.log(2 * math.pi * self.scale**2)

    @property
    def mean(self) -> Tensor:
        """Zero, but of a single Gaussian, which lies at (R, 0, ..., 0)."""
        mean = torch.zeros(self.dims, dtype=torch.float64)
        mean[0] = self.radius if self.modes == 1 else 0.0
        return mean

    @property
    def variance(self) -> Tensor:
        """s^2, and R^2 / 2 more in the plane of the ring; two Gaussians lie on a line."""
        variance = torch.full((self.dims,), float(self.scale) ** 2, dtype=torch.float64)
        share = {1: (0.0, 0.0), 2: (1.0, 0.0)}.get(self.modes, (0.5, 0.5))
        variance[:2] += self.radius**2 * torch.tensor(share, dtype=torch.float64)
        return variance

    def draw(self, random: Random, n: int) -> np.ndarray:
        """`n` exact draws, (n, D) in float64: a mode for each, and noise."""
        angle = 2 * np.pi / self.modes * random.randint(self.modes, size=n)
        x = self.scale * random.standard_normal((n, self.dims))
        x[:, :2] += self.radius * np.stack([np.cos(angle), np.sin(angle)], 1)
        return x


class GaussianGrid(_Gaussians):
    """K^D equal Gaussians on the points of a square grid around the origin.

    The components are independent, each a mixture of K Gaussians of the line, so that a grid of 5^100 modes costs no
    more than 500 numbers:

        p(x) = prod_d 1/K sum_k N(x_d; m_k, s^2),    m_k = (k - (K - 1) / 2) h,    k = 0, ..., K - 1

    Args:
        modes: K, along each dimension.
        distance: h, between neighbours.
        scale: s.
        dims: D.

    Example:
        >>> target = GaussianGrid(modes=5, dims=10)
        >>> target.log_density(x)         # (N, 10) to (N,) nats, differentiable

    Raises:
        DataError: a size is not positive.
    """

    def __init__(self, modes: int = 5, distance: float = 2.0, scale: float = 0.2, dims: int = 2) -> None:
        super().__init__(dims, modes, {"distance": distance, "scale": scale}, 1)
        self.distance, self.scale = distance, scale
        self.name = f"{modes}^{dims} Gaussians on a grid"

    def log_density(self, x: Tensor) -> Tensor:
        """sum_d log sum_k exp(-(x_d - m_k)^2 / 2 s^2): floats (N, D) to (N,) nats."""
        x = self.checked(x)
        places = torch.arange(self.modes, dtype=x.dtype, device=x.device) - (self.modes - 1) / 2
        square = (x[:, :, None] - self.distance * places).square()
        return torch.logsumexp(-square / (2 * self.scale**2), 2).sum(1)

    def log_normalizer(self) -> float:
        """D (log K + 1/2 log(2 pi s^2)) in nats."""
        return self.dims * (math.log(self.modes) + math.log(2 * math.pi * self.scale**2) / 2)

    @property
    def mean(self) -> Tensor:
        """Zero."""
        return torch.zeros(self.dims, dtype=torch.float64)

    @property
    def variance(self) -> Tensor:
        """s^2 + h^2 (K^2 - 1) / 12, of a Gaussian and of K even places."""
        value = self.scale**2 + self.distance**2 * (self.modes**2 - 1) / 12
        return torch.full((self.dims,), value, dtype=torch.float64)

    def draw(self, random: Random, n: int) -> np.ndarray:
        """`n` exact draws, (n, D) in float64: a mode for each, and noise."""
        places = random.randint(self.modes, size=(n, self.dims)) - (self.modes - 1) / 2
        return self.distance * places + self.scale * random.standard_normal((n, self.dims))
