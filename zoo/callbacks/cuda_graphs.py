"""Passes of a step launched as CUDA graphs."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.errors import DataError
from zoo.nn.replay import Replayed


class CUDAGraphs(Callback):
    """Passes of a training step, which `zoo.model.Model.captured` names, launched as one CUDA graph each.

    For models trained in turns of short passes, whose kernels end sooner than Python launches the next; for others,
    `Compile` in the mode "reduce-overhead". On a CPU, and on several GPUs, a step runs as it does without this.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a model that has no such pass."""
        if stage == "fit" and not pl_module.captured:
            raise DataError(
                f"{type(pl_module).__name__} has no pass that CUDAGraphs captures: take it out of trainer.callbacks, "
                f"and set the mode of zoo.callbacks.Compile to reduce-overhead."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put them in the methods' place."""
        if pl_module.device.type == "cuda" and trainer.world_size == 1:
            for name in pl_module.captured:
                setattr(pl_module, name, Replayed(getattr(pl_module, name), pl_module.parameters()))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the methods back, and free the graphs' memory."""
        for name in pl_module.captured:
            vars(pl_module).pop(name, None)
