"""Four energies of the plane, with exact samples and normalizers: Rezende & Mohamed 2015, arXiv 1505.05770, table 1."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.targets.base import Known, Random

EDGE = 4.0  # the energies live in the square [-EDGE, EDGE]^2, the one that the paper shows
WALL = 0.2  # and fall off beyond it with this standard deviation


# -- energies --------------------------------------------------------------------------------------------------


class Energy(Known):
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
        >>> energy.log_density(z)         # -U(z)
        >>> energy.log_prob(z)            # (N,) nats, normalized
        >>> energy.sample(1000, seed=0)   # (1000, 2), exact

    Raises:
        DataError: there is no such energy.
    """

    def __init__(self, name: str) -> None:
        if name not in ENERGIES:
            raise DataError(f"There is no energy {name!r}; choose one of {', '.join(ENERGIES)}.")
        self.name, self.shape = name, (2,)

    def __call__(self, z: Tensor) -> Tensor:
        """U(z): (N, 2) to (N,) nats, at least -log 2; in float32 where z has half precision.

        Raises:
            DataError: z has another shape or is not floating point.
        """
        z = self.checked(z, "z")
        wall = 0.5 * ((z.abs() - EDGE).clamp(min=0) / WALL).square().sum(1)
        return self._printed(z) + wall

    def _printed(self, z: Tensor) -> Tensor:
        return ENERGIES[self.name](z)

    def log_density(self, x: Tensor) -> Tensor:
        """-U(x): (N, 2) to (N,) nats."""
        return -self(x)

    def log_normalizer(self, resolution: int = 16) -> float:
        """log Z in nats, by `quadrature` of that resolution; with 16 it is right to 1e-9."""
        return _log_normalizer(self.name, resolution)

    @property
    def mean(self) -> Tensor:
        """Of z1 and z2, float64 (2,), by quadrature."""
        return _moments(self.name)[0].clone()

    @property
    def variance(self) -> Tensor:
        """Of z1 and z2, float64 (2,), by quadrature."""
        return _moments(self.name)[1].clone()

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


@functools.lru_cache
def _moments(name: str) -> tuple[Tensor, Tensor]:
    """Mean and variance of both components."""
    z, weights = quadrature()
    mass = (weights * Energy(name).log_prob(z).exp())[:, None]
    mean = (mass * z).sum(0)
    return mean, (mass * (z - mean).square()).sum(0)


ENERGIES: dict[str, Callable[[Tensor], Tensor]] = {"energy1": _u1, "energy2": _u2, "energy3": _u3, "energy4": _u4}
