"""Damaged tables: text and .npy files mutated where their structure is, and other things in the place of data files.

A table that a mutation made unreadable, or readable in two ways, must be refused; any other may be read or refused.
"""

from __future__ import annotations

import functools
import gzip
import os
import random
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from zoo.data import CIFAR10, MNIST, Table
from zoo.errors import ZooError

SEPARATORS = (",", ";", "\t", " ")
BAD = (
    *("", "NA", "nan", "NaN", "null", "?", "inf", "-Infinity", "1e999", "1,5", "1.234,5", "1'234", "1_000", "0x1f"),
    *("1.2.3", "--1", "1e", "e5", ".", "+", "oak", "1 2", "\u0661", "\u00bd", "1\x00", "\x1b[2J", "1\u202e2", "True"),
    *(
        "=1+1",
        "#REF!",
        "$5",
        "5%",
        "1-2",
        "2026-01-02",
        "12:30",
        "(1)",
        "1j",
        "'1'",
        "9" * 400 + "x",
        "1\x0c2",
        "\ufffd",
    ),
)
ODD = ("-0", "1e-400", "1E+5", "+.5", "5.", "007", "9" * 300, "0." + "1" * 300, " 1", "1 ", '"1"', "1e38", "3.5e38")


def cases(seed: int, n: int, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """n damaged tables; a case writes its files where it runs."""
    kinds = (_text, _text, _text, _bytes, _npy, _npy, _instead, _official)
    for i in range(n):
        rng = random.Random(f"{seed} {i}")
        kind = kinds[i % len(kinds)]
        yield kind(rng, folder / f"table-{i}")


def _read(where: Path, files: dict[str, bytes | Callable[[Path], None]], refused: bool, arguments: dict) -> None:
    """Write the files and read them as all splits of a table."""
    where.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = where / name
        if path.is_symlink() or path.exists():
            continue  # a case that is run again
        if callable(content):
            content(path)
        else:
            path.write_bytes(content)
    first, last = min(files), max(files)
    data = Table(first, last, root=str(where), batch_size=1, **arguments)
    try:
        data.setup()
    except ZooError:
        raise
    else:
        if refused:
            raise AssertionError(f"it was read, as {data.test.x.shape}, {data.test.x.flatten()[:6].tolist()}")
    for part in (data.train, data.val, data.test):
        data.spec.check(part.x)
    next(iter(data.train_dataloader()))


def _table(rng: random.Random) -> tuple[list[str] | None, list[list[str]], str]:
    """A good table: header or none, rows of fields that no other reading fits, and a separator."""
    columns, separator = rng.randint(1, 6), rng.choice(SEPARATORS)
    rows = [[f"{rng.gauss(0, 10):.3f}" for _ in range(columns)] for _ in range(rng.randint(4, 12))]
    header = [f"column {i}".replace(" ", rng.choice("_-")) for i in range(columns)] if rng.random() < 0.6 else None
    return header, rows, separator


def _joined(header: list[str] | None, rows: list[list[str]], separator: str, end: str = "\n") -> str:
    lines = [separator.join(fields) for fields in ([header] if header else []) + rows]
    return end.join([*lines, ""])


def _text(rng: random.Random, where: Path) -> tuple[str, Callable[[], None]]:
    """A table of text, of which fields, rows, the header or the separators are others."""
    header, rows, separator = _table(rng)
    what = rng.choice(
        (
            "field",
            "field",
            "odd",
            "ragged",
            "repeat",
            "headers",
            "decimal",
            "separators",
            "ends",
            "names",
            "quotes",
            "long",
        )
    )
    row, column, refused, end = rng.randrange(len(rows)), rng.randrange(len(rows[0])), False, "\n"
    text = None
    if what == "field":
        rows[row][column] = bad = rng.choice(BAD)
        # Between spaces some fields are none or several, and of a single one none is a blank line.
        refused = not (separator == " " and not bad.strip("\x0c")) and not (len(rows[0]) == 1 and not bad)
        refused = refused and not (row == 0 and header is None)
        what = f"{what} {bad[:20]!a}"
    elif what == "odd":
        rows[row][column] = rng.choice(ODD)
    elif what == "ragged":
        rows[row] = rows[row] + ["1.5"] if rng.random() < 0.5 or len(rows[0]) == 1 else rows[row][:-1]
        refused = True
    elif what == "repeat":
        header = header or [f"a{i}" for i in range(len(rows[0]))]
        rows.insert(row, list(header))
        refused = True
    elif what == "headers":
        rows.insert(0, [f"unit{i}" for i in range(len(rows[0]))])
        refused = header is not None
    elif what == "decimal":
        rows = [[field.replace(".", ",") for field in fields] for fields in rows]
        separator = rng.choice((";", "\t", " "))
        refused = True
    elif what == "separators":
        text = _joined(header, rows, separator)
        other = rng.choice([each for each in (*SEPARATORS, "|", ", ,") if each != separator])
        place = [i for i, each in enumerate(text) if each == separator]
        if place:
            i = rng.choice(place)
            text = text[:i] + other + text[i + 1 :]
    elif what == "ends":
        end = rng.choice(("\r\n", "\r", "\n\n", "\n\r\n", "\x0b", "\u2028", "\x85"))
    elif what == "names":
        header = [rng.choice(("", "1", "nan", "\x1b[31m", "a" * 5000, '"', "x", "x", "é")) for _ in rows[0]]
    elif what == "quotes":
        rows[row][column] = rng.choice(('"', '"1', '1"', '""1""', '"1"x', '"1\n2"', "'1'", '"1,5"', '"' * 501))
    else:
        many = rng.choice((10**4, 10**5))
        rows = [["1.5"] * many] * 4 if rng.random() < 0.5 else rows[:1] * many
    content = (text if text is not None else _joined(header, rows, separator, end)).encode()
    arguments = {"levels": None, "delimiter": separator if rng.random() < 0.2 else None}
    name = f"t{rng.choice(('.csv', '.tsv', '.txt', '.dat'))}"
    return f"text: {what}", functools.partial(_read, where, {name: content}, refused, arguments)


def _bytes(rng: random.Random, where: Path) -> tuple[str, Callable[[], None]]:
    """A table of text, of which bytes are others."""
    data, refused = _joined(*_table(rng)).encode(), False
    what = rng.choice(
        ("flip", "insert", "cut", "nul", "bom", "utf-16", "utf-32", "latin-1", "twice", "random", "empty")
    )
    i = rng.randrange(len(data))
    if what == "flip":
        data = data[:i] + bytes([data[i] ^ 1 << rng.randrange(8)]) + data[i + 1 :]
    elif what == "insert":
        data = data[:i] + rng.randbytes(rng.randint(1, 8)) + data[i:]
    elif what == "cut":
        data = data[:i]
    elif what == "nul":
        data, refused = data[:i] + b"\0" + data[i:], True
    elif what == "bom":
        data = rng.choice((b"\xef\xbb\xbf", b"\xef\xbb\xbf" * 2, b"\xff\xfe", b"\xfe\xff")) + data
    elif what in ("utf-16", "utf-32"):
        data, refused = data.decode().encode(what + rng.choice(("", "-le", "-be"))), True
    elif what == "latin-1":
        data, refused = "größe\n1.5\n".encode("latin-1"), True
    elif what == "twice":
        data = data + data
    elif what == "random":
        data = rng.randbytes(rng.randint(1, 2000))
    else:
        data, refused = rng.choice((b"", b"\n", b" \n\t\n", b"\xef\xbb\xbf", b"\r\r")), True
    arguments = {"levels": rng.choice((None, 2, 256, 1000))}
    return f"bytes: {what}", functools.partial(_read, where, {"t.csv": data}, refused, arguments)


def _npy(rng: random.Random, where: Path) -> tuple[str, Callable[[], None]]:
    """A .npy file, of which the header or the data are others."""
    header = {"descr": "<f8", "fortran_order": False, "shape": (6, 3)}
    data, version, magic, refused = struct.pack("<18d", *range(18)), (1, 0), b"\x93NUMPY", False
    what = rng.choice(
        ("shape", "descr", "order", "keys", "literal", "length", "version", "magic", "cut", "values", "more")
    )
    text = None
    if what == "shape":
        shapes = (
            (6,),
            (),
            (6, 3, 1),
            (3, 6),
            (2**40, 2),
            (-6, -3),
            (2**63, 2**63),
            (0, 3),
            (6, 0),
            (6.0, 3),
            (True, 3),
        )
        header["shape"] = shape = rng.choice((*shapes, "ab", None, [6, 3], (1,) * 5000))
        refused = shape not in ((6, 3), (3, 6), [6, 3], (True, 3))
    elif what == "descr":
        kinds = (
            "|O",
            "<U9",
            "<c16",
            "|V8",
            "<M8[s]",
            ">f8",
            "<f2",
            "<f16",
            "|b1",
            "<u8",
            "x",
            "",
            None,
            [("a", "<f8")],
            "<f999",
        )
        header["descr"] = rng.choice(kinds)
    elif what == "order":
        header["fortran_order"] = rng.choice((True, 1, "x", None))
    elif what == "keys":
        header = {key: value for key, value in header.items() if rng.random() < 0.5} | {"more": 1}
        refused = True
    elif what == "literal":
        text = rng.choice(
            ("(" * 2000, "{" * 500, "__import__('os').abort()", "[" * 90 + "]" * 90, "{1:" * 60, "'" * 3, "9" * 5000)
        )
        refused = True
    elif what == "values":
        data = struct.pack("<18d", *(rng.choice((float("nan"), float("inf"), 1e300, -1, 0.5, 1)) for _ in range(18)))
    elif what == "cut":
        data, refused = data[: rng.randrange(len(data))], True
    elif what == "version":
        version = (rng.randrange(256), rng.randrange(256))
    elif what == "magic":
        magic, refused = rng.choice((b"\x93NUMPX", b"PK\x03\x04..", b"\x80\x04cos\n", b"\x89HDF\r\n")), True
    elif what == "more":
        data += rng.randbytes(100)
    body = (repr(header) if text is None else text).encode() + b"\n"
    length = len(body) if what != "length" else rng.choice((0, 1, 65535, len(body) - 5, len(body) + 99))
    size = struct.pack("<H" if version[0] == 1 else "<I", length if version[0] > 1 else min(length, 65535))
    content = magic + bytes(version) + size + body + data
    arguments = {"levels": rng.choice((None, 256))}
    return f"npy: {what}", functools.partial(_read, where, {"t.npy": content}, refused, arguments)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**35)


