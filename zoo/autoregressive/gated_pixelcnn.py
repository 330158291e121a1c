"""Gated PixelCNN: van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu, *Conditional Image Generation
with PixelCNN Decoders*, 2016, arXiv 1606.05328.

A PixelCNN without a blind spot: a vertical stack of convolutions sees all rows above a pixel, a horizontal stack sees
the pixels to its left in its row, and reads the vertical one. Each layer multiplies a tanh by a sigmoid (equation 2),
and in a conditional model a label shifts both, alike at every position (equation 4). Rows above are wholly past: the
vertical convolutions need no masks, and in drawing they are computed once for a whole row.

From the paper: the two stacks, the gates, the labels' shifts in every layer, the residual connections of figure 2.
Departures, all for faster or better training:

- the horizontal stack starts with PixelCNN's 7x7 mask-A layer, which reads three rows above as well;
- both streams are normalized (root mean square) where a layer reads them, and both are residual; they have 2h channels,
  which a 1x1 layer and a nonlinearity reduce to h before each convolution, as in PixelCNN's blocks;
- one 1x1 layer reads the gated vertical features, for the vertical stream and for the horizontal gate; in figure 2 the
  latter reads them before the gate;
- learned biases for each row and each column, learned features of the levels, two 1x1 layers before the softmax and
  the optimizer as in `zoo.autoregressive.pixelcnn`; dropout after the gates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.autoregressive.raster import RasterModel, RasterNet, place_biases, reading
from zoo.batch import as_batch
from zoo.errors import DataError
from zoo.nn.activations import ACTIVATIONS
from zoo.nn.devices import full_precision
from zoo.nn.draws import Draws
from zoo.nn.masked import CachedStep, LayerCache, MaskedConv2d, MaskedRMSNorm, residual_gain

# Of the layers that read a gate: tanh(a) sigmoid(b) has a root mean square of 0.34 for standard normal a and b. Half of
# what would make up for it, so that the branches begin small.
GATE_GAIN = 1.47
# Of the layers that read a rectified normal number, whose mean square is a half.
REDUCED_GAIN = math.sqrt(2)


def gate(x: Tensor, groups: int = 1) -> Tensor:
    """Equation 2: (N, 2 h, ...) to tanh of the first half times sigmoid of the second, (N, h, ...), in each group."""
    x, y = x.unflatten(1, (groups, 2, -1)).unbind(2)
    return (x.tanh() * y.sigmoid()).flatten(1, 2)


class RowsConv2d(nn.Module):
    """A convolution over a row and those above it, without masks: kernel_size wide, kernel_size // 2 + 1 rows high.

    Args:
        in_channels, out_channels: of the images.
        kernel_size: odd.
        gain: factor on the initial standard deviation 1 / sqrt(number of inputs).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, *, gain: float = 1.0) -> None:
        super().__init__()
        self.half = kernel_size // 2
        weight = torch.randn(out_channels, in_channels, self.half + 1, kernel_size)
        self.weight = nn.Parameter(weight * gain / math.sqrt(weight[0].numel()))

    def forward(self, x: Tensor, step: CachedStep | None = None) -> Tensor:
        """(N, in, H, W) to (N, out, H, W); or, once in every row of a cached step, (N, in, 1, W) to (N, out, 1, W)."""
        half = self.half
        if half and step is not None:
            x = step.cache(self).append(F.pad(x, (half, half)))
        elif half:
            x = F.pad(x, (half, half, half, 0))
        return F.conv2d(x, self.weight)

    def new_cache(self, batch: int, width: int) -> _RowsCache:
        """The memory of this layer for drawing `batch` images of that width."""
        return _RowsCache(self.weight.new_zeros(batch, self.weight.shape[1], self.half, width + 2 * self.half))


