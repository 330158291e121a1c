"""Distances by kernels: maximum mean discrepancy and energy distance.

MMD^2(P, Q) = E k(X, X') + E k(Y, Y') - 2 E k(X, Y), the largest squared difference of the means of a function in the
unit ball of the kernel's Hilbert space (Gretton et al. 2012, *A kernel two-sample test*, equations 1 to 5). The energy
distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Szekely & Rizzo 2013) is MMD^2 of the kernel that the distance induces,
|x| + |y| - |x - y| (Sejdinovic et al. 2013, arXiv 1207.6076).

All are differentiable in the points, take time as N M and memory as N + M. Points are taken in their own unit, columns
as they are. The energy distance has the unit of the points and grows with them; MMD^2 has that of its kernel, and a
kernel with a length, in the unit of the points, sees nothing much below or above it: by default it is taken from the
points themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.errors import DataError
from zoo.metrics.points import by_rows, checked, pairwise, prepared
from zoo.nn.devices import full_precision

MEDIAN = 1000  # points of each set whose distances give a kernel its scale


class Kernel(nn.Module):
    """A symmetric, positive definite function of two points: (N, D) and (M, D) to (N, M)."""

    shifts = False  # whether the MMD is the same for points that are all moved by one vector

    def fitted(self, x: Tensor, y: Tensor) -> Kernel:
        """The kernel itself, or the one with the length that two sets of points give it, where it has none."""
        return self

    def diagonal(self, x: Tensor) -> Tensor:
        """k(x, x) of each point: (N, D) to (N,)."""
        raise NotImplementedError


class Gaussian(Kernel):
    """k(x, y) = sum_s exp(-|x - y|^2 / (2 s^2)).

    Args:
        scales: the s, in the unit of the points; by default half, one and two times their `median_distance`, with which
            MMD^2 is the same in every unit.
    """

    shifts = True

    def __init__(self, scales: Sequence[float] | None = None) -> None:
        super().__init__()
        self.scales = None if scales is None else _positive("scales", scales)

    def fitted(self, x: Tensor, y: Tensor) -> Kernel:
        """The kernel with scales."""
        if self.scales is not None:
            return self
        median = median_distance(x, y)
        return Gaussian([0.5 * median, median, 2 * median])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, D) and (M, D) to (N, M)."""
        squares = pairwise(x, y, 2)
        return sum((squares * (-0.5 / s**2)).exp() for s in self.fitted(x, y).scales)

    def diagonal(self, x: Tensor) -> Tensor:
        """(N, D) to (N,)."""
        return x.new_full((len(x),), float(len(self.fitted(x, x).scales)))


class RationalQuadratic(Kernel):
    """k(x, y) = sum_a (1 + |x - y|^2 / (2 a s^2))^-a (Binkowski et al. 2018, arXiv 1801.01401, section 2.1, for s = 1).

    Its gradient does not vanish for points that are far from all others, as that of a Gaussian does.

    Args:
        exponents: the a.
        scale: s, in the unit of the points, by default that unit itself as in the paper, whose features a critic learns
            to scale; None for the `median_distance` of the points.
    """

    shifts = True

    def __init__(self, exponents: Sequence[float] = (0.2, 0.5, 1.0, 2.0, 5.0), scale: float | None = 1.0) -> None:
        super().__init__()
        self.exponents = _positive("exponents", exponents)
        self.scale = None if scale is None else _positive("scale", [scale])[0]

    def fitted(self, x: Tensor, y: Tensor) -> Kernel:
        """The kernel with a scale."""
        return self if self.scale is not None else RationalQuadratic(self.exponents, median_distance(x, y))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, D) and (M, D) to (N, M)."""
        squares, s = pairwise(x, y, 2), self.fitted(x, y).scale
        return sum((1 + squares / (2 * a * s**2)).pow(-a) for a in self.exponents)

    def diagonal(self, x: Tensor) -> Tensor:
        """(N, D) to (N,)."""
        return x.new_full((len(x),), float(len(self.exponents)))


class DistanceInduced(Kernel):
    """k(x, y) = |x| + |y| - |x - y|, the distance-induced kernel (Sejdinovic et al. 2013, arXiv 1207.6076).

    Also the triangular gap: by how much the way from x to y over the origin is longer than the direct one. The paper's
    has half of it; without the half, MMD^2 is the energy distance itself. It has the unit of the points, and no length.
    """

    shifts = True  # what depends on one point alone cancels

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, D) and (M, D) to (N, M)."""
        return _length(x)[:, None] + _length(y) - pairwise(x, y)

    def diagonal(self, x: Tensor) -> Tensor:
        """(N, D) to (N,)."""
        return 2 * _length(x)


