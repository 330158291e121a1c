"""Models that learn to take noise away, step by step or in continuous time."""

from zoo.diffusion.binomial import BinomialDiffusion
from zoo.diffusion.ddpm import DDPM
from zoo.diffusion.edm import EDM
from zoo.diffusion.nonequilibrium import Diffusion
from zoo.diffusion.vdm import VDM

__all__ = ["DDPM", "EDM", "VDM", "BinomialDiffusion", "Diffusion"]
