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
from zoo.flows.core import Compose, Flow, Inverse, Logistic, Mixture, Normal, Transform
from zoo.nn.draws import Draws


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
    draws = base.sample(4000, Draws(0, 4000))
    assert draws.shape == (4000, 2, 3)
    assert draws.dtype == torch.float32
    assert stats.kstest(draws.flatten().numpy(), known.cdf).pvalue > 1e-3
    cold = base.sample(4000, Draws(0, 4000), temperature=0.5)
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
    x, log_prob = flow.rsample(64, draws=Draws(0, 64))
    torch.testing.assert_close(log_prob, flow.log_prob(x))


def test_draws_and_their_density_can_be_differentiated():
    affine = Affine(2, 0)
    x, log_prob = Flow(Normal([2]), [affine]).double().rsample(8, draws=Draws(0, 8))
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


# -- a base of several Gaussians -------------------------------------------------------------------------------------


def mixture(components: int = 3, dims: int = 2) -> Mixture:
    base = Mixture([dims], components)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return base


@pytest.mark.parametrize(("components", "dims"), [(1, 1), (3, 2), (5, 4)])
def test_a_mixture_has_its_density(components, dims):
    base = mixture(components, dims).double()
    factors, _ = base._factors()
    covariances = (factors.mT @ factors).inverse()
    known = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=base.logits),
        torch.distributions.MultivariateNormal(base.means, covariances),
    )
    z = points(6, dims)
    torch.testing.assert_close(base.log_prob(z), known.log_prob(z))


def test_draws_of_a_mixture_follow_its_density():
    base = mixture(3, 1)
    z = base.sample(4000, Draws(0, 4000))
    assert (z.dtype, tuple(z.shape)) == (torch.float32, (4000, 1))
    scale = 1 / base._factors()[0][:, 0, 0].detach().numpy()
    weights, means = base.logits.softmax(0).detach().numpy(), base.means[:, 0].detach().numpy()
    cdf = lambda value: stats.norm.cdf((value[:, None] - means) / scale) @ weights  # noqa: E731
    assert stats.kstest(z[:, 0].detach().numpy(), cdf).pvalue > 1e-3


def test_the_temperature_draws_a_mixture_to_the_means_of_its_components():
    base = mixture(3, 2)
    warm, cold = (base.sample(50, Draws(0, 50), temperature) for temperature in (1.0, 0.25))
    gaps = (warm[:, None] - base.means).square().sum(2), 16 * (cold[:, None] - base.means).square().sum(2)
    # Each draw is four times as far from the mean of its own component, whichever that is.
    assert ((gaps[0] - gaps[1]).abs() / gaps[0]).amin(1).max() < 1e-4


def test_a_mixture_learns_two_clusters_that_a_normal_base_bridges():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    x = torch.randn(2000, 1, generator=generator) * 0.05 + torch.randint(0, 2, (2000, 1), generator=generator) * 2 - 1
    base = Mixture([1], 2)
    optimizer = torch.optim.Adam(base.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        (-base.log_prob(x).mean()).backward()
        optimizer.step()
    truth = math.log(2) + 0.5 * math.log(2 * math.pi * math.e * 0.05**2)
    assert -base.log_prob(x).mean().item() == pytest.approx(truth, abs=0.05)


def test_a_far_component_does_not_overflow():
    base = mixture(2, 2)
    with torch.no_grad():
        base.log_precision.fill_(1e4)
    z = torch.full((1, 2), 50.0, requires_grad=True)
    log_prob = base.log_prob(z)
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert torch.isfinite(z.grad).all()
    assert torch.isfinite(base.sample(4)).all()
