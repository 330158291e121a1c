"""Distances between distributions, of samples, densities and probabilities."""

from zoo.metrics.divergences import DIVERGENCES, FDivergence
from zoo.metrics.features import (
    features_of,
    frechet_distance,
    frechet_of_moments,
    kernel_distance,
    precision_recall,
)
from zoo.metrics.inception import Inception, resize
from zoo.metrics.kernels import (
    DistanceInduced,
    Gaussian,
    Kernel,
    Polynomial,
    RationalQuadratic,
    energy_distance,
    median_distance,
    mmd,
)
from zoo.metrics.scattering import Scattering
from zoo.metrics.transport import default_epsilon, sinkhorn, sliced_wasserstein, wasserstein

__all__ = [
    "DIVERGENCES",
    "DistanceInduced",
    "FDivergence",
    "Gaussian",
    "Inception",
    "Kernel",
    "Polynomial",
    "RationalQuadratic",
    "Scattering",
    "default_epsilon",
    "energy_distance",
    "features_of",
    "frechet_distance",
    "frechet_of_moments",
    "kernel_distance",
    "median_distance",
    "mmd",
    "precision_recall",
    "resize",
    "sinkhorn",
    "sliced_wasserstein",
    "wasserstein",
]
