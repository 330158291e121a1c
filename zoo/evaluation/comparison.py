"""Two sets of images or of points -> the distances between them, with what they were measured by.

    zoo.distance("maf-moons", "maf-moons:test")    # draws of a checkpoint against its test split
    zoo.distance(model.sample(1000), data)         # tensors, models and data modules as well

Images are compared by FID, KID, precision and recall in Inception's features (`zoo.metrics.inception`), and by exact
W_1 in features of a scattering transform, which was trained on nothing; points by their energy distance, Wasserstein
distances and Sinkhorn divergence.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from zoo import metrics
from zoo.errors import ZooError, warn
from zoo.evaluation import fidelity
from zoo.evaluation.sets import Source, gathered, matched
from zoo.metrics.inception_network import FEATURES
from zoo.nn.devices import checked_device
from zoo.results import Result

EXACT = 2000  # points of each set for which the exact distance takes seconds
SCATTERED = 1000  # images of each set that are compared by their scattering features
SIDE = 64  # pixels of the largest images whose scattering takes a minute
UNLIKE = 10.0  # ratio of two columns' standard deviations from which on it is said


def distance(
    a: Source,
    b: Source,
    *,
    n: int | None = None,
    standardize: bool = False,
    batch_size: int = 100,
    seed: int = 0,
    device: str | torch.device | None = None,
    root: str | Path | None = None,
) -> list[Result]:
    """Measure how far apart two sets of images or of points are.

    Images by FID, KID, precision and recall, on the network of the original FID, and by W_1 of scattering features;
    points by energy distance, W_1, sliced W_2 and Sinkhorn divergence. Distances of points are in the unit of the
    points (energy distance, W_1, sliced W_2) or its square (Sinkhorn divergence).

    Args:
        a: what is judged: a folder of pictures; a table as .csv, .tsv or .npy; a checkpoint, as `zoo.load` takes it,
            which draws; CHECKPOINT:train or CHECKPOINT:test, that split of its data; a model, which draws; a data
            module, for its test split; a tensor or array of uint8 images (N, C, H, W) or of points (N, D).
        b: the reference, one of the same. A tensor of images has the levels of what it is compared with.
        n: number of images or points of each; by default all there are, and 10,000 draws.
        standardize: of points, whether each column is first divided by the reference's standard deviation, so that
            columns of different units count alike; it makes distances numbers without a unit.
        batch_size: images computed at once.
        seed: of draws, subsets and directions.
        device: "cpu", "cuda", ...; by default the GPU where there is one.
        root: folder of the data sets; by default ZOO_DATA or the user cache.

    Returns:
        The results, of the kind "samples", each with its protocol.

    Raises:
        ZooError: the two are of different kinds, sizes, levels or columns, too few, or no sets.

    Example:
        >>> zoo.distance(torch.randn(500, 2), torch.randn(500, 2) + 1)[0].value  # the energy distance
    """
    if batch_size < 1:
        raise ZooError(f"batch_size must be at least 1, not {batch_size}.")
    names = [None if isinstance(source, (str, Path)) else name for source, name in ((a, "a"), (b, "b"))]
    first, second = (
        gathered(source, name, n=n, seed=seed, device=device, root=root)
        for source, name in zip((a, b), names, strict=True)
    )
    x, y = matched(first, second)
    said = ""
    if first.kind == "points":
        wider = torch.promote_types(x.dtype, y.dtype)  # a table is read in float64, and models draw in float32
        x, y = x.to(wider), y.to(wider)
        y, x, said = _in_units(y, x, standardize)
    elif standardize:
        raise ZooError("Columns of points are standardized, and these are images: leave out standardize.")
    results = compare(x, y, batch_size=batch_size, device=device, root=root, seed=seed)
    few = f"no more images than the {FEATURES:,} features" if min(len(x), len(y)) <= FEATURES else ""
    return [
        replace(
            result,
            n=len(x),
            split=None,
            protocol="; ".join(filter(None, (result.protocol, said, few if result.metric.name == "fid" else ""))),
        )
        for result in results
    ]


def _in_units(reference: Tensor, points: Tensor, standardize: bool) -> tuple[Tensor, Tensor, str]:
    """Both in the unit in which they are compared, and what is to be said of it."""
    scales = reference.std(0)
    if standardize:
        scales = torch.where(scales > 0, scales, 1.0)
        return reference / scales, points / scales, "columns in standard deviations of the reference"
    low, high = float(scales.min()), float(scales.max())
    if high > UNLIKE * low:
        return reference, points, f"columns as they are, of standard deviations {low:.3g} to {high:.3g}"
    return reference, points, ""


def gather(
    name: Source,
    *,
    n: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    root: str | Path | None = None,
) -> Tensor:
    """A set to compare, as `zoo.evaluation.sets.gathered` finds it: uint8 images (N, C, H, W), or points (N, D)."""
    return gathered(name, n=n, seed=seed, device=device, root=root).x


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
    epsilon = metrics.default_epsilon(*first)
    entropic = f"{exact}; squared cost, epsilon {epsilon:.3g}, a twentieth of the mean cost, debiased"
    return [
        fidelity.distance("energy_distance", metrics.energy_distance(x, y), f"{protocol}; unbiased"),
        *_exact("wasserstein_1", *first, exact),
        fidelity.distance(
            "sliced_wasserstein_2", metrics.sliced_wasserstein(x, y, seed=seed), f"{protocol}; 200 directions"
        ),
        fidelity.distance("sinkhorn", metrics.sinkhorn(*first, epsilon=epsilon), entropic),
    ]


def _exact(metric: str, x: Tensor, y: Tensor, protocol: str) -> list[Result]:
    """W_1, or a warning of what it lacks: the other distances are given without it."""
    try:
        return [fidelity.distance(metric, metrics.wasserstein(x, y), protocol)]
    except ZooError as error:
        warn(f"{metric} is left out. {error}")
        return []
