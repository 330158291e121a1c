"""A model in memory -> a repository on the Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.files import writing
from zoo.hub.client import repository
from zoo.hub.store import load, push, save

if TYPE_CHECKING:
    from zoo.model import Model

from_pretrained = load  # under the name that is known from elsewhere


def push_to_hub(
    model: Model,
    repo_id: str,
    *,
    commit_message: str | None = None,
    private: bool = False,
    branch: str | None = None,
    token: str | None = None,
    **facts: Any,
) -> str:
    """Publish a model that is no checkpoint folder, with the arguments of `huggingface_hub.ModelHubMixin.push_to_hub`.

    It is saved as `zoo.save` does and sent as `zoo.push` does. Numbers that a checkpoint's card has do not come with a
    model that was loaded from it, for its weights may have changed: publish a checkpoint by its name, with `zoo.push`.

    Args:
        model: one of the zoo's, or of a class of your own that derives from `zoo.Model`.
        repo_id: `namespace/name` on the Hub, made if it does not exist.
        commit_message: of the commit.
        private: whether a new repository is private.
        branch: made if it does not exist; by default the main branch.
        token: with the right to write; else the one the Hub's client is logged in with.
        facts: those of `zoo.save`: dtype, data, recipe, training, reference, results, notes.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: the model cannot be stored so that `zoo.load` gives it back.
        HubError: the Hub refused, failed or could not be reached.
    """
    with writing(tempfile.gettempdir()), tempfile.TemporaryDirectory(prefix="zoo-push-") as temporary:
        folder = save(model, Path(temporary, repository(repo_id).partition("/")[2]), **facts)
        return push(folder, repo_id, private=private, revision=branch, token=token, message=commit_message)
