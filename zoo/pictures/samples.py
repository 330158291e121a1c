"""The picture of a model's samples, by the kind of its data: the one place that chooses it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.model import GenerativeModel, Model
from zoo.model.asking import check_draws, draws, needed
from zoo.pictures import images as pictures
from zoo.pictures.plane import density, save, scatter, transported_grid

IMAGES, FILMS, POINTS = 16, 4, 10_000  # samples in a picture, unless it is said how many


def has_picture(model: Model, given: Iterable[str] = ()) -> bool:
    """Whether `draw` has a picture of this model: it can be sampled, and its data can be seen.

    Args:
        model: that is asked.
        given: names of options that its `sample` is handed; without any, a model that is drawn given a condition has
            no picture.
    """
    return draws(model, given) and model.spec.picture is not None


def draw(
    model: GenerativeModel, path: str | Path, *, n: int | None = None, seed: int | None = 0, **options: Any
) -> Path:
    """Write the picture of a model's samples as a PNG file.

    Images are laid out on a grid, and the frames of a film in a row. Of points of the plane there are up to three
    panels: the density, samples, and how the model's flow bends a grid of its base.

    Args:
        model: that is sampled.
        path: the PNG file to write.
        n: number of samples; by default 16 images, 4 films or 10,000 points.
        seed: of the samples.
        options: of the model's `sample`.

    Raises:
        ZooError: the model cannot be sampled, or not with these options; there is no picture of such data; or the file
            cannot be written.
    """
    path = pictures.writable(path)
    check_draws(model, options)
    if not has_picture(model, options):
        raise ZooError(
            f"{type(model).__name__} gives {model.spec.described}, of which there is no picture: in Python "
            f"`model.sample` draws them."
        )
    if model.spec.picture == "plane":
        return save(_panels(model, n or POINTS, seed, options), path)
    samples, columns = seen(model, n, seed=seed, **options)
    return pictures.save(samples, path, model.spec.levels, columns=columns)


def seen(
    model: GenerativeModel, n: int | None = None, *, seed: int | None = 0, **options: Any
) -> tuple[Tensor, int | None]:
    """Samples of images or films as images (N, C, H, W) on the CPU, and the columns of their grid."""
    film = model.spec.picture == "film"
    with torch.autocast(model.device.type, enabled=False):
        samples = model.sample(n or (FILMS if film else IMAGES), seed=seed, **options).cpu()
    return (samples.flatten(0, 1), samples.shape[1]) if film else (samples, None)


def _panels(
    model: GenerativeModel, n: int, seed: int | None, options: dict[str, Any], extent: float = 4.0
) -> list[Tensor]:
    """What is seen of [-extent, extent]^2.

    The density needs `log_prob`, the grid an attribute `flow`, a `zoo.flows.core.Flow`; what a model does not have is
    left out, and so is what it has only given a condition, of which there is one for each sample and not one for all.
    """
    panels, device = [], model.device
    with torch.no_grad(), torch.autocast(device.type, enabled=False), model.sampling_mode(cached=False):
        if hasattr(model, "log_prob") and not needed(model.log_prob):
            panels.append(density(lambda x: model.log_prob(x.to(device)), extent))
        panels.append(scatter(model.sample(n, seed=seed, **options), extent))
        if hasattr(model, "flow") and not needed(model.sample):
            panels.append(transported_grid(lambda z: model.flow.transform.inverse(z.to(device))[0], extent))
    return panels
