"""Models that factorize a joint distribution over its components, one after the other."""

from zoo.autoregressive.pixelcnn import PixelCNN

__all__ = ["PixelCNN"]
