"""What all families on a `RasterNet` share."""

from __future__ import annotations

import pytest
import torch

from zoo.autoregressive import GatedPixelCNN, MultiScalePixelRNN, PixelCNN, PixelCNNPP, PixelRNN


@pytest.mark.parametrize(
    "make",
    [
        lambda: PixelCNN([3, 8, 8], 256, channels=6, blocks=20),
        lambda: GatedPixelCNN([3, 8, 8], 256, channels=6, blocks=20),
        lambda: PixelRNN([3, 8, 8], 256, layer="row", channels=6, layers=20),
        lambda: MultiScalePixelRNN([3, 8, 8], 256, channels=6, layers=20, small_channels=6, small_layers=20),
        lambda: PixelCNNPP([3, 8, 8], 256, channels=8, blocks=20, heads=1),
    ],
    ids=["PixelCNN", "GatedPixelCNN", "PixelRNN", "MultiScalePixelRNN", "PixelCNNPP"],
)
def test_the_first_gradient_of_a_deep_stack_is_tame(make):
    """The first pixel's features are those of its place alone; normalizing none twenty times would overflow."""
    torch.manual_seed(0)
    model = make()
    x = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    model.loss(x).mean().backward()
    norms = {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}
    assert max(norms.values()) < 10, max(norms, key=norms.get)
