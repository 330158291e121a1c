"""EoNADE: Uria, Murray, Larochelle, *A Deep and Tractable Density Estimator*, ICML 2014, arXiv 1310.1757.

One network, which reads the known pixels and which ones are known, gives the Bernoulli distribution of each of the
others; it is a NADE for every ordering o of the pixels at once, and trained for all of them by drawing, for each image,
the set of pixels that come before position d. The model is the ensemble of a few fixed orderings, p(x) = mean over o of
p(x | o), whose likelihood is exact: D passes for each ordering, of which the first layer is cheap.

From the paper: the pixels, zero where unknown, concatenated with the mask as input, rectified linear hidden layers (two
of 500 units for its best number on MNIST), orderings drawn uniformly. Departures:

- training images may be binarized anew in each batch, as the data decide; the paper's are binarized once;
- the positions d of a batch are spread evenly over 1..D (each alone is still uniform), which quiets the gradient;
- AdamW or Muon with a cosine schedule and averaged weights.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from zoo.arguments import count_of
from zoo.autoregressive.nade import BinaryAutoregressive, chunks, running_sums
from zoo.errors import DataError
from zoo.nn.draws import Draws
from zoo.nn.orderings import check_orderings, random_orderings

VALIDATION_DRAWS = 8  # sets of known pixels for each validation image


class EoNADENet(nn.Module):
    """Images and the known pixels to the log-probability of each pixel given the known ones.

    Called, uint8 (N, C, H, W) and boolean (N, C, H, W) to nats (N, C, H, W); at a known pixel it means nothing.
    """

    def __init__(self, dims: int, hidden: int, layers: int) -> None:
        super().__init__()
        # One layer over the concatenation of the known values and the mask, kept as two: its parts are summed alone.
        self.values = nn.Linear(dims, hidden)
        self.mask = nn.Linear(dims, hidden, bias=False)
        self.hidden = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))
        self.output = nn.Linear(hidden, dims)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        """log p(x_i | x_known) for each i."""
        logits = self.logits(x.flatten(1), known.flatten(1))
        # log sigmoid(z) of a one and log sigmoid(-z) of a zero.
        return F.logsigmoid((2 * x.flatten(1).to(logits.dtype) - 1) * logits).view(x.shape)

    def logits(self, x: Tensor, known: Tensor) -> Tensor:
        """(N, D) zeros and ones, and the mask of the known, to (N, D), the logit of a one for each pixel."""
        dtype = self.output.weight.dtype
        h = self.trunk(self.values((x * known).to(dtype)) + self.mask(known.to(dtype)))
        with torch.autocast(x.device.type, enabled=False):
            return self.output(h.to(dtype))

    def trunk(self, a: Tensor) -> Tensor:
        """Activations of the first hidden layer (..., H), before its rectifier, to those of the last, after it."""
        h = F.relu(a)
        for layer in self.hidden:
            h = F.relu(layer(h))
        return h

    def log_prob(self, x: Tensor, ordering: Tensor) -> Tensor:
        """log p(x | o), exact: (N, D) zeros and ones and o (D,) to (N,) nats.

        The inputs of consecutive positions differ by one pixel: the first layer is a running sum, as in NADE.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.output.weight.dtype)[:, ordering]
            values, mask = self.values.weight[:, ordering].T, self.mask.weight[:, ordering].T
            readout, bias = self.output.weight[ordering], self.output.bias[ordering]
            start, total = self.values.bias.expand(len(x), -1), x.new_zeros(len(x))
            for k in chunks(x.shape[1], start.numel()):
                seen = running_sums(torch.ones_like(bias[None, k]), mask[k])  # (1, K, H)
                h = self.trunk(start[:, None] + seen + running_sums(x[:, k], values[k]))
                logits = torch.einsum("nkh,kh->nk", h, readout[k]) + bias[k]
                total = total + F.logsigmoid((2 * x[:, k] - 1) * logits).sum(1)
                start = start + x[:, k] @ values[k] + mask[k].sum(0)
            return total


