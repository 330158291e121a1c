"""f-divergences: of probabilities, of densities by Monte Carlo, and their variational bound from samples alone.

D_f(P, Q) = E_Q f(p / q), f convex with f(1) = 0. With the convex conjugate f*(t) = sup_u (u t - f(u)),

    D_f(P, Q) >= E_P T - E_Q f*(T)    for every function T into the domain of f*,

with equality for T = f'(p / q) (Nguyen et al. 2010; Nowozin et al. 2016, f-GAN, arXiv 1606.00709, equation 4). A critic
without bounds, v, becomes such a T by an output activation (table 6 there); for the largest bound over critics samples
suffice.

All are in nats where they have a logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import DataError


class FDivergence:
    """One f, as a function of log u, its conjugate, and the activation that takes a critic into the conjugate's domain.

    Args:
        name: as in `DIVERGENCES`.
        f: log u to f(u), u > 0.
        at_zero: f(0), the limit; it may be infinite.
        slope: the limit of f(u) / u for u to infinity: what a unit of mass of P costs where Q has none.
        derivative: log u to f'(u), the best T.
        conjugate: f*.
        activation: any number to the domain of f*.
        activated: f* of the activation, in a form that neither overflows nor cancels before its value does.
    """

    def __init__(
        self,
        name: str,
        f: Callable[[Tensor], Tensor],
        at_zero: float,
        slope: float,
        derivative: Callable[[Tensor], Tensor],
        conjugate: Callable[[Tensor], Tensor],
        activation: Callable[[Tensor], Tensor],
        activated: Callable[[Tensor], Tensor],
    ) -> None:
        self.name, self.f, self.at_zero, self.slope = name, f, at_zero, slope
        self.derivative, self.conjugate = derivative, conjugate
        self.activation, self.activated = activation, activated

    def __repr__(self) -> str:
        return f"FDivergence({self.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Those of the table by their names, for formulas written as lambdas cannot be pickled; a copy is the same."""
        return (_named, (self.name,)) if DIVERGENCES.get(self.name) is self else super().__reduce__()

    def of_probabilities(self, p: Tensor, q: Tensor) -> Tensor:
        """D_f(P, Q) of probabilities (..., K) of K outcomes: exact, (...).

        Raises:
            DataError: they are negative or do not sum to 1.
        """
        for name, values in (("p", p), ("q", q)):
            if bool((values < 0).any()) or not torch.allclose(values.sum(-1), values.new_ones(()), atol=1e-4):
                raise DataError(f"{name} must hold probabilities: none negative, with the sum 1 over the last axis.")
        both = (p > 0) & (q > 0)
        ratio = torch.where(both, p, 1.0).log() - torch.where(both, q, 1.0).log()
        inside = torch.where(both, q * self.f(ratio), 0.0)
        # Infinity times no mass is nothing.
        only_q = torch.where((q > 0) & (p == 0), q * self.at_zero, 0.0)
        only_p = torch.where((p > 0) & (q == 0), p * self.slope, 0.0)
        return (inside + only_q + only_p).sum(-1)

    def of_densities(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """An unbiased estimate of D_f(P, Q), the mean of f(p / q) over draws of Q: (N,) and (N,) to a scalar.

        Args:
            log_p: log p(x_n) in nats, of draws x_n of Q; minus infinity where P has no mass.
            log_q: log q(x_n) in nats.
        """
        if log_p.shape != log_q.shape or log_p.ndim != 1:
            raise DataError(f"log_p and log_q must be (N,), not {tuple(log_p.shape)} and {tuple(log_q.shape)}.")
        ratio = log_p - log_q
        none = ratio == -math.inf
        return torch.where(none, self.at_zero, self.f(torch.where(none, 0.0, ratio))).mean()

    def bound(self, of_p: Tensor, of_q: Tensor) -> Tensor:
        """E_P T - E_Q f*(T), below D_f(P, Q) in expectation, of what a critic gives to samples: (N,), (M,) to a scalar.

        Args:
            of_p: the critic on a sample of P, before the activation.
            of_q: the critic on a sample of Q.
        """
        return self.activation(of_p).mean() - self.activated(of_q).mean()


# f(u), u = e^r, and what follows from it. The total variation is half the mean of |p - q|, at most 1; Hellinger's is
# the integral of (sqrt p - sqrt q)^2, at most 2; Jensen-Shannon's the mean of both KL to the middle, at most log 2.
DIVERGENCES: dict[str, FDivergence] = {
    divergence.name: divergence
    for divergence in (
        FDivergence(
            "total_variation",
            f=lambda r: 0.5 * torch.expm1(r).abs(),
            at_zero=0.5,
            slope=0.5,
            derivative=lambda r: 0.5 * r.sign(),
            conjugate=lambda t: t,
            activation=lambda v: 0.5 * torch.tanh(v),
            activated=lambda v: 0.5 * torch.tanh(v),
        ),
        FDivergence(
            "kl",
            f=lambda r: r.exp() * r,
            at_zero=0.0,
            slope=math.inf,
            derivative=lambda r: 1 + r,
            conjugate=lambda t: (t - 1).exp(),
            activation=lambda v: v,
            activated=lambda v: (v - 1).exp(),
        ),
        FDivergence(
            "reverse_kl",
            f=lambda r: -r,
            at_zero=math.inf,
            slope=0.0,
            derivative=lambda r: -(-r).exp(),
            conjugate=lambda t: -1 - torch.log(-t),
            activation=lambda v: -(-v).exp(),
            activated=lambda v: v - 1,
        ),
        FDivergence(
            "jensen_shannon",
            f=lambda r: 0.5 * (r.exp() * (r + math.log(2) - F.softplus(r)) + math.log(2) - F.softplus(r)),
            at_zero=0.5 * math.log(2),
            slope=0.5 * math.log(2),
            derivative=lambda r: 0.5 * (math.log(2) - F.softplus(-r)),
            conjugate=lambda t: -0.5 * torch.log(2 - (2 * t).exp()),
            activation=lambda v: 0.5 * (math.log(2) - F.softplus(-v)),
            activated=lambda v: 0.5 * (F.softplus(v) - math.log(2)),
        ),
        FDivergence(
            "pearson",
            f=lambda r: torch.expm1(r).square(),
            at_zero=1.0,
            slope=math.inf,
            derivative=lambda r: 2 * torch.expm1(r),
            conjugate=lambda t: 0.25 * t.square() + t,
            activation=lambda v: v,
            activated=lambda v: 0.25 * v.square() + v,
        ),
        FDivergence(
            "hellinger",
            f=lambda r: torch.expm1(0.5 * r).square(),
            at_zero=1.0,
            slope=1.0,
            derivative=lambda r: -torch.expm1(-0.5 * r),
            conjugate=lambda t: t / (1 - t),
            activation=lambda v: -torch.expm1(-v),
            activated=torch.expm1,
        ),
    )
}


def _named(name: str) -> FDivergence:
    return DIVERGENCES[name]
