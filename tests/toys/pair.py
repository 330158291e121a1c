"""A toy of pairs of words: tokens (2,), the probability of the second given the first."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.data.tensors import TensorData
from zoo.model import GenerativeModel
from zoo.nn.draws import Draws
from zoo.spec import DataSpec

WORDS = 6


class Pairs(TensorData):
    """Each word is followed by the next one, or by itself."""

    title: ClassVar[str] = "pairs of words"
    hub_id: ClassVar[str] = "someone/pairs"

    @property
    def spec(self) -> DataSpec:
        return DataSpec((2,), WORDS, kind="tokens")

    @property
    def protocol(self) -> str:
        return "pairs in their order"

    def read(self, split: str) -> Tensor:
        n = 40 if split == "test" else 120
        generator = torch.Generator().manual_seed(n)
        first = torch.randint(WORDS, (n,), generator=generator)
        return torch.stack([first, (first + torch.randint(2, (n,), generator=generator)) % WORDS], 1)


class Bigram(GenerativeModel):
    """p(first) p(second | first), by tables of logits."""

    def __init__(self, words: int = WORDS, lr: float = 0.1, warmup: int = 2, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec = DataSpec((2,), words, kind="tokens")
        self.first = nn.Parameter(torch.zeros(words))
        self.second = nn.Parameter(torch.zeros(words, words))

    def log_prob(self, x: Tensor) -> Tensor:
        x = self.check(x)
        first, second = x.long().unbind(1)
        rows = self.second[first].log_softmax(1)
        return self.first.log_softmax(0)[first] + rows.gather(1, second[:, None])[:, 0]

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        self.spec.count(n)
        draws = Draws(seed, n)
        first = draws.choice(self.first.softmax(0))
        return torch.stack([first, draws.choice(self.second.softmax(1).cpu()[first])], 1)


def toy(**data: Any) -> tuple[GenerativeModel, TensorData]:
    return Bigram(), Pairs(**data)


def check(model: Bigram) -> None:
    """All probabilities sum to one."""
    pairs = torch.cartesian_prod(torch.arange(WORDS), torch.arange(WORDS))
    torch.testing.assert_close(model.log_prob(pairs).exp().sum(), torch.ones(()))


METRICS = {"bits_per_dim": "exact"}
