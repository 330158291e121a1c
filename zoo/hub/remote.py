"""Checkpoint folders to and from a Hugging Face Hub, through its own client.

What arrives is verified before it is used, and whatever the client raises becomes one `HubError` sentence.
The client is imported when it is first needed; its endpoint, cache and login are its own: HF_ENDPOINT,
HF_HOME, HF_HUB_OFFLINE, `hf auth login`.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zoo.errors import CheckpointError, HubError, ZooError, one_line, show
from zoo.hub.config import CONFIG, read_config
from zoo.hub.folder import verify, weight_files

PREFIX = "hf-hub:"  # as timm has it
REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TOKEN = re.compile(r"[!-~]+")
_FILE_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG),
)
_BROKEN = ("RemoteProtocolError", "ReadError")  # of the client's HTTP library, whichever that is
_TIMEOUT = 10.0  # seconds for the first answer of the Hub; after that its cache is used
_SILENCE = 10.0  # seconds in which nothing comes, after which the client tries again, as its downloads do by themselves
_LONGEST_WAIT = 310.0  # seconds that the Hub may ask to wait; its limits are of five minutes

logger = logging.getLogger(__name__)


class _UnreachableError(HubError):
    """The Hub gave no answer, or none of use: a cached copy may stand in."""


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
            raise HubError(f"{repo_id}{_at(revision)} is not in the Hub's cache; pull it once with the network.")
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
    except _UnreachableError as error:
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
            commit = HfApi(token=token).model_info(repo_id, revision=revision, timeout=_TIMEOUT).sha
            return read_config(Path(hf_hub_download(repo_id, CONFIG, revision=commit, token=token)).parent)
    except _UnreachableError:
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
            if attempts == 1 or not any(type(each).__name__ in _BROKEN for each in _behind(error)):
                raise
        return download(file, at, force, attempts - 1)

    with explained(repo_id, revision, token):
        info = HfApi(token=token).model_info(repo_id, revision=revision, timeout=_TIMEOUT)
        files = {sibling.rfilename for sibling in info.siblings or ()}
        if CONFIG not in files:
            raise CheckpointError(f"{repo_id}{_at(revision)} has no {CONFIG}, so it is no checkpoint of zoo.")
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
                    raise CheckpointError(f"{repo_id}{_at(revision)} lacks {show(missing[0])}; push it again.")
                extras = {file for file in files if file == "README.md" or re.fullmatch(r"[\w-]+\.png", file)}
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


def repository(repo_id: str) -> str:
    """`namespace/name` of what may also be written `hf-hub:namespace/name`.

    Raises:
        HubError: it is neither.
    """
    plain = repo_id.removeprefix(PREFIX)
    if not REPO_ID.fullmatch(plain) or ".." in plain:
        raise HubError(f"{show(repo_id)} is no repository of a Hub; write namespace/name.")
    return plain


def check_request(repo_id: str, revision: str | None, token: str | None) -> str:
    """The repository that is meant; raises `HubError` where it, the revision or the token cannot be one."""
    repo_id = repository(repo_id)
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise HubError(f"{show(revision)} is no revision; give a branch, a tag or a commit.")
    # Checked here because the HTTP library's own complaint would print it.
    if token is not None and not _TOKEN.fullmatch(token):
        raise HubError("The Hub token is empty or holds blanks or control characters; copy it again.")
    return repo_id


def _at(revision: str | None) -> str:
    return f" at {revision}" if revision else ""


@contextmanager
def explained(repo_id: str, revision: str | None, token: str | None) -> Iterator[None]:
    """Turn whatever the Hub's client raises into one sentence."""
    try:
        with _patient():
            yield
    except ZooError:
        raise
    except Exception as error:
        kind, sentence = _explanation(error, repo_id, revision)
        if token is not None:
            sentence = sentence.replace(token, "(token)")
        raise kind(sentence) from error


