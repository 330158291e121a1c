"""Distances of optimal transport against closed forms, SciPy, brute force and one another."""

from __future__ import annotations

import itertools
import math
import sys
import warnings

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor

from zoo.errors import DataError, ZooError
from zoo.metrics import energy_distance, points, sinkhorn, sliced_wasserstein, transport, wasserstein


def normal(n: int, dims: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


@pytest.fixture
def pot():
    pytest.importorskip("ot", reason="exact transport of unequal numbers of points needs the extra transport")


# -- exact ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("dims", [1, 2, 5])
def test_the_least_mean_cost_of_all_pairings(dims: int, p: float):
    x, y = normal(6, dims), normal(6, dims, 1)
    costs = (x[:, None] - y).norm(dim=2) ** p
    least = min(float(costs[range(6), list(order)].mean()) for order in itertools.permutations(range(6)))
    assert float(wasserstein(x, y, p=p)) == pytest.approx(least ** (1 / p))


@pytest.mark.parametrize("n", [(7, 7), (5, 8), (12, 4)])
def test_in_one_dimension_it_is_scipys(n: tuple[int, int]):
    x, y = normal(n[0], 1), normal(n[1], 1, 1, 0.5)
    expected = stats.wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy())
    assert float(wasserstein(x, y)) == pytest.approx(expected)


@pytest.mark.parametrize("p", [1.0, 2.0])
@pytest.mark.parametrize("n", [(6, 4), (5, 7)])
def test_of_unequal_numbers_it_is_that_of_copies(n: tuple[int, int], p: float, pot):
    x, y = normal(n[0], 2), normal(n[1], 2, 1)
    both = math.lcm(*n)
    copies = x.repeat_interleave(both // n[0], 0), y.repeat_interleave(both // n[1], 0)
    torch.testing.assert_close(wasserstein(x, y, p=p), wasserstein(*copies, p=p))
    line = x[:, :1], y[:, :1]
    torch.testing.assert_close(
        wasserstein(*line, p=p), wasserstein(*(torch.cat([part, 0 * part], 1) for part in line), p=p)
    )


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("n", [(1, 6), (6, 4), (7, 20)])
def test_of_unequal_numbers_it_is_the_optimum_of_both_linear_programs(n: tuple[int, int], p: float, pot):
    """SciPy's least cost of a coupling, and Kantorovich's dual: most of mean f + mean g with f_i + g_j <= c_ij."""
    x, y = normal(n[0], 3), normal(n[1], 3, 1, 0.5)
    cost = ((x[:, None] - y).norm(dim=2) ** p).numpy().ravel()
    sums = np.concatenate([np.kron(np.eye(n[0]), np.ones(n[1])), np.kron(np.ones(n[0]), np.eye(n[1]))])
    mass = np.repeat([1 / n[0], 1 / n[1]], n)
    least = optimize.linprog(cost, A_eq=sums, b_eq=mass).fun
    most = -optimize.linprog(-mass, A_ub=sums.T, b_ub=cost, bounds=(None, None)).fun
    assert float(wasserstein(x, y, p=p)) ** p == pytest.approx(least) == pytest.approx(most)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_points_on_a_line_in_space_are_those_of_the_line(p: float, pot):
    """Sizes at which a solver makes thousands of steps; in one dimension the quantile functions give the distance."""
    x, y = normal(300, 1), normal(170, 1, 1, 0.3)
    line = torch.tensor([[2.0, -1.0, 2.0]], dtype=torch.float64) / 3
    torch.testing.assert_close(wasserstein(x @ line, y @ line, p=p), wasserstein(x, y, p=p))


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1e6, 1e9])
def test_of_unequal_numbers_it_scales_with_the_points(scale: float, pot):
    """Costs of 1e-18 are below what the solver takes for zero."""
    x, y = normal(60, 2), normal(50, 2, 1)
    torch.testing.assert_close(wasserstein(scale * x, scale * y, p=2) / scale, wasserstein(x, y, p=2))
    torch.testing.assert_close(wasserstein(0 * x, 0 * y, p=2), torch.zeros((), dtype=torch.float64))


def test_a_shift_costs_its_length():
    x = normal(40, 3)
    shift = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    for p in (1.0, 2.0):
        assert float(wasserstein(x, x + shift, p=p)) == pytest.approx(5)
    assert float(wasserstein(x, x)) == 0


