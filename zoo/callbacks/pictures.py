"""Pictures of samples while a model is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from zoo.pictures import images as pictures
from zoo.pictures.samples import draw, makes_points


class SampleGrid(Callback):
    """A picture of samples, under `samples/` in the run's folder and in TensorBoard where it is in use.

    Of a model of points in the plane it is the figure that `zoo sample` draws, in the run's folder alone.

    Args:
        n: number of images; the same seed each time, so that pictures can be compared.
        every_n_validations: draw after every that many validations; 0 draws none.
        seed: of the samples.
    """

    def __init__(self, n: int = 16, every_n_validations: int = 1, seed: int = 0) -> None:
        self.n, self.every, self.seed = n, every_n_validations, seed
        self.validations = 0

    def state_dict(self) -> dict[str, Any]:
        """The number of validations so far."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.validations = state_dict["validations"]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, with the averaged weights still in place (this callback comes before `EMA` puts them back)."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.validations += 1
        if self.every and self.validations % self.every == 0:
            self._draw(trainer, pl_module)

    @rank_zero_only
    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = Path(trainer.default_root_dir, "samples")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{trainer.global_step:07d}.png"
        if makes_points(pl_module):
            draw(pl_module, path, seed=self.seed)
            return
        with torch.autocast(pl_module.device.type, enabled=False):
            images = pl_module.sample(self.n, seed=self.seed).cpu()
        levels = pl_module.spec.levels
        pictures.save(images, path, levels)
        for logger in trainer.loggers:
            if hasattr(logger.experiment, "add_image"):
                logger.experiment.add_image("samples", pictures.grid(images, levels), trainer.global_step)
