"""A checkpoint folder -> a model, a model -> a checkpoint folder, and that folder to a Hugging Face Hub.

How a folder is found is in `zoo.hub.finding`, what it holds and how that is checked in `zoo.hub.folder`, how a model is
made from it in `zoo.hub.building`, how it travels in `zoo.hub.remote`. Importing this file imports neither torch nor a
Hub's client.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import CheckpointError, DataError, ZooError, refusing, show
from zoo.files import replacing, restore, write_atomically
from zoo.hub import publishing
from zoo.hub.config import CONFIG, DTYPES, FORMAT, portable, read_config, spec_of, write_config
from zoo.hub.finding import find, to_push
from zoo.hub.folder import check_undamaged, load_weights, weight_shapes, write_weights
from zoo.hub.notebook import page

if TYPE_CHECKING:
    from zoo.model import Model
    from zoo.results import Result

MOST_BELOW = 4  # models, each of which rests on the next


def load(
    name: str | os.PathLike[str],
    *,
    cls: type[Model] | None = None,
    device: str = "cpu",
    revision: str | None = None,
    local_files_only: bool = False,
    namespace: str | None = None,
    token: str | None = None,
) -> Model:
    """A trained model by name, in eval mode, ready to sample.

    Args:
        name: as for `find`.
        cls: the model's class, needed where it is not one of the zoo's own.
        device: where the model goes.
        revision: as for `find`, like the remaining arguments.
        local_files_only: as for `find`.
        namespace: as for `find`.
        token: as for `find`.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, hostile or does not fit its model.
        HubError: the Hub refused, failed or could not be reached.
    """
    where = {"local_files_only": local_files_only, "namespace": namespace, "token": token}
    folder = find(name, revision=revision, **where)
    import torch

    # Built and filled there, whatever somebody's default device is: on "meta" the weights would be lost.
    with torch.device("cpu"):
        model = _load_folder(folder, cls, functools.partial(find, **where))
    model.page = functools.partial(page, folder, os.fspath(name))
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ZooError(f"The device {show(device)} cannot be used here; try cpu.") from error


def _load_folder(
    folder: Path,
    cls: type[Model] | None,
    finder: Callable[[str], Path] = find,
    above: tuple[Path, ...] = (),
) -> Model:
    """The model of a folder, with that on which it rests, which `finder` finds; `above` are those that rest on it."""
    config = read_config(folder)
    with refusing(f"{folder} cannot be loaded"):
        model = _filled(folder, config, cls)
    model.adopt_class_names(spec_of(config))
    rests_on = config.get("rests_on") or {}
    if model.rests_on != rests_on.get("name"):
        said, own = show(rests_on.get("name")), show(model.rests_on)
        raise CheckpointError(f"{folder / CONFIG}: rests_on names {said}, but the model rests on {own}.")

    def below(name: str) -> Model:
        try:
            found, chain = finder(name), (*above, folder.resolve())
        except CheckpointError as error:
            raise CheckpointError(f"{folder} rests on {name}, which is not there: {error}") from error
        if found.resolve() in chain or len(chain) > MOST_BELOW:
            raise CheckpointError(f"{folder} rests on {name}, and so on: at most {MOST_BELOW} may, and none on itself.")
        if read_config(found)["weights"]["sha256"] != rests_on["sha256"]:
            raise CheckpointError(
                f"{folder} was made for other weights of {name} than those in {found}, whose SHA-256 differ: fetch the "
                f"right ones, or train it anew."
            )
        return _load_folder(found, None, finder, chain)

    model.attach(below)
    return model


def _filled(folder: Path, config: Mapping[str, Any], cls: type[Model] | None) -> Model:
    """The model of a folder alone: built where it can be no larger than the weights, which are read last."""
    from zoo.hub.building import check_arguments, empty, resolve
    from zoo.hub.packing import fill

    try:
        model_class = resolve(config["class_path"], cls)
        check_arguments(model_class, config["init_args"])
    except CheckpointError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from error
    try:
        model = empty(model_class, config["init_args"], weight_shapes(folder, config), str(folder)).eval()
    except CheckpointError:
        check_undamaged(folder, config)
        raise
    count = sum(p.numel() for p in model.parameters())
    if count != config["weights"]["parameters"]:
        declared = show(config["weights"]["parameters"])
        raise CheckpointError(f"{folder / CONFIG}: weights.parameters is {declared}; the model has {count}.")
    fill(model, load_weights(folder, config), str(folder))
    return model


def save(
    model: Model,
    folder: str | os.PathLike[str],
    *,
    dtype: str = "float16",
    data: Mapping[str, Any] | None = None,
    recipe: str | None = None,
    training: Mapping[str, Any] | None = None,
    reference: Mapping[str, Any] | None = None,
    results: Sequence[Result | Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
    finish: Callable[[Path, Model], None] | None = None,
) -> Path:
    """Write a model as a checkpoint folder, whole or not at all, replacing a checkpoint that is there.

    Args:
        model: its constructor's arguments are read from `model.hparams`.
        folder: the folder to write; its parents are made.
        dtype: parameters are rounded to it (float16, bfloat16, float32); buffers keep their values, integers in the
            fewest bits that hold them. Of a weight with a mask, what the mask hides is not stored.
        data: class_path and init_args of the data module, of whose files the names are kept, and not the folders; its
            title and hub_id where it has them.
        recipe: name of the recipe that trained it.
        training: hardware, minutes, steps and the like, for the card.
        reference: the number it is held against, as `zoo.references.Reference.from_config` takes it: metric, value
            and source, and maybe whose, kind, samples, protocol, decimals, also and best.
        results: measured numbers, for the card.
        notes: free sentences, for the card.
        finish: called with the new folder and the model that was loaded from it, before it takes its place: what else
            belongs to the checkpoint comes with it.

    Returns:
        The folder.

    Raises:
        CheckpointError: the model cannot be stored so that `load` gives it back.
        DataError: the folder cannot be written; a checkpoint that was there stays.
    """
    from zoo.classes import class_path_of, up_to_date
    from zoo.hub.packing import init_args_of, stored
    from zoo.model.asking import draws

    if dtype not in DTYPES:
        raise CheckpointError(f"dtype must be one of {', '.join(DTYPES)}, not {show(dtype)}.")
    if getattr(model, "spec", None) is None:
        name = type(model).__name__
        raise CheckpointError(f"{name} does not say what its data are: set self.spec, a DataSpec, in its constructor.")
    folder = Path(folder)
    restore(folder)
    if folder.is_symlink():
        raise CheckpointError(f"{folder} is a link, to {os.path.realpath(folder)}: name the folder itself.")
    if folder.exists() and not (folder / CONFIG).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is no checkpoint; remove it or choose another folder.")
    with replacing(folder) as temporary:
        hashes = write_weights(stored(model, dtype), temporary)
        config = {
            "format": FORMAT,
            "class_path": class_path_of(type(model)),
            "init_args": init_args_of(model),
            "spec": model.spec.config,
            "data": None if data is None else portable(data),
            "recipe": recipe,
            "training": training,
            "reference": reference,
            "papers": list(model.papers),
            "weights": {
                "dtype": dtype,
                "parameters": sum(p.numel() for p in model.parameters()),
                "bytes": sum((temporary / name).stat().st_size for name in hashes),
                "sha256": hashes,
            },
            "results": [each if isinstance(each, Mapping) else each.config for each in results],
            "notes": list(notes),
        }
        if not draws(model):
            # A translator, or what is drawn given a condition: its card says so, for which nothing need be imported.
            config["draws"] = False
        if model.rests_on is not None:
            below = read_config(find(model.rests_on))["weights"]["sha256"]
            config["rests_on"] = {"name": model.rests_on, "sha256": below}
        write_config(temporary, up_to_date(config))
        # What cannot be loaded is not written: a broken export must show here, not on a user's machine.
        loaded = _load_folder(temporary, type(model))
        if finish is not None:
            finish(temporary, loaded)
    return folder


def push(
    name: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    message: str | None = None,
) -> str:
    """Publish a checkpoint on the Hub: what `zoo.hub.publishing.contents` lists, and nothing else.

    Args:
        name: the plain name of a checkpoint that is here, or a folder path; it must load.
        repo_id: `namespace/name` on the Hub, made if it does not exist; its card says this name. A folder that has no
            card gets this one as well.
        private: whether a new repository is private.
        revision: the branch to push to, made if it does not exist; by default the main branch.
        token: with the right to write; else the one the Hub's client is logged in with.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: the checkpoint is missing or broken.
        HubError: the Hub refused, failed or could not be reached.
    """
    folder = to_push(name)
    config = read_config(folder)
    files = publishing.contents(folder, config, repo_id)
    if config["class_path"].startswith("zoo."):
        _load_folder(folder, None)
    else:
        load_weights(folder, config)  # the code of a class from elsewhere is not run here
    if not (folder / publishing.CARD).exists():
        with suppress(DataError):  # a folder that cannot be written is published with a card, and stays without
            write_atomically(folder / publishing.CARD, files[publishing.CARD])
    return publishing.push_files(files, repo_id, private=private, revision=revision, token=token, message=message)
