"""The Hub's client as it is used here: what it may be asked, how long it waits, and one sentence for what it raises.

It is imported when it is first needed; its endpoint, cache and login are its own: HF_ENDPOINT, HF_HOME,
HF_HUB_OFFLINE, `hf auth login`.
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zoo.errors import HubError, ZooError, one_line, show

PREFIX = "hf-hub:"  # as timm has it
REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_TOKEN = re.compile(r"[!-~]+")
_FILE_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG),
)
TIMEOUT = 10.0  # seconds for the first answer of the Hub; after that its cache is used
SILENCE = 10.0  # seconds in which nothing comes, after which the client tries again, as its downloads do by themselves
_LONGEST_WAIT = 310.0  # seconds that the Hub may ask to wait; its limits are of five minutes

logger = logging.getLogger(__name__)


class UnreachableError(HubError):
    """The Hub gave no answer, or none of use: a cached copy may stand in."""


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


def at_revision(revision: str | None) -> str:
    """The revision as it stands in a sentence, behind the repository; empty where none is named."""
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
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils import _http

    attempts, notes = logging.getLogger("huggingface_hub.utils._http"), logging.getLogger("huggingface_hub")
    if _say_wait in attempts.filters:  # one of these is entered within another
        yield
        return
    links, factory = constants.HF_HUB_DISABLE_SYMLINKS_WARNING, _http._GLOBAL_CLIENT_FACTORY
    prints = notes.level == logging.WARNING

    def bounded() -> Any:
        session = factory()
        hooks = session.event_hooks
        hooks["request"].append(_bound)
        session.event_hooks = hooks
        return session

    # By the factory, for after a connection that failed the client makes itself another session.
    set_client_factory(bounded)
    # Of a cache that cannot be written it would say that it lacks links, before our sentence.
    constants.HF_HUB_DISABLE_SYMLINKS_WARNING = True
    attempts.addFilter(_say_wait)
    if prints:
        notes.setLevel(logging.ERROR)
        attempts.setLevel(logging.WARNING)  # as far as the filter
    try:
        yield
    finally:
        if prints:
            notes.setLevel(logging.WARNING)
            attempts.setLevel(logging.NOTSET)
        attempts.removeFilter(_say_wait)
        constants.HF_HUB_DISABLE_SYMLINKS_WARNING = links
        set_client_factory(factory)


def _bound(request: Any) -> None:
    """Let a request without an end have one: not of the session alone, for the client says None of some itself."""
    if not any((request.extensions.get("timeout") or {}).values()):
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), SILENCE)


def _say_wait(record: logging.LogRecord) -> bool:
    """Say how long the Hub asks to wait; whether a note of its client on an attempt is printed."""
    if found := re.match(r"Rate limited\. Waiting ([\d.]+)s", record.getMessage()):
        seconds = float(found[1])
        if seconds > _LONGEST_WAIT:
            raise UnreachableError(f"The Hub asks to wait {seconds:,.0f} s before it answers again: try then.")
        if seconds > SILENCE:
            logger.warning("The Hub asks to wait %.0f s before it answers again: waiting.", seconds)
    return record.levelno > logging.WARNING or logging.getLogger("huggingface_hub").level != logging.ERROR


def behind(error: BaseException) -> list[BaseException]:
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
    chain = behind(error)

    def caught(*kinds: type[BaseException]) -> bool:
        return any(isinstance(e, kinds) for e in chain)

    responses = (getattr(e, "response", None) for e in chain)
    response = next((r for r in responses if r is not None), None)
    status = None if response is None else response.status_code
    login = "log in with `hf auth login` or pass another token"
    if caught(errors.OfflineModeIsEnabled):
        return UnreachableError, f"HF_HUB_OFFLINE is set, so {hub} is not asked for {repo_id}."
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
        return UnreachableError, f"{the_hub} answers {repo_id} with status {status}; try {later}."
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
        return UnreachableError, (
            f"{the_hub} cannot be reached or broke the connection ({type(chain[-1]).__name__}); "
            f"check the network{unless} and try {repo_id} again."
        )
    return HubError, f"The Hub's client failed with {repo_id}: {type(error).__name__}: {one_line(error)}."
