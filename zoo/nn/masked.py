"""Masked convolutions over images in raster order, and their evaluation one sub-pixel at a time.

A pixel comes after the pixels above it and those to its left in its row; inside a pixel the colours come in
order (R, G, B). Channels are split into as many equal, contiguous groups as there are colours, and a group may
read the groups of the colours before it (mask A) or also its own (mask B): van den Oord et al. 2016
(arXiv 1601.06759), section 3.4 and figure 2.

Every layer here has two evaluations of the same function. Called with images it computes all positions at once.
Called with a `CachedStep` it computes one colour of one pixel and remembers what the positions after it will need,
so that drawing an image costs one pass through the network instead of one for every sub-pixel. A network written in
these layers (and in functions that act on each position alone) is written once and has both.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.devices import precise


class LayerCache:
    """What one layer remembers of the images being drawn; a layer that needs one has `new_cache(batch, width)`."""

    @property
    def nbytes(self) -> int:
        """Bytes remembered."""
        return 0

    def begin_row(self) -> None:
        """Prepare what all pixels of the row take from the rows above."""

    def begin_pixel(self, column: int) -> None:
        """Prepare what all colours of the pixel take from the pixels to its left."""

    def end_row(self) -> None:
        """Move the row, which is drawn, to the rows above."""


class CachedStep:
    """Where an image being drawn stands (row, column, colour), and what each layer remembers of it.

    The caller announces every row and pixel, colour by colour, and ends every row:

        step = CachedStep(batch, width)
        for each row:
            step.begin_row(row)
            for each column:
                step.begin_pixel(column)
                for each colour:
                    step.colour = colour
                    ... network(..., step) ...
            step.end_row()

    Args:
        batch: number of images drawn together.
        width: W of the images.
    """

    def __init__(self, batch: int, width: int) -> None:
        self.batch, self.width = batch, width
        self.row = self.column = self.colour = 0
        self._caches: dict[nn.Module, LayerCache] = {}

    def cache(self, layer: nn.Module) -> LayerCache:
        """The memory of one layer, made by its `new_cache(batch, width)` when the layer is first asked."""
        cache = self._caches.get(layer)
        if cache is None:
            cache = self._caches[layer] = layer.new_cache(self.batch, self.width)
            cache.begin_row()
            cache.begin_pixel(self.column)
        return cache

    def begin_row(self, row: int) -> None:
        """Take from the rows above what the whole row needs, in one convolution a layer."""
        self.row = row
        for cache in self._caches.values():
            cache.begin_row()

    def begin_pixel(self, column: int) -> None:
        """Take from the pixels to the left what all colours of this one need."""
        self.column = column
        for cache in self._caches.values():
            cache.begin_pixel(column)

    def end_row(self) -> None:
        """The row is drawn: it becomes the lowest of the rows above."""
        for cache in self._caches.values():
            cache.end_row()

    @property
    def nbytes(self) -> int:
        """Bytes remembered: linear in the batch and in the number of layers."""
        return sum(cache.nbytes for cache in self._caches.values())


def visible_entries(model: nn.Module) -> dict[str, Tensor]:
    """Which entries of its masked weights a model ever uses: the name of each to booleans of its shape.

    Modules with masked weights say it in `visible()`, by the names of their own weights, in numbers or booleans. What a
    mask hides need not be stored.
    """
    found = {}
    for prefix, module in model.named_modules():
        for name, mask in getattr(module, "visible", dict)().items():
            found[f"{prefix}.{name}".lstrip(".")] = mask.bool()
    return found


class MaskedConv2d(nn.Module):
    """A convolution that sees only what comes before, in raster order and colour order.

    Only the rows of the kernel at and above the centre are stored and computed, and of a kernel of one row only the
    columns up to the centre: the others are all masked.

    Args:
        in_channels, out_channels: multiples of `colours`.
        kernel_size: odd.
        above: False for a kernel of one row, which sees the pixels to the left and not the rows above.
        mask: "A" hides a colour from itself (the first layer, which reads the image), "B" shows it (all others).
        colours: number of colour groups (3 for RGB, 1 for grey).
        gain: factor on the initial standard deviation 1 / sqrt(number of inputs seen).
        bias: whether to add a bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        above: bool = True,
        mask: str = "B",
        colours: int = 1,
        gain: float = 1.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if mask not in ("A", "B"):
            raise ValueError(f"mask must be 'A' or 'B', not {mask!r}.")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {kernel_size}.")
        if in_channels % colours or out_channels % colours:
            raise ValueError(f"{in_channels} and {out_channels} channels do not split into {colours} colours.")
        self.half, self.mask_type, self.colours = kernel_size // 2, mask, colours
        self.rows_above = self.half if above else 0
        self.in_group, self.out_group = in_channels // colours, out_channels // colours
        self.ahead = self.half if above else 0  # columns to the right, of the rows above alone
        visible = torch.ones(out_channels, in_channels, self.rows_above + 1, self.half + 1 + self.ahead)
        visible[:, :, -1, self.half + 1 :] = 0
        out_colour = torch.arange(out_channels) // self.out_group
        in_colour = torch.arange(in_channels) // self.in_group
        before = in_colour < out_colour[:, None] if mask == "A" else in_colour <= out_colour[:, None]
        visible[:, :, -1, self.half] = before.float()
        # Derived from the arguments alone, hence not stored with the weights.
        self.register_buffer("mask", visible, persistent=False)
        fan_in = visible.sum((1, 2, 3), keepdim=True).clamp(min=1)
        self.weight = nn.Parameter(torch.randn_like(visible) * visible * gain / fan_in.sqrt())
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor, step: CachedStep | None = None) -> Tensor:
        """(N, in, H, W) to (N, out, H, W); or, at a cached step, (N, in / colours) to (N, out / colours).

        At a cached step `x` is this colour's input at this pixel. A mask-A layer does not see it: it may be called
        before the colour is known, and `remember` gives it the value after.
        """
        if step is not None:
            cache = step.cache(self)
            if self.mask_type == "B":
                cache.put(step.column, step.colour, x)
            return cache.get(step.column, step.colour)
        if self.half:
            x = F.pad(x, (self.half, self.ahead, self.rows_above, 0))
        return F.conv2d(x, self.weight * self.mask, self.bias)

    def visible(self) -> dict[str, Tensor]:
        """As `visible_entries` asks for it."""
        return {"weight": self.mask}

    def new_cache(self, batch: int, width: int) -> _ConvCache:
        """The memory of this layer for drawing `batch` images of that width."""
        return _ConvCache(self, batch, width)

    def remember(self, x: Tensor, step: CachedStep) -> None:
        """Give a mask-A layer its input (N, in / colours) at this pixel and colour, once it is known."""
        step.cache(self).put(step.column, step.colour, x)


