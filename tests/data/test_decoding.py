"""Picture files become pixels by one rule, or one sentence."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from zoo.data.decoding import decode, read_picture, to_levels, whole_area
from zoo.errors import DataError
from zoo.evaluation.comparison import gather
from zoo.pictures import images as pictures
from zoo.spec import DataSpec

RANDOM = np.random.RandomState(0).randint(0, 256, (6, 4, 3)).astype(np.uint8)


def encoded(image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG written by the standard, of uncompressed rows that begin with their filter."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def values(data: bytes, channels: int = 1) -> list:
    return decode(data, "it", channels).tolist()


# -- modes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_are_scaled_and_not_cut_off(form):
    grey = np.array([[0, 128, 129, 257, 32768, 65279, 65535]], np.uint16)
    assert values(encoded(grey, form)) == [[[0, 0, 1, 1, 128, 254, 255]]]
    assert values(encoded(grey, form), 3) == [[[0, 0, 1, 1, 128, 254, 255]]] * 3


def test_sixteen_bits_of_grey_as_ppm():
    assert values(b"P5 3 1 65535\n" + struct.pack(">3H", 0, 32768, 65535)) == [[[0, 128, 255]]]


def test_grey_of_few_bits_spans_black_to_white():
    assert values(png(4, 1, 1, 0, b"\0\x50")) == [[[0, 255, 0, 255]]]
    assert values(png(4, 1, 2, 0, b"\0\x1b")) == [[[0, 85, 170, 255]]]
    assert values(png(2, 1, 4, 0, b"\0\x1f")) == [[[17, 255]]]


def test_alpha_is_laid_on_white():
    la = Image.new("LA", (3, 1))
    for i, alpha in enumerate((0, 51, 255)):
        la.putpixel((i, 0), (100, alpha))
    assert values(encoded(la)) == [[[255, 224, 100]]]  # 255 - (255 - 100) * alpha / 255
    rgba = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    rgba.putpixel((1, 0), (10, 20, 30, 255))
    for form in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True, "exact": True} if form == "WEBP" else {}
        assert values(encoded(rgba, form, **options), 3) == [[[255, 10]], [[255, 20]], [[255, 30]]]


def test_a_palette_is_looked_up_and_what_is_transparent_in_it_is_white():
    palette = Image.new("P", (3, 1))
    palette.putpalette([1, 2, 3, 200, 100, 50, 9, 9, 9])
    palette.putdata([0, 1, 2])
    assert values(encoded(palette), 3) == [[[1, 200, 9]], [[2, 100, 9]], [[3, 50, 9]]]
    for form in ("PNG", "GIF"):
        assert values(encoded(palette, form, transparency=1), 3) == [[[1, 255, 9]], [[2, 255, 9]], [[3, 255, 9]]]
    half = encoded(palette, transparency=b"\xff\x00\x33")
    assert values(half, 3)[0] == [[1, 255, 206]]  # 255 - (255 - 9) / 5


@pytest.mark.parametrize(
    ("bits", "colour", "rows", "key", "grey"),
    [
        (8, 0, b"\0\x05\x06", b"\0\x06", [5, 255]),
        (4, 0, b"\0\x56", b"\0\x05", [255, 102]),
        (1, 0, b"\0\x40", b"\0\x00", [255, 255]),
        (1, 0, b"\0\x40", b"\0\x01", [0, 255]),
        (16, 0, b"\0\x01\x01\x01\x02", b"\x01\x02", [1, 255]),
        (8, 2, b"\0\x05\x05\x05\x05\x05\x06", b"\0\x05\0\x05\0\x06", [5, 255]),
    ],
)
def test_one_colour_that_is_transparent_is_white(bits, colour, rows, key, grey):
    assert values(png(2, 1, bits, colour, rows, chunk(b"tRNS", key))) == [[grey]]


def test_cmyk_and_ycbcr_become_rgb():
    assert values(encoded(Image.new("CMYK", (1, 1), (0, 255, 51, 0)), "TIFF"), 3) == [[[255]], [[0]], [[204]]]
    grey = decode(encoded(Image.new("YCbCr", (8, 8), (77, 128, 128)), "JPEG", quality=100), "it", 3)
    assert (grey.float() - 77).abs().max() <= 1


def test_colour_becomes_grey_by_its_luma():
    colours = np.eye(3, dtype=np.uint8)[None] * 255
    assert values(encoded(colours)) == [[[76, 150, 29]]]  # 0.299, 0.587 and 0.114 of 255


def test_the_first_picture_of_several_is_read():
    frames = [Image.new("L", (2, 2), value) for value in (9, 200)]
    for form in ("GIF", "PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if form == "WEBP" else {}
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
        assert values(data) == [[[9, 9], [9, 9]]]


@pytest.mark.parametrize(
    ("image", "form", "complaint"),
    [
        (Image.new("F", (2, 2)), "TIFF", "has floating-point numbers, whose range is not known"),
        (Image.new("I", (2, 2)), "TIFF", "has 32-bit integers, whose range is not known"),
        (Image.new("LAB", (2, 2)), "TIFF", "has the pixels LAB, which are not read"),
        (Image.new("RGB", (2, 2)), "EPS", "cannot be read as a picture: it is none of PNG, JPEG"),
        (Image.new("RGB", (2, 2)), "ICO", "cannot be read as a picture: it is none of PNG, JPEG"),
    ],
)
def test_what_is_not_read_is_a_sentence(image, form, complaint):
    with pytest.raises(DataError, match=complaint) as error:
        decode(encoded(image, form), "x.png")
    assert str(error.value).startswith("x.png ")


def test_a_transparent_colour_of_sixteen_bits_is_refused():
    key = chunk(b"tRNS", bytes(6))
    with pytest.raises(DataError, match="transparent colour of 16 bits"):
        decode(png(1, 1, 16, 2, bytes(7), key), "it")


# -- orientation and size ------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for form in ("PNG", "TIFF"):
        data = encoded(RANDOM, form, exif=exif)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert torch.equal(decode(data, "it"), torch.from_numpy(np.array(upright)).permute(2, 0, 1))


def area_mean(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """By definition: each old pixel repeated as often as new ones lie on a side, and blocks averaged."""
    fine = x.astype(float).repeat(size[0], 0).repeat(size[1], 1)
    return fine.reshape(size[0], x.shape[0], size[1], x.shape[1], -1).mean((1, 3))


@pytest.mark.parametrize(
    ("shape", "size"), [((6, 9), (4, 6)), ((200, 75), (8, 3)), ((5, 5), (7, 7)), ((70, 70), (3, 3))]
)
def test_a_new_pixel_is_the_mean_over_its_area(shape, size):
    x = np.random.RandomState(1).randint(0, 256, (*shape, 3)).astype(np.uint8)
    means = decode(encoded(x), "it", 3, size).permute(1, 2, 0).numpy()
    assert np.abs(means - area_mean(x, size)).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(("shape", "box"), [((6, 11), (0, 2, 6, 8)), ((11, 6), (2, 0, 8, 6)), ((6, 6), (0, 0, 6, 6))])
def test_the_middle_is_taken(shape, box):
    x = np.random.RandomState(1).randint(0, 256, (*shape, 3)).astype(np.uint8)
    top, left, bottom, right = box
    expected = torch.from_numpy(x[top:bottom, left:right].copy()).permute(2, 0, 1)
    assert torch.equal(decode(encoded(x), "it", 3, (6, 6)), expected)
    assert decode(encoded(x), "it", 3, (2, 4)).shape == (3, 2, 4)


def test_a_line_becomes_a_square():
    assert values(encoded(np.full((1, 300), 7, np.uint8))) == [[[7] * 300]]
    assert decode(encoded(np.full((1, 300), 7, np.uint8)), "it", 1, (2, 2)).tolist() == [[[7, 7], [7, 7]]]


@pytest.mark.parametrize("size", [0, -1, 2.5, "8", [8], [8, 8, 8], True, 2**20])
def test_sizes_that_are_none(size):
    with pytest.raises(DataError, match="size must be"):
        whole_area(size)


def test_levels_are_spread_over_the_bytes():
    assert to_levels(torch.tensor([0, 127, 128, 255], dtype=torch.uint8), 2).tolist() == [0, 0, 1, 1]


# -- damaged and hostile files -------------------------------------------------------------------------------


def test_what_is_cut_off_is_refused():
    for form in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM", "WEBP"):
        data = encoded(np.random.RandomState(2).randint(0, 256, (40, 40, 3)).astype(np.uint8), form)
        with pytest.raises(DataError, match="cannot be read as a picture"):
            decode(data[: len(data) // 2], "it")


@pytest.mark.parametrize(
    "data",
    [
        png(60_000, 60_000, 8, 2, b""),
        png(2**31 - 1, 1, 8, 0, b""),
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 40_000, 1_000, 1, 8, 1, 0, 0, 0, 0, 0),
        b"P2 4000 4000 255\n" + b"1 " * 100,
        b"P6 9000 9000 255\n" + b"1 " * 100,
    ],
    ids=["png", "wide", "bmp", "text", "ppm"],
)
def test_a_bomb_is_refused_before_it_is_decoded(data):
    with pytest.raises(DataError, match="pixels"):
        decode(data, "it")


def test_a_pipe_or_a_large_file_in_a_pictures_place_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png cannot be read as a picture: it is no regular file"):
        read_picture(tmp_path / "pipe.png")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(DataError, match="its 1,099,511,627,776 bytes are more than"):
        read_picture(tmp_path / "large.png")
    with pytest.raises(DataError, match="There is no file"):
        read_picture(tmp_path / "absent.png")


def test_names_are_said_without_what_moves_the_cursor(tmp_path):
    with pytest.raises(DataError) as error:
        read_picture(tmp_path / ("\x1b[2J\n" + "x" * 200))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 210


# -- everybody reads by it -----------------------------------------------------------------------------------


def test_completions_and_distances_read_by_the_same_rule(tmp_path):
    grey = np.array([[0, 32768], [65535, 257]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    expected = torch.tensor([[[0, 128], [255, 1]]], dtype=torch.uint8)
    assert torch.equal(pictures.read(tmp_path / "a.png", DataSpec((1, 2, 2), 256))[0], expected)
    assert torch.equal(gather(tmp_path)[0], expected.expand(3, 2, 2))
    (tmp_path / "b.png").write_bytes(encoded(Image.new("RGB", (2, 2)), "EPS"))
    with pytest.raises(DataError, match=r"b\.png cannot be read as a picture: it is none of"):
        gather(tmp_path)
