"""Uniform dequantization: what a density of continuous values says of integer levels.

The levels of a datum x are discrete and a density is not. Noise u uniform on [0, 1) makes x + u continuous, and the
mean of log p(x + u) over it is a lower bound on the log-probability of the levels, P(x) = E_u p(x + u) (Theis, van den
Oord, Bethge, *A note on the evaluation of generative models*, 2016, arXiv 1511.01844, section 3.1). One draw of u gives
an unbiased estimate of that bound; more draws make it less noisy, and not higher.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.arguments import count_of
from zoo.nn.draws import Draws
from zoo.nn.levels import finite
from zoo.spec import DataSpec


class Dequantized:
    """Mixin of a `zoo.model.GenerativeModel` whose density is one of continuous y in [0, levels), a unit a level."""

    protocol = "uniform dequantization"
    spec: DataSpec
    metric: str
    training: bool

    def log_density(self, y: Tensor) -> Tensor:
        """log p(y) of continuous y: (N, *shape) to (N,) nats."""
        raise NotImplementedError

    def elbo(self, x: Tensor, *, samples: int = 1, seed: int | None = None, index: Tensor | None = None) -> Tensor:
        """A lower bound on log p(x): log p(x + u) averaged over `samples` draws of uniform noise, (N,) nats."""
        return self.elbo_draws(x, samples=samples, seed=seed, index=index).mean(0)

    def elbo_draws(
        self, x: Tensor, *, samples: int = 1, seed: int | None = None, index: Tensor | None = None
    ) -> Tensor:
        """log p(x + u) of each of `samples` draws of uniform noise: (N, *shape) to (samples, N) nats.

        The mean over draws is `elbo`; of the mean over data, the draws give the spread.
        """
        x, samples = self.check(x), count_of(samples, "samples")
        draws = Draws(seed, self.check_index(index, len(x)))
        # One draw at a time: the noise of a large batch is four times the batch.
        noise = (draws.uniform(*x.shape[1:]).to(x.device) for _ in range(samples))
        return torch.stack([self.log_density(x + u) for u in noise])

    def loss(self, x: Tensor, *, index: Tensor | None = None) -> Tensor:
        """(N,) the bound's negative, in the unit that `metric` names, with one draw of noise for each datum.

        Outside of training the noise is the same each time.
        """
        if not self.training:
            bound = self.elbo(x, seed=0, index=index)
        else:
            x = self.check(x)
            bound = self.log_density(self.noised(x))
        return -bound if self.metric == "nats" else -bound / (self.spec.dims * math.log(2))

    @staticmethod
    def noised(x: Tensor) -> Tensor:
        """x + u of a training batch, whose noise the global generator of the device draws: it was seeded before."""
        return x + torch.rand(x.shape, device=x.device, dtype=torch.float32)

    def to_levels(self, y: Tensor) -> Tensor:
        """The level that each value lies in, uint8; what falls outside the levels is set to the nearest."""
        return finite(y.floor().clamp(0, self.spec.levels - 1)).to(torch.uint8)
