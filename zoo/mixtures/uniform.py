"""The uniform distribution over all data: log2(levels) bits/dim, the first row of every likelihood table."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.model import GenerativeModel
from zoo.spec import DataSpec


class Uniform(GenerativeModel):
    """Every datum is as likely as every other. There is nothing to train, and no weight.

    Args:
        shape: of one datum, (C, H, W) or (D,).
        levels: number of values of a component.
    """

    def __init__(
        self,
        shape: list[int] = [1, 8, 8],  # noqa: B006  a plain JSON value, never changed
        levels: int = 17,
    ) -> None:
        super().__init__()
        if not 2 <= levels <= 256:
            raise DataError(f"levels must be 2..256, not {levels}.")
        self.save_hyperparameters()
        self.spec = DataSpec(tuple(shape), levels)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) = -D log(levels), exact: (N, *shape) to (N,) nats."""
        x = self.check(x)
        log_p = -self.spec.dims * math.log(self.spec.levels)
        return torch.full((len(x),), log_p, dtype=torch.float64, device=x.device)

    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """Draw `n` data, uint8 (n, *shape)."""
        levels, shape = self.spec.levels, self.spec.shape
        return self.in_chunks(n, seed, lambda draws, _: draws.integers(levels, *shape).to(torch.uint8))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing to do."""

    def configure_optimizers(self) -> None:
        """Nothing to optimize."""
