"""What all data sets in memory share: their splits, their loaders, and the contract that a new one keeps."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning import LightningDataModule
from torch import Tensor

from zoo.batch import Batch, as_batch
from zoo.classes import class_path_of
from zoo.data.loader import TensorLoader
from zoo.errors import DataError
from zoo.files import data_root
from zoo.spec import DataSpec

Split = Batch
"""The data of a split, with their labels and conditions where they have some; a split has no index of its own."""


class TensorData(LightningDataModule):
    """Data in memory, split into train, validation (the last training data) and test.

    A new data set is one class in one file. It gives

    - `title` and, where the Hugging Face Hub has it, `hub_id`;
    - `spec`, or the class attributes `shape`, `levels`, `classes` and `kind` of which it is made;
    - `read(split)`, the data of "train" (validation data included) or of "test": a tensor (n, *shape), or (data,
      labels), or a `Batch` with conditions; of graphs a ragged batch with `len`, slices, an index tensor in brackets,
      and `to(device)`;
    - `essential`, the names of the arguments that say which data these are, kept as attributes of the same names;
    - `protocol`, how the values were made, in a phrase for the card, where `levels` does not tell it;
    - `prepare_data()`, where something is to be downloaded.

    It gets whole splits as the attributes `train`, `val` and `test`, each a `Batch` (x, label, condition), after
    `setup`; loaders of `Batch`es whose index is the place of each datum in its split, resumable inside an epoch and
    dealt out over processes; and `config`, by which a checkpoint names it.

    Args:
        root: folder of the data sets; default $ZOO_DATA, else `zoo/data` in the user's cache folder.
        batch_size: data in a training batch of one device.
        validation: number of training data, the last ones, held out for validation.
        eval_batch_size: most data in a validation or test batch; default `batch_size`.
        seed: of the order in which training data come; each epoch has its own.
        download: whether to fetch from the official source what is absent.
    """

    title: ClassVar[str]  # as people write it
    hub_id: ClassVar[str | None] = None  # its name on the Hugging Face Hub
    shape: ClassVar[tuple[int, ...]]
    levels: ClassVar[int | None] = None
    classes: ClassVar[int] = 0
    kind: ClassVar[str] = ""
    essential: ClassVar[tuple[str, ...]] = ()  # the arguments that say which data this is, for the model card

    train: Split
    val: Split
    test: Split

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        validation: int = 5000,
        eval_batch_size: int | None = None,
        seed: int = 0,
        download: bool = True,
    ) -> None:
        super().__init__()
        self.root = data_root(root)
        self.batch_size = batch_size
        self.validation = validation
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.seed = seed
        self.download = download

    @property
    def spec(self) -> DataSpec:
        """Kind, shape, levels and classes of the data as the model sees them."""
        return DataSpec(self.shape, self.levels, self.classes, self.kind)

    @property
    def protocol(self) -> str:
        """How the values were made, in a phrase for the model card."""
        return "continuous" if self.spec.levels is None else f"{self.spec.levels} levels"

    @property
    def config(self) -> dict[str, Any]:
        """`class_path` and those `init_args` that say which data this is: no paths, no batch sizes."""
        arguments = {name: getattr(self, name) for name in self.essential}
        return {"class_path": class_path_of(type(self)), "init_args": arguments}

    def read(self, split: str) -> Tensor | tuple[Tensor, Tensor] | Split:
        """Read the split "train" (validation data included) or "test" and check it.

        Raises:
            DataError: a file is absent or damaged.
        """
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Read what the stage needs into memory; a second call does nothing.

        Raises:
            DataError: a file is absent or damaged, or `validation` leaves nothing to train on.
        """
        if stage in (None, "fit", "validate") and not hasattr(self, "train"):
            self.train, self.val = self._held_out(as_batch(self.read("train")))
        if stage in (None, "test", "predict") and not hasattr(self, "test"):
            self.test = as_batch(self.read("test"))

    def _held_out(self, split: Split) -> tuple[Split, Split]:
        n = split.size
        if not 0 < self.validation < n:
            raise DataError(
                f"{self.title} has {n:,} training {self._data}, of which {self.validation:,} cannot be held out "
                f"for validation: choose from 1 to {n - 1:,}."
            )
        return split.first(n - self.validation), split.last(self.validation)

    _data = "data"  # what they are called in that sentence

    def train_dataloader(self) -> TensorLoader:
        """Whole batches of `train`, in a new random order each epoch."""
        trainer = self.trainer
        return TensorLoader(
            *self.train[:3],
            batch_size=self.batch_size,
            # Overfitting on purpose (--trainer.overfit_batches) means the same few batches in every epoch.
            shuffle=not (trainer and trainer.overfit_batches),
            seed=self.seed,
            drop_last=True,
            pin=self._on_gpu(),
            position=self._position if trainer else None,
        )

    def val_dataloader(self) -> TensorLoader:
        """All of `val` in its order, each datum once."""
        return TensorLoader(*self.val[:3], batch_size=self.eval_batch_size, pin=self._on_gpu())

    def test_dataloader(self) -> TensorLoader:
        """All of `test` in its order, each datum once."""
        return TensorLoader(*self.test[:3], batch_size=self.eval_batch_size, pin=self._on_gpu())

    def predict_dataloader(self) -> TensorLoader:
        """The same as `test_dataloader`."""
        return self.test_dataloader()

    def _position(self) -> tuple[int, int]:
        """Return the epoch and the index of the batch that the trainer is about to ask for.

        Lightning does restore a loader's own state, but not from a checkpoint at the end of an epoch, and not
        with the right batch from one taken when a step failed. Its counters, which `training_step` gets as
        `batch_idx`, are right in all cases; `set_epoch` is not: with `max_steps`, a resume at the end of an
        epoch skips a number.
        """
        return self.trainer.current_epoch, self.trainer.fit_loop.batch_idx + 1

    def _on_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _training(self) -> bool:
        return self.trainer is not None and self.trainer.training


def whole(split: Split, other: Split) -> Tensor:
    """The data of two splits, one behind the other.

    Raises:
        DataError: they are no tensors, as graphs are none.
    """
    if not isinstance(split.x, Tensor):
        raise DataError(f"Splits of {type(split.x).__name__} cannot be put together: only tensors can.")
    return torch.cat([split.x, other.x])
