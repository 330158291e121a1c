"""Distances between distributions, of samples, densities and probabilities."""

from zoo.metrics.divergences import DIVERGENCES, FDivergence
from zoo.metrics.kernels import (
    Gaussian,
    Kernel,
    Polynomial,
    RationalQuadratic,
    TriangularGap,
    energy_distance,
    mmd,
)
from zoo.metrics.transport import sinkhorn, sliced_wasserstein, wasserstein

__all__ = [
    "DIVERGENCES",
    "FDivergence",
    "Gaussian",
    "Kernel",
    "Polynomial",
    "RationalQuadratic",
    "TriangularGap",
    "energy_distance",
    "mmd",
    "sinkhorn",
    "sliced_wasserstein",
    "wasserstein",
]
