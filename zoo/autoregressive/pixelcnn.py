"""PixelCNN: van den Oord, Kalchbrenner, Kavukcuoglu, *Pixel Recurrent Neural Networks*, 2016, arXiv 1601.06759.

An image is a sequence of sub-pixels in raster order, red before green before blue, and p(x) is the product of each
sub-pixel's distribution given those before it (equations 1 and 2). Masked convolutions compute all of these
distributions in one pass, so training is parallel; drawing an image takes a step for each sub-pixel, made cheap
here by remembering the activations of the earlier ones. Each distribution is a softmax over the values 0..255
(section 3.2) or, for binary images, a Bernoulli.

From the paper: the 7x7 mask-A layer, residual blocks of ReLUs and 1x1, kxk and 1x1 mask-B layers with h, h and 2h
channels (figure 5), two 1x1 layers before the softmax (table 1). Departures, all for faster or better training:

- each block starts with a root-mean-square normalization over the channels of a colour;
- a learned bias for each row and each column follows the first layer;
- `embedding` > 0 replaces the scaled value at the input by learned features of it, and adds features of the levels
  to the logits; they start as sines and cosines, so that the order of 256 classes need not be discovered first;
- dropout inside the blocks, and GELU in place of ReLU where `activation` says so;
- AdamW or Muon with a cosine schedule, and averaged weights;
- `kernel_size` 5 narrows the blind spot that stacked 3x3 masks leave above and to the right of a pixel.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from zoo.data.spec import DataSpec
from zoo.errors import DataError
from zoo.model import GenerativeModel
from zoo.nn.masked import CachedStep, MaskedConv2d, MaskedRMSNorm, residual_gain

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}


class Block(nn.Module):
    """Residual block of figure 5: 2h channels to h, a kxk masked convolution, and back to 2h."""

    def __init__(
        self, channels: int, kernel_size: int, dropout: float, activation: str, colours: int, gain: float
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.norm = MaskedRMSNorm(2 * channels, colours)
        self.reduce = MaskedConv2d(2 * channels, channels, colours=colours)
        self.conv = MaskedConv2d(channels, channels, kernel_size, colours=colours)
        self.dropout = nn.Dropout(dropout)
        # The stream it is added to has 2h channels in float32: a bias here is costly to train, and adds nothing.
        self.expand = MaskedConv2d(channels, 2 * channels, colours=colours, gain=gain, bias=False)

    def forward(self, x: Tensor, step: CachedStep | None = None) -> Tensor:
        """(N, 2h, H, W) to the same; or, at a cached step, (N, 2h / C) to the same."""
        h = self.reduce(self.activation(self.norm(x, step)), step)
        h = self.conv(self.activation(h), step)
        return x + self.expand(self.dropout(self.activation(h)), step)


class LevelFeatures(nn.Module):
    """A learned table of features of the levels: (colours, levels, features).

    It starts as the level in [-1, 1], its square, and sines and cosines of it from half a period over the range to one
    period in 16 levels.
    """

    def __init__(self, colours: int, levels: int, features: int) -> None:
        super().__init__()
        level = torch.linspace(-1, 1, levels)
        frequency = torch.logspace(-1, max(0.0, math.log2(levels / 8)), (features - 1) // 2, base=2)
        phase = math.pi * frequency * level[:, None]
        columns = torch.cat([level[:, None], phase.sin(), phase.cos(), level.square()[:, None]], 1)
        self.table = nn.Parameter(columns[:, :features].repeat(colours, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Features of the values: integers (N, C, H, W) to (N, C * features, H, W)."""
        colours, levels, _ = self.table.shape
        offset = levels * torch.arange(colours, device=x.device)[:, None, None]
        return F.embedding(x.long() + offset, self.table.flatten(0, 1)).permute(0, 1, 4, 2, 3).flatten(1, 2)


