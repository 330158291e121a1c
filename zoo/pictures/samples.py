"""The picture of a model, by the kind of its data."""

from __future__ import annotations

from pathlib import Path

import torch

from zoo.errors import ZooError
from zoo.model import GenerativeModel
from zoo.pictures import images as pictures
from zoo.pictures.plane import density, save, scatter, transported_grid


def makes_points(model: GenerativeModel) -> bool:
    """Whether the data of a model are points of the plane, which `draw` takes."""
    return tuple(model.spec.shape) == (2,) and model.spec.levels is None


def draw(
    model: GenerativeModel, path: str | Path, *, n: int = 10_000, extent: float = 4.0, seed: int | None = 0
) -> Path:
    """Write a picture of a model of points: its density, samples, and how its flow bends a grid of the base.

    The density needs `log_prob`, the grid an attribute `flow`, a `zoo.flows.core.Flow`; what a model does not have is
    left out.

    Args:
        model: of data of shape (2,).
        path: the PNG file to write.
        n: number of samples.
        extent: the panels show [-extent, extent]^2.
        seed: of the samples.

    Raises:
        ZooError: these are no points of the plane, or the file cannot be written.
    """
    path = pictures.writable(path)
    if not makes_points(model):
        raise ZooError(f"{type(model).__name__} of shape {model.spec.shape} does not make points that can be drawn.")
    panels, device = [], model.device
    with torch.no_grad(), torch.autocast(device.type, enabled=False), model.sampling_mode(cached=False):
        if hasattr(model, "log_prob"):
            panels.append(density(lambda x: model.log_prob(x.to(device)), extent))
        panels.append(scatter(model.sample(n, seed=seed), extent))
        if hasattr(model, "flow"):
            panels.append(transported_grid(lambda z: model.flow.transform.inverse(z.to(device))[0], extent))
    return save(panels, path)
