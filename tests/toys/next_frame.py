"""A toy of the next frame of a film: an image given the one before."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.batch import Batch
from zoo.data.tensors import TensorData
from zoo.model import GenerativeModel
from zoo.model.asking import draws
from zoo.nn.draws import Draws
from zoo.spec import DataSpec

SHAPE = (1, 2, 2)


class Steps(TensorData):
    """Frames of 2x2 pixels, each of which is that of the frame before or, with probability 1/8, the other value."""

    title: ClassVar[str] = "steps"
    shape = SHAPE
    levels = 2
    condition = DataSpec(SHAPE, 2)

    def read(self, split: str) -> Batch:
        n = 40 if split == "test" else 120
        generator = torch.Generator().manual_seed(n)
        before = torch.randint(2, (n, *SHAPE), generator=generator, dtype=torch.uint8)
        changes = torch.rand(n, *SHAPE, generator=generator) < 0.125
        return Batch(before ^ changes, condition=before)


class NextFrame(GenerativeModel):
    """Pixels that are independent given the frame before, from which a network of convolutions tells their logits."""

    def __init__(self, channels: int = 4, lr: float = 0.1, warmup: int = 2, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec = DataSpec(SHAPE, 2, condition=DataSpec(SHAPE, 2))
        self.net = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.Tanh(), nn.Conv2d(channels, 1, 1))

    def log_prob(self, x: Tensor, *, condition: Tensor) -> Tensor:
        x = self.check(x)
        condition = self.check(condition, "condition", self.spec.condition)
        logits = self.net(condition.to(self.dtype))
        return (x * logits - nn.functional.softplus(logits)).flatten(1).sum(1)

    @torch.no_grad()
    def sample(self, n: int, *, condition: Tensor, seed: int | None = None) -> Tensor:
        self.spec.count(n)
        condition = self.check(condition, "condition", self.spec.condition)
        uniform = Draws(seed, n).uniform(*SHAPE)
        return (uniform < self.net(condition.to(self.dtype)).sigmoid().cpu()).to(torch.uint8)


def toy(**data: Any) -> tuple[GenerativeModel, TensorData]:
    return NextFrame(), Steps(**data)


def check(model: NextFrame) -> None:
    """Given each frame all probabilities sum to one; it is likelier than its negative; without it none is drawn."""
    frames = torch.cartesian_prod(*[torch.arange(2, dtype=torch.uint8)] * 4).view(-1, *SHAPE)
    for frame in frames:
        log_prob = model.log_prob(frames, condition=frame.expand_as(frames)).detach()
        torch.testing.assert_close(log_prob.exp().sum(), torch.ones(()))
    own, negative = (model.log_prob(x, condition=frames).detach() for x in (frames, 1 - frames))
    assert (own > negative).all()
    drawn = model.sample(16, condition=frames, seed=0)
    assert torch.equal(drawn, model.sample(16, condition=frames, seed=0))
    assert (drawn == frames).float().mean() > 0.5
    assert not draws(model)


METRICS = {"nats": "exact"}
