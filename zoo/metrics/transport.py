"""Distances of optimal transport between sets of points: exact, sliced, and with entropic regularization.

With c(x, y) = |x - y|^p, W_p(P, Q)^p is the least mean cost E c(X, Y) of a coupling of P and Q. Here it is exact, by
sorting in one dimension, by assignment or a network simplex beyond; or sliced, the mean over directions of the
distances in one dimension (Rabin et al. 2011; Bonneel et al. 2015); or regularized by epsilon times the relative
entropy of the coupling (Cuturi 2013, arXiv 1306.0895) and then debiased (Genevay et al. 2017, arXiv 1706.00292; Feydy
et al. 2018, arXiv 1810.08278), which is as quick on 10,000 points as the exact distance on 1,000.

All are differentiable in the points, and the same for points that are all moved. W_p and its sliced kin have the unit
of the points, whose columns are taken as they are; the Sinkhorn divergence has that unit to the power p.

Sinkhorn's iteration is our own, where POT and geomloss have one each, because theirs took 2 to 70 times as long to the
same accuracy (tests/benchmarks/transport.py).
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import DataError, ZooError, warn
from zoo.metrics.points import EachRow, by_rows, check_positive, check_power, pairwise, prepared
from zoo.nn.devices import full_precision, generator_of

LARGEST = 10_000_000  # pairs of points that the exact distance takes
PIVOTS = 1000  # most of the network simplex for each point; 30 sufficed for 3,000 points and 3,300 in 50 dimensions
MEMORY = 5  # steps of Sinkhorn's iteration that the next one is combined with
PLAIN = 10  # of so many of its steps one is plain
BLUR = 0.05  # epsilon as a share of the mean cost, where none is given


def wasserstein(x: Tensor, y: Tensor, *, p: float = 1.0) -> Tensor:
    """W_p(P, Q), exact: points (N, D) and (M, D) to a scalar in the unit of the points.

    In one dimension by sorting, in n log n; beyond by assignment where N = M, in about n^3 (seconds for 1,000 points),
    and by the network simplex of POT where not (Bonneel et al. 2011; seconds for 3,000 points), which is the extra
    `transport`.

    Args:
        x: a sample of P.
        y: a sample of Q.
        p: at least 1; the cost is the Euclidean distance to this power.

    Raises:
        DataError: the points do not fit each other, or are too many.
        ZooError: N and M differ, in more than one dimension, and POT is not installed.
    """
    check_power(p)
    x, y = prepared(x, y, power=p)
    if x.shape[1] == 1:
        return _root(_sorted_cost(x, y, p)[0], p)
    if len(x) * len(y) > LARGEST:
        raise DataError(
            f"The exact distance takes at most {LARGEST:,} pairs of points, not {len(x):,} times {len(y):,}: use "
            "sinkhorn, sliced_wasserstein or fewer points."
        )
    with torch.no_grad(), full_precision(x.device):
        cost = pairwise(x.double(), y.double(), p).cpu().numpy()
    i, j, mass = _plan(cost)
    i, j = torch.from_numpy(i).to(x.device), torch.from_numpy(j).to(x.device)
    each = _powers((x[i] - y[j]), p)
    return _root(each @ torch.from_numpy(mass).to(each), p)


def sliced_wasserstein(
    x: Tensor, y: Tensor, *, p: float = 2.0, projections: int = 200, seed: int | None = None
) -> Tensor:
    """The root mean power of W_p over random directions: points (N, D) and (M, D) to a scalar in their unit.

    Its p-th power is E W_p(<u, X>, <u, Y>)^p for u uniform on the sphere (Bonneel et al. 2015, definition 5), here the
    mean over `projections` draws of u.

    Args:
        x: a sample of P.
        y: a sample of Q.
        p: at least 1.
        projections: number of directions.
        seed: of the directions; the global random state stays as it was.
    """
    check_power(p)
    x, y = prepared(x, y, power=p)
    if projections < 1:
        raise DataError(f"projections must be at least 1, not {projections}.")
    directions = torch.randn(x.shape[1], projections, generator=generator_of(seed), device="cpu", dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).to(x)
    with full_precision(x.device):
        return _root(_sorted_cost(x @ directions, y @ directions, p).mean(), p)


def sinkhorn(
    x: Tensor,
    y: Tensor,
    *,
    p: float = 2.0,
    epsilon: float | None = None,
    debiased: bool = True,
    tolerance: float = 1e-3,
    iterations: int = 1000,
) -> Tensor:
    """The Sinkhorn divergence, an upper or lower neighbour of W_p^p that is quick: (N, D) and (M, D) to a scalar.

    It is in the unit of the points to the power p.

    With OT(P, Q) = min over couplings of E c(X, Y) + epsilon KL(coupling || P x Q), it is

        S(P, Q) = OT(P, Q) - OT(P, P) / 2 - OT(Q, Q) / 2    (Genevay et al. 2017; Feydy et al. 2018, equation 3),

    which is zero for P = Q and positive otherwise. For epsilon to zero it goes to W_p^p, for epsilon to infinity to
    half the energy distance of the cost (at p = 1 to half `energy_distance`). Without debiasing it is OT(P, Q) itself,
    whose least Q is not P but a shrunken copy of it.

    The potentials are iterated on the scale of logarithms, with epsilon falling to its value from the largest cost, in
    float64 where float32 is too coarse for an epsilon so much smaller than that; the value is in float64 always, for it
    may be small beside its terms. The matrix of costs is computed anew in each iteration, a block at a time: time grows
    as N M, memory as N + M. Gradients are those at the solution (the potentials' own vanish there), computed with the
    value: no iteration is remembered for them, and there are no second ones.

    Args:
        x: a sample of P.
        y: a sample of Q.
        p: at least 1; the cost is the Euclidean distance to this power.
        epsilon: of the entropy, in the unit of the cost; by default `default_epsilon`, a twentieth of the mean cost
            between the sets, with which the value scales as the cost does. Values of two epsilons are not to be
            compared: give the same one to all that stand against one reference.
        debiased: whether to subtract the terms of P and Q with themselves.
        tolerance: the iteration stops where the masses that the coupling gives to the points differ from 1/N by less
            than this share, in the mean.
        iterations: most iterations at the last epsilon; a warning tells where they did not suffice.
    """
    check_power(p)
    check_positive(tolerance=tolerance, **({} if epsilon is None else {"epsilon": epsilon}))
    if iterations < 1:
        raise DataError(f"iterations must be at least 1, not {iterations}.")
    x, y = prepared(x, y, power=p)
    if epsilon is None:
        epsilon = default_epsilon(x, y, p=p)
    dtype = x.dtype
    # The divergence may be small beside its terms: what it is made of in the end is computed in float64.
    x, y = x.double(), y.double()
    value = x.new_zeros(())
    if p == 2:  # what a shift costs is the same for every coupling, and would cancel in products of far points
        value = (x.mean(0) - y.mean(0)).square().sum()
        x, y = x - x.mean(0), y - y.mean(0)
    exact_x, exact_y = x.detach(), y.detach()
    schedule = _schedule(exact_x, exact_y, p, epsilon)
    # Potentials are as large as costs, and a mass is the exp of how many epsilon go into them. Where that leaves digits
    # enough, the iteration needs no more than the points have: its errors are squared in the value.
    enough = torch.finfo(dtype).eps * schedule[0] <= tolerance * epsilon
    fixed_x, fixed_y = (points.to(dtype) if enough else points for points in (exact_x, exact_y))
    how = schedule, tolerance, iterations

    def both(f: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        g = _half_step(fixed_y, fixed_x, f, p, epsilon)
        return _half_step(fixed_x, fixed_y, g, p, epsilon), g

    # At the solution a potential is a function of its own points, given the other potential: one more half-step has
    # the gradient of the whole. The coupling has the masses exp((f_i + g_j - c_ij) / epsilon) / (N M).
    f = _settled(both, fixed_x.new_zeros(len(x)), 1, *how).double()
    g = _half_step(y, exact_x, f, p, epsilon)
    value = value + _half_step(x, exact_y, g.detach(), p, epsilon).mean() + g.mean()
    if debiased:
        for points, exact, fixed in ((x, exact_x, fixed_x), (y, exact_y, fixed_y)):

            def one(f: Tensor, epsilon: float, fixed: Tensor = fixed) -> tuple[Tensor, Tensor]:
                new = _half_step(fixed, fixed, f, p, epsilon)
                return new, new

            # A set with itself has one potential; averaged steps reach it in a few (Feydy et al. 2018).
            own = _settled(one, fixed.new_zeros(len(points)), 0.5, *how).double()
            value = value - _half_step(points, exact, own, p, epsilon).mean()
        if p <= 2:  # where it is never negative; a finite iteration may be, by its tolerance
            value = value + value.detach().clamp(min=0) - value.detach()
    return value.to(dtype)


def default_epsilon(x: Tensor, y: Tensor, *, p: float = 2.0) -> float:
    """A twentieth of the mean cost E|X - Y|^p, the epsilon of `sinkhorn` where none is given: (N, D) and (M, D).

    Where all points coincide it is 1, and every epsilon gives zero.
    """
    check_power(p)
    x, y = (points.detach().double() for points in prepared(x, y, power=p))
    with full_precision(x.device):
        if p == 2:
            centre = y.mean(0)
            mean = float((x - centre).square().sum(1).mean() + (y - centre).square().sum(1).mean())
        else:
            mean = float(by_rows(lambda rows, other: pairwise(rows, other, p).mean(1), x, y).mean())
    return BLUR * mean or 1.0


# -- Sinkhorn's iteration ----------------------------------------------------------------------------------------


def _half_step(x: Tensor, y: Tensor, g: Tensor, p: float, epsilon: float) -> Tensor:
    """f_i = -epsilon log mean_j exp((g_j - c(x_i, y_j)) / epsilon), (N,): the best potential of x, given that of y.

    It has a gradient in x alone. Powers are those of 2: the exp of a CPU takes 5 times as long, and 50 times where its
    result is too small for a float, as that of most pairs is.
    """
    scale = 1 / (epsilon * math.log(2))
    bias = g * scale - math.log2(len(y))
    if p == 2:
        bias = bias - y.square().sum(1) * scale

    def block(rows: Tensor) -> Tensor:
        if p == 2:  # |x - y|^2 by a product of matrices, and |x|^2 in the end
            scores = torch.addmm(bias, rows, y.T, alpha=2 * scale)
        else:
            scores = torch.sub(bias, pairwise(rows, y, p), alpha=scale)
        largest = scores.detach().amax(1, keepdim=True)
        f = (scores.sub_(largest).exp2_().sum(1).log2() + largest[:, 0]) / -scale
        return f + rows.square().sum(1) if p == 2 else f

    return EachRow.apply(x, block, len(y))


def _schedule(x: Tensor, y: Tensor, p: float, epsilon: float) -> list[float]:
    """From the diameter of all points to the power p down to epsilon, by factors of 2."""
    low, high = torch.minimum(x.amin(0), y.amin(0)), torch.maximum(x.amax(0), y.amax(0))
    largest = float((high - low).norm()) ** p
    return [epsilon * 2.0**k for k in range(max(0, math.ceil(math.log2(max(largest / epsilon, 1)))), 0, -1)] + [epsilon]


def _settled(
    step: Callable[[Tensor, float], tuple[Tensor, Tensor]],
    f: Tensor,
    share: float,
    schedule: list[float],
    tolerance: float,
    iterations: int,
) -> Tensor:
    """A fixed point of a step, by going this share of each: along the schedule, then until it rests.

    A step takes f and epsilon to the next f, and to the best potential g of the other points for this f. With that g
    the masses of f's points are off by exp((f - next) / epsilon), and mean f + mean g is the value of the dual problem,
    which no plain step lowers (nor half a step of a set with itself, for the dual is concave).

    At the last epsilon steps are combined such that what they leave is least, if the step is linear (Anderson 1965): it
    takes a third to a tenth of the steps. Where it is not, that may lead anywhere. So a combination is kept where it
    raises the dual's value, or, where rounding hides that, leaves less; else the iteration goes on from the plain step,
    as if nothing had been before. With one plain step in `PLAIN` it comes wherever plain steps alone come (they are the
    spacer steps of Zangwill 1969).
    """
    for epsilon in schedule:
        f = f.lerp(step(f, epsilon)[0], share)
    left: deque[Tensor] = deque(maxlen=MEMORY + 1)
    reached: deque[Tensor] = deque(maxlen=MEMORY + 1)
    kept, error, plain, combined = -math.inf, math.inf, f, False
    for count in range(1, iterations + 1):
        new, other = step(f, epsilon)
        off = float(((f - new) / epsilon).expm1().abs().mean())
        dual = float(f.double().mean() + other.double().mean())
        rounding = torch.finfo(f.dtype).eps * float(f.abs().amax() + other.abs().amax())
        if combined and not (dual > kept + rounding or (dual >= kept - rounding and off <= error)):
            f, combined = plain, False
            left.clear(), reached.clear()
            continue
        # A whole step of two sets is worth at least the pair that it has just made.
        kept = max(dual, float(new.double().mean() + other.double().mean())) if share == 1 else dual
        error, plain = off, f.lerp(new, share)
        if error < tolerance:
            return plain
        left.append((plain - f).double())
        reached.append(plain.double())
        f, combined = plain, len(left) > 1 and count % PLAIN > 0
        if combined:
            changes = torch.stack(tuple(left)).diff(dim=0)
            products = changes @ changes.T
            products.diagonal().add_(1e-10 * products.trace() + 1e-300)
            weights = torch.linalg.solve(products, changes @ left[-1])
            f = (reached[-1] - weights @ torch.stack(tuple(reached)).diff(dim=0)).to(plain)
    warn(
        f"Sinkhorn's iteration stands at {error:.1e}, above the tolerance of {tolerance:g}, after {iterations} "
        "iterations: take more of them, or a larger epsilon."
    )
    return plain


# -- exact plans -------------------------------------------------------------------------------------------------


def _plan(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs (i, j) of an optimal coupling of uniform masses, and their masses, from costs (N, M)."""
    n, m = cost.shape
    if n == m:
        from scipy.optimize import linear_sum_assignment  # slow to import

        i, j = linear_sum_assignment(cost)
        return i, j, np.full(n, 1 / n)
    emd = _network_simplex()
    # Masses of the rows are m and of the columns n, integers, so that sums of them have no rounding. Costs are at most
    # 1: the solver compares them with numbers of that order, and returns poor plans of costs near 1e-12 without a word.
    rows, columns = np.full(n, float(m)), np.full(m, float(n))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells in a warning what the log has too
        plan, log = emd(rows, columns, cost / (cost.max() or 1.0), numItermax=PIVOTS * (n + m), log=True)
    if log["warning"]:
        raise DataError(
            f"POT found no optimal transport plan of {n:,} and {m:,} points ({log['warning'].partition('.')[0]}): "
            "take as many points of each, or sinkhorn."
        )
    i, j = np.nonzero(plan)
    return i, j, plan[i, j] / (n * m)


def _network_simplex() -> Any:
    """`ot.emd` of POT, which is optional and needed here alone."""
    try:
        from ot import emd
    except ImportError:
        raise ZooError(
            "Exact transport between samples of unequal size needs POT, which is not installed: pip install "
            "generative-zoo[transport], or take as many points of each."
        ) from None
    return emd


def _sorted_cost(x: Tensor, y: Tensor, p: float) -> Tensor:
    """W_p^p in each column, (D,), of (N, D) and (M, D): quantiles belong to quantiles."""
    x, y = x.sort(0).values, y.sort(0).values
    n, m = len(x), len(y)
    if n == m:
        return (x - y).abs().pow(p).mean(0)
    # Both quantile functions are constant between these places, in units of 1 / (N M).
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    mass = ends.diff(prepend=ends.new_zeros(1)).to(x) / (n * m)
    i, j = ((ends - 1) // m).to(x.device), ((ends - 1) // n).to(x.device)
    return mass @ (x[i] - y[j]).abs().pow(p)


def _powers(difference: Tensor, p: float) -> Tensor:
    """|d|^p of each row, (N,); where it is zero, so is the gradient."""
    squares = difference.square().sum(1)
    return squares if p == 2 else torch.where(squares > 0, squares, 1.0).pow(p / 2) * (squares > 0)


def _root(power: Tensor, p: float) -> Tensor:
    """power^(1/p), whose gradient at zero is zero and not infinite."""
    return power if p == 1 else torch.where(power > 0, power, 1.0).pow(1 / p) * (power > 0)
