"""A zoo of generative models on PyTorch Lightning, with weights.

>>> import zoo
>>> model = zoo.load("pixelcnn-cifar10")
>>> images = model.sample(16, seed=0)  # uint8 (16, 3, 32, 32)
>>> zoo.show(images)  # a picture, in a notebook
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zoo import face

if TYPE_CHECKING:
    from zoo.batch import Batch
    from zoo.errors import CheckpointError, DataError, HubError, ZooError
    from zoo.evaluation.comparison import distance
    from zoo.evaluation.measure import evaluate
    from zoo.hub.finding import names
    from zoo.hub.pretrained import from_pretrained, push_to_hub
    from zoo.hub.remote import pull
    from zoo.hub.store import load, push, save
    from zoo.model import GenerativeModel, Model
    from zoo.pictures.show import show
    from zoo.results import Result
    from zoo.spec import DataSpec

__version__ = "0.1.0"

# Looked up on first use, so that `import zoo` and `zoo --help` do not wait for torch.
_HOMES = {
    **dict.fromkeys(["load", "push", "save"], "zoo.hub.store"),
    "names": "zoo.hub.finding",
    **dict.fromkeys(["from_pretrained", "push_to_hub"], "zoo.hub.pretrained"),
    "pull": "zoo.hub.remote",
    "distance": "zoo.evaluation.comparison",
    "evaluate": "zoo.evaluation.measure",
    "show": "zoo.pictures.show",
    "Batch": "zoo.batch",
    "DataSpec": "zoo.spec",
    "Result": "zoo.results",
    **dict.fromkeys(["GenerativeModel", "Model"], "zoo.model"),
    **dict.fromkeys(["CheckpointError", "DataError", "HubError", "ZooError"], "zoo.errors"),
}

__all__ = [
    "Batch",
    "CheckpointError",
    "DataError",
    "DataSpec",
    "GenerativeModel",
    "HubError",
    "Model",
    "Result",
    "ZooError",
    "distance",
    "evaluate",
    "from_pretrained",
    "load",
    "names",
    "pull",
    "push",
    "push_to_hub",
    "save",
    "show",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


face.hand_over(__getattr__)
