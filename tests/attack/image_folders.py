"""Damaged folders of pictures: files mutated where their structure is, strange names, layouts and things as files.

Whatever is in a folder, what can be read becomes images of its specification, and the rest is left out or refused.
"""

from __future__ import annotations

import functools
import io
import os
import random
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image
from tables import INSTEAD

from zoo.data import ImageFolder
from zoo.data.decoding import read_picture

MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "GIF": ("L", "P", "RGB"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    "PPM": ("1", "L", "RGB", "I"),
    "EPS": ("L", "RGB", "CMYK"),
    "ICO": ("RGBA",),
    "PDF": ("RGB",),
    "TGA": ("RGB",),
}
SIZES = (0, 1, 2, 7, 255, 256, 32767, 32769, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
NAMES = (
    *(
        "a b.png",
        "\x1b[2J.png",
        "a\nb.png",
        "x" * 250 + ".png",
        ".png",
        "..png",
        "é.png",
        "e\u0301.png",
        "\u202egnp.png",
    ),
    *("-rf.png", "CON.png", "a.PNG", "a.jpeg", "a.png.txt", "$(x).png", "\udcff.png", "a%n%s.png", "'\".png"),
)


def cases(seed: int, n: int, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """n damaged folders; a case writes its files where it runs."""
    kinds = (_picture, _picture, _picture, _picture, _file, _layout, _arguments)
    for i in range(n):
        rng = random.Random(f"{seed} {i}")
        yield kinds[i % len(kinds)](rng, folder / f"folder-{i}")


# -- what a case does -------------------------------------------------------------------------------------------


def _read(where: Path, files: dict[str, bytes | Callable[[Path], None]], arguments: dict) -> None:
    """Write the files, read the folder, and look at what came of it."""
    for name, content in files.items():
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or path.exists():
            continue  # a case that is run again
        if callable(content):
            content(path)
        else:
            path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = ImageFolder(str(where), **{"size": 8, "batch_size": 1, **arguments})
        data.setup()
    said = [str(each.message) for each in caught]
    if not all(each.isprintable() and len(each) < 2000 for each in said):
        raise AssertionError(f"said: {said}")
    for part in (data.train, data.val, data.test):
        data.spec.check(part.x)
        if data.spec.classes:
            data.spec.labels(part.label, len(part.x))
    next(iter(data.train_dataloader()))


def _alone(where: Path, data: bytes) -> None:
    """Read a picture by itself."""
    where.mkdir(parents=True, exist_ok=True)
    (where / "x.png").write_bytes(data)
    image = read_picture(where / "x.png", 3, (8, 8))
    if tuple(image.shape) != (3, 8, 8):
        raise AssertionError(f"it has shape {tuple(image.shape)}")


# -- pictures ----------------------------------------------------------------------------------------------------


def _encoded(rng: random.Random, form: str, mode: str) -> bytes:
    """A small picture of a format and a mode, with what else its file may hold."""
    width, height = rng.randint(1, 24), rng.randint(1, 24)
    image = Image.frombytes("RGB", (width, height), rng.randbytes(3 * width * height))
    if mode == "I;16":
        image = Image.frombytes("I;16", (width, height), rng.randbytes(2 * width * height))
    elif mode == "LAB":
        image = Image.frombytes("LAB", (width, height), rng.randbytes(3 * width * height))
    elif mode in ("LA", "I", "F"):
        image = image.convert("L").convert(mode)
    elif mode != "RGB":
        image = image.convert(mode)
    options: dict = {}
    if form in ("PNG", "JPEG", "WEBP", "TIFF") and rng.random() < 0.3:
        exif = Image.Exif()
        exif[0x0112] = rng.choice((1, 3, 6, 8) if form == "TIFF" else (1, 3, 6, 8, 0, 9, 65535))
        options["exif"] = exif
    if form == "PNG" and mode in ("L", "P", "RGB", "1") and rng.random() < 0.5:
        options["transparency"] = (
            (1, 2, 3) if mode == "RGB" else rng.choice((0, 1)) if mode != "P" else rng.randbytes(5)
        )
    if form == "GIF" and rng.random() < 0.5:
        options |= {"save_all": True, "append_images": [image.copy() for _ in range(3)]}
    if form == "TIFF" and mode in ("L", "RGB") and rng.random() < 0.5:
        options["compression"] = rng.choice(("tiff_lzw", "tiff_adobe_deflate", "packbits"))
    if form == "JPEG":
        options["progressive"] = rng.random() < 0.5
    if form == "ICO":
        image, options["sizes"] = image.resize((16, 16)), [(16, 16)]
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _picture(rng: random.Random, where: Path) -> tuple[str, Callable[[], None]]:
    """A damaged picture, by itself or among good ones."""
    form = rng.choice(list(MODES))
    mode = rng.choice(MODES[form])
    data = _encoded(rng, form, mode)
    structure = {"PNG": _png, "JPEG": _jpeg, "TIFF": _tiff, "BMP": _header, "GIF": _header, "WEBP": _riff, "PPM": _ppm}
    damage = rng.choice(("whole", "flips", "cut", "spliced", *["structure"] * 6))
    if damage == "structure" and form in structure:
        data = structure[form](rng, data)
    elif damage == "flips":
        data = bytearray(data)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif damage == "cut":
        data = data[: rng.randrange(len(data))]
    elif damage == "spliced":
        i, j = sorted(rng.randrange(len(data)) for _ in range(2))
        data = rng.choice((data[:i] + data[j:], data[:j] + data[i:], data[:i] + rng.randbytes(j - i) + data[j:]))
    what = f"picture: {form} {mode}, {damage}"
    if rng.random() < 0.5:
        return what, functools.partial(_alone, where, bytes(data))
    files = {f"{i}.png": _encoded(rng, "PNG", "RGB") for i in range(4)} | {"x.png": bytes(data)}
    return what, functools.partial(_read, where, files, {"channels": rng.choice((1, 3))})


def _png(rng: random.Random, data: bytes) -> bytes:
    """Chunks left out, doubled, put elsewhere, of other lengths and contents, with right checksums or wrong ones."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append([data[place + 4 : place + 8], data[place + 8 : place + 8 + length]])
        place += 12 + length
    i = rng.randrange(len(chunks))
    bomb = zlib.compress(bytes(2**24))
    what = rng.choice(
        ("drop", "double", "swap", "header", "header", "header", "content", "idat", "new", "length", "crc")
    )
    if what == "drop":
        del chunks[i]
    elif what == "double":
        chunks.insert(i, chunks[i])
    elif what == "swap":
        j = rng.randrange(len(chunks))
        chunks[i], chunks[j] = chunks[j], chunks[i]
    elif what == "header":
        header = list(struct.unpack(">IIBBBBB", chunks[0][1]))
        k = rng.randrange(7)
        header[k] = rng.choice(SIZES) if k < 2 else rng.choice((0, 1, 2, 3, 4, 6, 7, 8, 16, 255))
        chunks[0][1] = struct.pack(">IIBBBBB", *header)
    elif what == "content":
        chunks[i][1] = rng.randbytes(rng.choice((0, 1, 3, len(chunks[i][1]), 1000)))
    elif what == "idat":
        for each in chunks:
            if each[0] == b"IDAT":
                each[1] = rng.choice((b"", bomb, zlib.compress(b""), zlib.compress(bytes([9]) * 5000), each[1][:-3]))
    elif what == "new":
        kind, content = rng.choice(
            (
                (b"zTXt", b"key\0\0" + bomb),
                (b"iTXt", b"key\0\1\0\0\0" + bomb),
                (b"iCCP", b"name\0\0" + bomb),
                (b"tRNS", rng.randbytes(rng.randint(0, 300))),
                (b"PLTE", rng.randbytes(rng.randint(0, 800))),
                (b"gAMA", b""),
                (b"cHRM", b"\0"),
                (b"pHYs", b""),
                (b"eXIf", rng.randbytes(40)),
                (b"eXIf", b"MM\0\x2a\xff\xff\xff\xff"),
                (b"acTL", struct.pack(">II", 2**31, 0)),
                (b"fcTL", rng.randbytes(26)),
                (b"fdAT", b""),
                (rng.randbytes(4), rng.randbytes(20)),
            )
        )
        chunks.insert(rng.randrange(len(chunks)), [kind, content])
    out = [data[:8]]
    for k, (kind, content) in enumerate(chunks):
        length = len(content) if what != "length" or k != i else rng.choice(SIZES) % 2**32
        crc = zlib.crc32(kind + content) ^ (what == "crc" and k == i)
        out.append(struct.pack(">I", length) + kind + content + struct.pack(">I", crc))
    return b"".join(out)


def _jpeg(rng: random.Random, data: bytes) -> bytes:
    """Segments left out, doubled, of other lengths and contents."""
    data = bytearray(data)
    segments = [found.start() for found in re.finditer(rb"\xff[\xc0-\xfe]", bytes(data[: data.find(b"\xff\xda") + 12]))]
    i = rng.choice(segments[1:] or segments)
    what = rng.choice(("length", "size", "content", "marker", "exif", "double"))
    if what == "length":
        data[i + 2 : i + 4] = struct.pack(">H", rng.choice((0, 1, 2, 3, 65535)))
    elif what == "size":
        place = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        data[place + 5 : place + 9] = struct.pack(">HH", *(rng.choice(SIZES) % 65536 for _ in range(2)))
    elif what == "content":
        data[i + 4 : i + 12] = rng.randbytes(8)
    elif what == "marker":
        data[i + 1] = rng.randrange(0xC0, 0xFF)
    elif what == "exif":
        tiff = rng.choice(
            (b"MM\0\x2a\0\0\0\x08" + rng.randbytes(50), b"II\x2a\0\xff\xff\xff\xff", b"", rng.randbytes(30))
        )
        body = b"Exif\0\0" + tiff
        data[2:2] = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    else:
        data[i:i] = data[i : i + 2 + int.from_bytes(data[i + 2 : i + 4], "big")]
    return bytes(data)


def _tiff(rng: random.Random, data: bytes) -> bytes:
    """Tags of other kinds, types, counts and values, and directories that lead elsewhere."""
    data = bytearray(data)
    order = "<" if data[:2] == b"II" else ">"
    (place,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack(order + "H", data[place : place + 2])
    entry = place + 2 + 12 * rng.randrange(max(1, count))
    what = rng.choice(("tag", "type", "count", "value", "value", "value", "next", "entries"))
    if what == "tag":
        data[entry : entry + 2] = struct.pack(
            order + "H", rng.choice((254, 256, 257, 258, 259, 262, 273, 277, 278, 339))
        )
    elif what == "type":
        data[entry + 2 : entry + 4] = struct.pack(order + "H", rng.choice((*range(20), 65535)))
    elif what == "count":
        data[entry + 4 : entry + 8] = struct.pack(order + "I", rng.choice(SIZES))
    elif what == "value":
        data[entry + 8 : entry + 12] = struct.pack(order + "I", rng.choice(SIZES))
    elif what == "next":
        data[4:8] = struct.pack(order + "I", rng.choice((0, 1, 4, place + 1, len(data), 2**32 - 1)))
    else:
        data[place : place + 2] = struct.pack(order + "H", rng.choice((0, 1, count + 1, 65535)))
    return bytes(data)


def _header(rng: random.Random, data: bytes) -> bytes:
    """Numbers of the first bytes, where sizes, depths and offsets are, are others."""
    data, i = bytearray(data), rng.randrange(2, min(54, len(data) - 4))
    width = rng.choice((1, 2, 4))
    data[i : i + width] = struct.pack("<Q", rng.choice(SIZES))[:width]
    return bytes(data)


def _riff(rng: random.Random, data: bytes) -> bytes:
    """Chunks of WebP of other names and lengths, and other sizes of the picture."""
    data, i = bytearray(data), rng.choice((4, 8, 12, 16, 20, 21, 23, 24, 26, 27, 28))
    data[i : i + 4] = rng.choice((struct.pack("<I", rng.choice(SIZES)), b"VP8X", b"VP8L", b"VP8 ", b"ANIM", b"ALPH"))
    return bytes(data)


def _ppm(rng: random.Random, data: bytes) -> bytes:
    """A head with other numbers, or comments without an end."""
    kind = rng.choice((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7", b"Pf", b"P0"))
    numbers = [str(rng.choice((*SIZES, 3, 3, 3, "x", "-1", "1" * 400))).encode() for _ in range(3)]
    end = rng.choice((b"\n", b" ", b"#" * 50, b"\n#" + b"c" * 10**5 + b"\n", b""))
    return kind + b" " + b" ".join(numbers) + end + data[rng.randrange(len(data)) :]


# -- files, layouts, arguments -----------------------------------------------------------------------------------


def _good(rng: random.Random, n: int, inside: str = "") -> dict[str, bytes | Callable[[Path], None]]:
    return {f"{inside}{i}.png": _encoded(rng, "PNG", "RGB") for i in range(n)}


def _file(rng: random.Random, where: Path) -> tuple[str, Callable[[], None]]:
    """Something else in the place of a picture, or a strange name."""
    files: dict[str, bytes | Callable[[Path], None]] = _good(rng, 4)
    if rng.random() < 0.5:
        what = rng.choice(list(INSTEAD))
        files["x.png"] = INSTEAD[what]
    else:
        what = rng.choice(NAMES)
        place = rng.choice(("", "", "a/"))
        files[os.fsdecode(os.fsencode(place + what))] = _encoded(rng, "PNG", "L")
        what = ascii(what[:20])
    return f"file: {what}", functools.partial(_read, where, files, {})


def _layout(rng: random.Random, where: Path) -> tuple[str, Callable[[], None]]:
    """Folders in any order: of splits, of classes, in each other, empty, with strange names, or the same twice."""
    names = (
        "train",
        "test",
        "val",
        "validation",
        "Train",
        "cat",
        "dog",
        "\x1b[31mred",
        "é",
        "e\u0301",
        "x" * 200,
        ".hidden",
    )
    files: dict[str, bytes | Callable[[Path], None]] = {}
    for _ in range(rng.randint(1, 5)):
        inside = "".join(f"{rng.choice(names)}/" for _ in range(rng.choice((0, 1, 1, 2, 2, 3))))
        files |= _good(rng, rng.choice((1, 3, 6)), inside)
    if rng.random() < 0.3:
        files[f"{rng.choice(names)}/loop"] = lambda path: path.symlink_to("..")
    if rng.random() < 0.2:
        files = {}
    tops = sorted({name.partition("/")[0] for name in files})
    return f"layout: {ascii(tops)[:60]}", functools.partial(_read, where, files, {})


def _arguments(rng: random.Random, where: Path) -> tuple[str, Callable[[], None]]:
    """Arguments that are none."""
    given = {
        "size": (0, -1, 1, [8], [8, 4], [1, 10**6], 10**9, 2**64, "8", None, 2.5, True, [], {}),
        "channels": (0, 1, 2, 3, 4, "3", None, True),
        "levels": (0, 1, 2, 256, 257, 2**31, "2", None, 2.0),
        "held_out": (0, 0.5, 0.49, 1e-300, float("nan"), -1, 2000, "x", None),
        "class_names": (
            [],
            ["a"],
            ["a", "b", "c"],
            ["b", "a"],
            ["a", "a"],
            ["\x1b[2J", "b"],
            ["a", 3],
            ["a", None],
            "ab",
            5,
        ),
    }
    name = rng.choice(list(given))
    value = rng.choice(given[name])
    files = {**_good(rng, 4, "a/"), **_good(rng, 4, "b/")}
    return f"arguments: {name}={ascii(value)[:40]}", functools.partial(_read, where, files, {name: value})
