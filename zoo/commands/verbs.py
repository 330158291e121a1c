"""What commands about one verb of a model share: the model, the verb's own options, and the data it is given."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from zoo.errors import ZooError

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.model import GenerativeModel, Model
    from zoo.spec import DataSpec

NAMED = 20  # classes whose names the help lists

Options = dict[str, tuple[type, Any, str]]
"""Type, default and help of each option, by name; the default of one that has to be given is None."""


def options_of(verb: str, command: Callable[..., None], lacking: str) -> Callable[[str, str | None], Options]:
    """What tells the options of a verb that are a model's own, by its class and config.json alone.

    Args:
        verb: of a model.
        command: whose own options are left out.
        lacking: what is said, after its name, of a checkpoint whose model has no such verb.

    Returns:
        From the name of a checkpoint and a revision to these options; it raises ZooError where there is no such
        checkpoint, or its model has no such verb.
    """

    def options(name: str, revision: str | None = None) -> Options:
        from zoo.hub import building, finding
        from zoo.hub.config import spec_of

        config = finding.config_of(name, revision=revision)
        cls, spec = building.resolve(config["class_path"]), spec_of(config)
        if not has(cls, verb):
            raise ZooError(f"{name} {lacking}")
        return own_options(cls, verb, command, spec)

    return options


def has(model: Model | type[Model], verb: str) -> bool:
    """Whether a model, or a class of models, has a verb; every distribution has a `sample` that may only refuse."""
    from zoo.model.asking import can_sample

    return can_sample(model) if verb == "sample" else hasattr(model, verb)


def own_options(cls: type[Model], verb: str, command: Callable[..., None], spec: DataSpec | None = None) -> Options:
    """The options of a class; those of labels that may be left out are some where the model was made with labels."""
    helps, found = documented(getattr(cls, verb)), {}
    drawn = documented(cls.sample) if hasattr(cls, "sample") else {}
    own = inspect.signature(command).parameters  # an option of the command's own name is the command's
    for parameter in inspect.signature(getattr(cls, verb), eval_str=True).parameters.values():
        union = get_origin(parameter.annotation) in (types.UnionType, Union)
        kinds = get_args(parameter.annotation) if union else (parameter.annotation,)
        kind = next((kind for kind in (bool, int, float, str) if kind in kinds), None)
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.name in own or kind is None:
            continue
        required = parameter.default is parameter.empty
        if parameter.name in ("label", "guidance") and not (spec and spec.classes) and not required:
            continue
        text = helps.get(parameter.name, "")
        if not text or text.startswith("as in `sample`"):
            text = drawn.get(parameter.name, text)
        default = None if required else parameter.default
        if parameter.name == "label" and spec and spec.class_names:
            kind, text = str, f"{text.rstrip('.')}. Classes: {', '.join(spec.class_names[:NAMED])}"
            text += " and more" if len(spec.class_names) > NAMED else ""
        found[parameter.name] = kind, default, text
    return found


def documented(function: Any) -> dict[str, str]:
    """The texts of a docstring's Args, on one line each, by name."""
    text = (inspect.getdoc(function) or "").partition("\n\nArgs:\n")[2]
    found = re.findall(r"^ {4}([\w, ]+): (.*(?:\n {8}.*)*)", text, flags=re.MULTILINE)
    return {name: " ".join(help.split()) for names, help in found for name in names.split(", ")}


def load(name: str, device: str, revision: str | None) -> GenerativeModel:
    """The model of a checkpoint on a device."""
    from zoo.hub import store
    from zoo.nn.devices import checked_device

    return store.load(name, device=checked_device(device), revision=revision)


def given(
    name: str,
    spec: DataSpec,
    image: Path | None,
    index: int | None,
    n: int,
    root: Path | None,
    revision: str | None,
    least: int | None = None,
) -> Tensor:
    """Data that a verb is given: a picture file, (1, C, H, W), or `n` of the test split, (n, *shape).

    Args:
        name: of a checkpoint, whose data are those that it was measured on.
        spec: of its data.
        image: the picture file.
        index: or the first of the test split, by default its first.
        n: how many.
        root: folder of the data sets.
        revision: of a Hub repository.
        least: how many do where the split has no more; by default `n`.
    """
    import torch

    from zoo.data.splits import held_out
    from zoo.hub import finding
    from zoo.hub.config import read_config
    from zoo.hub.data import datamodule
    from zoo.pictures import images as pictures

    if image is not None:
        return pictures.read(image, spec)
    config = read_config(finding.find(name, revision=revision))
    if not config.get("data"):
        raise ZooError(f"{name} names no data set; give the image as --image FILE.png.")
    start, first, parts, least = index or 0, 0, [], n if least is None else least
    for batch in held_out(datamodule(config["data"], root=root)):
        x = batch.x
        parts.append(x[max(0, start - first) : max(0, start + n - first)])
        first += len(x)
        if start >= 0 and first >= start + n:
            break
    else:
        last = first - least
        if last < 0:
            raise ZooError(f"-n must be at most {first}, the data of the test split, not {n}.")
        if not 0 <= start <= last:
            raise ZooError(f"--index must be 0 to {last}, data of the test split, not {index}.")
    return torch.cat(parts)


def positive(option: str, value: int) -> None:
    """Refuse a count below one."""
    if value < 1:
        raise ZooError(f"-{option} must be at least 1, not {value}.")
