"""A name -> the folder of a checkpoint.

It is found, in this order: as a folder path, among one's own and the bundled checkpoints (which folders these are is in
`zoo.hub.places`), in the Hub's cache, on the Hub. Importing this file imports neither torch nor a Hub's client.
"""

from __future__ import annotations

import difflib
import errno
import os
from pathlib import Path
from typing import Any

from zoo.errors import CheckpointError, ZooError, show
from zoo.files import restore, unwritable
from zoo.hub import places
from zoo.hub.client import PREFIX, REPO_ID
from zoo.hub.config import CONFIG, read_config
from zoo.hub.places import NAME
from zoo.hub.remote import pull, pull_config

BUNDLED = Path(__file__).resolve().parents[2] / "checkpoints"


def folders() -> list[Path]:
    """Where checkpoints with plain names are: the first folder is the one to write to."""
    return list(dict.fromkeys((places.own(BUNDLED), BUNDLED)))


def names() -> list[str]:
    """The plain names there are, sorted: of checkpoints here, and of those that a wheel knows to be on the Hub."""
    return sorted({*places.index(), *places.names_in(folders())})


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
