"""The contract of a density that is known up to a constant, and how one is named in a recipe."""

from __future__ import annotations

import importlib
import inspect
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.arguments import seed_of
from zoo.classes import class_path_of
from zoo.errors import DataError, one_line, show
from zoo.spec import DataSpec

Random = np.random.RandomState
BLOCK = 1024  # data of one stream


class Target:
    """A density p(x) = exp(log_density(x)) / Z, of which Z need not be known: what a sampler or a flow is set upon.

    What is known beyond it is defined, and what is not is not, so that `hasattr` tells:

    - `log_normalizer()`: log Z in nats;
    - `log_prob(x)`: (N, *shape) to (N,) nats, normalized;
    - `mean`, `variance`: of each component, float64 (*shape);
    - `sample(n, *, seed=None)`: exact draws, float32 (n, *shape); a seed gives the same draws each time.

    A constructor takes plain JSON values and keeps each as the attribute of its name.

    Attributes:
        shape: of one datum.
        name: what people call it, in a phrase.
    """

    shape: tuple[int, ...]
    name: str

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) + log Z: floats (N, *shape) to (N,) nats, differentiable; in float32 where x has half precision.

        Raises:
            DataError: x has another shape or is not floating point.
        """
        raise NotImplementedError

    @property
    def spec(self) -> DataSpec:
        """The data that are drawn from it: continuous, of its shape."""
        return DataSpec(self.shape, None)

    @property
    def config(self) -> dict[str, Any]:
        """`class_path` and `init_args`, of which `target_of` makes it again."""
        arguments = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        return {"class_path": class_path_of(type(self)), "init_args": arguments}

    def checked(self, x: Tensor, what: str = "x") -> Tensor:
        """A batch of data, at least in float32; refuses another shape and integers."""
        self.spec.check(x, what, values=False)
        return x.to(torch.promote_types(x.dtype, torch.float32))


class Known(Target):
    """A target of which everything is known, to hold a sampler or a flow against."""

    def log_normalizer(self) -> float:
        """log Z in nats."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        """Of each component, float64 (*shape)."""
        raise NotImplementedError

    @property
    def variance(self) -> Tensor:
        """Of each component, float64 (*shape)."""
        raise NotImplementedError

    def draw(self, random: Random, n: int) -> np.ndarray:
        """`n` exact draws, (n, *shape) in float64."""
        raise NotImplementedError

    def log_prob(self, x: Tensor) -> Tensor:
        """(N, *shape) to (N,) nats, normalized."""
        return self.log_density(x) - self.log_normalizer()

    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """Draw `n` data exactly, float32 (n, *shape); a seed gives the same data each time, the first of them whatever
        `n` is.
        """
        n, seed = DataSpec(self.shape, None).count(n), seed_of(seed)
        seed = secrets.randbits(64) if seed is None else seed
        words = [seed % 2**32, seed // 2**32]  # of 32 bits, as RandomState takes them
        blocks = [self.draw(Random([*words, block]), BLOCK) for block in range(-(-n // BLOCK))]
        return torch.from_numpy(np.concatenate(blocks)[:n].astype(np.float32))


def target_of(given: str | Mapping[str, Any]) -> Target:
    """The target that a recipe or a checkpoint names.

    Args:
        given: energy1 to energy4, or {"class_path": ..., "init_args": ...} of any importable class of target. What a
            checkpoint names has been restricted to `zoo.targets` before (`zoo.hub.building.check_arguments`).

    Raises:
        DataError: there is no such target, or it cannot be made so.
    """
    if isinstance(given, str):
        given = {"class_path": "zoo.targets.Energy", "init_args": {"name": given}}
    if not isinstance(given, Mapping) or not {"class_path"} <= set(given) <= {"class_path", "init_args"}:
        raise DataError(f"A target is a name, such as energy1, or class_path and init_args, not {show(given)}.")
    path, arguments = given["class_path"], given.get("init_args") or {}
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    try:
        cls = getattr(importlib.import_module(module), name) if module else None
    except (ImportError, AttributeError):
        cls = None
    if not isinstance(cls, type) or not issubclass(cls, Target) or not isinstance(arguments, Mapping):
        raise DataError(f"There is no target {show(path)}: give class_path and init_args of a class of zoo.targets.")
    try:
        return cls(**arguments)
    except TypeError as error:
        raise DataError(f"{name} cannot be made with {show(dict(arguments))}: {one_line(error)}.") from error