class Polynomial(Kernel):
    """k(x, y) = (<x, y> / D + 1)^degree, for degree 3 that of the kernel Inception distance (arXiv 1801.01401).

    The 1 fixes the unit, and the origin counts: MMD^2 of scaled or shifted points is another number. It is meant for
    features of a network, as they come.

    Args:
        degree: of the polynomial.
    """

    def __init__(self, degree: int = 3) -> None:
        super().__init__()
        if degree < 1:
            raise DataError(f"degree must be at least 1, not {degree}.")
        self.degree = degree

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, D) and (M, D) to (N, M)."""
        return (x @ y.T / x.shape[1] + 1).pow(self.degree)

    def diagonal(self, x: Tensor) -> Tensor:
        """(N, D) to (N,)."""
        return (x.square().mean(1) + 1).pow(self.degree)


def mmd(x: Tensor, y: Tensor, kernel: Kernel | None = None, *, unbiased: bool = True) -> Tensor:
    """MMD^2(P, Q), squared: points (N, D) and (M, D) to a scalar in the unit of the kernel.

    Args:
        x: a sample of P.
        y: a sample of Q.
        kernel: k; by default `Gaussian()`, whose scales come from the median distance of the points.
        unbiased: whether a point is not paired with itself: in expectation the value is then that of P and Q, and it
            may be negative (Gretton et al. 2012, equation 3). Otherwise it is that of the two sets of points, never
            negative (equation 5).
    """
    kernel, least = Gaussian() if kernel is None else kernel, 2 if unbiased else 1
    x, y = (prepared if kernel.shifts else checked)(x, y, least=least)
    dtype, kernel = x.dtype, kernel.fitted(x, y)
    if isinstance(kernel, Gaussian | RationalQuadratic):
        # Squares by products lose what is small beside the whole: the inside of clusters that are far apart.
        x, y = x.double(), y.double()
    with full_precision(x.device):
        cross = by_rows(lambda rows, other: kernel(rows, other).mean(1), x, y).mean()
        return (_within(x, kernel, unbiased) + _within(y, kernel, unbiased) - 2 * cross).to(dtype)


def energy_distance(x: Tensor, y: Tensor, *, unbiased: bool = True) -> Tensor:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|: points (N, D) and (M, D) to a scalar in the unit of the points.

    It is zero for P = Q alone, and is multiplied by a where all points are. SciPy's function of the same name gives its
    root, in one dimension.

    Args:
        x: a sample of P.
        y: a sample of Q.
        unbiased: as in `mmd`.
    """
    return mmd(x, y, _MinusDistance(), unbiased=unbiased)


def median_distance(x: Tensor, y: Tensor) -> float:
    """The median distance between different points of both sets, (N, D) and (M, D): the scale of a kernel by default.

    It is that of at most `MEDIAN` points of each, evenly spaced; where it is zero, their mean distance, or 1 where all
    coincide.
    """
    some = [points.detach()[:: -(-len(points) // MEDIAN)] for points in (x, y)]
    points = torch.cat(some).double()
    distances = torch.pdist(points)
    if not len(distances):
        return 1.0
    return float(distances.median()) or float(distances.mean()) or 1.0


class _MinusDistance(Kernel):
    """-|x - y|, of the same MMD^2 as `DistanceInduced`: what depends on one point alone cancels in it."""

    shifts = True

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, D) and (M, D) to (N, M)."""
        return -pairwise(x, y)

    def diagonal(self, x: Tensor) -> Tensor:
        """(N, D) to (N,)."""
        return x.new_zeros(len(x))


def _within(x: Tensor, kernel: Kernel, unbiased: bool) -> Tensor:
    """The mean of k over pairs of points, or of different points, of one set."""
    n = len(x)
    total = by_rows(lambda rows, other: kernel(rows, other).mean(1), x, x)
    if not unbiased:
        return total.mean()
    return (total - kernel.diagonal(x) / n).mean() * (n / (n - 1))


def _length(x: Tensor) -> Tensor:
    """|x| of each row, whose gradient at the origin is zero."""
    return torch.linalg.vector_norm(x, dim=1)


def _positive(name: str, values: Sequence[float]) -> list[float]:
    values = [float(value) for value in values]
    if not values or min(values) <= 0:
        raise DataError(f"{name} must be positive numbers, at least one, not {values}.")
    return values
