"""Densities in closed form: the uniform, one Gaussian, and mixtures of them."""

from zoo.mixtures.gaussian import GaussianMixture
from zoo.mixtures.uniform import Uniform

__all__ = ["GaussianMixture", "Uniform"]