class _RowsCache(LayerCache):
    """Padded inputs of one `RowsConv2d` for the rows above."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes

    def append(self, row: Tensor) -> Tensor:
        """Remember a row; returns it below the rows above it."""
        rows = torch.cat([self.rows, row], 2)
        self.rows = rows[:, :, 1:]
        return rows


class Block(nn.Module):
    """One layer of figure 2: the vertical half, which works on images or rows, and the horizontal half."""

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        dropout: float,
        activation: str,
        colours: int,
        gain: float,
        last: bool,
    ) -> None:
        super().__init__()
        self.channels, self.colours, self.activation = channels, colours, ACTIVATIONS[activation]
        stream = 2 * channels
        self.vertical_norm = MaskedRMSNorm(stream)
        self.vertical_reduce = RowsConv2d(stream, channels)
        self.vertical = RowsConv2d(channels, 2 * channels, kernel_size, gain=REDUCED_GAIN)
        # To the horizontal gate and, but for the last block, after which nothing reads it, to the vertical stream.
        self.feed = RowsConv2d(channels, 2 * channels + (0 if last else stream), gain=GATE_GAIN)
        with torch.no_grad():
            self.feed.weight[: 2 * channels] *= math.sqrt(0.5)
            self.feed.weight[2 * channels :] *= gain
        self.norm = MaskedRMSNorm(stream, colours)
        self.reduce = MaskedConv2d(stream, channels, colours=colours, bias=False)
        # Half of the variance at the gate comes from here, half from the vertical stack.
        self.row = MaskedConv2d(
            channels,
            2 * channels,
            kernel_size,
            above=False,
            colours=colours,
            gain=REDUCED_GAIN * math.sqrt(0.5),
            bias=False,
        )
        self.dropout = nn.Dropout(dropout)
        self.out = MaskedConv2d(channels, stream, colours=colours, gain=GATE_GAIN * gain, bias=False)

    def above(self, v: Tensor, bias: Tensor, step: CachedStep | None = None) -> tuple[Tensor, Tensor]:
        """The vertical half: its stream (N, 2h, H, W) and biases (N or 1, 4h, 1, 1) of both gates to the stream after
        it and what the horizontal gate adds, (N, 2h, H, W). At a cached step H is 1, the row being drawn.
        """
        size = 2 * self.channels
        x = self.activation(self.vertical_reduce(self.vertical_norm(v)))
        x = self.feed(self.dropout(gate(self.vertical(x, step) + bias[:, :size])))
        return (v + x[:, size:] if x.shape[1] > size else v), x[:, :size] + bias[:, size:]

    def forward(self, h: Tensor, from_above: Tensor, step: CachedStep | None = None) -> Tensor:
        """The horizontal half: its stream and what the vertical one adds, both (N, 2h, H, W), to the stream after it.

        At a cached step both are of one position and colour, (N, 2h / C), as is the result.
        """
        x = self.activation(self.reduce(self.norm(h, step), step))
        x = self.row(x, step) + from_above
        return h + self.out(self.dropout(gate(x, self.colours if step is None else 1)), step)


class GatedPixelCNNNet(RasterNet):
    """Both stacks between the ends of a `RasterNet`, whose stream is the horizontal one."""

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int,
        classes: int,
        channels: int,
        blocks: int,
        kernel_size: int,
        dropout: float,
        activation: str,
        embedding: int,
    ) -> None:
        (colours, height, width), stream = shape, 2 * channels
        super().__init__(shape, levels, stream, activation, embedding)
        self.vertical_first = RowsConv2d(colours * (embedding or 1), stream, 7)
        self.vertical_row_bias, self.vertical_column_bias = place_biases(stream, height, width)
        # V of equation 4, of all gates in one table; without labels, their biases.
        self.gate_bias = nn.Parameter(torch.zeros(max(classes, 1), blocks * 4 * channels))
        gain = residual_gain(blocks)
        self.blocks = nn.ModuleList(
            Block(channels, kernel_size, dropout, activation, self.colours, gain, last=i == blocks - 1)
            for i in range(blocks)
        )

    def start(self, x: Tensor, step: CachedStep | None) -> tuple[Tensor, Tensor | None]:
        """The horizontal stream and, but for a cached step, the vertical one."""
        h = super().start(x, step)
        # The image, one row lower: the vertical features of a row see the rows above it alone.
        return h, None if step is not None else self._vertical_start(F.pad(x[:, :, :-1], (0, 0, 1, 0)))

    def body(
        self, streams: tuple[Tensor, Tensor | None], step: CachedStep | None = None, label: Tensor | None = None
    ) -> Tensor:
        """All blocks: both streams, and labels int64 (N,) of a conditional model, to the horizontal stream."""
        h, v = streams
        if step is None:
            for block, bias in zip(self.blocks, self._biases(label), strict=True):
                v, from_above = block.above(v, bias)
                h = block(h, from_above)
            return h
        cache = step.cache(self)
        if cache.from_above is None:
            cache.from_above = self._above(cache.above, step, label)
        for block, from_above in zip(self.blocks, cache.from_above, strict=True):
            h = block(h, from_above[step.column, step.colour], step)
        return h

    def _vertical_start(self, x: Tensor, step: CachedStep | None = None) -> Tensor:
        rows = slice(None) if step is None else slice(step.row, step.row + 1)
        with reading(x, self.embed):
            v = self.vertical_first(x, step)
        return v + (self.vertical_row_bias[:, rows, None] + self.vertical_column_bias[:, None, :])

    def _above(self, x: Tensor, step: CachedStep, label: Tensor | None) -> list[Tensor]:
        """The encoded row above (N, C * F, 1, W) to what each block's horizontal gate adds, (W, C, N, 2h / C)."""
        v, found = self._vertical_start(x, step), []
        for block, bias in zip(self.blocks, self._biases(label), strict=True):
            v, from_above = block.above(v, bias, step)
            found.append(self.by_place(from_above))
        return found

    def _biases(self, label: Tensor | None) -> tuple[Tensor, ...]:
        """For each block (N or 1, 4h, 1, 1)."""
        bias = self.gate_bias if label is None else F.embedding(label, self.gate_bias)
        return bias[:, :, None, None].chunk(len(self.blocks), 1)

    def new_cache(self, batch: int, width: int) -> _AboveCache:
        """The memory of the vertical stack beside that of its layers."""
        return _AboveCache(self.gate_bias.new_zeros(batch, self.first.weight.shape[1], 1, width))

    def remember(self, value: Tensor, step: CachedStep) -> None:
        """Give both first layers the value (N,) of the sub-pixel at this step, once it is drawn."""
        encoded = self.encode(value, step.colour)
        self.first.remember(encoded, step)
        size = encoded.shape[1]
        step.cache(self).row[:, step.colour * size : (step.colour + 1) * size, 0, step.column] = encoded


