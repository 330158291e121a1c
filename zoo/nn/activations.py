"""Activations by the names that models take."""

from __future__ import annotations

import torch.nn.functional as F

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}
