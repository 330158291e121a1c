"""The layers of which flows of images are built: the ends of a flow, its scales, its couplings and their networks.

A coupling layer takes half of the channels to itself and moves the other half by what a network reads off the first
(Dinh et al. 2015, arXiv 1410.8516, section 3.2): no matter what the network is, the layer can be inverted, and its
log-determinant is a sum. All couplings here work on squeezed images, whose channels are in four groups, one for each
pixel of a block of 2x2. The pairs of groups are then the masks of RealNVP: a checkerboard is a mask of channels, and
the network runs at half the resolution on half the channels, where a masked image would have it read zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import DataError
from zoo.flows.core import Transform
from zoo.nn.activations import ACTIVATIONS, soft_limit
from zoo.nn.masked import residual_gain

# The first two groups are kept and the last two moved. `Squeeze` puts the pixels of a block in the order (0, 0),
# (1, 1), (0, 1), (1, 0): a diagonal, then the other.
PARTITIONS = {"checkerboard": (0, 1, 2, 3), "rows": (0, 2, 1, 3), "columns": (0, 3, 1, 2)}

# -- the ends of a flow ------------------------------------------------------------------------------------------


class Centre(Transform):
    """Levels to [-1/2, 1/2): y / levels - 1/2.

    Args:
        levels: number of values, of unit width.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to the same, and the log-determinant, (N,)."""
        return x / self.levels - 0.5, x.new_full((len(x),), -math.prod(x.shape[1:]) * math.log(self.levels))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to the same, and the log-determinant, (N,)."""
        return (z + 0.5) * self.levels, z.new_full((len(z),), math.prod(z.shape[1:]) * math.log(self.levels))


class Logit(Transform):
    """Levels to the line: logit(p) with p = alpha + (1 - 2 alpha) y / levels (RealNVP, section 4.1).

    Args:
        levels: number of values, of unit width.
        alpha: distance that p keeps from 0 and 1.
    """

    def __init__(self, levels: int, alpha: float) -> None:
        super().__init__()
        self.scale, self.alpha = (1 - 2 * alpha) / levels, alpha

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to the same, and the log-determinant, (N,)."""
        z = torch.logit(self.alpha + self.scale * x)
        return z, -self._log_slope(z)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to the same, and the log-determinant, (N,)."""
        return (torch.sigmoid(z) - self.alpha) / self.scale, self._log_slope(z)

    def _log_slope(self, z: Tensor) -> Tensor:
        """log |dx/dz|, summed: of the sigmoid it is log sigmoid(z) + log sigmoid(-z)."""
        return (F.logsigmoid(z) + F.logsigmoid(-z) - math.log(self.scale)).flatten(1).sum(1)


class Flatten(Transform):
    """Images to vectors.

    Args:
        shape: (C, H, W) of the images.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to (N, D), and zeros (N,)."""
        return x.flatten(1), x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, D) to (N, C, H, W), and zeros (N,)."""
        return z.view(-1, *self.shape), z.new_zeros(len(z))


# -- scales ------------------------------------------------------------------------------------------------------


class Squeeze(Transform):
    """Each block of 2x2 pixels to one of four times the channels: space to depth (RealNVP, section 3.6).

    The channels are in four groups, one for each pixel of the block, in the order (0, 0), (1, 1), (0, 1), (1, 0).
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to (N, 4C, H/2, W/2), and zeros (N,)."""
        blocks = [x[:, :, i::2, j::2] for i, j in ((0, 0), (1, 1), (0, 1), (1, 0))]
        return torch.cat(blocks, 1), x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, 4C, H/2, W/2) to (N, C, H, W), and zeros (N,)."""
        top_left, bottom_right, top_right, bottom_left = z.chunk(4, 1)
        top = torch.stack([top_left, top_right], 4).flatten(3)
        bottom = torch.stack([bottom_left, bottom_right], 4).flatten(3)
        return torch.stack([top, bottom], 3).flatten(2, 3), z.new_zeros(len(z))


def squeezed(shape: Sequence[int]) -> tuple[int, int, int]:
    """(C, H, W) to (4C, H/2, W/2); a `DataError` where the sizes are odd."""
    channels, height, width = shape
    if height % 2 or width % 2:
        raise DataError(
            f"Images of {height}x{width} pixels have no blocks of 2x2 to squeeze: choose fewer scales, or a shape "
            f"whose height and width can be halved once for each scale."
        )
    return 4 * channels, height // 2, width // 2


