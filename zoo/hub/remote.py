"""Checkpoint folders from a Hugging Face Hub, through its own client, verified before they are used.

How the client is used, and what is said when it fails, is in `zoo.hub.client`.
"""

from __future__ import annotations

import hashlib
import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from zoo.errors import CheckpointError, HubError, show
from zoo.hub import client
from zoo.hub.client import UnreachableError, at_revision, behind, check_request, explained
from zoo.hub.config import CONFIG, read_config
from zoo.hub.folder import verify, weight_files
from zoo.hub.reading import PICTURES

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BROKEN = ("RemoteProtocolError", "ReadError")  # of the client's HTTP library, whichever that is

logger = logging.getLogger(__name__)


def pull(
    repo_id: str, *, revision: str | None = None, local_files_only: bool = False, token: str | None = None
) -> Path:
    """Fetch a checkpoint from the Hub into its client's cache, and verify it.

    A commit that is cached needs no network. Of a branch the newest state is fetched; while the Hub cannot be
    reached, the cached one serves. What is damaged in the cache is fetched anew.

    Args:
        repo_id: `namespace/name`, also written `hf-hub:namespace/name`.
        revision: branch, tag or commit; by default the main branch.
        local_files_only: never use the network.
        token: for private repositories; else the one the Hub's client is logged in with.

    Returns:
        The folder, inside the cache: read it, do not change it.

    Raises:
        HubError: the Hub refused, failed or could not be reached, and nothing usable is cached.
        CheckpointError: the repository holds no sound checkpoint.
    """
    repo_id = check_request(repo_id, revision, token)
    if local_files_only:
        folder = _cached(repo_id, revision)
        if folder is None:
            raise HubError(
                f"{repo_id}{at_revision(revision)} is not in the Hub's cache; pull it once with the network."
            )
        try:
            verify(folder)
        except CheckpointError as error:
            raise CheckpointError(
                f"The cached copy of {repo_id} is unusable, pull it with the network again: {error}"
            ) from error
        return folder
    if revision is not None and _COMMIT.fullmatch(revision):
        # A commit never changes: a sound copy of it is as good as the Hub's, a damaged one is fetched anew.
        folder = _cached(repo_id, revision)
        if folder is not None and _sound(folder):
            return folder
    try:
        return _fetch(repo_id, revision, token)
    except UnreachableError as error:
        folder = _cached(repo_id, revision)
        if folder is None or not _sound(folder):
            raise
        logger.warning("%s Using the cached copy of %s.", error, repo_id)
        return folder


def pull_config(repo_id: str, *, revision: str | None = None, token: str | None = None) -> dict[str, Any]:
    """config.json of a checkpoint on the Hub, without its weights; the cached one while the Hub cannot be reached.

    Raises:
        HubError: the Hub refused, failed or could not be reached, and it is not cached.
        CheckpointError: it is none.
    """
    repo_id = check_request(repo_id, revision, token)
    from huggingface_hub import HfApi, hf_hub_download

    try:
        with explained(repo_id, revision, token):
            # At a commit, so that the cache does not learn of a branch whose weights it has not.
            commit = HfApi(token=token).model_info(repo_id, revision=revision, timeout=client.TIMEOUT).sha
            return read_config(Path(hf_hub_download(repo_id, CONFIG, revision=commit, token=token)).parent)
    except UnreachableError:
        folder = _cached(repo_id, revision)
        if folder is None:
            raise
        return read_config(folder)


def _sound(folder: Path) -> bool:
    with suppress(CheckpointError):
        verify(folder)
        return True
    return False


def _cached(repo_id: str, revision: str | None) -> Path | None:
    """The cached folder of a revision, possibly incomplete."""
    from huggingface_hub import try_to_load_from_cache

    with explained(repo_id, revision, None):
        config = try_to_load_from_cache(repo_id, CONFIG, revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def _fetch(repo_id: str, revision: str | None, token: str | None) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    def download(file: str, at: str | None, force: bool, attempts: int = 3) -> Path:
        try:
            return Path(hf_hub_download(repo_id, file, revision=at, token=token, force_download=force))
        except Exception as error:
            # Newer clients go on by themselves; with older ones another call goes on where this one broke off.
            if attempts == 1 or not any(type(each).__name__ in _BROKEN for each in behind(error)):
                raise
        return download(file, at, force, attempts - 1)

    with explained(repo_id, revision, token):
        info = HfApi(token=token).model_info(repo_id, revision=revision, timeout=client.TIMEOUT)
        files = {sibling.rfilename for sibling in info.siblings or ()}
        if CONFIG not in files:
            raise CheckpointError(f"{repo_id}{at_revision(revision)} has no {CONFIG}, so it is no checkpoint of zoo.")
        # All files come from one commit, even while somebody pushes. The configuration comes first: a
        # repository that holds something else is refused before its gigabytes are fetched.
        for again in (False, True):
            config = download(CONFIG, info.sha, again)
            folder = config.parent
            try:
                _check_arrived(config)
                wanted = weight_files(read_config(folder))
                missing = sorted(wanted - files)
                if missing:
                    raise CheckpointError(f"{repo_id}{at_revision(revision)} lacks {show(missing[0])}; push it again.")
                extras = {file for file in files if file == "README.md" or PICTURES.fullmatch(file)}
                for file in sorted(wanted | extras):
                    _check_arrived(download(file, info.sha, again))
                verify(folder)
                break
            except CheckpointError as error:
                # A first failure may be the cache's; the second time everything came from the Hub.
                if again:
                    raise CheckpointError(f"What the Hub holds as {repo_id} is unusable: {error}") from error
        # Only now does the cache learn that the branch is at this commit: a connection that breaks before
        # leaves the branch at the older commit, which is complete.
        if _cached(repo_id, revision) != folder:
            download(CONFIG, revision, False)
    return folder


def _check_arrived(file: Path) -> None:
    """Refuse a file that is not the one that the Hub announced.

    The Hub's client keeps it under its ETag, Git's SHA-1 of a small file and the SHA-256 of a large one, but does not
    compare them. Where the system has no links, or a server other ETags, there is nothing to compare with.
    """
    etag = file.resolve().name
    if _COMMIT.fullmatch(etag):
        digest = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
    elif _SHA256.fullmatch(etag):
        digest = hashlib.sha256()
    else:
        return
    with file.open("rb") as opened:
        while piece := opened.read(1 << 20):
            digest.update(piece)
    if digest.hexdigest() != etag:
        raise CheckpointError(f"{file.name} did not arrive as the Hub announced it; try again.")
