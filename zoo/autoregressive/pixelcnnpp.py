"""PixelCNN++: Salimans, Karpathy, Chen, Kingma, *PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture
Likelihood and Other Modifications*, 2017, arXiv 1701.05517; with the causal attention of PixelSNAIL: Chen, Mishra,
Rohaninejad, Abbeel, *PixelSNAIL: An Improved Autoregressive Generative Model*, 2017, arXiv 1712.09763.

The network conditions on whole pixels (section 2.2): the features of a pixel depend on all colours of the pixels before
it, so no weight is masked for the sake of colours, and drawing runs the network once a pixel. The head then gives the
colours of the pixel one after the other: a mixture of discretized logistics, the means of green and blue linear in the
colours before them (equations 1 to 3), or a softmax. Between residual blocks of convolutions, attention to all pixels
before gives the features of a pixel an unbounded view (PixelSNAIL, section 2).

Departures, all for faster or better training:

- one stack of masked convolutions in place of two shifted ones, and neither down- nor up-sampling nor the long
  connections around them: attention reaches what lies far away, or in the blind spot of masked convolutions;
- blocks normalize their input (root mean square) and narrow it to half its channels for the kxk convolution; `gated`
  gives them the papers' gates, plain GELUs are the default; no weight normalization;
- the places of pixels enter as learned biases of rows and columns, and as rotary angles in attention; PixelSNAIL
  appends coordinates; keys are made from features alone, without the image;
- `head: softmax` gives each colour 256 logits, from the features and the colours before by a small network of 1x1
  layers; it does not assume that neighbouring values are alike, and serves binary images;
- the mass of each value is computed without cancellation, so that no approximation for small masses is needed;
- AdamW or Muon with a cosine schedule.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.autoregressive.logistic import LogisticHead
from zoo.autoregressive.raster import RasterModel, RasterNet, place_biases, reading
from zoo.errors import DataError
from zoo.nn.activations import ACTIVATIONS
from zoo.nn.attention import CausalAttention
from zoo.nn.masked import CachedStep, MaskedConv2d, MaskedRMSNorm, residual_gain

HEADS = ("logistic", "softmax")


class Block(nn.Module):
    """Residual block: 2h channels to h, a kxk masked convolution, and back to 2h, through a gate where `gated`."""

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        dropout: float,
        activation: str,
        *,
        gated: bool = False,
        colours: int = 1,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.activation, self.gated = ACTIVATIONS[activation], gated
        self.norm = MaskedRMSNorm(2 * channels, colours)
        self.reduce = MaskedConv2d(2 * channels, channels, colours=colours)
        self.conv = MaskedConv2d(channels, channels, kernel_size, colours=colours)
        self.dropout = nn.Dropout(dropout)
        # The stream it is added to has 2h channels in float32: a bias here is costly to train, and adds nothing.
        self.expand = MaskedConv2d(channels, 2 * channels, colours=colours, gain=gain, bias=False)
        self.gate = MaskedConv2d(channels, 2 * channels, colours=colours) if gated else None

    def forward(self, x: Tensor, step: CachedStep | None = None) -> Tensor:
        """(N, 2h, H, W) to the same; or, at a cached step, (N, 2h / C) to the same."""
        h = self.reduce(self.activation(self.norm(x, step)), step)
        h = self.conv(self.activation(h), step)
        h = self.dropout(self.activation(h))
        if self.gate is None:
            return x + self.expand(h, step)
        return x + self.expand(h, step) * torch.sigmoid(self.gate(h, step))


class AttentionBlock(nn.Module):
    """Residual attention of each pixel to the features of itself and of all pixels before it."""

    def __init__(self, stream: int, heads: int, size: int, height: int, width: int, dropout: float, gain: float):
        super().__init__()
        self.norm = MaskedRMSNorm(stream)
        self.attention = CausalAttention(
            stream, stream, height, width, heads=heads, size=size, dropout=dropout, gain=gain
        )

    def forward(self, x: Tensor, step: CachedStep | None = None) -> Tensor:
        """(N, stream, H, W) to the same; or, at a cached step, (N, stream) to the same."""
        return x + self.attention(self.norm(x, step), step)


class SoftmaxHead(RasterNet):
    """The colours of a pixel as a softmax for each: a `RasterNet` of 1x1 layers, given the features of the pixel.

    What the body gives it, `parameters`, is added to the stream of each colour: (N, C * width, H, W).

    Args:
        shape: (C, H, W) of the images.
        levels: number of values of a sub-pixel.
        stream: channels of the body.
        width: channels of a colour, even.
        dropout: probability of dropping an activation while training.
        activation: "relu" or "gelu".
        embedding: number of learned features of a level, at the input and at the logits; 0 for none.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int,
        stream: int,
        width: int,
        dropout: float,
        activation: str,
        embedding: int,
    ) -> None:
        total = shape[0] * width
        super().__init__(shape, levels, total, activation, embedding, first_kernel=1)
        self.features, self.size = embedding or 1, width
        self.body_norm = MaskedRMSNorm(stream)
        self.spread = MaskedConv2d(stream, total)
        self.mix = Block(total // 2, 1, dropout, activation, colours=self.colours)

    def parameters_of(self, h: Tensor, step: CachedStep | None = None) -> Tensor:
        """The stream (N, stream, H, W) to the parameters (N, P, H, W); at a cached step without H and W."""
        return self.spread(self.activation(self.body_norm(h, step)), step)

    def log_prob(self, x: Tensor, encoded: Tensor, parameters: Tensor) -> Tensor:
        """Log p in nats (N, C, H, W) of integers (N, C, H, W), encoded, from the parameters of their pixels."""
        return self.log_likelihood(self.logits(encoded, parameters=parameters), x)

    def body(self, h: Tensor, step: CachedStep | None = None, *, parameters: Tensor) -> Tensor:
        """One residual block, on the features of the pixel and the colours before."""
        if step is not None:
            parameters = parameters[:, step.colour * self.size : (step.colour + 1) * self.size]
        return self.mix(h + parameters, step)


class PixelStep(CachedStep):
    """A step that also remembers the head's parameters of a pixel, and its colours so far, encoded.

    When a pixel begins, these are still the colours of the one before it: zeros for the first.
    """

    parameters: Tensor
    pixel: list[Tensor]


class PixelCNNPPNet(nn.Module):
    """Images to the log-probability of each sub-pixel given those before it; in its use a `RasterNet`.

    A 7x7 mask-A convolution over whole pixels and a learned bias for each row and each column start the stream of 2h
    channels in float32; blocks of convolutions and of attention work on it; the head reads it.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int,
        channels: int,
        blocks: int,
        kernel_size: int,
        heads: int,
        attention_every: int,
        head: str,
        mixtures: int,
        dropout: float,
        activation: str,
        gated: bool,
        embedding: int,
    ) -> None:
        super().__init__()
        (colours, height, width), stream = shape, 2 * channels
        self.colours, self.width = colours, width
        if head == "logistic":
            self.head = LogisticHead(shape, levels, stream, mixtures, activation, embedding)
        else:
            self.head = SoftmaxHead(shape, levels, stream, 2 * max(1, channels // 2), dropout, activation, embedding)
        self.first = MaskedConv2d(colours * self.head.features, stream, 7, mask="A", bias=False)
        self.row_bias, self.column_bias = place_biases(stream, height, width)
        attentions = blocks // attention_every if attention_every else 0
        # A pixel of the last column is in no window of the pixels that follow it. Attention finds it at the next one.
        self.previous = MaskedConv2d(self.first.in_group, stream, bias=False) if attentions else None
        gain = residual_gain(blocks + attentions)
        self.blocks = nn.ModuleList()
        for i in range(1, blocks + 1):
            self.blocks.append(Block(channels, kernel_size, dropout, activation, gated=gated, gain=gain))
            if attention_every and i % attention_every == 0:
                self.blocks.append(AttentionBlock(stream, heads, channels // heads, height, width, dropout, gain))

    def forward(self, x: Tensor) -> Tensor:
        """Integers (N, C, H, W) to log p of each, in nats, (N, C, H, W)."""
        encoded = self.encode(x)
        return self.head.log_prob(x, encoded, self.parameters_of(encoded))

    def encode(self, x: Tensor, colour: int | None = None) -> Tensor:
        """What the first layer and the head read: integers (N, C, H, W) to (N, C * F, H, W); of a colour, (N, F)."""
        return self.head.encode(x, colour)

    def parameters_of(self, encoded: Tensor, step: CachedStep | None = None) -> Tensor:
        """The body: encoded images (N, C * F, H, W) to the head's parameters (N, P, H, W); at a step, (N, P)."""
        with reading(encoded, self.head.embed):
            h = self.first(encoded, step)
            if self.previous is not None:
                h = h + self.previous(self._shifted(encoded, step), step)
        if step is None:
            h = h + (self.row_bias[:, :, None] + self.column_bias[:, None, :])
        else:
            h = h + self.row_bias[:, step.row] + self.column_bias[:, step.column]
        for block in self.blocks:
            h = block(h, step)
        return self.head.parameters_of(h, step)

    @staticmethod
    def _shifted(encoded: Tensor, step: PixelStep | None) -> Tensor:
        """At each pixel the one before it in raster order, and zeros at the first: (N, C * F, H, W), or (N, C * F)."""
        if step is None:
            return F.pad(encoded.flatten(2), (1, 0))[:, :, :-1].unflatten(2, encoded.shape[2:])
        return torch.cat(step.pixel, 1)

    def logits(self, encoded: Tensor, step: PixelStep | None = None) -> Tensor:
        """Encoded images (N, C * F, H, W) to logits (N, C, K, H, W); at a cached step to (N, K).

        K is the number of levels, or 1 for binary images: the logit of a one.
        """
        if step is None:
            return self.head.logits(encoded, parameters=self.parameters_of(encoded))
        if step.colour == 0:  # once a pixel: the layers of the body have one group of channels
            step.parameters = self.parameters_of(encoded, step)
            step.pixel = []
        return self.head.logits(encoded, step, parameters=step.parameters)

    def begin(self, batch: int) -> PixelStep:
        """The memory for drawing `batch` images."""
        step = PixelStep(batch, self.width)
        step.pixel = [self.row_bias.new_zeros(batch, self.first.in_group)]
        return step

    def remember(self, value: Tensor, step: PixelStep) -> None:
        """Give the head the value (N,) of the sub-pixel at this step and, with the last colour, the body the pixel."""
        step.pixel.append(self.encode(value, step.colour))
        self.head.remember(value, step)
        if step.colour == self.colours - 1:
            step.cache(self.first).put(step.column, 0, torch.cat(step.pixel, 1))


class PixelCNNPP(RasterModel):
    """PixelCNN++, a masked convolutional network over whole pixels, with causal attention and exact likelihood.

    Args:
        shape: (C, H, W) of the images.
        levels: number of values of a sub-pixel: 256 for 8-bit images, 2 for binary ones.
        channels: h, the channels of the kxk convolutions and of attention.
        blocks: number of residual blocks of convolutions.
        kernel_size: k, odd.
        heads: of attention; h must be a multiple of 4 times as many.
        attention_every: an attention follows every so many blocks; 0 for none.
        head: "logistic", a mixture of discretized logistics, or "softmax", over all levels.
        mixtures: number of logistics.
        dropout: probability of dropping an activation inside a block or an attention while training.
        activation: "relu" or "gelu".
        gated: whether blocks end with a gate, as the papers' do.
        embedding: number of learned features of a level at the input (and at the logits of a softmax); 0 for its
            plain value. Not for binary images.
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights, not of the biases.

    Example:
        >>> model = PixelCNNPP(shape=[1, 8, 8], levels=17)
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
        heads: int = 2,
        attention_every: int = 2,
        head: str = "logistic",
        mixtures: int = 10,
        dropout: float = 0.0,
        activation: str = "gelu",
        gated: bool = False,
        embedding: int = 0,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        warmup: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(shape, levels)
        if channels < 1:
            raise DataError(f"channels must be positive, not {channels}.")
        self.check_network(self.spec.shape[0], activation, embedding)
        self.check_blocks(blocks, kernel_size)
        if not 0 <= attention_every <= blocks:
            raise DataError(f"attention_every must be 0, for none, to {blocks}, the blocks, not {attention_every}.")
        if attention_every and (heads < 1 or channels % (4 * heads)):
            raise DataError(f"channels must be a multiple of 4 times the heads, not {channels} with {heads} heads.")
        if head not in HEADS:
            raise DataError(f"head must be one of {', '.join(HEADS)}, not {head!r}.")
        if head == "logistic" and (levels == 2 or mixtures < 1):
            raise DataError(
                f"A logistic head takes more than 2 levels and at least 1 of mixtures, not {levels} and {mixtures}: "
                "for binary images set head to softmax."
            )
        self.save_hyperparameters()
        self.net = PixelCNNPPNet(
            self.spec.shape,
            levels,
            channels,
            blocks,
            kernel_size,
            heads,
            attention_every,
            head,
            mixtures,
            dropout,
            activation,
            gated,
            embedding,
        )

    @property
    def papers(self) -> tuple[str, ...]:
        """PixelSNAIL's too where there is attention."""
        return ("pixelcnnpp", "pixelsnail") if self.hparams.attention_every else ("pixelcnnpp",)
