"""Pictures of a data set on the Hugging Face Hub, by the library `datasets`."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from zoo.data.decoding import MOST_BYTES
from zoo.data.own_images import SPLITS, OwnImages
from zoo.errors import DataError, listed, one_line, said_name, show
from zoo.files import read_regular

_SPLITS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation"}


class HubDataset(OwnImages):
    """The pictures of a data set on the Hugging Face Hub, of any sizes and modes, and their classes where it has some.

    It takes the extra `hub-data`. The columns of pictures and labels are found by their types (`Image`, `ClassLabel`)
    where there is one of each, else they are to be named; labels that are text or whole numbers are classes as well,
    where their column is named. Splits called train, test and validation (or valid, val) are these, others are left
    out; without the last two they are held out as `zoo.data.own_images.OwnImages` tells, which also tells how pictures
    are read and brought to one size. A data set is files and never code: those that are scripts `datasets` refuses.

    Args:
        name: of the data set, NAMESPACE/NAME; or the path of a local folder, as `datasets.load_dataset` takes it.
        configuration: which of its configurations, where it has several.
        revision: a branch, tag or commit; a commit is always the same data.
        image: name of the column of pictures.
        label: name of the column of labels; "" for none.
        size: pixels of a side, or [height, width].
        channels: 3 for red, green and blue, or 1 for grey.
        levels: number of values of a sub-pixel, 2 to 256.
        held_out: the share of pictures that is held out for validation where there is no such split, and as much for
            test.
        class_names: the classes in the order of their labels; by default as the column has them, else sorted.
        root: folder below which a local `name` is looked for, and into which `datasets` downloads; default the current
            one, and the cache of `datasets`.
        batch_size: images in a training batch of one device.
        eval_batch_size: most images in a validation or test batch; default `batch_size`.
        seed: of the order in which training images come; each epoch has its own.
        flip: whether to mirror each training image left to right with probability 1/2, anew each time.

    Example:
        zoo fit --config recipes/dcgan-cifar10.yaml --data zoo.data.HubDataset
        --data.name zalando-datasets/fashion_mnist --data.size 32
    """

    essential = ("name", "configuration", "revision", "image", "label")

    def __init__(
        self,
        name: str,
        configuration: str | None = None,
        revision: str | None = None,
        image: str | None = None,
        label: str | None = None,
        size: int | list[int] = 32,
        channels: int = 3,
        levels: int = 256,
        held_out: float = 0.1,
        class_names: list[str] | None = None,
        root: str | None = None,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        seed: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__(size, channels, levels, held_out, class_names, batch_size, eval_batch_size, seed, flip)
        self.name, self.configuration, self.revision = name, configuration, revision
        self.image, self.label = image, label
        self.base = None if root is None else Path(root).expanduser()
        local = self._local()
        self.hub_id = None if local else name
        self.title = said_name(local.resolve().name if local else name)

    def _local(self) -> Path | None:
        """The folder of that name, where there is one."""
        folder = (self.base or Path()) / Path(self.name).expanduser()
        return folder if os.path.isdir(folder) else None

    def found(self) -> tuple[dict[str, list[tuple[str, str | None, Callable[[], bytes]]]], bool]:
        """The pictures of the data set, by split, with the names of their classes.

        Raises:
            DataError: `datasets` is absent or has no such data set, or it has no pictures, or several columns of some.
        """
        tables = self._tables()
        found: dict[str, Any] = {}
        for name, table in tables.items():
            split = _SPLITS.get(name)
            if split is None or split in found:
                self.leave_out("other splits", said_name(str(name)))
            else:
                found[split] = table
        if "train" not in found:
            raise DataError(
                f"{self.title} has no split train, but {listed(map(str, tables)) or 'none'}: choose another data set."
            )
        image, label, kinds = self._columns(found["train"].features)
        if kinds and self._names is None:
            self._names = tuple(kinds)
        rows, roots = {}, self._roots()
        for split in (each for each in SPLITS if each in found):
            table = found[split]
            self._check_columns(table.features, split, image, label, kinds)
            labels = table[label] if label else [None] * len(table)
            raw = _undecoded(table.select_columns([image]), image)
            rows[split] = []
            for i, given in enumerate(labels):
                place = f"{self.title}, {split} {i}"
                kind = _class_of(given, kinds) if label else None
                if label and kind is None:
                    self.leave_out("without a label", place)
                else:
                    rows[split].append((place, kind, partial(_fetch, raw, image, i, roots)))
        if not rows["train"]:
            raise DataError(f"{self.title} has no picture to train on: choose another data set.")
        return {split: part for split, part in rows.items() if part}, label is not None

    def _tables(self) -> dict[str, Any]:
        """The splits of the data set, as `datasets` gives them."""
        try:
            import datasets
        except ImportError:
            raise DataError(
                "HubDataset takes the library `datasets`, which is not installed: "
                "pip install 'generative-zoo[hub-data]'."
            ) from None
        local = self._local()
        if local is None and self.name.startswith((".", "/", "~")):
            place = (self.base or Path()) / Path(self.name).expanduser()
            raise DataError(f"There is no folder {said_name(str(place.absolute()))}: give that of the data set.")
        where: dict[str, Any] = {} if self.base is None or local else {"cache_dir": str(self.base)}
        if self.revision and not local:
            where["revision"] = self.revision
        try:
            tables = datasets.load_dataset(str(local or self.name), self.configuration, **where)
        except Exception as error:  # each format of files has its own
            place = f"the folder {said_name(str(local.absolute()))}" if local else f"{show(self.name)} on the Hub"
            raise DataError(
                f"`datasets` cannot load {place} ({type(error).__name__}: {said_name(one_line(error))}): check the "
                f"name, the configuration, the network and the token."
            ) from None
        return dict(tables)

    def _roots(self) -> tuple[str, ...]:
        """The folders that hold the data set's files: a row names one by its path, and might name another."""
        import datasets
        from huggingface_hub import constants

        local = self._local()
        folders = [local] if local else [datasets.config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE, self.base]
        return tuple(os.path.realpath(folder) for folder in folders if folder is not None)

    def _columns(self, features: Any) -> tuple[str, str | None, list[str] | None]:
        """The columns of pictures and labels, and the names of classes where these have some."""
        import datasets

        image = self.image or _only(
            [name for name, kind in features.items() if isinstance(kind, datasets.Image)], features, "pictures", "image"
        )
        labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
        label = self.label
        if label is None:
            label = _only(labels, features, "labels", "label") if labels else None
        for column in filter(None, (image, label)):
            if column not in features:
                raise DataError(f"{self.title} has no column {show(column)}: it has {listed(features)}.")
        names = getattr(features[label], "names", None) if label else None
        return image, label or None, list(names) if names else None

    def _check_columns(self, features: Any, split: str, image: str, label: str | None, kinds: Any) -> None:
        """Refuse a split that has not the columns of train, or other names of its classes."""
        for column in filter(None, (image, label)):
            if column not in features:
                raise DataError(f"The split {split} of {self.title} has no column {show(column)}, as train has.")
        names = getattr(features[label], "names", None) if label else None
        if kinds != (list(names) if names else None):
            raise DataError(f"The split {split} of {self.title} has other classes than train: name another label.")


