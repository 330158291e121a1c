"""What data sets of one's own pictures share: one size, splits by hash, and a word on what was left out."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from zoo.arguments import memory
from zoo.classes import class_path_of
from zoo.data.decoding import decode, to_levels, whole_area
from zoo.data.images import ImageData
from zoo.errors import DataError, show, warn

SPLITS = ("train", "validation", "test")


class Source(NamedTuple):
    """A picture that is not read yet: its name, its label (None for none), and what gives the bytes of its file."""

    name: str
    label: int | None
    fetch: Callable[[], bytes]


class OwnImages(ImageData):
    """Pictures of any sizes and modes, brought to one size and kept in memory as uint8 (N, C, H, W).

    Of a picture the largest part of the wanted proportions is taken from its middle, and a pixel is the mean over its
    area there; how files are read is in `zoo.data.decoding`. What cannot be read is left out and said, once, with its
    number.

    Where there is no test or no validation split, the files for it are chosen by the SHA-256 of their bytes. So a
    copy of a picture is on the same side, whatever it is called, and renaming files or adding some moves no other one.
    (Of so few files that none would be chosen, the one of the smallest number is.)

    A data set defines `found`, and says in `essential` what else tells which data these are.

    Args:
        size: pixels of a side, or [height, width].
        channels: 3 for red, green and blue, or 1 for grey.
        levels: number of values of a sub-pixel, 2 to 256.
        held_out: the share of files that is held out for validation where there is no such split, and as much for test.
        class_names: the classes in the order of their labels; by default those that there are, sorted.
        batch_size: images in a training batch of one device.
        eval_batch_size: most images in a validation or test batch; default `batch_size`.
        seed: of the order in which training images come; each epoch has its own.
        flip: whether to mirror each training image left to right with probability 1/2, anew each time.
    """

    splits = SPLITS
    essential = ()

    def __init__(
        self,
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
        super().__init__(None, batch_size, None, eval_batch_size, seed, download=False)
        if isinstance(channels, bool) or channels not in (1, 3):
            raise DataError(f"channels must be 3 for colour or 1 for grey, not {show(channels)}.")
        if not (isinstance(levels, int) and 2 <= levels <= 256):
            raise DataError(f"levels of pictures must be 2 to 256, not {show(levels)}.")
        if not (isinstance(held_out, (int, float)) and 0 < held_out < 0.5):
            raise DataError(f"held_out must be a share above 0 and below 0.5, not {show(held_out)}.")
        if class_names is not None and not (
            isinstance(class_names, (list, tuple)) and all(isinstance(name, str) for name in class_names)
        ):
            raise DataError(f"class_names must be a list of names, not {show(class_names)}.")
        self.size, self.channels, self.levels, self.held_out, self.flip = size, channels, levels, held_out, flip
        self.shape = (channels, *whole_area(size))
        self._names = None if class_names is None else tuple(class_names)
        self._sources: dict[str, list[Source]] | None = None
        self._members: dict[str, list[Source]] = {}
        self._left_out: dict[str, list[str]] = {}

    # -- what a data set gives ------------------------------------------------------------------------------------

    def found(self) -> tuple[dict[str, list[tuple[str, str | None, Callable[[], bytes]]]], bool]:
        """The pictures that there are, of which none is read yet, and whether they have classes.

        Returns:
            By split, "train" at least, and without those that have none: name, class and what gives the bytes of each.

        Raises:
            DataError: there are none.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define found().")

    def leave_out(self, why: str, name: str) -> None:
        """Note that something is left out, which is said at the end of `setup`."""
        self._left_out.setdefault(why, []).append(name)

    # -- what it gets ---------------------------------------------------------------------------------------------

    @property
    def sources(self) -> dict[str, list[Source]]:
        """All pictures by split, looked for once.

        Raises:
            DataError: there are none, or one is of no class that there is.
        """
        if self._sources is None:
            try:
                found, labelled = self.found()
            except DataError:
                self._say_left_out()
                raise
            if labelled and self._names is None:
                self._names = tuple(sorted({kind for part in found.values() for _, kind, _ in part}))
            labels = {name: label for label, name in enumerate(self._names or ())} if labelled else {}
            for part in found.values():
                strange = next((kind for _, kind, _ in part if labelled and kind not in labels), None)
                if strange is not None:
                    known = ", ".join(map(show, list(labels)[:5])) + (" and more" if len(labels) > 5 else "")
                    raise DataError(
                        f"{self.title} has the class {show(strange)}, and class_names has {known}: add it there, or "
                        f"remove its pictures."
                    )
            self._labelled = labelled
            self._sources = {
                split: [Source(name, labels.get(kind), fetch) for name, kind, fetch in part]
                for split, part in found.items()
            }
        return self._sources

    @property
    def classes(self) -> int:
        """Number of classes, 0 where there are none."""
        return len(self._names or ()) if self.sources and self._labelled else 0

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes in the order of their labels; None where there are none."""
        return self._names if self.classes else None

    @property
    def protocol(self) -> str:
        """How the images were made, and which are the test split where the data do not say it."""
        sides = f"{self.shape[1]}x{self.shape[2]}"
        said = f"{self.levels} levels; the middle of each picture, resized to {sides} by area"
        return said if "test" in self.sources else f"{said}; test split: {self.held_out:g} of the files, by their hash"

    @property
    def config(self) -> dict[str, Any]:
        """`class_path` and those `init_args` that say which data this is: no folder, and no batch sizes."""
        own = ("size", "channels", "levels", "held_out", *self.essential)
        arguments = {name: getattr(self, name) for name in own}
        if self.class_names:
            arguments["class_names"] = list(self.class_names)
        return {"class_path": class_path_of(type(self)), "init_args": arguments}

    def setup(self, stage: str | None = None) -> None:
        """Read what the stage needs; what was left out on the way is said.

        Raises:
            DataError: there are no pictures, or too few, or they do not fit into memory.
        """
        try:
            super().setup(stage)
        finally:
            self._say_left_out()

    def read(self, split: str) -> Tensor | tuple[Tensor, Tensor]:
        """The pictures of a split, uint8 (N, C, H, W), and their labels where they have some.

        Raises:
            DataError: there are none, or they do not fit into memory.
        """
        sources = self._of(split)
        check_memory(len(sources), self.shape, str(self.title))
        images, labels = torch.empty((len(sources), *self.shape), dtype=torch.uint8), []
        for source in tqdm(sources, desc=f"{self.title}, {split}", disable=None, leave=False):
            try:
                images[len(labels)] = decode(self._bytes(source), source.name, self.channels, self.shape[1:])
            except DataError as error:
                self.leave_out("unreadable", str(error).rstrip("."))
                continue
            labels.append(source.label)
        if not labels:
            reason = f", the first of which says: {self._left_out['unreadable'][0]}" if sources else ""
            raise DataError(
                f"{self.title} has no picture for {split} that can be read{reason}: add some, or change held_out."
            )
        # A copy where some are left out, which lets the larger one go.
        images = to_levels(images if len(labels) == len(images) else images[: len(labels)].clone(), self.levels)
        return (images, torch.tensor(labels)) if self._labelled else images

    def _say_left_out(self) -> None:
        """Say what was left out since this was said; of too few pictures that is the reason."""
        if self._left_out:
            parts = [f"{len(names):,} {why} (as {names[0]})" for why, names in self._left_out.items()]
            self._left_out = {}
            warn(f"Of {self.title} is left out: {'; '.join(parts)}.")

    def _of(self, split: str) -> list[Source]:
        """The pictures of a split, those of train shared out to the splits that there are not."""
        if not self._members:
            self._members = dict(self.sources)
            absent = [name for name in ("test", "validation") if name not in self.sources]
            if absent:
                self._members |= self._shared_out(self.sources["train"], absent)
        return self._members[split]

    def _shared_out(self, sources: list[Source], absent: list[str]) -> dict[str, list[Source]]:
        """What is held out of pictures, by split, and the rest as "train", each in its order."""
        placed = []
        for i, source in enumerate(sources):
            try:
                digest = hashlib.sha256(self._bytes(source)).digest()
            except DataError as error:
                self.leave_out("unreadable", str(error).rstrip("."))
                continue
            placed.append((int.from_bytes(digest[:8], "big") / 2**64, i))
        placed.sort()
        shares, start = {}, 0
        for k, name in enumerate(absent, 1):
            end = max(start + 1, bisect_left(placed, (k * self.held_out,)))
            shares[name], start = placed[start:end], end
        shares["train"] = placed[start:]
        if not shares["train"]:
            raise DataError(
                f"{self.title} has {len(placed)} picture{'' if len(placed) == 1 else 's'} to train on, too few to hold "
                f"some out for {' and '.join(absent)}: add some."
            )
        return {name: [sources[i] for i in sorted(i for _, i in part)] for name, part in shares.items()}

    def _bytes(self, source: Source) -> bytes:
        try:
            return source.fetch()
        except OSError as error:
            raise DataError(f"{source.name} cannot be read: {error.strerror or type(error).__name__}.") from None


def check_memory(n: int, shape: tuple[int, ...], title: str) -> None:
    """Refuse images that would take more than half of the memory of this machine."""
    size, most = n * shape[0] * shape[1] * shape[2], memory() // 2
    if size > most:
        raise DataError(
            f"{title} takes {size / 2**30:,.1f} GiB as {n:,} images of {shape[1]}x{shape[2]}, more than half of the "
            f"memory here, {most / 2**30:,.1f} GiB: choose a smaller size, or fewer pictures."
        )
