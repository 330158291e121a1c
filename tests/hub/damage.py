"""Tools to damage a checkpoint folder with care, so that the deeper checks are reached."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def write_config(folder: Path, config: object) -> None:
    """Write without any check, unlike `zoo.hub.write_config`."""
    (folder / "config.json").write_text(json.dumps(config))


def rehash(folder: Path) -> None:
    """Make the SHA-256 in config.json those of the files."""
    config = read_config(folder)
    for name in config["weights"]["sha256"]:
        if (folder / name).exists():
            config["weights"]["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    write_config(folder, config)


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and buffer of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: object, buffer: bytes, length: int | None = None) -> bytes:
    """A safetensors file of any header, with any header length."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", (len(text) if length is None else length) % 2**64) + text + buffer
