"""A name -> files -> a model; and the same folder to and from a Hugging Face Hub.

A checkpoint is found, in this order: as a folder path, among one's own and the bundled checkpoints (which folders these
are is in `zoo.hub.places`), in the Hub's cache, on the Hub. What a folder holds and how it is checked is in
`zoo.hub.folder`, how a model is made from it in `zoo.hub.building`, how it travels in `zoo.hub.remote`. Importing this
file imports neither torch nor a Hub's client.
"""

from __future__ import annotations

import difflib
import errno
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import CheckpointError, DataError, ZooError, refusing, show
from zoo.files import replacing, restore, unwritable, write_atomically
from zoo.hub import places, publishing
from zoo.hub.config import CONFIG, DTYPES, FORMAT, portable, read_config, spec_of, write_config
from zoo.hub.folder import check_undamaged, load_weights, weight_shapes, write_weights
from zoo.hub.notebook import page
from zoo.hub.places import NAME
from zoo.hub.remote import PREFIX, REPO_ID, pull, pull_config

if TYPE_CHECKING:
    from zoo.model import Model
    from zoo.results import Result


BUNDLED = Path(__file__).resolve().parents[2] / "checkpoints"
MOST_BELOW = 4  # models, each of which rests on the next


def folders() -> list[Path]:
    """Where checkpoints with plain names are: the first folder is the one to write to."""
    return list(dict.fromkeys((places.own(BUNDLED), BUNDLED)))


def names() -> list[str]:
    """The plain names there are, sorted: of checkpoints here, and of those that a wheel knows to be on the Hub."""
    return sorted({*places.index(), *places.names_in(folders())})


def is_bundled(name: str) -> bool:
    """Whether a checkpoint with this plain name is here."""
    return places.among(folders(), name) is not None


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
        name: the path of a folder (with a separator in it), a plain name as `names` has it, or `namespace/name` on the
            Hub, also written `hf-hub:namespace/name`.
        revision: a branch, tag or commit of the Hub repository; with it, a name is looked up on the Hub.
        local_files_only: look into the Hub's cache only, never at the network.
        namespace: where plain names that are not here live on the Hub; else ZOO_HUB_NAMESPACE says it, else
            `zoo.hub.places.NAMESPACE` has those that the wheel lists, whose weights are then the wheel's.
        token: for private repositories; else the one the Hub's client is logged in with.

    Raises:
        CheckpointError: there is no such checkpoint.
        HubError: the Hub refused, failed or could not be reached.
    """
    place = _place(name, revision, namespace)
    if isinstance(place, Path):
        return place
    folder = pull(place, revision=revision, local_files_only=local_files_only, token=token)
    if _listed(name, revision, namespace):
        _check_listed(os.fspath(name), folder, place)
    return folder


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
    if isinstance(place, Path):
        return read_config(place)
    return places.index()[name] if _listed(name, revision, None) else pull_config(place, revision=revision)


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
    if text.startswith(PREFIX) or (REPO_ID.fullmatch(text) and ".." not in text):
        return text
    if not NAME.fullmatch(text):
        raise CheckpointError(
            f"{show(text)} is no checkpoint's name; names look like pixelcnn-cifar10, "
            "those of a Hub like namespace/pixelcnn-cifar10, and folders like ./runs/mine."
        )
    here = places.among(folders(), text) if revision is None else None
    if here is not None:
        return here
    namespace = namespace or os.environ.get("ZOO_HUB_NAMESPACE") or (places.NAMESPACE if text in places.index() else "")
    if namespace:
        return _place(f"{namespace}/{text}", revision, None)
    raise CheckpointError(_unknown(text, revision))


def _listed(name: str | os.PathLike[str], revision: str | None, namespace: str | None) -> bool:
    """Whether a name that is not here is one of the wheel's, which it has on the Hub in its own namespace."""
    elsewhere = namespace or revision or os.environ.get("ZOO_HUB_NAMESPACE")
    return not elsewhere and os.fspath(name) in places.index()


def _check_listed(name: str, folder: Path, repo_id: str) -> None:
    """Refuse what is published under a plain name now, where it is not what the name stood for in this wheel."""
    if read_config(folder)["weights"]["sha256"] != places.index()[name]["weights"]["sha256"]:
        raise CheckpointError(
            f"The weights on the Hub as {repo_id} are others than this version of zoo knows as {name}: upgrade zoo, or "
            f"write {repo_id} if you trust them."
        )


def _local_folder(name: str | os.PathLike[str]) -> Path | None:
    """The folder that `name` is the path of; None if it is no path but a name.

    A plain name is never a path, so that a folder that happens to lie in the working directory does not take
    the place of a bundled checkpoint.
    """
    text = os.fspath(name)
    if text.startswith(PREFIX):
        return None
    folder = Path(os.path.expanduser(text))
    if os.sep in text:
        restore(folder)
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
    if name in places.index():
        return f"{name} is not here: `zoo pull {places.NAMESPACE}/{name}` fetches it from the Hub."
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


def to_push(name: str | os.PathLike[str]) -> Path:
    """The folder that `push` sends; never one from the Hub.

    Raises:
        CheckpointError: there is no such checkpoint here.
    """
    folder = _local_folder(name) or places.among(folders(), os.fspath(name))
    if folder is None:
        raise CheckpointError(_unknown(os.fspath(name), None))
    return folder


def is_own(name: str, folder: Path) -> bool:
    """Whether a checkpoint is here or a folder that was named, and not one in the Hub's cache."""
    return folder.parent in folders() or folder == Path(name).expanduser()


def check_own(name: str, folder: Path) -> None:
    """Refuse to change what lies in the Hub's cache, or cannot be written."""
    if not is_own(name, folder):
        raise ZooError(f"{name} is in the Hub's cache, which is not to be changed: --write takes a folder of your own.")
    if not os.access(folder, os.W_OK):  # before minutes of computing
        raise unwritable(folder / CONFIG, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
