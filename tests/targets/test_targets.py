"""Targets: the constant, the moments and the draws of each belong to its density."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from zoo.errors import DataError
from zoo.targets import Energy, GaussianGrid, GaussianRing, Target, target_of
from zoo.targets.base import Known
from zoo.targets.energies import quadrature

KNOWN = [
    *(Energy(f"energy{k}") for k in (1, 2, 3, 4)),
    GaussianRing(),
    GaussianRing(modes=1, radius=1.0, scale=0.3),
    GaussianRing(modes=2, radius=1.0, scale=0.4),
    GaussianRing(modes=3, radius=1.5, scale=0.5, dims=4),
    GaussianGrid(),
    GaussianGrid(modes=2, distance=1.5, scale=0.4, dims=5),
    GaussianGrid(modes=3, distance=1.0, scale=0.3, dims=1),
]
N = 40_000


def label(target: Target) -> str:
    return "-".join(map(str, [type(target).__name__, *target.config["init_args"].values()]))


@pytest.fixture(params=KNOWN, ids=label)
def target(request) -> Known:
    """Each of which all is known."""
    return request.param


def draws(target: Known, n: int = 50) -> Tensor:
    return target.sample(n, seed=0).double()


def test_it_is_made_again_from_its_config(target):
    again = target_of(json.loads(json.dumps(target.config)))
    x = draws(target)
    assert type(again) is type(target)
    assert (again.name, again.shape, again.config) == (target.name, target.shape, target.config)
    assert torch.equal(again.log_density(x), target.log_density(x))


def test_names_as_published():
    for name in ("energy1", "energy2", "energy3", "energy4"):
        assert target_of(name).config == {"class_path": "zoo.targets.Energy", "init_args": {"name": name}}
        assert target_of(name).name == name


def test_log_density_has_the_gradients_of_finite_differences(target):
    x = draws(target, 8).requires_grad_()
    assert torch.autograd.gradcheck(target.log_density, x)


def test_log_density_is_at_least_in_float32(target):
    x = draws(target)
    torch.testing.assert_close(target.log_density(x.float()).double(), target.log_density(x), rtol=1e-4, atol=1e-3)
    assert target.log_density(x.bfloat16()).dtype == torch.float32
    with pytest.raises(DataError, match="shape"):
        target.log_density(torch.zeros(3, 9))
    with pytest.raises(DataError, match="floating point"):
        target.log_density(torch.zeros(3, *target.shape, dtype=torch.int64))


@pytest.mark.parametrize("target", [target for target in KNOWN if target.shape in ((1,), (2,))], ids=label)
def test_log_prob_integrates_to_one_and_has_the_moments(target):
    if target.shape == (2,):
        x, weights = quadrature(24)
    else:
        node, weight = np.polynomial.legendre.leggauss(400)
        x, weights = torch.from_numpy(5 * node)[:, None], torch.from_numpy(5 * weight)
    mass = weights * target.log_prob(x).exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-6)
    mean = mass @ x
    torch.testing.assert_close(mean, target.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mass @ (x - mean).square(), target.variance, atol=1e-5, rtol=1e-5)


def test_moments_are_those_of_draws(target):
    x = target.sample(N, seed=1).double()
    assert (target.mean.dtype, target.mean.shape) == (torch.float64, target.shape)
    error = x.std(0) / math.sqrt(N)
    assert ((x.mean(0) - target.mean).abs() < 4.5 * error).all()
    square = (x - target.mean).square()
    assert ((square.mean(0) - target.variance).abs() < 4.5 * square.std(0) / math.sqrt(N)).all()


def test_draws_are_seeded(target):
    state = np.random.get_state()[1].copy()
    x = target.sample(100, seed=3)
    assert (x.dtype, tuple(x.shape)) == (torch.float32, (100, *target.shape))
    assert torch.equal(x, target.sample(100, seed=3))
    assert torch.equal(x, target.sample(3000, seed=3)[:100]), "the first of many are those of few"
    assert not torch.equal(x, target.sample(100, seed=4))
    assert not torch.equal(target.sample(100), target.sample(100))
    assert (np.random.get_state()[1] == state).all()
    with pytest.raises(DataError, match="n must be at least 1, not 0"):
        target.sample(0)


# -- Gaussians on a ring and on a grid ---------------------------------------------------------------------------


def mixture(means: Tensor, scale: float, x: Tensor) -> Tensor:
    """log p(x) of equal Gaussians, from torch's own normal density."""
    each = torch.distributions.Normal(means, scale).log_prob(x[:, None]).sum(2)
    return each.logsumexp(1) - math.log(len(means))


