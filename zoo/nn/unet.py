"""The networks of diffusions: a U-Net for images and a perceptron for points, both told how much noise there is.

The U-Net (Ronneberger et al. 2015, arXiv 1505.04597) has the residual blocks and the attention of Ho et al. 2020
(arXiv 2006.11239), and as in Dhariwal & Nichol 2021 (arXiv 2105.05233, section 3) the noise sets scale and shift after
a normalization. Departures, for speed at few channels: the convolutions between the levels change the number of
channels, so that a level has one width and the larger image the narrow one; the enlarging ones work on the smaller
image; a group of normalization (Wu & He 2018, arXiv 1803.08494) has 16 channels, which are 32 neighbouring bytes in
channels-last bfloat16, the least that a GPU reads; convolutions between the ends have no biases, whose gradients would
read each image again: normalizations and conditions shift each channel. For stability queries and keys are normalized,
as in `zoo.nn.attention`.

How much noise there is says the log-SNR. Both are called `net(z, log_snr, label)`; a label equal to the number of
classes, and no label at all, means that none is known. Under autocast the stream and the convolutions of the U-Net are
in 16 bits, and what must be finer is not: the ends, the conditions, the normalizations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.arguments import count_of
from zoo.errors import DataError
from zoo.nn.devices import precise
from zoo.spec import check_image_shape

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)

HEAD = 64  # channels of a head of attention
GROUP = 16  # channels of a group of normalization
CONDITIONS = 128  # components of the vector that tells the noise and the label
BEYOND = 20.0  # log-SNRs beyond it are taken for it: the noise, or what is left of the data, is 5e-5 of the other


class Conditions(nn.Module):
    """Log-SNRs and labels as vectors: sines and cosines, a hidden layer, and a row of a table added.

    Args:
        classes: number of labels, 0 for none.
        size: of the vectors.
    """

    def __init__(self, classes: int, size: int = CONDITIONS) -> None:
        super().__init__()
        self.first, self.last = (preserving(nn.Linear(size, size)) for _ in range(2))
        self.label = nn.Embedding(classes + 1, size) if classes else None

    def forward(self, log_snr: Tensor, label: Tensor | None) -> Tensor:
        """Log-SNRs (N,), which may be infinite, and labels (N,) or None to (N, size)."""
        features = waves(precise(log_snr), self.first.in_features)
        e = self.last(F.silu(self.first(features.to(self.first.weight.dtype))))
        if self.label is not None:
            e = e + (self.label.weight[-1] if label is None else self.label(label))
        return F.silu(e)


def waves(log_snr: Tensor, size: int) -> Tensor:
    """Sines and cosines of log-SNRs, (N,) to (N, size), size being even.

    From half a period over all log-SNRs to eight radians in a unit, in which a denoiser changes little.
    """
    exponents = torch.linspace(0, 1, size // 2, device=log_snr.device, dtype=log_snr.dtype)
    lowest, highest = math.pi / (2 * BEYOND), 8.0
    angle = log_snr.clamp(-BEYOND, BEYOND)[:, None] * lowest * (highest / lowest) ** exponents
    return torch.cat([angle.sin(), angle.cos()], 1)


def with_waves(z: Tensor, exponents: Sequence[int]) -> Tensor:
    """z and its Fourier features, sin and cos of 2^n pi z for each exponent n: (N, C, ...) to (N, C (1 + 2 n's), ...).

    They show a network what a step of one level changes (Kingma et al. 2021, arXiv 2107.00630, appendix C).
    """
    angles = [2.0**n * math.pi * z for n in exponents]
    return torch.cat([z, *(wave for angle in angles for wave in (angle.sin(), angle.cos()))], 1)


def octaves(levels: int, count: int) -> list[float]:
    """Exponents n of so many features: periods of one level of data in [-1, 1], of two, of four, and so on."""
    # sin(2^n pi z) has a period of one level, 2 / (levels - 1), where 2^n is levels - 1.
    return [math.log2(levels - 1) - octave for octave in range(count)]


class Attention(nn.Module):
    """Of each place to all places, added to what comes in; at first nothing is added.

    Args:
        channels: of the images, in heads of 64; in one where it is no multiple of that.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = 1 if channels % HEAD else channels // HEAD
        self.norm = norm(channels)
        # Three weights and not one: an optimizer that orthogonalizes then treats each of the three maps by itself.
        self.query, self.key, self.value = (preserving(nn.Linear(channels, channels, bias=False)) for _ in range(3))
        self.out = zeroed(nn.Linear(channels, channels, bias=False))
        self.sharpness = nn.Parameter(torch.ones(self.heads))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        places = self.norm(x).flatten(2).mT  # (N, L, C)
        # One product for the three reads the input once.
        weight = torch.cat([self.query.weight, self.key.weight, self.value.weight])
        query, key, value = F.linear(places, weight).unflatten(2, (3, self.heads, -1)).unbind(2)
        query, key = unit(query) * self.sharpness[:, None], unit(key)
        heads = (each.to(value.dtype).transpose(1, 2) for each in (query, key, value))
        h = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return x + self.out(h).mT.unflatten(2, x.shape[2:])


class Block(nn.Module):
    """Two convolutions of normalized images, between which the conditions scale and shift; at first it adds nothing.

    Args:
        inputs, outputs: channels.
        dropout: probability of dropping a value before the second convolution.
        attend: whether attention comes after it.
    """

    def __init__(self, inputs: int, outputs: int, dropout: float, attend: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(inputs), norm(outputs, affine=False)
        self.conv1 = preserving(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
        self.conv2 = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False))
        self.condition = nn.Linear(CONDITIONS, 2 * outputs)  # which `UNet` computes
        self.dropout = nn.Dropout(dropout)
        self.skip = preserving(nn.Conv2d(inputs, outputs, 1, bias=False)) if inputs != outputs else nn.Identity()
        self.attention = Attention(outputs) if attend else nn.Identity()

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """(N, inputs, H, W), and scales and shifts (N, 2 outputs, 1, 1), to (N, outputs, H, W)."""
        scale, shift = told.chunk(2, 1)
        h = self.norm2(self.conv1(F.silu(self.norm1(x)))) * (1 + scale) + shift
        return self.attention(self.skip(x) + self.conv2(self.dropout(F.silu(h))))


class UNet(nn.Module):
    """z (N, C, H, W), log-SNRs (N,) and labels (N,) or None to (N, out_channels, H, W), at first zeros.

    Each level but the first has half the sides of the one before. On the way down a level has so many blocks, on the
    way up one more, each given what a block or a convolution between levels returned on the way down.

    Args:
        shape: (C, H, W) of the images.
        out_channels: of what is returned.
        channels: at best a multiple of 64.
        multipliers: of the channels, one for each level, the largest image first.
        blocks: of a level, on the way down.
        attention: heights of the levels whose blocks have attention; others are passed over. The block in the
            middle always has it.
        dropout: probability of dropping a value inside a block, while training.
        classes: number of labels, 0 for none: labels are then not looked at.
        fourier: exponents n of the features sin and cos of 2^n pi z, which are given beside z.

    Raises:
        DataError: the sides cannot be halved so often, or an argument is out of its range.
    """

    def __init__(
        self,
        shape: Sequence[int],
        out_channels: int,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 3,
        attention: Sequence[int] = (16, 8),
        dropout: float = 0.0,
        classes: int = 0,
        fourier: Sequence[int] = (),
    ) -> None:
        super().__init__()
        check_image_shape(shape)
        check_sizes(out_channels=out_channels, channels=channels, blocks=blocks)
        check_sizes(**{"the number of multipliers": len(multipliers), "a multiplier": min(multipliers, default=1)})
        if not 0 <= dropout < 1:
            raise DataError(f"dropout must be in [0, 1), not {dropout}.")
        halvings = len(multipliers) - 1
        if shape[1] % 2**halvings or shape[2] % 2**halvings:
            raise DataError(
                f"A U-Net of {len(multipliers)} levels takes images whose height and width are multiples of "
                f"{2**halvings}, not {shape[1]}x{shape[2]}: give fewer multipliers."
            )
        self.fourier, widths = tuple(fourier), [channels * multiplier for multiplier in multipliers]

        def level(i: int, inputs: int, count: int) -> nn.ModuleList:
            attend = shape[1] >> i in attention
            return nn.ModuleList(Block(inputs, widths[i], dropout, attend) for _ in range(count))

        self.conditions = Conditions(classes)
        self.first = preserving(nn.Conv2d(shape[0] * (1 + 2 * len(self.fourier)), widths[0], 3, padding=1))
        self.down = nn.ModuleList(level(i, width, blocks) for i, width in enumerate(widths))
        self.shrink = nn.ModuleList(preserving(nn.Conv2d(a, b, 3, 2, 1, bias=False)) for a, b in pairwise(widths))
        self.middle = nn.ModuleList(Block(widths[-1], widths[-1], dropout, attend) for attend in (True, False))
        self.up = nn.ModuleList(level(i, 2 * width, blocks + 1) for i, width in enumerate(widths))
        self.grow = nn.ModuleList(preserving(nn.Conv2d(b, a, 1, bias=False)) for a, b in pairwise(widths))
        self.norm, self.last = norm(widths[0]), zeroed(nn.Conv2d(widths[0], out_channels, 3, padding=1))

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None = None) -> Tensor:
        """z, log-SNRs and labels to (N, out_channels, H, W), in the precision of the weights, also under autocast."""
        kind, z = z.device.type, z.to(self.first.weight.dtype)
        inside = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else z.dtype
        with torch.autocast(kind, enabled=False):  # a 16-bit value is no finer than a level
            told = self._told(self.conditions(log_snr, label))
            h = self.first(with_waves(z, self.fourier)).to(inside)
        passed = [h]
        for i, level in enumerate(self.down):
            if i:
                passed.append(h := self.shrink[i - 1](h))
            for block in level:
                passed.append(h := block(h, told[block]))
        for block in self.middle:
            h = block(h, told[block])
        for i, level in reversed([*enumerate(self.up)]):
            for block in level:
                h = block(torch.cat([h, passed.pop()], 1), told[block])
            if i:  # a convolution of one pixel and the enlargement commute: the smaller image is the cheaper one
                h = F.interpolate(self.grow[i - 1](h), scale_factor=2.0)
        with torch.autocast(kind, enabled=False):
            return self.last(F.silu(self.norm(h.to(z.dtype))))

    def _told(self, e: Tensor) -> dict[Block, Tensor]:
        """Scales and shifts (N, 2 C, 1, 1) of each block, of conditions (N, size), in one product."""
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        weight, bias = (torch.cat([getattr(block.condition, name) for block in blocks]) for name in ("weight", "bias"))
        parts = F.linear(e, weight, bias)[:, :, None, None].split([len(block.condition.bias) for block in blocks], 1)
        return dict(zip(blocks, parts, strict=True))


class Perceptron(nn.Module):
    """z (N, D), log-SNRs (N,) and labels (N,) or None to (N, out_dims), at first zeros.

    Args:
        dims: D.
        out_dims: of what is returned.
        hidden: units of a layer.
        layers: hidden layers.
        classes: number of labels, 0 for none: labels are then not looked at.
    """

    def __init__(self, dims: int, out_dims: int, hidden: int = 256, layers: int = 3, classes: int = 0) -> None:
        super().__init__()
        check_sizes(dims=dims, out_dims=out_dims, hidden=hidden, layers=layers)
        self.conditions = Conditions(classes)
        self.layers = nn.ModuleList(preserving(nn.Linear(hidden if i else dims, hidden)) for i in range(layers))
        self.scales = nn.ModuleList(nn.Linear(CONDITIONS, 2 * hidden) for _ in range(layers))
        self.last = zeroed(nn.Linear(hidden, out_dims))

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None = None) -> Tensor:
        """z, log-SNRs and labels to (N, out_dims), in the precision of the weights, also under autocast."""
        with torch.autocast(z.device.type, enabled=False):  # points are small, and 16 bits a coarse grid
            e, h = self.conditions(log_snr, label), z.to(self.last.weight.dtype)
            for layer, scales in zip(self.layers, self.scales, strict=True):
                scale, shift = scales(e).chunk(2, 1)
                h = F.silu(layer(h) * (1 + scale) + shift)
            return self.last(h)


# -- small things ------------------------------------------------------------------------------------------------


def norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Group normalization in groups of 16 channels, or of the largest divisor of it that divides them."""
    return nn.GroupNorm(channels // math.gcd(channels, GROUP), channels, affine=affine)


def unit(x: Tensor) -> Tensor:
    """Vectors (..., size) with a root mean square of one, in float32."""
    x = precise(x)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def preserving(layer: Layer, gain: float = 1.0) -> Layer:
    """A layer that at first gives what comes in the same variance, or its deviation this gain."""
    nn.init.normal_(layer.weight, std=gain * layer.weight[0].numel() ** -0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def zeroed(layer: Layer) -> Layer:
    """A layer that at first returns zeros."""
    return preserving(layer, gain=0.0)


def check_sizes(**sizes: int) -> None:
    """Refuse numbers below one."""
    for name, value in sizes.items():
        count_of(value, name)
