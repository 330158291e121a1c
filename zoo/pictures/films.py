"""Moving pictures: frames to an animated WebP file of a bounded size, for a page or a card.

Equal frames make equal files under one version of Pillow's WebP library. What does not fit is given up in this order:
exact pixels for ever coarser ones, then every other frame, then half of the width and height.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.files import write_atomically
from zoo.pictures import images as pictures

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 200_000
SECONDS, STAY = 4.0, 1.5  # of all frames, and of the last one beyond its share
QUALITIES = (None, 80, 60, 45, 30)  # of lossy pictures; None for exact ones
FEWEST, SMALLEST = 8, 64  # frames, and pixels of a side, below which nothing is given up any more


def save(frames: Tensor, path: str | Path, *, most: int = MOST_BYTES) -> Path:
    """Write frames as an animated WebP file, which begins again for ever, and return its path.

    Args:
        frames: uint8 (T, C, H, W) with values 0..255, C 1 or 3.
        path: the WebP file.
        most: bytes of the file.

    Raises:
        ZooError: these are no frames, they do not fit into so many bytes, or the file cannot be written.
    """
    path = pictures.writable(path, (".webp",))
    if frames.ndim != 4 or len(frames) < 2 or frames.shape[1] not in (1, 3) or frames.dtype != torch.uint8:
        raise ZooError(
            f"A film is made of two frames or more, uint8 of shape (T, 1 or 3, H, W); these are {frames.dtype} of "
            f"shape {tuple(frames.shape)}."
        )
    for fewer in _given_up([pictures.as_image(frame) for frame in frames.cpu()]):
        for quality in QUALITIES:
            data = _encoded(fewer, quality)
            if len(data) <= most:
                write_atomically(path, data)
                return path
    raise ZooError(f"{path.name} would be larger than {most:,} bytes, however coarse: draw fewer at once, or as a PNG.")


def _given_up(frames: list[Image]) -> Iterator[list[Image]]:
    """The frames, then fewer and then smaller ones; the first and the last are always among them."""
    while True:
        fewer = frames
        yield fewer
        while len(fewer) >= 2 * FEWEST:
            last, steps = len(fewer) - 1, len(fewer) // 2
            fewer = [fewer[round(last * k / steps)] for k in range(steps + 1)]
            yield fewer
        if min(frames[0].size) < 2 * SMALLEST:
            return
        frames = [frame.reduce(2) for frame in frames]


def _encoded(frames: list[Image], quality: int | None) -> bytes:
    share = round(1000 * SECONDS / len(frames))
    data = io.BytesIO()
    frames[0].save(
        data,
        format="WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=[*[share] * (len(frames) - 1), share + round(1000 * STAY)],
        loop=0,
        lossless=quality is None,
        quality=75 if quality is None else quality,  # of exact pixels the effort
        method=4,
    )
    return data.getvalue()