class _AboveCache(LayerCache):
    """The encoded row being drawn, the one above it, and what the blocks take from the vertical stack in this row."""

    def __init__(self, row: Tensor) -> None:
        self.row, self.above, self.from_above = row, torch.zeros_like(row), None

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.row, self.above, *(self.from_above or ())))

    def begin_row(self) -> None:
        self.from_above = None  # made by the first step of the row, which knows the labels

    def end_row(self) -> None:
        self.row, self.above = self.above, self.row


class GatedPixelCNN(RasterModel):
    """Gated PixelCNN, unconditional or conditioned on labels, with exact likelihood.

    Args:
        shape: (C, H, W) of the images.
        levels: number of values of a sub-pixel: 256 for 8-bit images, 2 for binary ones.
        classes: number of labels to condition on, those of the data; 0 for an unconditional model.
        channels: h, the channels of the gates; a multiple of C. Both streams have 2h.
        blocks: number of layers with a gate in each stack.
        kernel_size: k, odd; the vertical kernels are k wide and k // 2 + 1 rows high, the horizontal ones reach k // 2
            pixels to the left.
        dropout: probability of dropping a gated feature while training.
        activation: "relu", the paper's in its last layers, or "gelu".
        embedding: number of learned features of a level, at the input and at the logits; 0 for the paper's plain
            value and softmax. Not for binary images.
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights and of the table of labels.

    Example:
        >>> model = GatedPixelCNN(shape=[1, 8, 8], levels=17, classes=10)
        >>> x = model.sample(4, label=3, seed=0)    # uint8 (4, 1, 8, 8)
        >>> model.log_prob(x, label=3)              # (4,) nats, log p(x | label)
        >>> model.log_prob(x)                       # (4,) nats, log p(x)
    """

    papers = ("gated-pixelcnn",)

    def __init__(
        self,
        shape: list[int] = [1, 8, 8],  # noqa: B006  a plain JSON value, never changed
        levels: int = 17,
        classes: int = 0,
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
        super().__init__(shape, levels, classes)
        self.check_network(channels, activation, embedding)
        if classes < 0:
            raise DataError(f"classes must be 0 or the number of labels, not {classes}.")
        self.check_blocks(blocks, kernel_size)
        self.save_hyperparameters()
        self.net = GatedPixelCNNNet(
            self.spec.shape, levels, classes, channels, blocks, kernel_size, dropout, activation, embedding
        )

    @property
    def protocol(self) -> str:
        """That the likelihood of a conditional model is the marginal over its labels."""
        classes = self.spec.classes
        return f"marginal over {classes} equally likely classes" if classes else ""

    # -- likelihood -----------------------------------------------------------------------------------------------

    def log_prob(self, x: Tensor, label: int | Sequence[int] | Tensor | None = None) -> Tensor:
        """log p(x | label), exact: images uint8 (N, C, H, W) to (N,) nats.

        Without a label a conditional model gives log p(x) = log (1/K) sum_y p(x | y), exact where the K labels are
        equally likely; it takes a pass for each label.

        Args:
            x: images.
            label: an integer 0..classes-1, or N of them (int64 (N,) as tensor).

        Raises:
            DataError: where images or labels do not fit.
        """
        x = self.check(x)
        if label is not None or not self.spec.classes:
            return self.net(x, label=self.check_labels(label, len(x))).flatten(1).sum(1)
        return self._each_label(x, torch.ones_like(x)).logsumexp(1) - math.log(self.spec.classes)

    def _each_label(self, x: Tensor, counted: Tensor) -> Tensor:
        """(N, classes): log p of the sub-pixels of `x` that are `counted`, given those before them and each label."""
        labels = torch.arange(self.spec.classes, device=x.device)
        return torch.stack([(self.net(x, label=y.expand(len(x))) * counted).flatten(1).sum(1) for y in labels], 1)

    # -- training -------------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean loss of a batch (x, labels), given the labels; those of validation and test are marginal."""
        batch = as_batch(batch)
        if not self.spec.classes:
            return super().training_step(batch, batch_idx)
        if batch.label is None:
            raise DataError(f"The model has {self.spec.classes} classes: train it with a loader of (data, labels).")
        loss = self.loss(batch.x, label=batch.label).mean()
        self.log(f"train_{self.metric}", loss)
        return loss

    # -- drawing --------------------------------------------------------------------------------------------------

    def sample(
        self,
        n: int,
        *,
        label: int | Sequence[int] | Tensor | None = None,
        seed: int | None = None,
        cached: bool = True,
    ) -> Tensor:
        """Draw `n` images, uint8 (n, C, H, W).

        Args:
            n: number of images.
            label: an integer 0..classes-1, or n of them; without, a conditional model draws one for each image.
            seed: the same seed gives the same images, the first of them whatever `n` is.
            cached: remember the activations of earlier pixels; False runs the whole network for each sub-pixel. Both
                draw the same images.

        Raises:
            DataError: where the labels do not fit.
        """
        x, known = self._blank(n)
        return self._draw_labelled(x, known, label, seed, cached)

    def complete(
        self,
        x: Tensor,
        known: Tensor,
        *,
        label: int | Sequence[int] | Tensor | None = None,
        seed: int | None = None,
        cached: bool = True,
    ) -> Tensor:
        """Draw the unknown pixels of images, as `RasterModel.complete` does.

        Args:
            x: images, uint8 (N, C, H, W).
            known: boolean, broadcastable to (N, C, H, W), True at the pixels to keep.
            label, seed, cached: as in `sample`; without a label a conditional model draws one for each image from
                p(label | known pixels), so that completions of a prefix remain exact draws.

        Returns:
            uint8 (N, C, H, W), equal to `x` where `known`.
        """
        x, known = self.check_known(x, known)
        if not len(x):
            return x.clone()
        return self._draw_labelled(torch.where(known, x, 0), known, label, seed, cached)

    def _draw_labelled(self, x: Tensor, known: Tensor, label: Any, seed: int | None, cached: bool) -> Tensor:
        label = self.check_labels(label, len(x))
        if label is None and self.spec.classes:
            seed = Draws(seed, 0).seed
            label = self._draw_labels(x, known, seed)
        return self._draw(x, known, seed, cached, label=label)

    @torch.no_grad()
    def _draw_labels(self, x: Tensor, known: Tensor, seed: int) -> Tensor:
        """Labels int64 (N,) from p(label | known pixels), where these are a prefix of the raster order."""

        def draw(draws: Draws, part: slice) -> Tensor:
            log_weights = torch.zeros(len(draws), self.spec.classes, dtype=torch.float64)
            if known[part].any():
                log_weights = self._each_label(x[part].to(self.device), known[part].to(self.device)).double()
            # Those numbers of the seed are the pixels', of which the labels must be independent.
            draws.uniform(*self.spec.shape, dtype=torch.float64)
            return draws.choice(log_weights.softmax(1)).to(self.device)

        with self.sampling_mode(cached=False), full_precision(self.device):
            return self.in_chunks(len(x), seed, draw)
