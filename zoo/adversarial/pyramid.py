"""Laplacian pyramids of images, and the networks of LAPGAN (arXiv 1506.05751) that draw and judge them.

An image is a small one and, for each doubling of the sides, the residual that the enlarged smaller image lacks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.adversarial.resnet import SHARED, ConditionalBatchNorm2d
from zoo.nn.devices import precise

BLOCKS = 3  # of a conditional generator


def enlarged(x: Tensor) -> Tensor:
    """Twice the sides, linearly: (N, C, H, W) to (N, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def analysis(x: Tensor, scales: int) -> list[Tensor]:
    """The Laplacian pyramid of images, from coarse to fine.

    Args:
        x: (N, C, H, W), sides multiples of 2^(scales - 1).
        scales: images in the pyramid.

    Returns:
        The small image (N, C, H / 2^(scales - 1), ...), then the residuals, the last (N, C, H, W).
    """
    residuals = []
    for _ in range(scales - 1):
        small = F.avg_pool2d(x, 2)
        residuals.append(x - enlarged(small))
        x = small
    return [x, *reversed(residuals)]


def low_passes(pyramid: list[Tensor]) -> list[Tensor]:
    """What each residual of a pyramid is added to, the enlarged image of the scale before, from coarse to fine."""
    image, lows = pyramid[0], []
    for residual in pyramid[1:]:
        lows.append(enlarged(image))
        image = lows[-1] + residual
    return lows


def synthesis(pyramid: list[Tensor]) -> Tensor:
    """The images of a pyramid, (N, C, H, W): the inverse of `analysis`."""
    return low_passes(pyramid)[-1] + pyramid[-1]


def views(pyramid: list[Tensor], lows: list[Tensor]) -> list[Tensor]:
    """What the critics see: the small image, then at each finer scale the image and its low-pass, (N, 2C, H, W)."""
    finer = zip(pyramid[1:], lows, strict=True)
    return [pyramid[0], *(torch.cat([low + residual, low], 1) for residual, low in finer)]


class Refinement(nn.Module):
    """A residual block that keeps the size.

    Args:
        channels: of the images.
        size: of the condition, 0 for none.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ConditionalBatchNorm2d(channels, size), ConditionalBatchNorm2d(channels, size)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(2))

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """(N, C, H, W) to the same."""
        h = self.conv1(F.relu(self.norm1(x, condition)))
        return x + self.conv2(F.relu(self.norm2(h, condition)))


class ConditionalGenerator(nn.Module):
    """An enlarged image and noise to the residual of its scale.

    Args:
        colours: C.
        channels: of all hidden images.
        classes: number of labels, 0 for none.
    """

    def __init__(self, colours: int, channels: int, classes: int) -> None:
        super().__init__()
        self.label = nn.Embedding(classes, SHARED) if classes else None
        self.first = nn.Conv2d(colours + 1, channels, 3, 1, 1)
        self.blocks = nn.ModuleList(Refinement(channels, SHARED if classes else 0) for _ in range(BLOCKS))
        self.norm, self.last = nn.BatchNorm2d(channels), nn.Conv2d(channels, colours, 3, 1, 1)
        # No residual at first: the critic begins with enlarged images, not with noise.
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, low: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """(N, C, H, W), (N, 1, H, W) and labels (N,) to (N, C, H, W)."""
        condition = None if self.label is None else self.label(label)
        h = self.first(torch.cat([low, noise], 1))
        for block in self.blocks:
            h = block(h, condition)
        with torch.autocast(h.device.type, enabled=False):  # a 16-bit value is no finer than a level
            return self.last(F.relu(self.norm(precise(h))))


class PyramidGenerator(nn.Module):
    """Latents to pyramids.

    Args:
        coarse: the generator of the small images, of latents (N, L).
        finer: the conditional generators, from coarse to fine.
        latent_dim: L.
        sides: (H, W) of each finer scale.
    """

    def __init__(
        self, coarse: nn.Module, finer: list[ConditionalGenerator], latent_dim: int, sides: list[tuple[int, int]]
    ) -> None:
        super().__init__()
        self.coarse, self.finer, self.sides = coarse, nn.ModuleList(finer), sides
        self.pieces = [latent_dim, *(height * width for height, width in sides)]

    def forward(self, z: Tensor, label: Tensor | None = None, lows: list[Tensor] | None = None) -> list[Tensor]:
        """(N, sum of pieces) and labels (N,) to pyramids as `analysis` has them, in [-1, 1] at the coarsest scale.

        Args:
            z: latents.
            label: labels, if there are classes.
            lows: the low-pass images (N, C, H, W) of the finer scales; by default those of what was drawn before.
        """
        first, *noises = z.split(self.pieces, 1)
        pyramid = [self.coarse(first, label)]
        image = pyramid[0]
        for i, (generator, noise, sides) in enumerate(zip(self.finer, noises, self.sides, strict=True)):
            low = enlarged(image) if lows is None else lows[i]
            pyramid.append(generator(low, noise.view(-1, 1, *sides), label))
            image = low + pyramid[-1]
        return pyramid


class PyramidCritic(nn.Module):
    """A critic for each scale.

    Args:
        critics: from coarse to fine.
    """

    def __init__(self, critics: list[nn.Module]) -> None:
        super().__init__()
        self.critics = nn.ModuleList(critics)

    def forward(self, seen: list[Tensor], label: Tensor | None = None) -> Tensor:
        """What `views` gives, and labels (N,), to (N, scales)."""
        return torch.cat([critic(view, label) for critic, view in zip(self.critics, seen, strict=True)], 1)
