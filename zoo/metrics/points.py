"""Sets of points as empirical measures: what every distance asks of them, and distances between all pairs in blocks.

A set (N, D) stands for the measure that gives each of its rows the mass 1/N.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from zoo.errors import DataError

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
        if not bool(points.isfinite().all()):
            raise DataError(f"{name} holds a value that is no finite number: remove its row.")
    if x.shape[1] != y.shape[1] or x.dtype != y.dtype or x.device != y.device:
        raise DataError(
            f"x and y must have as many columns, one type and one device, not {x.shape[1]} of {x.dtype} on {x.device} "
            f"and {y.shape[1]} of {y.dtype} on {y.device}."
        )


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
