"""CIFAR-10 (Krizhevsky 2009) in its official binary version."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo import files
from zoo.classes import CLASS_NAMES
from zoo.data.images import ImageData
from zoo.errors import DataError


class CIFAR10(ImageData):
    """60,000 colour photographs of 32x32 pixels in 10 classes; the test split is the official 10,000.

    Reads `cifar-10-batches-bin/*.bin` below `root`: a row an image, one byte of label, then 3,072 (C, H, W).

    Args:
        root: folder of the data sets; default $ZOO_DATA, else `zoo/data` in the user's cache folder.
        batch_size: images in a training batch of one device.
        validation: number of training images, the last ones, held out for validation.
        eval_batch_size: most images in a validation or test batch; default `batch_size`.
        seed: of the order in which training images come; each epoch has its own.
        download: whether to fetch from the official source what is absent.
        flip: whether to mirror each training image left to right with probability 1/2, anew each time.
    """

    title = "CIFAR-10"
    hub_id = "uoft-cs/cifar10"
    shape = (3, 32, 32)
    classes = 10
    class_names = CLASS_NAMES["zoo.data.CIFAR10"]
    folder: ClassVar[str] = "cifar-10-batches-bin"
    url: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    md5: ClassVar[str] = "c32a1d4ab5d03f1284b67883e8d87530"
    rows: ClassVar[int] = 10_000  # images in a file
    sha256: ClassVar[dict[str, str]] = {
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    }

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        validation: int = 5000,
        eval_batch_size: int | None = None,
        seed: int = 0,
        download: bool = True,
        flip: bool = False,
    ) -> None:
        super().__init__(root, batch_size, validation, eval_batch_size, seed, download)
        self.flip = flip

    def prepare_data(self) -> None:
        """Take the files that are absent from the official archive; those present are never touched.

        Raises:
            DataError: the download failed.
        """
        folder = self.root / self.folder
        absent = [name for name in self.sha256 if not files.present(folder / name)]
        if not absent or not self.download:
            return
        with files.temporary_folder(folder) as temporary:
            archive = files.fetch([self.url], self.md5, temporary)
            try:
                with tarfile.open(archive, "r:gz") as tar:
                    # Read by name, never extracted: an archive has no say in where files go.
                    for name in absent:
                        data = tar.extractfile(f"{self.folder}/{name}").read()
                        files.write_atomically(folder / name, data)
            except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, KeyError) as error:
                raise DataError(
                    f"{self.url} is not the archive it was ({error}): put the official files into {folder}."
                ) from None

    def read(self, split: str) -> tuple[Tensor, Tensor]:
        """Read the five training files ("train") or the test file ("test") and check them.

        Raises:
            DataError: a file is absent or damaged.
        """
        row = 1 + 3072
        names = [name for name in self.sha256 if name.startswith("test") == (split == "test")]
        parts = [files.read(self.root / self.folder / name, self.rows * row, self.sha256[name]) for name in names]
        table = np.frombuffer(b"".join(parts), np.uint8).reshape(-1, row)
        images = torch.from_numpy(table[:, 1:].copy()).view(-1, *self.shape)
        return images, torch.from_numpy(table[:, 0].astype(np.int64))