def _only(found: list[str], features: Any, what: str, argument: str) -> str:
    if len(found) == 1:
        return found[0]
    many = f"several columns of {what}, {listed(found)}" if found else f"no column of {what}, but {listed(features)}"
    raise DataError(f"The data set has {many}: name one by {argument}.")


def _class_of(given: Any, kinds: list[str] | None) -> str | None:
    """The class of a label as a column holds it; None where it has none, which -1 says as well."""
    if kinds is not None:
        return kinds[given] if isinstance(given, int) and 0 <= given < len(kinds) else None
    if isinstance(given, bool) or not isinstance(given, (int, str)):
        return None
    return str(given) or None


def _undecoded(table: Any, column: str) -> Any:
    """The table with the files of its pictures, instead of what Pillow makes of them."""
    import datasets

    try:
        return table.cast_column(column, datasets.Image(decode=False))
    except Exception as error:
        raise DataError(
            f"The column {show(column)} holds no pictures ({said_name(one_line(error))}): name another as image."
        ) from None


def _fetch(table: Any, column: str, i: int, roots: tuple[str, ...]) -> bytes:
    """The bytes of a picture's file, within what is read of one."""
    value = table[i][column] or {}
    if value.get("bytes") is None:
        path = os.path.realpath(value.get("path") or "")
        if not value.get("path") or not any(path.startswith(os.path.join(root, "")) for root in roots):
            raise DataError(f"row {i} holds no picture, nor one of the data set's files.")
        return read_regular(path, MOST_BYTES)
    if len(value["bytes"]) > MOST_BYTES:
        raise DataError(f"row {i} has a file of more than {MOST_BYTES:,} bytes.")
    return value["bytes"]
