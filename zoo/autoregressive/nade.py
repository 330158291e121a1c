"""NADE: Larochelle and Murray, *The Neural Autoregressive Distribution Estimator*, AISTATS 2011.

The pixels of a binary image come in a fixed ordering o, and p(x) is the product of the Bernoulli distributions of each
given those before it. All D of them are a network with one hidden layer, and they share its weights: the activations
for pixel d differ from those for d - 1 by one row of W, so that an image costs O(D H) to evaluate or to draw:

    a_d = c + sum_{i<d} x_{o_i} W_{o_i},    p(x_{o_d} = 1 | x_{o_<d}) = sigmoid(b_{o_d} + V_{o_d} . activation(a_d)).

From the paper: one hidden layer of sigmoids, V untied from W, any one ordering (raster by default here). Departures:

- training images may be binarized anew in each batch, as the data decide; the paper's are binarized once;
- rectified linear units where `activation` says so;
- AdamW or Muon with a cosine schedule and averaged weights, in place of plain gradient descent.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm

from zoo.errors import DataError
from zoo.model import GenerativeModel
from zoo.nn.draws import Draws
from zoo.nn.orderings import check_orderings, random_orderings
from zoo.spec import DataSpec, check_image_shape

ACTIVATIONS = {"sigmoid": torch.sigmoid, "relu": F.relu}

# Hidden activations of one chunk, N * K * H (128 MiB in float32), and the most positions K in it: the triangular
# product of `running_sums` costs K times what a running sum would.
CHUNK_ELEMENTS, CHUNK_POSITIONS = 2**25, 56


def chunks(dims: int, width: int) -> Iterator[slice]:
    """Consecutive slices of 0..dims-1 whose activations, `width` numbers a position, fit the memory of a chunk."""
    size = max(1, min(CHUNK_POSITIONS, CHUNK_ELEMENTS // max(1, width)))
    for start in range(0, dims, size):
        yield slice(start, min(start + size, dims))


def running_sums(x: Tensor, weight: Tensor) -> Tensor:
    """sum_{j<k} x_j weight_j for each k: (N, K) and (K, H) to (N, K, H).

    As a product with the inputs below the diagonal it is a matrix product forwards and backwards, and the terms
    x_j weight_j are never stored.
    """
    return (x[:, None, :] * x.new_ones(x.shape[1], x.shape[1]).tril(-1)) @ weight


class BinaryAutoregressive(GenerativeModel):
    """What NADE and EoNADE share: binary images, drawn one pixel after the other.

    Args:
        shape: (C, H, W) of the images.
        levels: 2, for there are no others.
    """

    def __init__(self, shape: list[int], levels: int) -> None:
        super().__init__()
        check_image_shape(shape)
        if levels != 2:
            raise DataError(f"{type(self).__name__} models binary images: levels must be 2, not {levels}.")
        self.spec = DataSpec(tuple(shape), levels)

    def sample(self, n: int, *, seed: int | None = None, cached: bool = True) -> Tensor:
        """Draw `n` images, uint8 (n, C, H, W).

        Args:
            n: number of images.
            seed: the same seed gives the same images, the first of them whatever `n` is.
            cached: keep the running activations from pixel to pixel; False runs the whole network for each of the D
                pixels. Both draw the same images.
        """
        n = self.spec.count(n)
        blank = torch.zeros(self.spec.shape, dtype=torch.uint8, device="cpu").expand(n, *self.spec.shape)
        return self._draw(blank, blank.bool(), seed, cached)

    def _complete(self, x: Tensor, known: Tensor, seed: int | None, cached: bool) -> Tensor:
        x, known = self.check_known(x, known)
        if not len(x):
            return x.clone()
        return self._draw(torch.where(known, x, 0), known, seed, cached)

    @torch.no_grad()  # and not inference mode, whose tensors the caller could not change
    def _draw(self, x: Tensor, known: Tensor, seed: int | None, cached: bool) -> Tensor:
        # One uniform number a pixel, drawn before anything else, and float64 throughout make the two ways of sampling
        # agree: sums in another order then differ by 1e-15, which no uniform number falls into.
        net = copy.deepcopy(self.net).double()

        def draw(draws: Draws, part: slice) -> Tensor:
            uniform = draws.uniform(self.spec.dims, dtype=torch.float64).to(self.device)
            ordering = self._drawing_order(draws).to(self.device)
            drawn, fixed = (t[part].to(self.device, copy=True).flatten(1) for t in (x, known))
            (self._draw_cached if cached else self._draw_plain)(net, drawn, fixed, uniform, ordering)
            return drawn.unflatten(1, self.spec.shape)

        with self.sampling_mode(cached):
            return self.in_chunks(len(x), seed, draw)


class NADENet(nn.Module):
    """Images to the log-probability of each pixel given those before it in the ordering.

    Called, uint8 (N, C, H, W) to nats (N, C, H, W).
    """

    def __init__(self, dims: int, hidden: int, activation: str, ordering: Tensor) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.input = nn.Linear(dims, hidden)  # W transposed, and c
        self.output = nn.Linear(hidden, dims)  # V and b
        self.register_buffer("ordering", ordering)
        self.register_load_state_dict_post_hook(_check_loaded)

    def forward(self, x: Tensor) -> Tensor:
        """log p(x_{o_d} | x_{o_<d}), at the place of pixel o_d."""
        logits = self.logits(x.flatten(1))
        # log sigmoid(z) of a one and log sigmoid(-z) of a zero.
        return F.logsigmoid((2 * x.flatten(1).to(logits.dtype) - 1) * logits).view(x.shape)

    def logits(self, x: Tensor) -> Tensor:
        """(N, D) zeros and ones to (N, D), the logit of a one for each pixel given those before it."""
        # Sums of hundreds of terms: nothing of them in 16 bits.
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.input.weight.dtype)[:, self.ordering]
            weight, readout = self.input.weight[:, self.ordering].T, self.output.weight[self.ordering]
            bias, logits = self.output.bias[self.ordering], []
            start = self.input.bias.expand(len(x), -1)  # a_d at the first d of a chunk
            for k in chunks(x.shape[1], start.numel()):
                arguments = (start, x[:, k], weight[k], readout[k], bias[k])
                # The (N, K, H) activations of all chunks would fill the memory: the backward pass computes each again.
                logits.append(
                    checkpoint(self._chunk, *arguments, use_reentrant=False, preserve_rng_state=False)
                    if torch.is_grad_enabled()
                    else self._chunk(*arguments)
                )
                start = start + x[:, k] @ weight[k]
            return torch.cat(logits, 1)[:, self.ordering.argsort()]

    def _chunk(self, start: Tensor, x: Tensor, weight: Tensor, readout: Tensor, bias: Tensor) -> Tensor:
        """Logits (N, K) of K consecutive positions: `start` (N, H), x (N, K), weight and readout (K, H), bias (K,)."""
        a = start[:, None] + running_sums(x, weight)
        return torch.einsum("nkh,kh->nk", self.activation(a), readout) + bias


def _check_loaded(net: NADENet, _: Any) -> None:
    check_orderings(net.ordering, net.output.out_features)


class NADE(BinaryAutoregressive):
    """NADE, one hidden layer shared by all conditionals, with exact likelihood.

    Args:
        shape: (C, H, W) of the images.
        levels: 2; NADE models binary images.
        hidden: H, the number of hidden units.
        activation: "sigmoid", the paper's, or "relu".
        ordering_seed: of a random ordering of the pixels; null for the raster order.
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights, not of the biases.

    Example:
        >>> model = NADE(shape=[1, 8, 8])
        >>> x = model.sample(4, seed=0)     # uint8 (4, 1, 8, 8)
        >>> model.log_prob(x)               # (4,) nats
    """

    papers = ("nade",)

    def __init__(
        self,
        shape: list[int] = [1, 28, 28],  # noqa: B006  a plain JSON value, never changed
        levels: int = 2,
        hidden: int = 500,
        activation: str = "sigmoid",
        ordering_seed: int | None = None,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        warmup: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(shape, levels)
        if hidden < 1:
            raise DataError(f"hidden must be at least 1, not {hidden}.")
        if activation not in ACTIVATIONS:
            raise DataError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}.")
        self.save_hyperparameters()
        dims = self.spec.dims
        ordering = torch.arange(dims) if ordering_seed is None else random_orderings(1, dims, ordering_seed)[0]
        self.net = NADENet(dims, hidden, activation, ordering)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), exact: images uint8 (N, C, H, W) to (N,) nats."""
        x = self.check(x)
        return self.net(x).flatten(1).sum(1)

    def complete(self, x: Tensor, known: Tensor, *, seed: int | None = None, cached: bool = True) -> Tensor:
        """Draw the unknown pixels of images.

        An exact draw from p(unknown | known) where `known` keeps a prefix of the ordering. With any other mask it is a
        heuristic: a pixel is drawn given the pixels before it only.

        Args:
            x: images, uint8 (N, C, H, W).
            known: boolean, broadcastable to (N, C, H, W), True at the pixels to keep.
            seed, cached: as in `sample`.

        Returns:
            uint8 (N, C, H, W), equal to `x` where `known`.
        """
        return self._complete(x, known, seed, cached)

    def _drawing_order(self, draws: Draws) -> Tensor:
        return self.net.ordering

    def _draw_plain(self, net: NADENet, x: Tensor, known: Tensor, uniform: Tensor, ordering: Tensor) -> None:
        for i in tqdm(ordering.tolist(), "pixels", disable=None, leave=False):
            x[:, i] = torch.where(known[:, i], x[:, i], uniform[:, i] < net.logits(x)[:, i].sigmoid())

    def _draw_cached(self, net: NADENet, x: Tensor, known: Tensor, uniform: Tensor, ordering: Tensor) -> None:
        a = net.input.bias.repeat(len(x), 1)
        weight, readout, bias = net.input.weight.T.contiguous(), net.output.weight, net.output.bias
        for i in tqdm(ordering.tolist(), "pixels", disable=None, leave=False):
            logit = net.activation(a) @ readout[i] + bias[i]
            x[:, i] = torch.where(known[:, i], x[:, i], uniform[:, i] < logit.sigmoid())
            a.addcmul_(x[:, i, None].double(), weight[i])
