"""A toy of a model that is given a label: points around the place of their class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.data.tensors import TensorData
from zoo.model import GenerativeModel
from zoo.model.asking import draws
from zoo.nn.draws import Draws
from zoo.spec import DataSpec

CLASSES = 3


class Clusters(TensorData):
    """Points around (2 y, -2 y), of which y is the label."""

    title: ClassVar[str] = "clusters"
    shape = (2,)
    classes = CLASSES

    def read(self, split: str) -> tuple[Tensor, Tensor]:
        n = 40 if split == "test" else 120
        generator = torch.Generator().manual_seed(n)
        labels = torch.randint(CLASSES, (n,), generator=generator)
        places = 2.0 * labels[:, None] * torch.tensor([1.0, -1.0])
        return places + torch.randn(n, 2, generator=generator), labels


class Places(GenerativeModel):
    """x ~ N(place[label], I)."""

    def __init__(self, classes: int = CLASSES, lr: float = 0.1, warmup: int = 2, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec = DataSpec((2,), None, classes)
        self.place = nn.Parameter(torch.zeros(classes, 2))

    @property
    def given(self) -> tuple[str, ...]:
        return ("label",)

    def log_prob(self, x: Tensor, *, label: int | Sequence[int] | Tensor) -> Tensor:
        x = self.check(x)
        labels = self.check_labels(label, len(x))
        return -0.5 * (x - self.place[labels]).square().sum(1) - math.log(2 * math.pi)

    @torch.no_grad()
    def sample(self, n: int, *, label: int | Sequence[int] | Tensor, seed: int | None = None) -> Tensor:
        self.spec.count(n)
        labels = self.check_labels(label, n)
        return self.place[labels] + Draws(seed, n).normal(2).to(self.place)


def toy(**data: Any) -> tuple[GenerativeModel, TensorData]:
    return Places(), Clusters(**data)


def check(model: Places) -> None:
    """A label's points are the likelier given it, and nothing is drawn without one."""
    for label in range(CLASSES):
        x = model.sample(200, label=label, seed=0)
        own, *others = (model.log_prob(x, label=(label + k) % CLASSES).detach().mean() for k in range(CLASSES))
        assert all(own > other for other in others)
    assert not draws(model)


METRICS = {"nats": "exact"}
