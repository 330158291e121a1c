"""What a loader hands to a model: a batch of data, and what comes with each datum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


class Batch(NamedTuple):
    """N data, each with its label, its condition and its place in the split; None where there is none.

    `x` is a tensor (N, *shape) or, of graphs, a ragged batch: an object with `len`, slices and `to(device)`.

    An item of a torch `Dataset` is no batch: let it be the datum, (datum, label) or a dictionary of the names below,
    without those that are absent, of which a `DataLoader` makes batches that `as_batch` takes.

    Attributes:
        x: the data, as the `DataSpec` of their data module says.
        label: int64 (N,).
        condition: what each datum is given, a batch of `DataSpec.condition`: the picture to be translated, the frames
            before the next one.
        index: int64 (N,), the place of each datum in its split.
    """

    x: Any
    label: Tensor | None = None
    condition: Any = None
    index: Tensor | None = None

    @property
    def size(self) -> int:
        """N; `len` of the tuple itself is that of its fields."""
        return len(self.x)

    def first(self, n: int) -> Batch:
        """The first `n` data."""
        return Batch(*(None if part is None else part[:n] for part in self))

    def last(self, n: int) -> Batch:
        """The last `n` data."""
        return Batch(*(None if part is None else part[len(part) - n :] for part in self))

    def to(self, device: Any) -> Batch:
        """The batch on a device, without waiting for a GPU: its work waits for what comes from page-locked memory.

        Lightning does so with tensors alone, and not with what has a `to` of its own.
        """
        import torch

        gpu = torch.device(device).type == "cuda"

        def moved(part: Any) -> Any:
            if gpu and isinstance(part, torch.Tensor):
                return part.to(device, non_blocking=True)
            return None if part is None else part.to(device)

        return Batch(*map(moved, self))


def as_batch(batch: Any) -> Batch:
    """A `Batch` of whatever a loader gives: a tensor of data, (data,), (data, labels), a dictionary, or a `Batch`.

    Raises:
        DataError: it is none of these; more than labels comes with the data in a `Batch` or in a dictionary.
    """
    import torch

    if isinstance(batch, Batch):
        return _even(batch)
    if isinstance(batch, torch.Tensor):
        return Batch(batch)
    if isinstance(batch, Mapping):
        strange = [key for key in batch if key not in Batch._fields]
        if strange or "x" not in batch:
            raise DataError(
                f"A batch that is a dictionary has the keys {', '.join(Batch._fields)}, x at least, not "
                f"{', '.join(map(str, batch)) or 'none'}: name its parts so."
            )
        return _even(Batch(**batch))
    if not isinstance(batch, (tuple, list)):
        # A ragged batch of graphs, or of whatever else has a length.
        if hasattr(batch, "__len__") and hasattr(batch, "to"):
            return Batch(batch)
        raise DataError(f"A batch must be a tensor, (data, labels) or a zoo.Batch, not {type(batch).__name__}.")
    if not 1 <= len(batch) <= 2:
        raise DataError(
            f"A batch of {len(batch)} parts does not say what they are: give data alone, (data, labels), or a "
            f"zoo.Batch with x, label, condition and index."
        )
    # What labels are is looked at where a model takes them: others may have a loader of tables with float targets.
    if len(batch) == 2 and getattr(batch[1], "shape", None) != (len(batch[0]),):
        given = getattr(batch[1], "shape", None)
        raise DataError(
            f"The second part of a batch of two is its labels, ({len(batch[0])},), not "
            f"{type(batch[1]).__name__ if given is None else tuple(given)}: give zoo.Batch(x, condition=...) for what "
            f"data are given."
        )
    return Batch(*batch)


def _even(batch: Batch) -> Batch:
    """The batch, whose parts are of one length."""
    for name, part in zip(batch._fields[1:], batch[1:], strict=True):
        if part is not None and (not hasattr(part, "__len__") or len(part) != len(batch.x)):
            given = f"{len(part)} of them" if hasattr(part, "__len__") else type(part).__name__
            raise DataError(f"A batch of {len(batch.x)} data has a {name} for each, not {given}.")
    return batch
