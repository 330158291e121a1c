"""What happens around training: averaged weights, compilation, graphs, the bar, pictures, and the record of a run."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar, WeightAveraging
from lightning.pytorch.utilities import rank_zero_only

from zoo import figures, pictures
from zoo.building import class_path_of
from zoo.errors import DataError
from zoo.nn.graphs import Replayed


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
            torch._foreach_lerp_(self._averages, self._currents, 1 - decay)
            for own, current in zip(average.module.buffers(), pl_module.buffers(), strict=True):
                own.copy_(current, non_blocking=True)
        average.n_averaged += 1
        self._latest_update_step = trainer.global_step


class Compile(Callback):
    """`torch.compile` of the model's inner networks, which `GenerativeModel.compiled` names, while training.

    The LightningModule itself is left alone (logging breaks the graph), and so is validation, whose shapes vary.

    Args:
        mode: of torch.compile: "default"; "reduce-overhead", which replays CUDA graphs where a step launches thousands
            of small kernels, as recurrent networks do; "max-autotune-no-cudagraphs", ...
        options: of the compiler, beside those that the mode sets: names as `torch._inductor.list_options()` gives them.
    """

    def __init__(self, mode: str = "default", options: dict[str, Any] | None = None) -> None:
        self.mode, self.options = mode, options

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Channels last, the layout of tensor cores; before DDP and the average copy the weights' layout."""
        if stage == "fit":
            pl_module.to(memory_format=torch.channels_last)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compile in place: the names of the weights stay what they are."""
        how = {"mode": self.mode}
        if self.options:  # torch.compile takes a mode or options
            from torch._inductor import list_mode_options  # slow to import

            how = {"options": {**list_mode_options(self.mode), **self.options}}
        for name in pl_module.compiled:
            getattr(pl_module, name).compile(dynamic=False, **how)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run eagerly."""
        torch.compiler.set_stance("force_eager")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run compiled again."""
        torch.compiler.set_stance("default")


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


class CUDAGraphs(Callback):
    """Passes of a training step, which `GenerativeModel.captured` names, launched as one CUDA graph each.

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


class TimeBudget(Callback):
    """Choose the number of steps so that a run, with its learning-rate schedule, ends when the time does.

    The speed is measured after the compilation and the first steps, and `max_steps` is set. After each tenth of what is
    left it is corrected by the speed of that tenth, for other work may come or go beside the run. A resumed run keeps
    the number of steps. A recipe states the one that came of it, so that others train as long on slower machines.

    Args:
        minutes: of training in all.
        skip: steps before the first measurement.
        measure: steps of a measurement, at least.
    """

    def __init__(self, minutes: float, skip: int = 200, measure: int = 400) -> None:
        self.minutes, self.skip, self.measure = minutes, skip, measure
        self.max_steps: int | None = None
        self._begin = 0.0
        self._mark: tuple[int, float] | None = None  # step and time from which on the speed is measured
        self._next: int | None = None  # the step of the next look at the clock

    def state_dict(self) -> dict[str, Any]:
        """The number of steps, once it is chosen."""
        return {"max_steps": self.max_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the number of steps."""
        self.max_steps = state_dict["max_steps"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; a run that was resumed before the measurement begins it anew."""
        self._begin, self._mark = time.monotonic(), None
        if self.max_steps:
            self._next = None
            trainer.fit_loop.epoch_loop.max_steps = self.max_steps
        else:
            self._next = trainer.global_step + self.skip

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure, then decide; every rank takes the decision of the first."""
        step = trainer.global_step
        if self._next is None or step < self._next:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        now, mark = time.monotonic(), self._mark
        self._mark = step, now
        if mark is None:
            self._next = step + self.measure
            return
        left = 60 * self.minutes - (now - self._begin)
        steps = step + max(0, int(left * (step - mark[0]) / (now - mark[1])))
        self.max_steps = trainer.strategy.broadcast(steps)
        trainer.fit_loop.epoch_loop.max_steps = self.max_steps
        self._next = step + max(self.measure, (self.max_steps - step) // 10)


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
        if figures.makes_points(pl_module):
            figures.draw(pl_module, path, seed=self.seed)
            return
        with torch.autocast(pl_module.device.type, enabled=False):
            images = pl_module.sample(self.n, seed=self.seed).cpu()
        levels = pl_module.spec.levels
        pictures.save(images, path, levels)
        for logger in trainer.loggers:
            if hasattr(logger.experiment, "add_image"):
                logger.experiment.add_image("samples", pictures.grid(images, levels), trainer.global_step)


class Last(Checkpoint):
    """`checkpoints/last.ckpt` in the run's folder, from which `--ckpt_path last` resumes.

    It is written after each validation and where the run stops. Lightning's own `save_last` follows the best
    checkpoint instead: it leaves out the validations that brought nothing better. A run that is stopped inside an
    epoch (`--trainer.max_time`) is saved at the end of its last batch: after it Lightning adds a validation and
    closes the epoch, and a resume would skip the rest of it.

    Args:
        every_n_steps: also after every that many optimizer steps.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        self.every = every_n_steps
        self._saved = 0  # the optimizer step that the file holds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A resumed run begins with what the file holds.

        Saved again between two accumulated batches, it would lose the gradient of the first.
        """
        self._saved = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save at the steps asked for, and when the run stops here."""
        step = trainer.global_step
        due = bool(self.every) and step % self.every == 0
        if due or trainer.should_stop or step == trainer.max_steps:
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save when the run stops here."""
        if trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if self._saved != trainer.global_step and not trainer.fast_dev_run:
            self._saved = trainer.global_step
            trainer.save_checkpoint(Path(trainer.default_root_dir, "checkpoints", "last.ckpt"), weights_only=False)


class Record(Callback):
    """What a model card says of a run: the data, the hardware, the time and the number of images.

    It is kept in the run's checkpoints, where `zoo export` finds it, and goes on counting when a run is resumed. Where
    there is no progress bar it writes a line at each validation.

    Args:
        recipe: name of the recipe, None where there is none.
        reference: {"metric", "value", "source"}: the number that others report; with "target": true, one to reach
            where they report none.
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
            "data": getattr(data, "config", None),
            "hardware": f"{trainer.world_size} x {device}",
            "precision": str(trainer.precision),
            "torch": str(torch.__version__),  # a plain string, which loads without unpickling
            "lightning": lightning.__version__,
        }

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count images."""
        self.images += len(batch[0]) * trainer.world_size

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
            line = f"{self._elapsed() / 60:6.1f} min  step {trainer.global_step}  {metrics}  {speed:,.0f} images/s"
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
