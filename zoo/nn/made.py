"""The masked network of MADE (Germain et al. 2015, arXiv 1502.03509), for densities and for autoregressive flows."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import CheckpointError
from zoo.nn.orderings import check_orderings


class MaskedLinear(nn.Module):
    """x (W * M)^T + b, the mask M given at each call or kept as `mask`.

    Args:
        inputs, outputs: sizes.
        gain: factor on the initial standard deviation 1 / sqrt(inputs).
        bias: whether there is a b.
    """

    mask: Tensor | None

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * (gain / math.sqrt(inputs)))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.register_buffer("mask", None, persistent=False)

    def visible(self) -> dict[str, Tensor]:
        """As `zoo.nn.masked.visible_entries` asks for it."""
        return {} if self.mask is None else {"weight": self.mask}

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(..., inputs) to (..., outputs) or, with masks (S, outputs, inputs), (S, N, inputs) to (S, N, outputs)."""
        if mask is None:
            return F.linear(x, self.weight * self.mask, self.bias)
        y = x @ (self.weight * mask).mT
        return y if self.bias is None else y + self.bias


def draw_degrees(dims: int, hidden: int, layers: int, masks: int, seed: int) -> Tensor:
    """Degrees of the hidden units, int64 (K, layers, hidden) in 1..max(1, D - 1)."""
    degrees = torch.empty(masks, layers, hidden, dtype=torch.int64)
    if degrees.is_meta:
        return degrees
    random, last, least = np.random.RandomState([seed, 1]), max(1, dims - 1), 1
    for layer in range(layers):
        even = (_permutations(random, masks, hidden) + random.random_sample((masks, 1))) * last / hidden
        # A unit below all of the layer before would see nothing (section 4.2).
        degree = np.clip(1 + np.floor(even).astype(np.int64), least, last)
        degrees[:, layer] = torch.from_numpy(degree)
        least = degree.min(1, keepdims=True)
    return degrees


def _permutations(random: np.random.RandomState, n: int, size: int) -> np.ndarray:
    return random.random_sample((n, size)).argsort(1, kind="stable")


