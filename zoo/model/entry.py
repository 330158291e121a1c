"""Where data enter a model: whatever they come by, a loader or a caller, they are held against its `DataSpec` here."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.batch import Batch, as_batch
from zoo.errors import DataError
from zoo.model.watching import Watching
from zoo.spec import DataSpec


class Entry(Watching):
    """Refuses what is none of the model's data, in training and out of it, and makes the rest what it computes with.

    Batches of a trainer are looked at as they come. On a GPU, looking at the values of a training batch would make
    each step wait, so what they are is seen a step or two later (`watch`). A verb that is called in such a step does
    not look again: it knows the tensors that have been looked at.
    """

    spec: DataSpec

    def __init__(self) -> None:
        super().__init__()
        self._entered: tuple[weakref.ref[Tensor], ...] = ()  # the parts of the batch that a trainer brought last

    def __getstate__(self) -> dict[str, Any]:
        """Without the batch, of which no copy has anything."""
        return {**super().__getstate__(), "_entered": ()}

    # -- what a verb is given -------------------------------------------------------------------------------------

    def check(self, x: Any, what: str = "x", spec: DataSpec | None = None) -> Tensor:
        """Data as the model computes with them: on its device; continuous ones in its dtype, rounded if need be.

        Args:
            x: a batch (N, *shape).
            what: its name, in the sentence.
            spec: what they are to be, by default the model's data; `spec.condition` of a condition.

        Raises:
            DataError: they are none of these.
        """
        spec, looked_at = spec or self.spec, self._looked_at(x)
        device, dtype = self._home()
        spec.check(x, what, values=not looked_at)
        x = spec.cast(x, what, dtype=dtype, device=device, values=not looked_at)
        if looked_at and _on_gpu(x) and spec.levels is not None and spec.may_hold_others(x):
            # Looked at, but maybe not yet seen: an index beyond a table would end the work of the GPU before that.
            return x.clamp(0, spec.levels - 1)
        return x

    def check_labels(self, label: int | Sequence[int] | Tensor | None, n: int) -> Tensor | None:
        """The labels of `n` data on the model's device, int64 (n,), or None where none are given.

        Raises:
            DataError: the model takes none, or these are none of its.
        """
        looked_at = self._looked_at(label)
        labels = self.spec.labels(label, n, self._home()[0], values=not looked_at)
        return labels.clamp(0, self.spec.classes - 1) if looked_at and _on_gpu(labels) else labels

    def check_index(self, index: Tensor | None, n: int) -> int | Tensor:
        """The places of `n` data in their split, int64 (n,); where none are given the first ones, as the number n.

        Raises:
            DataError: these are none.
        """
        if index is None:
            return n
        if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.shape != (n,) or index.is_meta:
            given = f"{index.dtype} {tuple(index.shape)}" if isinstance(index, Tensor) else type(index).__name__
            raise DataError(f"index must be the places of the data in their split, int64 ({n},), not {given}.")
        if n and int(index.min()) < 0:
            raise DataError(f"index holds {int(index.min())}; places are counted from 0.")
        return index

    def check_known(self, x: Any, known: Any) -> tuple[Tensor, Tensor]:
        """Data, and which of their components are known, boolean in their shape.

        Raises:
            DataError: they are none of the model's, or `known` is no mask of them.
        """
        x = self.check(x)
        return x, self.spec.mask(x, known)

    # -- what a loader gives --------------------------------------------------------------------------------------

    def taken(self, batch: Any) -> Batch:
        """What a loader gives (`zoo.batch.as_batch`) as the model computes with it; labels only where it has classes.

        Raises:
            DataError: it is no batch of the model's data.
        """
        batch = as_batch(batch)
        x = self.check(batch.x)
        label = self.check_labels(batch.label, batch.size) if self.spec.classes else None
        condition = batch.condition
        if condition is not None and self.spec.condition is not None:
            condition = self.check(condition, "The condition", self.spec.condition)
        return Batch(x, label, condition, batch.index)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Refuse values that are none of the model's data, without making a GPU wait."""
        self._enter(batch, "a training batch", wait=False)

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Refuse values that are none of the model's data."""
        self._enter(batch, "a validation batch")

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Refuse values that are none of the model's data."""
        self._enter(batch, "a test batch")

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Refuse values that are none of the model's data."""
        self._enter(batch, "a batch")

    def _enter(self, batch: Any, what: str, wait: bool = True) -> None:
        self._entered = ()
        batch = as_batch(batch)
        self._look_at(batch.x, self.spec, what, wait)
        if batch.condition is not None and self.spec.condition is not None:
            self._look_at(batch.condition, self.spec.condition, f"the condition of {what}", wait)
        if batch.label is not None and self.spec.classes:
            values = wait or not _on_gpu(batch.label)
            self.spec.labels(batch.label, batch.size, batch.label.device, values=values)
            if not values:
                inside = ((batch.label >= 0) & (batch.label < self.spec.classes)).all()
                self.watch(inside, self._complaint(f"labels beyond 0..{self.spec.classes - 1}"))
        self._entered = tuple(weakref.ref(part) for part in batch if isinstance(part, Tensor))

    def _look_at(self, x: Any, spec: DataSpec, what: str, wait: bool) -> None:
        values = wait or not _on_gpu(x)
        spec.check(x, what, values=values)
        if not values and spec.may_hold_others(x):
            others = "NaN or infinite values" if spec.levels is None else f"values beyond 0..{spec.levels - 1}"
            self.watch(spec.holds(x), self._complaint(others))

    def _complaint(self, others: str) -> str:
        return f"The batch of optimizer step {self.trainer.global_step + 1} holds {others}: mend the data."

    def _looked_at(self, part: Any) -> bool:
        return isinstance(part, Tensor) and any(part is each() for each in self._entered)

    def _home(self) -> tuple[torch.device, torch.dtype]:
        """Where, and in which dtype, the model computes: as its weights are, for not all that moves them tells it."""
        weight = next((each for each in self.parameters() if each.is_floating_point()), None)
        return (self.device, torch.float32) if weight is None else (weight.device, weight.dtype)


def _on_gpu(x: Any) -> bool:
    return isinstance(x, Tensor) and x.device.type not in ("cpu", "meta")
