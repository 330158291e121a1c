"""What stops a run: a loss that is no finite number, before it harms the weights that are saved."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from zoo.errors import TrainingError


class Watching(LightningModule):
    """Looks at each loss, without making a GPU wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self._watched: deque[tuple[Tensor, torch.cuda.Event | None, str]] = deque()  # not yet looked at

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Stop where the loss is not finite."""
        self.watch_loss(loss)
        super().backward(loss, *args, **kwargs)

    def watch_loss(self, loss: Tensor) -> None:
        """Stop the run where a loss is not finite."""
        self.watch(
            torch.isfinite(loss.detach()),
            f"The loss of optimizer step {self.trainer.global_step + 1} is not finite: {self.remedy}, and start "
            f"again or from the run's last checkpoint.",
        )

    @property
    def remedy(self) -> str:
        """What may help where a loss is not finite; of what the model and its trainer can do."""
        if not self.automatic_optimization:
            return "lower the learning rate"
        now = self.trainer.gradient_clip_val
        smaller = f"to less than {now:g}" if now else "(--trainer.gradient_clip_val 1)"
        return f"lower the learning rate or clip gradients {smaller}"

    def watch(self, good: Tensor, complaint: str) -> None:
        """Stop the run with a `TrainingError` of these words where `good`, a boolean scalar, is false.

        On a CPU at once, before the weights are touched; on a GPU a step or two later, since reading it at once would
        make each step wait. Nothing is saved before it was looked at.
        """
        event = None
        if good.is_cuda:
            good = good.to("cpu", non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._watched.append((good, event, complaint))
        while self._watched and (self._watched[0][1] is None or self._watched[0][1].query()):
            self._look()

    def __getstate__(self) -> dict[str, Any]:
        """Without what is still to be looked at: events of a GPU cannot be pickled, and belong to the run."""
        return {**super().__getstate__(), "_watched": deque()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save no weights that a loss without a value may have harmed."""
        while self._watched:
            self._look()

    def _look(self) -> None:
        good, event, complaint = self._watched.popleft()
        if event is not None:
            event.synchronize()
        if not good:
            self._watched.clear()
            raise TrainingError(complaint)
