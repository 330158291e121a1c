"""What classes are called: their paths in a configuration, what was published under other names, titles of data sets.

Whatever was published keeps loading through the one table here: checkpoints, recipes and runs of before name classes,
arguments and callbacks as they were called then. Where they are read (`zoo.hub.config`, `zoo.training`) they are
brought up to date, and everything above knows the names of today alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

CLASSES = {
    "zoo.flows.FlowVAE": "zoo.latent.FlowVAE",
    "zoo.callbacks.Last": "zoo.callbacks.SaveLast",
    "zoo.callbacks.Record": "zoo.callbacks.RunRecord",
}
"""Where a published class is now."""

_LATENTS = {"latents": "latent_dim"}
ARGUMENTS = {
    "zoo.adversarial.GAN": _LATENTS,
    "zoo.adversarial.LAPGAN": _LATENTS,
    "zoo.autoregressive.DARN": _LATENTS,
    "zoo.latent.FlowVAE": _LATENTS,
}
"""What published arguments of a class of today are called now."""

ABSENT: dict[str, dict[str, Any]] = {"zoo.flows.Glow": {"stretch": None}}
"""What a checkpoint or a run that lacks an argument had in its place.

`zoo.save` and a run's `.ckpt` hold every argument that the class had then, so one that is lacking did not exist yet,
and today's default may be another. A recipe leaves out what has its default value, which is today's."""

SPECS: dict[str, dict[str, Any]] = {
    "zoo.autoregressive.MADE": {"levels": 2},
    "zoo.latent.FlowVAE": {"levels": 2},
    "zoo.flows.ContinuousFlow": {"levels": None},
    "zoo.flows.MAF": {"levels": None},
    "zoo.flows.EnergyFlow": {"shape": [2], "levels": None},
}
"""What is known of the data of models whose published configuration does not say it, beside its arguments."""

STATE_KEYS = {"Last": "SaveLast", "Record": "RunRecord"}
"""Under what key a run's `.ckpt` holds the state of a callback now."""

NUMBER_KINDS = {"bound": "upper"}
"""What the kind of a published result is called now: there were bounds of one direction alone."""


def class_path_of(cls: type) -> str:
    """The shortest dotted name that imports `cls`: `zoo.autoregressive.PixelCNN`, without its file's name."""
    module = cls.__module__
    if module.startswith("zoo."):
        parent = module.rpartition(".")[0]
        while "." in parent and getattr(importlib.import_module(parent), cls.__name__, None) is cls:
            module, parent = parent, parent.rpartition(".")[0]
    return f"{module}.{cls.__qualname__}"


def up_to_date(value: Any, *, complete: bool = False) -> Any:
    """What a configuration of before says, in the names of today; what is already so is returned equal.

    Args:
        value: plain JSON or YAML, in which every {"class_path", "init_args"}, "reference" and "results" is looked at.
        complete: whether arguments that are lacking did not exist when it was written, as in a config.json.
    """
    if isinstance(value, list):
        return [up_to_date(item, complete=complete) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: up_to_date(item, complete=complete) for key, item in value.items()}
    if isinstance(found.get("reference"), dict):
        found["reference"] = _reference(found["reference"])
    if isinstance(found.get("results"), list):
        found["results"] = [_result(each) if isinstance(each, dict) else each for each in found["results"]]
    path, arguments = found.get("class_path"), found.get("init_args")
    if not isinstance(path, str):
        return found
    found["class_path"] = path = CLASSES.get(path, path)
    if isinstance(arguments, dict):
        renamed = ARGUMENTS.get(path, {})
        # Where both names are given the old one stays, which the class refuses.
        now = {key: key if renamed.get(key) in arguments else renamed.get(key, key) for key in arguments}
        found["init_args"] = {now[key]: item for key, item in arguments.items()}
        if complete:
            found["init_args"] = {**ABSENT.get(path, {}), **found["init_args"]}
    return found


def _reference(reference: dict[str, Any]) -> dict[str, Any]:
    """Whose number it is was said by `target: true` alone."""
    if not isinstance(reference.get("target"), bool):
        return reference
    whose = {"whose": "target"} if reference["target"] else {}
    return whose | {key: value for key, value in reference.items() if key != "target"}


def _result(result: dict[str, Any]) -> dict[str, Any]:
    kind = result.get("kind")
    return result | {"kind": NUMBER_KINDS[kind]} if isinstance(kind, str) and kind in NUMBER_KINDS else result


def run_up_to_date(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's `.ckpt` holds, in the names of today: states of callbacks, the model's class and arguments."""
    state = dict(state)
    callbacks = {}
    for key, kept in (state.get("callbacks") or {}).items():
        # A callback's key is the name of its class, maybe with its arguments behind it.
        name = next((old for old in STATE_KEYS if key == old or key.startswith(f"{old}{{")), None)
        key = key if name is None else STATE_KEYS[name] + key[len(name) :]
        callbacks[key] = up_to_date(kept, complete=True) if key.startswith("RunRecord") else kept
    state["callbacks"] = callbacks
    record = next((kept for key, kept in callbacks.items() if key.startswith("RunRecord")), None) or {}
    arguments = dict(state.get("hyper_parameters") or {})
    own = {key: arguments.pop(key) for key in list(arguments) if key.startswith("_")}
    path = own.get("_class_path") or record.get("class_path")
    if path:
        current = up_to_date({"class_path": path, "init_args": arguments}, complete=True)
        arguments = current["init_args"]
        if "_class_path" in own:
            own["_class_path"] = current["class_path"]
    state["hyper_parameters"] = {**arguments, **own}
    return state


# What people and the Hub call the data sets of published checkpoints whose class has another name; a data module says
# so itself, and config.json holds what it says.
TITLES = {
    "AnimeFaces": "anime faces",
    "BreastCancer": "breast cancer",
    "FashionMNIST": "Fashion-MNIST",
    "CIFAR10": "CIFAR-10",
    "Digits": "digits",
    "Points": "points",
    "Table": "the table",
}
HUB_DATASETS = {
    "MNIST": "ylecun/mnist",
    "FashionMNIST": "zalando-datasets/fashion_mnist",
    "CIFAR10": "uoft-cs/cifar10",
}

_DIGITS = tuple("0123456789")
CLASS_NAMES = {
    "zoo.data.MNIST": _DIGITS,
    "zoo.data.Digits": _DIGITS,
    "zoo.data.CIFAR10": (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    "zoo.data.FashionMNIST": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    "zoo.data.BreastCancer": ("malignant", "benign"),
}
"""The names of the labels of data sets, in their order; checkpoints of before do not hold them."""


def dataset_title(name: str) -> str:
    """How people write the data set of this class: `CIFAR10` is CIFAR-10."""
    return TITLES.get(name, name)
