"""20,000 drawn faces of 64x64 pixels, a collection that has no official source and states no licence."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from zoo.data.decoding import MOST_BYTES, decode
from zoo.data.images import ImageData
from zoo.errors import DataError
from zoo.files import read_regular


class AnimeFaces(ImageData):
    """20,000 faces in the style of anime, in colour, 64x64 and roughly aligned, without classes.

    Reads `anime-faces64/0.webp` to `anime-faces64/19999.webp` below `root`. Nobody publishes them, so nothing is
    downloaded, and no split is official: the test split is the last 2,500 by their number, more than the 2,048 features
    of FID. (The pictures are in no order, and fifteen of them are there twice, two of these on both sides.) All are
    decoded when they are read, which takes some seven seconds.

    Args:
        root: folder of the data sets; default $ZOO_DATA, else `zoo/data` in the user's cache folder.
        batch_size: images in a training batch of one device.
        validation: number of training images, the last ones, held out for validation.
        eval_batch_size: most images in a validation or test batch; default `batch_size`.
        seed: of the order in which training images come; each epoch has its own.
        download: not used, for there is no source.
        flip: whether to mirror each training image left to right with probability 1/2, anew each time.
    """

    title = "anime faces"
    shape = (3, 64, 64)
    folder: ClassVar[str] = "anime-faces64"
    counts: ClassVar[dict[str, int]] = {"train": 17_500, "test": 2_500}
    sha256: ClassVar[dict[str, str]] = {  # of the files of a split, one after the other
        "train": "697812ba60444e074e4cda1ffbbccb21a228114f04904e571959c93ebe34fbd0",
        "test": "45960924353fb10e430aa56940cc93e9876e9f08921c659aa2259f2cdbdf970b",
    }

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        validation: int = 1000,
        eval_batch_size: int | None = None,
        seed: int = 0,
        download: bool = True,
        flip: bool = False,
    ) -> None:
        super().__init__(root, batch_size, validation, eval_batch_size, seed, download)
        self.flip = flip

    @property
    def protocol(self) -> str:
        """How pixel values were made and, there being no official split, which images are the test split."""
        return f"{super().protocol}; test split: the last {self.counts['test']:,} by number"

    def read(self, split: str) -> Tensor:
        """Read the first 17,500 pictures ("train") or the last 2,500 ("test"), and check them.

        Raises:
            DataError: a file is absent, damaged, of another size or another picture.
        """
        start, count = (self.counts["train"] if split == "test" else 0), self.counts[split]
        folder, digest = self.root / self.folder, hashlib.sha256()
        paths = [folder / f"{number}.webp" for number in range(start, start + count)]
        absent = [path for path in paths if not path.exists()]
        if absent:
            raise DataError(
                f"{absent[0].absolute()} is missing, in all {len(absent):,} of the {count:,} pictures of {split}: they "
                f"are downloaded from nowhere, so set ZOO_DATA (or root) to the folder that has {self.folder}, with "
                f"0.webp to {sum(self.counts.values()) - 1}.webp in it."
            )
        images = torch.empty((count, *self.shape), dtype=torch.uint8)
        for i, path in enumerate(tqdm(paths, desc=f"{self.title}, {split}", disable=None, leave=False)):
            data, images[i] = self._picture(path)
            digest.update(data)
        if digest.hexdigest() != self.sha256[split]:
            raise DataError(
                f"{folder} has other pictures than the {count:,} of {split} (their sha256 differs): put the files of "
                f"the collection there, or read pictures of your own by zoo.data.ImageFolder."
            )
        return images

    def _picture(self, path: Path) -> tuple[bytes, Tensor]:
        """The bytes of a file, and its pixels."""
        remedy = f"put the {path.name} of the collection there"
        try:
            data = read_regular(path, MOST_BYTES)
            pixels = decode(data, str(path))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise DataError(f"{path} cannot be read ({reason}): {remedy}.") from None
        except DataError as error:
            raise DataError(f"{str(error).rstrip('.')}; {remedy}.") from None
        if pixels.shape != self.shape:
            sides = f"{pixels.shape[2]} x {pixels.shape[1]} pixels instead of {self.shape[2]} x {self.shape[1]}"
            raise DataError(f"{path} has {sides}: {remedy}.")
        return data, pixels
