"""Handwritten digits, 8x8: the data set inside scikit-learn, which needs no files and no network."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zoo.classes import CLASS_NAMES
from zoo.data.images import ImageData


class Digits(ImageData):
    """1,797 handwritten digits of 8x8 pixels with 17 levels (Alpaydin and Kaynak 1998), from scikit-learn.

    There is no official split: the images are shuffled once with a fixed seed, and the last 360 are the test
    split, the `validation` before them the validation split.

    Args:
        root: not used, for the images are part of scikit-learn.
        batch_size: images in a training batch of one device.
        validation: number of training images, the last ones, held out for validation.
        eval_batch_size: most images in a validation or test batch; default `batch_size`.
        seed: of the order in which training images come; each epoch has its own.
        download: not used.
    """

    title = "digits"
    shape = (1, 8, 8)
    levels = 17
    classes = 10
    class_names = CLASS_NAMES["zoo.data.Digits"]

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        validation: int = 180,
        eval_batch_size: int | None = None,
        seed: int = 0,
        download: bool = True,
    ) -> None:
        super().__init__(root, batch_size, validation, eval_batch_size, seed, download)

    @property
    def protocol(self) -> str:
        """How pixel values were made and, there being no official split, which images are the test split."""
        return "17 levels; test split: 360 images drawn with seed 0"

    def read(self, split: str) -> tuple[Tensor, Tensor]:
        """Return the first 1,437 images ("train") or the last 360 ("test") of the fixed order."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        # NumPy guarantees RandomState's streams, so the split is the same everywhere.
        order = np.random.RandomState(0).permutation(len(digits.target))
        chosen = order[-360:] if split == "test" else order[:-360]
        images = torch.from_numpy(digits.images[chosen].astype(np.uint8)).unsqueeze(1)
        return images, torch.from_numpy(digits.target[chosen].astype(np.int64))
