"""Learned features of the integer values of a sub-pixel."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