def _bomb(path: Path) -> None:
    path.write_bytes(gzip.compress(bytes(2**26)) * 4)


INSTEAD: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "huge": _sparse,
    "packed bomb": _bomb,
    "no file": lambda path: None,
}


def _instead(rng: random.Random, where: Path) -> tuple[str, Callable[[], None]]:
    """Something else in the place of a table."""
    what, name = rng.choice(list(INSTEAD)), rng.choice(("t.csv", "t.npy", "t.CSV", "t.xlsx", "t", "t.csv.gz"))
    if rng.random() < 0.2:
        what, name = (
            "name",
            rng.choice(("\x1b[2J.csv", "a\nb.csv", "x" * 250 + ".csv", "x" * 300 + ".csv", "a\0b.csv", "")),
        )
        return f"instead: {what} {name[:20]!a}", functools.partial(_named, where, name)
    return f"instead: {what} as {name}", functools.partial(_read, where, {name: INSTEAD[what]}, True, {"levels": None})


def _named(where: Path, name: str) -> None:
    """A table of a strange name, which is not there."""
    where.mkdir(parents=True, exist_ok=True)
    Table(name, name, root=str(where), levels=None).setup()
    raise AssertionError("it was read")


def _official(rng: random.Random, where: Path) -> tuple[str, Callable[[], None]]:
    """Something else in the place of a file of MNIST or CIFAR-10."""
    cls = rng.choice((MNIST, CIFAR10, "fixed"))
    what = rng.choice((*INSTEAD, "random", "random gz"))
    return f"official: {what} for {getattr(cls, '__name__', cls)}", functools.partial(
        _replaced, where, cls, what, rng.random()
    )


def _replaced(where: Path, cls: type | str, what: str, chance: float) -> None:
    known = MNIST if cls == "fixed" else cls
    folder = where / (known.folder if cls != "fixed" else "binarized_mnist")
    folder.mkdir(parents=True, exist_ok=True)
    names = (
        list(known.sha256)
        if cls != "fixed"
        else [f"binarized_mnist_{split}.amat" for split in ("train", "valid", "test")]
    )
    for name in names:
        packed = cls != "fixed" and (chance < 0.5 or what in ("packed bomb", "random gz"))
        path = folder / (f"{name}.gz" if packed else name)
        if path.is_symlink() or path.exists():
            continue
        if what.startswith("random"):
            data = random.Random(chance).randbytes(5000)
            path.write_bytes(gzip.compress(data) if what == "random gz" else data)
        else:
            INSTEAD[what](path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (MNIST(str(where), fixed=True, download=False) if cls == "fixed" else cls(str(where), download=False)).setup()
    raise AssertionError("it was read")
