"""Inception v3 (Szegedy et al. 2015, arXiv 1512.00567) as the graph that FID was defined with has it.

TensorFlow published that graph on 2015-12-05. It is not the network that came to be called Inception v3 later: average
pools leave the border out of their means, the last block takes a maximum where the one before it takes a mean, and
images come at 299x299 as (image - 128) / 128. Names are the graph's.

A normalization (without a scale, epsilon 1e-3) is constant here, and so part of its convolution: each has a weight and
a bias.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 299  # height and width of an image
FEATURES = 2048


class Convolution(nn.Conv2d):
    """A convolution, normalization included, and a ReLU.

    The output has the size of the input; or, if valid or with a stride, it is that of places wholly within it.
    """

    def __init__(
        self, inputs: int, outputs: int, size: tuple[int, int], *, stride: int = 1, valid: bool = False
    ) -> None:
        padding = 0 if valid or stride > 1 else (size[0] // 2, size[1] // 2)
        super().__init__(inputs, outputs, size, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, outputs, H', W')."""
        return F.relu(super().forward(x), inplace=True)


class Mixed(nn.Module):
    """Branches side by side, their channels one after another."""

    def __init__(self, **branches: nn.Module) -> None:
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, the sum of their channels, H', W')."""
        return torch.cat([branch(x) for branch in self.children()], 1)


class InceptionNetwork(nn.Sequential):
    """Images float32 (N, 3, 299, 299), (image - 128) / 128, to features (N, 2048)."""

    def __init__(self) -> None:
        super().__init__(
            OrderedDict(
                conv=Convolution(3, 32, (3, 3), stride=2),
                conv_1=Convolution(32, 32, (3, 3), valid=True),
                conv_2=Convolution(32, 64, (3, 3)),
                pool=nn.MaxPool2d(3, 2),
                conv_3=Convolution(64, 80, (1, 1)),
                conv_4=Convolution(80, 192, (3, 3), valid=True),
                pool_1=nn.MaxPool2d(3, 2),
                mixed=_block_a(192, 32),
                mixed_1=_block_a(256, 64),
                mixed_2=_block_a(288, 64),
                mixed_3=Mixed(
                    conv=Convolution(288, 384, (3, 3), stride=2),
                    tower=_chain(288, (64, 1, 1), (96, 3, 3), (96, 3, 3), stride=2),
                    pool=nn.MaxPool2d(3, 2),
                ),
                mixed_4=_block_c(128),
                mixed_5=_block_c(160),
                mixed_6=_block_c(160),
                mixed_7=_block_c(192),
                mixed_8=Mixed(
                    tower=_chain(768, (192, 1, 1), (320, 3, 3), stride=2),
                    tower_1=_chain(768, (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3), stride=2),
                    pool=nn.MaxPool2d(3, 2),
                ),
                mixed_9=_block_e(1280, _mean()),
                mixed_10=_block_e(FEATURES, nn.MaxPool2d(3, 1, padding=1)),
                pool_2=nn.AvgPool2d(8),
                flatten=nn.Flatten(),
            )
        )


def _chain(inputs: int, *layers: tuple[int, int, int], stride: int = 1, **before: nn.Module) -> nn.Sequential:
    """Convolutions (outputs, height, width), the last of them with the stride, named as the graph counts them."""
    modules = OrderedDict(before)
    for k, (outputs, *size) in enumerate(layers):
        step = stride if k == len(layers) - 1 else 1
        modules[f"conv_{k}" if k else "conv"] = Convolution(inputs, outputs, tuple(size), stride=step)
        inputs = outputs
    return nn.Sequential(modules)


def _mean() -> nn.Module:
    """Of 3x3 values; at the border of those that there are."""
    return nn.AvgPool2d(3, 1, padding=1, count_include_pad=False)


def _block_a(inputs: int, pooled: int) -> Mixed:
    """At 35x35, to 224 channels and those `pooled`."""
    return Mixed(
        conv=Convolution(inputs, 64, (1, 1)),
        tower=_chain(inputs, (48, 1, 1), (64, 5, 5)),
        tower_1=_chain(inputs, (64, 1, 1), (96, 3, 3), (96, 3, 3)),
        tower_2=_chain(inputs, (pooled, 1, 1), pool=_mean()),
    )


def _block_c(inner: int) -> Mixed:
    """At 17x17, from 768 channels to 768: a 7x7 convolution as one along each axis."""
    return Mixed(
        conv=Convolution(768, 192, (1, 1)),
        tower=_chain(768, (inner, 1, 1), (inner, 1, 7), (192, 7, 1)),
        tower_1=_chain(768, (inner, 1, 1), (inner, 7, 1), (inner, 1, 7), (inner, 7, 1), (192, 1, 7)),
        tower_2=_chain(768, (192, 1, 1), pool=_mean()),
    )


def _block_e(inputs: int, pool: nn.Module) -> Mixed:
    """At 8x8, to 2048 channels: towers that fork."""
    towers = _chain(inputs, (384, 1, 1)), _chain(inputs, (448, 1, 1), (384, 3, 3))
    for tower in towers:
        tower.add_module("mixed", Mixed(conv=Convolution(384, 384, (1, 3)), conv_1=Convolution(384, 384, (3, 1))))
    return Mixed(
        conv=Convolution(inputs, 320, (1, 1)),
        tower=towers[0],
        tower_1=towers[1],
        tower_2=_chain(inputs, (192, 1, 1), pool=pool),
    )
