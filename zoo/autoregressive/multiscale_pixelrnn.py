"""Multi-scale PixelRNN: van den Oord, Kalchbrenner, Kavukcuoglu, *Pixel Recurrent Neural Networks*, 2016,
arXiv 1601.06759, section 3.6.

A small image, every s-th pixel of every s-th row of the large one, is drawn first by a PixelRNN of its own (figure 2,
centre). An upsampling network turns it into a map of the large image's size, which biases the gates of every layer of
a second PixelRNN: that one draws the large image with the whole picture in view, what is to come included.

The small image is a part of the large one, which the second network therefore need not draw again: pixels on the grid
are given, and

    log p(x) = log p(small) + sum over the sub-pixels i off the grid of log p(x_i | x_<i, small)

is exact, and sums to one over all images. Both terms come out of one pass of both networks.

From the paper: the small image, the upsampling network with a transposed convolution, its map c x H x W brought by an
unmasked 1x1 convolution to the gates of each layer. Departures:

- the second network's distributions of the pixels on the grid are not used; counted once more, as a network that
  draws all of the large image would, they make a likelihood that sums to less than one;
- the map depends on the small image alone, so all colours and directions of a cell read all colours of it;
- the transposed convolution, of stride s and with kernels of 3s x 3s, is written as a 3x3 convolution to s * s times
  the channels, which are then laid out in space (arXiv 1609.05158): the same function, with weights (outputs, inputs);
- the rest of the upsampling network, 3x3 convolutions in normalized residual layers, is ours: the paper gives none;
- those of `zoo.autoregressive.pixelrnn`, in both networks.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.autoregressive.pixelrnn import LAYERS, PixelRNNNet, check_layers
from zoo.autoregressive.raster import RasterModel
from zoo.errors import DataError
from zoo.nn.activations import ACTIVATIONS
from zoo.nn.devices import precise
from zoo.nn.masked import CachedStep, LayerCache, MaskedRMSNorm, residual_gain


def convolution(inputs: int, outputs: int, kernel_size: int, *, gain: float = 1.0, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps size and, at `gain` 1, scale."""
    conv = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=bias)
    nn.init.normal_(conv.weight, std=gain / math.sqrt(conv.weight[0].numel()))
    if bias:
        nn.init.zeros_(conv.bias)
    return conv


class Refine(nn.Module):
    """Residual layer without masks: x + conv(activation(norm(x)))."""

    def __init__(self, channels: int, activation: str, gain: float) -> None:
        super().__init__()
        self.norm, self.activation = MaskedRMSNorm(channels), ACTIVATIONS[activation]
        self.conv = convolution(channels, channels, 3, gain=gain)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c, H, W) to the same."""
        return x + self.conv(self.activation(self.norm(x)))


class Upsampling(nn.Module):
    """Features of the small image to a map of the large image's size; nothing is masked.

    Args:
        features: channels of the small image, encoded.
        channels: c, of the map.
        scale: s.
        activation: "relu" or "gelu".
    """

    def __init__(self, features: int, channels: int, scale: int, activation: str) -> None:
        super().__init__()
        self.scale, self.activation = scale, ACTIVATIONS[activation]
        self.first = convolution(features, channels, 3)
        # Not zero: a grey area has no features, and a normalization would multiply the gradient of none by 1000.
        nn.init.normal_(self.first.bias, std=0.3)
        self.small = nn.Sequential(*(Refine(channels, activation, residual_gain(2)) for _ in range(2)))
        self.norm = MaskedRMSNorm(channels)
        self.widen = convolution(channels, scale * scale * channels, 3)
        self.large = Refine(channels, activation, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(N, features, H / s, W / s) to (N, c, H, W), normalized."""
        # Scaled values and the residual stream stay in float32.
        with torch.autocast(x.device.type, enabled=False):
            h = self.first(x)
        h = self.widen(self.activation(self.norm(self.small(h))))
        return self.norm(self.large(precise(F.pixel_shuffle(h, self.scale))))


class ConditionalNet(PixelRNNNet):
    """A PixelRNN whose gates are biased by a small image, the condition `small`, uint8 (N, C, H / s, W / s)."""

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int,
        scale: int,
        layer: str,
        channels: int,
        layers: int,
        dropout: float,
        activation: str,
        embedding: int,
    ) -> None:
        super().__init__(shape, levels, layer, channels, layers, dropout, activation, embedding)
        gates = LAYERS[layer].directions * 4 * channels
        self.upsampling = Upsampling(self.colours * (embedding or 1), channels, scale, activation)
        # The gates' own biases are those of the layers.
        self.gates = nn.ModuleList(convolution(channels, gates, 1, bias=False) for _ in range(layers))

    def body(self, h: Tensor, step: CachedStep | None = None, *, small: Tensor) -> Tensor:
        """All layers; at a cached step, the map of the small image is that of the first step."""
        if step is None:
            condition = self.upsampling(self.encode(small))
            for layer, gates in zip(self.layers, self.gates, strict=True):
                h = layer(h, None, gates(condition))
            return h
        cache = step.cache(self)
        if cache.condition is None:
            cache.condition = self.upsampling(self.encode(small))
        if cache.gates is None:
            row = cache.condition[:, :, step.row : step.row + 1]
            cache.gates = [self.by_place(gates(row)) for gates in self.gates]
        for layer, gates in zip(self.layers, cache.gates, strict=True):
            h = layer(h, step, gates[step.column, step.colour])
        return h

    def new_cache(self, batch: int, width: int) -> _ConditionCache:
        """The memory of the small image beside that of the layers."""
        return _ConditionCache()


