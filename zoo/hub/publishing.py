"""What of a checkpoint folder goes to a Hugging Face Hub, and how it goes there.

Only what a checkpoint is made of, each a file and not a link: a stranger's folder must not choose what else of yours is
published.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import CheckpointError, warn
from zoo.hub.client import check_request, explained, repository
from zoo.hub.config import CONFIG
from zoo.hub.folder import INDEX, weight_files
from zoo.hub.reading import is_picture, opened, pictures_in, read_bytes

CARD = "README.md"
MOST_CARD, MOST_PICTURE = 2**20, 2**24  # bytes


def contents(folder: Path, config: Mapping[str, Any], repo_id: str) -> dict[str, Path | bytes]:
    """The files that are sent, by name: config.json, the weights it names, the card and the pictures beside it.

    The card says under which name it was pushed: it is made anew, with that name, where there is none or where it is
    what `zoo.hub.card` made. One that somebody wrote is sent as it is.

    Args:
        folder: the checkpoint's.
        config: its config.json.
        repo_id: `namespace/name`.

    Raises:
        CheckpointError: one of them is missing, or is a link or another thing that is no file, or no picture.
    """
    pictures = pictures_in(folder)
    card = [CARD] if os.path.lexists(folder / CARD) else []
    files: dict[str, Path | bytes] = {
        name: _plain(folder / name) for name in (CONFIG, *sorted(weight_files(config)), *card, *pictures)
    }
    for name in pictures:
        _check_picture(folder / name)
    files[CARD] = _card(folder, config, repository(repo_id)).encode()
    return files


def size(file: Path | bytes) -> int:
    """The bytes of one of the `contents`."""
    return len(file) if isinstance(file, bytes) else file.stat().st_size


def push_files(
    files: Mapping[str, Path | bytes],
    repo_id: str,
    *,
    private: bool,
    revision: str | None,
    token: str | None,
    message: str | None,
) -> str:
    """Send `contents`, already validated, to the Hub in one commit; repository and branch are made if need be.

    Weights, card and pictures of an earlier push that this one does not replace are removed.

    Returns:
        The address of the commit.

    Raises:
        HubError: the Hub refused, failed or could not be reached.
    """
    repo_id = check_request(repo_id, revision, token)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    with explained(repo_id, None, token):
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        there = api.list_repo_files(repo_id, revision=revision)
        operations = [CommitOperationAdd(name, file) for name, file in files.items()]
        operations += [CommitOperationDelete(name) for name in there if name not in files and _ours(name)]
        commit = api.create_commit(
            repo_id,
            operations,
            revision=revision,
            commit_message=message or f"Upload {repo_id.partition('/')[2]}",
        )
    return commit.commit_url


def _ours(name: str) -> bool:
    """Whether a file in a repository is of a kind that a push puts there."""
    return name in (INDEX, CARD) or ("/" not in name and name.endswith((".safetensors", ".png", ".webp")))


def _plain(path: Path) -> Path:
    """A regular file of the folder itself."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        raise CheckpointError(f"{path} is missing, which a checkpoint needs to be published.") from None
    if stat.S_ISLNK(mode):
        raise CheckpointError(
            f"{path} is a link, to {os.path.realpath(path)}, which would be published: put a copy in its place if you "
            "mean that, or remove it."
        )
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path} is no file, and only files are published: remove it.")
    return path


def _check_picture(path: Path) -> None:
    """Refuse what is only called a picture: a hard link to something else, or gigabytes of it."""
    with opened(path, MOST_PICTURE) as (file, _):
        if not is_picture(file.read(16)):
            raise CheckpointError(f"{path} is no PNG or WebP picture, and would be published: remove it.")


def _card(folder: Path, config: Mapping[str, Any], repo_id: str) -> str:
    """The card as it is published, under the name of its repository."""
    from zoo.hub import card

    file, pictures = folder / CARD, pictures_in(folder)
    if file.is_file():
        try:
            text = read_bytes(file, MOST_CARD).decode("utf-8")
        except (CheckpointError, UnicodeDecodeError):
            raise CheckpointError(
                f"{file} cannot be read as a card: `zoo card {folder} --write` makes it anew."
            ) from None
        # Under whichever name it was made, that of a folder or of a repository that it came from, and with the pictures
        # that lay there then.
        names = {folder.resolve().name, *re.findall(r'zoo\.load\("([^"\n]+)"\)', text)}
        shown = re.findall(r"^!\[[\w-]+\]\(([\w.-]+)\)$", text, re.MULTILINE)
        if all(card.render(config, name, shown) != text for name in names):
            warn(f"{file} is not the card that zoo makes of {CONFIG}, and is published as it is.")
            return text
    return card.render(config, repo_id, pictures)
