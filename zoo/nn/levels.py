"""The integer values of a sub-pixel as networks see them: spread over [-1, 1], or by learned features."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ZooError
from zoo.nn.devices import precise


def to_unit(x: Tensor, levels: int | None) -> Tensor:
    """Levels spread over [-1, 1], in float32; continuous data, without levels, as they are."""
    return x if levels is None else x.float() * (2 / (levels - 1)) - 1


def finite(y: Tensor) -> Tensor:
    """What a model has drawn, unless it holds NaN or infinite values.

    Raises:
        ZooError: it does.
    """
    if not bool(y.isfinite().all()):
        raise ZooError("What the model draws is NaN or infinite: its weights are damaged, or its run diverged.")
    return y


def from_unit(y: Tensor, levels: int | None) -> Tensor:
    """The level nearest to each value in [-1, 1], uint8; continuous data as they are. The inverse of `to_unit`."""
    if levels is None:
        return finite(y)
    top = levels - 1
    return finite(((precise(y) + 1) * (top / 2)).round().clamp(0, top)).to(torch.uint8)


class LevelFeatures(nn.Module):
    """A learned table of features of the levels: (colours, levels, features).

    It starts as the level in [-1, 1], its square, and sines and cosines of it from half a period over the range to one
    period in 16 levels.

    Args:
        colours: number of colours, each with a table of its own.
        levels: number of values.
        features: columns of a table.
    """

    def __init__(self, colours: int, levels: int, features: int) -> None:
        super().__init__()
        level = torch.linspace(-1, 1, levels)
        frequency = torch.logspace(-1, max(0.0, math.log2(levels / 8)), (features - 1) // 2, base=2)
        phase = math.pi * frequency * level[:, None]
        columns = torch.cat([level[:, None], phase.sin(), phase.cos(), level.square()[:, None]], 1)
        self.table = nn.Parameter(columns[:, :features].repeat(colours, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Features of the values: integers (N, C, H, W) to (N, C * features, H, W)."""
        colours, levels, _ = self.table.shape
        offset = levels * torch.arange(colours, device=x.device)[:, None, None]
        return F.embedding(x.long() + offset, self.table.flatten(0, 1)).permute(0, 1, 4, 2, 3).flatten(1, 2)
