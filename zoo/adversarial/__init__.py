"""Adversarial models: a generator, a critic, and the distance between them."""

from zoo.adversarial.gan import GAN
from zoo.adversarial.lapgan import LAPGAN

__all__ = ["GAN", "LAPGAN"]
