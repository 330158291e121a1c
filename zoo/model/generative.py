"""The contract of a model that is a distribution: samples, and for most families a likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import Tensor
from torchmetrics import MeanMetric

from zoo.batch import Batch, as_batch
from zoo.errors import DataError, ZooError
from zoo.model.base import Model
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
    - `elbo(x, *, samples=1, seed=None)`: (N,) nats, a lower bound on log p(x).

    A sampler, as a Markov chain, has `sample` and, of the states on the way, `trace(n, *, seed=None)`, and none of the
    two; a bare kernel, a step from one state to the next, is a pair of functions and no module.

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

        A seed gives the same samples each time and leaves the global random state as it was.
        """
        raise ZooError(f"{type(self).__name__} cannot be sampled: it does not define sample().")

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
        """The keywords of `log_prob` and `elbo` for a batch: what `given` names.

        Raises:
            DataError: the batch lacks one of them.
        """
        for name in self.given:
            if getattr(batch, name) is None:
                raise DataError(f"{type(self).__name__} is given the {name} of each datum, which this batch lacks.")
        return {name: getattr(batch, name) for name in self.given}

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
        self._evaluation_step("val", self.val_mean, as_batch(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the mean over the test split."""
        self._evaluation_step("test", self.test_mean, as_batch(batch))

    def _evaluation_step(self, split: str, mean: MeanMetric, batch: Batch) -> None:
        if self.likelihood is None and type(self).loss is GenerativeModel.loss:
            return  # a sampler has nothing to say of data
        mean.update(self.loss(batch.x, **self.conditions(batch)))
        self.log(f"{split}_{self.metric}", mean, prog_bar=True, batch_size=batch.size)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """(N,) the loss of each datum of the batch."""
        batch = as_batch(batch)
        return self.loss(batch.x, **self.conditions(batch))
