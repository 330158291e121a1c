"""The lecture's point about distances: what they make of a shift, and of a sample in place of its law.

- The uniform distribution on the unit square and the same one shifted by tau along an axis. Where their supports no
  longer meet, total variation and Jensen-Shannon divergence stand still, and so does the MMD of a Gaussian kernel far
  beyond its width: no gradient tells in which direction the other one is. KL is infinite for every tau but zero, for
  there is always mass where the other one has none. Distances by transport and the energy distance grow for ever.
- Two samples of n points each of the uniform distribution on the unit cube in D dimensions. W_1 between them falls as
  n^(-1/D), but as n^(-1/2) in one dimension and as (log n / n)^(1/2) in two (Dudley 1969; Fournier & Guillin 2015). The
  energy distance of two samples, biased, is 2 E|X - X'| / n in expectation, so that its root falls as n^(-1/2) in every
  dimension.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.arguments import count_of
from zoo.errors import DataError
from zoo.metrics.divergences import DIVERGENCES
from zoo.metrics.kernels import Gaussian, energy_distance, mmd
from zoo.metrics.transport import sinkhorn, sliced_wasserstein, wasserstein
from zoo.nn.devices import generator_of
from zoo.pictures.plots import Curve, Panel

CELL = 0.1  # side of the cells in which the square's density is counted
STEPS = 31  # shifts drawn, up to 3
SIZES = (32, 64, 128, 256, 512, 1024)
DIMS = (1, 2, 5, 10)


class Slope(NamedTuple):
    """The exponent of n that a distance between two samples of n points falls with: as fitted, and the known one."""

    distance: str
    dims: int
    fitted: float
    theory: float


def panels(*, repeats: int = 100, seed: int = 0) -> tuple[list[Panel], list[Slope]]:
    """The picture of this module, of three panels, and the slopes of the curves of two of them.

    Args:
        repeats: pairs of samples that a mean is over.
        seed: of the samples.
    """
    shifts = [i * CELL for i in range(STEPS)]
    # Two of the curves nearly coincide: dashed, the second leaves the first to be seen.
    shifted = [
        Curve(re.sub(r"W(\d)", r"$W_\1$", name), shifts, values, dashed=name == "root of Sinkhorn")
        for name, values in of_shift(STEPS).items()
    ]
    drawn = [Panel("Distance of two unit squares", "shift τ  (KL is infinite for τ > 0)", shifted)]
    errors = {dims: of_size(dims, SIZES, repeats=repeats, seed=seed) for dims in DIMS}
    slopes = []
    for key, title in {"W1": "$W_1$ of two samples", "energy": "Root of their energy distance"}.items():
        lines = []
        for dims, found in errors.items():
            fitted = slope(SIZES, found[key])
            slopes.append(Slope(key, dims, fitted, -1 / max(2, dims) if key == "W1" else -1 / 2))
            lines.append(Curve(f"D = {dims}:  $n^{{{fitted:.2f}}}$", SIZES, found[key]))
        drawn.append(Panel(title, "n, points of each sample", lines, logarithmic=True))
    return drawn, slopes


def of_shift(steps: int) -> dict[str, list[float]]:
    """Each distance of the unit square and the square shifted by tau = 0, 0.1, ... 0.1 (steps - 1), by its name.

    f-divergences are exact, of the masses in cells of side 0.1. The others are those of 400 points in the middles of
    finer cells: of the MMD of a Gaussian kernel of width 0.5 the root, of the Sinkhorn divergence of the squared
    distance, epsilon 0.05, as well.
    """
    cells = round(1 / CELL)
    line = (torch.arange(2 * cells, dtype=torch.float64) + 0.5) * (CELL / 2)
    x = torch.cartesian_prod(line, line)
    curves: dict[str, list[float]] = {}
    for step in range(steps):
        # The second axis is the same for both, and changes no divergence.
        p = torch.zeros(cells + steps, dtype=torch.float64)
        p[:cells] = 1 / cells
        q = p.roll(step)
        y = x + torch.tensor([step * CELL, 0.0], dtype=torch.float64)
        values = {
            "W1": wasserstein(x, y),
            "root of Sinkhorn": sinkhorn(x, y, epsilon=0.05).clamp(min=0).sqrt(),
            "energy distance": energy_distance(x, y, unbiased=False),
            "sliced W2": sliced_wasserstein(x, y, seed=0),
            "MMD, Gaussian": mmd(x, y, Gaussian([0.5]), unbiased=False).clamp(min=0).sqrt(),
            "total variation": DIVERGENCES["total_variation"].of_probabilities(p, q),
            "Jensen-Shannon": DIVERGENCES["jensen_shannon"].of_probabilities(p, q),
        }
        for name, value in values.items():
            curves.setdefault(name, []).append(float(value))
    return curves


def of_size(dims: int, sizes: Sequence[int], *, repeats: int = 100, seed: int = 0) -> dict[str, list[float]]:
    """Mean W_1, and the root of the mean energy distance, biased, of two samples of each size of the unit cube.

    Args:
        dims: D.
        sizes: n, points of each sample.
        repeats: pairs of samples that the mean is over.
        seed: of the samples.
    """
    generator, repeats = generator_of(seed), count_of(repeats, "repeats")
    curves: dict[str, list[float]] = {"W1": [], "energy": []}
    for n in sizes:
        pairs = [torch.rand(2, n, dims, generator=generator, device="cpu", dtype=torch.float64) for _ in range(repeats)]
        curves["W1"].append(_mean([wasserstein(x, y) for x, y in pairs]))
        curves["energy"].append(_mean([energy_distance(x, y, unbiased=False) for x, y in pairs]) ** 0.5)
    return curves


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The exponent a of the power n^a that fits best on the scale of logarithms, by least squares."""
    if len(sizes) < 2 or min(*sizes, *values) <= 0:
        raise DataError("A slope takes at least two sizes, and positive values.")
    n, v = (torch.tensor(list(part), dtype=torch.float64).log() for part in (sizes, values))
    n = n - n.mean()
    return float(n @ v / n.square().sum())


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack(values).mean())