def test_it_is_near_the_distance_of_gaussians():
    """W_2^2 of N(0, I) and N(m, s^2 I) is |m|^2 + D (1 - s)^2."""
    x, y = normal(1200, 2), 0.5 * normal(1200, 2, 1) + 2
    assert float(wasserstein(x, y, p=2)) == pytest.approx((8 + 2 * 0.25) ** 0.5, rel=0.02)


@pytest.mark.parametrize(("dims", "n"), [(1, 4), (2, 4), (1, 3), (2, 3)])
def test_gradients_are_those_of_differences(dims: int, n: int, request):
    if dims > 1 and n != 4:
        request.getfixturevalue("pot")
    x, y = normal(4, dims).requires_grad_(), normal(n, dims, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: wasserstein(x, y, p=2), (x, y))
    z = x.detach().requires_grad_()
    wasserstein(z, x.detach(), p=2).backward()
    assert bool((z.grad == 0).all()), "at the minimum, where the root has no slope"


# -- sliced --------------------------------------------------------------------------------------------------


def test_sliced_in_one_dimension_is_exact():
    x, y = normal(9, 1), normal(6, 1, 1)
    torch.testing.assert_close(sliced_wasserstein(x, y, p=2, seed=0), wasserstein(x, y, p=2))


def test_sliced_of_a_shift():
    """E <u, m>^2 = |m|^2 / D for u on the sphere."""
    x = normal(50, 4)
    distance = sliced_wasserstein(x, x + 1.5, projections=20_000, seed=0)
    assert float(distance) == pytest.approx(1.5, rel=0.02)


def test_sliced_is_below_the_exact_distance_and_has_a_seed():
    x, y = normal(30, 3), normal(30, 3, 1, 0.3)
    state = torch.random.get_rng_state()
    distance = sliced_wasserstein(x, y, seed=4)
    assert float(distance) < float(wasserstein(x, y, p=2))
    assert float(distance) == float(sliced_wasserstein(x, y, seed=4)) != float(sliced_wasserstein(x, y, seed=5))
    assert float(sliced_wasserstein(x, y)) != float(sliced_wasserstein(x, y))
    assert torch.equal(state, torch.random.get_rng_state())


# -- Sinkhorn ------------------------------------------------------------------------------------------------


def plan_by_iteration(cost: Tensor, epsilon: float) -> Tensor:
    """Sinkhorn's own algorithm: scale rows and columns until both are uniform."""
    kernel = torch.exp(-cost / epsilon)
    v = torch.ones(cost.shape[1], dtype=cost.dtype)
    for _ in range(5000):
        u = 1 / len(cost) / (kernel @ v)
        v = 1 / cost.shape[1] / (kernel.T @ u)
    return u[:, None] * kernel * v


@pytest.mark.parametrize("p", [1.0, 2.0])
@pytest.mark.parametrize("n", [(8, 8), (6, 9)])
def test_without_debiasing_it_is_the_least_regularized_cost(n: tuple[int, int], p: float):
    x, y = normal(n[0], 2), normal(n[1], 2, 1)
    cost, epsilon = (x[:, None] - y).norm(dim=2) ** p, 0.3
    plan = plan_by_iteration(cost, epsilon)
    independent = 1 / (n[0] * n[1])
    expected = (plan * cost).sum() + epsilon * (plan * (plan / independent).log()).sum()
    value = sinkhorn(x, y, p=p, epsilon=epsilon, debiased=False, tolerance=1e-9)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


