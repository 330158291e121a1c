"""Latents: what a model makes data of."""

from __future__ import annotations

from torch import Tensor

from zoo.errors import DataError


def check_latents(z: Tensor, size: int) -> None:
    """Refuse what are not latents of so many components, floating point (N, size)."""
    if not isinstance(z, Tensor) or not z.is_floating_point() or z.shape[1:] != (size,):
        given = f"{z.dtype} {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
        raise DataError(f"z must be latents, floating point (N, {size}), not {given}.")
