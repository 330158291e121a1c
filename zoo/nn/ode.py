"""The solver of ordinary differential equations, and the norms by which it chooses its steps."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from zoo.errors import DataError, ZooError


def values_and_log_dets(state: Tensor) -> tuple[Tensor, Tensor]:
    """Values (N, D) and log-determinants (N,)."""
    return state[:, :-1], state[:, -1]


def worst(state: Tensor) -> Tensor:
    """The largest root mean square of a datum's errors."""
    return state.square().mean(-1).max().sqrt()


def mean(state: Tensor) -> Tensor:
    """The root mean square of all errors, the usual norm of solvers."""
    return state.square().mean().sqrt()


def check_tolerance(name: str, value: float) -> None:
    """Refuse a tolerance that is not positive and finite."""
    if not 0 < value < math.inf:
        raise DataError(f"{name} must be positive, not {value}.")


def solver() -> Any:
    """`torchdiffeq.odeint`, which is optional and needed here alone."""
    try:
        from torchdiffeq import odeint
    except ImportError:
        raise ZooError(
            "Continuous flows need torchdiffeq, which is not installed: pip install generative-zoo[ode]."
        ) from None
    return odeint
