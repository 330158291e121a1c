"""Entropic transport between batches, on their matrices of costs, in a fixed number of iterations.

None looks at a value, for that would make each step of training wait for the GPU; `zoo.metrics.sinkhorn` iterates until
it is done. The weights of all points of a batch are equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def half_step(cost: Tensor, potential: Tensor, epsilon: float) -> Tensor:
    """f_i = -epsilon log mean_j exp((g_j - c_ij) / epsilon): costs (..., N, M) and g (..., M) to (..., N)."""
    return -epsilon * torch.logsumexp((potential.unsqueeze(-2) - cost) / epsilon - math.log(cost.shape[-1]), -1)


def potentials(cost: Tensor, epsilon: float, iterations: int) -> tuple[Tensor, Tensor]:
    """f (..., N) and g (..., M) after so many iterations from zero, on costs (..., N, M)."""
    g = cost.new_zeros(*cost.shape[:-2], cost.shape[-1])
    for _ in range(iterations):
        f = half_step(cost, g, epsilon)
        g = half_step(cost.mT, f, epsilon)
    return f, g


def transport(cost: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The regularized objective, min over couplings M of E_M c + epsilon KL(M || P x Q): (..., N, M) to (...).

    The entropy term is part of it; the cost of the coupling alone, E_M c, is less by that term. After a finite number
    of iterations it is the dual's value at the potentials, which is below the minimum and rises to it. Its gradient in
    the costs is the coupling, as if that were fixed: no iteration is remembered for it (Danskin's theorem).
    """
    with torch.no_grad():
        _, g = potentials(cost, epsilon, iterations)
    return half_step(cost, g, epsilon).mean(-1) + g.mean(-1)


def transports(costs: list[Tensor], epsilon: float, iterations: int) -> list[Tensor]:
    """`transport` of several costs, (N, M) each, to scalars."""
    return at_once(lambda cost: transport(cost, epsilon, iterations), costs)


def at_once(function: Callable[[Tensor], Tensor], costs: list[Tensor]) -> list[Tensor]:
    """A function of each of several costs, of all at once where they are of one size.

    An iteration is a few kernels, so small that one takes as long as many.
    """
    if len({cost.shape for cost in costs}) > 1:
        return [function(cost) for cost in costs]
    return list(function(torch.stack(costs)).unbind())
