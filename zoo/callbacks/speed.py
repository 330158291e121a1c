"""Compilation, and runs that end when their time does."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info


class Compile(Callback):
    """`torch.compile` of the model's inner networks, which `zoo.model.Model.compiled` names, while training.

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
            _channels_last(pl_module)
            if not pl_module.compiled:
                rank_zero_info(f"{type(pl_module).__name__} names no network to compile: Compile leaves it as it is.")

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


def _channels_last(module: torch.nn.Module) -> None:
    """Lay out weights and buffers of 2d and 3d convolutions with the channels last; others have no such layout."""
    # Not `module.to(memory_format=...)`, which takes one format for both, and fails on the other.
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() in formats:
            tensor.data = tensor.data.to(memory_format=formats[tensor.dim()])


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
