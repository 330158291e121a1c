"""Images to PNG and back: levels to bytes, many images to one grid, and nothing else.

The files are written with Pillow and depend on nothing but the pixels: equal images make equal files.
"""

from __future__ import annotations

import errno
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.data.decoding import read_picture, to_levels
from zoo.errors import ZooError
from zoo.files import unwritable, write_atomically
from zoo.spec import DataSpec

if TYPE_CHECKING:
    from PIL.Image import Image

GAP = 2  # white pixels between the cells of a grid
SIDE = 64  # images smaller than this are enlarged by a whole factor, so that an 8x8 digit can be seen


def grid(images: Tensor, levels: int = 256, *, columns: int | None = None) -> Tensor:
    """Lay images out on a grid, row by row.

    Args:
        images: (N, C, H, W) integers 0..levels-1, with C 1 (grey) or 3 (red, green, blue).
        levels: number of values a pixel takes; 0 becomes black and levels-1 full brightness.
        columns: images in a row; by default the grid is as square as it can be.

    Returns:
        uint8 (C, height, width): cells of `scale(H, W)` times the size, `GAP` white pixels around each.

    Raises:
        ZooError: when these are not images.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.is_floating_point():
        raise ZooError(
            f"Only images can be drawn, integers of shape (N, 1 or 3, H, W); "
            f"these are {images.dtype} of shape {tuple(images.shape)}."
        )
    n, channels, height, width = images.shape
    if n == 0:
        raise ZooError("There is no image to draw.")
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    pixels = to_bytes(images, levels)
    factor = scale(height, width)
    pixels = pixels.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    cells = pixels.new_full((rows * columns, channels, *pixels.shape[2:]), 255)
    cells[:n] = pixels
    cells = F.pad(cells, (0, GAP, 0, GAP), value=255)
    _, _, cell_height, cell_width = cells.shape
    lattice = cells.view(rows, columns, channels, cell_height, cell_width).permute(2, 0, 3, 1, 4)
    picture = lattice.reshape(channels, rows * cell_height, columns * cell_width)
    return F.pad(picture, (GAP, 0, GAP, 0), value=255)


def scale(height: int, width: int) -> int:
    """Whole factor by which `grid` enlarges an image of this size."""
    return max(1, SIDE // max(height, width))


def to_bytes(images: Tensor, levels: int) -> Tensor:
    """Spread the levels 0..levels-1 over the bytes 0..255 of a PNG; uint8 on the CPU, same shape."""
    values = images.detach().cpu()
    if levels == 256:
        return values.to(torch.uint8)
    return (values.double() * (255 / (levels - 1))).round().to(torch.uint8)


def save(
    images: Tensor, path: str | Path, levels: int = 256, *, columns: int | None = None, palette: bool = False
) -> Path:
    """Write `grid(images, levels, columns=columns)` as a PNG file and return its path.

    Args:
        images: as `grid` takes them.
        path: the PNG file.
        levels: number of values of a sub-pixel.
        columns: of the grid.
        palette: whether the file keeps no more than 256 colours, the nearest ones: drawings need no more, and take less
            than half the bytes.

    Raises:
        ZooError: when these are not images, or the file cannot be written; what was there before stays.
    """
    from PIL import Image

    path = writable(path)
    image = as_image(grid(images, levels, columns=columns))
    if palette:
        image = image.quantize(256, dither=Image.Dither.NONE)
    data = io.BytesIO()
    image.save(data, format="PNG", optimize=palette)
    write_atomically(path, data.getvalue())
    return path


def as_image(pixels: Tensor) -> Image:
    """Bytes (1 or 3, H, W) as Pillow has them."""
    from PIL import Image

    array = pixels.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def writable(path: str | Path, endings: Sequence[str] = (".png",)) -> Path:
    """Refuse a bad path before minutes of sampling: its folder must exist, and its name end in one of `endings`."""
    path = Path(path)
    if path.suffix.lower() not in endings:
        kinds = " or ".join(ending[1:].upper().replace("WEBP", "WebP") for ending in endings)
        names = " or ".join(f"{path.stem or 'grid'}{ending}" for ending in endings)
        raise ZooError(f"Pictures are written as {kinds}; name the file {names}, not {path.name!r}.")
    if path.is_dir():
        raise ZooError(f"{path} is a folder; name a file in it.")
    if not path.parent.is_dir():
        raise ZooError(f"There is no folder {path.parent} to write {path.name} into; make it first.")
    if not os.access(path.parent, os.W_OK):
        raise unwritable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return path


def read(path: str | Path, spec: DataSpec) -> Tensor:
    """Read one image file as a batch of one, (1, *spec.shape) uint8 with values 0..spec.levels-1.

    How files are read is in `zoo.data.decoding`; the size must fit exactly.

    Raises:
        ZooError: when the file is absent, no picture, or of another size than the model's images.
    """
    if spec.kind != "image" or spec.levels is None or spec.shape[0] not in (1, 3):
        raise ZooError(f"This model takes {spec.described}, and no pictures.")
    channels, height, width = spec.shape
    picture = read_picture(path, channels)
    if picture.shape[1:] != (height, width):
        raise ZooError(
            f"{path} is {picture.shape[2]} x {picture.shape[1]} pixels; "
            f"this model's images are {width} x {height}: resize it first."
        )
    return to_levels(picture, spec.levels)[None]
