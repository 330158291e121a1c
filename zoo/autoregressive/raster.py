"""What PixelCNN and its kin share: images as sequences of sub-pixels in raster order.

A network gives the distribution of each sub-pixel given those before it (rows from the top, pixels from the left, red
before green before blue), as a softmax over the levels or, for binary images, a Bernoulli. The family is the body of
that network; its ends, the likelihood and the drawing are here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from zoo.errors import DataError
from zoo.model import GenerativeModel
from zoo.nn.activations import ACTIVATIONS
from zoo.nn.devices import full_precision, precise
from zoo.nn.draws import Draws
from zoo.nn.levels import LevelFeatures
from zoo.nn.masked import CachedStep, MaskedConv2d, MaskedRMSNorm
from zoo.spec import DataSpec, check_image_shape


def place_biases(channels: int, height: int, width: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Learned biases of each row, (channels, height), and of each column, (channels, width).

    They do not start at zero: where a pixel sees nothing else, each normalization would multiply the gradient of no
    features by 1000, and beyond a dozen layers it would overflow.
    """
    return nn.Parameter(0.3 * torch.randn(channels, height)), nn.Parameter(0.3 * torch.randn(channels, width))


def reading(x: Tensor, embed: LevelFeatures | None) -> torch.autocast:
    """The precision of layers that read images encoded by `embed`."""
    # A scaled image, the residual stream and the logits stay in float32: a 16-bit value is no finer than a level.
    # An embedding has fine features of its own.
    kind = x.device.type
    return torch.autocast(kind, enabled=embed is not None and torch.is_autocast_enabled(kind))


