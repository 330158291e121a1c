"""Orderings of the dimensions of a datum: drawn from a seed, and checked."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zoo.arguments import seed_of
from zoo.errors import DataError


def random_orderings(count: int, dims: int, seed: int) -> Tensor:
    """(count, dims) int64: uniformly drawn permutations of 0..dims-1; on the meta device their shape alone."""
    seed = seed_of(seed, "the seed of an ordering", bits=32) or 0
    orderings = torch.empty(count, dims, dtype=torch.int64)  # first, for an absurd size is refused here
    if orderings.is_meta:
        return orderings
    # NumPy guarantees RandomState's streams.
    random = np.random.RandomState([seed, 0]).random_sample((count, dims))
    return orderings.copy_(torch.from_numpy(random.argsort(1, kind="stable")))


def check_orderings(
    orderings: Tensor, dims: int, what: str = "An ordering", error: type[ValueError] = DataError
) -> None:
    """Raise `error` unless each row of `orderings`, int64 (..., dims), is a permutation of 0..dims-1.

    On the meta device there are no values to look at.
    """
    fits = isinstance(orderings, Tensor) and orderings.dtype == torch.int64 and orderings.shape[-1:] == (dims,)
    if fits and not orderings.is_meta:
        fits = bool((orderings.sort(-1).values == torch.arange(dims, device=orderings.device)).all())
    if not fits:
        given = f"{orderings.dtype} {tuple(orderings.shape)}" if isinstance(orderings, Tensor) else type(orderings)
        raise error(f"{what} must be a permutation of 0..{dims - 1} in int64, which this one ({given}) is not.")