def test_debiasing_subtracts_half_of_both_own_terms():
    x, y = normal(8, 2), normal(6, 2, 1)
    how = {"epsilon": 1.0, "debiased": False, "tolerance": 1e-9}
    expected = sinkhorn(x, y, **how) - 0.5 * sinkhorn(x, x, **how) - 0.5 * sinkhorn(y, y, **how)
    torch.testing.assert_close(sinkhorn(x, y, epsilon=1.0, tolerance=1e-9), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_both_limits_of_epsilon(p: float):
    x, y = normal(12, 2), normal(12, 2, 1, 0.5)
    small = sinkhorn(x, y, p=p, epsilon=1e-3, tolerance=1e-4, iterations=20_000)
    assert float(small) == pytest.approx(float(wasserstein(x, y, p=p)) ** p, rel=5e-3)
    large = sinkhorn(x, y, p=p, epsilon=1e4, tolerance=1e-9)
    costs = [points.pairwise(a, b, p).mean() for a, b in ((x, y), (x, x), (y, y))]
    assert float(large) == pytest.approx(float(costs[0] - 0.5 * costs[1] - 0.5 * costs[2]), rel=1e-3)
    if p == 1:
        assert float(large) == pytest.approx(0.5 * float(energy_distance(x, y, unbiased=False)), rel=1e-3)


def test_zero_for_the_same_points_and_positive_otherwise():
    x = normal(30, 3)
    assert float(sinkhorn(x, x.flip(0), epsilon=0.1)) == pytest.approx(0, abs=1e-3)
    for shift in (0.1, 1.0):  # the debiased cost of a shift is the exact one, whatever epsilon
        assert float(sinkhorn(x, x + shift, epsilon=1.0, tolerance=1e-6)) == pytest.approx(3 * shift**2, rel=1e-3)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("debiased", [True, False])
def test_sinkhorns_gradients_are_those_of_differences(debiased: bool, dims: int, p: float):
    x, y = normal(5, dims).requires_grad_(), normal(4, dims, 1).requires_grad_()

    def value(x: Tensor, y: Tensor) -> Tensor:
        return sinkhorn(x, y, p=p, epsilon=0.5, debiased=debiased, tolerance=1e-13, iterations=10_000)

    assert torch.autograd.gradcheck(value, (x, y), atol=1e-6, rtol=1e-5)
    of_y = torch.autograd.grad(value(x, y), y)[0]
    torch.testing.assert_close(torch.autograd.grad(value(x.detach(), y), y)[0], of_y)


@pytest.mark.parametrize("p", [1.0, 2.0])
@pytest.mark.parametrize("dims", [1, 3])
def test_where_points_coincide_sinkhorn_has_no_slope(dims: int, p: float):
    x = normal(20, dims)
    moving = x.clone().requires_grad_()
    sinkhorn(moving, x, p=p, epsilon=1.0, tolerance=1e-9).backward()
    assert float(moving.grad.abs().max()) < 1e-9
    lonely = torch.zeros(1, dims, requires_grad=True)
    sinkhorn(lonely, torch.zeros(1, dims), p=p, debiased=False).backward()
    assert bool((lonely.grad == 0).all())


def test_sinkhorn_stays_in_float32_where_training_does_not():
    x, y = normal(50, 2).float(), normal(50, 2, 1).float() + 3
    with torch.autocast("cpu", torch.bfloat16):
        lower = sinkhorn(x, y)
    assert lower == sinkhorn(x, y)


def test_sinkhorn_has_no_second_derivatives():
    x = normal(5, 2).requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivatives: leave out create_graph"):
        torch.autograd.grad(sinkhorn(x, normal(5, 2, 1)), x, create_graph=True)


def test_far_apart_sinkhorn_costs_the_shift_and_the_rest():
    """In float32, where costs of 10^4 would hide an epsilon of 0.01."""
    x, y = normal(30, 2).float(), 0.5 * normal(30, 2, 1).float()
    x, y = x - x.mean(0), y - y.mean(0)
    near = sinkhorn(x, y, epsilon=0.01, tolerance=1e-4)
    moving = (y + 100).requires_grad_()
    far = sinkhorn(x, moving, epsilon=0.01, tolerance=1e-4)
    assert float(far.detach()) - float(near) == pytest.approx(2e4, rel=1e-6)
    slope = torch.autograd.grad(far, moving)[0].sum(0)
    torch.testing.assert_close(slope, torch.full((2,), 200.0), rtol=1e-5, atol=0)


def test_combined_steps_reach_the_fixed_point_in_fewer(monkeypatch):
    x, y, steps = normal(100, 2), 0.5 * normal(100, 2, 1) + 1, []
    half_step = transport._half_step
    monkeypatch.setattr(transport, "_half_step", lambda *a: steps.append(1) or half_step(*a))
    values, counts = [], []
    for memory in (0, 5):
        steps.clear()
        monkeypatch.setattr(transport, "MEMORY", memory)
        values.append(float(sinkhorn(x, y, epsilon=0.1, tolerance=1e-5)))
        counts.append(len(steps))
    assert values[1] == pytest.approx(values[0], rel=1e-6)
    assert counts[1] < counts[0] / 3


def test_blocks_make_no_difference(monkeypatch):
    x, y = normal(23, 2).requires_grad_(), normal(17, 2, 1).requires_grad_()
    results = []
    for size in (1 << 18, 40):
        monkeypatch.setattr(points, "BLOCK", size)
        value = sinkhorn(x, y, epsilon=0.2)
        results.append([value, *torch.autograd.grad(value, (x, y))])
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(parts, whole)


def test_memory_of_gradients_is_one_block(monkeypatch):
    """No tensor of pairs is kept for the backward pass."""
    monkeypatch.setattr(points, "BLOCK", 400)
    x, y = normal(100, 2).requires_grad_(), normal(100, 2, 1)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        sinkhorn(x, y, epsilon=0.5)
    assert max(kept) <= 400


def test_descent_carries_points_to_others():
    x, y = normal(60, 2).requires_grad_(), 0.3 * normal(60, 2, 1) + 2
    optimizer = torch.optim.SGD([x], lr=15.0)
    for _ in range(60):
        optimizer.zero_grad()
        sinkhorn(x, y, epsilon=0.05, tolerance=1e-2).backward()
        optimizer.step()
    assert float(wasserstein(x.detach(), y, p=2)) < 0.05**0.5, "within the blur"
    torch.testing.assert_close(x.detach().std(0), y.std(0), rtol=0.1, atol=0)


def test_an_unfinished_iteration_says_so():
    with pytest.warns(UserWarning, match=r"Sinkhorn's iteration stands at .* after 2 iterations: take more"):
        sinkhorn(normal(20, 2), normal(20, 2, 1, 3.0), epsilon=1e-3, iterations=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sinkhorn(normal(20, 2), normal(20, 2, 1, 3.0), epsilon=0.5)


# -- bad input -----------------------------------------------------------------------------------------------

DISTANCES = pytest.mark.parametrize("distance", [wasserstein, sliced_wasserstein, sinkhorn, energy_distance])


@DISTANCES
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            torch.zeros(3, 2, dtype=torch.uint8),
            torch.zeros(3, 2),
            r"x must be a tensor of floats \(N, D\), not torch.uint8",
        ),
        (torch.zeros(3, 2), [[0.0, 1.0]], "y must be a tensor of floats .*, not list"),
        (
            torch.zeros(3, 1, 2, 2),
            torch.zeros(3, 4),
            r"x must be points \(N, D\), not of shape \(3, 1, 2, 2\): flatten",
        ),
        (torch.zeros(3, 2), torch.zeros(3, 4), "as many columns, one type and one device, not 2 of .* and 4 of"),
        (torch.zeros(3, 2), torch.zeros(3, 2).double(), "one type"),
        (torch.zeros(3, 2), torch.zeros(0, 2), "y must hold at least [12] points, not 0"),
        (torch.tensor([[0.0], [math.nan]]), torch.zeros(3, 1), "x holds a value that is no finite number"),
    ],
    ids=["integers", "list", "images", "columns", "types", "empty", "nan"],
)
def test_what_are_no_points_is_named(distance, x, y, message: str):
    with pytest.raises(DataError, match=message):
        distance(x, y)


