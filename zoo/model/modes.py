"""A model is trained in training mode, also where it came in evaluation mode, as `zoo.load` gives it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn


class TrainingMode(Callback):
    """Puts a model that is in evaluation mode into training mode while it is fitted, and each module back afterwards.

    Lightning keeps the mode that a model is in: without dropout and with frozen batch statistics it would be trained as
    nobody meant. What was frozen stays frozen: a part none of whose parameters is to be trained
    (`part.requires_grad_(False)`) keeps the mode that it is in, with all that is in it. A model in training mode is
    left alone, for there `part.eval()` says it by itself; of one in evaluation mode it cannot be told.
    """

    def __init__(self) -> None:
        self._before: dict[nn.Module, bool] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Into training mode, before anything runs."""
        if pl_module.training:
            return
        self._before = {module: module.training for module in pl_module.modules()}
        _train(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Back."""
        for module, training in self._before.items():
            module.training = training
        self._before = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Back, also when it was interrupted."""
        self.on_fit_end(trainer, pl_module)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing of the model, which another process has as a copy of its own."""
        return {"_before": {}}


def _train(module: nn.Module) -> None:
    module.training = True
    for child in module.children():
        parameters = list(child.parameters())
        if not parameters or any(parameter.requires_grad for parameter in parameters):
            _train(child)