class EoNADE(BinaryAutoregressive):
    """EoNADE, an ensemble of orderings of one deep order-agnostic NADE, with exact likelihood.

    `log_prob`, and with it `zoo.evaluate` and `test`, is exact, and takes `orderings` * D passes. What training and
    validation report instead is the order-agnostic estimate of the mean over all D! orderings of -log p(x | o), which
    by Jensen's inequality is above -log p(x), by some nats.

    Args:
        shape: (C, H, W) of the images.
        levels: 2; EoNADE models binary images.
        hidden: H, the units of a hidden layer.
        layers: number of hidden layers.
        orderings: number of orderings in the ensemble; they have no part in training.
        ordering_seed: of these orderings.
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights, not of the biases.

    Example:
        >>> model = EoNADE(shape=[1, 8, 8], orderings=2)
        >>> x = model.sample(4, seed=0)     # uint8 (4, 1, 8, 8)
        >>> model.log_prob(x)               # (4,) nats
    """

    papers = ("eonade",)

    def __init__(
        self,
        shape: list[int] = [1, 28, 28],  # noqa: B006  a plain JSON value, never changed
        levels: int = 2,
        hidden: int = 500,
        layers: int = 2,
        orderings: int = 128,
        ordering_seed: int = 0,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        warmup: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(shape, levels)
        for name, value in (("hidden", hidden), ("layers", layers), ("orderings", orderings)):
            if value < 1:
                raise DataError(f"{name} must be at least 1, not {value}.")
        self.save_hyperparameters()
        self.net = EoNADENet(self.spec.dims, hidden, layers)
        self.register_buffer("orderings", random_orderings(orderings, self.spec.dims, ordering_seed))
        self.register_load_state_dict_post_hook(_check_loaded)

    # -- likelihood -----------------------------------------------------------------------------------------------

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) = log mean_o p(x | o), exact: images uint8 (N, C, H, W) to (N,) nats."""
        x = self.check(x)
        each = torch.stack([self.net.log_prob(x.flatten(1), ordering) for ordering in self.orderings])
        return each.logsumexp(0) - math.log(len(each))

    def log_prob_under(self, x: Tensor, ordering: Tensor) -> Tensor:
        """log p(x | o), exact: images uint8 (N, C, H, W) and any ordering o, int64 (D,), to (N,) nats."""
        x = self.check(x)
        if isinstance(ordering, Tensor) and ordering.ndim != 1:
            raise DataError(f"An ordering has shape ({self.spec.dims},), not {tuple(ordering.shape)}.")
        check_orderings(ordering, self.spec.dims)
        return self.net.log_prob(x.flatten(1), ordering.to(x.device))

    def order_agnostic(
        self, x: Tensor, *, draws: int = 1, seed: int | None = None, index: Tensor | None = None
    ) -> Tensor:
        """An unbiased estimate of the mean over all orderings of -log p(x | o): (N, C, H, W) to (N,) nats.

        With an ordering o and a position d in 1..D, both uniform, it is the paper's estimate of J_OA,

            D / (D - d + 1) * sum over the pixels i not in o_<d of -log p(x_i | x_{o_<d}).

        Args:
            x: images, uint8 (N, C, H, W).
            draws: number of estimates of an image, to be averaged.
            seed: of orderings and positions, which then belong to each image; by default they are those of the global
                generator of the device of `x`, and positions are spread over the batch.
            index: the places of the images in their split, int64 (N,); by default in x.
        """
        x = self.check(x)
        draws = count_of(draws, "draws")
        n, dims, device = len(x), self.spec.dims, x.device
        x = x.repeat(draws, 1, 1, 1)
        # d - 1, of row r the integer part of D * ((u + r / R) mod 1): uniform, and spread over R rows, of the whole
        # batch or, where numbers belong to the image, of its own draws.
        if seed is None:
            plain = {"device": device, "dtype": torch.float32}
            at, keys = torch.rand(1, **plain), torch.rand(len(x), dims, **plain)
            share = torch.arange(len(x), **plain) / max(1, len(x))
        else:
            numbers = Draws(seed, self.check_index(index, n))
            at, keys = numbers.uniform().repeat(draws), numbers.uniform(draws, dims).transpose(0, 1).flatten(0, 1)
            share = (torch.arange(draws, device="cpu", dtype=torch.float32) / draws).repeat_interleave(n)
        before = ((at + share) % 1 * dims).long().clamp(max=dims - 1)[:, None]
        orderings = keys.argsort(1)
        first = torch.arange(dims, device=before.device) < before
        known = torch.zeros_like(first).scatter(1, orderings, first).to(device)
        missing = -self.net(x, known.view(x.shape)).flatten(1).masked_fill(known, 0).sum(1)
        return (missing * dims / (dims - before[:, 0].to(device))).view(draws, -1).mean(0)

    # -- training -------------------------------------------------------------------------------------------------

    def loss(self, x: Tensor) -> Tensor:
        """(N,) nats: in training the order-agnostic estimate; else, for test and predict, the exact -log p(x)."""
        return self.order_agnostic(x) if self.training else super().loss(x)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the order-agnostic estimate, with the same draws each time: the exact number would take minutes."""
        batch = self._placed(batch, batch_idx)
        self.val_mean.update(self.order_agnostic(batch.x, draws=VALIDATION_DRAWS, seed=0, index=batch.index))
        self.log(f"val_{self.metric}", self.val_mean, prog_bar=True)

    # -- sampling -------------------------------------------------------------------------------------------------

    def complete(self, x: Tensor, known: Tensor, *, seed: int | None = None, cached: bool = True) -> Tensor:
        """Draw the unknown pixels of images, whichever they are.

        For each image they come, after all the known ones, in the order of one of the model's orderings, drawn
        uniformly: an exact draw from p(unknown | known, o) of that NADE.

        Args:
            x: images, uint8 (N, C, H, W).
            known: boolean, broadcastable to (N, C, H, W), True at the pixels to keep.
            seed, cached: as in `sample`.

        Returns:
            uint8 (N, C, H, W), equal to `x` where `known`.
        """
        return self._complete(x, known, seed, cached)

    def _drawing_order(self, draws: Draws) -> Tensor:
        """(N, D): each image's ordering, drawn uniformly from the ensemble."""
        return self.orderings[draws.integers(len(self.orderings)).to(self.device)]

    def _draw_plain(self, net: EoNADENet, x: Tensor, known: Tensor, uniform: Tensor, ordering: Tensor) -> None:
        ordering = _known_first(ordering, known)
        seen = torch.zeros_like(known)
        for i in tqdm(ordering.T[:, :, None], "pixels", disable=None, leave=False):  # i: (N, 1), a pixel of each image
            one = uniform.gather(1, i) < net.logits(x, seen).gather(1, i).sigmoid()
            x.scatter_(1, i, torch.where(known.gather(1, i), x.gather(1, i), one.to(x.dtype)))
            seen.scatter_(1, i, True)

    def _draw_cached(self, net: EoNADENet, x: Tensor, known: Tensor, uniform: Tensor, ordering: Tensor) -> None:
        ordering = _known_first(ordering, known)
        a = net.values.bias.repeat(len(x), 1)
        values, mask = net.values.weight.T.contiguous(), net.mask.weight.T.contiguous()
        for i in tqdm(ordering.T[:, :, None], "pixels", disable=None, leave=False):
            pixel = i[:, 0]
            logit = (net.trunk(a) * net.output.weight[pixel]).sum(1, keepdim=True) + net.output.bias[i]
            one = uniform.gather(1, i) < logit.sigmoid()
            value = torch.where(known.gather(1, i), x.gather(1, i), one.to(x.dtype))
            x.scatter_(1, i, value)
            a.addcmul_(value.double(), values[pixel]).add_(mask[pixel])


def _known_first(ordering: Tensor, known: Tensor) -> Tensor:
    """(N, D): orderings with the known pixels moved to the front, otherwise as they were."""
    return ordering.gather(1, (~known.gather(1, ordering)).int().argsort(dim=1, stable=True))


def _check_loaded(model: EoNADE, _: Any) -> None:
    check_orderings(model.orderings, model.spec.dims)
