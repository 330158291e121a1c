"""Distances by kernels: maximum mean discrepancy and energy distance.

MMD^2(P, Q) = E k(X, X') + E k(Y, Y') - 2 E k(X, Y), the largest squared difference of the means of a function in the
unit ball of the kernel's Hilbert space (Gretton et al. 2012, *A kernel two-sample test*, equations 1 to 5). The energy
distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Szekely & Rizzo 2013) is MMD^2 of the kernel that the distance induces,
|x| + |y| - |x - y| (Sejdinovic et al. 2013, arXiv 1207.6076).

All are differentiable in the points, take time as N M and memory as N + M.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.errors import DataError
from zoo.metrics.points import by_rows, check_points, pairwise


class Kernel(nn.Module):
    """A symmetric, positive definite function of two points: (N, D) and (M, D) to (N, M)."""

    def diagonal(self, x: Tensor) -> Tensor:
        """k(x, x) of each point: (N, D) to (N,)."""
        raise NotImplementedError


class Gaussian(Kernel):
    """k(x, y) = sum_s exp(-|x - y|^2 / (2 s^2)).

    Args:
        scales: the s, in the unit of the points.
    """

    def __init__(self, scales: Sequence[float] = (1.0,)) -> None:
        super().__init__()
        self.scales = _positive("scales", scales)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, D) and (M, D) to (N, M)."""
        squares = pairwise(x, y, 2)
        return sum((squares * (-0.5 / s**2)).exp() for s in self.scales)

    def diagonal(self, x: Tensor) -> Tensor:
        """(N, D) to (N,)."""
        return x.new_full((len(x),), float(len(self.scales)))


class RationalQuadratic(Kernel):
    """k(x, y) = sum_a (1 + |x - y|^2 / (2 a))^-a (Binkowski et al. 2018, arXiv 1801.01401, section 2.1).

    Its gradient does not vanish for points that are far from all others, as that of a Gaussian does.

    Args:
        exponents: the a.
    """

    def __init__(self, exponents: Sequence[float] = (0.2, 0.5, 1.0, 2.0, 5.0)) -> None:
        super().__init__()
        self.exponents = _positive("exponents", exponents)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, D) and (M, D) to (N, M)."""
        squares = pairwise(x, y, 2)
        return sum((1 + squares / (2 * a)).pow(-a) for a in self.exponents)

    def diagonal(self, x: Tensor) -> Tensor:
        """(N, D) to (N,)."""
        return x.new_full((len(x),), float(len(self.exponents)))


class DistanceInduced(Kernel):
    """k(x, y) = |x| + |y| - |x - y|, the distance-induced kernel (Sejdinovic et al. 2013, arXiv 1207.6076).

    Also the triangular gap: by how much the way from x to y over the origin is longer than the direct one. The paper's
    has half of it; without the half, MMD^2 is the energy distance itself.
    """

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, D) and (M, D) to (N, M)."""
        return _length(x)[:, None] + _length(y) - pairwise(x, y)

    def diagonal(self, x: Tensor) -> Tensor:
        """(N, D) to (N,)."""
        return 2 * _length(x)


class Polynomial(Kernel):
    """k(x, y) = (<x, y> / D + 1)^degree, for degree 3 that of the kernel Inception distance (arXiv 1801.01401).

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


def mmd(x: Tensor, y: Tensor, kernel: Kernel, *, unbiased: bool = True) -> Tensor:
    """MMD^2(P, Q), squared: points (N, D) and (M, D) to a scalar.

    Args:
        x: a sample of P.
        y: a sample of Q.
        kernel: k.
        unbiased: whether a point is not paired with itself: in expectation the value is then that of P and Q, and it
            may be negative (Gretton et al. 2012, equation 3). Otherwise it is that of the two sets of points, never
            negative (equation 5).
    """
    check_points(x, y, least=2 if unbiased else 1)
    cross = by_rows(lambda rows, other: kernel(rows, other).mean(1), x, y).mean()
    return _within(x, kernel, unbiased) + _within(y, kernel, unbiased) - 2 * cross


def energy_distance(x: Tensor, y: Tensor, *, unbiased: bool = True) -> Tensor:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|: points (N, D) and (M, D) to a scalar in the unit of the points.

    It is zero for P = Q alone. SciPy's function of the same name gives its root, in one dimension.

    Args:
        x: a sample of P.
        y: a sample of Q.
        unbiased: as in `mmd`.
    """
    return mmd(x, y, _MinusDistance(), unbiased=unbiased)


class _MinusDistance(Kernel):
    """-|x - y|, of the same MMD^2 as `DistanceInduced`: what depends on one point alone cancels in it."""

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
