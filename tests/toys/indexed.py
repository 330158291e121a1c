"""A toy of a model that needs to know which datum it sees: each has a latent of its own, learned with the weights."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.data.tensors import TensorData
from zoo.model import GenerativeModel
from zoo.nn.draws import Draws
from zoo.spec import DataSpec

TRAINED = 100


class Shifted(TensorData):
    """Points around a place of their own."""

    title: ClassVar[str] = "shifted"

    @property
    def spec(self) -> DataSpec:
        return DataSpec((2,), None)

    @property
    def protocol(self) -> str:
        return "drawn with a fixed seed"

    def read(self, split: str) -> Tensor:
        n = 40 if split == "test" else 120
        return torch.randn(n, 2, generator=torch.Generator().manual_seed(n)) + 3


class Places(GenerativeModel):
    """z ~ N(0, I), x ~ N(common + z, I), and for each datum a posterior N(own[index], I / 2)."""

    def __init__(self, data: int = TRAINED, lr: float = 0.1, warmup: int = 2, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec = DataSpec((2,), None)
        self.common = nn.Parameter(torch.zeros(2))
        self.own = nn.Parameter(torch.zeros(data, 2))

    @property
    def given(self) -> tuple[str, ...]:
        return ("index",)

    def elbo(self, x: Tensor, *, index: Tensor, samples: int = 1, seed: int | None = None) -> Tensor:
        x = self.check(x)
        mean, variance = self.own[index % len(self.own)], 0.5
        expected = -0.5 * ((x - self.common - mean).square() + variance) - 0.5 * math.log(2 * math.pi)
        divergence = 0.5 * (variance + mean.square() - 1 - math.log(variance))
        return (expected - divergence).sum(1)

    def exact(self, x: Tensor) -> Tensor:
        """log p(x), which the bound is held against."""
        return -0.25 * (x - self.common).square().sum(1) - math.log(4 * math.pi)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        self.spec.count(n)
        noise = Draws(seed, n).normal(2).to(self.common)
        return self.common + math.sqrt(2) * noise


def toy(**data: Any) -> tuple[GenerativeModel, TensorData]:
    return Places(), Shifted(**data)


def check(model: Places) -> None:
    """The bound is below log p(x), and each datum's latent serves it better than that of another."""
    data = Shifted(validation=20)
    data.setup("fit")
    x, index = data.train.x, torch.arange(len(data.train.x))
    bound, exact = model.elbo(x, index=index).detach(), model.exact(x).detach()
    assert (bound <= exact + 1e-5).all()
    own = model.own.detach().clone()
    with torch.no_grad():
        model.own.copy_(own.roll(1, 0))
        others = model.elbo(x, index=index)
        model.own.copy_(own)
    assert bound.mean() > others.mean(), "each has its own"


METRICS = {"nats": "upper"}