def test_bad_settings_are_named(monkeypatch):
    x = normal(4, 2)
    with pytest.raises(DataError, match=r"p must be at least 1 and finite, not 0\.5"):
        wasserstein(x, x, p=0.5)
    with pytest.raises(DataError, match="projections must be at least 1, not 0"):
        sliced_wasserstein(x, x, projections=0)
    with pytest.raises(DataError, match="epsilon must be positive and finite, not 0"):
        sinkhorn(x, x, epsilon=0)
    with pytest.raises(DataError, match="tolerance must be positive and finite, not nan"):
        sinkhorn(x, x, tolerance=math.nan)
    with pytest.raises(DataError, match="iterations must be at least 1, not 0"):
        sinkhorn(x, x, iterations=0)
    with pytest.raises(DataError, match=r"\|x - y\|\^2 is too large for torch.float32: scale the points down"):
        wasserstein(x.float() * 1e20, -x.float() * 1e20, p=2)
    monkeypatch.setattr(transport, "LARGEST", 15)
    with pytest.raises(DataError, match="at most 15 pairs of points, not 4 times 4: use sinkhorn"):
        wasserstein(x, x)


def test_an_unfinished_plan_is_an_error(monkeypatch, pot):
    monkeypatch.setattr(transport, "PIVOTS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=r"plan of 30 and 20 points \(numItermax reached.*\): take") as caught:
            wasserstein(normal(30, 2), normal(20, 2, 1))
    assert "\n" not in str(caught.value)


def test_an_absent_solver_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ZooError, match=r"unequal size needs POT.* pip install generative-zoo\[transport\]") as caught:
        wasserstein(normal(4, 2), normal(3, 2))
    assert "\n" not in str(caught.value)
    for x, y in ((normal(4, 2), normal(4, 2, 1)), (normal(4, 1), normal(3, 1))):
        assert float(wasserstein(x, y)) > 0, "only unequal numbers beyond one dimension need it"
