"""Residual generators and critics: those of SNGAN, and with labels those of BigGAN on small images.

Miyato et al. 2018 (arXiv 1802.05957): blocks of two convolutions, batch normalization in the generator,
spectral normalization in the critic. Brock et al. 2019 (arXiv 1809.11096): with labels, gain and bias of each batch
normalization are linear in one shared vector of the label and in a piece of the latents of their own, the critic takes
the label by projection, and weights start orthogonal.

Departures: no attention, as in BigGAN's own networks for CIFAR-10, and no orthogonal regularization, without which
truncation works less well; the generator has no spectral normalization.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.adversarial.networks import Head, halvings, normalized
from zoo.errors import DataError
from zoo.nn.devices import precise

SHARED = 128  # components of the vector that stands for a label in the generator


class ConditionalBatchNorm2d(nn.Module):
    """Batch normalization, whose gain and bias follow from a condition (N, size) if it has a size.

    Args:
        channels: of the images.
        size: of the condition, 0 for none.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=not size)
        self.gain = nn.Linear(size, channels, bias=False) if size else None
        self.bias = nn.Linear(size, channels, bias=False) if size else None

    def forward(self, h: Tensor, condition: Tensor | None) -> Tensor:
        """(N, C, H, W) and the condition to (N, C, H, W)."""
        h = self.norm(h)
        if self.gain is None:
            return h
        return h * (1 + self.gain(condition))[:, :, None, None] + self.bias(condition)[:, :, None, None]


class UpBlock(nn.Module):
    """A residual block that doubles the sides.

    Args:
        inputs, outputs: channels.
        size: of the condition, 0 for none.
    """

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ConditionalBatchNorm2d(inputs, size), ConditionalBatchNorm2d(outputs, size)
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, 1, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """(N, C, H, W) to (N, C', 2H, 2W)."""
        h = F.interpolate(F.relu(self.norm1(x, condition)), scale_factor=2)
        h = self.conv2(F.relu(self.norm2(self.conv1(h), condition)))
        # A convolution of one pixel and the enlargement commute: the smaller image is the cheaper one.
        return h + F.interpolate(self.skip(x), scale_factor=2)


class ResNetGenerator(nn.Module):
    """Latents to images.

    Args:
        shape: (C, H, W).
        latent_dim: L; with labels it must divide into a piece for each block and one for the start.
        channels: of all hidden images.
        classes: number of labels, 0 for none.
    """

    def __init__(self, shape: tuple[int, ...], latent_dim: int, channels: int, classes: int = 0) -> None:
        super().__init__()
        count = halvings(shape)
        if classes and latent_dim % (count + 1):
            raise DataError(
                f"latent_dim must be a multiple of {count + 1}, one piece for each block, not {latent_dim}."
            )
        self.piece = latent_dim // (count + 1) if classes else latent_dim
        size = SHARED + self.piece if classes else 0
        self.label = nn.Embedding(classes, SHARED) if classes else None
        self.start = (channels, shape[1] >> count, shape[2] >> count)
        self.first = nn.Linear(self.piece, channels * self.start[1] * self.start[2])
        self.blocks = nn.ModuleList(UpBlock(channels, channels, size) for _ in range(count))
        self.norm, self.last = ConditionalBatchNorm2d(channels, 0), nn.Conv2d(channels, shape[0], 3, 1, 1)
        _orthogonal(self)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """(N, L) and labels (N,) to (N, C, H, W) in [-1, 1]."""
        first, *rest = z.split(self.piece, 1)
        h = self.first(first).view(-1, *self.start)
        for i, block in enumerate(self.blocks):
            h = block(h, None if self.label is None else torch.cat([self.label(label), rest[i]], 1))
        with torch.autocast(h.device.type, enabled=False):  # a 16-bit value is no finer than a level
            return torch.tanh(self.last(F.relu(self.norm(precise(h), None))))


class DownBlock(nn.Module):
    """A residual block of a critic, which may halve the sides.

    Args:
        inputs, outputs: channels.
        halve: whether it halves the sides.
        first: whether it takes images, whose values are not to be rectified.
    """

    def __init__(self, inputs: int, outputs: int, halve: bool, first: bool) -> None:
        super().__init__()
        self.halve, self.first = halve, first
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, 1, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if halve or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W), or half of it."""
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        if self.halve:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        return h + (x if self.skip is None else self.skip(x))


class ResNetCritic(nn.Module):
    """Images to K numbers: blocks that halve the sides to 8 or less, and two that do not.

    Args:
        shape: (C, H, W).
        channels: of all hidden images.
        outputs: K.
        norm: "spectral" or "none".
        classes: number of labels, 0 for none.
    """

    def __init__(
        self, shape: tuple[int, ...], channels: int, outputs: int = 1, norm: str = "spectral", classes: int = 0
    ) -> None:
        super().__init__()
        if norm == "batch":
            raise DataError("A residual critic has no batch normalization: critic_norm must be spectral or none.")
        halved = max(1, halvings(shape) - 1)
        self.blocks = nn.ModuleList(
            DownBlock(shape[0] if i == 0 else channels, channels, i < halved, i == 0) for i in range(halved + 2)
        )
        self.head = Head(channels, outputs, classes)
        _orthogonal(self)
        normalized(self, norm)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """(N, C, H, W) and labels (N,) to (N, K)."""
        for block in self.blocks:
            x = block(x)
        return self.head(F.relu(x).sum((2, 3)), label)


def _orthogonal(network: nn.Module) -> None:
    """Orthogonal weights, and biases of zero."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.orthogonal_(parameter)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
