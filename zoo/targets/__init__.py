"""Densities that are known up to a constant."""

from zoo.targets.base import Target, target_of
from zoo.targets.energies import Energy
from zoo.targets.gaussians import GaussianGrid, GaussianRing

__all__ = ["Energy", "GaussianGrid", "GaussianRing", "Target", "target_of"]
