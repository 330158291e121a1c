"""What `zoo.evaluate` takes of a model, one number or several, in a pass over data."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor


class Measurement:
    """A number of a model that `zoo.evaluate` takes: it sees the data once, batch by batch, and has a result then."""

    def begin(self, data: LightningDataModule, limit: int | None) -> None:
        """See whose data they are, and how many of them at most are to be used, before the first batch."""

    def update(self, x: Tensor) -> None:
        """See the next batch of data, (N, *shape) on the model's device."""

    def compute(self) -> list[dict[str, Any]]:
        """The results, for config.json: metric, kind, value and protocol, and whatever else is to be kept.

        What is left out of n, split, dataset and limit is that of the data that were seen. A number of the model alone
        has the split None.
        """
        raise NotImplementedError
