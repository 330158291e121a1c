"""What can be compared -> a set of images or of points: a checkpoint's draws, a split, a folder, a table, a tensor.

Two sets are compared only where a number tells them apart by what they hold, and not by how it is stored: images of one
size, of as many levels, both grey or both in colour; points of as many columns, of the same names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from zoo.arguments import count_of, seed_of
from zoo.data import Table
from zoo.data.decoding import ENDINGS, read_picture
from zoo.data.splits import split_of
from zoo.errors import DataError, ZooError, show, warn
from zoo.evaluation import fidelity
from zoo.hub import finding, store
from zoo.hub.client import PREFIX
from zoo.hub.config import read_config
from zoo.hub.data import datamodule
from zoo.model import Model
from zoo.model.asking import check_draws
from zoo.nn.devices import checked_device
from zoo.pictures import images as pictures
from zoo.spec import DataSpec

TABLES = (".csv", ".tsv", ".npy")
SPLITS = ("train", "test")
DRAWS = 10_000

Source = str | Path | Tensor | np.ndarray | LightningDataModule | Model


@dataclass(frozen=True)
class Sample:
    """A set to compare, and what is known of it.

    Args:
        x: uint8 images (N, C, H, W), or points (N, D) in floating point.
        name: of the set, for sentences.
        levels: of images, those that `x` has spread over 0..255; None where bytes say nothing of them.
        loose: whether the levels may not be spread yet, as in a tensor.
        columns: names of the columns of points, where they have some.
    """

    x: Tensor
    name: str
    levels: int | None = None
    loose: bool = False
    columns: tuple[str, ...] | None = None

    @property
    def kind(self) -> str:
        """ "points" or "images"."""
        return "points" if self.x.is_floating_point() else "images"


def gathered(
    source: Source,
    name: str | None = None,
    *,
    n: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    root: str | Path | None = None,
) -> Sample:
    """A set to compare.

    Args:
        source: a folder of pictures; a table as .csv, .tsv or .npy; a checkpoint, as `zoo.load` takes it, which draws;
            CHECKPOINT:train or CHECKPOINT:test, the split of the data that it was trained on (train with those held
            out for validation, as FID takes it); a model, which draws; a data module, for its test split; or a tensor
            or an array, uint8 images (N, C, H, W) or points (N, D).
        name: what it is called in sentences; by default as it is given.
        n: number of data, of all but a checkpoint or a model the first ones; by default all of these, and 10,000 draws.
        seed: of the draws.
        device: where a checkpoint draws.
        root: folder of the data sets; by default ZOO_DATA or the user cache.

    Raises:
        ZooError: it is none of these, is empty, has fewer than n, or holds a value that is no finite number.
    """
    n, seed = None if n is None else count_of(n), seed_of(seed)
    if isinstance(source, (str, Path)):
        sample = _named(source, n, seed, device, root)
    elif isinstance(source, (Tensor, np.ndarray)):
        sample = _of_values(source, name or "the tensor", n)
    elif isinstance(source, LightningDataModule):
        sample = _of_split(source, "test", name or type(source).__name__, n)
    elif isinstance(source, torch.nn.Module):
        sample = _drawn(source, name or type(source).__name__, n, seed)
    else:
        raise ZooError(
            f"A set to compare is a name, a path, a tensor, a data module or a model, not {type(source).__name__}."
        )
    sample = replace(sample, name=name or sample.name)
    if not len(sample.x):
        raise DataError(f"{sample.name} is empty: give it at least two data.")
    if sample.kind == "points" and not bool(sample.x.isfinite().all()):
        raise DataError(f"{sample.name} holds a value that is no finite number: remove its row.")
    return sample


def _named(name: str | Path, n: int | None, seed: int, device: Any, root: str | Path | None) -> Sample:
    path = Path(name).expanduser()
    if path.is_dir() and not (path / "config.json").exists():
        return Sample(_folder(path, n), str(name))
    if path.suffix.lower() in TABLES and path.is_file():
        table = Table(str(path.resolve()), str(path.resolve()), levels=None)
        rows = _first(table.exact("test"), n, str(name))
        return Sample(rows, str(name), columns=getattr(table, "columns", None))
    if path.suffix.lower() in ENDINGS and path.is_file():
        raise ZooError(f"{name} is one picture, and a set is compared: give the folder of several.")
    name, split = re.fullmatch(f"((?:{PREFIX})?[^:]*):?(.*)", str(name), re.DOTALL).groups()
    if not split:
        model = store.load(name, device=checked_device(device))
        return _drawn(model, name, n, seed)
    if split not in SPLITS:
        raise ZooError(f"After a checkpoint's name comes :train or :test, not :{split}.")
    config = read_config(finding.find(name))
    if not config.get("data"):
        raise ZooError(f"{name} names no data set.")
    return _of_split(datamodule(config["data"], root=root), split, f"{name}:{split}", n)


def _drawn(model: Model, name: str, n: int | None, seed: int) -> Sample:
    check_draws(model)
    _check_kind(model.spec, name)
    x = model.sample(DRAWS if n is None else n, seed=seed).cpu()
    return Sample(_bytes(x, model.spec.levels), name, model.spec.levels)


def _of_split(data: LightningDataModule, split: str, name: str, n: int | None) -> Sample:
    _check_kind(data.spec, name)
    data.prepare_data()
    x = _bytes(_first(split_of(data, split, name), n, name), data.spec.levels)
    return Sample(x, name, data.spec.levels, columns=getattr(data, "columns", None))


def _of_values(values: Tensor | np.ndarray, name: str, n: int | None) -> Sample:
    """Images as they are; points of any numbers, those that are no floats in float64."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "biuf":
            raise DataError(f"{name} is an array of {values.dtype}, which are no real numbers.")
        values = torch.from_numpy(np.ascontiguousarray(values, values.dtype.newbyteorder("=")))
    x = values.detach().cpu()
    if x.is_complex():
        raise DataError(f"{name} is a tensor of {x.dtype}, which are no real numbers.")
    if x.ndim == 2 and x.shape[1]:
        return Sample(_first(x if x.is_floating_point() else x.double(), n, name), name)
    if x.ndim == 4 and x.dtype == torch.uint8 and x.shape[1] in (1, 3) and min(x.shape[2:]):
        return Sample(_first(x, n, name), name, loose=True)
    raise DataError(
        f"{name} is {x.dtype} of shape {tuple(x.shape)}: a set is uint8 images (N, 1 or 3, H, W) or points (N, D)."
    )


