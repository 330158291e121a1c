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
from torch import Tensor

from zoo.adversarial.networks import check_sizes
from zoo.adversarial.pyramid import (
    ConditionalGenerator,
    PyramidCritic,
    PyramidGenerator,
    analysis,
    low_passes,
    synthesis,
    views,
)
from zoo.adversarial.resnet import ResNetCritic, ResNetGenerator
from zoo.batch import Batch
from zoo.errors import DataError
from zoo.metrics.objectives import distance as distance_of
from zoo.model import GenerativeModel
from zoo.model.game import Game
from zoo.model.latents import Latents
from zoo.spec import DataSpec, check_image_shape


def each(value: int | Sequence[int], scales: int) -> list[int]:
    """A number for each scale, of which one may stand for all."""
    return list(value) if isinstance(value, Sequence) else [value] * scales


class LAPGAN(Game, Latents, GenerativeModel):
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

    papers = ("lapgan",)

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
        # Shifted by no more than a side's own digits: the power of an absurd number of scales would fill the memory.
        if any(side.bit_length() <= scales or side % (1 << (scales - 1)) for side in shape[1:]):
            raise DataError(
                f"Images of {shape[1]} x {shape[2]} pixels cannot be halved {scales - 1} times, to 2 x 2 or more: set "
                f"scales lower, or pad the images."
            )
        for name, value in (("channels", channels), ("critic_channels", critic_channels)):
            if isinstance(value, Sequence) and len(value) != scales:
                raise DataError(f"{name} must be one number, or {scales}, one for each scale, not {list(value)}.")
        least = {"channels": min(each(channels, scales)), "critic_channels": min(each(critic_channels or 1, scales))}
        check_sizes(levels, classes, latent_dim=latent_dim, **least)
        super().__init__(distance_of(distance, options), critic_steps=critic_steps)
        if self.distance.features:
            raise DataError(
                f"The distance {distance} is one of features, but the critics of LAPGAN give one number each: set "
                f"distance to hinge or another of one number."
            )
        self.save_hyperparameters()
        self.spec = DataSpec(tuple(shape), levels, classes)
        self.net, self.critic = self.networks()

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

    def real(self, batch: Batch) -> list[Tensor]:
        """The data at each scale, as the critics see them."""
        pyramid = analysis(super().real(batch), self.hparams.scales)
        return views(pyramid, low_passes(pyramid))

    def fake(self, real: list[Tensor], batch: Batch) -> list[Tensor]:
        """What is drawn at each scale, given the low-pass of the data, as the critics see it."""
        lows = [view.chunk(2, 1)[1] for view in real[1:]]
        z = torch.randn(len(real[0]), self.latent_size, device=self.device, dtype=torch.float32)
        return views(self.net(z, batch.label, lows), lows)
