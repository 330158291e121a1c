"""The convolutional networks of DCGAN (Radford et al. 2016, arXiv 1511.06434).

The generator takes latents to a small image of many channels, and each of its transposed convolutions doubles the sides
and halves the channels; the critic goes the same way back. Batch normalization everywhere but at the images, rectified
units in the generator and leaky ones in the critic, weights that start with a standard deviation of 0.02. With 128
channels for images of 64 x 64 pixels the generator has the sizes of the paper's figure 1.

Departures: kernels are 4 x 4, a multiple of the stride, where the figure has 5 x 5; latents are normal, not uniform;
the sides of the smallest image are at most 7, so that 28 x 28 pixels are possible too, where the paper has 4; the
critic may have spectral normalization, or none, for distances that batch normalization would spoil (a slope with
respect to one image means little where its batch takes part); both may be conditioned on labels; the critic's last
layer is linear, its sigmoid being part of the distance.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.adversarial.networks import Conditioned, Head, halvings, normalized
from zoo.nn.devices import precise


class DCGANGenerator(nn.Module):
    """Latents to images.

    Args:
        shape: (C, H, W).
        latent_dim: L.
        channels: of the largest hidden image; each smaller one has twice as many.
        classes: number of labels, 0 for none.
    """

    def __init__(self, shape: tuple[int, ...], latent_dim: int, channels: int, classes: int = 0) -> None:
        super().__init__()
        count = halvings(shape)
        widths = [channels << i for i in reversed(range(max(1, count)))]
        self.start = (widths[0], shape[1] >> count, shape[2] >> count)
        self.condition = Conditioned(classes)
        self.first = nn.Linear(latent_dim + self.condition.size, math.prod(self.start), bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        layer, kernel = (nn.ConvTranspose2d, (4, 2, 1)) if count else (nn.Conv2d, (3, 1, 1))
        self.layers = nn.ModuleList(
            layer(before, after, *kernel, bias=False) for before, after in itertools.pairwise(widths)
        )
        self.layers.append(layer(widths[-1], shape[0], *kernel))
        _small(self)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """(N, L) and labels (N,) to (N, C, H, W) in [-1, 1]."""
        h = self.first(self.condition(z, label)).view(-1, *self.start)
        *inner, last = zip(self.norms, self.layers, strict=True)
        for norm, layer in inner:
            h = layer(F.relu(norm(h)))
        norm, layer = last
        with torch.autocast(h.device.type, enabled=False):  # a 16-bit value is no finer than a level
            return torch.tanh(layer(F.relu(norm(precise(h)))))


class DCGANCritic(nn.Module):
    """Images to K numbers.

    Args:
        shape: (C, H, W).
        channels: of the first hidden image; each smaller one has twice as many.
        outputs: K.
        norm: "batch", "spectral" or "none".
        classes: number of labels, 0 for none.
    """

    def __init__(
        self, shape: tuple[int, ...], channels: int, outputs: int = 1, norm: str = "batch", classes: int = 0
    ) -> None:
        super().__init__()
        count = halvings(shape)
        widths = [channels << i for i in range(max(1, count))]
        kernel = (4, 2, 1) if count else (3, 1, 1)
        batch = [norm == "batch" and i > 0 for i in range(len(widths))]
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, *kernel, bias=not normalizes)
            for (before, after), normalizes in zip(itertools.pairwise([shape[0], *widths]), batch, strict=True)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(width) if normalizes else nn.Identity()
            for width, normalizes in zip(widths, batch, strict=True)
        )
        self.head = Head(widths[-1] * (shape[1] >> count) * (shape[2] >> count), outputs, classes)
        _small(self)
        normalized(self, norm)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """(N, C, H, W) and labels (N,) to (N, K)."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.leaky_relu(norm(layer(x)), 0.2)
        return self.head(x.flatten(1), label)


def _small(network: nn.Module) -> None:
    """Weights of standard deviation 0.02, as the paper has them."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
        elif name.startswith("norms.") and name.endswith("weight"):
            nn.init.normal_(parameter, 1.0, 0.02)
