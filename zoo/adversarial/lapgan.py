"""LAPGAN: Denton, Chintala, Szlam, Fergus, *Deep Generative Image Models using a Laplacian Pyramid of Adversarial
Networks*, 2015, arXiv 1506.05751.

An image is split into a small one and, for each doubling of the sides, the residual that the enlarged smaller image
lacks: a Laplacian pyramid, which loses nothing. A generator draws the small image from latents; at each finer scale
another one, given the enlarged image and a plane of noise, draws the residual, and a critic of that scale judges their
sum with the enlarged image in view. In training each scale is given the low-pass of the data, so that the scales learn
independently of one another; samples are drawn from coarse to fine.

Departures:

- images are reduced by means of 2 x 2 pixels and enlarged linearly, where the paper has the filters of Burt & Adelson;
- residual networks (`zoo.adversarial.resnet`) with spectrally normalized critics and the hinge distance, for the
  perceptrons and plain convolutions of 2015 and the distance of the first GAN. The conditional generators still are
  convolutions at the full resolution of their scale;
- a critic gets the low-pass beside the sum, and need not take it from the sum;
- labels, of the paper's class-conditional LAPGAN, act on batch normalizations and by projection, not as planes;
- all scales are trained in one loop, on the mean of their distances: no weight is in two of them, and Adam does not
  depend on the scale of a loss, so this is training each alone;
- a latent is one vector: the numbers for the small image, then the planes of noise from coarse to fine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.adversarial.gan import GAN
from zoo.adversarial.resnet import SHARED, ConditionalBatchNorm2d, ResNetCritic, ResNetGenerator
from zoo.errors import DataError
from zoo.metrics.objectives import DISTANCES
from zoo.spec import check_image_shape

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
            return self.last(F.relu(self.norm(h.float())))


class PyramidGenerator(nn.Module):
    """Latents to pyramids.

    Args:
        coarse: the generator of the small images, of latents (N, L).
        finer: the conditional generators, from coarse to fine.
        latent_dim: L.
        sides: (H, W) of each finer scale.
    """

    def __init__(
        self, coarse: nn.Module, finer: list[ConditionalGenerator], latents: int, sides: list[tuple[int, int]]
    ) -> None:
        super().__init__()
        self.coarse, self.finer, self.sides = coarse, nn.ModuleList(finer), sides
        self.pieces = [latents, *(height * width for height, width in sides)]

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


def each(value: int | Sequence[int], scales: int) -> list[int]:
    """A number for each scale, of which one may stand for all."""
    return list(value) if isinstance(value, Sequence) else [value] * scales


def views(pyramid: list[Tensor], lows: list[Tensor]) -> list[Tensor]:
    """What the critics see: the small image, then at each finer scale the image and its low-pass, (N, 2C, H, W)."""
    finer = zip(pyramid[1:], lows, strict=True)
    return [pyramid[0], *(torch.cat([low + residual, low], 1) for residual, low in finer)]


class LAPGAN(GAN):
    """A small image from latents, then a residual at each finer scale, given the enlarged image.

    Args:
        shape: (C, H, W) of the images, sides multiples of 2^(scales - 1).
        levels: number of values of a sub-pixel.
        classes: number of labels to condition on, those of the data; 0 for an unconditional model.
        scales: images in the pyramid; each is half as high and wide as the next.
        latent_dim: components of a latent for the small image, of a normal distribution; each pixel of the finer scales
            has one more.
        channels: of all hidden images of the generators: one number, or one for each scale from coarse to fine.
        critic_channels: the same of the critics; by default those of the generators.
        distance: one of `zoo.metrics.objectives.NAMES` that takes one number of a critic.
        options: arguments of the distance's class.
        critic_steps: of the critics for one of the generators.
        lr: learning rate of the generators.
        critic_lr: of the critics; by default the same.
        beta1, beta2: of Adam.
        decay: whether both learning rates fall linearly to zero over the run.

    Example:
        >>> model = LAPGAN(shape=[1, 8, 8], levels=17, scales=2, channels=8)
        >>> x = model.sample(4, seed=0)             # uint8 (4, 1, 8, 8)
        >>> model.latents(2, seed=0).shape          # 128 for 1 x 4 x 4 pixels, 64 for the noise at 8 x 8
        torch.Size([2, 192])
    """

    net: PyramidGenerator

    def __init__(
        self,
        shape: list[int],
        levels: int = 256,
        classes: int = 0,
        scales: int = 3,
        latent_dim: int = 128,
        channels: int | Sequence[int] = 96,
        critic_channels: int | Sequence[int] | None = None,
        distance: str = "hinge",
        options: dict[str, Any] | None = None,
        critic_steps: int = 1,
        lr: float = 2e-4,
        critic_lr: float | None = None,
        beta1: float = 0.0,
        beta2: float = 0.999,
        decay: bool = False,
    ) -> None:
        if scales < 2:
            raise DataError(f"scales must be at least 2, the small image and a finer one, not {scales}.")
        check_image_shape(shape)
        if any(side % 2 ** (scales - 1) or side < 2**scales for side in shape[1:]):
            raise DataError(
                f"Images of {shape[1]} x {shape[2]} pixels cannot be halved {scales - 1} times, to 2 x 2 or more: set "
                f"scales lower, or pad the images."
            )
        for name, value in (("channels", channels), ("critic_channels", critic_channels)):
            if isinstance(value, Sequence) and len(value) != scales:
                raise DataError(f"{name} must be one number, or {scales}, one for each scale, not {list(value)}.")
        if distance in DISTANCES and DISTANCES[distance].features:
            raise DataError(
                f"The distance {distance} is one of features, but the critics of LAPGAN give one number each: set "
                f"distance to hinge or another of one number."
            )
        super().__init__(
            shape,
            levels,
            classes,
            network="resnet",
            latent_dim=latent_dim,
            channels=min(each(channels, scales)),  # there only looked at: the hyperparameters are those given here
            critic_channels=None if critic_channels is None else min(each(critic_channels, scales)),
            critic_norm="spectral",
            distance=distance,
            options=options,
            critic_steps=critic_steps,
            lr=lr,
            critic_lr=critic_lr,
            beta1=beta1,
            beta2=beta2,
            decay=decay,
        )

    def networks(self) -> tuple[PyramidGenerator, PyramidCritic]:
        """The generators and the critics of all scales."""
        given, classes, (colours, *sides) = self.hparams, self.spec.classes, self.spec.shape
        (small, *finer) = [tuple(side >> i for side in sides) for i in reversed(range(given.scales))]
        first, *others = widths = each(given.channels, given.scales)
        coarse = ResNetGenerator((colours, *small), given.latent_dim, first, classes)
        conditional = [ConditionalGenerator(colours, width, classes) for width in others]
        shapes = [(colours, *small), *((2 * colours, *side) for side in finer)]
        of_critics = each(given.critic_channels or widths, given.scales)
        critics = [ResNetCritic(shape, width, classes=classes) for shape, width in zip(shapes, of_critics, strict=True)]
        return PyramidGenerator(coarse, conditional, given.latent_dim, finer), PyramidCritic(critics)

    @property
    def latent_size(self) -> int:
        """Components of a latent: those of the small image, and one for each pixel of the finer scales."""
        return sum(self.net.pieces)

    def generate(self, z: Tensor, label: Tensor | None) -> Tensor:
        """Latents to images, from coarse to fine."""
        return synthesis(self.net(z, label))

    def imitation(self, original: list[Tensor], label: Tensor | None) -> list[Tensor]:
        """What is drawn at each scale, given the low-pass of the data, as the critics see it."""
        lows = [view.chunk(2, 1)[1] for view in original[1:]]
        z = torch.randn(len(original[0]), self.latent_size, device=self.device)
        return views(self.net(z, label, lows), lows)

    def original(self, real: Tensor) -> list[Tensor]:
        """The data at each scale, as the critics see them."""
        pyramid = analysis(real, self.hparams.scales)
        return views(pyramid, low_passes(pyramid))

    def other_labels(self, label: Tensor | None) -> Tensor | None:
        """Those of the data, whose low-pass is given."""
        return label
