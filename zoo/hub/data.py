"""The data module that a config.json names."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import LightningDataModule

from zoo.errors import CheckpointError
from zoo.hub.building import check_arguments
from zoo.hub.config import portable

# These belong to the machine, not to the checkpoint: a config.json that sets one is refused.
LOCAL_ARGUMENTS = ("root", "batch_size", "eval_batch_size", "download")


def datamodule(
    data: Mapping[str, Any], *, root: str | Path | None = None, batch_size: int | None = None
) -> LightningDataModule:
    """Build the data module that a config.json names.

    Args:
        data: {"class_path": "zoo.data.MNIST", "init_args": {...}}.
        root: folder of the data sets; by default ZOO_DATA or the user cache.
        batch_size: by default the data module's own.

    Raises:
        CheckpointError: when it names a class outside `zoo.data`, or arguments that the class does not take.
    """
    # A stranger's paths lead nowhere here, or to what is not theirs: files are looked for by name, in `root`.
    path, arguments = str(data.get("class_path")), dict(portable(data).get("init_args") or {})
    cls = _data_class(path)
    for key in LOCAL_ARGUMENTS:
        if key in arguments:
            raise CheckpointError(
                f"A checkpoint may not set {key} of {path}; take it out of the init_args of its data."
            )
    check_arguments(cls, arguments)
    local = {"root": root and str(root), "batch_size": batch_size}
    accepted = inspect.signature(cls).parameters
    arguments |= {key: value for key, value in local.items() if value is not None and key in accepted}
    return cls(**arguments)


def _data_class(path: str) -> type[LightningDataModule]:
    """Class of that name below `zoo.data`; nothing else is ever imported or called."""
    module, _, name = path.rpartition(".")
    if module != "zoo.data" and not module.startswith("zoo.data."):
        raise CheckpointError(f"The data of a checkpoint must be a class of zoo.data, not {path!r}.")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        found = None
    own = inspect.isclass(found) and issubclass(found, LightningDataModule) and found.__module__.startswith("zoo.data")
    if not own:
        raise CheckpointError(f"There is no data module {path!r}; a newer version of generative-zoo may have it.")
    return found
