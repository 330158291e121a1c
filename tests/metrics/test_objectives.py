"""Distances as critics see them: suprema, their agreement with `zoo.metrics`, and their witnesses."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo import metrics
from zoo.errors import DataError
from zoo.metrics.entropic import transport, transports
from zoo.metrics.objectives import (
    DISTANCES,
    MMD,
    NAMES,
    Divergence,
    Energy,
    Hinge,
    MiniBatchEnergy,
    Sinkhorn,
    Wasserstein,
    distance,
)

P, Q = torch.tensor([0.1, 0.2, 0.3, 0.4]).double(), torch.tensor([0.4, 0.1, 0.1, 0.4]).double()


def outcomes(probabilities: Tensor) -> Tensor:
    """Ten data whose law is exactly this, as numbers of an outcome."""
    return torch.arange(4).repeat_interleave((10 * probabilities).round().long())


def points(n: int, shift: float = 0.0, dims: int = 3) -> Tensor:
    return torch.randn(n, dims, dtype=torch.float64) + shift


def features(name: str) -> tuple[Tensor, Tensor]:
    dims = 3 if distance(name).features else 1
    return points(12, dims=dims), points(12, 1.0, dims)


# -- one number of a critic ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", metrics.DIVERGENCES)
@pytest.mark.parametrize("saturating", [True, False])
def test_no_critic_finds_more_than_the_divergence(name, saturating):
    found, exact = distance(name, {"saturating": saturating}), metrics.DIVERGENCES[name].of_probabilities(P, Q)
    critic = torch.zeros(4, 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([critic], 0.05)
    for _ in range(600):
        value = found.value(critic[outcomes(P)], critic[outcomes(Q)])
        assert value.item() <= exact.item() + 1e-9
        optimizer.zero_grad()
        (-value).backward()
        optimizer.step()
    # The slope of tanh vanishes where total variation has its best critic.
    assert value.item() == pytest.approx(exact.item(), abs=2e-3)


def test_the_losses_of_2014():
    real, fake = torch.randn(8, 1), torch.randn(8, 1)
    value = (F.logsigmoid(real).mean() + F.logsigmoid(-fake).mean() + math.log(4)) / 2
    torch.testing.assert_close(distance("jensen_shannon").value(real, fake), value)
    # -log D(G(z)), and log(1 - D(G(z))), each halved and up to a constant.
    for saturating, expected in ((False, -F.logsigmoid(fake).mean() / 2), (True, F.logsigmoid(-fake).mean() / 2)):
        loss = distance("jensen_shannon", {"saturating": saturating}).generator_loss(None, fake)
        shifted = distance("jensen_shannon", {"saturating": saturating}).generator_loss(None, fake + 1)
        ahead = -F.logsigmoid(fake + 1).mean() / 2 if not saturating else F.logsigmoid(-fake - 1).mean() / 2
        torch.testing.assert_close(shifted - loss, ahead - expected)


def test_the_hinge_is_twice_the_total_variation():
    exact = 2 * metrics.DIVERGENCES["total_variation"].of_probabilities(P, Q)
    best = (P - Q).sign()[:, None]
    torch.testing.assert_close(Hinge().value(best[outcomes(P)], best[outcomes(Q)]), exact)
    for _ in range(50):
        other = best + torch.randn(4, 1)
        assert Hinge().value(other[outcomes(P)], other[outcomes(Q)]) <= exact + 1e-12


def test_of_a_shift_in_one_dimension_the_identity_is_the_best_critic():
    x = points(20, dims=1)
    value = Wasserstein().value(x + 0.7, x)
    torch.testing.assert_close(value, metrics.wasserstein(x + 0.7, x))


@pytest.mark.parametrize("name", NAMES)
def test_the_generators_gradient_leads_its_samples_to_the_data(name):
    found, (real, fake) = distance(name), features(name)
    fake = (fake + 2).requires_grad_()
    # A critic of one number that grows towards the data, and features that are the points themselves.
    (slope,) = torch.autograd.grad(found.generator_loss(real, fake if found.features else -fake), fake)
    # As a whole: samples far out also push each other apart.
    assert (slope.mean(0) > 0).all(), "downhill is towards smaller ones"


@pytest.mark.parametrize("name", [name for name in NAMES if not distance(name).paired])
def test_without_the_data_the_generator_has_the_same_loss(name):
    found, (real, fake) = distance(name), features(name)
    torch.testing.assert_close(found.generator_loss(None, fake), found.generator_loss(real, fake))


# -- features ------------------------------------------------------------------------------------------------


def test_energy_and_mmd_are_those_of_the_metrics():
    x, y = points(9), points(7, 0.5)
    torch.testing.assert_close(Energy().value(x, y), metrics.energy_distance(x, y))
    torch.testing.assert_close(MMD().value(x, y), metrics.mmd(x, y, metrics.RationalQuadratic()))
    narrow = distance("mmd", {"exponents": [2.0]})
    torch.testing.assert_close(narrow.value(x, y), metrics.mmd(x, y, metrics.RationalQuadratic([2.0])))


@pytest.mark.parametrize("name", ["energy", "mmd"])
def test_the_witness_attains_the_supremum(name):
    x, y = points(9), points(7, 0.5)
    witness = distance(name).witness
    value = witness(x, x, y).mean() - witness(y, x, y).mean()
    kernel = metrics.RationalQuadratic()
    exact = {"energy": metrics.energy_distance(x, y, unbiased=False), "mmd": metrics.mmd(x, y, kernel, unbiased=False)}
    torch.testing.assert_close(value, exact[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_sinkhorn_is_that_of_the_metrics_with_its_gradients(p):
    x, y = points(9).requires_grad_(), points(7, 0.5).requires_grad_()
    value = Sinkhorn(p, epsilon=0.5, iterations=300).value(x, y)
    expected = metrics.sinkhorn(x, y, p=p, epsilon=0.5, tolerance=1e-9, iterations=5000)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(torch.autograd.grad(value, (x, y)), torch.autograd.grad(expected, (x, y)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_slope_of_sinkhorns_witness_is_where_transport_pushes():
    x, y = points(9).requires_grad_(), points(7, 0.5)
    found = Sinkhorn(epsilon=0.5, iterations=3000)
    (push,) = torch.autograd.grad(found.value(x, y), x)
    at = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(found.witness(at, x.detach(), y).sum(), at)
    torch.testing.assert_close(len(x) * push, slope, rtol=1e-5, atol=1e-6)


def test_the_slope_of_the_witness_of_mini_batches_is_where_transport_pushes():
    # Halves alike, whose couplings with others are the same; their own is of one with the other.
    x, y = points(7).repeat(2, 1).requires_grad_(), points(7, 0.5).repeat(2, 1)
    found = MiniBatchEnergy(epsilon=0.5, iterations=3000)
    (push,) = torch.autograd.grad(found.value(x, y), x)
    at = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(found.witness(at, x.detach(), y).sum(), at)
    assert slope.abs().max() > 0.1
    torch.testing.assert_close(len(x) * push, 2 * slope, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_without_self_pairs_sinkhorns_divergence_of_one_law_is_zero_on_average():
    plain, apart = Sinkhorn(1.0, 1.0, 200), Sinkhorn(1.0, 1.0, 200, self_pairs=False)
    values = torch.tensor(
        [[found.value(x, y) for found in (plain, apart)] for x, y in ((points(8), points(8)) for _ in range(300))]
    )
    error = values.std(0) / math.sqrt(len(values))
    assert values[:, 1].mean().abs() < 3 * error[1]
    assert values[:, 0].mean() > 20 * error[0]
    # With much entropy every coupling is the product.
    x, y = points(8), points(6, 1.0)
    much = Sinkhorn(1.0, 1e6, 3, self_pairs=False)
    torch.testing.assert_close(much.value(x, y), Energy().value(x, y) / 2, rtol=1e-4, atol=1e-5)
    with pytest.raises(DataError, match="must have two items, not 1"):
        much.value(x[:1], y)


def test_several_transports_at_once_are_those_one_by_one():
    costs = [torch.rand(5, 7, dtype=torch.float64) for _ in range(3)]
    for several in (costs, [*costs, torch.rand(4, 4, dtype=torch.float64)]):
        found = torch.stack(transports(several, 0.1, 50))
        torch.testing.assert_close(found, torch.stack([transport(cost, 0.1, 50) for cost in several]))


def test_transport_with_little_entropy_is_the_best_assignment():
    x, y = points(6), points(6, 0.5)
    cost = torch.cdist(x, y)
    torch.testing.assert_close(transport(cost, 0.01, 3000), metrics.wasserstein(x, y), rtol=0.02, atol=0.0)


def test_the_energy_distance_of_mini_batches():
    found = MiniBatchEnergy(epsilon=0.02, iterations=2000)
    x, y = points(12, 1.0), points(12, -1.0)
    (a, b), (c, d) = (F.normalize(points, dim=1).chunk(2) for points in (x, y))

    def cost(one: Tensor, other: Tensor) -> Tensor:  # 1 - cos is half the squared distance on the sphere
        return metrics.wasserstein(one, other, p=2).square() / 2

    across = (cost(a, c) + cost(a, d) + cost(b, c) + cost(b, d)) / 2
    torch.testing.assert_close(found.value(x, y), across - cost(a, b) - cost(c, d), rtol=0.05, atol=0.0)
    same = torch.cat([a, a])
    assert found.value(same, same).abs() < 1e-9
    torch.testing.assert_close(found.value(3 * x, y), found.value(x, y))  # directions alone count
    scaled = MiniBatchEnergy(epsilon=0.02, iterations=2000, scale=30)
    torch.testing.assert_close(scaled.value(x, y), 30 * found.value(x, y))
    torch.testing.assert_close(scaled.witness(x, x, y), 30 * found.witness(x, x, y))
    with pytest.raises(DataError, match="two halves"):
        found.value(x[:1], y)


def scaled(cost: Tensor, epsilon: float) -> Tensor:
    """The regularized coupling (N, M), by scaling rows and columns until both are uniform."""
    kernel, v = torch.exp(-cost / epsilon), torch.ones(cost.shape[1], dtype=cost.dtype)
    for _ in range(3000):
        u = 1 / len(cost) / (kernel @ v)
        v = 1 / cost.shape[1] / (kernel.T @ u)
    coupling = u[:, None] * kernel * v
    torch.testing.assert_close(coupling.sum(1), torch.full_like(u, 1 / len(cost)))
    return coupling


def test_transport_has_its_entropy_term_and_the_gradient_of_the_cost_alone():
    cost, epsilon = torch.rand(5, 7, dtype=torch.float64, requires_grad=True), 0.2
    coupling = scaled(cost.detach(), epsilon)
    entropy = epsilon * (coupling * (coupling * coupling.numel()).log()).sum()  # epsilon KL(coupling || product)
    value = transport(cost, epsilon, 1000)
    assert entropy > 0.02
    torch.testing.assert_close(value, (coupling * cost).sum() + entropy)
    torch.testing.assert_close(torch.autograd.grad(value, cost)[0], coupling)
    few = [transport(cost, epsilon, iterations).item() for iterations in (1, 2, 4, 8)]
    assert few == sorted(few), "it rises to the minimum"
    assert few[0] < value.item() - 1e-6


def test_the_distance_of_ot_gan_includes_the_entropy():
    epsilon, scale = 0.3, 2.0
    x, y = points(12, 1.0), points(12, -1.0)
    (a, b), (c, d) = (F.normalize(points, dim=1).chunk(2) for points in (x, y))

    def least(one: Tensor, other: Tensor) -> Tensor:
        """The cost of the coupling, and the entropy term, of the cost scale (1 - cos)."""
        cost = scale * (1 - one @ other.T)
        coupling = scaled(cost, scale * epsilon)
        return torch.stack(
            [(coupling * cost).sum(), scale * epsilon * (coupling * (coupling * coupling.numel()).log()).sum()]
        )

    across, within = (least(a, c) + least(a, d) + least(b, c) + least(b, d)) / 2, least(a, b) + least(c, d)
    alone, entropy = across - within
    value = MiniBatchEnergy(epsilon, iterations=2000, scale=scale).value(x, y)
    torch.testing.assert_close(value, alone + entropy)
    assert entropy.abs() > 1e-3, "the cost alone would be another number"


@pytest.mark.parametrize("name", NAMES)
def test_a_witness_may_be_differentiated_twice(name):
    found, (real, fake) = distance(name), features(name)
    at = (0.5 * (real + fake)).requires_grad_()
    (slope,) = torch.autograd.grad(found.witness(at, real, fake).sum(), at, create_graph=True)
    if slope.requires_grad:
        (again,) = torch.autograd.grad(slope.square().sum(), at)
        assert again.isfinite().all()
    else:
        torch.testing.assert_close(slope, torch.ones_like(slope))  # of one number it is the number itself


# -- by name -------------------------------------------------------------------------------------------------


def test_each_has_a_name():
    assert set(NAMES) == {*metrics.DIVERGENCES, *DISTANCES}
    assert isinstance(distance("kl"), Divergence)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("euclid", {}, "distance must be one of total_variation, .* not 'euclid'"),
        ("kl", {"epsilon": 1}, "The distance kl takes saturating, not 'epsilon'"),
        ("hinge", {"epsilon": 1}, "The distance hinge takes no options, not 'epsilon'"),
        ("sinkhorn", {"epsilon": 0.0}, "epsilon must be positive and finite, not 0.0"),
        ("mini_batch_energy", {"iterations": 0}, "iterations must be positive"),
        ("mini_batch_energy", {"scale": 0.0}, "scale must be positive and finite, not 0.0"),
        ("mmd", {"exponents": [-1.0]}, "exponents must be positive"),
        ("kl", {"name": "pearson"}, "The distance kl takes saturating, not 'name'"),
    ],
)
def test_what_does_not_exist_is_refused(name, options, said):
    with pytest.raises(DataError, match=said):
        distance(name, options)
