"""A picture file -> its pixels, by one rule for every picture that is read anywhere, or one sentence.

- Files are PNG, JPEG, WebP, BMP, GIF, TIFF or PPM, whatever their names end in. Of several pictures in one file, as of
  an animation, the first is read.
- Pixels are turned as the file's EXIF orientation says.
- Sixteen bits of grey are scaled: 65535 becomes 255. Of sixteen bits of a colour the upper eight are kept.
- What is transparent, by an alpha channel, a palette or one colour, is laid on white.
- Palettes are looked up, one bit is black and white, CMYK and YCbCr become RGB by their plain formulas, without colour
  profiles. Colour becomes grey by its luma (ITU-R 601), grey becomes colour by repeating it.
- Not read are numbers of a range that the file does not tell (floating point, 32-bit and 12-bit integers), inverted
  16-bit grey, the colour spaces Lab and HSV, and a transparent colour of 16 bits.
- A file is damaged where its decoder says so, also where only its end is cut off. It has at most 128 MiB, 64 megapixels
  and 32,768 pixels a side, which is looked at before anything is decoded.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import DataError, one_line, said_name, show
from zoo.files import read_regular

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
"""How names of pictures end, in lower case, where those of a folder are looked for."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What Pillow may take a file for: others, as EPS, run programs, whatever the file is called."""

MOST_BYTES = 2**27
MOST_PIXELS = 2**26
_MOST_SIDE = 2**15
_MOST_SLOW = 2**20  # pixels that a decoder written in Python reads within seconds
_BAND = 64  # rows that are converted at once
_WHITE = 255
_ORIENTATION = 0x0112
_PHOTOMETRIC = 262  # of TIFF; 0 means that white is zero
_KNOWN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "I")  # and I;16
_GREY_STEPS = {"1": 255, "L;2": 85, "L;4": 17}  # by which grey of fewer bits than eight is multiplied


def read_picture(path: str | Path, channels: int = 3, size: tuple[int, int] | None = None) -> Tensor:
    """The pixels of a picture file, as `decode` gives them.

    Raises:
        DataError: the file is absent, too large, no picture or damaged.
    """
    try:
        data = read_regular(path, MOST_BYTES)
    except FileNotFoundError:
        raise DataError(f"There is no file {said_name(str(path))}.") from None
    except (OSError, ValueError) as error:  # a path with a NUL byte
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{said_name(str(path))} cannot be read as a picture: {reason}.") from None
    return decode(data, said_name(str(path)), channels, size)


