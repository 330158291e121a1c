"""The networks of diffusions: a U-Net for images and a perceptron for points, both told how much noise there is.

The U-Net (Ronneberger et al. 2015, arXiv 1505.04597) has the residual blocks and the attention of Ho et al. 2020
(arXiv 2006.11239), and as in Dhariwal & Nichol 2021 (arXiv 2105.05233, section 3) the noise sets scale and shift after
a normalization. Departures, for speed at few channels: the convolutions between the levels change the number of
channels, so that a level has one width and the larger image is left with the narrow one; groups of normalization have
16 channels, neighbours in memory (Wu & He 2018, arXiv 1803.08494, find no better size). For stability queries and keys
are normalized, as in `zoo.nn.attention`.

How much noise there is says the log-SNR. Both are called `net(z, log_snr, label)`; a label equal to the number of
classes, and no label at all, means that none is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.arguments import count_of
from zoo.errors import DataError
from zoo.nn.devices import precise
from zoo.spec import check_image_shape

HEAD = 64  # channels of a head of attention
GROUP = 16  # channels of a group of normalization
BEYOND = 20.0  # log-SNRs beyond it are taken for it: the noise, or what is left of the data, is 5e-5 of the other


class Conditions(nn.Module):
    """Log-SNRs and labels as vectors: sines and cosines, a hidden layer, and a row of a table added.

    Args:
        size: of the vectors.
        classes: number of labels, 0 for none.
    """

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(size // 2 * 2, size), nn.Linear(size, size)
        self.label = nn.Embedding(classes + 1, size) if classes else None

    def forward(self, log_snr: Tensor, label: Tensor | None) -> Tensor:
        """Log-SNRs (N,), which may be infinite, and labels (N,) or None to (N, size)."""
        # Angles in float32: they reach the hundreds.
        e = self.last(F.silu(self.first(waves(precise(log_snr, self.first.weight), self.first.in_features))))
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
        self.query, self.key, self.value = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.out = zeroed(nn.Linear(channels, channels))
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
    """Two convolutions of normalized images, between which the conditions scale and shift; at first it does nothing.

    Args:
        inputs, outputs: channels.
        size: of the vectors of the conditions.
        dropout: probability of dropping a value before the second convolution.
        attend: whether attention comes after it.
    """

    def __init__(self, inputs: int, outputs: int, size: int, dropout: float, attend: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(inputs), norm(outputs, affine=False)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.condition = nn.Linear(size, 2 * outputs)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attention = Attention(outputs) if attend else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """(N, inputs, H, W) and conditions (N, size) to (N, outputs, H, W)."""
        scale, shift = self.condition(e)[:, :, None, None].chunk(2, 1)
        h = self.norm2(self.conv1(F.silu(self.norm1(x)))) * (1 + scale) + shift
        return self.attention(self.skip(x) + self.conv2(self.dropout(F.silu(h))))


class UNet(nn.Module):
    """z (N, C, H, W), log-SNRs (N,) and labels (N,) or None to (N, out_channels, H, W), at first zeros.

    Each level but the first has half the sides of the one before. On the way down a level has so many blocks, on the
    way up one more, each given what a block or a convolution between levels returned on the way down.

    Args:
        shape: (C, H, W) of the images.
        out_channels: of what is returned.
        channels: of the first level, at best a multiple of 64.
        multipliers: of the channels, one for each level.
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
        check_sizes(out_channels=out_channels, channels=channels, blocks=blocks, multipliers=len(multipliers))
        check_sizes(**{f"multipliers[{i}]": each for i, each in enumerate(multipliers)})
        if not 0 <= dropout < 1:
            raise DataError(f"dropout must be in [0, 1), not {dropout}.")
        halvings = len(multipliers) - 1
        if shape[1] % 2**halvings or shape[2] % 2**halvings:
            raise DataError(
                f"A U-Net of {len(multipliers)} levels takes images whose height and width are multiples of "
                f"{2**halvings}, not {shape[1]}x{shape[2]}: give fewer multipliers."
            )
        self.fourier = tuple(fourier)
        widths, size = [channels * multiplier for multiplier in multipliers], 2 * channels
        self.conditions = Conditions(size, classes)
        self.first = nn.Conv2d(shape[0] * (1 + 2 * len(self.fourier)), channels, 3, padding=1)

        def level(inputs: int, i: int, count: int) -> nn.ModuleList:
            attend = shape[1] >> i in attention
            return nn.ModuleList(Block(inputs, widths[i], size, dropout, attend) for _ in range(count))

        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(level(width, i, blocks) for i, width in enumerate(widths))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.middle = nn.ModuleList(Block(widths[-1], widths[-1], size, dropout, attend) for attend in (True, False))
        self.up = nn.ModuleList(level(2 * width, i, blocks + 1) for i, width in enumerate(widths))
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.norm, self.last = norm(channels), zeroed(nn.Conv2d(channels, out_channels, 3, padding=1))

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None = None) -> Tensor:
        """z, log-SNRs and labels to (N, out_channels, H, W) in float32, or float64; also under autocast."""
        e = self.conditions(log_snr, label)
        z = precise(z, self.first.weight)
        kind = z.device.type
        half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else z.dtype
        with torch.autocast(kind, enabled=False):  # a 16-bit value is no finer than a level
            h = self.first(with_waves(z, self.fourier)).to(half)
        passed = [h]
        for i, level in enumerate(self.down):
            if i:
                passed.append(h := self.shrink[i - 1](h))
            for block in level:
                passed.append(h := block(h, e))
        for block in self.middle:
            h = block(h, e)
        for i, level in reversed([*enumerate(self.up)]):
            for block in level:
                h = block(torch.cat([h, passed.pop()], 1), e)
            if i:
                # The two commute, and on the smaller image the convolution is the cheaper one.
                h = F.interpolate(self.grow[i - 1](h), scale_factor=2.0)
        with torch.autocast(kind, enabled=False):
            return self.last(F.silu(self.norm(precise(h))))


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
        self.conditions = Conditions(hidden, classes)
        self.layers = nn.ModuleList(nn.Linear(hidden if i else dims, hidden) for i in range(layers))
        self.scales = nn.ModuleList(nn.Linear(hidden, 2 * hidden) for _ in range(layers))
        self.last = zeroed(nn.Linear(hidden, out_dims))

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None = None) -> Tensor:
        """z, log-SNRs and labels to (N, out_dims)."""
        e, h = self.conditions(log_snr, label), precise(z, self.last.weight)
        for layer, condition in zip(self.layers, self.scales, strict=True):
            scale, shift = condition(e).chunk(2, 1)
            h = F.silu(layer(h) * (1 + scale) + shift)
        with torch.autocast(z.device.type, enabled=False):
            return self.last(precise(h))


# -- small things ------------------------------------------------------------------------------------------------


def norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Group normalization in groups of 16 channels, or of the largest divisor of it that divides them."""
    return nn.GroupNorm(channels // math.gcd(channels, GROUP), channels, affine=affine)


def unit(x: Tensor) -> Tensor:
    """Vectors (..., size) with a root mean square of one, in float32."""
    x = precise(x)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def zeroed(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """A layer that at first returns zeros."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def check_sizes(**sizes: int) -> None:
    """Refuse numbers below one."""
    for name, value in sizes.items():
        count_of(value, name)
