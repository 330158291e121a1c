"""The solver of ordinary differential equations, and the norms by which it chooses its steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from zoo.errors import DataError, ZooError, one_line

STEPS = 1000  # flows of the zoo take ten to a hundred


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


def solver() -> Callable[..., Tensor]:
    """`solve`, for which torchdiffeq has to be installed; it is optional, and needed here alone."""
    try:
        import torchdiffeq  # noqa: F401
    except ImportError:
        raise ZooError(
            "Continuous flows, and the probability flow of a diffusion, need torchdiffeq, which is not installed: "
            "pip install generative-zoo[ode]."
        ) from None
    return solve


def solve(velocity: Callable[[Tensor, Tensor], Tensor], state: Tensor, times: Tensor, **settings: Any) -> Tensor:
    """The states at `times` of dx/dt = velocity(t, x) from `state`, by `torchdiffeq.odeint` with these settings.

    Raises:
        ZooError: it takes more than `STEPS` steps, or steps of no length: the velocity is too stiff.
    """
    from torchdiffeq import odeint

    options = settings.pop("options", {}) | {"max_num_steps": STEPS}
    try:
        return odeint(velocity, state, times, options=options, **settings)
    except AssertionError as error:  # in which that library says either
        raise ZooError(
            f"The flow's equation is too stiff to be solved in {STEPS:,} steps ({one_line(error)}): its weights are "
            f"damaged or diverged, or its tolerance is too small."
        ) from None
