"""What keeps a run: its last checkpoint, its record, its bar."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, TQDMProgressBar

from zoo.batch import as_batch
from zoo.classes import class_path_of


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, with the training numbers as they are when it is drawn.

    What is logged with `prog_bar=True` Lightning reads in every step, and a step that is read waits for the GPU.

    Args:
        refresh_rate: draw after every that many batches.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What the bar shows."""
        logged = trainer.callback_metrics.items()
        own = {name: float(value) for name, value in logged if name.startswith("train_")}
        return {**super().get_metrics(trainer, pl_module), **own}


class SaveBest(ModelCheckpoint):
    """The best weights by validation, beside the callbacks by which a recipe saves others.

    Its state is kept under a name of its own: theirs may be made with the same arguments.
    """

    @property
    def state_key(self) -> str:
        """Under what a checkpoint holds the state."""
        return f"SaveBest{super().state_key}"


class SaveLast(Checkpoint):
    """`checkpoints/last.ckpt` in the run's folder, from which `--ckpt_path last` resumes.

    It is written after each validation and where the run stops. Lightning's own `save_last` follows the best
    checkpoint instead: it leaves out the validations that brought nothing better. A run that is stopped inside an
    epoch (`--trainer.max_time`) is saved at the end of its last batch: after it Lightning adds a validation and
    closes the epoch, and a resume would skip the rest of it.

    Ctrl-C, or a SIGTERM, ends the run after the batch or the validation under way, saved: a resume goes on as if
    nothing had been. A second one ends it at once, with what was saved before.

    Args:
        every_n_steps: also after every that many optimizer steps.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        self.every = every_n_steps
        self._saved = 0  # the optimizer step that the file holds
        self._signal: int | None = None  # the one by which the run is to end
        self._handlers: dict[int, Any] = {}  # what signals did before

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A resumed run begins with what the file holds.

        Saved again between two accumulated batches, it would lose the gradient of the first.
        """
        self._saved = trainer.global_step
        self._signal = None
        if threading.current_thread() is threading.main_thread():  # elsewhere none can be caught
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, functools.partial(self._note, trainer))

    def _note(self, trainer: Trainer, number: int, frame: Any) -> None:
        again, self._signal = self._signal is not None, number
        launcher = trainer.strategy.launcher
        if number == signal.SIGTERM and hasattr(launcher, "kill"):
            launcher.kill(number)  # the processes that this one has started, which end together with it
        if again:
            self._release()
            self._leave()
        if trainer.is_global_zero:
            # Not `print`, in the midst of which the signal may have come.
            os.write(2, b"\nzoo: the run ends after this batch, and is saved; once more, and it ends at once.\n")

    def _leave(self) -> None:
        raise KeyboardInterrupt if self._signal == signal.SIGINT else SystemExit(128 + signal.SIGTERM)

    def _release(self) -> None:
        for number, before in self._handlers.items():
            signal.signal(number, before)
        self._handlers = {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Signals do what they did."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Signals do what they did."""
        self._release()

    def __getstate__(self) -> dict[str, Any]:
        """Without the handlers, which are this process's."""
        return {**vars(self), "_handlers": {}}

    def _end_if_told(self, trainer: Trainer, saved: bool) -> None:
        """End the run, all of its processes at the same batch, where a signal has come to any."""
        told = self._signal is not None
        if trainer.world_size > 1:
            told = trainer.strategy.reduce_boolean_decision(told, all=False)
        # Between two accumulated batches the gradient of the first would be lost.
        if not told or trainer.fit_loop._should_accumulate():
            return
        self._signal = self._signal or signal.SIGTERM
        if not saved and not trainer.fast_dev_run:
            self._save(trainer, anyhow=True)
        if trainer.is_global_zero and not trainer.fast_dev_run:
            path = self._path(trainer)
            print(f"zoo: saved {path} at step {trainer.global_step}: --ckpt_path last goes on.", file=sys.stderr)
        self._leave()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save at the steps asked for, and when the run stops here."""
        step = trainer.global_step
        due = bool(self.every) and step % self.every == 0
        if due or trainer.should_stop or step == trainer.max_steps:
            self._save(trainer, anyhow=trainer.should_stop and not trainer.fit_loop._should_accumulate())
        self._end_if_told(trainer, saved=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer)
            self._end_if_told(trainer, saved=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save when the run stops here."""
        if trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs:
            self._save(trainer)

    def _path(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir, "checkpoints", "last.ckpt")

    def _save(self, trainer: Trainer, *, anyhow: bool = False) -> None:
        """Save, where a step was taken since; `anyhow` also where none was, as of what is fitted by whole epochs."""
        if (anyhow or self._saved != trainer.global_step) and not trainer.fast_dev_run:
            self._saved = trainer.global_step
            trainer.save_checkpoint(self._path(trainer), weights_only=False)


class RunRecord(Callback):
    """What a model card says of a run: the data, the hardware, the time and the number of images.

    It is kept in the run's checkpoints, where `zoo export` finds it, and goes on counting when a run is resumed. Where
    there is no progress bar it writes a line at each validation.

    Args:
        recipe: name of the recipe, None where there is none.
        reference: the number that it is held against, as `zoo.references.Reference.from_config` takes it.
        start: {"name", "sha256", "training"} of the published weights that the run started from, None where it started
            from none.
    """

    def __init__(
        self,
        recipe: str | None = None,
        reference: dict[str, Any] | None = None,
        start: dict[str, Any] | None = None,
    ) -> None:
        self.recipe, self.reference, self.start = recipe, reference, start
        self.seconds, self.images = 0.0, 0
        self._resumed_at = self._last = time.monotonic()
        self._last_images = 0
        self._run: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and note what does not change in a run."""
        self._resumed_at = self._last = time.monotonic()
        self._last_images = self.images
        cuda = pl_module.device.type == "cuda"
        device = torch.cuda.get_device_name(pl_module.device) if cuda else f"CPU ({torch.get_num_threads()} threads)"
        data = trainer.datamodule
        self._run = {
            "class_path": class_path_of(type(pl_module)),
            "data": _described(data),
            "class_names": list(pl_module.spec.class_names or ()) or None,
            "hardware": f"{trainer.world_size} x {device}",
            "precision": str(trainer.precision),
            "torch": str(torch.__version__),  # a plain string, which loads without unpickling
            "lightning": lightning.__version__,
        }

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count data, under the name that they had when all were images."""
        self.images += as_batch(batch).size * trainer.world_size

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self._resumed_at

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One line, where there is no progress bar."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        now = time.monotonic()
        speed = (self.images - self._last_images) / max(now - self._last, 1e-9)
        self._last, self._last_images = now, self.images
        if trainer.progress_bar_callback is None:
            metrics = "  ".join(
                f"{name} {float(value):.4f}"
                for name, value in trainer.callback_metrics.items()
                if name.startswith(("train_", "val_"))
            )
            what = "images" if pl_module.spec.kind == "image" else "data"
            line = f"{self._elapsed() / 60:6.1f} min  step {trainer.global_step}  {metrics}  {speed:,.0f} {what}/s"
            print(line, file=sys.stderr, flush=True)

    def state_dict(self) -> dict[str, Any]:
        """Everything the card needs."""
        seconds = self._elapsed()
        return {
            "seconds": seconds,
            "images": self.images,
            "images_per_second": self.images / max(seconds, 1e-9),
            "recipe": self.recipe,
            "reference": self.reference,
            "from": self.start,
            **self._run,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting; a run that is resumed started where it did at first."""
        self.seconds, self.images = state_dict["seconds"], state_dict["images"]
        self.start = state_dict.get("from")


def _described(data: Any) -> dict[str, Any] | None:
    """What config.json says of a data module: its class and arguments, what people call it, and its name on the Hub."""
    config = getattr(data, "config", None)
    if config is None:
        return None
    return {**config, "title": getattr(data, "title", None), "hub_id": getattr(data, "hub_id", None)}
