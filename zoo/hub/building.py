"""From a configuration's words to a model, trusting neither `class_path` nor `init_args`.

Only classes of the zoo are built, only with arguments that their signatures accept, and only as large as the
weights that came with them: a few bytes of JSON must not allocate a terabyte or loop for an hour.
"""

from __future__ import annotations

import importlib
import inspect
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import torch
from torch import Tensor

from zoo.classes import class_path_of
from zoo.errors import CheckpointError, refusing, show
from zoo.hub.bounds import TooLarge, bounded
from zoo.hub.packing import check_fit, fill
from zoo.model import Model

_MAX_INTEGER = 2**31 - 1
_MIN_FLOAT = 1e-30  # neither it nor 1 over it leaves float32
_MAX_DIMS = 2**24  # components of one datum; a colour image of 2048 x 2048 has 12.6 million


def resolve(class_path: str, cls: type[Model] | None = None) -> type[Model]:
    """The class that `class_path` names: one of the zoo's own, or the caller's `cls` if it is that.

    Raises:
        CheckpointError: the path leaves the zoo, does not exist, or names no model.
    """
    if cls is not None:
        if class_path not in (class_path_of(cls), f"{cls.__module__}.{cls.__qualname__}"):
            raise CheckpointError(f"The checkpoint is a {class_path}, not the {class_path_of(cls)} passed as cls.")
        return cls
    if class_path.split(".")[0] != "zoo":
        raise CheckpointError(
            f"class_path {show(class_path)} lies outside zoo, so its code is not run; "
            "if you trust it, import the class in Python and pass it as cls, to zoo.load or export_run."
        )
    return _found(class_path, Model, "zoo.", "model of zoo")


def _found(class_path: str, base: type, package: str, what: str) -> type:
    """The public class of that name, derived from `base` and defined within `package`."""
    module_name, _, name = class_path.rpartition(".")
    if any(piece.startswith("_") or not piece.isidentifier() for piece in class_path.split(".")):
        raise CheckpointError(f"class_path {show(class_path)} is not the public name of a class.")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"class_path {show(class_path)} does not exist in this version of zoo.") from error
    if not (
        isinstance(found, type)
        and issubclass(found, base)
        and found.__module__.startswith(package)
        and found is not base
        and not found.__module__.startswith("zoo.model.")
    ):
        raise CheckpointError(f"class_path {show(class_path)} names no {what}.")
    return found