def decode(data: bytes, what: str, channels: int = 3, size: tuple[int, int] | None = None) -> Tensor:
    """The pixels of a picture, uint8 (channels, H, W) with values 0..255.

    Args:
        data: the bytes of its file.
        what: its name in sentences.
        channels: 1 for grey, 3 for red, green and blue.
        size: (H, W) to which the largest part of these proportions, from the middle, is brought: a new pixel is the
            mean over its area, exactly. None for all of it, as it is.

    Raises:
        DataError: it is no picture, damaged, too large, or of a kind that is not read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of oddities that change no pixel, and of sizes, which are looked at here
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                how = _looked_at(image)
                pixels = _pixels(_upright(image), how, channels, size)
    except DataError as error:
        raise DataError(f"{what} {error}") from None
    except UnidentifiedImageError:
        raise DataError(f"{what} cannot be read as a picture: it is none of {', '.join(FORMATS)}.") from None
    except Exception as error:  # whatever a decoder makes of a damaged file, MemoryError too
        raise DataError(f"{what} cannot be read as a picture: {one_line(error)}.") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def to_levels(pixels: Tensor, levels: int) -> Tensor:
    """Values 0..255 as the nearest of 0..levels-1 spread over them; uint8, same shape."""
    if levels == 256:
        return pixels
    return (pixels.double() * ((levels - 1) / 255)).round().to(torch.uint8)


def _looked_at(image: Image.Image) -> dict[str, Any]:
    """What the pixels of a picture, of which none is decoded yet, are; refuses what is not read."""
    from PIL import Image

    (width, height), mode = image.size, image.mode
    if width * height > MOST_PIXELS or max(width, height) > _MOST_SIDE:
        raise DataError(
            f"has {width:,} x {height:,} pixels, more than are read, {MOST_PIXELS:,} and {_MOST_SIDE:,} a side: make "
            f"it smaller."
        )
    codec, arguments = (image.tile[0][0], image.tile[0][3]) if image.tile else ("", None)
    if codec in Image.DECODERS and width * height > _MOST_SLOW:
        raise DataError(f"has {width:,} x {height:,} pixels in a kind of {image.format} read slowly: save it as PNG.")
    raw = str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)
    remedy = "save it as PNG, of 8 or 16 bits"
    if mode.startswith("I;16"):
        if raw.startswith("I;12"):
            raise DataError(f"has 12 bits, which are not read: {remedy}.")
        if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0:
            raise DataError(f"has 16 bits with white as zero, which are not read: {remedy}.")
    elif mode == "I" and image.format not in ("PNG", "PPM"):
        raise DataError(f"has 32-bit integers, whose range is not known: {remedy}.")
    elif mode == "F":
        raise DataError(f"has floating-point numbers, whose range is not known: {remedy}.")
    elif mode not in _KNOWN:
        raise DataError(f"has the pixels {mode}, which are not read: {remedy} in RGB.")
    return {"raw": raw}


def _upright(image: Image.Image) -> Image.Image:
    """The picture decoded, and turned as its EXIF orientation says."""
    from PIL import Image

    image.load()
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # what cannot be read says nothing
        orientation = None
    turn = Image.Transpose
    turns = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _pixels(image: Image.Image, how: dict[str, Any], channels: int, size: tuple[int, int] | None) -> np.ndarray:
    """uint8 (H, W, channels), of a part and a size as `decode` says."""
    width, height = image.size
    left = top = 0
    if size is not None:
        # The largest part of these proportions, at least a pixel.
        across = min(width, max(1, round(height * size[1] / size[0])))
        down = min(height, max(1, round(width * size[0] / size[1])))
        left, top, width, height = (width - across) // 2, (height - down) // 2, across, down
    key = _transparent(image, how["raw"])

    def bands() -> Iterator[np.ndarray]:
        for y in range(top, top + height, _BAND):
            box = (left, y, left + width, min(y + _BAND, top + height))
            yield _flat(image.crop(box), key, channels)

    if size in (None, (height, width)):
        return np.concatenate(list(bands()))
    return _shrunk(bands(), height, width, channels, size)


def _shrunk(bands: Iterator[np.ndarray], height: int, width: int, channels: int, size: tuple[int, int]) -> np.ndarray:
    """Means over the areas of new pixels, uint8 (*size, channels), of rows that come in bands."""
    rows = _means(bands, height, size[0], width * channels).reshape(size[0], width, channels)
    columns = rows.transpose(1, 0, 2).reshape(width, -1)
    parts = (columns[x : x + _BAND] for x in range(0, width, _BAND))
    means = _means(parts, width, size[1], size[0] * channels).reshape(size[1], size[0], channels)
    return np.floor(means.transpose(1, 0, 2) + 0.5).clip(0, 255).astype(np.uint8)


def _means(bands: Iterator[np.ndarray], old: int, new: int, numbers: int) -> np.ndarray:
    """(new, numbers): `old` lines, which come in bands, as `new` ones, each the mean over its part of them."""
    lines, start, scale = np.zeros((new, numbers)), 0, old / new
    for band in bands:
        end = start + len(band)
        first, last = start * new // old, -(-end * new // old)
        at, given = np.arange(first, last)[:, None], np.arange(start, end)
        overlap = np.minimum((at + 1) * scale, given + 1) - np.maximum(at * scale, given)
        lines[first:last] += (overlap.clip(0) / scale) @ band.reshape(len(band), numbers)
        start = end
    return lines


def _transparent(image: Image.Image, raw: str) -> Any:
    """The one colour of a picture without palette and alpha that is transparent, as its pixels hold it, or None."""
    key = image.info.get("transparency")
    if key is None or (image.mode not in ("1", "L", "I", "RGB") and not image.mode.startswith("I;16")):
        return None
    if image.mode == "RGB":
        if ";16" in raw:
            raise DataError("has a transparent colour of 16 bits, which is not read: save it with an alpha channel.")
        return np.array(key) if isinstance(key, tuple) and len(key) == 3 else None
    return key * _GREY_STEPS.get(raw, 1) if isinstance(key, int) else None


def _flat(part: Image.Image, key: Any, channels: int) -> np.ndarray:
    """The bytes of a part of a picture on white, uint8 (H, W, channels)."""
    from PIL import Image

    alpha, wanted = None, "L" if channels == 1 else "RGB"
    if part.mode.startswith("I"):
        values = np.asarray(part).astype(np.int64)
        if key is not None:
            alpha = values != key
        part = Image.fromarray(((values.clip(0, 65535) + 128) // 257).astype(np.uint8))  # 65535 is 257 times 255
    elif key is not None:
        part = part.convert("L") if part.mode == "1" else part
        alpha = np.asarray(part) != key
        alpha = alpha if alpha.ndim == 2 else alpha.any(2)
    elif part.mode == "P":
        part = part.convert("RGBA" if "transparency" in part.info else "RGB")
    elif part.mode in ("PA", "RGBa"):
        part = part.convert("RGBA")
    elif part.mode == "La":
        part = part.convert("LA")
    mask = part.getchannel("A") if part.mode in ("LA", "RGBA") else None
    if alpha is not None:
        mask = Image.fromarray(alpha.astype(np.uint8) * 255)
    part.info.pop("transparency", None)  # which has been seen to
    colours = part.convert("RGB") if part.mode in ("CMYK", "YCbCr", "RGBX") else part
    colours = colours.convert(wanted)
    if mask is not None:
        flat = Image.new(wanted, part.size, _WHITE if channels == 1 else (_WHITE,) * 3)
        flat.paste(colours, mask=mask)
        colours = flat
    return np.asarray(colours).reshape(part.size[1], part.size[0], channels)


def whole_area(size: Any) -> tuple[int, int]:
    """(H, W) of a size that is given as one side or as two.

    Raises:
        DataError: it is none.
    """
    sides = list(size) if isinstance(size, (list, tuple)) else [size, size]
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) for side in sides):
        raise DataError(f"size must be a number of pixels, or [height, width], not {show(size)}.")
    if min(sides) < 1 or max(sides) > _MOST_SIDE or math.prod(sides) > MOST_PIXELS:
        raise DataError(f"size must be of 1 to {_MOST_SIDE:,} pixels a side, not {show(size)}.")
    return sides[0], sides[1]
