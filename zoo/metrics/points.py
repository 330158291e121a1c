"""Sets of points as empirical measures: what every distance asks of them, and distances between all pairs in blocks.

A set (N, D) stands for the measure that gives each of its rows the mass 1/N. Its unit is that of its columns, which are
taken as they are: a column of large numbers counts for more than one of small numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from zoo.errors import DataError
from zoo.nn.devices import full_precision

BLOCK = 1 << 18  # most entries of a matrix of pairs at once: 1 MiB of float32, which a CPU's caches hold
GPU_BLOCKS = 64  # as many at once on a GPU, which has more to do at once and no such cache


def check_points(x: Tensor, y: Tensor, *, least: int = 1) -> None:
    """Refuse what are not two sets of points (N, D) and (M, D), floating and finite, of at least so many points."""
    for name, points in (("x", x), ("y", y)):
        if not isinstance(points, Tensor) or not points.is_floating_point():
            kind = points.dtype if isinstance(points, Tensor) else type(points).__name__
            raise DataError(f"{name} must be a tensor of floats (N, D), not {kind}: flatten images and convert them.")
        if points.ndim != 2 or not points.shape[1]:
            raise DataError(f"{name} must be points (N, D), not of shape {tuple(points.shape)}: flatten each to a row.")
        if len(points) < least:
            raise DataError(f"{name} must hold at least {least} points, not {len(points)}.")
        if not bool(_wide(points).isfinite().all()):
            raise DataError(f"{name} holds a value that is no finite number: remove its row.")
    if x.shape[1] != y.shape[1] or x.dtype != y.dtype or x.device != y.device:
        raise DataError(
            f"x and y must have as many columns, one type and one device, not {x.shape[1]} of {x.dtype} on {x.device} "
            f"and {y.shape[1]} of {y.dtype} on {y.device}."
        )


def checked(x: Tensor, y: Tensor, *, least: int = 1) -> tuple[Tensor, Tensor]:
    """Two sets, checked, in float32 or wider."""
    check_points(x, y, least=least)
    return _wide(x), _wide(y)


def prepared(x: Tensor, y: Tensor, *, least: int = 1, power: float = 2.0) -> tuple[Tensor, Tensor]:
    """Two sets as a distance takes them that only sees differences x - y: checked, in float32 or wider, and near zero.

    `checked` does no more than the first two.

    A column that is far from the origin beside its spread is moved there, both sets alike, so that no products of large
    numbers cancel. It is moved where all of its values lie within a factor of two: their differences from a number
    among them are then exact (Sterbenz), and a column that is not far stays as it is, bit for bit.

    Raises:
        DataError: they do not fit each other, are too few, or so far apart or near each other that the cost to this
            power or the square of a distance is no finite number of their type, or none but zero.
    """
    x, y = checked(x, y, least=least)
    both = torch.stack([*x.detach().aminmax(dim=0), *y.detach().aminmax(dim=0)])
    low, high = both.amin(0), both.amax(0)
    size = torch.minimum(low.abs(), high.abs())
    far = (low * high.sign() > 0) & (torch.maximum(low.abs(), high.abs()) / 2 <= size)
    sides = (high / 2 - low / 2).double()  # of the box around both, half, for its whole may be no number
    longest = sides.max()  # by which they are divided, for squares of the smallest numbers are zero
    width = longest * (sides / longest.clamp(min=torch.finfo(torch.float64).tiny)).norm()
    largest, limits, highest = 2 * float(width), torch.finfo(x.dtype), power if x.shape[1] == 1 else max(power, 2.0)
    if largest > 1 and highest * math.log(largest) > math.log(limits.max):
        raise DataError(f"|x - y|^{highest:g} is too large for {x.dtype}: scale the points down.")
    if 0 < largest < (limits.tiny / limits.eps) ** (1 / highest):
        raise DataError(f"|x - y|^{highest:g} is too small for {x.dtype}: scale the points up.")
    if not bool(far.any()):
        return x, y
    centre = torch.where(far, low + (high - low) / 2, 0)
    return x - centre, y - centre


def _wide(points: Tensor) -> Tensor:
    """The same in float32 where their type is narrower, in which sums over pairs mean nothing."""
    return points.float() if points.dtype.itemsize < 4 else points


def check_positive(**values: float) -> None:
    """Refuse numbers, given by their names, that are not positive and finite."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise DataError(f"{name} must be positive and finite, not {value}.")


def check_power(p: float) -> None:
    """Refuse a power below one, with which |x - y|^p is no cost of a Wasserstein distance."""
    if not 1 <= p < float("inf"):
        raise DataError(f"p must be at least 1 and finite, not {p}.")


def pairwise(x: Tensor, y: Tensor, p: float = 1.0) -> Tensor:
    """|x_i - y_j|^p in the Euclidean norm: (N, D) and (M, D) to (N, M).

    Its gradient where two points coincide is zero.
    """
    if x.shape[1] == 1:
        distance = (x - y.T).abs()
    elif p == 2:  # a product of matrices; what cancels is small beside the spread of the points
        centre = y.detach().mean(0)
        x, y = x - centre, y - centre
        squares = x.square().sum(1, keepdim=True) + y.square().sum(1)
        return torch.addmm(squares, x, y.T, alpha=-2).clamp(min=0)
    else:
        distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    return distance if p == 1 else distance.pow(p)


def blocks(x: Tensor, width: int) -> Sequence[Tensor]:
    """x in blocks of rows, each so small that a matrix with `width` entries for each of its rows is cheap."""
    size = BLOCK if x.device.type == "cpu" else BLOCK * GPU_BLOCKS
    return x.split(max(1, size // width))


def by_rows(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """function(x, y) of blocks of rows of x, put together: each row must have a result of its own.

    The memory is that of one block, for gradients too: the backward pass computes each block again.
    """
    if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
        return torch.cat([checkpoint(function, rows, y, use_reentrant=False) for rows in blocks(x, len(y))])
    return torch.cat([function(rows, y) for rows in blocks(x, len(y))])


class EachRow(torch.autograd.Function):
    """A function of blocks of rows, (n, D) to (n,), each value that of its own row; differentiable once.

    The gradients are computed with the values: (N, D) numbers are kept for the backward pass, and no pairs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor], width: int) -> Tensor:
        """(N, D) to (N,)."""
        needed = ctx.needs_input_grad[0]
        # Where their places are made before, the memory of one block serves the next one.
        values, slopes = x.new_empty(len(x)), torch.empty_like(x) if needed else x
        for rows, value, slope in zip(*(blocks(part, width) for part in (x, values, slopes)), strict=True):
            with full_precision(x.device), torch.set_grad_enabled(needed):
                rows = rows.detach().requires_grad_(needed)
                result = function(rows)
                value.copy_(result.detach())
                if needed:
                    slope.copy_(torch.autograd.grad(result.sum(), rows)[0])
        ctx.save_for_backward(slopes)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """(N,) to (N, D)."""
        if torch.is_grad_enabled():  # `once_differentiable` would take the gradients for constants
            raise RuntimeError("Sinkhorn's potentials have no second derivatives: leave out create_graph.")
        return gradient[:, None] * ctx.saved_tensors[0], None, None
