"""What a model can be asked to draw: whether it can be sampled at all, and what `sample` cannot do without."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from zoo.errors import ZooError
from zoo.model.base import Model
from zoo.model.generative import GenerativeModel


def can_sample(model: Model | type[Model]) -> bool:
    """Whether a model, or a class of models, defines `sample`; `GenerativeModel` only says what that does."""
    method = getattr(model, "sample", None)
    return method is not None and getattr(method, "__func__", method) is not GenerativeModel.sample


def needed(method: Callable[..., Any]) -> tuple[str, ...]:
    """What a model's `sample` or `log_prob` cannot do without: its arguments after the first that have no default.

    Args:
        method: of a model, not of its class.

    Example:
        >>> needed(model.sample)  # of def sample(self, n, *, condition, seed=None)
        ('condition',)
    """
    _, *others = inspect.signature(method).parameters.values()
    several = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return tuple(each.name for each in others if each.default is each.empty and each.kind not in several)


def draws(model: Model, given: Iterable[str] = ()) -> bool:
    """Whether a model can be sampled with no more than `given`, the names of options, beside the number and a seed."""
    return can_sample(model) and set(needed(model.sample)) <= set(given)


def check_draws(model: Model, given: Iterable[str] = ()) -> None:
    """Refuse a model that does not draw with no more than `given`.

    Raises:
        ZooError: it cannot be sampled, or not without what it needs to be given.
    """
    name, given = type(model).__name__, set(given)
    if not can_sample(model):
        raise ZooError(f"{name} cannot be sampled.")
    missing = [each for each in needed(model.sample) if each not in given]
    if missing:
        options = ", ".join(f"{each}=..." for each in missing)
        raise ZooError(
            f"{name} is drawn given a {' and a '.join(missing)}, which is lacking here: use it from Python, "
            f"model.sample(n, {options})."
        )
