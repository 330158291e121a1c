"""Models that learn to take noise away, step by step or in continuous time."""

from zoo.diffusion.binomial import BinomialDiffusion

__all__ = ["BinomialDiffusion"]
