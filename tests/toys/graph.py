"""A toy of graphs: a ragged batch, whose items have no common shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.data.tensors import TensorData
from zoo.model import GenerativeModel
from zoo.nn.draws import Draws
from zoo.spec import DataSpec

KINDS, MOST = 3, 4  # of nodes, and nodes of a graph


class Graphs:
    """Graphs without edges: the kinds of their nodes, int64, in a list of tensors."""

    def __init__(self, nodes: Sequence[Tensor]) -> None:
        self.nodes = list(nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, index: slice | Tensor) -> Graphs:
        if isinstance(index, slice):
            return Graphs(self.nodes[index])
        return Graphs([self.nodes[i] for i in index.tolist()])

    def to(self, device: Any, non_blocking: bool = False) -> Graphs:
        return Graphs([nodes.to(device, non_blocking=non_blocking) for nodes in self.nodes])


class Molecules(TensorData):
    """One to four nodes of three kinds, the first of which is the most frequent."""

    title: ClassVar[str] = "molecules"

    @property
    def spec(self) -> DataSpec:
        return DataSpec((1,), KINDS, kind="graph")

    @property
    def protocol(self) -> str:
        return "drawn with a fixed seed"

    def read(self, split: str) -> Graphs:
        n = 40 if split == "test" else 120
        generator = torch.Generator().manual_seed(n)
        sizes = torch.randint(1, MOST + 1, (n,), generator=generator)
        weights = torch.tensor([0.6, 0.3, 0.1])
        return Graphs([torch.multinomial(weights, size, True, generator=generator) for size in sizes.tolist()])


class Bag(GenerativeModel):
    """The number of nodes, then the kind of each by itself."""

    def __init__(self, lr: float = 0.1, warmup: int = 2, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec = DataSpec((1,), KINDS, kind="graph")
        self.sizes = nn.Parameter(torch.zeros(MOST))
        self.kinds = nn.Parameter(torch.zeros(KINDS))

    def log_prob(self, x: Graphs) -> Tensor:
        x = self.check(x)
        sizes, kinds = self.sizes.log_softmax(0), self.kinds.log_softmax(0)
        return torch.stack([sizes[len(nodes) - 1] + kinds[nodes].sum() for nodes in x.nodes])

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None) -> Graphs:
        self.spec.count(n)
        draws = Draws(seed, n)
        sizes = draws.choice(self.sizes.softmax(0)) + 1
        nodes = torch.stack([draws.choice(self.kinds.softmax(0)) for _ in range(MOST)], 1)
        return Graphs([row[:size] for row, size in zip(nodes, sizes.tolist(), strict=True)])


def toy(**data: Any) -> tuple[GenerativeModel, TensorData]:
    return Bag(), Molecules(**data)


def check(model: Bag) -> None:
    """All probabilities sum to one."""
    every = [torch.cartesian_prod(*[torch.arange(KINDS)] * size).view(-1, size) for size in range(1, MOST + 1)]
    graphs = Graphs([nodes for rows in every for nodes in rows])
    torch.testing.assert_close(model.log_prob(graphs).exp().sum(), torch.ones(()))


METRICS = {"nats": "exact"}