def test_a_ring_is_the_mixture_of_gaussians_at_its_corners():
    target = GaussianRing(modes=4, radius=3.0, scale=0.7, dims=3)
    corners = torch.tensor([[3, 0, 0], [0, 3, 0], [-3, 0, 0], [0, -3, 0]], dtype=torch.float64)
    x = 3 * torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(target.log_prob(x), mixture(corners, 0.7, x))


def test_a_grid_is_the_mixture_of_gaussians_at_all_its_points():
    target = GaussianGrid(modes=3, distance=2.0, scale=0.6, dims=3)
    line = torch.tensor([-2, 0, 2], dtype=torch.float64)
    x = 3 * torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(target.log_prob(x), mixture(torch.cartesian_prod(line, line, line), 0.6, x))


def test_draws_come_evenly_from_all_modes():
    ring = GaussianRing(modes=5, radius=4.0, scale=0.1).sample(N, seed=2)
    angle = torch.atan2(ring[:, 1], ring[:, 0]) / (2 * math.pi)
    counts = torch.bincount((5 * angle).round().long() % 5, minlength=5)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    grid = GaussianGrid(modes=4, distance=1.0, scale=0.05).sample(N, seed=2)
    place = (grid + 1.5).round().long()
    assert stats.chisquare(torch.bincount(4 * place[:, 0] + place[:, 1], minlength=16).numpy()).pvalue > 1e-3
    assert stats.kstest((grid + 1.5 - place).flatten().numpy(), stats.norm(0, 0.05).cdf).pvalue > 1e-3


# -- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "arguments", "sentence"),
    [
        (GaussianRing, {"dims": 1}, "dims must be at least 2, not 1"),
        (GaussianRing, {"modes": 0}, "modes must be from 1 to 10,000, not 0"),
        (GaussianRing, {"radius": 0}, "radius must be positive, not 0"),
        (GaussianRing, {"scale": math.inf}, "scale must be positive, not inf"),
        (GaussianGrid, {"dims": 0}, "dims must be at least 1, not 0"),
        (GaussianGrid, {"modes": 10**6}, "modes must be from 1 to 10,000, not 1000000"),
        (GaussianGrid, {"distance": -1.0}, r"distance must be positive, not -1\.0"),
    ],
)
def test_bad_sizes(cls, arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        cls(**arguments)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("moons", "no energy 'moons'; choose one of energy1"),
        (7, "A target is a name, such as energy1, or class_path and init_args, not 7"),
        ({}, "class_path and init_args, not {}"),
        ({"class_path": "zoo.targets.Energy", "name": "energy1"}, "class_path and init_args, not"),
        ({"class_path": 7}, "no target 7"),
        ({"class_path": "Energy"}, "no target 'Energy'"),
        ({"class_path": "zoo.targets.Funnels"}, "no target 'zoo.targets.Funnels'"),
        ({"class_path": "zoo.nowhere.Energy"}, "no target 'zoo.nowhere.Energy'"),
        ({"class_path": "pathlib.Path"}, "no target 'pathlib.Path'"),
        ({"class_path": "zoo.targets.Energy", "init_args": {"which": 1}}, "Energy cannot be made with {'which': 1}"),
        ({"class_path": "zoo.targets.Energy", "init_args": {"name": "energy9"}}, "no energy 'energy9'"),
    ],
)
def test_what_is_no_target(given, sentence):
    with pytest.raises(DataError, match=sentence):
        target_of(given)