class PixelCNNNet(nn.Module):
    """Images to the log-probability of each sub-pixel given those before it.

    Called, uint8 (N, C, H, W) to nats (N, C, H, W). Its parts are what sampling needs: `encode` and `logits`.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int,
        channels: int,
        blocks: int,
        kernel_size: int,
        dropout: float,
        activation: str,
        embedding: int,
    ) -> None:
        super().__init__()
        colours, height, width = shape
        self.levels, self.colours, self.outputs = levels, colours, 1 if levels == 2 else levels
        stream = 2 * channels
        self.activation = ACTIVATIONS[activation]
        self.embed = LevelFeatures(colours, levels, embedding) if embedding else None
        self.first = MaskedConv2d(colours * (embedding or 1), stream, 7, mask="A", colours=colours, bias=False)
        self.row_bias = nn.Parameter(torch.zeros(stream, height))
        self.column_bias = nn.Parameter(torch.zeros(stream, width))
        gain = residual_gain(blocks)
        self.blocks = nn.ModuleList(
            Block(channels, kernel_size, dropout, activation, colours, gain) for _ in range(blocks)
        )
        self.norm = MaskedRMSNorm(stream, colours)
        self.hidden = MaskedConv2d(stream, stream, colours=colours)
        self.head = MaskedConv2d(stream, colours * self.outputs, colours=colours, gain=0.1)
        if embedding:
            self.smooth = MaskedConv2d(stream, colours * embedding, colours=colours, gain=0.1)
            self.levels_out = LevelFeatures(colours, levels, embedding)

    def forward(self, x: Tensor) -> Tensor:
        """Integers (N, C, H, W) to log p of each, in nats, (N, C, H, W)."""
        logits = self.logits(self.encode(x))
        if self.levels == 2:
            return -F.binary_cross_entropy_with_logits(logits[:, :, 0], x.float(), reduction="none")
        # Classes last: the rows of the softmax are then contiguous in channels-last memory.
        rows, target = logits.permute(0, 3, 4, 1, 2), x.permute(0, 2, 3, 1)
        nll = F.cross_entropy(rows.flatten(0, 3), target.long().flatten(), reduction="none")
        return -nll.view(target.shape).permute(0, 3, 1, 2)

    def encode(self, x: Tensor, colour: int | None = None) -> Tensor:
        """What the first layer reads: integers (N, C, H, W) to (N, C * F, H, W); of one `colour`, (N,) to (N, F).

        F is 1, the level scaled to [-1, 1], or the size of the embedding.
        """
        if self.embed is None:
            scaled = x.float() * (2.0 / (self.levels - 1)) - 1.0
            return scaled if colour is None else scaled[:, None]
        return self.embed(x) if colour is None else self.embed.table[colour][x.long()]

    def logits(self, x: Tensor, step: CachedStep | None = None) -> Tensor:
        """Encoded images (N, C * F, H, W) to logits (N, C, K, H, W); at a cached step, (N, F) to (N, K).

        K is the number of levels, or 1 for binary images: the logit of a one.
        """
        # A scaled image, the residual stream and the logits stay in float32: a 16-bit value is no finer than a level.
        # An embedding has fine features of its own.
        with torch.autocast(x.device.type, enabled=self.embed is not None and torch.is_autocast_enabled(x.device.type)):
            h = self.first(x, step)
        h = h + self._position(step)
        for block in self.blocks:
            h = block(h, step)
        h = self.activation(self.hidden(self.activation(self.norm(h, step)), step))
        with torch.autocast(x.device.type, enabled=False):
            return self._head(h.float(), step)

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


class PixelCNN(GenerativeModel):
    """PixelCNN, a masked convolutional network with exact likelihood.

    Args:
        shape: (C, H, W) of the images.
        levels: number of values of a sub-pixel: 256 for 8-bit images, 2 for binary ones.
        channels: h, the channels of the kxk convolutions; a multiple of C.
        blocks: number of residual blocks.
        kernel_size: k, odd.
        dropout: probability of dropping an activation inside a block while training.
        activation: "relu", the paper's, or "gelu".
        embedding: number of learned features of a level, at the input and at the logits; 0 for the paper's plain
            value and softmax. Not for binary images.
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights, not of the biases.

    Example:
        >>> model = PixelCNN(shape=[1, 8, 8], levels=17)
        >>> x = model.sample(4, seed=0)     # uint8 (4, 1, 8, 8)
        >>> model.log_prob(x)               # (4,) nats
    """

    def __init__(
        self,
        shape: list[int] = [1, 8, 8],  # noqa: B006  a plain JSON value, never changed
        levels: int = 17,
        channels: int = 32,
        blocks: int = 4,
        kernel_size: int = 3,
        dropout: float = 0.0,
        activation: str = "relu",
        embedding: int = 0,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        warmup: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1:
            raise DataError(f"shape must be (C, H, W) of positive sizes, not {list(shape)}.")
        if not 2 <= levels <= 256:
            raise DataError(f"levels must be 2..256, not {levels}.")
        if channels < 1 or channels % shape[0]:
            raise DataError(f"channels must be a positive multiple of the {shape[0]} colours, not {channels}.")
        if blocks < 1 or kernel_size < 1 or kernel_size % 2 == 0:
            raise DataError(f"blocks must be positive and kernel_size odd, not {blocks} and {kernel_size}.")
        if activation not in ACTIVATIONS:
            raise DataError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}.")
        if embedding and (embedding < 4 or levels == 2):
            raise DataError(f"embedding must be 0, or at least 4 for images of more than 2 levels, not {embedding}.")
        self.save_hyperparameters()
        self.spec = DataSpec(tuple(shape), levels)
        self.net = PixelCNNNet(self.spec.shape, levels, channels, blocks, kernel_size, dropout, activation, embedding)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), exact: images uint8 (N, C, H, W) to (N,) nats (equation 2)."""
        # In training each step would wait for the GPU; there the values are the data module's.
        self.spec.check(x, values=not self.training)
        return self.net(x).flatten(1).sum(1)

    def sample(self, n: int, *, seed: int | None = None, cached: bool = True) -> Tensor:
        """Draw `n` images, uint8 (n, C, H, W).

        Args:
            n: number of images.
            seed: the same seed gives the same images, and leaves the global random state as it was.
            cached: remember the activations of earlier pixels (one pass of the network in all); False runs the whole
                network for each of the C*H*W sub-pixels. Both draw the same images.
        """
        self.check_count(n)
        x = torch.zeros(n, *self.spec.shape, dtype=torch.uint8)
        return self._draw(x, torch.zeros(x.shape, dtype=torch.bool), seed, cached)

    def complete(self, x: Tensor, known: Tensor, *, seed: int | None = None, cached: bool = True) -> Tensor:
        """Draw the unknown pixels of images, as in the paper's occluded completions (figure 9).

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
        self.spec.check(x)
        if known.dtype != torch.bool:
            raise DataError(f"known must be boolean, not {known.dtype}.")
        try:
            known = known.broadcast_to(x.shape)
        except RuntimeError:
            raise DataError(
                f"known has shape {tuple(known.shape)}, which does not broadcast to {tuple(x.shape)}."
            ) from None
        return self._draw(torch.where(known, x, 0), known, seed, cached)

    @torch.no_grad()  # and not inference mode, whose tensors the caller could not change
    def _draw(self, x: Tensor, known: Tensor, seed: int | None, cached: bool) -> Tensor:
        # One uniform number a sub-pixel, drawn before anything else, makes the two ways of sampling agree.
        uniform = torch.rand(x.shape, generator=self.generator(seed), dtype=torch.float64).to(self.device)
        x, known = x.to(self.device, copy=True), known.to(self.device)
        with self.drawing(cached):
            self._draw_cached(x, known, uniform) if cached else self._draw_plain(x, known, uniform)
        return x

    def _draw_plain(self, x: Tensor, known: Tensor, uniform: Tensor) -> None:
        colours, height, width = self.spec.shape
        for i in tqdm(range(height), "rows", disable=None, leave=False):
            for j in range(width):
                for c in range(colours):
                    logits = self.net.logits(self.net.encode(x))[:, c, :, i, j]
                    value = self._invert(logits, uniform[:, c, i, j])
                    x[:, c, i, j] = torch.where(known[:, c, i, j], x[:, c, i, j], value)

    def _draw_cached(self, x: Tensor, known: Tensor, uniform: Tensor) -> None:
        colours, height, width = self.spec.shape
        step = CachedStep(len(x), width)
        unseen = torch.zeros(len(x), 1, device=x.device)  # the first layer does not read the colour being drawn
        for i in tqdm(range(height), "rows", disable=None, leave=False):
            step.begin_row(i)
            for j in range(width):
                step.begin_pixel(j)
                for c in range(colours):
                    step.colour = c
                    value = self._invert(self.net.logits(unseen, step), uniform[:, c, i, j])
                    x[:, c, i, j] = torch.where(known[:, c, i, j], x[:, c, i, j], value)
                    self.net.first.remember(self.net.encode(x[:, c, i, j], c), step)
            step.end_row()
        self.cache_bytes = step.nbytes

    def _invert(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """The value whose interval of the distribution function holds `uniform`: (N, K) and (N,) to uint8 (N,)."""
        logits = logits.double()
        if self.spec.levels == 2:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        cdf = logits.softmax(1).cumsum(1)
        return (cdf[:, :-1] <= uniform[:, None]).sum(1).to(torch.uint8)
