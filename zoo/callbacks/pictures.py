"""Pictures of samples while a model is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from zoo.arguments import count_of, seed_of
from zoo.pictures import images as pictures
from zoo.pictures.samples import draw, has_picture, seen


class SampleGrid(Callback):
    """A picture of samples, under `samples/` in the run's folder and in TensorBoard where it is in use.

    Of a model of points in the plane it is the figure that `zoo sample` draws, in the run's folder alone. Of data that
    have no picture, as tables, and of a model that has no samples, or only given a condition or a label, it says so
    once, and draws nothing.

    Args:
        n: number of images; the same seed each time, so that pictures can be compared.
        every_n_validations: draw after every that many validations; 0 draws none.
        seed: of the samples.
    """

    def __init__(self, n: int = 16, every_n_validations: int = 1, seed: int = 0) -> None:
        self.n, self.every = count_of(n), count_of(every_n_validations, "every_n_validations", least=0)
        self.seed = seed_of(seed)
        self.validations = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say so where there is nothing to draw."""
        self.draws = has_picture(pl_module)
        if stage == "fit" and not self.draws:
            rank_zero_info(f"{type(pl_module).__name__} gives no samples that can be drawn: SampleGrid draws nothing.")

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
        if self.draws and self.every and self.validations % self.every == 0:
            self._draw(trainer, pl_module)

    @rank_zero_only
    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = Path(trainer.default_root_dir, "samples")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{trainer.global_step:07d}.png"
        number = None if pl_module.spec.picture == "plane" else self.n
        draw(pl_module, path, n=number, seed=self.seed)
        boards = [logger.experiment for logger in trainer.loggers if hasattr(logger.experiment, "add_image")]
        if boards and pl_module.spec.picture != "plane":
            images, columns = seen(pl_module, self.n, seed=self.seed)
            picture = pictures.grid(images, pl_module.spec.levels, columns=columns)
            for board in boards:
                board.add_image("samples", picture, trainer.global_step)
