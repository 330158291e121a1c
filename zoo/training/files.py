"""The files of a run: checkpoints, there whole or not at all, and recipes and runs of before in the names of today."""

from __future__ import annotations

import contextlib
import errno
import locale
import os
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.plugins.io import TorchCheckpointIO

from zoo.classes import CLASSES, run_up_to_date, up_to_date
from zoo.errors import CheckpointError
from zoo.files import unwritable
from zoo.hub.places import recipe as recipe_of
from zoo.training.recipes import options, read_recipes

# Of what torch's C++ says where a file cannot be written on, a part each: it depends on how much of it there is.
_BROKEN_OFF = ("PytorchStreamWriter", "inline_container", "iostream error")


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
        partial = path.with_name(f"{path.name}.partial")  # always the same: kills leave one of them, and not many
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.save(checkpoint, partial)
            except RuntimeError as error:
                if not any(words in str(error) for words in _BROKEN_OFF):
                    raise
                # What the system said of it, torch keeps to itself.
                raise OSError(errno.ENOSPC, "writing it broke off", str(path)) from error
            os.replace(partial, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise unwritable(path, error) from error

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read, and bring up to date what was written under other names.

        Raises:
            CheckpointError: it is no such file, or one that would run code.
        """
        try:
            return run_up_to_date(super().load_checkpoint(path, *args, **kwargs))
        except OSError:  # of the disk or the network
            raise
        except Exception as error:
            raise _foreign(path, error) from error


def read_run(path: Path, *, code: bool = False) -> dict[str, Any]:
    """What a run's `.ckpt` holds, in the names of today: tensors and plain values, and never code.

    Args:
        path: of the file.
        code: whether what it holds may run, as `--weights_only false` says of a file from elsewhere.

    Raises:
        CheckpointError: it is no such file.
    """
    if path.exists() and not path.is_file():  # a pipe is waited for, and a device has no end
        raise CheckpointError(f"{path} is no plain file: give a run's .ckpt file.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=not code, mmap=True)
        return run_up_to_date(state)
    except Exception as error:
        raise _foreign(path, error) from error


def _foreign(path: str | Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is not a checkpoint that `zoo fit` wrote ({type(error).__name__}).")


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
        # The parser reads a file in the encoding of the terminal.
        foreign = locale.getpreferredencoding(False).lower() not in ("utf-8", "utf8") and not path.startswith("{")
        if current != recipe or foreign:
            copy = folder / str(i) / ("given.yaml" if path.startswith("{") else Path(path).name)
            copy.parent.mkdir(parents=True)
            copy.write_text(yaml.safe_dump(current, sort_keys=False), encoding="utf-8")
            words[path] = str(copy)
    found = []
    for word in argv:
        option, equals, value = word.partition("=")
        found.append(f"{option}={words[value]}" if equals and value in words else words.get(word, word))
    return found
