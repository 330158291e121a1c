"""The likelihood of held-out data: its mean, with its standard error."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.batch import Batch
from zoo.errors import ZooError
from zoo.model import GenerativeModel, Measurement
from zoo.results import METRICS, Metric, Result, results_of

MOST_SAMPLES = 20_000  # for each datum, that a config.json alone may ask for; papers take 5,000


class Likelihood(Measurement):
    """The mean of -log p(x), exact or an upper bound, in the unit that the model's `metric` names.

    Of a model whose bound is a sum of terms, `term_draws(x, ...)` to the draws of each by its name, also their means.

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
        self.terms: dict[str, list[Tensor]] = defaultdict(list)

    def update(self, batch: Batch) -> None:
        """Log-likelihoods of a batch; a `ZooError` where one is not finite."""
        if batch.index is None:
            batch = batch._replace(index=torch.arange(self.n, self.n + batch.size))
        x, given = batch.x, self.model.conditions(batch)
        if self.model.likelihood == "exact":
            log_prob = self.model.log_prob(x, **given)[None]
        else:
            given |= {"samples": self.samples, "seed": self.seed}
            log_prob = self._bound(x, given)
        self.found.append(_finite(log_prob, self.n))
        self.n += batch.size

    def _bound(self, x: Tensor, given: dict[str, Any]) -> Tensor:
        """The bound of a batch, (draws, N) nats; of terms, these are kept."""
        if hasattr(self.model, "term_draws"):
            terms = self.model.term_draws(x, **given)
            for name, each in terms.items():
                self.terms[name].append(each.double().cpu())
            return -sum(terms.values())
        return self.model.elbo_draws(x, **given) if self.averages else self.model.elbo(x, **given)[None]

    def compute(self) -> list[Result]:
        """Mean, standard error over data and, of several draws that are averaged, their spread; then the terms."""
        model, count = self.model, self.samples
        given = " and ".join(name for name in model.given if name != "index")
        if self.averages:
            protocol = f"{model.protocol}, " + (f"{count:,} draws" if count > 1 else "one draw")
        else:
            protocol = "; ".join(filter(None, (model.protocol, f"{count:,} samples an image" if count > 1 else "")))
        protocol = "; ".join(filter(None, (protocol, given and f"given the {given}")))
        metric, kind = METRICS[model.metric], {"exact": "exact", "bound": "upper"}[model.likelihood]
        result = self._mean(metric, kind, -torch.cat(self.found, 1), protocol)
        return [result, *(self._term(name, torch.cat(found, 1), protocol) for name, found in self.terms.items())]

    def _term(self, name: str, losses: Tensor, protocol: str) -> Result:
        metric = Metric(name, f"{METRICS[self.model.metric].unit} of the {name}", 4)
        return self._mean(metric, "estimate", losses, f"term of the bound; {protocol}")

    def _mean(self, metric: Metric, kind: str, losses: Tensor, protocol: str) -> Result:
        """The result of losses (draws, n) in nats."""
        if self.model.metric != "nats":
            losses = losses / (self.model.spec.dims * math.log(2))
        each = losses.mean(0)
        return Result(
            metric,
            kind,
            each.mean().item(),
            standard_error=each.std().item() / math.sqrt(self.n) if self.n > 1 else None,
            protocol=protocol,
            samples=self.samples,
            # A term may be the same in each draw, whose means then differ by their rounding at most.
            spread=losses.mean(1).std().item() if bool((losses != losses[:1]).any()) else None,
        )


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
