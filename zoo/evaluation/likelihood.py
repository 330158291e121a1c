"""The likelihood of held-out data: its mean, with its standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.batch import Batch
from zoo.errors import ZooError
from zoo.model import GenerativeModel, Measurement
from zoo.results import METRICS, Result, results_of

MOST_SAMPLES = 20_000  # for each datum, that a config.json alone may ask for; papers take 5,000


class Likelihood(Measurement):
    """The mean of -log p(x), exact or an upper bound, in the unit that the model's `metric` names.

    Args:
        model: with `log_prob` or `elbo`.
        samples: draws for each datum behind a bound.
        seed: of these draws, which belong to each datum by its index, however large the batches are.
    """

    def __init__(self, model: GenerativeModel, samples: int = 1, seed: int = 0) -> None:
        self.model, self.samples, self.seed = model, samples, seed
        self.metrics = (METRICS[model.metric],)
        # Only where a bound of many samples is the mean of bounds of one do the draws have a spread.
        self.averages = model.likelihood == "bound" and hasattr(model, "elbo_draws")
        self.n = 0
        self.found: list[Tensor] = []

    def update(self, batch: Batch) -> None:
        """Log-likelihoods of a batch; a `ZooError` where one is not finite."""
        if batch.index is None:
            batch = batch._replace(index=torch.arange(self.n, self.n + batch.size))
        x, given = batch.x, self.model.conditions(batch)
        if self.model.likelihood == "exact":
            log_prob = self.model.log_prob(x, **given)[None]
        else:
            given |= {"samples": self.samples, "seed": self.seed}
            log_prob = self.model.elbo_draws(x, **given) if self.averages else self.model.elbo(x, **given)[None]
        self.found.append(_finite(log_prob, self.n))
        self.n += batch.size

    def compute(self) -> list[Result]:
        """Mean, standard error over data and, of several draws of dequantization noise, their spread."""
        model, count = self.model, self.samples
        losses = -torch.cat(self.found, 1)  # (draws, n)
        if model.metric != "nats":
            losses = losses / (model.spec.dims * math.log(2))
        each = losses.mean(0)
        given = " and ".join(name for name in model.given if name != "index")
        if self.averages:
            protocol = f"{model.protocol}, " + (f"{count:,} draws" if count > 1 else "one draw")
        else:
            protocol = "; ".join(filter(None, (model.protocol, f"{count:,} samples an image" if count > 1 else "")))
        result = Result(
            METRICS[model.metric],
            {"exact": "exact", "bound": "upper"}[model.likelihood],
            each.mean().item(),
            standard_error=each.std().item() / math.sqrt(self.n) if self.n > 1 else None,
            protocol="; ".join(filter(None, (protocol, given and f"given the {given}"))),
            samples=count,
            spread=losses.mean(1).std().item() if len(losses) > 1 else None,
        )
        return [result]


def own_samples(config: Mapping[str, Any] | None, metric: str) -> list[int]:
    """Numbers of samples behind the bounds in a metric that a checkpoint's config.json holds.

    Raises:
        ZooError: there are so many that to take them all again would never end.
    """
    bounds = (each for each in results_of(config or {}) if each.kind == "upper" and each.metric.name == metric)
    counts = sorted({each.samples for each in bounds}) or [1]
    if sum(counts) > MOST_SAMPLES:
        raise ZooError(
            f"The checkpoint's own bounds are of {sum(counts):,} samples for each datum, and without a word at most "
            f"{MOST_SAMPLES:,} are taken: say how many with samples."
        )
    return counts


def _finite(log_prob: Tensor, start: int) -> Tensor:
    """log p, (draws, N), as float64 on the CPU; a NaN must not hide in a mean."""
    log_prob = log_prob.double().cpu()
    bad = (~torch.isfinite(log_prob)).nonzero()
    if len(bad):
        draw, index = bad[0].tolist()
        raise ZooError(
            f"The log-likelihood of image {start + index} is {log_prob[draw, index].item()}: "
            "the weights are damaged, or the model does not cover its data."
        )
    return log_prob
