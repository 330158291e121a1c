"""Activations by the names that models take, and a soft limit for what is exponentiated."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}


def soft_limit(x: Tensor, limit: float) -> Tensor:
    """x near 0, and nowhere beyond (-limit, limit)."""
    return limit * torch.tanh(x * (1 / limit))
