"""What the tests of several families enumerate, draw and compare."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from zoo.model import GenerativeModel


def disturb(module: nn.Module, by: float = 0.3) -> nn.Module:
    """Move a module far from its initialization, masked weights included, and put it in evaluation mode."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module.eval()


def every_image(shape, levels: int = 2) -> Tensor:
    """All levels ** dims images."""
    values = itertools.product(range(levels), repeat=math.prod(shape))
    return torch.tensor(list(values), dtype=torch.uint8).view(-1, *shape)


def some_images(model: GenerativeModel, n: int) -> Tensor:
    """Images of uniform noise."""
    return torch.randint(0, model.spec.levels, (n, *model.spec.shape), dtype=torch.uint8)


def order(shape) -> Tensor:
    """(C, H, W): the place of each sub-pixel in the order of drawing."""
    colours, height, width = shape
    return torch.arange(math.prod(shape)).view(height, width, colours).permute(2, 0, 1)


def chi_square(draws: Tensor, outcomes: Tensor, probabilities: Tensor) -> float:
    """Pearson's statistic of draws (n, D) against the probabilities of outcomes (m, D)."""
    index = (draws.flatten(1)[:, None] == outcomes.flatten(1)).all(2).int().argmax(1)
    assert torch.equal(outcomes.flatten(1)[index], draws.flatten(1)), "a draw of probability zero"
    counts = torch.bincount(index, minlength=len(outcomes)).double()
    expected = len(draws) * probabilities.double()
    return float(((counts - expected).square() / expected).sum())
