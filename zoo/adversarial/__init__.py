"""Adversarial models: a generator, a critic, and the distance between them."""

from zoo.adversarial.gan import GAN

__all__ = ["GAN"]
