"""Points of the plane: the sets on which papers show what a flow can learn, and four densities that are known.

`moons`, `circles`, `swiss_roll`, `pinwheel` and `checkerboard` are drawn by formulas, with the scales and the noise of
the toy experiments of FFJORD (Grathwohl et al. 2019, arXiv 1810.01367, and its code). `energy1` ... `energy4` are the
unnormalized densities exp(-U(z)) of Rezende and Mohamed (2015, arXiv 1505.05770, table 1). Their samples are exact, and
their normalizers known to nine digits: a model can be held against the truth. Any other target that has exact draws,
in any dimension, is given by its class and arguments.

Departures: every point is drawn by itself, where scikit-learn's generators, which FFJORD scales, spread the points of a
curve evenly; which moon, circle or arm it belongs to is drawn too. The energies get a wall, for as printed U2, U3 and
U4 go on for ever along z1 (see `Energy`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.arguments import seed_of, whole
from zoo.classes import class_path_of
from zoo.data.tensors import TensorData
from zoo.errors import DataError, show
from zoo.targets.base import Known, Target, target_of
from zoo.targets.energies import ENERGIES, Energy

Random = np.random.RandomState

MOST = 10_000_000  # points in a split: a few bytes of configuration must not fill the memory


class Points(TensorData):
    """Points of the plane or draws of a target, float32 (N, D), drawn once.

    They have no labels, and those of the plane lie within about [-4, 4]^2. Each split has its own stream of NumPy's
    `RandomState`, which NumPy guarantees never to change: splits are the same everywhere, and the size of one changes
    nothing in another.

    Args:
        name: moons, circles, swiss_roll, pinwheel, checkerboard, energy1, energy2, energy3 or energy4; or class_path
            and init_args of a target with exact draws (`zoo.targets.target_of`), whose name `data.name` then is.
        train: number of training points.
        validation: number of validation points.
        test: number of test points.
        data_seed: of the points; another one gives other points in every split.
        batch_size: points in a training batch of one device.
        eval_batch_size: most points in a validation or test batch; default `batch_size`.
        seed: of the order in which training points come; each epoch has its own.
    """

    title = "points"
    shape = (2,)
    splits = ("train", "validation", "test")

    def __init__(
        self,
        name: str | dict[str, Any] = "moons",
        train: int = 50_000,
        validation: int = 5_000,
        test: int = 10_000,
        data_seed: int = 0,
        batch_size: int = 500,
        eval_batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(None, batch_size, validation, eval_batch_size, seed, download=False)
        self.given = name
        if isinstance(name, str):
            if name not in SETS:
                raise DataError(f"There is no set of points {name!r}; choose one of {', '.join(SETS)}.")
            self.name, self.shape, self._draw = name, (2,), SETS[name]
        else:
            target = target_of(name)
            if not hasattr(target, "sample"):
                raise DataError(f"{target.name} has no exact draws: choose a target that has, or set name to moons.")
            self.name, self.shape = target.name, target.shape
            # Those of the zoo draw by NumPy's RandomState, others by a seed.
            self._draw = target.draw if isinstance(target, Known) else _seeded(target)
        self.sizes = {"train": train, "validation": validation, "test": test}
        for split, size in self.sizes.items():
            most = 2 * MOST // math.prod(self.shape)
            self.sizes[split] = number = whole(size)
            if number is None or not 1 <= number <= most:
                given = show(size) if number is None else f"{number:,}"
                raise DataError(f"{split} must be from 1 to {most:,} points, not {given}.")
        self.data_seed = seed_of(data_seed, "data_seed", bits=32) or 0

    @property
    def protocol(self) -> str:
        """Which points these are, in a phrase for the model card."""
        return f"{self.name}, drawn with seed {self.data_seed}"

    @property
    def config(self) -> dict[str, Any]:
        """`class_path` and those `init_args` that say which data this is: no batch sizes."""
        arguments = {"name": self.given, **self.sizes, "data_seed": self.data_seed}
        return {"class_path": class_path_of(type(self)), "init_args": arguments}

    def read(self, split: str) -> Tensor:
        """Draw the points of a split."""
        # Of three numbers: the loader shuffles by seeds of two, and no two streams should be one.
        random = Random([self.data_seed, list(self.sizes).index(split), 2])
        return torch.from_numpy(self._draw(random, self.sizes[split]).astype(np.float32))


def _seeded(target: Target) -> Callable[[Random, int], np.ndarray]:
    """The draws of a target that has no more than `sample`, by a seed that NumPy draws."""
    return lambda random, n: target.sample(n, seed=int(random.randint(2**31 - 1))).cpu().numpy()


# -- sets drawn by a formula -----------------------------------------------------------------------------------


def moons(random: Random, n: int) -> np.ndarray:
    """(n, 2): two half circles that reach into each other.

    x = 2 (c(t) + 0.1 e) - (1, 0.2), with t uniform in [0, pi], e standard normal, and for either moon half of the
    time c(t) = (cos t, sin t) or (1 - cos t, 1/2 - sin t).
    """
    t, lower = np.pi * random.random_sample(n), random.random_sample(n) < 0.5
    half = _circle(t)
    half[lower] = [1, 0.5] - half[lower]
    return 2 * (half + 0.1 * random.standard_normal((n, 2))) - [1, 0.2]


def circles(random: Random, n: int) -> np.ndarray:
    """(n, 2): two circles around the origin.

    x = 3 (r (cos t, sin t) + 0.08 e), with t uniform in [0, 2 pi], e standard normal, and r 1/2 or 1, each half of the
    time.
    """
    t, inner = 2 * np.pi * random.random_sample(n), random.random_sample(n) < 0.5
    radius = np.where(inner, 0.5, 1.0)[:, None]
    return 3 * (radius * _circle(t) + 0.08 * random.standard_normal((n, 2)))


def swiss_roll(random: Random, n: int) -> np.ndarray:
    """(n, 2): a spiral of one and a half turns.

    x = (t (cos t, sin t) + e) / 5, with t uniform in [3/2 pi, 9/2 pi] and e standard normal.
    """
    t = 1.5 * np.pi * (1 + 2 * random.random_sample(n))
    return (t[:, None] * _circle(t) + random.standard_normal((n, 2))) / 5


def pinwheel(random: Random, n: int) -> np.ndarray:
    """(n, 2): five bent arms, of Johnson et al. 2016 (arXiv 1603.06277).

    x = 2 (u cos a + v sin a, v cos a - u sin a): the point (u, v) = (1 + 0.3 e1, 0.1 e2), e standard normal, turned by
    a = 2 pi k / 5 + exp(u) / 4, with k one of 0..4.
    """
    arm = np.floor(5 * random.random_sample(n))
    u, v = (random.standard_normal((n, 2)) * [0.3, 0.1] + [1, 0]).T
    cos, sin = _circle(2 * np.pi * arm / 5 + np.exp(u) / 4).T
    return 2 * np.stack([u * cos + v * sin, v * cos - u * sin], 1)


def checkerboard(random: Random, n: int) -> np.ndarray:
    """(n, 2): uniform over the black squares of [-4, 4]^2, those with floor(x1 / 2) + floor(x2 / 2) even.

    The eight squares have side 2, so the density is 1/32 there, and no model can do better than log 32 = 3.466 nats.
    """
    x1, row = 8 * random.random_sample(n) - 4, np.floor(2 * random.random_sample(n))
    start = 4 * row - 4 + 2 * (np.floor(x1 / 2) % 2)
    return np.stack([x1, start + 2 * random.random_sample(n)], 1)


def _circle(t: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(t), np.sin(t)], 1)


SETS: dict[str, Callable[[Random, int], np.ndarray]] = {
    "moons": moons,
    "circles": circles,
    "swiss_roll": swiss_roll,
    "pinwheel": pinwheel,
    "checkerboard": checkerboard,
    **{name: Energy(name).draw for name in ENERGIES},
}
"""The sets of `Points` by name."""
