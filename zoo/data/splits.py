"""The splits of a data module: the loader of one that was held out, and all data of one."""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch import LightningDataModule
from torch import Tensor

from zoo.batch import Batch, as_batch
from zoo.data.tensors import whole

# Name of a split -> the stage that sets it up, and the method that gives its loader.
SPLITS = {"test": ("test", "test_dataloader"), "validation": ("validate", "val_dataloader")}


def held_out(data: LightningDataModule, split: str = "test") -> Iterable[Batch]:
    """The loader of a split, in its order, its data fetched first if need be; in batches of the zoo's data modules."""
    stage, loader = SPLITS[split]
    data.prepare_data()
    data.setup(stage)
    return getattr(data, loader)()


def split_of(data: LightningDataModule, split: str, what: str) -> Tensor:
    """The data of a split, (N, *shape): "train", with those held out for validation, as FID takes it, or "test".

    Args:
        data: whose files are there.
        split: which.
        what: its name in the refusal of what is no set of the model's data: the training images of binarized data are
            grey until a batch draws them.
    """
    data.setup("fit" if split == "train" else "test")
    x = whole(as_batch(data.train), as_batch(data.val)) if split == "train" else as_batch(data.test).x
    data.spec.check(x, what)
    return x
