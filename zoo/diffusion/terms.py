"""What the bound of a diffusion consists of, and how much of it each term is."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.batch import Batch
from zoo.model import GenerativeModel, Measurement
from zoo.results import METRICS, Metric, Result

SAMPLES = 8  # for each datum: a share needs no more


class Terms(NamedTuple):
    """What a bound consists of, (N,) nats each: -log p(x) is at most their sum.

    Attributes:
        prior: the divergence of q(z | x) from the prior, at the noise end.
        diffusion: the sum, or the integral, of the divergences of the steps on the way.
        reconstruction: -log p(x | z) at the other end.
    """

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor


class TermsOfBound(Measurement):
    """The mean of each term of the bound, in the unit of the likelihood.

    Args:
        model: with `terms(x, samples=, seed=, index=)`, and what its likelihood is given.
        samples: steps, or times, of each datum.
        seed: of them.
    """

    def __init__(self, model: GenerativeModel, samples: int = SAMPLES, seed: int = 0) -> None:
        self.model, self.samples, self.seed = model, samples, seed
        unit = METRICS[model.metric].unit
        self.metrics = tuple(Metric(name, f"{unit} of the {name}", 4) for name in Terms._fields)
        self.found: list[Tensor] = []
        self.n = 0

    def update(self, batch: Batch) -> None:
        """The terms of a batch."""
        if batch.index is None:
            batch = batch._replace(index=torch.arange(self.n, self.n + batch.size))
        self.n += batch.size
        given = self.model.conditions(batch)
        terms = self.model.terms(batch.x, samples=self.samples, seed=self.seed, **given)
        self.found.append(torch.stack(terms).double().cpu())

    def compute(self) -> list[Result]:
        """Means and standard errors."""
        terms = torch.cat(self.found, 1)
        if self.model.metric != "nats":
            terms = terms / (self.model.spec.dims * math.log(2))
        protocol = "; ".join(filter(None, (self.model.protocol, f"{self.samples} draws")))
        errors = terms.std(1) / math.sqrt(self.n) if self.n > 1 else [None] * len(terms)
        return [
            Result(metric, "estimate", float(mean), None if error is None else float(error), protocol=protocol)
            for metric, mean, error in zip(self.metrics, terms.mean(1), errors, strict=True)
        ]
