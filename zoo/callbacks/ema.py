"""Averaged weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

WIDEST = 0.288  # of all steps alike, 1 / sqrt(12), rounded down


class EMA(WeightAveraging):
    """Moving average of the weights; validation, checkpoints and export use the average.

    The decay rises as (1 + t) / (10 + t) to its value, so that the random start is soon forgotten. With a width it
    rises on, as (1 - 1 / t)^(gamma + 1): the weights of step t then count as t^gamma, whatever the length of the run
    (Karras et al. 2023, arXiv 2312.02696, section 3.1). Buffers are copied and not averaged: the mean of two
    permutations is none.

    Args:
        decay: of the average, per optimizer step.
        width: in the place of a decay, the standard deviation of the steps that are averaged, as a share of all steps;
            0.05 to 0.15 suit the samples of diffusions.
        others: widths of further averages, which a run's checkpoints keep beside: `zoo export RUN NAME --width 0.05`.
    """

    def __init__(
        self, decay: float = 0.9995, width: float | None = None, others: Sequence[float] | None = None
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), not {decay}.")
        for each in (*([] if width is None else [width]), *(others or ())):
            if not 0 < each <= WIDEST:
                raise ValueError(f"width must be above 0 and at most {WIDEST}, that of all steps alike, not {each}.")
        self.decay = decay
        self.power = None if width is None else power_of(width)
        self.powers = {f"{each:g}": power_of(each) for each in others or ()}
        self._others: dict[str, dict[str, Tensor]] = {}
        super().__init__(use_buffers=False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin an average, and count its steps anew: those of a run before would hold up this one's."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._latest_update_step, self._others = 0, {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the averages beside the model: they may have been made before the model reached its device."""
        self._average_model.module.to(pl_module.device)
        self._averages, self._currents = ([*module.parameters()] for module in (self._average_model.module, pl_module))
        for width in self.powers:
            # A resumed run's, or what the first step will replace; laid out as the weights are.
            kept = self._others.get(width, {})
            self._others[width] = {
                name: torch.empty_like(parameter).copy_(kept.get(name, parameter).detach())
                for name, parameter in pl_module.named_parameters()
            }

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average after an optimizer step.

        Not by `AveragedModel.update_parameters`: it reads its counter of averages, and with it waits at each step for
        all that the GPU has to do. The GPU would then wait for the launches of the next step.
        """
        t = self._latest_update_step
        if trainer.global_step <= t:
            return
        average = self._average_model
        # The first average is the weights themselves.
        decay = min(self.decay, (1 + t) / (10 + t)) if t else 0.0
        if self.power is not None:
            decay = decay_of(self.power, trainer.global_step) if t else 0.0
        with torch.no_grad():
            if self._averages:  # a model may have nothing to learn
                torch._foreach_lerp_(self._averages, self._currents, 1 - decay)
                for width, others in self._others.items():
                    own = decay_of(self.powers[width], trainer.global_step) if t else 0.0
                    torch._foreach_lerp_([*others.values()], self._currents, 1 - own)
            for own, current in zip(average.module.buffers(), pl_module.buffers(), strict=True):
                own.copy_(current, non_blocking=True)
        average.n_averaged += 1
        self._latest_update_step = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """The number of steps, and the further averages by width and name."""
        return {**super().state_dict(), **({"others": self._others} if self._others else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on averaging."""
        super().load_state_dict(state_dict)
        self._others = dict(state_dict.get("others", {}))


def power_of(width: float) -> float:
    """The gamma of a width: sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)) is the standard deviation of a share t of
    all steps that counts as t^gamma (arXiv 2312.02696, section 3.1).
    """
    squared = width**-2
    return float(np.roots([1, 7, 16 - squared, 12 - squared]).real.max())


def decay_of(power: float, step: int) -> float:
    """The decay of such an average at a step, counted from 1."""
    return (1 - 1 / step) ** (power + 1)
