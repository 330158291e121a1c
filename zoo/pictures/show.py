"""`zoo.show`: samples as one picture, for a notebook or a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.pictures.images import as_image, grid
from zoo.pictures.plane import scatter

if TYPE_CHECKING:
    from PIL.Image import Image

FEW = 32  # levels below which the brightest value there is stands for white
EXTENT = 4.0  # of a picture of points, unless they go further


def show(samples: Any, *, levels: int | None = None, columns: int | None = None) -> Image:
    """Samples as one picture: images on a grid, films a row each, points of the plane as dots.

    It is a `PIL.Image.Image`: the last line of a notebook's cell displays it, and `.save("samples.png")` writes it.

    Args:
        samples: what `sample`, `complete`, `interpolate` or `walk` of a model return: integers (N, C, H, W) with C 1 or
            3, or (C, H, W) of one image; (N, T, C, H, W) of films and interpolations; floats (N, 2) of points.
        levels: number of values of a sub-pixel, `model.spec.levels`. By default 256, or where no value reaches 32 one
            more than the largest, so that binary images and digits of 17 levels are seen as they are.
        columns: of the grid; by default as square as it can be, and of films one for each frame.

    Returns:
        The picture: grey or in colour as the images are, 320 pixels square for points.

    Raises:
        ZooError: there is no picture of such data, or values are not in 0..levels-1.

    Example:
        >>> zoo.show(zoo.load("pixelcnn-mnist").sample(16, seed=0)).save("digits.png")
    """
    try:
        x = torch.as_tensor(samples).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ZooError(f"Samples are one tensor, as `model.sample` returns it, not {type(samples).__name__}.") from None
    if x.is_floating_point():
        return as_image(_points(x))
    if x.ndim == 5:
        columns = columns or x.shape[1]
        x = x.flatten(0, 1)
    x = x[None] if x.ndim == 3 else x
    if x.is_complex() or x.ndim != 4 or x.shape[1] not in (1, 3) or not len(x):
        raise ZooError(
            f"There is no picture of {x.dtype} of shape {tuple(x.shape)}: images are integers (N, 1 or 3, H, W), "
            "points of the plane floats (N, 2)."
        )
    if columns is not None and columns < 1:
        raise ZooError(f"columns must be at least 1, not {columns}.")
    x = x.to(torch.int64)
    low, high = int(x.min()), int(x.max())
    levels = levels or (max(2, high + 1) if high < FEW else 256)
    if low < 0 or high >= levels:
        raise ZooError(f"The images have values {low}..{high}, and not 0..{levels - 1}: give levels=model.spec.levels.")
    return as_image(grid(x, levels, columns=columns))


def _points(points: Tensor) -> Tensor:
    """A square that shows all of the points but the outermost hundredth, (3, size, size)."""
    if points.ndim != 2 or points.shape[1] != 2:
        raise ZooError(
            f"There is no picture of numbers of shape {tuple(points.shape)}: points of the plane are (N, 2), and "
            "images are integers."
        )
    reach = points.abs().amax(1)
    reach = reach[reach.isfinite()].double().sort().values
    furthest = float(reach[int(0.99 * (len(reach) - 1))]) if len(reach) else 0.0
    return scatter(points, EXTENT if furthest <= EXTENT else 1.1 * furthest)
