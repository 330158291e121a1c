"""Two sets of images or of points -> the distances between them, with what they were measured by.

Images are compared by FID, KID, precision and recall in Inception's features (`zoo.metrics.inception`), and by exact
W_1 in features of a scattering transform, which was trained on nothing; points by their energy distance, Wasserstein
distances and Sinkhorn divergence.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo import metrics
from zoo.arguments import count_of, seed_of
from zoo.data.splits import split_of
from zoo.errors import ZooError, warn
from zoo.evaluation import fidelity
from zoo.evaluation.fidelity import distance
from zoo.hub import store
from zoo.hub.config import read_config
from zoo.hub.data import datamodule
from zoo.model.asking import check_draws
from zoo.nn.devices import checked_device
from zoo.pictures import images as pictures
from zoo.results import Result
from zoo.spec import DataSpec

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SPLITS = ("train", "test")
EXACT = 2000  # points of each set for which the exact distance takes seconds
SCATTERED = 1000  # images of each set that are compared by their scattering features
SIDE = 64  # pixels of the largest images whose scattering takes a minute
EPSILON = 0.05


def gather(
    name: str | Path,
    *,
    n: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    root: str | Path | None = None,
) -> Tensor:
    """A set to compare: uint8 images (N, C, H, W) with the levels spread over 0..255, or float points (N, D).

    Args:
        name: a folder of pictures; a checkpoint, as `zoo.load` takes it, which draws; or CHECKPOINT:train or
            CHECKPOINT:test, the split of the data that it was trained on (train with the images held out for
            validation, as FID takes it).
        n: number of pictures, of a folder or split the first ones; by default all of these, and 10,000 draws.
        seed: of the draws.
        device: where a checkpoint draws.
        root: folder of the data sets; by default ZOO_DATA or the user cache.
    """
    n, seed = None if n is None else count_of(n), seed_of(seed)
    path = Path(name).expanduser()
    if path.is_dir() and not (path / "config.json").exists():
        return _folder(path, n)
    name, _, split = str(name).partition(":")
    if not split:
        model = store.load(name, device=checked_device(device))
        check_draws(model)
        _check_kind(model.spec, name)
        return _bytes(model.sample(n or 10_000, seed=seed).cpu(), model.spec.levels)
    if split not in SPLITS:
        raise ZooError(f"After a checkpoint's name comes :train or :test, not :{split}.")
    config = read_config(store.find(name))
    if not config.get("data"):
        raise ZooError(f"{name} names no data set.")
    data = datamodule(config["data"], root=root)
    _check_kind(data.spec, name)
    data.prepare_data()
    what = f"{name}:{split}"
    return _bytes(_first(split_of(data, split, what), n, what), data.spec.levels)


def _check_kind(spec: DataSpec, name: str) -> None:
    """Refuse data that are neither images nor points."""
    images = spec.kind == "image" and spec.levels is not None
    if not images and not (spec.kind == "vector" and spec.levels is None):
        raise ZooError(f"{name} gives {spec.described}: images and points are compared, of which these are neither.")


def compare(
    x: Tensor,
    y: Tensor,
    *,
    batch_size: int = 100,
    device: str | torch.device | None = None,
    root: str | Path | None = None,
    seed: int = 0,
) -> list[Result]:
    """All distances of two sets, y the reference.

    Between unequal numbers of images or points, exact W_1 needs the extra `transport`; a warning says where it is
    absent.

    Args:
        x: images uint8 (N, C, H, W) or points (N, D).
        y: the same kind, (M, ...).
        batch_size: images computed at once.
        device: where features are computed; by default the GPU where there is one.
        root: folder in which `Inception` finds its file.
        seed: of random directions and subsets.
    """
    if x.is_floating_point() != y.is_floating_point():
        raise ZooError("One of the two is a set of images and the other one of points: there is no distance for them.")
    if x.is_floating_point():
        return _of_points(x, y, f"{len(x):,} and {len(y):,} points", seed)
    device, network = checked_device(device), metrics.Inception(root)
    features = (metrics.features_of(images.split(batch_size), network, device) for images in (x, y))
    return [*fidelity.distances(*features, seed), *_scattered(x, y, batch_size, device)]


def _scattered(x: Tensor, y: Tensor, batch_size: int, device: torch.device) -> list[Result]:
    """W_1 of scattering features, of images that are of one size and not too large."""
    channels, *sides = x.shape[1:]
    if x.shape[1:] != y.shape[1:] or not 4 <= min(sides) <= max(sides) <= SIDE:
        return []
    scales = min(3, int(math.log2(min(sides))) - 1)
    network = metrics.Scattering(*sides, scales=scales, angles=4)
    features = [metrics.features_of(images[:SCATTERED].split(batch_size), network, device) for images in (x, y)]
    protocol = (
        f"the first {len(features[0]):,} and {len(features[1]):,} images of {channels} x {sides[0]} x {sides[1]}, "
        f"in 0..1; scattering with {scales} scales and 4 angles, {features[0].shape[1]:,} features, exact"
    )
    return _exact("scattering_w1", *features, protocol)


def _of_points(x: Tensor, y: Tensor, protocol: str, seed: int) -> list[Result]:
    x, y = x.double(), y.double()
    first = x[:EXACT], y[:EXACT]
    exact = f"the first {len(first[0]):,} and {len(first[1]):,} points" if max(len(x), len(y)) > EXACT else protocol
    return [
        distance("energy_distance", metrics.energy_distance(x, y), f"{protocol}; unbiased"),
        *_exact("wasserstein_1", *first, exact),
        distance("sliced_wasserstein_2", metrics.sliced_wasserstein(x, y, seed=seed), f"{protocol}; 200 directions"),
        distance(
            "sinkhorn", metrics.sinkhorn(*first, epsilon=EPSILON), f"{exact}; squared cost, epsilon {EPSILON}, debiased"
        ),
    ]


def _exact(metric: str, x: Tensor, y: Tensor, protocol: str) -> list[Result]:
    """W_1, or a warning of what it lacks: the other distances are given without it."""
    try:
        return [distance(metric, metrics.wasserstein(x, y), protocol)]
    except ZooError as error:
        warn(f"{metric} is left out. {error}")
        return []


def _folder(path: Path, n: int | None) -> Tensor:
    """The pictures of a folder, in the order of their names, uint8 (N, 3, H, W)."""
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)
    if not files:
        raise ZooError(f"There is no picture in {path}: it takes files ending in {', '.join(ENDINGS)}.")
    images: list[Tensor] = []
    for file in _first(files, n, str(path)):
        with pictures.opened(file) as image:
            width, height = image.size
            if images and (height, width) != images[0].shape[1:]:
                raise ZooError(
                    f"{file} is {width} x {height} pixels, and the pictures before it "
                    f"{images[0].shape[2]} x {images[0].shape[1]}: resize them to one size."
                )
            images.append(pictures.decoded(image, 3))
    return torch.stack(images)


def _first(items: Any, n: int | None, name: str) -> Any:
    if n is not None and n > len(items):
        raise ZooError(f"{name} has {len(items):,}, not the {n:,} that are asked for.")
    return items[:n]


def _bytes(x: Tensor, levels: int | None) -> Tensor:
    return x if levels is None else pictures.to_bytes(x, levels)
