"""Mixtures of discretized logistics: Salimans et al. 2017 (PixelCNN++, arXiv 1701.05517), sections 2.1 and 2.2.

The probability of a level is the mass that a logistic distribution has on its unit of width, the outermost levels
taking what lies beyond; the colours of a pixel come one after the other, their means linear in those before.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.activations import ACTIVATIONS
from zoo.nn.devices import precise
from zoo.nn.levels import LevelFeatures
from zoo.nn.masked import CachedStep, MaskedConv2d, MaskedRMSNorm


def log_bin(value: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """Log of the mass that a logistic gives to a value 0..levels-1, in nats (equation 2).

    A value has the interval of half a level around it, the lowest and the highest all that is beyond. With b and a the
    ends in units of the scale, sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)): in this form
    nothing cancels, however small the mass.

    Args:
        value, mean, log_scale: in levels, broadcastable to one another.
        levels: number of values.
    """
    inverse = torch.exp(-log_scale)
    # Halves are exact: the upper end of a value is, bit for bit, the lower end of the next.
    below = F.logsigmoid((value + 0.5 - mean) * inverse)
    above = F.logsigmoid((mean - (value - 0.5)) * inverse)
    inside = below + above + torch.log(-torch.expm1(-inverse))
    return torch.where(value < 0.5, below, torch.where(value > levels - 1.5, above, inside))


class LogisticHead(nn.Module):
    """The colours of a pixel as a mixture of logistics: one component for all colours, with means that follow them.

    What the body gives it, `parameters`, are for each component a logit, for each colour a mean and a log-scale, and
    for each pair of colours a coefficient: (N, mixtures * (1 + 2 C + C (C - 1) / 2), H, W) in float32.

    Args:
        shape: (C, H, W) of the images.
        levels: number of values of a sub-pixel.
        stream: channels of the body.
        mixtures: number of components.
        activation: "relu" or "gelu".
        embedding: number of features of a level at the input; one of them is the level itself. 0 for this one alone.
    """

    # One step of the optimizer moves a mean by as many units as it moves a logit. The scales are some hundredths of the
    # range: with the range as the unit, steps that are right for logits would throw the means about.
    unit = 0.3

    def __init__(
        self, shape: tuple[int, ...], levels: int, stream: int, mixtures: int, activation: str, embedding: int
    ) -> None:
        super().__init__()
        self.colours, self.levels, self.mixtures = shape[0], levels, mixtures
        self.features = embedding or 1
        self.activation = ACTIVATIONS[activation]
        self.embed = LevelFeatures(self.colours, levels, embedding - 1) if embedding else None
        pairs = self.colours * (self.colours - 1) // 2  # each colour with those before it
        self.sizes = [mixtures, mixtures * self.colours, mixtures * self.colours, mixtures * pairs]
        self.norm = MaskedRMSNorm(stream)
        self.hidden = MaskedConv2d(stream, stream)
        self.head = MaskedConv2d(stream, sum(self.sizes), gain=0.1)  # before the pairs, whose absurd number it refuses
        self.pairs = [(c, d) for c in range(self.colours) for d in range(c)]
        with torch.no_grad():
            # The components start side by side and cover the range together.
            _, means, log_scales, _ = self.head.bias.split(self.sizes)
            means.copy_(torch.linspace(-0.9, 0.9, mixtures).repeat(self.colours) / self.unit)
            log_scales.fill_(-2.0)

    def encode(self, x: Tensor, colour: int | None = None) -> Tensor:
        """What the first layer reads: integers (N, C, H, W) to (N, C * F, H, W); of one `colour`, (N,) to (N, F).

        The first of the F features is the level, scaled to [-1, 1].
        """
        scaled = precise(x, self.head.weight) * (2.0 / (self.levels - 1)) - 1.0
        if colour is not None:
            scaled = scaled[:, None]
            return scaled if self.embed is None else torch.cat([scaled, self.embed.table[colour][x.long()]], 1)
        if self.embed is None:
            return scaled
        embedded = self.embed(x).unflatten(1, (self.colours, -1))
        return torch.cat([scaled[:, :, None], embedded], 2).flatten(1, 2)

    def parameters_of(self, h: Tensor, step: CachedStep | None = None) -> Tensor:
        """The stream (N, stream, H, W) to the parameters (N, P, H, W); at a cached step without H and W."""
        h = self.activation(self.hidden(self.activation(self.norm(h, step)), step))
        with torch.autocast(h.device.type, enabled=False):
            return self.head(precise(h), step)

    def log_prob(self, x: Tensor, encoded: Tensor, parameters: Tensor) -> Tensor:
        """Log p in nats (N, C, H, W) of integers (N, C, H, W), from the parameters of their pixels."""
        with torch.autocast(x.device.type, enabled=False):
            level = precise(x.permute(0, 2, 3, 1), parameters)
            weights, means, log_scales = self._mixture(parameters.permute(0, 2, 3, 1), level)
            each = log_bin(level[..., None], means, log_scales, self.levels)
            total = [torch.zeros_like(level[..., 0])]
            for colour in range(self.colours):
                weights = weights + each[..., colour, :]
                total.append(weights.logsumexp(-1))
            return torch.stack([after - before for before, after in pairwise(total)], 1)

    def logits(self, encoded: Tensor, step: CachedStep | None = None, *, parameters: Tensor) -> Tensor:
        """Log p of all K = levels values, in nats: encoded images (N, C * F, H, W) to (N, C, K, H, W).

        At a cached step, the parameters (N, P) and what the step remembers of the colours before, to (N, K).
        """
        if step is not None:
            before = [value[:, 0] for value in step.pixel]
            after = [torch.zeros_like(parameters[:, 0])] * (self.colours - len(before))
            return self._table(parameters, torch.stack(before + after, -1), step.colour)
        parameters = parameters.permute(0, 2, 3, 1)
        scaled = encoded[:, :: self.features].permute(0, 2, 3, 1)
        tables = [self._table(parameters, scaled, colour) for colour in range(self.colours)]
        return torch.stack(tables, 1).permute(0, 1, 4, 2, 3)

    def _table(self, parameters: Tensor, scaled: Tensor, colour: int) -> Tensor:
        """Log p of all values of a colour (..., K), from parameters (..., P) and scaled levels (..., C)."""
        level = (scaled + 1.0) * (0.5 * (self.levels - 1))
        weights, means, log_scales = self._mixture(parameters, level)
        each = log_bin(level[..., None], means, log_scales, self.levels)
        for before in range(colour):  # the component is more likely one that gave the colours before
            weights = weights + each[..., before, :]
        values = torch.arange(self.levels, device=level.device, dtype=level.dtype)[:, None]
        each = log_bin(values, means[..., colour, None, :], log_scales[..., colour, None, :], self.levels)
        return (weights[..., None, :] + each).logsumexp(-1)

    def _mixture(self, parameters: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Parameters (..., P) and levels (..., C) to log-weights (..., M), means and log-scales in levels (..., C, M).

        Of the levels, a mean takes those of the colours before it (equation 3).
        """
        half = 0.5 * (self.levels - 1)
        weights, means, log_scales, coefficients = parameters.split(self.sizes, -1)
        scaled = level / half - 1.0
        means = list((means * self.unit).unflatten(-1, (self.colours, -1)).unbind(-2))
        coefficients = torch.tanh(coefficients)
        for i, (colour, before) in enumerate(
            self.pairs
        ):  # of one colour there are none, which `split` does not compile
            coefficient = coefficients[..., i * self.mixtures : (i + 1) * self.mixtures]
            means[colour] = means[colour] + coefficient * scaled[..., before, None]
        # The paper's lower bound; the upper keeps the mass of a value above zero.
        log_scales = log_scales.unflatten(-1, (self.colours, -1)).clamp(-7.0, 7.0) + math.log(half)
        return weights.log_softmax(-1), (torch.stack(means, -2) + 1.0) * half, log_scales

    def remember(self, value: Tensor, step: CachedStep) -> None:
        """Nothing: the step remembers the colours of the pixel."""
