"""From a training run to a checkpoint folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from zoo.errors import CheckpointError, refusing, show
from zoo.files import restore
from zoo.hub import building, finding, store
from zoo.hub.config import CONFIG
from zoo.hub.places import NAME
from zoo.model import Model
from zoo.training.files import read_run


def export_run(
    run: str | Path,
    name: str,
    *,
    out: str | Path | None = None,
    dtype: str = "float16",
    overwrite: bool = False,
    cls: type[Model] | None = None,
    width: float | None = None,
    finish: Callable[[Path, Model], None] | None = None,
) -> Path:
    """Write a run's weights as a checkpoint folder.

    Args:
        run: a run's folder, whose `checkpoints/last.ckpt` is taken, or a `.ckpt` file. It is your own run: only
            its tensors and plain values are read, never code.
        name: FAMILY-DATASET.
        out: where to write; by default NAME in the first of `zoo.hub.finding.folders`, where `zoo.load` looks: in a
            checkout `checkpoints/NAME`.
        dtype: of the stored weights.
        overwrite: replace a checkpoint that is there, with its numbers and notes.
        cls: the model's class, needed where it is not one of the zoo's own.
        width: that of an average which `zoo.callbacks.EMA` was to keep beside its own, in the place of this one.
        finish: as for `zoo.hub.store.save`.

    Returns:
        The folder.

    Raises:
        CheckpointError: there is no such run, it was not made by this package, it has no average of that width, or a
            checkpoint is there already.
        DataError: the folder cannot be written.
    """
    path, folder = Path(run), Path(out or _home(name))
    restore(folder)
    if (folder / CONFIG).exists() and not overwrite:
        raise CheckpointError(f"{folder} is a checkpoint already: choose another name, or --overwrite to replace it.")
    if path.is_dir():
        candidates = sorted((path / "checkpoints").glob("last*.ckpt"), key=lambda p: p.stat().st_mtime)
        if not candidates:
            raise CheckpointError(
                f"{path} holds no checkpoints/last.ckpt: give the folder of a run that `zoo fit` made."
            )
        path = candidates[-1]
    if not path.is_file():
        raise CheckpointError(f"There is no run {path}: give a run's folder or its .ckpt file.")
    foreign = f"{path} is not a checkpoint that `zoo fit` wrote"
    state = read_run(path)
    with refusing(foreign):
        record = next(v for k, v in state["callbacks"].items() if k.startswith("RunRecord"))
        init_args = {k: v for k, v in state["hyper_parameters"].items() if not k.startswith("_")}
        weights, class_path = state["state_dict"], record["class_path"]
        tensors = isinstance(weights, dict) and all(
            isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in weights.items()
        )
        if not tensors or not isinstance(class_path, str):
            raise CheckpointError(f"{foreign}: it has no weights, or no name of their class.")
        if width is not None:
            weights = {**weights, **_average(state, width, str(path))}
        cls = building.resolve(class_path, cls)
        training = _training(state, record)
        data, recipe, reference = record["data"], record["recipe"], record["reference"]
        if not isinstance(data, dict | None):
            raise CheckpointError(f"{foreign}: its data are {show(data)}.")
    building.check_arguments(cls, init_args)
    # The averaged weights, where `EMA` was in use.
    model = building.build(cls, init_args, weights, str(path))
    if record.get("class_names"):
        model.adopt_class_names(replace(model.spec, class_names=record["class_names"]))
    if hasattr(model, "recalibrate_batch_norm"):
        model.recalibrate_batch_norm()
    return store.save(
        model,
        folder,
        dtype=dtype,
        data=data,
        recipe=recipe,
        training=training,
        reference=reference,
        finish=finish,
    )


def _average(state: dict[str, Any], width: float, path: str) -> dict[str, torch.Tensor]:
    """The weights of an average beside that of validation, by name."""
    kept = state["callbacks"].get("EMA") or {}
    others = kept.get("others") or {}
    if f"{width:g}" not in others:
        there = f"beside its own it has those of {', '.join(others)}" if others else "it has none beside its own"
        raise CheckpointError(
            f"{path} has no average of width {width:g}, {there}: leave the width out for its own, or name it in "
            f"`others` of zoo.callbacks.EMA before the run."
        )
    return others[f"{width:g}"]


def _training(state: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """What a card says of the training."""
    training = {
        "hardware": record["hardware"],
        "minutes": round(record["seconds"] / 60, 1),
        "steps": int(state["global_step"]),
        "images": record["images"],
        "images_per_second": round(record["images_per_second"], 1),
        "precision": record["precision"],
        "torch": record["torch"],
        "lightning": record["lightning"],
    }
    if record.get("from"):
        training["from"] = record["from"]
    return training


def _home(name: str) -> Path:
    """The folder of a checkpoint with a plain name."""
    if not NAME.fullmatch(name):
        raise CheckpointError(f"{show(name)} is no checkpoint's name: write FAMILY-DATASET, as in pixelcnn-digits.")
    return finding.folders()[0] / name
