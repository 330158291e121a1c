"""Densities that are known up to a constant: what a sampler or a variational flow is given in place of data."""

from __future__ import annotations

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.classes import class_path_of
from zoo.errors import DataError, show
from zoo.spec import DataSpec


class Target(ABC):
    """A density p(x) = exp(log_density(x)) / Z over continuous vectors.

    What is known beside it, a target has as well, and nothing that is not known (`hasattr` tells):

    - `log_normalizer()`: log Z in nats;
    - `mean`, float64 (D,), and `covariance`, float64 (D, D);
    - `sample(n, seed=None)`: exact draws, float32 (n, D).

    Its constructor's arguments are plain JSON values, kept in `arguments`, so that a configuration can name it.

    Attributes:
        shape: (D,) of one point.
        arguments: what it was made with.
    """

    shape: tuple[int, ...]
    arguments: dict[str, Any]

    @abstractmethod
    def log_density(self, x: Tensor) -> Tensor:
        """(N, *shape) to (N,) nats, log p(x) + log Z; differentiable."""

    def log_prob(self, x: Tensor) -> Tensor:
        """(N, *shape) to (N,) nats, log p(x), where log Z is known.

        Raises:
            DataError: it is not.
        """
        if not hasattr(self, "log_normalizer"):
            raise DataError(f"The normalizer of {type(self).__name__} is not known: take log_density.")
        return self.log_density(x) - self.log_normalizer()

    @property
    def config(self) -> dict[str, Any]:
        """{"class_path", "init_args"}, of which `target_of` makes it again."""
        return {"class_path": class_path_of(type(self)), "init_args": dict(self.arguments)}

    def check(self, x: Tensor) -> None:
        """Refuse what are not points (N, *shape) in floating point."""
        DataSpec(self.shape, None).check(x, "x", values=False)


def target_of(given: str | Mapping[str, Any] | Target) -> Target:
    """The target that is meant: the name of an energy of `zoo.targets.Energy`, or {"class_path", "init_args"}.

    A configuration that came with a checkpoint may name classes of `zoo.targets` alone (`zoo.hub.building`).

    Raises:
        DataError: there is no such target, or it does not take these arguments.
    """
    if isinstance(given, Target):
        return given
    if isinstance(given, str):
        from zoo.targets.energies import Energy

        return Energy(given)
    path = given.get("class_path") if isinstance(given, Mapping) else None
    if not isinstance(path, str) or set(given) - {"class_path", "init_args"}:
        raise DataError(f"A target is the name of an energy, or a class_path with its init_args, not {show(given)}.")
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(f"There is no target {path}: name a class of zoo.targets, or one of your own.") from error
    if not (isinstance(found, type) and issubclass(found, Target)) or inspect.isabstract(found):
        raise DataError(f"{path} is no target: it must derive from zoo.targets.Target and have a log_density.")
    try:
        return found(**(given.get("init_args") or {}))
    except TypeError as error:
        raise DataError(f"{path} cannot be made with these arguments: {error}.") from error
