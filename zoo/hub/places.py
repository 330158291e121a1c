"""Where checkpoints and recipes are: in a checkout, in what a wheel brings along, and where one's own are written.

A wheel has no weights. It has the recipes and `index.json`, what config.json says of every published checkpoint, which
its build made (`hatch_build.py`): so it lists them, knows where they are on the Hub, and knows their SHA-256.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zoo.classes import up_to_date
from zoo.files import replaced, restore
from zoo.hub.config import CONFIG

NAMESPACE = "generative-zoo"
"""Where the checkpoints of a wheel are published on the Hub, unless ZOO_HUB_NAMESPACE names another namespace."""

PACKAGE = Path(__file__).resolve().parents[1]
INDEX = PACKAGE / "index.json"  # which a wheel alone has
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")


def made_index(checkpoints: Path) -> dict[str, Any]:
    """What `index.json` holds: the default namespace, and config.json of each checkpoint of a checkout, by name."""
    found = {path.parent.name: path for path in sorted(checkpoints.glob(f"*/{CONFIG}"))}
    configs = {
        name: json.loads(path.read_text(encoding="utf-8")) for name, path in found.items() if NAME.fullmatch(name)
    }
    return {"namespace": NAMESPACE, "checkpoints": configs}


def index() -> dict[str, dict[str, Any]]:
    """config.json of each published checkpoint, by name, as the wheel has them; empty in a checkout."""
    return _read(INDEX)


@functools.cache
def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    configs = json.loads(path.read_text(encoding="utf-8"))["checkpoints"]
    return {name: up_to_date(config, complete=True) for name, config in configs.items()}


def own(bundled: Path) -> Path:
    """The folder into which checkpoints are written: ZOO_CHECKPOINTS, else a checkout's, else the user's data folder.

    Args:
        bundled: the checkout's.
    """
    given = os.environ.get("ZOO_CHECKPOINTS")
    if given:
        return Path(given).expanduser()
    return user_data() / "zoo" / "checkpoints" if INDEX.is_file() else bundled


def among(folders: Iterable[Path], name: str) -> Path | None:
    """The first checkpoint of a plain name in some folders."""
    for folder in folders if NAME.fullmatch(name) else ():
        restore(folder / name)
        if (folder / name / CONFIG).is_file():
            return folder / name
    return None


def names_in(folders: Iterable[Path]) -> set[str]:
    """The plain names of the checkpoints in some folders."""
    found = set()
    for folder in filter(Path.is_dir, folders):
        for each in replaced(folder):
            restore(each)
        found |= {path.name for path in folder.iterdir() if among([folder], path.name)}
    return found


def user_data() -> Path:
    """The folder in which programs of this user keep what they made."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or "~/AppData/Local").expanduser()
    if sys.platform == "darwin":
        return Path("~/Library/Application Support").expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()


def recipe(path: str) -> Path | None:
    """The recipe of the zoo that is meant by what is no file here: `NAME`, `NAME.yaml` or `recipes/NAME.yaml`.

    None where it is a file, or no such recipe.
    """
    name = path.removeprefix("recipes/").removesuffix(".yaml")
    if not NAME.fullmatch(name) or Path(path).exists():
        return None
    for folder in (PACKAGE.parent, PACKAGE):
        file = folder / "recipes" / f"{name}.yaml"
        if file.is_file():
            return file
    return None