class _ConditionCache(LayerCache):
    """The map of the small image (N, c, H, W), made once, and what it adds to the gates of each layer in this row."""

    def __init__(self) -> None:
        self.condition, self.gates = None, None

    @property
    def nbytes(self) -> int:
        return self.condition.nbytes + sum(gates.nbytes for gates in self.gates)

    def begin_row(self) -> None:
        self.gates = None


class MultiScaleNet(nn.Module):
    """Images to the log-probability of each sub-pixel: on the grid as `small` has it, elsewhere as `large` does.

    Called, uint8 (N, C, H, W) to nats (N, C, H, W).

    Args:
        small: of the small images.
        large: of the large ones.
        scale: s.
    """

    def __init__(self, small: PixelRNNNet, large: ConditionalNet, scale: int) -> None:
        super().__init__()
        self.small, self.large, self.scale = small, large, scale

    def subsample(self, x: Tensor) -> Tensor:
        """Every s-th pixel of every s-th row, a view: (N, C, H, W) to (N, C, H / s, W / s)."""
        return x[:, :, :: self.scale, :: self.scale]

    def forward(self, x: Tensor) -> Tensor:
        """Integers (N, C, H, W) to log p of each, in nats, (N, C, H, W)."""
        small = self.subsample(x).contiguous()
        log_p = self.large(x, small=small).clone()
        self.subsample(log_p).copy_(self.small(small))
        return log_p


class MultiScalePixelRNN(RasterModel):
    """Multi-scale PixelRNN: a small image first, then the large one around it, with exact likelihood.

    Args:
        shape: (C, H, W) of the images.
        levels: number of values of a sub-pixel: 256 for 8-bit images, 2 for binary ones.
        scale: s, at least 2, a divisor of H and W; the small images are H/s x W/s.
        layer: "row" for Row LSTM or "diagonal" for Diagonal BiLSTM, in both networks.
        channels: h, the units of a state in the network of the large images, and the channels of the upsampling
            network; a multiple of C.
        layers: number of LSTM layers in the network of the large images.
        small_channels: units of a state in the network of the small images; a multiple of C.
        small_layers: number of LSTM layers there.
        dropout: probability of dropping a state, on its way to the stream, while training.
        activation: "relu", the paper's, or "gelu", of the last layers and the upsampling network.
        embedding: number of learned features of a level, at the inputs and at the logits; 0 for the paper's plain
            value and softmax. Not for binary images.
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights, not of the biases.

    Example:
        >>> model = MultiScalePixelRNN(shape=[1, 8, 8], levels=17, scale=2)
        >>> x = model.sample(4, seed=0)     # uint8 (4, 1, 8, 8)
        >>> model.small(x)                  # uint8 (4, 1, 4, 4), what was drawn first
        >>> model.log_prob(x)               # (4,) nats
    """

    papers = ("pixelrnn",)

    net: MultiScaleNet

    def __init__(
        self,
        shape: list[int] = [1, 8, 8],  # noqa: B006  a plain JSON value, never changed
        levels: int = 17,
        scale: int = 2,
        layer: str = "row",
        channels: int = 32,
        layers: int = 4,
        small_channels: int = 32,
        small_layers: int = 4,
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
        colours, height, width = self.spec.shape
        if scale < 2 or height % scale or width % scale:
            raise DataError(f"scale must be at least 2 and divide the {height} rows and {width} columns, not {scale}.")
        if small_channels < 1 or small_channels % colours:
            raise DataError(
                f"small_channels must be a positive multiple of the {colours} colours, not {small_channels}."
            )
        if small_layers < 1:
            raise DataError(f"small_layers must be positive, not {small_layers}.")
        self.save_hyperparameters()
        shared = (dropout, activation, embedding)
        small = PixelRNNNet(
            (colours, height // scale, width // scale), levels, layer, small_channels, small_layers, *shared
        )
        large = ConditionalNet(self.spec.shape, levels, scale, layer, channels, layers, *shared)
        self.net = MultiScaleNet(small, large, scale)

    def small(self, x: Tensor) -> Tensor:
        """The small image in each image: (N, C, H, W) to (N, C, H / s, W / s)."""
        x = self.check(x)
        return self.net.subsample(x).clone()

    def complete(self, x: Tensor, known: Tensor, *, seed: int | None = None, cached: bool = True) -> Tensor:
        """Draw the unknown pixels of images, in the model's order: first those of the small image, then the others.

        A pixel of the small image is drawn given the pixels of the small image before it, and any other given the
        whole small image and the pixels before it in the raster order; known pixels after it are not looked at.

        Where `known` is the small image and, beyond it, none or a prefix of the raster order, this is an exact draw
        from p(unknown | known): it makes a small image large. It also is where `known` is a prefix of the small image
        alone. With any other mask, and also with the upper rows of the large image, it is a heuristic: the rest of the
        small image is drawn without a look at the known pixels off its grid.

        Args:
            x: images, uint8 (N, C, H, W).
            known: boolean, broadcastable to (N, C, H, W), True at the pixels to keep.
            seed, cached: as in `sample`.

        Returns:
            uint8 (N, C, H, W), equal to `x` where `known`.
        """
        return super().complete(x, known, seed=seed, cached=cached)

    def _fill(self, net: MultiScaleNet, x: Tensor, known: Tensor, uniform: Tensor, cached: bool) -> None:
        known = known.clone()
        # Views: the small image is drawn where it lies in the large one, by the random numbers of these places.
        small, small_known, small_uniform = (net.subsample(tensor) for tensor in (x, known, uniform))
        super()._fill(net.small, small, small_known, small_uniform, cached)
        small_known.fill_(True)
        super()._fill(net.large, x, known, uniform, cached, small=small)
