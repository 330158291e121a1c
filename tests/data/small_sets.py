"""MNIST, CIFAR-10 and the anime faces made small: the same file layouts, a few random images, their own checksums."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from zoo.data import CIFAR10, MNIST, AnimeFaces

COUNTS = {"train": 30, "t10k": 20}
ROWS = 8
FACES = {"train": 12, "test": 8}


def mnist_files() -> dict[str, bytes]:
    """Return the four IDX files, by name."""
    random = np.random.default_rng(0)
    files = {}
    for part, n in COUNTS.items():
        images = random.integers(0, 256, (n, 28, 28), np.uint8)
        sizes = n.to_bytes(4, "big")
        header = bytes([0, 0, 8, 3]) + sizes + (28).to_bytes(4, "big") * 2
        files[f"{part}-images-idx3-ubyte"] = header + images.tobytes()
        labels = random.integers(0, 10, n, np.uint8)
        files[f"{part}-labels-idx1-ubyte"] = bytes([0, 0, 8, 1]) + sizes + labels.tobytes()
    return files


def cifar_files() -> dict[str, bytes]:
    """Return the six binary files, by name."""
    random = np.random.default_rng(1)
    rows = {name: random.integers(0, 256, (ROWS, 3073), np.uint8) for name in CIFAR10.sha256}
    for table in rows.values():
        table[:, 0] %= 10
    return {name: table.tobytes() for name, table in rows.items()}


def webp(pixels: np.ndarray) -> bytes:
    """Return the file of a picture, uint8 (H, W, 3), which holds just these pixels."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "WEBP", lossless=True)
    return out.getvalue()


def face_files() -> dict[str, bytes]:
    """Return the numbered pictures, by name."""
    random = np.random.default_rng(2)
    # Of large pixels, as noise of small ones takes a coder its time.
    faces = random.integers(0, 256, (sum(FACES.values()), 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    return {f"{number}.webp": webp(face) for number, face in enumerate(faces)}


MNIST_FILES, CIFAR_FILES, FACE_FILES = mnist_files(), cifar_files(), face_files()


class SmallMNIST(MNIST):
    """MNIST with 30 + 20 images; `servers` are its mirrors."""

    counts: ClassVar = COUNTS
    sha256: ClassVar = {name: hashlib.sha256(data).hexdigest() for name, data in MNIST_FILES.items()}
    fixed_counts: ClassVar = {"train": 5, "valid": 2, "test": 3}
    servers: ClassVar[list[str]] = []  # a test gives an instance its own

    def sources(self):
        packed = {name: pack(data) for name, data in MNIST_FILES.items()}
        return [(name, [f"{server}/{name}.gz" for server in self.servers], md5(packed[name])) for name in packed]


class SmallCIFAR10(CIFAR10):
    """CIFAR-10 with 8 images a file."""

    rows = ROWS
    sha256: ClassVar = {name: hashlib.sha256(data).hexdigest() for name, data in CIFAR_FILES.items()}


class SmallAnimeFaces(AnimeFaces):
    """12 + 8 faces."""

    counts: ClassVar = FACES
    sha256: ClassVar = {
        split: hashlib.sha256(b"".join(list(FACE_FILES.values())[slice(*numbers)])).hexdigest()
        for split, numbers in {"train": (0, FACES["train"]), "test": (FACES["train"], None)}.items()
    }


def pack(data: bytes) -> bytes:
    """Compress, the same each time."""
    return gzip.compress(data, mtime=0)


def md5(data: bytes) -> str:
    """Return the md5 in hex."""
    return hashlib.md5(data).hexdigest()


def archive(files: dict[str, bytes]) -> bytes:
    """Return a tar.gz like CIFAR-10's."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{CIFAR10.folder}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write `files` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
