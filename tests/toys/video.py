"""A toy of video, (T, C, H, W): each pixel is that of the frame before, or the other value."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.data.tensors import TensorData
from zoo.model import GenerativeModel
from zoo.nn.draws import Draws
from zoo.spec import DataSpec

SHAPE = (3, 1, 2, 2)


class Flicker(TensorData):
    """Films of three frames of 2x2 pixels, which change with probability 1/4."""

    title: ClassVar[str] = "flicker"

    @property
    def spec(self) -> DataSpec:
        return DataSpec(SHAPE, 2, kind="video")

    @property
    def protocol(self) -> str:
        return "drawn with a fixed seed"

    def read(self, split: str) -> Tensor:
        n = 40 if split == "test" else 120
        generator = torch.Generator().manual_seed(n)
        changes = torch.rand(n, *SHAPE, generator=generator) < 0.25
        changes[:, 0] = torch.rand(n, *SHAPE[1:], generator=generator) < 0.5
        return (changes.cumsum(1) % 2).to(torch.uint8)


class Frames(GenerativeModel):
    """The probability of a change, one number for each pixel."""

    def __init__(self, lr: float = 0.1, warmup: int = 2, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec = DataSpec(SHAPE, 2, kind="video")
        self.logit = nn.Parameter(torch.zeros(SHAPE))

    def log_prob(self, x: Tensor) -> Tensor:
        x = self.check(x)
        changes = torch.cat([x[:, :1], x[:, 1:] ^ x[:, :-1]], 1).to(self.logit.dtype)
        return (changes * self.logit - nn.functional.softplus(self.logit)).flatten(1).sum(1)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        self.spec.count(n)
        uniform = Draws(seed, n).uniform(*self.spec.shape)
        return ((uniform < self.logit.sigmoid().cpu()).cumsum(1) % 2).to(torch.uint8)


def toy(**data: Any) -> tuple[GenerativeModel, TensorData]:
    return Frames(), Flicker(**data)


def check(model: Frames) -> None:
    """All probabilities sum to one."""
    films = torch.cartesian_prod(*[torch.arange(2, dtype=torch.uint8)] * 12).view(-1, *SHAPE)
    torch.testing.assert_close(model.log_prob(films).exp().sum(), torch.ones(()))


METRICS = {"nats": "exact"}
