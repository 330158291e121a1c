"""What a recipe may not do: have a checkpoint run code, or fetch one, which the command line alone may ask for.

A recipe is code all the same, for it names classes, and importing their modules runs them: read it before you run it.
But most recipes name classes of the zoo alone, and a reader who sees that must not be deceived by a line about a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonargparse

from zoo.errors import CheckpointError, show
from zoo.training.recipes import options, show_plain


def check_trust(config: Any, argv: list[str]) -> None:
    """Refuse a checkpoint that would run code, or be fetched, where a recipe and not the command line names it so.

    Args:
        config: what recipes and options come to.
        argv: the command line.

    Raises:
        CheckpointError: with the option that says it.
    """
    path = config.ckpt_path
    if config.weights_only is False and not options(argv, "--weights_only"):
        raise CheckpointError(
            "The recipe says weights_only: false, with which a checkpoint may run any code: leave it out, or give "
            "--weights_only false yourself where you trust the checkpoint."
        )
    if not path or options(argv, "--ckpt_path"):
        return
    if "://" in path or path.startswith("registry"):
        raise CheckpointError(
            f"The recipe has a checkpoint fetched, {show(path)}: leave out its ckpt_path, or give --ckpt_path yourself."
        )
    if Path(path).is_dir():
        # Of several files, among which those of FSDP and DeepSpeed are unpickled whatever weights_only says.
        raise CheckpointError(
            f"The recipe goes on from a folder, {show(path)}, which may run any code: leave out its ckpt_path, or give "
            f"--ckpt_path yourself where you trust it."
        )


def check_class(class_path: Any, model: Any, path: str) -> None:
    """Refuse a class that a run's file names, where it is neither of the zoo nor the one that recipe or options name.

    To import it would run its module: a checkpoint may not choose one.

    Args:
        class_path: as the file has it.
        model: what recipe and options say of the model.
        path: of the file.

    Raises:
        CheckpointError: with the remedy.
    """
    own = str(class_path)
    if own.partition(".")[0] != "zoo" and own != getattr(model, "class_path", None):
        raise CheckpointError(
            f"{path} is a run of {show(own)}, which lies outside zoo, so its code is not run: give the recipe that "
            f"names the class, or --model {show_plain(own, 80)}, if you trust it."
        )


def plain(path: Path) -> Path:
    """The last or the best checkpoint of a run, which is one file: a folder may hold pickles.

    Raises:
        CheckpointError: it is none.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is no plain file: give a run's .ckpt file.")
    return path


def local_alone() -> None:
    """Have the parser read parts of a recipe from files here alone: Lightning has it fetch them from any address."""
    jsonargparse.set_parsing_settings(config_read_mode_urls_enabled=False, config_read_mode_fsspec_enabled=False)
