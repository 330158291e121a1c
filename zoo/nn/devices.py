"""Devices, plain float32 on them, and generators whose seeds mean the same on all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from zoo.arguments import seed_of
from zoo.errors import ZooError


def checked_device(device: str | torch.device | None) -> torch.device:
    """A device that exists: the named one, or by default the GPU where there is one."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ZooError(f"There is no device {str(device)!r} here; choose cpu, or cuda where there is a GPU.") from error
    return device


@contextlib.contextmanager
def usual_defaults() -> Iterator[None]:
    """float32 and the CPU where no dtype and no device is named, whatever the caller's defaults are; put back after."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    torch.set_default_dtype(torch.float32)
    try:
        # A device's context looks at every call, which takes its time: only where there is another one.
        with contextlib.nullcontext() if device.type == "cpu" else torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, no TF32, the same kernels each time; settings are restored."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def precise(x: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
    """x in float32, or in float64 where it, or what it is `like`, is that already."""
    own = x.dtype if x.is_floating_point() else torch.float32
    return x.to(torch.promote_types(torch.promote_types(own, torch.float32), own if like is None else like.dtype))


def generator_of(seed: int | None) -> torch.Generator:
    """A private generator on the CPU, so that a seed means the same on every device."""
    seed, generator = seed_of(seed), torch.Generator("cpu")
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator
