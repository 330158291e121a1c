"""A loaded model in a notebook: what it is, what it reached and what it draws, in a few lines of HTML.

All of it is text of a config.json that may be a stranger's: it is escaped, and nothing in it is run or fetched.
"""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from zoo.errors import ZooError, plain
from zoo.hub.card import PICTURE
from zoo.hub.config import read_config, title_of
from zoo.hub.reading import PNG, read_bytes
from zoo.hub.tables import family, last_name, size
from zoo.references import headline, reference_of

MOST_BYTES = 2**21  # of a picture; larger ones are left out
MOST_PIXELS = 2**24  # of which a few kilobytes can hold a thousand times more, for the reader's browser to unpack


def page(folder: Path, name: str) -> str | None:
    """HTML of a checkpoint folder that was loaded by a name; None where the folder is gone."""
    try:
        config = read_config(folder)
    except ZooError:
        return None
    weights, result, reference = config["weights"], headline(config), reference_of(config)
    lines = [f"{last_name(config['class_path'])}, {family(config)}"]
    if config.get("data"):
        lines[0] += f", trained on {title_of(config)}"
    if result:
        lines.append(f"{result.written} {result.metric.unit}, {result.kind}")
        if reference and reference.metric.name == result.metric.name:
            lines[-1] += f" (held against {reference.written})"
    lines.append(f"{weights['parameters']:,} parameters, {size(config)}")
    text = "".join(f"<br>{_text(line)}" for line in lines)
    card = folder.resolve() / "README.md"
    link = f'<br><a href="{escape(card.as_uri())}">card</a>' if card.is_file() else ""
    return (
        '<div style="display: flex; gap: 1em; align-items: flex-start">'
        f"{_picture(folder / PICTURE)}<div><b>{_text(name)}</b>{text}{link}</div></div>"
    )


def _text(value: object) -> str:
    return escape(plain(" ".join(str(value).split())))


def _picture(path: Path) -> str:
    """The picture beside a card, inside the page; empty where there is none, or it is none."""
    try:
        data = bytes(read_bytes(path, MOST_BYTES))
    except ZooError:
        return ""
    # Its first piece, IHDR, is of width and height.
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
    if not data.startswith(PNG) or data[12:16] != b"IHDR" or width * height > MOST_PIXELS:
        return ""
    return f'<img alt="samples" width="160" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