class FactorOut(Transform):
    """Half of the channels stay and go on, the others leave for the base (RealNVP, section 3.6).

    Args:
        shape: (C, H, W), C even; the first half of the channels stays.
        rest: what those go through, to vectors.
    """

    def __init__(self, shape: Sequence[int], rest: Transform) -> None:
        super().__init__()
        channels, height, width = shape
        self.shape, self.rest = (channels // 2, height, width), rest

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to (N, D), those that went on before those that left, and the log-determinant of `rest`."""
        stay, leave = x.chunk(2, 1)
        stay, log_det = self.rest(stay, context)
        return torch.cat([stay, leave.flatten(1)], 1), log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, D) to (N, C, H, W), and the log-determinant of the inverse of `rest`."""
        stay, leave = z.chunk(2, 1)
        stay, log_det = self.rest.inverse(stay, context)
        return torch.cat([stay, leave.reshape(-1, *self.shape)], 1), log_det


# -- couplings ---------------------------------------------------------------------------------------------------


class Coupling(Transform):
    """What couplings share: which groups of channels are kept and which are moved.

    Args:
        net: from the kept channels to the numbers that move the others.
        partition: "checkerboard", "rows" or "columns", a pair of pixels of each block of 2x2.
        swap: whether the first pair is moved by the second, and not the second by the first.
    """

    def __init__(self, net: nn.Module, partition: str = "checkerboard", swap: bool = False) -> None:
        super().__init__()
        order = PARTITIONS[partition]
        self.net, self.order = net, order[2:] + order[:2] if swap else order
        self.places = [self.order.index(i) for i in range(4)]

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 4C, H, W) to the kept and the moved channels, (N, 2C, H, W) each."""
        groups = x.chunk(4, 1)
        first, second, third, fourth = (groups[i] for i in self.order)
        return torch.cat([first, second], 1), torch.cat([third, fourth], 1)

    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        """The inverse of `split`."""
        groups = [*kept.chunk(2, 1), *moved.chunk(2, 1)]
        return torch.cat([groups[i] for i in self.places], 1)


class AdditiveCoupling(Coupling):
    """The moved channels are shifted, which keeps volumes (NICE, section 3.2)."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, 4C, H, W) to the same, and zeros (N,)."""
        kept, moved = self.split(x)
        return self.join(kept, moved + self.net(kept)), x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, 4C, H, W) to the same, and zeros (N,)."""
        kept, moved = self.split(z)
        return self.join(kept, moved - self.net(kept)), z.new_zeros(len(z))


class AffineCoupling(Coupling):
    """The moved channels are scaled and shifted: moved * exp(s) + t (RealNVP, equations 4 and 5).

    The log-scale is s = bound tanh(raw / bound): one layer neither stretches nor shrinks by more than exp(bound).

    Args:
        net: from the kept channels to raw log-scales and shifts of the others.
        partition: "checkerboard", "rows" or "columns", a pair of pixels of each block of 2x2.
        swap: whether the first pair is moved by the second, and not the second by the first.
        bound: of |s|.
    """

    BOUND = 2.0

    def __init__(
        self, net: nn.Module, partition: str = "checkerboard", swap: bool = False, bound: float = BOUND
    ) -> None:
        super().__init__(net, partition, swap)
        self.bound = bound

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, 4C, H, W) to the same, and the sum of the log-scales, (N,)."""
        kept, moved = self.split(x)
        log_scale, shift = self._numbers(kept)
        return self.join(kept, moved * log_scale.exp() + shift), log_scale.flatten(1).sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, 4C, H, W) to the same, and minus the sum of the log-scales, (N,)."""
        kept, moved = self.split(z)
        log_scale, shift = self._numbers(kept)
        return self.join(kept, (moved - shift) * (-log_scale).exp()), -log_scale.flatten(1).sum(1)

    def _numbers(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = self.net(kept).chunk(2, 1)
        return soft_limit(raw, self.bound), shift


class ResidualNet(nn.Module):
    """A residual convolutional network whose last layer starts at zero, so that a coupling starts as the identity.

    A block is a root-mean-square normalization over the channels of a pixel and two 3x3 convolutions. Those run in
    bfloat16 under autocast; the first and the last layer and the stream of residuals do not, for a 16-bit value is no
    finer than a level.

    Args:
        inputs, outputs: channels.
        channels: of the stream.
        blocks: number of residual blocks.
        dropout: probability of dropping an activation inside a block while training.
        activation: "relu" or "gelu".
    """

    def __init__(
        self, inputs: int, outputs: int, channels: int, blocks: int, dropout: float = 0.0, activation: str = "gelu"
    ) -> None:
        super().__init__()
        self.activation, self.dropout = ACTIVATIONS[activation], nn.Dropout(dropout)
        self.first = convolution(inputs, channels)
        gain = residual_gain(blocks)
        self.blocks = nn.ModuleList(
            nn.ModuleList([convolution(channels, channels), convolution(channels, channels, gain)])
            for _ in range(blocks)
        )
        self.last = convolution(channels, outputs, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W), float32 under autocast too."""
        with torch.autocast(x.device.type, enabled=False):
            h = self.first(x)
        for first, second in self.blocks:
            h = h + second(self.dropout(self.activation(first(self.activation(_normalized(h))))))
        with torch.autocast(x.device.type, enabled=False):
            return self.last(self.activation(_normalized(h)))


def convolution(inputs: int, outputs: int, gain: float = 1.0) -> nn.Conv2d:
    """A 3x3 convolution, whose weights start with standard deviation gain / sqrt(number of inputs)."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(9 * inputs))
    nn.init.zeros_(layer.bias)
    return layer


def _normalized(h: Tensor) -> Tensor:
    return h * torch.rsqrt(h.square().mean(1, keepdim=True) + 1e-6)
