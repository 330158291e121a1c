"""f-divergences against their definitions: convexity, conjugates, closed forms, and bounds that stay below."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.metrics import DIVERGENCES, FDivergence

EACH = pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=list(DIVERGENCES))


def table(seed: int, outcomes: int = 6) -> Tensor:
    return torch.rand(outcomes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(0)


# The definitions, each as it stands in the textbooks, of probabilities without zeros.
BY_HAND = {
    "total_variation": lambda p, q: 0.5 * (p - q).abs().sum(),
    "kl": lambda p, q: (p * (p / q).log()).sum(),
    "reverse_kl": lambda p, q: (q * (q / p).log()).sum(),
    "jensen_shannon": lambda p, q: 0.5 * sum((a * (a / (0.5 * (p + q))).log()).sum() for a in (p, q)),
    "pearson": lambda p, q: ((p - q).square() / q).sum(),
    "hellinger": lambda p, q: (p.sqrt() - q.sqrt()).square().sum(),
}


@EACH
def test_of_probabilities_is_the_definition(divergence: FDivergence):
    p, q = table(0), table(1)
    torch.testing.assert_close(divergence.of_probabilities(p, q), BY_HAND[divergence.name](p, q))
    torch.testing.assert_close(divergence.of_probabilities(p, p), p.new_zeros(()), rtol=0, atol=1e-12)


def test_every_divergence_has_a_definition():
    assert BY_HAND.keys() == DIVERGENCES.keys()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("total_variation", 1.0),
        ("kl", math.inf),
        ("reverse_kl", math.inf),
        ("jensen_shannon", math.log(2)),
        ("pearson", math.inf),
        ("hellinger", 2.0),
    ],
)
def test_of_disjoint_measures_is_the_largest_value(name: str, expected: float):
    p, q = torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.25, 0.75])
    assert float(DIVERGENCES[name].of_probabilities(p, q)) == pytest.approx(expected)


def test_mass_that_one_lacks_costs_what_the_limits_say():
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.25, 0.5])
    assert float(DIVERGENCES["kl"].of_probabilities(p, q)) == pytest.approx(math.log(2))
    assert float(DIVERGENCES["reverse_kl"].of_probabilities(p, q)) == math.inf
    assert float(DIVERGENCES["total_variation"].of_probabilities(p, q)) == pytest.approx(0.5)
    assert float(DIVERGENCES["pearson"].of_probabilities(p, q)) == pytest.approx(1.0)
    assert float(DIVERGENCES["hellinger"].of_probabilities(p, q)) == pytest.approx(float(BY_HAND["hellinger"](p, q)))


@EACH
def test_f_vanishes_at_one_and_its_derivative_is_autograds(divergence: FDivergence):
    assert float(divergence.f(torch.zeros(()))) == pytest.approx(0, abs=1e-7)
    u = torch.linspace(0.05, 4, 40, dtype=torch.float64)
    u = u[(u - 1).abs() > 1e-3].requires_grad_()
    (slope,) = torch.autograd.grad(divergence.f(u.log()).sum(), u)
    torch.testing.assert_close(divergence.derivative(u.log()), slope)
    assert bool((slope.diff() >= -1e-12).all()), "convex"


@EACH
def test_the_limits_are_those_of_f(divergence: FDivergence):
    far = torch.tensor(40.0, dtype=torch.float64)
    for limit, value in (
        (divergence.at_zero, divergence.f(-far)),
        (divergence.slope, divergence.f(far) * (-far).exp()),
    ):
        if math.isinf(limit):
            assert float(value) > 30
        else:
            assert float(value) == pytest.approx(limit, abs=1e-8)


@EACH
def test_the_conjugate_is_the_supremum_and_the_derivative_attains_it(divergence: FDivergence):
    r = torch.linspace(-8, 4, 120_001, dtype=torch.float64)
    for at in (-1.0, 0.4, 1.2):
        t = divergence.derivative(torch.tensor(at, dtype=torch.float64))
        values = r.exp() * t - divergence.f(r)
        conjugate = divergence.conjugate(t)
        assert float(values.max()) == pytest.approx(float(conjugate), abs=1e-5)
        assert bool((values <= conjugate + 1e-12).all())


@EACH
def test_the_activation_stays_in_the_domain_and_its_conjugate_is_the_stable_form(divergence: FDivergence):
    v = torch.linspace(-6, 6, 101, dtype=torch.float64)
    conjugate = divergence.conjugate(divergence.activation(v))
    assert bool(conjugate.isfinite().all())
    torch.testing.assert_close(divergence.activated(v), conjugate)
    assert bool((divergence.activation(v).diff() >= 0).all()), "a larger critic says more for P"


@EACH
def test_the_bound_stays_below_and_the_best_critic_attains_it(divergence: FDivergence):
    p, q = torch.tensor([1, 2, 3, 4, 5, 5]), torch.tensor([5, 4, 4, 3, 3, 1])
    p_sample, q_sample = (torch.arange(6).repeat_interleave(counts) for counts in (p, q))
    p, q = p.double() / 20, q.double() / 20
    exact = divergence.of_probabilities(p, q)

    # Samples in which each outcome is as frequent as its probability.
    def bound(v: Tensor) -> Tensor:
        return divergence.bound(v[p_sample], v[q_sample])

    generator = torch.Generator().manual_seed(5)
    for _ in range(20):
        v = torch.randn(6, generator=generator, dtype=torch.float64)
        assert float(bound(v)) <= float(exact) + 1e-9
    # Climb to the best critic: the bound is concave in T.
    v = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([v], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -bound(v)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert float(bound(v.detach())) == pytest.approx(float(exact), rel=2e-3)
    if divergence.name != "total_variation":  # whose T takes two values, at the ends of the tanh
        best = divergence.derivative((p / q).log())
        torch.testing.assert_close(divergence.activation(v.detach()), best, rtol=1e-2, atol=1e-3)


@EACH
def test_of_densities_is_near_the_divergence_of_gaussians(divergence: FDivergence):
    torch.manual_seed(0)
    p, q = torch.distributions.Normal(0.3, 0.9), torch.distributions.Normal(0.0, 1.0)
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    weight = float(x[1] - x[0])
    exact = (q.log_prob(x).exp() * divergence.f(p.log_prob(x) - q.log_prob(x))).sum() * weight
    draws = q.sample((200_000,))
    each = divergence.f(p.log_prob(draws) - q.log_prob(draws))
    estimate = divergence.of_densities(p.log_prob(draws), q.log_prob(draws))
    assert abs(float(estimate) - float(exact)) < 5 * float(each.std()) / 200_000**0.5


def test_kl_of_gaussians_in_closed_form():
    p, q = torch.distributions.Normal(0.3, 0.9), torch.distributions.Normal(0.0, 1.0)
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    exact = (q.log_prob(x).exp() * DIVERGENCES["kl"].f(p.log_prob(x) - q.log_prob(x))).sum() * float(x[1] - x[0])
    assert float(exact) == pytest.approx(float(torch.distributions.kl_divergence(p, q)), rel=1e-5)


def test_draws_without_mass_count_with_the_limit():
    log_p = torch.tensor([-math.inf, 0.0])
    assert float(DIVERGENCES["total_variation"].of_densities(log_p, torch.zeros(2))) == pytest.approx(0.25)
    assert float(DIVERGENCES["reverse_kl"].of_densities(log_p, torch.zeros(2))) == math.inf


def test_bad_input_is_named():
    divergence = DIVERGENCES["kl"]
    with pytest.raises(DataError, match="q must hold probabilities"):
        divergence.of_probabilities(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.6]))
    with pytest.raises(DataError, match="p must hold probabilities"):
        divergence.of_probabilities(torch.tensor([1.5, -0.5]), torch.tensor([0.5, 0.5]))
    with pytest.raises(DataError, match=r"log_p and log_q must be \(N,\), not \(2,\) and \(3,\)"):
        divergence.of_densities(torch.zeros(2), torch.zeros(3))