class _ConvCache(LayerCache):
    """Inputs of one `MaskedConv2d` for the rows above and the row so far, and its weights cut to match."""

    def __init__(self, conv: MaskedConv2d, batch: int, width: int) -> None:
        weight = (conv.weight * conv.mask).detach()
        half, rows, groups = conv.half, conv.rows_above, range(conv.colours)
        self.conv, self.half, self.rows, self.width = conv, half, rows, width
        self.bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach()
        self.above_weight = weight[:, :, :rows]
        self.left_weights = [weight[:, :, rows, tap].T.contiguous() for tap in range(half)]
        self.inputs_seen = [(colour + (conv.mask_type == "B")) * conv.in_group for colour in groups]
        self.out = [slice(colour * conv.out_group, (colour + 1) * conv.out_group) for colour in groups]
        self.centre_weights = [
            weight[self.out[colour], : self.inputs_seen[colour], rows, half].T.contiguous() for colour in groups
        ]
        in_channels, out_channels = weight.shape[1], weight.shape[0]
        # The row so far is position-major: a pixel's inputs are then one contiguous matrix (batch, in).
        self.row = weight.new_zeros(width + half, batch, in_channels)
        self.above = weight.new_zeros(batch, in_channels, rows, width + 2 * half)
        self.from_above = self.bias.expand(width, batch, out_channels)
        self.partial = self.from_above[0]

    @property
    def nbytes(self) -> int:
        tensors = [self.row, self.above] + ([self.from_above] if self.rows else [])
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def begin_row(self) -> None:
        if self.rows:
            from_above = F.conv2d(self.above, self.above_weight, self.bias)  # (batch, out, 1, width)
            self.from_above = from_above[:, :, 0].permute(2, 0, 1).contiguous()

    def begin_pixel(self, column: int) -> None:
        partial = self.from_above[column]
        for tap, weight in enumerate(self.left_weights):
            partial = torch.addmm(partial, self.row[column + tap], weight)
        self.partial = partial

    def put(self, column: int, colour: int, x: Tensor) -> None:
        size = self.conv.in_group
        self.row[column + self.half, :, colour * size : (colour + 1) * size] = x

    def get(self, column: int, colour: int) -> Tensor:
        partial, seen = self.partial[:, self.out[colour]], self.inputs_seen[colour]
        if not seen:
            return partial
        return torch.addmm(partial, self.row[column + self.half, :, :seen], self.centre_weights[colour])

    def end_row(self) -> None:
        if not self.rows:
            return
        drawn = self.row[self.half :].permute(1, 2, 0)[:, :, None]  # (batch, in, 1, width)
        drawn = F.pad(drawn, (self.half, self.half))
        self.above = torch.cat([self.above[:, :, 1:], drawn], 2)


class MaskedRMSNorm(nn.Module):
    """Root-mean-square normalization (arXiv 1910.07467) over the channels of one colour at one position.

    Normalizing over all channels would show a colour the ones after it. Computed in float32, without a learned scale,
    which the convolution after it can hold.

    Args:
        channels: a multiple of `colours`.
        colours: number of colour groups.
    """

    def __init__(self, channels: int, colours: int = 1) -> None:
        super().__init__()
        self.colours, self.group, self.eps = colours, channels // colours, 1e-6

    def forward(self, x: Tensor, step: CachedStep | None = None) -> Tensor:
        """(N, C, H, W) to the same; or, at a cached step, (N, C / colours) to the same."""
        if step is not None:
            return F.rms_norm(x, (self.group,), eps=self.eps)
        groups = precise(x).unflatten(1, (self.colours, self.group))
        groups = groups * torch.rsqrt(groups.square().mean(2, keepdim=True) + self.eps)
        return groups.flatten(1, 2)


def residual_gain(blocks: int) -> float:
    """Initial gain of the last layer of each of `blocks` residual branches, so that their sum has unit scale."""
    return 1.0 / math.sqrt(blocks)
