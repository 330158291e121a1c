"""The verbs that people know from `huggingface_hub.ModelHubMixin`, on every model: the zoo's own under another name.

What that mixin would do is kept to as far as the zoo's rules allow: only safetensors and JSON are read, a plain name is
a checkpoint's and never a folder's, and the card is made of what is known of the model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import CheckpointError, show
from zoo.face import verb

if TYPE_CHECKING:
    from typing_extensions import Self


class Pretrained:
    """From a name to a model and back to a repository: `zoo.load`, `zoo.save` and `zoo.push_to_hub`."""

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> Self:
        """A trained model of this class by name, in eval mode: `zoo.load`.

        Args:
            name: a plain name, a folder (with a separator in it), or `namespace/name` on the Hub.
            options: those of `zoo.load`: revision, token, local_files_only, device, namespace.

        Raises:
            CheckpointError: the checkpoint is missing, damaged, hostile or of another class.
            HubError: the Hub refused, failed or could not be reached.
        """
        own = None if cls.__module__.startswith("zoo.") else cls
        model = verb("load")(name, cls=own, **options)
        if not isinstance(model, cls):
            raise CheckpointError(f"{show(os.fspath(name))} is a {type(model).__name__} and no {cls.__name__}.")
        return model

    def save_pretrained(self, save_directory: str | os.PathLike[str], **facts: Any) -> Path:
        """Write this model as a checkpoint folder, its weights as they are: `zoo.save` without rounding.

        Args:
            save_directory: the folder; a checkpoint that is there is replaced.
            facts: those of `zoo.save`: data, recipe, training, reference, results, notes; or another dtype.
        """
        return verb("save")(self, save_directory, **{"dtype": self._stored_dtype(), **facts})

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Publish this model, its weights as they are, and return the address of the commit: `zoo.push_to_hub`.

        Args:
            repo_id: `namespace/name` on the Hub, made if it does not exist.
            options: those of `zoo.push_to_hub`: commit_message, private, branch, token, and facts for the card.
        """
        return verb("push_to_hub")(self, repo_id, **{"dtype": self._stored_dtype(), **options})

    def _stored_dtype(self) -> str:
        """In which the parameters lose nothing."""
        kinds = {str(parameter.dtype) for parameter in self.parameters()}
        return "float64" if kinds == {"torch.float64"} else "float32"
