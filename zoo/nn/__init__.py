"""Layers that two or more families share."""

from zoo.nn.masked import CachedStep, MaskedConv2d, MaskedRMSNorm

__all__ = ["CachedStep", "MaskedConv2d", "MaskedRMSNorm"]
