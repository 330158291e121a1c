"""Causal attention over images in raster order, and its evaluation one pixel at a time.

The features of a pixel may attend to its own and to those of all pixels before it: Vaswani et al. 2017
(arXiv 1706.03762), over the pixels of an image as in PixelSNAIL (Chen et al. 2017, arXiv 1712.09763).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.devices import precise
from zoo.nn.masked import CachedStep, LayerCache


class CausalAttention(nn.Module):
    """Multi-head attention of each pixel to itself and the pixels before it in raster order.

    Queries and keys are normalized to a root mean square of one, so that no step of training can saturate the softmax,
    and turned by angles that grow with the row and the column (rotary embedding, Su et al. 2021, arXiv 2104.09864, in
    two dimensions): their product then depends on how far apart two pixels are in each. A learned factor for each
    head says how sharp its softmax is.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        height, width: of the images.
        heads: number of heads.
        size: channels of a head, a multiple of 4.
        dropout: probability of dropping a channel of what the heads return, while training.
        gain: factor on the initial standard deviation 1 / sqrt(inputs) of the last layer's weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        height: int,
        width: int,
        *,
        heads: int,
        size: int,
        dropout: float = 0.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        if size % 4:
            raise ValueError(f"size must be a multiple of 4, not {size}.")
        self.heads, self.size, self.width = heads, size, width
        # Three weights and not one: an optimizer that orthogonalizes then treats each of the three maps by itself.
        self.query, self.key, self.value = (nn.Linear(in_channels, heads * size, bias=False) for _ in range(3))
        self.out = nn.Linear(heads * size, out_channels, bias=False)
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=in_channels**-0.5)
        nn.init.normal_(self.out.weight, std=gain * (heads * size) ** -0.5)
        self.sharpness = nn.Parameter(torch.ones(heads))
        self.dropout = nn.Dropout(dropout)
        # From a radian a pixel, which tells neighbours apart, to a radian in 100 pixels.
        frequency = torch.logspace(0, -2, size // 4)
        rows = torch.arange(height)[:, None, None] * frequency
        columns = torch.arange(width)[:, None] * frequency
        angle = torch.cat([rows.expand(-1, width, -1), columns.expand(height, -1, -1)], 2).flatten(0, 1)
        # Derived from the arguments alone, hence not stored with the weights: (H * W, size / 2).
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, x: Tensor, step: CachedStep | None = None) -> Tensor:
        """(N, in, H, W) to (N, out, H, W); or, at a cached step, (N, in) to (N, out)."""
        if step is not None:
            place = step.row * self.width + step.column
            query, key, value = self._project(x[:, None], slice(place, place + 1))
            keys, values = step.cache(self).put(place, key, value)
            heads = F.scaled_dot_product_attention(query, keys, values)
            return self._join(heads)[:, 0]
        sequence = x.flatten(2).transpose(1, 2)
        heads = F.scaled_dot_product_attention(*self._project(sequence, slice(None)), is_causal=True)
        return self._join(heads).transpose(1, 2).unflatten(2, x.shape[2:])

    def _project(self, x: Tensor, places: slice) -> tuple[Tensor, Tensor, Tensor]:
        """(N, L, in) to queries, keys and values (N, heads, L, size) at these places of the raster order."""
        # One product for the three reads the input once.
        weight = torch.cat([self.query.weight, self.key.weight, self.value.weight])
        query, key, value = F.linear(x, weight).unflatten(2, (3, self.heads, self.size)).unbind(2)
        query = self._turn(query, places) * self.sharpness[:, None]
        key = self._turn(key, places)
        return tuple(part.to(value.dtype).transpose(1, 2) for part in (query, key, value))

    def _turn(self, x: Tensor, places: slice) -> Tensor:
        """Normalize (N, L, heads, size) and turn by the angles of the places, in float32."""
        x = precise(x)
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        cos, sin = self.cos[places, None], self.sin[places, None]
        first, second = x.chunk(2, -1)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)

    def _join(self, heads: Tensor) -> Tensor:
        return self.out(self.dropout(heads.transpose(1, 2).flatten(2)))

    def new_cache(self, batch: int, width: int) -> _AttentionCache:
        """The memory of this layer for drawing `batch` images of that width."""
        return _AttentionCache(self, batch)


class _AttentionCache(LayerCache):
    """Keys and values of the pixels so far: (N, heads, H * W, size)."""

    def __init__(self, layer: CausalAttention, batch: int) -> None:
        shape = batch, layer.heads, len(layer.cos), layer.size
        self.keys, self.values = (layer.value.weight.new_zeros(shape) for _ in range(2))

    @property
    def nbytes(self) -> int:
        return 2 * self.keys.numel() * self.keys.element_size()

    def put(self, place: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Remember a pixel's key and value (N, heads, 1, size); all keys and values up to it."""
        self.keys[:, :, place : place + 1] = key
        self.values[:, :, place : place + 1] = value
        return self.keys[:, :, : place + 1], self.values[:, :, : place + 1]
