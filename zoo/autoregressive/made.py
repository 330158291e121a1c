"""MADE: Germain, Gregor, Murray, Larochelle, *Masked Autoencoder for Distribution Estimation*, 2015, arXiv 1502.03509.

A fully connected network whose weights are multiplied by masks, so that output d depends only on the dimensions that
come before d in an ordering; one pass gives every conditional of p(x) = prod_d p(x_d | x_before d) (equation 6).
With several sets of masks (section 4) one network serves many orderings and connectivities: in training each part of
a batch has another set, and the model is the uniform mixture of them all, p(x) = 1/K sum_k p_k(x).

From the paper: ReLU layers, masks from the degrees of the units (equations 8 and 9), optional direct connections,
a cycle of K sets that are drawn once. Departures, for faster or better training:

- degrees are spread evenly over 1..D-1 and shuffled, where the paper draws each by itself: no conditional is starved;
- the network reads 2x - 1, so that a hidden 0 and a seen 0 differ (the paper's conditioning weights, tied);
- the sets of a batch are drawn at random without replacement, where the paper takes one at a time in turn;
- AdamW or Muon with a cosine schedule, averaged weights, dropout.

Sampling computes each unit once, when the last dimension that it sees is drawn: an image costs one pass of the
network in all, and not one for each dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from zoo.batch import as_batch
from zoo.errors import DataError
from zoo.model import GenerativeModel
from zoo.nn.devices import full_precision, precise
from zoo.nn.draws import Draws
from zoo.nn.made import CachedPass, MADENet
from zoo.nn.orderings import random_orderings
from zoo.spec import DataSpec


class MADE(GenerativeModel):
    """MADE, a masked autoencoder with exact likelihood, for binary images and tables.

    Args:
        shape: of one datum, (C, H, W) or (D,); the raster order counts its values row by row.
        hidden: units of a hidden layer.
        layers: number of hidden layers.
        masks: K, number of mask sets; the model is their uniform mixture.
        ordering: place 0..D-1 of each dimension, for all sets; None for raster order.
        ordering_seed: each set has a random ordering of its own, drawn with this seed, as its connectivity is; None
            leaves `ordering` in all sets, which then differ in connectivity alone (drawn with seed 0).
        direct: whether the outputs also read the input directly.
        parts: number of mask sets in a training batch, each with an equal part of the data; where the batch or K does
            not allow it, the most that does.
        dropout: probability of dropping a hidden activation while training.
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights, not of the biases.

    Example:
        >>> model = MADE(shape=[1, 28, 28], masks=32, ordering_seed=0)
        >>> x = model.sample(4, seed=0)     # uint8 (4, 1, 28, 28)
        >>> model.log_prob(x)               # (4,) nats
    """

    papers = ("made",)

    def __init__(
        self,
        shape: list[int] = [1, 28, 28],  # noqa: B006  a plain JSON value, never changed
        hidden: int = 500,
        layers: int = 2,
        masks: int = 1,
        ordering: list[int] | None = None,
        ordering_seed: int | None = None,
        direct: bool = False,
        parts: int = 1,
        dropout: float = 0.0,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        warmup: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in {"hidden": hidden, "layers": layers, "masks": masks, "parts": parts}.items():
            if value < 1:
                raise DataError(f"{name} must be at least 1, not {value}.")
        if not 0 <= dropout < 1:
            raise DataError(f"dropout must be in [0, 1), not {dropout}.")
        if ordering_seed is not None and not 0 <= ordering_seed < 2**32:
            raise DataError(f"ordering_seed must be from 0 to 2**32 - 1, not {ordering_seed}.")
        if ordering is not None and ordering_seed is not None:
            raise DataError("ordering and ordering_seed exclude each other: give one of them.")
        self.save_hyperparameters()
        self.spec = DataSpec(tuple(shape), 2)
        orderings = self._orderings(ordering, ordering_seed, masks)
        seed = ordering_seed or 0
        self.net = MADENet(orderings, hidden, layers, seed=seed, direct=direct, dropout=dropout)

    def _orderings(self, ordering: Sequence[int] | None, seed: int | None, masks: int) -> Tensor:
        dims = self.spec.dims
        if seed is not None:
            return random_orderings(masks, dims, seed)
        if ordering is None:
            return torch.arange(dims).repeat(masks, 1)
        if len(ordering) != dims or sorted(ordering) != list(range(dims)):
            raise DataError(f"ordering must be a permutation of 0..{dims - 1}, each place once.")
        return torch.tensor(ordering).repeat(masks, 1)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of the uniform mixture of all mask sets, exact: uint8 (N, *shape) to (N,) nats."""
        x = self.check(x)
        # One set at a time: the masked weights of all together would fill a GPU.
        each = [self._log_prob(x[None], k) for k in torch.arange(len(self.net.orderings), device=x.device).split(1)]
        return torch.cat(each).logsumexp(0) - math.log(len(each))

    def _log_prob(self, x: Tensor, sets: Tensor) -> Tensor:
        """log p_k(x): (S, N, *shape), each part under its set k of `sets` (S,), to (S, N) nats."""
        bits = precise(x.flatten(2), self.net.head.weight)
        logits = self.net(2 * bits - 1, sets)[..., 0]
        return -F.binary_cross_entropy_with_logits(logits, bits, reduction="none").sum(2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean of -log p_k(x) over a batch, each part of it under another random set k.

        Its expectation is an upper bound of the mixture's loss, which validation reports.
        """
        x = self.check(as_batch(batch).x)
        masks = len(self.net.orderings)
        parts = math.gcd(min(self.hparams.parts, masks), len(x))
        sets = torch.randperm(masks, device=x.device)[:parts]
        loss = -self._log_prob(x.unflatten(0, (parts, -1)), sets).mean()
        self.log(f"train_{self.metric}", loss)
        return loss

    def sample(self, n: int, *, seed: int | None = None, cached: bool = True) -> Tensor:
        """Draw `n` data, uint8 (n, *shape), each under a mask set of its own, drawn uniformly.

        Args:
            n: number of data.
            seed: the same seed gives the same data, the first of them whatever `n` is.
            cached: compute each unit once (one pass of the network in all); False runs the whole network for each of
                the D dimensions. Both draw the same data.
        """

        def draw(draws: Draws, _: slice) -> Tensor:
            chosen, n = draws.integers(len(self.net.orderings)), len(draws)
            # One uniform number a dimension, drawn before anything else, makes the two ways of sampling agree.
            uniform = draws.uniform(self.spec.dims, dtype=torch.float64)
            # Data of one set go through the network together, in groups as large as the largest.
            sets, group, sizes = chosen.unique(return_inverse=True, return_counts=True)
            by_group = group.argsort(stable=True)
            within = torch.empty_like(group)
            within[by_group] = torch.arange(n, device="cpu") - (sizes.cumsum(0) - sizes)[group[by_group]]
            grouped = uniform.new_zeros(len(sets), int(sizes.max()), self.spec.dims)
            grouped[group, within] = uniform
            x = self._draw(sets.to(self.device), grouped.to(self.device), cached)
            return x[group.to(x.device), within.to(x.device)].view(n, *self.spec.shape)

        with full_precision(self.device):
            return self.in_chunks(n, seed, draw)

    @torch.no_grad()  # and not inference mode, whose tensors the caller could not change
    def _draw(self, sets: Tensor, uniform: Tensor, cached: bool) -> Tensor:
        """Mask sets (S,) and uniform numbers (S, n, D) to uint8 (S, n, D)."""
        with self.sampling_mode(cached):
            x = torch.zeros_like(uniform, dtype=self.net.head.weight.dtype)  # 2 * bit - 1; 0 until it is drawn
            steps = CachedPass(self.net, sets, uniform.shape[1]) if cached else None
            rows = torch.arange(len(sets), device=x.device)
            drawn = self.net.orderings[sets].argsort(1)  # the dimension at each place
            for t in tqdm(range(self.spec.dims), "dimensions", disable=None, leave=False):
                dims = drawn[:, t]
                logits = steps.step(t, x, dims)[..., 0] if steps else self.net(x, sets)[rows, :, dims, 0]
                ones = uniform[rows, :, dims] < logits.double().sigmoid()
                x[rows, :, dims] = 2 * ones.to(x.dtype) - 1
        return (x > 0).to(torch.uint8)
