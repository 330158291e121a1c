"""What all image data sets share: splits in memory, loaders, binarization."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor

from zoo.data.loader import TensorLoader
from zoo.errors import DataError
from zoo.files import data_root
from zoo.spec import DataSpec

Split = tuple[Tensor, Tensor]
"""Images, uint8 (N, C, H, W), and their labels, int64 (N,)."""


class ImageData(LightningDataModule):
    """Labelled images in memory, split into train, validation (the last training images) and test.

    Batches are tuples: images, uint8 (N, C, H, W) with values 0..levels-1; labels, int64 (N,). After `setup`,
    the splits are the attributes `train`, `val` and `test`, pairs of such tensors.

    Args:
        root: folder of the data sets; default $ZOO_DATA, else `zoo/data` in the user's cache folder.
        batch_size: images in a training batch of one device.
        validation: number of training images, the last ones, held out for validation.
        eval_batch_size: most images in a validation or test batch; default `batch_size`.
        seed: of the order in which training images come; each epoch has its own.
        download: whether to fetch from the official source what is absent.
    """

    title: ClassVar[str]  # as people write it
    shape: ClassVar[tuple[int, int, int]]
    levels: ClassVar[int] = 256
    classes: ClassVar[int] = 10
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
        """Shape, levels and classes of the images as the model sees them."""
        return DataSpec(self.shape, self.levels, self.classes)

    @property
    def protocol(self) -> str:
        """How pixel values were made, in a phrase for the model card."""
        return f"{self.levels} levels"

    @property
    def config(self) -> dict[str, Any]:
        """`class_path` and those `init_args` that say which data this is: no paths, no batch sizes."""
        cls = type(self)
        module = "zoo.data" if cls.__module__.startswith("zoo.data.") else cls.__module__
        return {
            "class_path": f"{module}.{cls.__qualname__}",
            "init_args": {name: getattr(self, name) for name in self.essential},
        }

    def read(self, split: str) -> Split:
        """Read the official split "train" (validation images included) or "test" and check it.

        Raises:
            DataError: a file is absent or damaged.
        """
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Read what the stage needs into memory; a second call does nothing.

        Raises:
            DataError: a file is absent or damaged, or `validation` leaves no image to train on.
        """
        if stage in (None, "fit", "validate") and not hasattr(self, "train"):
            self.train, self.val = self._held_out(*self.read("train"))
        if stage in (None, "test", "predict") and not hasattr(self, "test"):
            self.test = self.read("test")

    def _held_out(self, images: Tensor, labels: Tensor) -> tuple[Split, Split]:
        n = len(images)
        if not 0 < self.validation < n:
            raise DataError(
                f"{self.title} has {n:,} training images, of which {self.validation:,} cannot be held out "
                f"for validation: choose from 1 to {n - 1:,}."
            )
        cut = n - self.validation
        return (images[:cut], labels[:cut]), (images[cut:], labels[cut:])

    def train_dataloader(self) -> TensorLoader:
        """Whole batches of `train`, in a new random order each epoch."""
        trainer = self.trainer
        return TensorLoader(
            *self.train,
            batch_size=self.batch_size,
            # Overfitting on purpose (--trainer.overfit_batches) means the same few batches in every epoch.
            shuffle=not (trainer and trainer.overfit_batches),
            seed=self.seed,
            drop_last=True,
            pin=self._on_gpu(),
            position=self._position if trainer else None,
        )

    def val_dataloader(self) -> TensorLoader:
        """All of `val` in its order, each image once."""
        return TensorLoader(*self.val, batch_size=self.eval_batch_size, pin=self._on_gpu())

    def test_dataloader(self) -> TensorLoader:
        """All of `test` in its order, each image once."""
        return TensorLoader(*self.test, batch_size=self.eval_batch_size, pin=self._on_gpu())

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


def binarize(images: Tensor) -> Tensor:
    """Draw each pixel, 0 or 1, with p = intensity / 255, from the global RNG of the images' device."""
    # rand is in [0, 1): intensity 0 always gives 0, and 255 always 1.
    return (torch.rand(images.shape, device=images.device) * 255 < images).to(torch.uint8)


def binarize_once(images: Tensor, seed: int = 0) -> Tensor:
    """Draw each pixel, 0 or 1, with p = intensity / 255, the same on every machine and in every version.

    The uniform numbers are NumPy's `RandomState(seed).random_sample(images.shape)`, a stream that NumPy
    guarantees never to change; a pixel is 1 where 255 times its number is below its intensity.
    """
    uniform = np.random.RandomState(seed).random_sample(tuple(images.shape))
    return torch.from_numpy((uniform * 255 < images.numpy()).astype(np.uint8))
