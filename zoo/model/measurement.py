"""What `zoo.evaluate` takes of a model, one number or several, in a pass over data or without any."""

from __future__ import annotations

from typing import ClassVar

from lightning.pytorch import LightningDataModule

from zoo.batch import Batch
from zoo.results import Metric, Result


class Measurement:
    """A number of a model that `zoo.evaluate` takes: it sees the data once, batch by batch, and has a result then.

    Attributes:
        metrics: what it measures; config.json, the tables and the card write a number as its metric says.
        needs_data: whether it sees data at all.
        asked: whether it is taken only where one of its metrics is asked for, or is among a checkpoint's results.
    """

    metrics: ClassVar[tuple[Metric, ...]] = ()
    needs_data: ClassVar[bool] = True
    asked: ClassVar[bool] = False

    def begin(self, data: LightningDataModule, limit: int | None) -> None:
        """See whose data they are, and how many of them at most are to be used, before the first batch."""

    def update(self, batch: Batch) -> None:
        """See the next batch of data, on the model's device."""

    def compute(self) -> list[Result]:
        """The results.

        Where they leave out n, split, dataset or limit, those of the data that were seen are meant. A number of the
        model alone has the split None, and so has every one that needs no data.
        """
        raise NotImplementedError
