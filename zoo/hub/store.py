"""A name -> files -> a model; and the same folder to and from a Hugging Face Hub.

A checkpoint is found, in this order: as a folder path, among the bundled `checkpoints/`, in the Hub's cache,
on the Hub. What a folder holds and how it is checked is in `zoo.hub.folder`, how a model is made from it in
`zoo.hub.building`, how it travels in `zoo.hub.remote`. Importing this file imports neither torch nor a Hub's client.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import CheckpointError, ZooError, show
from zoo.files import replace_folder
from zoo.hub.config import CONFIG, DTYPES, FORMAT, portable, read_config, spec_of, write_config
from zoo.hub.folder import load_weights, write_weights
from zoo.hub.notebook import page
from zoo.hub.remote import REPO_ID, pull, pull_config, push_folder

if TYPE_CHECKING:
    from zoo.model import Model
    from zoo.results import Result


BUNDLED = Path(__file__).resolve().parents[2] / "checkpoints"
MOST_BELOW = 4  # models, each of which rests on the next
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")


def names() -> list[str]:
    """The names of the bundled checkpoints, sorted."""
    if not BUNDLED.is_dir():
        return []
    return sorted(path.name for path in BUNDLED.iterdir() if is_bundled(path.name))


def is_bundled(name: str) -> bool:
    """Whether a bundled checkpoint has this name."""
    return bool(NAME.fullmatch(name)) and (BUNDLED / name / CONFIG).is_file()


def find(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    namespace: str | None = None,
    token: str | None = None,
) -> Path:
    """The folder of a checkpoint, fetched from the Hub if need be.

    Args:
        name: the path of a folder (with a separator in it), a bundled name, or `namespace/name` on the Hub.
        revision: a branch, tag or commit of the Hub repository; with it, a name is looked up on the Hub.
        local_files_only: look into the Hub's cache only, never at the network.
        namespace: where plain names that are not bundled live on the Hub; else ZOO_HUB_NAMESPACE says it.
        token: for private repositories; else the one the Hub's client is logged in with.

    Raises:
        CheckpointError: there is no such checkpoint.
        HubError: the Hub refused, failed or could not be reached.
    """
    place = _place(name, revision, namespace)
    if isinstance(place, Path):
        return place
    return pull(place, revision=revision, local_files_only=local_files_only, token=token)


def config_of(name: str | os.PathLike[str], *, revision: str | None = None) -> dict[str, Any]:
    """config.json of a checkpoint, of which nothing else is fetched.

    Args:
        name: as for `find`.
        revision: as for `find`.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        HubError: the Hub refused, failed or could not be reached.
    """
    place = _place(name, revision, None)
    return read_config(place) if isinstance(place, Path) else pull_config(place, revision=revision)


def may_be_name(text: str) -> bool:
    """Whether `find` might find something of this name, by its words alone."""
    return os.sep in text or text.startswith("~") or bool(NAME.fullmatch(text))


def _place(name: str | os.PathLike[str], revision: str | None, namespace: str | None) -> Path | str:
    """Where a checkpoint is: a folder, or its repository on the Hub."""
    folder = _local_folder(name)
    if folder is not None:
        if revision is not None:
            raise CheckpointError(f"{folder} is a local folder, which has no revision {show(revision)}.")
        return folder
    text = os.fspath(name)
    if REPO_ID.fullmatch(text) and ".." not in text:
        return text
    if not NAME.fullmatch(text):
        raise CheckpointError(
            f"{show(text)} is no checkpoint's name; names look like pixelcnn-cifar10, "
            "those of a Hub like namespace/pixelcnn-cifar10, and folders like ./runs/mine."
        )
    if revision is None and is_bundled(text):
        return BUNDLED / text
    namespace = namespace or os.environ.get("ZOO_HUB_NAMESPACE")
    if namespace:
        return _place(f"{namespace}/{text}", revision, None)
    raise CheckpointError(_unknown(text, revision))


def _local_folder(name: str | os.PathLike[str]) -> Path | None:
    """The folder that `name` is the path of; None if it is no path but a name.

    A plain name is never a path, so that a folder that happens to lie in the working directory does not take
    the place of a bundled checkpoint.
    """
    text = os.fspath(name)
    folder = Path(os.path.expanduser(text))
    if not isinstance(name, str) or text.startswith(("/", "./", "../", "~")):
        if not folder.is_dir():
            raise CheckpointError(f"There is no folder {folder}.")
        return folder
    return folder if os.sep in text and folder.is_dir() else None


def _unknown(name: str, revision: str | None) -> str:
    if revision is not None:
        return (
            f"{name} with a revision is looked up on the Hub: write namespace/{name}, "
            "pass namespace, or set ZOO_HUB_NAMESPACE."
        )
    close = difflib.get_close_matches(name, names(), n=3)
    hint = f"close to it are {', '.join(close)}" if close else "`zoo list` names those there are"
    return f"There is no bundled checkpoint {name}; {hint}, and one on the Hub is written namespace/{name}."


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
    from zoo.hub.building import build, check_arguments, resolve

    try:
        model_class = resolve(config["class_path"], cls)
        check_arguments(model_class, config["init_args"])
    except CheckpointError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from error
    weights = load_weights(folder, config)
    model = build(model_class, config["init_args"], weights, str(folder)).eval()
    model.adopt_class_names(spec_of(config))
    count = sum(p.numel() for p in model.parameters())
    if count != config["weights"]["parameters"]:
        declared = show(config["weights"]["parameters"])
        raise CheckpointError(f"{folder / CONFIG}: weights.parameters is {declared}; the model has {count}.")
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

    Returns:
        The folder.

    Raises:
        CheckpointError: the model cannot be stored so that `load` gives it back.
    """
    from zoo.classes import class_path_of, up_to_date
    from zoo.hub.packing import init_args_of, stored
    from zoo.model.asking import draws

    if dtype not in DTYPES:
        raise CheckpointError(f"dtype must be one of {', '.join(DTYPES)}, not {show(dtype)}.")
    folder = Path(folder)
    if folder.exists() and not (folder / CONFIG).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is no checkpoint; remove it or choose another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new-", dir=folder.parent))
    try:
        temporary.chmod(0o755)
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
        _load_folder(temporary, type(model))
        replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
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
    """Publish a checkpoint on the Hub: weights, config.json, card and pictures, and nothing else.

    Args:
        name: a bundled name or a folder path; it must load.
        repo_id: `namespace/name` on the Hub, made if it does not exist.
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
    folder = _local_folder(name)
    if folder is None:
        if not is_bundled(os.fspath(name)):
            raise CheckpointError(_unknown(os.fspath(name), None))
        folder = BUNDLED / name
    config = read_config(folder)
    if config["class_path"].startswith("zoo."):
        _load_folder(folder, None)
    else:
        load_weights(folder, config)  # the code of a class from elsewhere is not run here
    return push_folder(folder, repo_id, private=private, revision=revision, token=token, message=message)


def is_own(name: str, folder: Path) -> bool:
    """Whether a checkpoint is bundled or a folder that was named, and not one in the Hub's cache."""
    return folder.parent == BUNDLED or folder == Path(name).expanduser()


def check_own(name: str, folder: Path) -> None:
    """Refuse to change what lies in the Hub's cache."""
    if not is_own(name, folder):
        raise ZooError(f"{name} is in the Hub's cache, which is not to be changed: --write takes a folder of your own.")