class MADENet(nn.Module):
    """Vectors to `outputs` numbers for each dimension, which depend only on the dimensions before it.

    `orderings[k, d]` is the place of dimension d in ordering k. A hidden unit of degree m sees the first m dimensions;
    the outputs at place p read units of degree at most p. Both are buffers that are saved, and the masks follow from
    them: those of a single set are kept, and made again when others are loaded; of several sets they are made at each
    call, for all together are K times as large as the weights.

    Args:
        orderings: int64 (K, D), K permutations of 0..D-1.
        hidden: units of a hidden layer.
        layers: number of hidden layers.
        outputs: numbers for each dimension: 1 for a logit, 2 for a mean and a log-scale.
        seed: of the degrees.
        direct: whether the outputs also read the input directly (section 3).
        dropout: probability of dropping a hidden activation while training.
        context_dims: size of a context that the first hidden layer reads and, as no unit is before the first
            dimension, the outputs too; 0 for none.
    """

    orderings: Tensor
    degrees: Tensor
    drawn: Tensor | None
    units: Tensor | None

    def __init__(
        self,
        orderings: Tensor,
        hidden: int,
        layers: int,
        outputs: int = 1,
        *,
        seed: int = 0,
        direct: bool = False,
        dropout: float = 0.0,
        context_dims: int = 0,
    ) -> None:
        super().__init__()
        masks, dims = orderings.shape
        check_orderings(orderings, dims, "each ordering")
        self.dims, self.outputs, self.p = dims, outputs, dropout
        # A unit sees half of the layer below on average, and a ReLU halves the square: sqrt(2) and 2 keep unit scale.
        self.hidden = nn.ModuleList([MaskedLinear(dims, hidden, math.sqrt(2))])
        for _ in range(1, layers):  # no list as long as an absurd number of layers
            self.hidden.append(MaskedLinear(hidden, hidden, 2.0))
        self.head = MaskedLinear(hidden, dims * outputs, 0.1)
        self.direct = MaskedLinear(dims, dims * outputs, 0.0, bias=False) if direct else None
        self.context = nn.Linear(context_dims, hidden, bias=False) if context_dims else None
        self.context_head = nn.Linear(context_dims, dims * outputs, bias=False) if context_dims else None
        if self.context_head is not None:
            nn.init.zeros_(self.context_head.weight)
        self.register_buffer("orderings", orderings.clone())
        self.register_buffer("degrees", draw_degrees(dims, hidden, layers, masks, seed))
        # Of a single set: the dimension at each place, and of each layer the units by degree and how many have each.
        self.register_buffer("drawn", None, persistent=False)
        self.register_buffer("units", None, persistent=False)
        self.counts: list[list[int]] = []
        self._prepare()

    def forward(self, x: Tensor, sets: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """Floats (N, D) under the first set to (N, D, outputs); or (S, N, D), each under its set of `sets` (S,).

        A context is (N, context_dims). The result is float32 under autocast too.
        """
        single = len(self.orderings) == 1
        if sets is None and not single:
            return self(x[None], torch.zeros(1, dtype=torch.int64, device=x.device), context)[0]
        *masks, head, direct = [None] * (len(self.hidden) + 2) if single else self.masks(sets)
        h = x
        for i, (layer, mask) in enumerate(zip(self.hidden, masks, strict=True)):
            h = layer(h, mask)
            if i == 0 and self.context is not None:
                h = h + self.context(context)
            h = F.relu(h)
            if self.p:
                h = F.dropout(h, self.p, self.training)
        with torch.autocast(x.device.type, enabled=False):
            y = self.head(h.to(self.head.weight.dtype), head)
            if self.direct is not None:
                y = y + self.direct(x.to(self.head.weight.dtype), direct)
            if self.context_head is not None:
                y = y + self.context_head(context.to(self.head.weight.dtype))
            return y.unflatten(-1, (self.dims, self.outputs))

    def masks(self, sets: Tensor) -> list[Tensor]:
        """Booleans (S, out, in): of each hidden layer (equation 8), of the head (9), of the direct connections."""
        place, degrees = self.orderings[sets], self.degrees[sets].unbind(1)
        out = place.repeat_interleave(self.outputs, 1)
        hidden = [above[:, :, None] >= below[:, None] for below, above in pairwise(degrees)]
        return [
            degrees[0][:, :, None] > place[:, None],
            *hidden,
            out[:, :, None] >= degrees[-1][:, None],
            out[:, :, None] > place[:, None],
        ]

    def _prepare(self) -> None:
        """Keep what follows from the orderings and the degrees of a single set; on the meta device there is nothing."""
        if len(self.orderings) > 1 or self.orderings.is_meta:
            return
        masks = self.masks(torch.zeros(1, dtype=torch.int64, device=self.orderings.device))
        for layer, mask in zip((*self.hidden, self.head, self.direct), masks, strict=True):
            if layer is not None:
                # Numbers, which multiply faster than booleans. The weight itself may be on the meta device yet.
                layer.mask = mask[0].to(layer.weight.dtype)
        self.drawn, self.units = self.orderings[0].argsort(), self.degrees[0].argsort()
        if not self.degrees.is_meta:  # where there are no values, and nothing is drawn
            self.counts = [degrees.bincount(minlength=self.dims).tolist() for degrees in self.degrees[0]]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        orderings, degrees = (state_dict.get(prefix + name) for name in ("orderings", "degrees"))
        if orderings is not None:
            check_orderings(orderings, self.dims, f"each row of the weights' {prefix}orderings", CheckpointError)
        last = max(1, self.dims - 1)
        given = degrees is not None and degrees.numel() and not degrees.is_meta
        if given and not (1 <= int(degrees.min()) <= int(degrees.max()) <= last):
            raise CheckpointError(f"the weights' {prefix}degrees must be from 1 to {last}.")
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._prepare()


class CachedPass:
    """One pass of a `MADENet`, spread over the D steps of drawing: each unit once, when all that it sees is drawn.

    What is not drawn or computed yet is zero, so a step needs no mask.

    Args:
        net: the network.
        sets: int64 (S,), the mask set of each group.
        n: images in a group.
    """

    def __init__(self, net: MADENet, sets: Tensor, n: int) -> None:
        layers, hidden = net.degrees.shape[1:]
        self.outputs = torch.arange(net.outputs, device=sets.device)
        # Degrees do not all have equally many units: a row of zeros fills up, and its activation is a zero.
        pads = [(0, i > 0, 0, 1) for i in range(layers)]
        self.weights = [F.pad(layer.weight, pad) for layer, pad in zip(net.hidden, pads, strict=True)]
        self.biases = [F.pad(layer.bias, (0, 1)) for layer in net.hidden]
        self.head, self.head_bias = F.pad(net.head.weight, (0, 1)), net.head.bias
        self.direct = None if net.direct is None else net.direct.weight
        self.units = [_by_degree(net.degrees[sets, layer], net.dims) for layer in range(layers)]
        self.h = [self.head.new_zeros(len(sets), n, hidden + 1) for _ in range(layers)]

    def step(self, t: int, x: Tensor, dims: Tensor) -> Tensor:
        """Outputs (S, n, outputs) for the dimensions `dims` (S,) at place t; in x (S, n, D) those before are set."""
        below = x
        for weight, bias, units, h in zip(self.weights, self.biases, self.units, self.h, strict=True):
            unit = units[:, t]
            new = F.relu(torch.baddbmm(bias[unit][:, None], below, weight[unit].mT))
            h.scatter_(2, unit[:, None].expand_as(new), new)
            below = h
        row = dims[:, None] * len(self.outputs) + self.outputs
        y = torch.baddbmm(self.head_bias[row][:, None], below, self.head[row].mT)
        return y if self.direct is None else torch.baddbmm(y, x, self.direct[row].mT)


class OrderedPass:
    """One pass of a `MADENet` of a single mask set, spread over the D steps of drawing: each unit once, no gradients.

    With dimensions in the order of their places and units in that of their degrees, what a step computes and what that
    sees are slices, and a step needs no mask.

    Args:
        net: the network.
        n: number of data.
        context: (n, context_dims), where the network takes one.
    """

    def __init__(self, net: MADENet, n: int, context: Tensor | None = None) -> None:
        drawn, places = net.drawn, (net.dims, net.outputs)
        # Columns, one for each datum or one for all, and a row for each unit.
        biases, head_bias = [layer.bias[:, None] for layer in net.hidden], net.head.bias[:, None]
        if net.context is not None:
            biases[0] = biases[0] + net.context(context).T
            head_bias = head_bias + net.context_head(context).T
        below, self.layers = drawn, []
        for layer, bias, units, counts in zip(net.hidden, biases, net.units, net.counts, strict=True):
            weight = layer.weight.index_select(0, units).index_select(1, below)
            h = weight.new_empty(len(units), n)
            parts = [rows.split_with_sizes(counts) for rows in (weight, bias.index_select(0, units), h)]
            self.layers.append((list(accumulate(counts)), h, *parts))
            below = units
        self.head = net.head.weight.unflatten(0, places).index_select(0, drawn).index_select(2, below)
        self.head_bias = head_bias.unflatten(0, places).index_select(0, drawn)
        self.direct = None
        if net.direct is not None:
            self.direct = net.direct.weight.unflatten(0, places).index_select(0, drawn).index_select(2, drawn)

    def step(self, t: int, x: Tensor) -> Tensor:
        """Outputs (outputs, n) at place t; x (t, n) are the values at the places before it."""
        if not t:
            return self.head_bias[0].expand(-1, x.shape[1])
        below, seen = x, t
        for ends, h, weights, biases, units in self.layers:
            if ends[t] > ends[t - 1]:
                torch.addmm(biases[t], weights[t][:, :seen], below, out=units[t]).relu_()
            seen = ends[t]
            below = h[:seen]
        y = torch.addmm(self.head_bias[t], self.head[t][:, :seen], below)
        return y if self.direct is None else y.addmm_(self.direct[t][:, :t], x)


def _by_degree(degrees: Tensor, dims: int) -> Tensor:
    """Degrees (S, H) to the units of each degree 0..D, (S, D + 1, most units of a degree), filled up with H."""
    groups, hidden = degrees.shape
    counts = degrees.new_zeros(groups, dims + 1).scatter_add_(1, degrees, torch.ones_like(degrees))
    degree, unit = degrees.sort(dim=1, stable=True)
    within = torch.arange(hidden, device=degrees.device) - (counts.cumsum(1) - counts).gather(1, degree)
    units = degrees.new_full((groups, dims + 1, int(counts.max())), hidden)
    units[torch.arange(groups, device=degrees.device)[:, None], degree, within] = unit
    return units
