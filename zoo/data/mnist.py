"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017), grey or binarized."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo import files
from zoo.batch import Batch
from zoo.classes import CLASS_NAMES
from zoo.data.images import ImageData, binarize, binarize_once
from zoo.errors import DataError


class _IDX(ImageData):
    """What MNIST and Fashion-MNIST share: files in the IDX format, and binarization."""

    shape = (1, 28, 28)
    classes = 10
    essential = ("binarized",)
    folder: ClassVar[str]
    counts: ClassVar[dict[str, int]] = {"train": 60_000, "t10k": 10_000}
    sha256: ClassVar[dict[str, str]]

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        validation: int = 5000,
        eval_batch_size: int | None = None,
        seed: int = 0,
        download: bool = True,
        binarized: bool = False,
    ) -> None:
        super().__init__(root, batch_size, validation, eval_batch_size, seed, download)
        self.binarized = binarized
        self.levels = 2 if binarized else 256

    @property
    def _drawn(self) -> bool:
        """Whether the images that are read are grey, and the binary ones drawn of them."""
        return self.binarized

    @property
    def protocol(self) -> str:
        """How pixel values were made, in a phrase for the model card."""
        return "binarized once by sampling, seed 0" if self.binarized else super().protocol

    def sources(self) -> list[tuple[str, list[str], str]]:
        """Official gzipped files: name without .gz, addresses to try in turn, md5."""
        import torchvision.datasets  # knows the mirrors; slow to import

        official = getattr(torchvision.datasets, type(self).__name__)
        return [
            (packed.removesuffix(".gz"), [mirror + packed for mirror in official.mirrors], md5)
            for packed, md5 in official.resources
        ]

    def prepare_data(self) -> None:
        """Download the official files that are absent; those present are never touched.

        Raises:
            DataError: a download failed.
        """
        folder = self.root / self.folder
        if not self.download or all(files.present(folder / name) for name in self.sha256):
            return
        with files.temporary_folder(folder) as temporary:
            for name, urls, md5 in self.sources():
                if not files.present(folder / name):
                    packed = files.fetch(urls, md5, temporary)
                    files.write_atomically(folder / name, gzip.decompress(packed.read_bytes()))

    def read(self, split: str) -> tuple[Tensor, Tensor]:
        """Read the official "train" or "test" split, grey, and check it.

        Raises:
            DataError: a file is absent or damaged.
        """
        part = "t10k" if split == "test" else "train"
        images = self._idx(f"{part}-images-idx3-ubyte", (self.counts[part], 28, 28))
        labels = self._idx(f"{part}-labels-idx1-ubyte", (self.counts[part],))
        return images.unsqueeze(1), labels.to(torch.int64)

    def _idx(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Read an IDX file: bytes 0, 0, 8 (unsigned bytes), number of dimensions, their sizes, the values."""
        header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
        path = self.root / self.folder / name
        data = files.read(path, len(header) + math.prod(shape), self.sha256[name], header)
        return torch.from_numpy(np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape).copy())

    def setup(self, stage: str | None = None) -> None:
        """Read what the stage needs; when binarized, draw validation and test images once, with seed 0.

        Raises:
            DataError: a file is absent or damaged, or `validation` leaves no image to train on.
        """
        before = {split for split in ("val", "test") if hasattr(self, split)}
        super().setup(stage)
        for split in {"val", "test"} - before:
            if self._drawn and hasattr(self, split):
                grey = getattr(self, split)
                setattr(self, split, grey._replace(x=binarize_once(grey.x)))

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """In training, when binarized, draw images anew, on their device and from its global RNG."""
        if self._drawn and self._training():
            batch = batch._replace(x=binarize(batch.x))
        return batch


class FashionMNIST(_IDX):
    """70,000 grey pictures of clothes, 28x28, in 10 classes; the test split is the official 10,000.

    Reads `FashionMNIST/raw/*-ubyte` (or the same with .gz) below `root`.

    Args:
        root: folder of the data sets; default $ZOO_DATA, else `zoo/data` in the user's cache folder.
        batch_size: images in a training batch of one device.
        validation: number of training images, the last ones, held out for validation.
        eval_batch_size: most images in a validation or test batch; default `batch_size`.
        seed: of the order in which training images come; each epoch has its own.
        download: whether to fetch from the official source what is absent.
        binarized: whether pixels are 0 or 1, drawn with p = intensity / 255: for training anew in each batch,
            for validation and test once, with a fixed seed.
    """

    title = "Fashion-MNIST"
    hub_id = "zalando-datasets/fashion_mnist"
    class_names = CLASS_NAMES["zoo.data.FashionMNIST"]
    folder = "FashionMNIST/raw"
    sha256: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }


class MNIST(_IDX):
    """70,000 grey handwritten digits, 28x28, in 10 classes; the test split is the official 10,000.

    Reads `MNIST/raw/*-ubyte` (or the same with .gz) below `root`.

    Args:
        root: folder of the data sets; default $ZOO_DATA, else `zoo/data` in the user's cache folder.
        batch_size: images in a training batch of one device.
        validation: number of training images, the last ones, held out for validation (not with `fixed`).
        eval_batch_size: most images in a validation or test batch; default `batch_size`.
        seed: of the order in which training images come; each epoch has its own.
        download: whether to fetch from the official source what is absent.
        binarized: whether pixels are 0 or 1, drawn with p = intensity / 255: for training anew in each batch,
            for validation and test once, with a fixed seed.
        fixed: folder of Larochelle's binarized_mnist_train.amat, _valid.amat and _test.amat, which then are
            the three splits, binarized once and for all: 50,000, 10,000 and 10,000 images without labels. True is
            the folder `binarized_mnist` below `root`, where a checkpoint's files are looked for.
    """

    title = "MNIST"
    hub_id = "ylecun/mnist"
    class_names = CLASS_NAMES["zoo.data.MNIST"]
    folder = "MNIST/raw"
    sha256: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }
    fixed_counts: ClassVar[dict[str, int]] = {"train": 50_000, "valid": 10_000, "test": 10_000}

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        validation: int = 5000,
        eval_batch_size: int | None = None,
        seed: int = 0,
        download: bool = True,
        binarized: bool = False,
        fixed: bool | str | None = None,
    ) -> None:
        fixed = None if fixed is False else fixed
        binarized = binarized or fixed is not None
        super().__init__(root, batch_size, validation, eval_batch_size, seed, download, binarized)
        self.fixed: Path | None = None
        if fixed is not None:
            self.fixed = self.root / "binarized_mnist" if fixed is True else Path(fixed).expanduser()
            self.splits, self.classes = ("train", "validation", "test"), 0

    @property
    def _drawn(self) -> bool:
        return super()._drawn and self.fixed is None

    @property
    def protocol(self) -> str:
        """How pixel values were made, in a phrase for the model card."""
        return super().protocol if self.fixed is None else "Larochelle's fixed binarization"

    @property
    def config(self) -> dict[str, Any]:
        """`class_path` and those `init_args` that say which data this is; of `fixed` no more than that it was said."""
        found = super().config
        if self.fixed is not None:
            found["init_args"]["fixed"] = True
        return found

    def prepare_data(self) -> None:
        """Download the official files that are absent, unless `fixed` says where other ones are.

        Raises:
            DataError: a download failed.
        """
        if self.fixed is None:
            super().prepare_data()

    def read(self, split: str) -> tuple[Tensor, Tensor] | Tensor:
        """Read the official "train" or "test" split, grey, or a split of the `fixed` files, and check it.

        Raises:
            DataError: a file is absent or damaged.
        """
        if self.fixed is None:
            return super().read(split)
        return self._amat("valid" if split == "validation" else split)

    def _amat(self, split: str) -> Tensor:
        """Read a text file, a line an image: 784 times 0 or 1."""
        count, path = self.fixed_counts[split], self.fixed / f"binarized_mnist_{split}.amat"
        remedy = "put Larochelle's file of this name there"
        try:
            # A digit and a space each, however many spaces.
            text = np.frombuffer(files.read_regular(path, count * 784 * 4), np.uint8)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}): {remedy}.") from None
        lines, digits = np.count_nonzero(text == ord("\n")), text[text > ord(" ")] - ord("0")
        # Bytes below "0" wrap around, so they are above 1 as well; the last line may lack its end.
        if len(digits) != count * 784 or lines not in (count, count - 1) or digits.max(initial=0) > 1:
            raise DataError(f"{path} is not {count:,} lines of 784 zeros and ones: {remedy}.")
        return torch.from_numpy(digits).view(-1, *self.shape)
