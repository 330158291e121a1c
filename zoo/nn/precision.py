"""Plain float32, where published numbers and inverses depend on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def exact_arithmetic(device: torch.device, *, convolutions: bool = True) -> Iterator[None]:
    """No autocast, no TF32, the same kernels each time; settings are restored.

    Args:
        device: whose autocast it is.
        convolutions: whether that holds for convolutions too; without, theirs may be TF32 and the fastest kernels.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    exact = {"enabled": True, "deterministic": True, "allow_tf32": False}
    cudnn = torch.backends.cudnn.flags(**exact) if convolutions else contextlib.nullcontext()
    try:
        with torch.autocast(device.type, enabled=False), cudnn:
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
