"""The splits of a data module, anybody's: the loader of one that was held out, and all data of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from zoo.batch import Batch, as_batch
from zoo.errors import DataError

# Name of a split -> the stage that sets it up, and the method that gives its loader.
SPLITS = {"test": ("test", "test_dataloader"), "validation": ("validate", "val_dataloader")}


def held_out(data: LightningDataModule, split: str = "test") -> Iterable[Any]:
    """The loader of a split, in its order, its data fetched first if need be; of batches for `as_batch`."""
    stage, loader = SPLITS[split]
    data.prepare_data()
    data.setup(stage)
    return getattr(data, loader)()


def in_memory(data: LightningDataModule | None, name: str) -> Batch:
    """A split that is an attribute of a data module that has been set up: `train`, `val` or `test`.

    Raises:
        DataError: it has none, as one that reads from a disk.
    """
    if getattr(data, name, None) is None:
        raise DataError(
            f"{type(data).__name__} has no attribute {name}, for the data of that split: take a data module that has "
            f"its splits in memory, as zoo.data.TensorData has."
        )
    return as_batch(getattr(data, name))


def split_of(data: LightningDataModule, split: str, what: str) -> Any:
    """The data of a split, (N, *shape): "train", with those held out for validation, as FID takes it, or "test".

    Args:
        data: whose files are there.
        split: which.
        what: its name in the refusal of what is no set of the model's data: the training images of binarized data are
            grey until a batch draws them.

    Raises:
        DataError: the split is not in memory, is no set of such data, or is ragged and in two parts.
    """
    if not isinstance(data, LightningDataModule):
        raise DataError(
            f"The {split} split is asked for, and a {type(data).__name__} has one alone: give a data module."
        )
    data.setup("fit" if split == "train" else "test")
    parts = [in_memory(data, name).x for name in (("train", "val") if split == "train" else ("test",))]
    for part in parts:
        data.spec.check(part, what)
    if len(parts) == 1:
        return parts[0]
    if not all(isinstance(part, Tensor) for part in parts):
        raise DataError(f"{what} is ragged, and its two parts cannot be put together: compare with the test split.")
    return torch.cat(parts)
