"""How close a model's samples come to its data, as `zoo evaluate` and `zoo distance` measure it: of images FID, KID,
precision and recall (`zoo.metrics.features`), of points the energy distance.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from zoo import metrics
from zoo.batch import Batch
from zoo.data.splits import split_of
from zoo.errors import DataError
from zoo.files import data_root, write_atomically
from zoo.model import GenerativeModel, Measurement
from zoo.pictures import images as pictures
from zoo.results import METRICS, Result, metric_of

N = 50_000  # samples for FID, which falls with their number
NEIGHBOURS = 3
MANIFOLD = 10_000  # features of each for precision and recall, whose time grows as the square
SUBSETS, SUBSET = 100, 1000  # of the kernel distance
POINTS = 100_000  # for the energy distance, whose time grows as the square: a minute or two
BATCH = 200  # images computed at once
LEAST = 5  # images of each


class Fidelity(Measurement):
    """Samples of a model against all training images of its data, those held out for validation included.

    Args:
        model: of images.
        n: samples; at most as many as there are images.
        seed: of the samples.
        options: of the model's `sample`, as its steps.
    """

    metrics = tuple(METRICS[name] for name in ("fid", "kid", "precision", "recall"))

    def __init__(
        self, model: GenerativeModel, n: int = N, seed: int = 0, options: Mapping[str, Any] | None = None
    ) -> None:
        self.model, self.n, self.seed, self.options = model, n, seed, dict(options or {})

    def begin(self, data: LightningDataModule, limit: int | None) -> None:
        """Take the training images, or the first of them; as many samples at most."""
        images = split_of(data, "train", "the training split")
        self.reference, self.limited = images[:limit], limit is not None
        self.n = min(self.n, len(self.reference))
        self.root = getattr(data, "root", None)

    def compute(self) -> list[Result]:
        """Draw, and compare."""
        levels, device = self.model.spec.levels, self.model.device
        network = metrics.Inception(self.root)
        drawn = self.model.sample(self.n, seed=self.seed, **self.options)
        samples = pictures.to_bytes(drawn, levels)
        generated = metrics.features_of(samples.split(BATCH), network, device)
        reference = pictures.to_bytes(self.reference, levels)
        if self.limited:  # a quick check leaves no files
            real = metrics.features_of(reference.split(BATCH), network, device)
        else:
            real = features_of_reference(reference, network, device, self.root)
        own = {"n": self.n, "split": "train", "limit": self.limited}
        how = self.model.way_of_sampling(**self.options)
        return [
            replace(found, **own, protocol="; ".join(filter(None, (found.protocol, how))))
            for found in distances(generated, real)
        ]


class PointFidelity(Measurement):
    """Samples of a model against the points that it is shown, as many, by their energy distance.

    Args:
        model: of points or rows of a table.
        seed: of the samples.
        options: of the model's `sample`, as its steps.
    """

    metrics = (METRICS["energy_distance"],)

    def __init__(self, model: GenerativeModel, seed: int = 0, options: Mapping[str, Any] | None = None) -> None:
        self.model, self.seed, self.options, self.n = model, seed, dict(options or {}), 0
        self.points: list[Tensor] = []

    def update(self, batch: Batch) -> None:
        """Keep the points.

        Raises:
            DataError: there are too many.
        """
        self.points.append(batch.x)
        self.n += batch.size
        if self.n > POINTS:
            raise DataError(
                f"The energy distance takes all pairs of points, and of more than {POINTS:,} for ever: set limit to as "
                f"many, to see the first."
            )

    def compute(self) -> list[Result]:
        """Draw, and compare; in the unit of the points."""
        points = torch.cat(self.points).double()
        samples = self.model.sample(len(points), seed=self.seed, **self.options).to(points)
        how = self.model.way_of_sampling(**self.options)
        protocol = "; ".join(filter(None, (f"{len(points):,} samples", "unbiased", how)))
        value = metrics.energy_distance(samples, points)
        return [distance("energy_distance", value, protocol)]


def features_of_reference(
    images: Tensor, network: nn.Module, device: torch.device | str, root: str | Path | None = None
) -> Tensor:
    """The features (N, F) of a reference set, computed once: half of the time of a FID, which on a CPU is hours.

    They are kept under the folder of the data sets, in `inception/features/`, in a file named by a hash of the images
    and the network. Where those of the first images, computed again, are others than the file's, it is made anew.

    Args:
        images: uint8 (N, C, H, W).
        network: an `Inception`, whose `identity` tells it from other networks; without one nothing is kept.
        device: where they are computed, and where they stay.
        root: the folder of the data sets, where the network does not say in which one it is; by default ZOO_DATA or
            the user cache.
    """
    identity = getattr(network, "identity", None)
    if identity is None:
        return metrics.features_of(images.split(BATCH), network, device)
    digest = hashlib.sha256(f"{identity} {tuple(images.shape)}".encode())
    digest.update(images.cpu().contiguous().numpy())
    path = (
        (getattr(network, "root", None) or data_root(root))
        / "inception"
        / "features"
        / f"{digest.hexdigest()}.safetensors"
    )
    with contextlib.suppress(OSError, SafetensorError, KeyError):
        kept = load_file(path)["features"].to(device)
        first = metrics.features_of([images[:LEAST]], network, device)
        sound = kept.dtype == first.dtype and kept.shape == (len(images), first.shape[1])
        if sound and bool(kept.isfinite().all()) and torch.allclose(kept[:LEAST], first, rtol=0.01, atol=0.01):
            return kept
    features = metrics.features_of(images.split(BATCH), network, device)
    # A folder that cannot be written only costs time.
    with contextlib.suppress(DataError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save({"features": features.cpu().contiguous()}))
    return features


def distances(generated: Tensor, real: Tensor, seed: int = 0) -> list[Result]:
    """FID, KID, precision and recall of features (N, 2048) against others (M, 2048), each with its protocol.

    Args:
        generated: features of what is judged.
        real: features of the reference.
        seed: of the subsets of KID.

    Raises:
        DataError: there are too few.
    """
    few, most = sorted((len(generated), len(real)))
    if few < LEAST:
        raise DataError(
            f"FID, KID, precision and recall take at least {LEAST} images of each, not {len(generated)} and "
            f"{len(real)}."
        )
    protocol = (
        f"{len(generated):,} against {len(real):,} images; Inception v3 of 2015-12-05, 2048 features, bilinear as in "
        "TensorFlow 1 to 299x299"
    )
    size = min(SUBSET, few)
    mean, spread = metrics.kernel_distance(generated, real, subsets=SUBSETS, size=size, seed=seed)
    precision, recall = metrics.precision_recall(real[:MANIFOLD], generated[:MANIFOLD], k=NEIGHBOURS)
    manifold = f"{protocol}; {NEIGHBOURS} neighbours" + (f", the first {MANIFOLD:,}" if most > MANIFOLD else "")
    return [
        distance("fid", metrics.frechet_distance(generated, real), protocol),
        distance("kid", mean, f"{protocol}; {SUBSETS} subsets of {size:,}", float(spread)),
        distance("precision", precision, manifold),
        distance("recall", recall, manifold),
    ]


def distance(metric: str, value: Tensor, protocol: str, spread: float | None = None) -> Result:
    """A distance of samples, with what gives it its meaning."""
    return Result(metric_of(metric), "samples", float(value), protocol=protocol, spread=spread)
