"""A mixture of Gaussians, the target on which samplers show whether they change between modes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.nn.devices import generator_of
from zoo.spec import check_count
from zoo.targets.base import Target


class Gaussians(Target):
    """p(x) = sum_k w_k N(x; m_k, s^2 I): exp(log_density(x)) = sum_k w_k exp(-|x - m_k|^2 / (2 s^2)).

    Everything is known of it: log Z = D / 2 log(2 pi s^2), the mean sum_k w_k m_k, the covariance
    s^2 I + sum_k w_k (m_k - mean) (m_k - mean)^T, and exact draws.

    Args:
        means: m_k, K lists of D numbers.
        scale: s, the standard deviation of each component in each direction.
        weights: w_k, which are divided by their sum; by default all alike.

    Example:
        >>> target = Gaussians([[-2.0, 0.0], [2.0, 0.0]], scale=0.5)
        >>> target.log_density(x)           # (N,) nats
        >>> target.sample(1000, seed=0)     # float32 (1000, 2)

    Raises:
        DataError: there is no such mixture.
    """

    def __init__(self, means: list[list[float]], scale: float = 1.0, weights: list[float] | None = None) -> None:
        if not means or not means[0] or len({len(mean) for mean in means}) > 1:
            raise DataError("means must be one list of numbers for each component, all equally long.")
        if not 0 < scale < math.inf:
            raise DataError(f"scale must be positive, not {scale}.")
        weights = [1.0] * len(means) if weights is None else weights
        if len(weights) != len(means) or not all(0 < weight < math.inf for weight in weights):
            raise DataError(f"weights must be {len(means)} positive numbers, one for each component.")
        self.arguments = {"means": means, "scale": scale, "weights": weights}
        self.shape = (len(means[0]),)
        self.means = torch.tensor(means, dtype=torch.float64, device="cpu")
        self.scale = scale
        self.weights = torch.tensor(weights, dtype=torch.float64, device="cpu")
        self.weights /= self.weights.sum()

    def log_density(self, x: Tensor) -> Tensor:
        """(N, D) to (N,) nats, at most 0."""
        self.check(x)
        means, weights = self.means.to(x), self.weights.to(x)
        square = (x[:, None] - means).square().sum(2)
        return (weights.log() - square / (2 * self.scale**2)).logsumexp(1)

    def log_normalizer(self) -> float:
        """log Z in nats."""
        return self.shape[0] / 2 * math.log(2 * math.pi * self.scale**2)

    @property
    def mean(self) -> Tensor:
        """float64 (D,)."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """float64 (D, D)."""
        away = self.means - self.mean
        own = self.scale**2 * torch.eye(self.shape[0], dtype=torch.float64, device="cpu")
        return own + (self.weights[:, None] * away).T @ away

    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """Draw `n` points exactly, float32 (n, D); a seed gives the same points each time."""
        check_count(n)
        generator = generator_of(seed)
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, *self.shape, generator=generator, dtype=torch.float64)
        return (self.means[chosen] + self.scale * noise).float()
