"""The way from noise to data, or back, as one picture: a strip of its states in a PNG, or a film of them in a WebP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.model import Model
from zoo.pictures import films, plane
from zoo.pictures import images as pictures

STILLS, FRAMES = {"grid": 8, "plane": 5}, 32  # states in a strip and in a film, unless it is said how many
IMAGES, POINTS, MOVING = 4, 5_000, 2_000  # data: images, points of a strip and of a film
NOT_BY_STEPS = "does not draw step by step from noise, and so has no trace"
ONE_WAY = "has no forward process, from data to noise"
SIZE = 240  # pixels of a panel of points


def draw(
    model: Model,
    path: str | Path,
    *,
    n: int | None = None,
    frames: int | None = None,
    seed: int | None = 0,
    **options: Any,
) -> Path:
    """Write the picture of the states through which a model goes as it draws (its `trace`).

    In a strip, images have a row each. Points of the plane have a panel for each state, from left to right, and below
    it, where the model has a `drift`, the field of that at the same time.

    Args:
        model: that is sampled.
        path: the PNG file of a strip, or the WebP file of a film.
        n: number of data; by default 4 images, and 5,000 points or 2,000 in a film.
        frames: number of states; by default 8 of images, 5 of points, and 32 in a film.
        seed: of the samples.
        options: of the model's `trace`.

    Raises:
        ZooError: the model has no trace, or none with these options; there is no picture of such data; or the file
            cannot be written.
    """
    path = writable(path)
    check(model, "trace", NOT_BY_STEPS)
    film, frames = _is_film(path), frames or _usual_frames(model, path)
    with torch.autocast(model.device.type, enabled=False):
        states = model.trace(n or usual(model, path), frames=frames, seed=seed, **options).cpu()
    if film or not hasattr(model, "drift"):
        return save(states, path, model.spec.levels)
    label = options.get("label")
    given = {"label": label} if isinstance(label, (int, str)) else {}
    times = torch.linspace(1, 0, frames).tolist()
    below = [lambda x, t=t: model.drift(x.to(model.device), t, **given) for t in times]
    return save(states, path, model.spec.levels, below)


def draw_forward(model: Model, x: Tensor, path: str | Path, *, frames: int | None = None, seed: int | None = 0) -> Path:
    """Write the picture of the way of data to noise (the model's `diffuse`), from the left to the right.

    Args:
        model: whose forward process it is.
        x: data, (N, *shape).
        path: the PNG file of a strip, or the WebP file of a film.
        frames: number of states, by default as many.
        seed: of the noise.

    Raises:
        ZooError: the model has no forward process, there is no picture of such data, or the file cannot be written.
    """
    path = writable(path)
    check(model, "diffuse", ONE_WAY)
    times = torch.linspace(0, 1, frames or _usual_frames(model, path))
    return save(model.diffuse(x, times, seed=seed).cpu(), path, model.spec.levels)


def save(
    states: Tensor,
    path: str | Path,
    levels: int | None = None,
    below: list[Callable[[Tensor], Tensor]] | None = None,
) -> Path:
    """Write states on the way of data, which come as `trace` and `diffuse` return them, and return the file's path.

    Args:
        states: (frames, n, C, H, W) of images, or (frames, n, 2) of points.
        path: the PNG file of a strip, or the WebP file of a film.
        levels: of images.
        below: of points, fields to draw over each of the panels, in a second row.
    """
    if states.ndim == 5 and _is_film(path):
        return films.save(torch.stack([pictures.grid(state, levels or 256) for state in states]), path)
    if states.ndim == 5:
        return pictures.save(states.transpose(0, 1).flatten(0, 1), path, levels or 256, columns=len(states))
    panels = [plane.scatter(state, size=SIZE) for state in states]
    if _is_film(path):
        return films.save(torch.stack(panels), path)
    fields = [plane.arrows(field, size=SIZE, behind=panel) for field, panel in zip(below or (), panels, strict=False)]
    return pictures.save(torch.stack([*panels, *fields]), path, columns=len(panels), palette=True)


def writable(path: str | Path) -> Path:
    """The path of a strip or of a film, unless it cannot be written."""
    return pictures.writable(path, (".png", ".webp"))


def check(model: Model, verb: str, lacking: str) -> None:
    """Refuse a model that has no such verb, or whose data are not seen."""
    if not hasattr(model, verb):
        raise ZooError(f"{type(model).__name__} {lacking}.")
    if model.spec.picture not in ("grid", "plane"):
        raise ZooError(f"{type(model).__name__} gives {model.spec.described}, of whose way there is no picture.")


def usual(model: Model, path: str | Path) -> int:
    """Data in a picture, where nobody says how many."""
    return IMAGES if model.spec.picture == "grid" else MOVING if _is_film(path) else POINTS


def _usual_frames(model: Model, path: str | Path) -> int:
    return FRAMES if _is_film(path) else STILLS[model.spec.picture]


def _is_film(path: str | Path) -> bool:
    return Path(path).suffix.lower() == ".webp"
