"""Densities that are known up to a constant."""

from zoo.targets.energies import Energy

__all__ = ["Energy"]