def _check_kind(spec: DataSpec, name: str) -> None:
    """Refuse data that are neither images nor points."""
    images = spec.kind == "image" and spec.levels is not None
    if not images and not (spec.kind == "vector" and spec.levels is None):
        raise ZooError(f"{name} gives {spec.described}: images and points are compared, of which these are neither.")


# -- two of them -------------------------------------------------------------------------------------------------


def matched(a: Sample, b: Sample) -> tuple[Tensor, Tensor]:
    """Both as they are compared; refuses two that differ by more than what they hold.

    Raises:
        ZooError: in one sentence, what differs, and the remedy.
    """
    if a.kind != b.kind:
        raise ZooError(f"{a.name} is a set of {a.kind} and {b.name} of {b.kind}: there is no distance for them.")
    x, y = (_columns if a.kind == "points" else _pixels)(a, b)
    least = 2 if a.kind == "points" else fidelity.LEAST
    for sample in (a, b):
        if len(sample.x) < least:
            some = a.kind if len(sample.x) > 1 else a.kind[:-1]
            raise ZooError(f"{sample.name} has {len(sample.x)} {some}: distances take at least {least} of each.")
    if torch.equal(x, y):
        warn(f"{a.name} and {b.name} are the same {len(x):,} {a.kind}: their distance says nothing of a model.")
    return x, y


def _columns(a: Sample, b: Sample) -> tuple[Tensor, Tensor]:
    dims = a.x.shape[1], b.x.shape[1]
    if dims[0] != dims[1]:
        raise ZooError(f"{a.name} has {dims[0]} columns and {b.name} {dims[1]}: give both the same ones.")
    if a.columns and b.columns and tuple(a.columns) != tuple(b.columns):
        one, other = next(pair for pair in zip(a.columns, b.columns, strict=True) if pair[0] != pair[1])
        raise ZooError(
            f"{a.name} has a column {show(one, 40)} where {b.name} has {show(other, 40)}: give both the same ones, in "
            "one order."
        )
    return a.x.double(), b.x.double()


def _pixels(a: Sample, b: Sample) -> tuple[Tensor, Tensor]:
    sizes = [f"{s.x.shape[3]} x {s.x.shape[2]}" for s in (a, b)]
    if sizes[0] != sizes[1]:
        raise ZooError(
            f"{a.name} has images of {sizes[0]} pixels and {b.name} of {sizes[1]}: resize them to one size first."
        )
    if a.levels and b.levels and a.levels != b.levels:
        raise ZooError(
            f"{a.name} has {a.levels} levels and {b.name} {b.levels}: a distance would tell these apart. Compare with "
            "data of as many."
        )
    x, y = _spread(a, b), _spread(b, a)
    channels = x.shape[1], y.shape[1]
    if channels[0] != channels[1]:  # pictures of grey images are often in colour
        plain = [part if part.shape[1] == 1 or bool((part != part[:, :1]).any()) else part[:, :1] for part in (x, y)]
        if plain[0].shape[1] != plain[1].shape[1]:
            grey, colour = (a, b) if channels[0] == 1 else (b, a)
            raise ZooError(f"{grey.name} is grey and {colour.name} in colour: make both one of these first.")
        x, y = plain
    return x, y


def _spread(sample: Sample, other: Sample) -> Tensor:
    """Its bytes, of which it is made sure that they are those of the other's levels, where these are known."""
    x, levels = sample.x, other.levels
    if sample.levels or levels is None or levels == 256:
        return x
    if sample.loose and int(x.max()) < levels:
        return pictures.to_bytes(x, levels)
    allowed = torch.zeros(256, dtype=torch.bool)
    allowed[pictures.to_bytes(torch.arange(levels), levels).long()] = True
    if not bool(allowed[x.long()].all()):
        raise ZooError(
            f"{other.name} has {levels} levels, and {sample.name} values between them: a distance would tell these "
            "apart. Compare with images of as many levels."
        )
    return x


# -- files -------------------------------------------------------------------------------------------------------


def _folder(path: Path, n: int | None) -> Tensor:
    """The pictures of a folder, in the order of their names, uint8 (N, 3, H, W)."""
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)
    if not files:
        raise ZooError(f"There is no picture in {path}: it takes files ending in {', '.join(ENDINGS)}.")
    images: list[Tensor] = []
    for file in _first(files, n, str(path)):
        picture = read_picture(file)
        if images and picture.shape != images[0].shape:
            raise ZooError(
                f"{file} is {picture.shape[2]} x {picture.shape[1]} pixels, and the pictures before it "
                f"{images[0].shape[2]} x {images[0].shape[1]}: resize them to one size."
            )
        images.append(picture)
    return torch.stack(images)


def _first(items: Any, n: int | None, name: str) -> Any:
    if n is not None and n > len(items):
        raise ZooError(f"{name} has {len(items):,}, not the {n:,} that are asked for.")
    return items[:n]


def _bytes(x: Tensor, levels: int | None) -> Tensor:
    return x if levels is None else pictures.to_bytes(x, levels)
