"""The algebra of transforms, and the densities that they make."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffeomorphisms import check_diffeomorphism
from scipy import stats
from torch import Tensor, nn

from zoo.errors import DataError
from zoo.flows.core import Compose, Flow, Inverse, Logistic, Normal, Transform


class Affine(Transform):
    """x A^T + b, with a shift by the context."""

    def __init__(self, dims: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.matrix = nn.Parameter(torch.randn(dims, dims, generator=generator, dtype=torch.float64))
        self.shift = nn.Parameter(torch.randn(dims, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One way."""
        return x @ self.matrix.T + self._shift(context), self.matrix.slogdet()[1].expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The other."""
        x = torch.linalg.solve(self.matrix, (z - self._shift(context)).T).T
        return x, -self.matrix.slogdet()[1].expand(len(z))

    def _shift(self, context: Tensor | None) -> Tensor:
        return self.shift if context is None else self.shift + context


class Sinh(Transform):
    """sinh(x) of each component: a diffeomorphism that is not linear."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One way."""
        return x.sinh(), x.cosh().log().flatten(1).sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The other."""
        return z.asinh(), -0.5 * (z.square() + 1).log().flatten(1).sum(1)


def points(n: int, dims: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "transform",
    [
        Affine(3, 0),
        Compose([Affine(3, 0), Sinh(), Affine(3, 1)]),
        Inverse(Compose([Affine(3, 0), Sinh()])),
        Compose([Inverse(Affine(3, 2)), Compose([Sinh(), Affine(3, 3)])]),
    ],
)
def test_compositions_and_inverses_are_diffeomorphisms(transform):
    check_diffeomorphism(transform, points(4, 3), z=points(4, 3, seed=1))


def test_the_context_reaches_every_part():
    transform = Compose([Affine(2, 0), Sinh(), Inverse(Affine(2, 1))])
    x, context = points(4, 2), points(4, 2, seed=1)
    check_diffeomorphism(transform, x, context)
    assert not torch.allclose(transform(x, context)[0], transform(x)[0])


def test_nothing_composed_is_the_identity():
    x = points(4, 2)
    for z, log_det in (Compose([])(x), Compose([]).inverse(x)):
        assert torch.equal(z, x)
        assert torch.equal(log_det, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize(("base", "known"), [(Normal, stats.norm), (Logistic, stats.logistic)])
def test_bases_have_their_densities_and_draws(base, known):
    base = base([2, 3])
    z = 3 * torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.from_numpy(known.logpdf(z.double().numpy())).sum((1, 2))
    torch.testing.assert_close(base.log_prob(z), expected.float())
    draws = base.sample(4000, torch.Generator().manual_seed(0))
    assert draws.shape == (4000, 2, 3)
    assert draws.dtype == torch.float32
    assert stats.kstest(draws.flatten().numpy(), known.cdf).pvalue > 1e-3
    cold = base.sample(4000, torch.Generator().manual_seed(0), temperature=0.5)
    assert torch.equal(cold, draws * 0.5)


def test_the_logistic_is_finite_far_out():
    base = Logistic([1])
    assert base.log_prob(torch.tensor([[500.0], [-500.0]])).tolist() == [-500.0, -500.0]


def test_a_linear_flow_is_its_gaussian():
    affine = Affine(3, 0)
    flow = Flow(Normal([3]), [affine]).double()
    inverse = affine.matrix.inverse()
    gaussian = torch.distributions.MultivariateNormal(-inverse @ affine.shift, inverse @ inverse.T)
    x = points(6, 3)
    torch.testing.assert_close(flow.log_prob(x), gaussian.log_prob(x))


def test_a_density_integrates_to_one():
    flow = Flow(Normal([1]), [Sinh(), Affine(1, 0)]).double()
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    density = flow.log_prob(x[:, None]).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-6)


def test_draws_come_with_their_own_density():
    flow = Flow(Normal([2]), [Affine(2, 0), Sinh()]).double()
    x, log_prob = flow.rsample(64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_prob, flow.log_prob(x))


def test_draws_and_their_density_can_be_differentiated():
    affine = Affine(2, 0)
    x, log_prob = Flow(Normal([2]), [affine]).double().rsample(8, generator=torch.Generator().manual_seed(0))
    # log q(x) = log N(z) + log |det A| with z fixed, and x = A^-1 (z - b).
    inverse = affine.matrix.detach().inverse()
    torch.testing.assert_close(torch.autograd.grad(log_prob.mean(), affine.matrix)[0], inverse.T)
    shifted = torch.autograd.grad(x.sum(), affine.shift)[0]
    torch.testing.assert_close(shifted, -8 * inverse.sum(0))


def test_samples_follow_the_density():
    flow = Flow(Normal([1]), [Sinh()])
    x = flow.sample(4000, seed=0)[:, 0].double().numpy()
    # P(X <= x) = Phi(sinh x)
    assert stats.kstest(x, lambda value: stats.norm.cdf(np.sinh(value))).pvalue > 1e-3


def test_a_seed_gives_the_same_samples_and_leaves_the_global_state():
    flow = Flow(Normal([2]), [Affine(2, 0).float()])
    state = torch.get_rng_state()
    first, again, other = flow.sample(3, seed=1), flow.sample(3, seed=1), flow.sample(3, seed=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(flow.sample(3), flow.sample(3))


def test_each_draw_has_its_own_context():
    flow = Flow(Normal([2]), [Affine(2, 0)]).double()
    context = points(3, 2)
    shifted = flow.sample(3, seed=0, context=context)
    expected = flow.sample(3, seed=0) - context @ flow.transform.transforms[0].matrix.inverse().T
    torch.testing.assert_close(shifted, expected)


@pytest.mark.parametrize("arguments", [{"n": 0}, {"n": 1, "temperature": 0.0}, {"n": 1, "temperature": math.nan}])
def test_bad_counts_and_temperatures_are_refused(arguments):
    flow = Flow(Normal([2]), [])
    name = "temperature" if "temperature" in arguments else "n"
    with pytest.raises(DataError, match=f"{name} must be"):
        flow.sample(arguments.pop("n"), **arguments)
