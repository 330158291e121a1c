"""Uniform dequantization: what a density of continuous values says of integer levels.

The levels of a datum x are discrete and a density is not. Noise u uniform on [0, 1) makes x + u continuous, and the
mean of log p(x + u) over it is a lower bound on the log-probability of the levels, P(x) = E_u p(x + u) (Theis, van den
Oord, Bethge, *A note on the evaluation of generative models*, 2016, arXiv 1511.01844, section 3.1). One draw of u gives
an unbiased estimate of that bound; more draws make it less noisy, and not higher.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.arguments import count_of
from zoo.spec import DataSpec


class Dequantized:
    """Mixin of a `zoo.model.GenerativeModel` whose density is one of continuous y in [0, levels), a unit a level."""

    protocol = "uniform dequantization"
    spec: DataSpec

    def log_density(self, y: Tensor) -> Tensor:
        """log p(y) of continuous y: (N, *shape) to (N,) nats."""
        raise NotImplementedError

    def elbo(self, x: Tensor, *, samples: int = 1, seed: int | None = None) -> Tensor:
        """A lower bound on log p(x): log p(x + u) averaged over `samples` draws of uniform noise, (N,) nats."""
        return self.elbo_draws(x, samples=samples, seed=seed).mean(0)

    def elbo_draws(self, x: Tensor, *, samples: int = 1, seed: int | None = None) -> Tensor:
        """log p(x + u) of each of `samples` draws of uniform noise: (N, *shape) to (samples, N) nats.

        The mean over draws is `elbo`; of the mean over data, the draws give the spread.
        """
        x = self.check(x)
        samples = count_of(samples, "samples")
        generator = self.generator(seed)
        # One draw at a time: the noise of a large batch is four times the batch.
        noise = (torch.rand(x.shape, generator=generator).to(x.device) for _ in range(samples))
        return torch.stack([self.log_density(x + u) for u in noise])

    @staticmethod
    def noised(x: Tensor) -> Tensor:
        """x + u of a training batch, whose noise the global generator of the device draws: it was seeded before."""
        return x + torch.rand(x.shape, device=x.device)

    def to_levels(self, y: Tensor) -> Tensor:
        """The level that each value lies in, uint8; what falls outside the levels is set to the nearest."""
        return y.floor().clamp(0, self.spec.levels - 1).to(torch.uint8)
