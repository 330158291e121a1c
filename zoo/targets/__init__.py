"""Densities that are known up to a constant."""

from zoo.targets.base import Target
from zoo.targets.energies import Energy
from zoo.targets.gaussians import Gaussians

__all__ = ["Energy", "Gaussians", "Target"]
