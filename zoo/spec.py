"""What a model needs to know of its data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import DataError


@dataclass(frozen=True)
class DataSpec:
    """Shape and value range of one datum.

    Args:
        shape: of one datum: (C, H, W) for images, (D,) for points and tables, (T,) for token sequences.
        levels: number of integer values 0..levels-1 a component takes, or None for continuous data.
        classes: number of labels, 0 for unlabelled data.
    """

    shape: tuple[int, ...]
    levels: int | None = 256
    classes: int = 0

    def __post_init__(self) -> None:
        # JSON and YAML bring lists; a tuple compares and hashes.
        object.__setattr__(self, "shape", tuple(self.shape))
        if not self.shape or min(self.shape) < 1:
            raise DataError(f"shape must be of positive sizes, not {list(self.shape)}.")

    @property
    def dims(self) -> int:
        """Number of components of one datum, the D of bits per dimension."""
        return math.prod(self.shape)

    def check(self, x: Tensor, what: str = "x", *, values: bool = True) -> None:
        """Raise `DataError` unless `x` is a batch (N, *shape) of this data.

        Looking at the values waits for the GPU; `values=False` looks at shape and dtype alone.
        """
        if not isinstance(x, Tensor):
            raise DataError(f"{what} must be a torch tensor, not {type(x).__name__}.")
        if x.ndim != len(self.shape) + 1 or tuple(x.shape[1:]) != self.shape:
            expected = ", ".join(["N", *map(str, self.shape)])
            raise DataError(f"{what} has shape {tuple(x.shape)}; this model takes ({expected}).")
        if self.levels is None:
            if not x.is_floating_point():
                raise DataError(f"{what} has dtype {x.dtype}; continuous data is floating point.")
            if values and not bool(torch.isfinite(x).all()):
                raise DataError(f"{what} holds NaN or infinite values.")
            return
        # Tokens may have more than 256 values; images never do.
        dtypes = (torch.uint8,) if len(self.shape) == 3 else (torch.uint8, torch.int64)
        if x.dtype not in dtypes:
            wanted = " or ".join(str(d) for d in dtypes)
            raise DataError(f"{what} has dtype {x.dtype}; this model takes {wanted} with values 0..{self.levels - 1}.")
        if x.dtype == torch.uint8 and self.levels > 255:
            return  # there is no value beyond
        if values and x.numel() and (int(x.max()) >= self.levels or int(x.min()) < 0):
            span = f"{int(x.min())}..{int(x.max())}"
            raise DataError(f"{what} has values {span}; this model takes 0..{self.levels - 1}.")
