"""What a recipe may not do: have a checkpoint run code, or fetch one, which the command line alone may ask for.

A recipe is code all the same, for it names classes, and importing their modules runs them: read it before you run it.
But most recipes name classes of the zoo alone, and a reader who sees that must not be deceived by a line about a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.errors import CheckpointError, show
from zoo.training.recipes import options


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
