"""Averaged weights."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging


class EMA(WeightAveraging):
    """Exponential moving average of the weights; validation, checkpoints and export use the average.

    The decay rises as (1 + t) / (10 + t) to its value, so that the random start is soon forgotten. Buffers are copied
    and not averaged: the mean of two permutations is none.

    Args:
        decay: of the average, per optimizer step.
    """

    def __init__(self, decay: float = 0.9995) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), not {decay}.")
        self.decay = decay
        super().__init__(use_buffers=False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin an average, and count its steps anew: those of a run before would hold up this one's."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._latest_update_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average beside the model: it may have been made before the model reached its device."""
        self._average_model.module.to(pl_module.device)
        self._averages, self._currents = ([*module.parameters()] for module in (self._average_model.module, pl_module))

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
        with torch.no_grad():
            if self._averages:  # a model may have nothing to learn
                torch._foreach_lerp_(self._averages, self._currents, 1 - decay)
            for own, current in zip(average.module.buffers(), pl_module.buffers(), strict=True):
                own.copy_(current, non_blocking=True)
        average.n_averaged += 1
        self._latest_update_step = trainer.global_step