def check_arguments(cls: type, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the constructor of `cls` does not take, lacks, or annotates otherwise.

    Whatever among them has a class_path of its own, however deep, must be a target of `zoo.targets`, with arguments
    that are checked in the same way; where it is not, nothing is imported.

    Raises:
        CheckpointError: naming the argument.
    """
    nested = _nested(arguments)
    for component in nested:
        _check_target_path(component)
    name = cls.__name__
    parameters = dict(list(inspect.signature(cls.__init__).parameters.items())[1:])
    tunnel = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {k: p for k, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for key in arguments:
        if key not in named and not tunnel:
            raise CheckpointError(f"init_args: {name} takes no argument {show(key)}; it takes {', '.join(named)}.")
    for key, parameter in named.items():
        if parameter.default is parameter.empty and key not in arguments:
            raise CheckpointError(f"init_args: {name} needs the argument {show(key)}.")
    try:
        hints = typing.get_type_hints(cls.__init__)
    except Exception:  # an annotation that exists for type checkers only cannot be checked here
        hints = {}
    for key, value in arguments.items():
        if not _fits(value, hints.get(key, Any)):
            hint = inspect.formatannotation(hints[key])
            raise CheckpointError(f"init_args: {name}'s {key} must be {hint}, not {show(value)}.")
        _check_numbers(value, f"init_args: {name}'s {key}")
    if nested:
        from zoo.targets.base import Target

        for component in nested:
            target = _found(component["class_path"], Target, "zoo.targets.", "target of zoo.targets")
            check_arguments(target, component.get("init_args", {}))


def _nested(arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every object with a class_path among JSON values, however deep."""
    found, left = [], list(arguments.values())
    while left:  # and no recursion, for a stranger says how deep
        value = left.pop()
        if isinstance(value, dict) and "class_path" in value:
            found.append(value)
        if isinstance(value, (dict, list)):
            left += value.values() if isinstance(value, dict) else value
    return found


def _check_target_path(component: dict[str, Any]) -> None:
    """Refuse, by its words alone, what does not name a class of `zoo.targets`."""
    path, arguments = component["class_path"], component.get("init_args", {})
    if not isinstance(path, str) or not path.startswith("zoo.targets."):
        raise CheckpointError(f"init_args: class_path {show(path)} is not one of zoo.targets, so its code is not run.")
    if any(piece.startswith("_") or not piece.isidentifier() for piece in path.split(".")):
        raise CheckpointError(f"init_args: class_path {show(path)} is not the public name of a class.")
    if not isinstance(arguments, dict) or not set(component) <= {"class_path", "init_args"}:
        raise CheckpointError(f"init_args: a target has class_path and init_args alone, not {show(component)}.")


def _check_numbers(value: object, what: str) -> None:
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, int) and abs(item) > _MAX_INTEGER:
            raise CheckpointError(f"{what} is {show(item, 24)}, which is absurd; at most {_MAX_INTEGER} is accepted.")
        if isinstance(item, float) and item and not _MIN_FLOAT <= abs(item) <= 1 / _MIN_FLOAT:
            raise CheckpointError(
                f"{what} is {show(item, 24)}, which is absurd; 0, or {_MIN_FLOAT:g} to {1 / _MIN_FLOAT:g}, is accepted."
            )
        if isinstance(item, (list, dict)):
            left += item.values() if isinstance(item, dict) else item


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value fits an annotation; annotations that JSON cannot be held against fit anything."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in (None, type(None)):
        return value is None
    if hint is bool or hint is str:
        return isinstance(value, hint)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in inner)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in inner)
    base = origin or hint
    if isinstance(base, type) and issubclass(base, Mapping):
        return isinstance(value, dict) and (not inner or all(_fits(v, inner[1]) for v in value.values()))
    if isinstance(base, type) and issubclass(base, Sequence):
        if not isinstance(value, list):
            return False
        if base is tuple and inner and Ellipsis not in inner:
            return len(value) == len(inner) and all(map(_fits, value, inner))
        return not inner or all(_fits(item, inner[0]) for item in value)
    return True


def build(cls: type[Model], arguments: Mapping[str, Any], weights: Mapping[str, Tensor], where: str) -> Model:
    """`cls(**arguments)` filled with `weights`, whose names, shapes and dtypes must be exactly the model's.

    The global random number generator stays as it was.

    Args:
        cls: the model's class.
        arguments: its constructor's arguments, as `check_arguments` accepts them.
        weights: name -> tensor, the whole state dict.
        where: names the checkpoint in errors.

    Raises:
        CheckpointError: the constructor refuses the arguments or they ask for absurd sizes, or the weights do
            not fit.
    """
    model = empty(cls, arguments, {name: tuple(tensor.shape) for name, tensor in weights.items()}, where)
    fill(model, weights, where)
    return model


def empty(cls: type[Model], arguments: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: str) -> Model:
    """`cls(**arguments)`, which weights of these names and shapes will fit, as `build` makes it before they are read.

    Raises:
        CheckpointError: the constructor refuses the arguments or they ask for more than such weights can fill, or their
            names and shapes are not the model's.
    """
    given = show(dict(arguments), 200)
    try:
        with refusing(f"{where}: {cls.__name__} cannot be built with {given}"):
            with torch.random.fork_rng(devices=[]), bounded(shapes):
                model = cls(**arguments)
            dims = math.prod(model.spec.shape)
    except TooLarge as error:
        raise CheckpointError(
            f"{where}: init_args {given} ask for a {cls.__name__} far larger than its weights."
        ) from error
    # A flow's convolutions take images of any size: a few weights of them take no images of a hundred megabytes.
    if dims > min(_MAX_DIMS, 2**20 + 64 * sum(map(math.prod, shapes.values()))):
        raise CheckpointError(f"{where}: data of shape {show(model.spec.shape)} is absurdly large.")
    check_fit(model, shapes, where)
    return model