@contextmanager
def _patient() -> Iterator[None]:
    """The Hub's client as it is here: it waits for no silent Hub for ever, and does not print each attempt.

    A wait that the Hub asks for is said, and refused where it is a long one. What somebody has set themselves, a time
    or by HF_HUB_VERBOSITY, stays.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    session, notes = get_session(), logging.getLogger("huggingface_hub")
    attempts = logging.getLogger("huggingface_hub.utils._http")
    waits, prints = not any(session.timeout.as_dict().values()), notes.level == logging.WARNING
    links = constants.HF_HUB_DISABLE_SYMLINKS_WARNING
    # Of a cache that cannot be written it would say that it lacks links, before our sentence.
    constants.HF_HUB_DISABLE_SYMLINKS_WARNING = True
    attempts.addFilter(_say_wait)
    if waits:
        session.timeout = _SILENCE
    if prints:
        notes.setLevel(logging.ERROR)
        attempts.setLevel(logging.WARNING)  # as far as the filter
    try:
        yield
    finally:
        if waits:
            session.timeout = None
        if prints:
            notes.setLevel(logging.WARNING)
            attempts.setLevel(logging.NOTSET)
        attempts.removeFilter(_say_wait)
        constants.HF_HUB_DISABLE_SYMLINKS_WARNING = links


def _say_wait(record: logging.LogRecord) -> bool:
    """Say how long the Hub asks to wait; whether a note of its client on an attempt is printed."""
    if found := re.match(r"Rate limited\. Waiting ([\d.]+)s", record.getMessage()):
        seconds = float(found[1])
        if seconds > _LONGEST_WAIT:
            raise _UnreachableError(f"The Hub asks to wait {seconds:,.0f} s before it answers again: try then.")
        if seconds > _SILENCE:
            logger.warning("The Hub asks to wait %.0f s before it answers again: waiting.", seconds)
    return record.levelno > logging.WARNING or logging.getLogger("huggingface_hub").level != logging.ERROR


def _behind(error: BaseException) -> list[BaseException]:
    """An error and those that led to it."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain


def _explanation(error: Exception, repo_id: str, revision: str | None) -> tuple[type[HubError], str]:
    """The kind of a client's error and a sentence for it, judging by all errors behind it."""
    from huggingface_hub import HfApi, constants, errors

    hub = f"the Hub at {HfApi().endpoint}"
    the_hub = hub[0].upper() + hub[1:]
    chain = _behind(error)

    def caught(*kinds: type[BaseException]) -> bool:
        return any(isinstance(e, kinds) for e in chain)

    responses = (getattr(e, "response", None) for e in chain)
    response = next((r for r in responses if r is not None), None)
    status = None if response is None else response.status_code
    login = "log in with `hf auth login` or pass another token"
    if caught(errors.OfflineModeIsEnabled):
        return _UnreachableError, f"HF_HUB_OFFLINE is set, so {hub} is not asked for {repo_id}."
    if caught(errors.GatedRepoError):
        return HubError, f"{repo_id} is gated: ask for access on its page, then {login}."
    # Without a token the Hub gives no code, and its client knows only by https what is meant.
    unknown = status == 401 and not any("Invalid credentials" in str(e) for e in chain)
    if caught(errors.RepositoryNotFoundError) or unknown:
        return HubError, f"There is no {repo_id} on {hub}, or it is private; check the name, or {login}."
    if caught(errors.RevisionNotFoundError):
        return HubError, f"{repo_id} on {hub} has no revision {show(revision)}; give a branch, tag or commit."
    if caught(errors.RemoteEntryNotFoundError):
        return HubError, f"{repo_id} on {hub} lacks a file of the checkpoint; push it again."
    if status == 401:
        return HubError, f"{the_hub} does not accept the token; {login}."
    if status == 403:
        return HubError, f"{the_hub} does not allow this with {repo_id}; {login}."
    if status is not None and (status >= 500 or status in (408, 429)):
        wait = response.headers.get("retry-after", "")
        later = f"in {int(wait):,} s" if re.fullmatch(r"[0-9]{1,9}", wait) else "later"
        return _UnreachableError, f"{the_hub} answers {repo_id} with status {status}; try {later}."
    if status is not None:
        return HubError, f"{the_hub} refuses {repo_id} with status {status}: {one_line(error)}."
    if caught(errors.HFValidationError):
        return HubError, f"{show(repo_id)} is no valid name for a repository of the Hub: {one_line(error)}."
    for e in chain:
        if isinstance(e, OSError) and e.errno in _FILE_ERRORS:
            remedy = "make room or set HF_HOME to another folder"
            cache = constants.HF_HUB_CACHE
            return HubError, f"The Hub's cache cannot be written, {cache} ({e.strerror}): {remedy}."
    # The client's HTTP library differs between its versions; its errors all derive from the same base.
    transport = next(c for c in errors.HfHubHTTPError.__mro__ if c.__name__ == "HTTPError")
    if caught(transport, OSError):
        # The client's library for Xet says where it was in its text alone.
        xet = any("xet-" in str(e) or "cas-" in str(e) for e in chain)
        unless = ", or set HF_HUB_DISABLE_XET=1 where it does not take Xet," if xet else ""
        return _UnreachableError, (
            f"{the_hub} cannot be reached or broke the connection ({type(chain[-1]).__name__}); "
            f"check the network{unless} and try {repo_id} again."
        )
    return HubError, f"The Hub's client failed with {repo_id}: {type(error).__name__}: {one_line(error)}."