class RasterNet(nn.Module):
    """Images to the log-probability of each sub-pixel given those before it.

    Called, uint8 (N, C, H, W) to nats (N, C, H, W). A 7x7 mask-A convolution and a learned bias for each row and each
    column start the stream of float32 features; a family defines the `body` that works on it; a normalization and two
    1x1 layers give the logits. Its parts are what drawing needs: `begin`, `encode`, `logits` and `remember`.

    Args:
        shape: (C, H, W) of the images.
        levels: number of values of a sub-pixel.
        stream: channels of the stream, a multiple of C.
        activation: "relu" or "gelu", of the last layers.
        embedding: number of learned features of a level, at the input and at the logits; 0 for none.
        first_kernel: of the first layer.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int,
        stream: int,
        activation: str,
        embedding: int,
        first_kernel: int = 7,
    ) -> None:
        super().__init__()
        colours, height, width = shape
        self.levels, self.colours, self.width, self.outputs = levels, colours, width, 1 if levels == 2 else levels
        self.activation = ACTIVATIONS[activation]
        self.embed = LevelFeatures(colours, levels, embedding) if embedding else None
        self.first = MaskedConv2d(
            colours * (embedding or 1), stream, first_kernel, mask="A", colours=colours, bias=False
        )
        self.row_bias, self.column_bias = place_biases(stream, height, width)
        self.norm = MaskedRMSNorm(stream, colours)
        self.hidden = MaskedConv2d(stream, stream, colours=colours)
        self.head = MaskedConv2d(stream, colours * self.outputs, colours=colours, gain=0.1)
        if embedding:
            self.smooth = MaskedConv2d(stream, colours * embedding, colours=colours, gain=0.1)
            self.levels_out = LevelFeatures(colours, levels, embedding)

    def body(self, h: Tensor, step: CachedStep | None = None, **conditions: Any) -> Tensor:
        """The stream (N, stream, H, W) to the same; or, at a cached step, (N, stream / C) to the same."""
        raise NotImplementedError

    def forward(self, x: Tensor, **conditions: Any) -> Tensor:
        """Integers (N, C, H, W) to log p of each, in nats, (N, C, H, W)."""
        return self.log_likelihood(self.logits(self.encode(x), **conditions), x)

    def log_likelihood(self, logits: Tensor, x: Tensor) -> Tensor:
        """Log p in nats (N, C, H, W) of integers (N, C, H, W), from the logits (N, C, K, H, W)."""
        if self.levels == 2:
            return -F.binary_cross_entropy_with_logits(logits[:, :, 0], x.to(logits.dtype), reduction="none")
        # Classes last: the rows of the softmax are then contiguous in channels-last memory.
        rows, target = logits.permute(0, 3, 4, 1, 2), x.permute(0, 2, 3, 1)
        nll = F.cross_entropy(rows.flatten(0, 3), target.long().flatten(), reduction="none")
        return -nll.view(target.shape).permute(0, 3, 1, 2)

    def encode(self, x: Tensor, colour: int | None = None) -> Tensor:
        """What the first layer reads: integers (N, C, H, W) to (N, C * F, H, W); of one `colour`, (N,) to (N, F).

        F is 1, the level scaled to [-1, 1], or the size of the embedding.
        """
        if self.embed is None:
            scaled = precise(x, self.row_bias) * (2.0 / (self.levels - 1)) - 1.0
            return scaled if colour is None else scaled[:, None]
        return self.embed(x) if colour is None else self.embed.table[colour][x.long()]

    def logits(self, x: Tensor, step: CachedStep | None = None, **conditions: Any) -> Tensor:
        """Encoded images (N, C * F, H, W) to logits (N, C, K, H, W); at a cached step, (N, F) to (N, K).

        K is the number of levels, or 1 for binary images: the logit of a one.
        """
        return self.finish(self.body(self.start(x, step), step, **conditions), step)

    def start(self, x: Tensor, step: CachedStep | None) -> Tensor:
        """The first layer and the biases of rows and columns."""
        with reading(x, self.embed):
            h = self.first(x, step)
        return h + self._position(step)

    def finish(self, h: Tensor, step: CachedStep | None) -> Tensor:
        """The last layers, from the stream to the logits."""
        h = self.activation(self.hidden(self.activation(self.norm(h, step)), step))
        with torch.autocast(h.device.type, enabled=False):
            return self._head(precise(h), step)

    def _head(self, h: Tensor, step: CachedStep | None) -> Tensor:
        logits = self.head(h, step)
        if step is not None:
            if self.embed is None:
                return logits
            return torch.addmm(logits, self.smooth(h, step), self.levels_out.table[step.colour].T)
        logits = logits.unflatten(1, (self.colours, self.outputs))
        if self.embed is None:
            return logits
        smooth = self.smooth(h).unflatten(1, (self.colours, -1))
        return logits + torch.einsum("ncfhw,ckf->nckhw", smooth, self.levels_out.table)

    def _position(self, step: CachedStep | None) -> Tensor:
        if step is None:
            return self.row_bias[:, :, None] + self.column_bias[:, None, :]
        size = self.row_bias.shape[0] // self.colours
        group = slice(step.colour * size, (step.colour + 1) * size)
        return self.row_bias[group, step.row] + self.column_bias[group, step.column]

    def by_place(self, row: Tensor) -> Tensor:
        """Channels of a row (N, C * F, 1, W) as a cached step takes them, by column and colour: (W, C, N, F)."""
        return row[:, :, 0].unflatten(1, (self.colours, -1)).permute(3, 1, 0, 2).contiguous()

    def begin(self, batch: int) -> CachedStep:
        """The memory for drawing `batch` images."""
        return CachedStep(batch, self.width)

    def remember(self, value: Tensor, step: CachedStep) -> None:
        """Give the first layer the value (N,) of the sub-pixel at this step, once it is drawn."""
        self.first.remember(self.encode(value, step.colour), step)


class RasterModel(GenerativeModel):
    """A model whose `net` is a `RasterNet`, with exact likelihood.

    Args:
        shape: (C, H, W) of the images.
        levels: number of values of a sub-pixel: 256 for 8-bit images, 2 for binary ones.
        classes: number of labels that a model is conditioned on, 0 for none.
    """

    net: RasterNet

    def __init__(self, shape: list[int], levels: int, classes: int = 0) -> None:
        super().__init__()
        check_image_shape(shape)
        if not 2 <= levels <= 256:
            raise DataError(f"levels must be 2..256, not {levels}.")
        self.spec = DataSpec(tuple(shape), levels, classes)

    def check_network(self, channels: int, activation: str, embedding: int) -> None:
        """Refuse arguments of a `RasterNet` that make no network for these images."""
        colours, levels = self.spec.shape[0], self.spec.levels
        if channels < 1 or channels % colours:
            raise DataError(f"channels must be a positive multiple of the {colours} colours, not {channels}.")
        if activation not in ACTIVATIONS:
            raise DataError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}.")
        if embedding and (embedding < 4 or levels == 2):
            raise DataError(f"embedding must be 0, or at least 4 for images of more than 2 levels, not {embedding}.")

    @staticmethod
    def check_blocks(blocks: int, kernel_size: int) -> None:
        """Refuse a stack of convolutions without blocks, or with kernels that have no centre."""
        if blocks < 1 or kernel_size < 1 or kernel_size % 2 == 0:
            raise DataError(f"blocks must be positive and kernel_size odd, not {blocks} and {kernel_size}.")

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), exact: images uint8 (N, C, H, W) to (N,) nats."""
        x = self.check(x)
        return self.net(x).flatten(1).sum(1)

    def sample(self, n: int, *, seed: int | None = None, cached: bool = True) -> Tensor:
        """Draw `n` images, uint8 (n, C, H, W).

        Args:
            n: number of images.
            seed: the same seed gives the same images, the first of them whatever `n` is.
            cached: remember the activations of earlier pixels (one pass of the network in all); False runs the whole
                network for each of the C*H*W sub-pixels. Both draw the same images.
        """
        x, known = self._blank(n)
        return self._draw(x, known, seed, cached)

    def complete(self, x: Tensor, known: Tensor, *, seed: int | None = None, cached: bool = True) -> Tensor:
        """Draw the unknown pixels of images.

        Where `known` keeps rows from the top, or any prefix of the raster order, this is an exact draw from
        p(unknown | known). With any other mask it is a heuristic: a pixel is drawn given the pixels before it only, as
        though the known ones after it were not known.

        Args:
            x: images, uint8 (N, C, H, W).
            known: boolean, broadcastable to (N, C, H, W), True at the pixels to keep.
            seed, cached: as in `sample`.

        Returns:
            uint8 (N, C, H, W), equal to `x` where `known`.
        """
        x, known = self.check_known(x, known)
        if not len(x):
            return x.clone()
        return self._draw(torch.where(known, x, 0), known, seed, cached)

    def _blank(self, n: int) -> tuple[Tensor, Tensor]:
        """Images to be drawn in full, and the mask that knows none of their pixels; of one image in memory."""
        n = self.spec.count(n)
        blank = torch.zeros(self.spec.shape, dtype=torch.uint8, device="cpu").expand(n, *self.spec.shape)
        return blank, torch.zeros(self.spec.shape, dtype=torch.bool, device="cpu").expand(n, *self.spec.shape)

    @torch.no_grad()  # and not inference mode, whose tensors the caller could not change
    def _draw(self, x: Tensor, known: Tensor, seed: int | None, cached: bool, **conditions: Any) -> Tensor:
        def draw(draws: Draws, part: slice) -> Tensor:
            # One uniform number a sub-pixel, drawn before anything else, makes the two ways of sampling agree.
            uniform = draws.uniform(*self.spec.shape, dtype=torch.float64).to(self.device)
            drawn, fixed = x[part].to(self.device).clone(memory_format=torch.contiguous_format), known[part]
            given = {name: value if value is None else value[part] for name, value in conditions.items()}
            self._fill(self.net, drawn, fixed.to(self.device), uniform, cached, **given)
            return drawn

        # In plain float32: with fewer bits, what is drawn would depend on the number of images drawn at once.
        with self.sampling_mode(cached), full_precision(self.device):
            return self.in_chunks(len(x), seed, draw)

    def _fill(self, net: RasterNet, x: Tensor, known: Tensor, uniform: Tensor, cached: bool, **conditions: Any) -> None:
        """Draw what is unknown in the images of a network, in place, by one uniform number for each sub-pixel."""
        (self._draw_cached if cached else self._draw_plain)(net, x, known, uniform, **conditions)

    def _draw_plain(self, net: RasterNet, x: Tensor, known: Tensor, uniform: Tensor, **conditions: Any) -> None:
        colours, height, width = x.shape[1:]
        for i in tqdm(range(height), "rows", disable=None, leave=False):
            for j in range(width):
                for c in range(colours):
                    logits = net.logits(net.encode(x), **conditions)[:, c, :, i, j]
                    value = self._invert(logits, uniform[:, c, i, j])
                    x[:, c, i, j] = torch.where(known[:, c, i, j], x[:, c, i, j], value)

    def _draw_cached(self, net: RasterNet, x: Tensor, known: Tensor, uniform: Tensor, **conditions: Any) -> None:
        colours, height, width = x.shape[1:]
        step = net.begin(len(x))
        unseen = torch.zeros(len(x), 1, device=x.device)  # the first layer does not read the colour being drawn
        for i in tqdm(range(height), "rows", disable=None, leave=False):
            step.begin_row(i)
            for j in range(width):
                step.begin_pixel(j)
                for c in range(colours):
                    step.colour = c
                    value = self._invert(net.logits(unseen, step, **conditions), uniform[:, c, i, j])
                    x[:, c, i, j] = torch.where(known[:, c, i, j], x[:, c, i, j], value)
                    net.remember(x[:, c, i, j], step)
            step.end_row()
        self.cache_bytes = step.nbytes

    def _invert(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """The value whose interval of the distribution function holds `uniform`: (N, K) and (N,) to uint8 (N,)."""
        logits = logits.double()
        if self.spec.levels == 2:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        cdf = logits.softmax(1).cumsum(1)
        return (cdf[:, :-1] <= uniform[:, None]).sum(1).to(torch.uint8)
