"""What every chain of steps from noise to data asks for: how many there are, which are shown, and that no state is
NaN.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.arguments import count_of
from zoo.errors import DataError, ZooError


def check_steps(steps: Any, most: int | None = None) -> int:
    """A number of steps, at most `most`.

    Raises:
        DataError: it is below 1, or above the number that the schedule has.
    """
    steps = count_of(steps, "steps")
    if most is not None and steps > most:
        raise DataError(f"steps must be at most {most}, those of the schedule, not {steps}.")
    return steps


def shown_steps(steps: int, frames: int) -> list[int]:
    """After which steps a trace of so many frames shows the state, at even distances from 0, the noise, to the last."""
    return torch.linspace(0, steps, frames, device="cpu").round().long().tolist()


def finite_state(z: Tensor, step: int, steps: int) -> Tensor:
    """A state, or the chances of one, unless the denoiser gave what is no number.

    Raises:
        ZooError: it did.
    """
    if not bool(z.isfinite().all()):
        raise ZooError(
            f"The denoiser gives NaN or infinite values in step {step} of {steps}: the model's weights are damaged, or "
            f"its run diverged."
        )
    return z
