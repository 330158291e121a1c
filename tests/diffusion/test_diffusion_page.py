"""docs/diffusion.md has each family of the room, with words that are arguments of it, and each sampler."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from zoo import diffusion
from zoo.diffusion.samplers import SAMPLERS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "diffusion.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ")]


def test_each_family_is_in_the_table_and_its_words_are_arguments():
    words = {name: set() for name in diffusion.__all__}
    for row in ROWS:
        (path, *others) = re.findall(r"`(\w+): ([^`]+)`", row) or [("", "")]
        if path[0] == "class_path":
            words.setdefault(path[1].removeprefix("zoo.diffusion."), set()).update(key for key, _ in [path, *others])
    for name in diffusion.__all__:
        assert "class_path" in words[name], f"{name} is not in the table"
        assert words[name] - {"class_path"} <= set(inspect.signature(getattr(diffusion, name)).parameters)


def test_each_sampler_is_in_the_table():
    assert set(SAMPLERS) <= {match[1] for row in ROWS if (match := re.match(r"\| `(\w+)` \|", row))}
