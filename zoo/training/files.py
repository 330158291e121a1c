"""The files of a run: checkpoints, there whole or not at all, and recipes and runs of before in the names of today."""

from __future__ import annotations

import contextlib
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.plugins.io import TorchCheckpointIO

from zoo.classes import CLASSES, run_up_to_date, up_to_date
from zoo.errors import CheckpointError
from zoo.hub.places import recipe as recipe_of


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint files that are there whole or not at all, also when the process is killed while it writes.

    Lightning writes to the system's temporary folder and moves the file: where that is another file system, moving is
    copying, and a kill leaves half a `last.ckpt`. What is read is in the names of today.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write beside `path`, then rename."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")  # always the same: kills leave one of them, and not many
        torch.save(checkpoint, partial)
        os.replace(partial, path)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read, and bring up to date what was written under other names."""
        return run_up_to_date(super().load_checkpoint(path, *args, **kwargs))


def read_run(path: Path) -> dict[str, Any]:
    """What a run's `.ckpt` holds, in the names of today: tensors and plain values, and never code.

    Raises:
        CheckpointError: it is no such file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return run_up_to_date(state)
    except Exception as error:
        raise CheckpointError(f"{path} is not a checkpoint that `zoo fit` wrote ({type(error).__name__}).") from error


def options(argv: list[str], *names: str) -> list[str]:
    """The values of an option, however often it is given and under whichever of its names."""
    values = [value for word, value in pairwise(argv) if word in names]
    return values + [word.partition("=")[2] for word in argv if word.partition("=")[0] in names and "=" in word]


def read_recipes(argv: list[str]) -> dict[str, Any]:
    """The recipes that a command line names, by the names of their files; what cannot be read the parser refuses."""
    recipes = {}
    for path in options(argv, "--config", "-c"):
        with contextlib.suppress(OSError, yaml.YAMLError, UnicodeDecodeError):
            recipes[path] = yaml.safe_load((recipe_of(path) or Path(path)).read_text(encoding="utf-8"))
    return recipes


def in_todays_names(argv: list[str], folder: Path) -> list[str]:
    """A command line whose recipes and classes are in the names of today.

    Args:
        argv: as it was given; without old names it is returned as it is, but for recipes of the zoo that are named
            where they are not: they come from the checkout or the wheel.
        folder: an empty one for the recipes that had to be written anew, under their own file names.
    """
    own = {path: recipe_of(path) for path in options(argv, "--config", "-c")}
    words = {**CLASSES, **{path: str(file) for path, file in own.items() if file}}
    for i, (path, recipe) in enumerate(read_recipes(argv).items()):
        current = up_to_date(recipe)
        if current != recipe:
            copy = folder / str(i) / Path(path).name
            copy.parent.mkdir(parents=True)
            copy.write_text(yaml.safe_dump(current, sort_keys=False, allow_unicode=True), encoding="utf-8")
            words[path] = str(copy)
    found = []
    for word in argv:
        option, equals, value = word.partition("=")
        found.append(f"{option}={words[value]}" if equals and value in words else words.get(word, word))
    return found
