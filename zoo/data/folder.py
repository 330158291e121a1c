"""A folder of one's own pictures, classes by subfolder."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from zoo.data.decoding import ENDINGS, MOST_BYTES
from zoo.data.own_images import OwnImages
from zoo.errors import DataError, said_name, show
from zoo.files import read_regular

# What folders of splits are called, in small letters.
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}


class Listed(NamedTuple):
    """What lies in a folder: names of picture files and of subfolders, sorted, and what else there is."""

    pictures: list[str]
    folders: list[str]
    others: list[tuple[str, str]]  # why it is left out, and its name


class ImageFolder(OwnImages):
    """A folder of pictures of any sizes and modes; classes are its subfolders, where it has some with pictures.

    Either is found in `root`:

    - pictures, without classes, or a subfolder of pictures for each class, in `root` itself;
    - the same in `root/train`, and maybe in `root/test` and `root/validation` (or `val`). A class of one of these may
      be absent in the others: a label is the place of its name among all of them, sorted.

    Left out, and said once with their number, are files of other endings than pictures have, hidden ones, links that
    lead nowhere and what else is no file, folders in the folders of classes, pictures beside those folders, and what
    is damaged or too large. The rest is read as `zoo.data.own_images.OwnImages` tells, which also tells how pictures
    are split and brought to one size.

    Args:
        root: the folder; a checkpoint does not hold it, so evaluating one needs it again.
        size: pixels of a side, or [height, width].
        channels: 3 for red, green and blue, or 1 for grey.
        levels: number of values of a sub-pixel, 2 to 256.
        held_out: the share of files that is held out for validation where there is no such folder, and as much for
            test.
        class_names: the classes in the order of their labels; by default the names of the subfolders, sorted.
        batch_size: images in a training batch of one device.
        eval_batch_size: most images in a validation or test batch; default `batch_size`.
        seed: of the order in which training images come; each epoch has its own.
        flip: whether to mirror each training image left to right with probability 1/2, anew each time.

    Example:
        zoo fit --config recipes/pixelcnn-cifar10.yaml --from pixelcnn-cifar10 --data zoo.data.ImageFolder
        --data.root pictures --data.size 32
    """

    def __init__(
        self,
        root: str | None = None,
        size: int | list[int] = 32,
        channels: int = 3,
        levels: int = 256,
        held_out: float = 0.1,
        class_names: list[str] | None = None,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        seed: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__(size, channels, levels, held_out, class_names, batch_size, eval_batch_size, seed, flip)
        self.folder = None if root is None else Path(root).expanduser()
        name = "" if self.folder is None else self.folder.absolute().name
        self.title = said_name(name) or "the folder of pictures"

    def found(self) -> tuple[dict[str, list[tuple[str, str | None, Callable[[], bytes]]]], bool]:
        """The pictures of the folder, by split, with the names of their subfolders.

        Raises:
            DataError: there is no folder, or no picture in it.
        """
        if self.folder is None:
            raise DataError("Say where the pictures are: root (--data.root, or --root to evaluate) is their folder.")
        where, top = self.folder.absolute(), listing(self.folder)
        splits = self._splits(top)
        parts = {split: self._classes(name, listing(self.folder / name)) for split, name in splits.items()}
        if splits:
            self._leave_out("", top, beside="beside the folders of splits", folders="other folders")
        else:
            parts = {"train": self._classes("", top)}
        labelled = any(classes for _, classes in parts.values())
        found = {}
        for split, (loose, classes) in parts.items():
            files = [(name, kind) for kind, names in classes.items() for name in names]
            if labelled:
                for name in loose:
                    self.leave_out("beside the folders of classes", said_name(name))
            else:
                files = [(name, None) for name in loose]
            if files or split == "train":
                found[split] = [
                    (said_name(name), kind, partial(read_regular, self.folder / name, MOST_BYTES))
                    for name, kind in files
                ]
        if not found["train"]:
            below = f" and its folder {show(splits['train'])}" if splits else ""
            raise DataError(
                f"There is no picture to train on in {said_name(str(where))}{below}: files ending in "
                f"{', '.join(ENDINGS)} are looked for there, and in the folders in it."
            )
        return found, labelled

    def _splits(self, top: Listed) -> dict[str, str]:
        """The folders of splits by their split, where there is one of train that is not a class among others."""
        named: dict[str, str] = {}
        for name in top.folders:
            split = SPLIT_FOLDERS.get(name.casefold())
            if split in named:
                raise DataError(
                    f"{said_name(str(self.folder))} has the folders {show(named[split])} and {show(name)}, both for "
                    f"{split}: rename one."
                )
            if split:
                named[split] = name
        if "train" not in named:
            return {}
        others = [name for name in top.folders if name not in named.values()]
        if listing(self.folder / named["train"]).pictures and any(
            listing(self.folder / name).pictures for name in others
        ):
            return {}  # pictures of trains, beside cars and planes
        return named

    def _classes(self, inside: str, there: Listed) -> tuple[list[str], dict[str, list[str]]]:
        """Loose pictures, and those of each class, by name from `root` on, of what is in a folder there."""
        classes: dict[str, list[str]] = {}
        for name in there.folders:
            below = listing(self.folder / inside / name)
            kind = unicodedata.normalize("NFC", name)  # as some systems write accents apart
            if kind in classes:
                raise DataError(f"Two folders in {said_name(str(self.folder / inside))} have the name {show(kind)}.")
            if below.pictures:
                classes[kind] = [str(Path(inside, name, each)) for each in below.pictures]
            elif not below.folders:
                self.leave_out("folders without a picture", said_name(str(Path(inside, name))))
            self._leave_out(str(Path(inside, name)), below, folders="folders in folders of classes")
        self._leave_out(inside, there)
        return [str(Path(inside, each)) for each in there.pictures], classes

    def _leave_out(self, inside: str, there: Listed, beside: str = "", folders: str = "") -> None:
        """Note what of a folder is left out: what is no picture and, where it is said how, its pictures and folders."""
        for why, name in there.others:
            self.leave_out(why, said_name(str(Path(inside, name))))
        for name in there.pictures if beside else ():
            self.leave_out(beside, said_name(str(Path(inside, name))))
        for name in there.folders if folders else ():
            if folders != "other folders" or name.casefold() not in SPLIT_FOLDERS:
                self.leave_out(folders, said_name(str(Path(inside, name))))


def listing(folder: Path) -> Listed:
    """What is in a folder.

    Raises:
        DataError: there is no such folder, or it cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            entries = sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"There is no folder {said_name(str(folder.absolute()))}: give that of the pictures.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"The folder {said_name(str(folder.absolute()))} cannot be listed: {reason}.") from None
    found = Listed([], [], [])
    for entry in entries:
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # links in a circle
            is_folder = is_file = False
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            found.others.append(("hidden", entry.name))
        elif is_folder:
            found.folders.append(entry.name)
        elif not is_file:
            found.others.append(("no regular files", entry.name))
        elif not entry.name.lower().endswith(ENDINGS):
            found.others.append(("of other endings", entry.name))
        else:
            found.pictures.append(entry.name)
    return found
