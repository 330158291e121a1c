"""Models with latent variables, trained by a bound on their likelihood."""

from zoo.latent.flow_vae import FlowVAE

__all__ = ["FlowVAE"]
