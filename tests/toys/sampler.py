"""A toy of a sampler: a chain whose target is known up to a constant, with a trace and without a likelihood."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.batch import as_batch
from zoo.data.tensors import TensorData
from zoo.model import GenerativeModel, Measurement
from zoo.nn.draws import Draws
from zoo.results import Metric, Result
from zoo.spec import DataSpec
from zoo.targets import target_of

ACCEPTED = Metric("acceptance", "acceptance rate", 3, higher_is_better=True)


class Starts(TensorData):
    """Points to start chains from; a batch says how many."""

    title: ClassVar[str] = "starts"

    @property
    def spec(self) -> DataSpec:
        return DataSpec((2,), None)

    @property
    def protocol(self) -> str:
        return "standard normal starts"

    def read(self, split: str) -> Tensor:
        n = 40 if split == "test" else 120
        return torch.randn(n, 2, generator=torch.Generator().manual_seed(n))


class Langevin(GenerativeModel):
    """Metropolis-adjusted Langevin steps, whose length is learned by the rate at which they are accepted."""

    def __init__(
        self,
        target: str | dict[str, Any] = "energy1",
        chain: int = 20,
        lr: float = 0.05,
        warmup: int = 2,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.target = target_of(target)
        self.spec = self.target.spec
        self.log_step = nn.Parameter(torch.tensor(0.0))

    def step(self, x: Tensor, noise: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """The next states (N, 2), and log of the probability of acceptance (N,)."""
        length = self.log_step.exp()
        ahead = x + length * self._slope(x) + (2 * length).sqrt() * noise
        back = x - ahead - length * self._slope(ahead)
        ratio = self.target.log_density(ahead) - self.target.log_density(x)
        ratio = ratio - back.square().sum(1) / (4 * length) + noise.square().sum(1) / 2
        accepted = uniform.log() < ratio
        return torch.where(accepted[:, None], ahead, x).detach(), ratio.clamp(max=0)

    def _slope(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.target.log_density(x).sum(), x)[0]

    def states(self, n: int, seed: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """The start and the state after each step, (n, 2), and log-probabilities of acceptance (n,)."""
        draws = Draws(seed, self.spec.count(n))
        x = draws.normal(2).to(self.device)
        yield x, x.new_zeros(n)
        for _ in range(self.hparams.chain):
            x, rate = self.step(x, draws.normal(2).to(self.device), draws.uniform().to(self.device))
            yield x, rate

    @torch.no_grad()
    def trace(self, n: int, *, frames: int = 8, seed: int | None = None) -> Tensor:
        """States on the way, (frames, n, 2)."""
        states = [x for x, _ in self.states(n, seed)]
        return torch.stack([states[k] for k in torch.linspace(0, self.hparams.chain, frames).round().long().tolist()])

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        *_, (x, _) = self.states(n, seed)
        return x

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = as_batch(batch).x
        # The same noise for each datum in any order, so that processes agree with one: it is of the data.
        noise, uniform = x.roll(1, 1), x[:, 0].sigmoid()
        rates = self.step(x, noise, uniform)[1].exp()
        return (rates - 0.574).square().mean()

    def measurements(self) -> list[Measurement]:
        return [Acceptance(self)]


class Acceptance(Measurement):
    """The mean probability of acceptance; it needs no data."""

    metrics = (ACCEPTED,)
    needs_data = False

    def __init__(self, model: Langevin) -> None:
        self.model = model

    def compute(self) -> list[Result]:
        rates = torch.stack([rate for _, rate in self.model.states(200, seed=0)][1:]).exp().mean(0)
        error = rates.std().item() / math.sqrt(len(rates))
        found = Result(ACCEPTED, "estimate", rates.mean().item(), standard_error=error, n=len(rates), split=None)
        return [found]


def toy(**data: Any) -> tuple[GenerativeModel, TensorData]:
    ring = {"class_path": "zoo.targets.GaussianRing", "init_args": {"modes": 4, "radius": 1.0, "scale": 0.5}}
    return Langevin(ring), Starts(**data)


def check(model: Langevin) -> None:
    """A sampler has a trace and no density."""
    assert not hasattr(model, "log_prob")
    assert model.target.name == "4 Gaussians on a ring in 2 dimensions"
    assert model.likelihood is None
    states = model.trace(3, frames=5, seed=0)
    assert states.shape == (5, 3, 2)
    assert torch.equal(states[-1], model.sample(3, seed=0))


METRICS = {"acceptance": "estimate"}
