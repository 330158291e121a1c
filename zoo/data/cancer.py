"""Wisconsin breast cancer: a table of 30 measurements inside scikit-learn, which needs no files and no network."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zoo.classes import CLASS_NAMES
from zoo.data.tensors import TensorData


class BreastCancer(TensorData):
    """569 rows of 30 continuous numbers, float32, and two labels (Street, Wolberg and Mangasarian 1993).

    Ten measurements of the nuclei of cells in a picture, each by its mean, its standard error and its worst value; the
    label is 0 where the tumour is malignant. There is no official split: the rows are shuffled once with a fixed seed,
    and the last 114 are the test split, the `validation` before them the validation split.

    Args:
        batch_size: rows in a training batch of one device.
        validation: number of training rows, the last ones, held out for validation.
        eval_batch_size: most rows in a validation or test batch; default `batch_size`.
        seed: of the order in which training rows come; each epoch has its own.
    """

    title = "breast cancer"
    shape = (30,)
    classes = 2
    class_names = CLASS_NAMES["zoo.data.BreastCancer"]

    def __init__(
        self, batch_size: int = 64, validation: int = 57, eval_batch_size: int | None = None, seed: int = 0
    ) -> None:
        super().__init__(None, batch_size, validation, eval_batch_size, seed, download=False)

    @property
    def protocol(self) -> str:
        """There being no official split, which rows are the test split."""
        return "continuous; test split: 114 rows drawn with seed 0"

    def read(self, split: str) -> tuple[Tensor, Tensor]:
        """Return the first 455 rows ("train") or the last 114 ("test") of the fixed order."""
        from sklearn.datasets import load_breast_cancer

        table = load_breast_cancer()
        # NumPy guarantees RandomState's streams, so the split is the same everywhere.
        order = np.random.RandomState(0).permutation(len(table.target))
        chosen = order[-114:] if split == "test" else order[:-114]
        rows = torch.from_numpy(table.data[chosen].astype(np.float32))
        return rows, torch.from_numpy(table.target[chosen].astype(np.int64))
