"""PixelRNN: van den Oord, Kalchbrenner, Kavukcuoglu, *Pixel Recurrent Neural Networks*, 2016, arXiv 1601.06759.

The factorization of a `zoo.autoregressive.pixelcnn.PixelCNN`, with residual LSTM layers in place of convolutions
(sections 3.1 to 3.3 and figure 5, right). In a Row LSTM the cells of a row read three states of the row above: a layer
sees a triangle that widens upwards. In a Diagonal BiLSTM a cell reads the states of the pixel to its left and of the
one above, and the cells of a diagonal are computed together; a second scan from the right, moved down by a row so that
it sees nothing to come, completes the view: one layer sees all of its input before (and of the image all but the last
value of the row above, which enters the stream in the last columns of its row only).

From the paper: the first 7x7 mask-A layer; the input-to-state convolutions, 1x3 along the row or 1x1, with mask B;
state-to-state convolutions, 1x3 or 2x1, without a mask over the colours; 1x1 layers from h back to 2h channels, added
to the stream; two 1x1 layers before the softmax. Departures, all for faster or better training:

- each layer starts with a root-mean-square normalization over the channels of a colour;
- the biases of the forget gates start at one;
- a learned bias for each row and each column, `embedding`, `dropout`, GELU in the last layers, AdamW or Muon with a
  cosine schedule and averaged weights, all as in PixelCNN;
- no multi-scale variant here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.autoregressive.raster import RasterModel, RasterNet
from zoo.errors import DataError
from zoo.nn.masked import CachedStep, LayerCache, MaskedConv2d, MaskedRMSNorm, residual_gain
from zoo.nn.scan import cell, lstm_scan, skew, unskew


class Recurrence(nn.Module):
    """The state-to-state part of an LSTM layer, and its scan over the image.

    Gates come as channels [colour][direction, gate, unit], states go as channels [colour][unit].

    Args:
        channels: h, the units of a state, a multiple of `colours`.
        colours: number of colour groups.
    """

    directions: int  # scans of the image
    taps: int  # states of the line before that a cell reads

    def __init__(self, channels: int, colours: int) -> None:
        super().__init__()
        self.channels, self.colours = channels, colours
        self.states = nn.ModuleList(
            nn.Linear(self.taps * channels, 4 * channels, bias=False) for _ in range(self.directions)
        )

    def forward(self, gates: Tensor, step: CachedStep | None = None) -> Tensor:
        """(N, D * 4h, H, W) to (N, h, H, W); or, at a cached step, (N, D * 4h / C) to (N, h / C).

        D is the number of directions; the gates are what a cell takes from its input.
        """
        if step is not None:
            return step.cache(self).put(step.column, step.colour, gates)
        gates = gates.unflatten(1, (self.colours, self.directions, 4, -1))
        gates = gates.permute(2, 0, 5, 6, 3, 1, 4).flatten(4)  # (D, N, H, W, 4h), units [colour][unit]
        weight = torch.stack([linear.weight for linear in self.states])
        return self.scan(gates, weight).permute(0, 3, 1, 2)

    def scan(self, gates: Tensor, weight: Tensor) -> Tensor:
        """Gates (D, N, H, W, 4h) and weights (D, 4h, taps * h) to states (N, H, W, h)."""
        raise NotImplementedError


class RowLSTM(Recurrence):
    """Row by row from the top: a cell reads the states above it, above to its left and above to its right."""

    directions, taps = 1, 3

    def scan(self, gates: Tensor, weight: Tensor) -> Tensor:
        """Gates (1, N, H, W, 4h) and weights (1, 4h, 3h) to states (N, H, W, h)."""
        return lstm_scan(gates.transpose(1, 2), weight)[0].transpose(0, 1)

    def new_cache(self, batch: int, width: int) -> _RowCache:
        """The memory of this layer for drawing `batch` images of that width."""
        return _RowCache(self, batch, width)


class DiagonalBiLSTM(Recurrence):
    """Diagonal by diagonal from the upper left, and from the upper right: a cell reads the states beside and above."""

    directions, taps = 2, 2  # above, beside

    def scan(self, gates: Tensor, weight: Tensor) -> Tensor:
        """Gates (2, N, H, W, 4h) and weights (2, 4h, 2h) to states (N, H, W, h)."""
        mirrored = torch.stack([gates[0], gates[1].flip(2)])
        # The cells of a line are the rows: in skewed columns, row i - 1 of the column before is the pixel above.
        states = lstm_scan(skew(mirrored).permute(0, 3, 1, 2, 4), weight)
        left, right = unskew(states.permute(0, 2, 3, 1, 4)).unbind(0)
        return left + F.pad(right.flip(2), (0, 0, 0, 0, 1, 0))[:, :-1]

    def new_cache(self, batch: int, width: int) -> _DiagonalCache:
        """The memory of this layer for drawing `batch` images of that width."""
        return _DiagonalCache(self, batch, width)


class _RecurrentCache(LayerCache):
    """States and memories of the row so far and of the row above, position-major: (width, batch, ...)."""

    def __init__(self, layer: Recurrence, batch: int, width: int) -> None:
        self.layer, self.width = layer, width
        self.weights = [linear.weight.detach().T.contiguous() for linear in layer.states]
        self.state = self.weights[0].new_zeros(width, batch, layer.channels)
        self.memory, self.above = torch.zeros_like(self.state), torch.zeros_like(self.state)
        self.from_above = self.state.new_zeros(width, batch, 4 * layer.channels)

    @property
    def nbytes(self) -> int:
        tensors = [value for value in vars(self).values() if isinstance(value, Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def units(self, x: Tensor, colour: int) -> Tensor:
        """The units of one colour: (..., h) to (..., h / C)."""
        size = self.layer.channels // self.layer.colours
        return x[..., colour * size : (colour + 1) * size]

    def update(self, column: int, colour: int, gates: Tensor, from_states: Tensor, memory: Tensor) -> Tensor:
        """One colour of one cell: gates (batch, 4h / C) from its input, (batch, 4h) from states, memory (batch, h)."""
        from_states = self.units(from_states.unflatten(1, (4, -1)), colour).flatten(1)
        _, memory, state = cell(gates + from_states, self.units(memory, colour))
        self.units(self.memory[column], colour).copy_(memory)
        self.units(self.state[column], colour).copy_(state)
        return state


class _RowCache(_RecurrentCache):
    def begin_row(self) -> None:
        around = F.pad(self.above, (0, 0, 0, 0, 1, 1))
        self.from_above = torch.cat([around[:-2], around[1:-1], around[2:]], -1) @ self.weights[0]

    def put(self, column: int, colour: int, gates: Tensor) -> Tensor:
        # The memory is still that of the row above where this row has not come.
        return self.update(column, colour, gates, self.from_above[column], self.memory[column])

    def end_row(self) -> None:
        self.above = self.state.clone()


class _DiagonalCache(_RecurrentCache):
    def __init__(self, layer: Recurrence, batch: int, width: int) -> None:
        super().__init__(layer, batch, width)
        self.partial = self.from_above[0]
        # The scan from the right runs over a row when it is drawn, and is read in the row below.
        self.gates = torch.zeros_like(self.from_above)
        self.right = torch.zeros_like(self.state)

    def begin_row(self) -> None:
        self.from_above = self.above @ self.weights[0][: self.layer.channels]

    def begin_pixel(self, column: int) -> None:
        self.partial = self.from_above[column]
        if column:
            beside = self.weights[0][self.layer.channels :]
            self.partial = torch.addmm(self.partial, self.state[column - 1], beside)

    def put(self, column: int, colour: int, gates: Tensor) -> Tensor:
        gates, mirrored = gates.chunk(2, 1)
        self.units(self.gates[column].unflatten(1, (4, -1)), colour).copy_(mirrored.unflatten(1, (4, -1)))
        memory = self.memory[column - 1] if column else torch.zeros_like(self.memory[0])
        left = self.update(column, colour, gates, self.partial, memory)
        return left + self.units(self.right[column], colour)

    def end_row(self) -> None:
        self.above = self.state.clone()
        above, beside = self.weights[1].split(self.layer.channels)
        gates = self.gates + self.right @ above
        state = memory = torch.zeros_like(self.right[0])
        for column in reversed(range(self.width)):
            _, memory, state = cell(torch.addmm(gates[column], state, beside), memory)
            self.right[column] = state


LAYERS = {"row": RowLSTM, "diagonal": DiagonalBiLSTM}


class LSTMLayer(nn.Module):
    """Residual layer of figure 5: 2h channels to gates, a scan with states of h channels, and back to 2h."""

    def __init__(self, layer: str, channels: int, dropout: float, colours: int, gain: float) -> None:
        super().__init__()
        self.norm = MaskedRMSNorm(2 * channels, colours)
        self.scan = LAYERS[layer](channels, colours)
        self.inputs = MaskedConv2d(
            2 * channels,
            self.scan.directions * 4 * channels,
            3 if layer == "row" else 1,
            above=False,
            colours=colours,
        )
        with torch.no_grad():
            # [colour][direction, gate, unit]; a cell that begins by keeping its memory learns long ranges sooner.
            self.inputs.bias.view(colours, self.scan.directions, 4, -1)[:, :, 1] = 1.0
        self.dropout = nn.Dropout(dropout)
        self.expand = MaskedConv2d(channels, 2 * channels, colours=colours, gain=gain, bias=False)

    def forward(self, x: Tensor, step: CachedStep | None = None, condition: Tensor | None = None) -> Tensor:
        """(N, 2h, H, W) to the same; or, at a cached step, (N, 2h / C) to the same.

        A `condition` is added to the gates: (N, D * 4h, H, W) with D directions; or (N, D * 4h / C).
        """
        gates = self.inputs(self.norm(x, step), step)
        h = self.scan(gates if condition is None else gates + condition, step)
        return x + self.expand(self.dropout(h), step)


class PixelRNNNet(RasterNet):
    """LSTM layers between the ends of a `RasterNet`; the stream has 2h channels."""

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int,
        layer: str,
        channels: int,
        layers: int,
        dropout: float,
        activation: str,
        embedding: int,
    ) -> None:
        super().__init__(shape, levels, 2 * channels, activation, embedding)
        gain = residual_gain(layers)
        self.layers = nn.ModuleList(LSTMLayer(layer, channels, dropout, self.colours, gain) for _ in range(layers))

    def body(self, h: Tensor, step: CachedStep | None = None) -> Tensor:
        """All layers."""
        for layer in self.layers:
            h = layer(h, step)
        return h


def check_layers(layer: str, layers: int, dropout: float) -> None:
    """Refuse arguments that make no stack of LSTM layers."""
    if layer not in LAYERS:
        raise DataError(f"layer must be one of {', '.join(LAYERS)}, not {layer!r}.")
    if layers < 1:
        raise DataError(f"layers must be positive, not {layers}.")
    if not 0 <= dropout < 1:
        raise DataError(f"dropout must be at least 0 and below 1, not {dropout}.")


class PixelRNN(RasterModel):
    """PixelRNN, a network of two-dimensional LSTM layers with exact likelihood.

    Args:
        shape: (C, H, W) of the images.
        levels: number of values of a sub-pixel: 256 for 8-bit images, 2 for binary ones.
        layer: "row" for Row LSTM or "diagonal" for Diagonal BiLSTM.
        channels: h, the units of a state; a multiple of C.
        layers: number of LSTM layers.
        dropout: probability of dropping a state, on its way to the stream, while training.
        activation: "relu", the paper's, or "gelu", of the last layers.
        embedding: number of learned features of a level, at the input and at the logits; 0 for the paper's plain
            value and softmax. Not for binary images.
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights, not of the biases.

    Example:
        >>> model = PixelRNN(shape=[1, 8, 8], levels=17, layer="diagonal")
        >>> x = model.sample(4, seed=0)     # uint8 (4, 1, 8, 8)
        >>> model.log_prob(x)               # (4,) nats
    """

    papers = ("pixelrnn",)

    def __init__(
        self,
        shape: list[int] = [1, 8, 8],  # noqa: B006  a plain JSON value, never changed
        levels: int = 17,
        layer: str = "row",
        channels: int = 32,
        layers: int = 4,
        dropout: float = 0.0,
        activation: str = "relu",
        embedding: int = 0,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        warmup: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(shape, levels)
        self.check_network(channels, activation, embedding)
        check_layers(layer, layers, dropout)
        self.save_hyperparameters()
        self.net = PixelRNNNet(self.spec.shape, levels, layer, channels, layers, dropout, activation, embedding)
