"""Sinkhorn's divergence on hard sets, against a plain iteration in float64 that is run until it rests."""

from __future__ import annotations

import itertools
import math
import os
import warnings
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from zoo.metrics import sinkhorn

CASES = int(os.environ.get("ZOO_CASES", "8"))  # of each kind; the more, the rarer what is found
KINDS = ("normal", "clusters", "duplicates", "far point", "sizes", "one point", "line", "same", "moved", "grid")
STEPS = 5000
POWERS = (1.0, 2.0, 1.5)


def points_of(kind: str, seed: int) -> tuple[Tensor, Tensor]:
    """Two sets of at most 12 points in at most 4 dimensions, float64."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    n, dims = (int(torch.randint(low, high, (), generator=random)) for low, high in ((2, 13), (1, 5)))
    x, y = normal(n, dims), 0.5 * normal(n, dims) + 1
    if kind == "clusters":  # that hardly see each other at a small epsilon, of unequal mass
        x[: n // 3 + 1] += 10
        y[: n // 2 + 1] -= 10
    elif kind == "duplicates":  # points of unequal weight
        x, y = x[torch.randint(0, n, (n,), generator=random)], y[: n // 2 + 1].repeat_interleave(2, 0)
    elif kind == "far point":
        x[0] += 100
    elif kind == "sizes":
        y = 0.5 * normal(1 + seed % 12, dims)
    elif kind == "one point":
        x = x[:1]
    elif kind == "line":  # where rows of the kernel are nearly alike
        x, y = (torch.linspace(0, 1, n, dtype=torch.float64)[:, None].repeat(1, dims) + s for s in (0.0, 0.3))
    elif kind == "same":
        y = x.flip(0).clone()
    elif kind == "moved":
        y = x + 3
    elif kind == "grid":  # of many couplings that cost the same
        x, y = (torch.randint(0, 3, (n, dims), generator=random).double() for _ in range(2))
    return x, y


class Solved(NamedTuple):
    """Bounds of the regularized objective, the coupling (N, M) behind them, and whether its steps came to rest."""

    low: float
    high: float
    coupling: Tensor
    rests: bool


def plain(x: Tensor, y: Tensor, p: float, epsilon: float, share: float = 1.0) -> Solved:
    """Sinkhorn's steps alone, from zero, in float64: at rest, or after `STEPS` with the bounds that they then give.

    The dual problem's value is below the least. A coupling's is above it, once its masses are made right (Altschuler et
    al. 2017, arXiv 1705.09634, algorithm 2).
    """
    cost = (x[:, None] - y).square().sum(2).pow(p / 2)
    f = cost.new_zeros(len(x))
    for _ in range(STEPS):
        g = -epsilon * torch.logsumexp((f[:, None] - cost) / epsilon - math.log(len(x)), 0)
        new = -epsilon * torch.logsumexp((g - cost) / epsilon - math.log(len(y)), 1)
        off = float(((f - new) / epsilon).expm1().abs().mean())
        if off < 1e-10:
            break
        f = f.lerp(new, share)
    coupling = torch.exp((f[:, None] + g - cost) / epsilon) / cost.numel()
    right = coupling * (1 / len(x) / coupling.sum(1, keepdim=True)).clamp(max=1)
    right = right * (1 / len(y) / right.sum(0)).clamp(max=1)
    rows, columns = ((1 / part.numel() - part).clamp(min=0) for part in (right.sum(1), right.sum(0)))
    right = right + rows[:, None] * columns / rows.sum().clamp(min=1e-300)
    entropy = torch.special.xlogy(right, right * cost.numel()).sum()
    return Solved(float(f.mean() + g.mean()), float((right * cost).sum() + epsilon * entropy), coupling, off < 1e-10)


def divergence(x: Tensor, y: Tensor, p: float, epsilon: float) -> tuple[float, float, Tensor | None]:
    """Bounds of the debiased divergence, and by the envelope theorem its gradient in x, where the steps came to rest.

    The gradient of a term is the coupling's mean of the cost's.
    """

    def slope(a: Tensor, b: Tensor, coupling: Tensor) -> Tensor:
        difference = a[:, None] - b
        length = difference.square().sum(2, keepdim=True).clamp(min=1e-300)
        return (coupling[..., None] * p * difference * length.pow(p / 2 - 1)).sum(1)

    across = plain(x, y, p, epsilon)
    own, other = (plain(a, a, p, epsilon, 0.5) for a in (x, y))
    low = across.low - own.high / 2 - other.high / 2
    high = across.high - own.low / 2 - other.low / 2
    if not across.rests or not own.rests:
        return low, high, None
    # Half the term of a set with itself, which moves at both ends.
    return low, high, slope(x, y, across.coupling) - slope(x, x, own.coupling)


def epsilon_of(x: Tensor, y: Tensor, p: float, seed: int) -> float:
    """From that at which all is nearly independent to one at which plain steps take thousands."""
    return (1.0, 0.1, 0.02, 0.005)[seed % 4] * float((x[:, None] - y).square().sum(2).pow(p / 2).mean()) or 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_iteration_comes_where_plain_steps_come(kind: str):
    rested = 0
    for seed in range(CASES):
        x, y = points_of(kind, seed)
        p = POWERS[seed % 3]
        epsilon = epsilon_of(x, y, p, seed)
        low, high, slope = divergence(x, y, p, epsilon)
        moving = x.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it is done within its bound, or it says that it is not
            value = sinkhorn(moving, y, p=p, epsilon=epsilon, tolerance=1e-9, iterations=20_000)
        ours, case = float(value.detach()), f"{kind}, seed {seed}"
        rounding = 1e-9 * (abs(high) + epsilon)
        assert max(low, 0) - rounding <= ours <= high + rounding, case
        assert ours >= 0, case
        if kind == "same":
            assert ours < 1e-9 * epsilon
        if slope is not None:
            rested += 1
            found = torch.autograd.grad(value, moving)[0]
            largest = float(slope.abs().max())
            torch.testing.assert_close(found, slope, rtol=0, atol=1e-6 * largest + 1e-7 * epsilon, msg=case)
    assert rested > CASES / 4, "else the gradient is hardly held against anything"


@pytest.mark.parametrize("kind", ["normal", "duplicates", "grid", "line", "clusters"])
def test_a_combination_of_steps_does_not_lose_what_was_reached(kind: str):
    """Without debiasing the value is the dual problem's, which plain steps never lower."""
    for seed in range(3):
        x, y = points_of(kind, seed)
        epsilon = 0.003 * epsilon_of(x, y, 2.0, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of course it is not done
            values = [
                float(sinkhorn(x, y, epsilon=epsilon, debiased=False, tolerance=1e-10, iterations=count))
                for count in range(1, 30)
            ]
        for before, after in itertools.pairwise(values):
            assert after > before - 0.1 * epsilon, f"{kind}, seed {seed}"
