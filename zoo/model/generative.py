"""The contract of a model that is a distribution: samples, and for most families a likelihood."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from zoo.batch import Batch, as_batch
from zoo.errors import DataError, ZooError
from zoo.model.base import Model
from zoo.nn.draws import Draws, chunk_size
from zoo.nn.levels import finite
from zoo.results import METRICS, Metric


def _where_likely(method: Callable[..., Tensor]) -> property:
    """A method of models with a likelihood; others do not have it, and `hasattr` tells."""

    def bound(self: GenerativeModel) -> Callable[..., Tensor]:
        if self.likelihood is None:
            raise AttributeError(f"{type(self).__name__} has no likelihood.")
        return MethodType(method, self)

    return property(bound, doc=method.__doc__)


class GenerativeModel(Model):
    """A distribution over data that can be sampled, and for most families evaluated.

    Public tensors are data: images are uint8 (N, C, H, W) with values 0..levels-1, points and tables float32 (N, D),
    tokens int64 (N, T). A family defines `sample`, and of the two below what it can do, and nothing it cannot:

    - `log_prob(x)`: (N,) nats, only where it is exact;
    - `elbo(x, *, samples=1, seed=None, index=None)`: (N,) nats, a lower bound on log p(x), whose random numbers belong
      to each datum by `index`, its place in its split; by default to its place in x.

    What draws step by step, as a Markov chain or a diffusion, also has `trace(n, *, frames=8, seed=None)` with the
    other options of its `sample`: (frames, n, *shape), states on the way as data, at even distances in steps, of which
    the last is what `sample` draws. A sampler has these two alone, and none of the two above; a bare kernel, a step
    from one state to the next, is a pair of functions and no module.

    What data are given, `label` or `condition`, is a keyword of the same name in all three. A family whose loss is its
    likelihood or its bound inherits the training and validation steps here; its constructor keeps `lr`, `warmup` and
    `weight_decay` as hyperparameters for the optimizer.
    """

    def __init__(self) -> None:
        super().__init__()
        # Over items and not over batches: ranks and last batches may differ in size. NaN shows as NaN.
        self.val_mean = MeanMetric(nan_strategy="disable")
        self.test_mean = MeanMetric(nan_strategy="disable")

    def sample(self, n: int, *, seed: int | None = None, **conditions: Any) -> Tensor:
        """Draw `n` data, (n, *spec.shape).

        A seed gives the same samples each time, the first of them whatever `n` is, and leaves the global random state
        as it was.
        """
        raise ZooError(f"{type(self).__name__} cannot be sampled: it does not define sample().")

    def way_of_sampling(self, **options: Any) -> str:
        """How `sample` draws with these options, in a phrase for the card; empty where nothing is to be said."""
        return ", ".join(f"{name} {value}" for name, value in options.items())

    chunk: int | None = None
    """Data that `sample` draws at once, which bounds its memory; None for `zoo.nn.draws.chunk_size`. It changes nothing
    but the last bit of float32, by which a value on the border of two levels may fall to either.
    """

    def in_chunks(self, n: int, seed: int | None, draw: Callable[[Draws, slice], Tensor]) -> Tensor:
        """`n` data of a `sample`, drawn `chunk` at a time.

        Args:
            n: number of data.
            seed: of their random numbers.
            draw: from the random numbers of some data, and their places among the n, to these data.

        Raises:
            ZooError: what is drawn is NaN or infinite.
        """
        n = self.spec.count(n)
        size = self.chunk or chunk_size(self.spec.dims, self.device)
        out: Tensor | None = None
        for part, draws in Draws(seed, n).chunks(size):
            drawn = draw(draws, part)
            if drawn.is_floating_point():
                finite(drawn)
            if out is None:
                if len(drawn) == n:
                    return drawn
                # Not a list of parts, which takes as much again to be put together.
                out = drawn.new_empty(n, *drawn.shape[1:])
            out[part] = drawn
        return out

    # -- likelihood -----------------------------------------------------------------------------------------------

    @property
    def likelihood(self) -> str | None:
        """ "exact" where there is `log_prob`, "bound" where there is only `elbo`, None where there is neither."""
        return "exact" if hasattr(self, "log_prob") else "bound" if hasattr(self, "elbo") else None

    @property
    def metric(self) -> str:
        """The unit in which this model's likelihood is reported: "nats" for binary and continuous data and for graphs,
        else "bits_per_dim".
        """
        return "nats" if self.spec.levels in (2, None) or self.spec.kind == "graph" else "bits_per_dim"

    @property
    def monitor(self) -> Metric | None:
        """The likelihood, where there is one."""
        return METRICS[self.metric] if self.likelihood else None

    @property
    def given(self) -> tuple[str, ...]:
        """The fields of a batch that the likelihood is conditioned on, in training and as it is reported: of
        "label", "condition" and "index"; by default the condition, where the data have one.
        """
        return ("condition",) if self.spec.condition else ()

    def conditions(self, batch: Batch) -> dict[str, Any]:
        """The keywords of `log_prob` and `elbo` for a batch: what `given` names, and for a bound whose random numbers
        belong to the datum its index, where the batch has one.

        Raises:
            DataError: the batch lacks one of them.
        """
        for name in self.given:
            if getattr(batch, name) is None:
                raise DataError(f"{type(self).__name__} is given the {name} of each datum, which this batch lacks.")
        names = set(self.given)
        bound = batch.index is not None and self.likelihood == "bound"
        if bound and "index" in inspect.signature(self.elbo).parameters:
            names.add("index")
        return {name: getattr(batch, name) for name in names}

    @_where_likely
    def bits_per_dim(self, x: Tensor, **conditions: Any) -> Tensor:
        """(N,) bits/dim, -log2 p(x) / D: exact or an upper bound, as `likelihood` says.

        Of a bound the conditions are those of `elbo`: `samples=8, seed=0` for more draws than one, always the same.
        """
        return self.negative_log_likelihood(x, **conditions) / (self.spec.dims * math.log(2))

    @_where_likely
    def negative_log_likelihood(self, x: Tensor, **conditions: Any) -> Tensor:
        """(N,) nats, -log p(x): exact or an upper bound, as `likelihood` says."""
        return -(self.log_prob if self.likelihood == "exact" else self.elbo)(x, **conditions)

    # -- training -------------------------------------------------------------------------------------------------

    def loss(self, x: Tensor, **conditions: Any) -> Tensor:
        """(N,) the number to minimize and to report, in the unit that `metric` names."""
        if self.likelihood is None:
            raise ZooError(f"{type(self).__name__} has no likelihood, which is the loss where no other is defined.")
        return (self.negative_log_likelihood if self.metric == "nats" else self.bits_per_dim)(x, **conditions)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean loss of a batch, as `zoo.batch.as_batch` takes it."""
        batch = as_batch(batch)
        loss = self.loss(batch.x, **self.conditions(batch)).mean()
        self.log(f"train_{self.metric}", loss, batch_size=batch.size)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the mean over the validation split."""
        self._evaluation_step("val", self.val_mean, self._placed(batch, batch_idx))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the mean over the test split."""
        self._evaluation_step("test", self.test_mean, self._placed(batch, batch_idx))

    def _evaluation_step(self, split: str, mean: MeanMetric, batch: Batch) -> None:
        if self.likelihood is None and type(self).loss is GenerativeModel.loss:
            return  # a sampler has nothing to say of data
        mean.update(self.loss(batch.x, **self.conditions(batch)))
        self.log(f"{split}_{self.metric}", mean, prog_bar=True, batch_size=batch.size)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """(N,) the loss of each datum of the batch."""
        batch = self._placed(batch, batch_idx)
        return self.loss(batch.x, **self.conditions(batch))

    def _placed(self, batch: Any, batch_idx: int) -> Batch:
        """A batch of a pass without training, each datum with its place: where a loader does not tell, by counting."""
        batch = as_batch(batch)
        if batch_idx == 0:
            self._before = 0
        places = torch.arange(self._before, self._before + batch.size)
        self._before += batch.size
        return batch if batch.index is not None else batch._replace(index=places)
