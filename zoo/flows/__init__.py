"""Diffeomorphisms with tractable log-determinants, and the exact densities and posteriors that they make."""

from zoo.flows.continuous import ContinuousFlow
from zoo.flows.core import Compose, Flow, Inverse, Logistic, Mixture, Normal, Transform
from zoo.flows.energy import EnergyFlow
from zoo.flows.glow import Glow
from zoo.flows.iaf import IAFTransform
from zoo.flows.maf import MAF
from zoo.flows.nice import NICE
from zoo.flows.planar import Planar, Radial
from zoo.flows.realnvp import RealNVP

__all__ = [
    "MAF",
    "NICE",
    "Compose",
    "ContinuousFlow",
    "EnergyFlow",
    "Flow",
    "Glow",
    "IAFTransform",
    "Inverse",
    "Logistic",
    "Mixture",
    "Normal",
    "Planar",
    "Radial",
    "RealNVP",
    "Transform",
]
