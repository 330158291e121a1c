"""Batches of data in memory: shuffled by (seed, epoch), split over ranks, resumable in mid-epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from zoo.arguments import count_of, seed_of
from zoo.batch import Batch
from zoo.errors import DataError


class TensorLoader:
    """Iterate over data in memory in batches, without workers: a `Batch` is one `index_select` a part.

    The index of a batch is that of its data in `x`, whatever their order and whichever rank they are on:
    `x[batch.index]` is `batch.x`.

    Under `torch.distributed` (looked at when iterating) each rank takes its part of a *global batch* of
    `batch_size * world_size` items, so two processes see what one with twice the batch size sees.

    - `drop_last=True`, for training: every rank's every batch has `batch_size` items, as averaging gradients
      over ranks requires; the up to `batch_size * world_size - 1` items left over sit out this epoch.
    - `drop_last=False`, for evaluation: every item comes exactly once, nothing is padded or repeated. The
      items are cut into world_size * len(self) consecutive pieces whose sizes differ by at most one, dealt
      out in turn. So all ranks have equally many batches and none is empty; weight means by batch size.

    Batch b of epoch e depends on nothing but `seed`, e and b, so a position (e, b) is all there is to resume.

    Args:
        x: the data, a tensor (n, ...), or of graphs a ragged batch: whatever has `len` and, of an index tensor in
            brackets, gives one that has too.
        label: of each datum, int64 (n,); None for none.
        condition: of each datum, like x; None for none.
        batch_size: items in a batch of one rank.
        shuffle: whether each epoch has its own random order.
        seed: of the shuffling, 0 or more.
        drop_last: see above.
        pin: whether batches are made in page-locked memory, which lets them reach a GPU while it computes; of a ragged
            batch by its own `pin_memory`, where it has that.
        position: asked at the first batch of each pass for (epoch, batch), where to begin; without it the
            loader counts: a pass is an epoch, and after `load_state_dict` one begins at the position loaded.

    Raises:
        DataError: lengths differ, a number is out of range or, from `len` on, there are too few
            items for a batch on each rank.
    """

    def __init__(
        self,
        x: Any,
        label: Tensor | None = None,
        condition: Any = None,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        pin: bool = False,
        position: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        lengths = [len(part) for part in (x, label, condition) if part is not None]
        if len(set(lengths)) != 1:
            raise DataError(f"a loader takes parts of one length, not of lengths {lengths}.")
        batch_size = count_of(batch_size, "the batch size")
        seed = seed_of(seed, "the seed of the shuffling", bits=32) or 0
        self.data = Batch(x, label, condition)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.pin = pin
        self.position = position
        self.epoch = 0
        self.batch = 0  # batches of this epoch delivered so far
        self._loaded = False

    def __len__(self) -> int:
        """Batches in an epoch, the same number on every rank."""
        n, (_, world) = self.data.size, _rank_and_world()
        full, rest = divmod(n, world * self.batch_size)
        # The last, smaller global batch needs an item for each rank: matters for batch_size 1 only.
        count = full if self.drop_last else min(full + (rest > 0), n // world)
        if count == 0:
            at_least = self.batch_size if self.drop_last else 1
            raise DataError(
                f"{n} items are too few for batches of {at_least} on {world} device(s): "
                f"lower the batch size (--data.batch_size) or the number of devices."
            )
        return count

    def __iter__(self) -> Iterator[Batch]:
        """Go through the rest of an epoch, usually all of it; nothing happens before the first `next`."""
        # Lightning makes iterators that it never uses, and the first one before its counters are final.
        if self.position:
            self.epoch, self.batch = self.position()
        elif self.batch and not self._loaded:
            self.epoch, self.batch = self.epoch + 1, 0
        self._loaded = False
        count, (rank, world) = len(self), _rank_and_world()
        order = self.order()
        for b in range(self.batch, count):
            # Counted before it is handed out: its step's checkpoint comes before the next batch is asked for.
            self.batch = b + 1
            start, end = self._piece(b * world + rank, count * world)
            index = order[start:end]
            # The index is selected as well: a batch is a copy, all of it in page-locked memory.
            x, label, condition = (self._select(part, index) for part in self.data[:3])
            yield Batch(x, label, condition, self._select(order, torch.arange(start, end)))

    def order(self) -> Tensor:
        """Indices (n,) of the current epoch's items, in their order."""
        n = self.data.size
        if not self.shuffle:
            return torch.arange(n)
        # NumPy guarantees RandomState's streams, so a resume is exact under other versions too.
        return torch.from_numpy(np.random.RandomState([self.seed, self.epoch]).permutation(n))

    def _piece(self, j: int, pieces: int) -> tuple[int, int]:
        """Return start and end of the j-th of all ranks' batches."""
        if self.drop_last:
            return j * self.batch_size, (j + 1) * self.batch_size
        n = self.data.size
        return n * j // pieces, n * (j + 1) // pieces

    def _select(self, part: Any, index: Tensor) -> Any:
        if part is None:
            return None
        if not isinstance(part, Tensor):
            chosen = part[index]
            return chosen.pin_memory() if self.pin and hasattr(chosen, "pin_memory") else chosen
        if not self.pin:
            return part.index_select(0, index)
        # torch keeps freed page-locked memory for the next batch, so this allocates only at first.
        out = torch.empty((len(index), *part.shape[1:]), dtype=part.dtype, pin_memory=True)
        return torch.index_select(part, 0, index, out=out)

    def state_dict(self) -> dict[str, int]:
        """Return the position, the same on all ranks: the epoch and how many of its batches are done."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next pass begin at a position from `state_dict`."""
        self.epoch, self.batch = state["epoch"], state["batch"]
        self._loaded = True


def _rank_and_world() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
