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

from torch import Tensor, nn

from zoo.autoregressive.raster import RasterModel, RasterNet
from zoo.nn.activations import ACTIVATIONS
from zoo.nn.masked import CachedStep, MaskedConv2d, MaskedRMSNorm, residual_gain


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


class PixelCNNNet(RasterNet):
    """Residual blocks between the ends of a `RasterNet`; the stream has 2h channels."""

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
        super().__init__(shape, levels, 2 * channels, activation, embedding)
        gain = residual_gain(blocks)
        self.blocks = nn.ModuleList(
            Block(channels, kernel_size, dropout, activation, self.colours, gain) for _ in range(blocks)
        )

    def body(self, h: Tensor, step: CachedStep | None = None) -> Tensor:
        """All blocks."""
        for block in self.blocks:
            h = block(h, step)
        return h


class PixelCNN(RasterModel):
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

    papers = ("pixelrnn",)

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
        super().__init__(shape, levels)
        self.check_network(channels, activation, embedding)
        self.check_blocks(blocks, kernel_size)
        self.save_hyperparameters()
        self.net = PixelCNNNet(self.spec.shape, levels, channels, blocks, kernel_size, dropout, activation, embedding)
