"""Points of the plane: the sets on which papers show what a flow can learn, and four densities that are known.

`moons`, `circles`, `swiss_roll`, `pinwheel` and `checkerboard` are drawn by formulas, with the scales and the noise of
the toy experiments of FFJORD (Grathwohl et al. 2019, arXiv 1810.01367, and its code). `energy1` ... `energy4` are the
unnormalized densities exp(-U(z)) of Rezende and Mohamed (2015, arXiv 1505.05770, table 1). Their samples are exact, and
their normalizers known to nine digits: a model can be held against the truth.

Departures: every point is drawn by itself, where scikit-learn's generators, which FFJORD scales, spread the points of a
curve evenly; which moon, circle or arm it belongs to is drawn too. The energies get a wall, for as printed U2, U3 and
U4 go on for ever along z1 (see `Energy`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data.images import ImageData, Split
from zoo.data.spec import DataSpec
from zoo.errors import DataError

Random = np.random.RandomState

MOST = 10_000_000  # points in a split: a few bytes of configuration must not fill the memory
EDGE = 4.0  # the energies live in the square [-EDGE, EDGE]^2, the one that the paper shows
WALL = 0.2  # and fall off beyond it with this standard deviation


class Points(ImageData):
    """Points of the plane, float32 (N, 2), drawn once.

    Batches are tuples: points (N, 2), which lie within about [-4, 4]^2; labels, int64 (N,), all -1 (none). After
    `setup`, the splits are the attributes `train`, `val` and `test`, pairs of such tensors. Each has its own stream of
    NumPy's `RandomState`, which NumPy guarantees never to change: splits are the same everywhere, and the size of one
    changes nothing in another.

    Args:
        name: moons, circles, swiss_roll, pinwheel, checkerboard, energy1, energy2, energy3 or energy4.
        train: number of training points.
        validation: number of validation points.
        test: number of test points.
        data_seed: of the points; another one gives other points in every split.
        batch_size: points in a training batch of one device.
        eval_batch_size: most points in a validation or test batch; default `batch_size`.
        seed: of the order in which training points come; each epoch has its own.
    """

    title = "points"
    classes = 0

    def __init__(
        self,
        name: str = "moons",
        train: int = 50_000,
        validation: int = 5_000,
        test: int = 10_000,
        data_seed: int = 0,
        batch_size: int = 500,
        eval_batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(None, batch_size, validation, eval_batch_size, seed, download=False)
        if name not in SETS:
            raise DataError(f"There is no set of points {name!r}; choose one of {', '.join(SETS)}.")
        self.sizes = {"train": train, "validation": validation, "test": test}
        for split, size in self.sizes.items():
            if not 1 <= size <= MOST:
                raise DataError(f"{split} must be from 1 to {MOST:,} points, not {size:,}.")
        if not 0 <= data_seed < 2**32:
            raise DataError(f"data_seed must be from 0 to 2**32 - 1, not {data_seed}.")
        self.name, self.data_seed = name, data_seed

    @property
    def spec(self) -> DataSpec:
        """Two continuous numbers, no classes."""
        return DataSpec((2,), None)

    @property
    def protocol(self) -> str:
        """Which points these are, in a phrase for the model card."""
        return f"{self.name}, drawn with seed {self.data_seed}"

    @property
    def config(self) -> dict[str, Any]:
        """`class_path` and those `init_args` that say which data this is: no batch sizes."""
        arguments = {"name": self.name, **self.sizes, "data_seed": self.data_seed}
        return {"class_path": "zoo.data.Points", "init_args": arguments}

    def setup(self, stage: str | None = None) -> None:
        """Draw what the stage needs; a second call does nothing."""
        if stage in (None, "fit", "validate") and not hasattr(self, "train"):
            self.train, self.val = self._drawn("train"), self._drawn("validation")
        if stage in (None, "test", "predict") and not hasattr(self, "test"):
            self.test = self._drawn("test")

    def _drawn(self, split: str) -> Split:
        # Of three numbers: the loader shuffles by seeds of two, and no two streams should be one.
        random = Random([self.data_seed, list(self.sizes).index(split), 2])
        points = SETS[self.name](random, self.sizes[split])
        return torch.from_numpy(points.astype(np.float32)), torch.full((len(points),), -1)


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


# -- energies --------------------------------------------------------------------------------------------------


class Energy:
    """An energy of the plane, whose density is p(z) = exp(-U(z)) / Z (Rezende and Mohamed 2015, table 1).

    With w1 = sin(2 pi z1 / 4), w2 = 3 exp(-((z1 - 1) / 0.6)^2 / 2), w3 = 3 sigmoid((z1 - 1) / 0.3) and
    g(x; s) = exp(-(x / s)^2 / 2), as printed,

        U1 = ((|z| - 2) / 0.4)^2 / 2 - log(g(z1 - 2; 0.6) + g(z1 + 2; 0.6))    a ring with two heavy sides
        U2 = ((z2 - w1) / 0.4)^2 / 2                                           a sine
        U3 = -log(g(z2 - w1; 0.35) + g(z2 - w1 + w2; 0.35))                    a sine, split in the middle
        U4 = -log(g(z2 - w1; 0.4) + g(z2 - w1 + w3; 0.35))                     a sine, split to the right

    U2, U3 and U4 have no normalizer, for they do not grow along z1. The paper shows the square [-4, 4]^2, and to that
    all four are restricted here, by a wall that has a gradient, for a flow to be driven back by: the energy is

        U(z) + sum_i (max(|z_i| - 4, 0) / 0.2)^2 / 2.

    Inside the square it is the printed one. Beyond, the density falls off as a Gaussian of standard deviation 0.2, with
    7 % of the mass of U4, 6 % of that of U2 and U3, and none that matters of U1. The lower branch of U4, which touches
    z2 = -4 at z1 = 3, is cut by the wall.

    Args:
        name: energy1, energy2, energy3 or energy4.

    Example:
        >>> energy = Energy("energy1")
        >>> energy(z)                     # (N,) nats, differentiable
        >>> energy.log_prob(z)            # (N,) nats, normalized
        >>> energy.sample(1000, seed=0)   # (1000, 2), exact

    Raises:
        DataError: there is no such energy.
    """

    def __init__(self, name: str) -> None:
        if name not in ENERGIES:
            raise DataError(f"There is no energy {name!r}; choose one of {', '.join(ENERGIES)}.")
        self.name = name

    def __call__(self, z: Tensor) -> Tensor:
        """(N, 2) to (N,) nats, at least -log 2; in float32 where z has half precision.

        Raises:
            DataError: z has another shape or is not floating point.
        """
        DataSpec((2,), None).check(z, "z", values=False)
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        wall = 0.5 * ((z.abs() - EDGE).clamp(min=0) / WALL).square().sum(1)
        return self._printed(z) + wall

    def _printed(self, z: Tensor) -> Tensor:
        return ENERGIES[self.name](z)

    def log_normalizer(self, resolution: int = 16) -> float:
        """log Z in nats, by `quadrature` of that resolution; with 16 it is right to 1e-9."""
        return _log_normalizer(self.name, resolution)

    def log_prob(self, z: Tensor) -> Tensor:
        """(N, 2) to (N,) nats, log p(z) = -U(z) - log Z."""
        return -self(z) - self.log_normalizer()

    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """Draw `n` points exactly, float32 (n, 2); a seed gives the same points each time."""
        if n < 1:
            raise DataError(f"n must be at least 1, not {n}.")
        return torch.from_numpy(self.draw(Random(seed), n).astype(np.float32))

    def draw(self, random: Random, n: int) -> np.ndarray:
        """(n, 2) in float64, by rejection.

        Proposals are independent in z1 and z2 and have the density of the wall alone: uniform in the square, Gaussian
        beyond. One is kept with probability exp(-U(z)) / 2 of the printed U, which is never above 1, for exp(-U) is a
        sum of at most two terms of at most 1. What is kept, 4 to 11 % of them, is distributed exactly as p.
        """
        tails = WALL * math.sqrt(2 * math.pi)  # the mass of both, where that of the square is its side
        blocks, kept = [], 0
        while kept < n:
            # Blocks of one size, so that n points are the first n of more.
            place = (2 * EDGE + tails) * random.random_sample((2**16, 2))
            normal = random.standard_normal(place.shape)
            z = np.where(place < 2 * EDGE, place - EDGE, np.copysign(EDGE, normal) + WALL * normal)
            density = self._printed(torch.from_numpy(z)).neg().exp().numpy()
            blocks.append(z[2 * random.random_sample(len(z)) < density])
            kept += len(blocks[-1])
        return np.concatenate(blocks)[:n]


def _wave(z: Tensor) -> tuple[Tensor, Tensor]:
    """z1, and how far z2 lies above w1."""
    z1, z2 = z.unbind(1)
    return z1, z2 - torch.sin(2 * math.pi * z1 / 4)


def _well(x: Tensor, scale: float) -> Tensor:
    return 0.5 * (x / scale).square()


def _u1(z: Tensor) -> Tensor:
    z1 = z[:, 0]
    # The norm's gradient at the origin is zero, where that of a square root is none.
    ring = _well(torch.linalg.vector_norm(z, dim=1) - 2, 0.4)
    return ring - torch.logaddexp(-_well(z1 - 2, 0.6), -_well(z1 + 2, 0.6))


def _u2(z: Tensor) -> Tensor:
    return _well(_wave(z)[1], 0.4)


def _u3(z: Tensor) -> Tensor:
    z1, above = _wave(z)
    w2 = 3 * torch.exp(-_well(z1 - 1, 0.6))
    return -torch.logaddexp(-_well(above, 0.35), -_well(above + w2, 0.35))


def _u4(z: Tensor) -> Tensor:
    z1, above = _wave(z)
    w3 = 3 * torch.sigmoid((z1 - 1) / 0.3)
    return -torch.logaddexp(-_well(above, 0.4), -_well(above + w3, 0.35))


def quadrature(resolution: int = 16, beyond: float = 10 * WALL) -> tuple[Tensor, Tensor]:
    """Points (M, 2) and weights (M,), float64, for integrals: sum(weights * exp(-energy(points))) is Z.

    In each direction there are three Gauss-Legendre rules of `resolution` nodes a unit of length: one for the square,
    at whose edges the energies are not smooth, and one for the strip on either side, as wide as `beyond`.
    """
    if resolution < 1:
        raise DataError(f"resolution must be at least 1 node a unit of length, not {resolution}.")
    nodes, weights = [], []
    for left, right in ((-EDGE - beyond, -EDGE), (-EDGE, EDGE), (EDGE, EDGE + beyond)):
        node, weight = np.polynomial.legendre.leggauss(math.ceil(resolution * (right - left)))
        nodes.append((left + right + (right - left) * node) / 2)
        weights.append((right - left) * weight / 2)
    line, mass = torch.from_numpy(np.concatenate(nodes)), torch.from_numpy(np.concatenate(weights))
    return torch.cartesian_prod(line, line), torch.outer(mass, mass).flatten()


@functools.lru_cache
def _log_normalizer(name: str, resolution: int) -> float:
    z, weights = quadrature(resolution)
    return torch.logsumexp(weights.log() - Energy(name)(z), 0).item()


ENERGIES: dict[str, Callable[[Tensor], Tensor]] = {"energy1": _u1, "energy2": _u2, "energy3": _u3, "energy4": _u4}

SETS: dict[str, Callable[[Random, int], np.ndarray]] = {
    "moons": moons,
    "circles": circles,
    "swiss_roll": swiss_roll,
    "pinwheel": pinwheel,
    "checkerboard": checkerboard,
    **{name: Energy(name).draw for name in ENERGIES},
}
"""The sets of `Points` by name."""
