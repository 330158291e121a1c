"""`Points` and `Energy`: every set is distributed as its formula says, and the splits are always the same."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from zoo.data import Points
from zoo.data.points import MOST, SETS
from zoo.errors import DataError
from zoo.hub.data import datamodule
from zoo.spec import DataSpec
from zoo.targets import Energy, Target
from zoo.targets.energies import ENERGIES, quadrature

N = 20_000


def drawn(name: str, n: int = N) -> np.ndarray:
    """(n, 2) in float64."""
    return SETS[name](np.random.RandomState(1), n)


def check_counts(counts: np.ndarray, probabilities: np.ndarray) -> None:
    """Chi-square of counts against exact probabilities; rare bins are one bin, with what lies beyond all bins."""
    n = counts.sum()
    common = probabilities * n >= 10
    expected = np.append(probabilities[common], 1 - probabilities[common].sum()) * n
    found = np.append(counts[common], counts[~common].sum())
    if expected[-1] < 10:
        expected, found = np.append(expected[:-2], expected[-2:].sum()), np.append(found[:-2], found[-2:].sum())
    assert len(found) > 4
    assert stats.chi2.sf(((found - expected) ** 2 / expected).sum(), len(found) - 1) > 1e-3


def histogram(points: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Counts in the cells between the edges, and in a last one how many lie outside."""
    counts = np.histogram2d(*points.T, bins=[edges, edges])[0].flatten()
    return np.append(counts, len(points) - counts.sum())


# -- sets drawn by a formula --------------------------------------------------------------------------------------


def moons_curve() -> np.ndarray:
    t = np.pi * (np.arange(2000) + 0.5) / 2000
    upper = np.stack([2 * np.cos(t) - 1, 2 * np.sin(t) - 0.2], 1)
    lower = np.stack([1 - 2 * np.cos(t), 0.8 - 2 * np.sin(t)], 1)
    return np.concatenate([upper, lower])


def circles_curve() -> np.ndarray:
    t = 2 * np.pi * (np.arange(2000) + 0.5) / 2000
    circle = np.stack([np.cos(t), np.sin(t)], 1)
    return np.concatenate([1.5 * circle, 3 * circle])


def swiss_roll_curve() -> np.ndarray:
    t = np.linspace(1.5, 4.5, 6001)[1::2] * np.pi
    return np.stack([t * np.cos(t), t * np.sin(t)], 1) / 5


@pytest.mark.parametrize(
    ("name", "curve", "noise"),
    [("moons", moons_curve, 0.2), ("circles", circles_curve, 0.24), ("swiss_roll", swiss_roll_curve, 0.2)],
)
def test_a_noisy_curve_has_the_probabilities_of_its_formula(name, curve, noise):
    # Each place on the curve gives a cell the product of two normal probabilities; places are equally likely.
    edges = np.linspace(-4, 4, 33)
    cumulative = stats.norm.cdf((edges[:, None, None] - curve()) / noise)
    x, y = np.diff(cumulative, axis=0).transpose(2, 0, 1)
    cells = (x @ y.T / x.shape[1]).flatten()
    check_counts(histogram(drawn(name), edges), np.append(cells, 1 - cells.sum()))


def test_radii_of_circles_are_those_of_two_noisy_circles():
    def cumulative(radius: np.ndarray) -> np.ndarray:
        # The distance from the origin of a normal point around one at distance r is Rice distributed.
        return sum(stats.rice.cdf(radius, r / 0.24, scale=0.24) for r in (1.5, 3)) / 2

    assert stats.kstest(np.hypot(*drawn("circles").T), cumulative).pvalue > 1e-3


def test_pinwheel_unbends_to_five_normal_arms():
    x = drawn("pinwheel") / 2
    radius, turned = np.hypot(*x.T), -np.arctan2(x[:, 1], x[:, 0])
    # x is (u, v) turned by -a, so turned + d = a = 2 pi k / 5 + exp(u) / 4, where d is the angle of (u, v): first k as
    # if d were zero, which is the nearest to it, then d by iteration.
    arm = np.round((turned - np.exp(radius) / 4) * 5 / (2 * np.pi)) % 5
    angle = np.zeros(N)
    for _ in range(100):
        rest = 2 * np.pi * arm / 5 + np.exp(radius * np.cos(angle)) / 4 - turned
        angle = (rest + np.pi) % (2 * np.pi) - np.pi
    u, v = radius * np.cos(angle), radius * np.sin(angle)
    assert stats.kstest(u, stats.norm(1, 0.3).cdf).pvalue > 1e-3
    assert stats.kstest(v, stats.norm(0, 0.1).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(u, v)[0, 1]) < 4 / math.sqrt(N)
    check_counts(np.bincount(arm.astype(int), minlength=5), np.full(5, 0.2))
    # Independent of the unbending: |x|^2 = 4 (u^2 + v^2).
    square = 4 * radius**2
    assert square.mean() == pytest.approx(4 * (1 + 0.09 + 0.01), abs=4 * square.std() / math.sqrt(N))


def test_checkerboard_is_uniform_on_black_squares():
    points = drawn("checkerboard")
    assert np.abs(points).max() <= 4
    assert (np.floor(points / 2).sum(1) % 2 == 0).all()
    x, y = np.meshgrid(np.arange(-4, 4, 0.5), np.arange(-4, 4, 0.5), indexing="ij")
    black = (np.floor(x / 2) + np.floor(y / 2)) % 2 == 0
    assert black.sum() == 128
    check_counts(histogram(points, np.linspace(-4, 4, 17))[:-1][black.flatten()], np.full(128, 1 / 128))


# -- energies -----------------------------------------------------------------------------------------------------


def printed(name: str, z: np.ndarray) -> np.ndarray:
    """Table 1 of the paper, symbol by symbol."""
    z1, z2 = z.T
    w1 = np.sin(2 * np.pi * z1 / 4)
    w2 = 3 * np.exp(-1 / 2 * ((z1 - 1) / 0.6) ** 2)
    w3 = 3 * (1 / (1 + np.exp(-(z1 - 1) / 0.3)))
    if name == "energy1":
        pair = np.exp(-1 / 2 * ((z1 - 2) / 0.6) ** 2) + np.exp(-1 / 2 * ((z1 + 2) / 0.6) ** 2)
        return 1 / 2 * ((np.sqrt(z1**2 + z2**2) - 2) / 0.4) ** 2 - np.log(pair)
    if name == "energy2":
        return 1 / 2 * ((z2 - w1) / 0.4) ** 2
    if name == "energy3":
        return -np.log(np.exp(-1 / 2 * ((z2 - w1) / 0.35) ** 2) + np.exp(-1 / 2 * ((z2 - w1 + w2) / 0.35) ** 2))
    return -np.log(np.exp(-1 / 2 * ((z2 - w1) / 0.4) ** 2) + np.exp(-1 / 2 * ((z2 - w1 + w3) / 0.35) ** 2))


@pytest.fixture(params=list(ENERGIES))
def energy(request) -> Energy:
    """Each of the four."""
    return Energy(request.param)


def points(n: int, extent: float, seed: int = 0) -> Tensor:
    """(n, 2) uniform in [-extent, extent]^2."""
    return extent * (2 * torch.rand(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1)


def test_energies_are_the_printed_ones_in_the_square(energy):
    z = points(4000, 4)
    assert energy(z).numpy() == pytest.approx(printed(energy.name, z.numpy()), rel=1e-12, abs=1e-12)
    assert energy(z.float()).numpy() == pytest.approx(energy(z).numpy(), rel=1e-4, abs=1e-4)
    assert energy(z.bfloat16()).dtype == torch.float32


def test_the_wall_is_a_gaussian_of_0_2_beyond_the_square(energy):
    # At (z1, 4 + d) and (4 + d, z2) the printed energy of U2 is no larger for it.
    z = points(2000, 5)
    outside = np.maximum(np.abs(z.numpy()) - 4, 0)
    with np.errstate(divide="ignore"):
        expected = printed(energy.name, z.numpy()) + (outside**2).sum(1) / (2 * 0.2**2)
    finite = np.isfinite(expected)  # the printed logarithm of a sum of exponentials underflows
    assert (outside[finite].max(0) > 0.9).all()
    assert energy(z).numpy()[finite] == pytest.approx(expected[finite], rel=1e-12, abs=1e-12)


def test_energies_have_the_gradients_of_finite_differences(energy):
    z = points(200, 4.5).requires_grad_()
    assert torch.autograd.gradcheck(energy, z)
    # At the edge of the square the gradient is continuous.
    edge = torch.tensor([[4.0, 0.3], [-4.0, 0.3], [0.3, 4.0], [0.3, -4.0]], dtype=torch.float64)
    inner, outer = (torch.func.grad(lambda z: energy(z).sum())(edge * factor) for factor in (1 - 1e-9, 1 + 1e-9))
    torch.testing.assert_close(inner, outer, rtol=1e-5, atol=1e-5)


def test_energies_are_finite_far_away_with_gradients_that_lead_back(energy):
    z = torch.tensor([[1e6, 0], [0, 1e6], [-1e6, 1e6], [300, -300], [0, 0]], requires_grad=True)
    values = energy(z)
    (gradient,) = torch.autograd.grad(values.sum(), z)
    assert torch.isfinite(values).all()
    assert torch.isfinite(gradient).all()
    assert ((gradient * z).sum(1)[:4] > 0).all()


def test_a_finer_grid_does_not_change_the_normalizer(energy):
    z = energy.log_normalizer()
    assert z == pytest.approx(energy.log_normalizer(8), abs=1e-6)
    assert z == pytest.approx(energy.log_normalizer(21), abs=1e-9)
    # Another rule altogether: midpoints.
    x = torch.linspace(-5.5, 5.5, 1101, dtype=torch.float64)
    x = (x[1:] + x[:-1]) / 2
    assert z == pytest.approx(
        (torch.logsumexp(-energy(torch.cartesian_prod(x, x)), 0) + 2 * math.log(0.01)).item(), abs=1e-6
    )


def test_the_normalizer_of_u2_and_u3_is_known():
    # Along z2 both are Gaussians that the wall hardly touches; along z1 there are 8 and two half Gaussians.
    length = 8 + 0.2 * math.sqrt(2 * math.pi)
    for name, area in (("energy2", 0.4), ("energy3", 2 * 0.35)):
        exact = math.log(length * area * math.sqrt(2 * math.pi))
        assert Energy(name).log_normalizer() == pytest.approx(exact, abs=1e-4)


def test_samples_of_an_energy_are_its_distribution(energy):
    z = torch.from_numpy(drawn(energy.name))
    nodes, weights = quadrature()
    density = weights * energy.log_prob(nodes).exp()
    assert density.sum().item() == pytest.approx(1)
    found = energy(z)
    mean = (density * energy(nodes)).sum().item()
    assert found.mean().item() == pytest.approx(mean, abs=4 * found.std().item() / math.sqrt(N))
    # Cells of 1/2, the middle of which is integrated by Gauss-Legendre too.
    edges, (node, mass) = np.linspace(-5, 5, 21), np.polynomial.legendre.leggauss(8)
    x = (edges[:-1, None] + 0.25 * (1 + node)).flatten()
    grid = torch.cartesian_prod(*[torch.from_numpy(x)] * 2)
    cells = energy.log_prob(grid).exp().numpy().reshape(20, 8, 20, 8)
    cells = np.einsum("aibj,i,j->ab", cells, mass / 4, mass / 4).flatten()
    check_counts(histogram(z.numpy(), edges), np.append(cells, 1 - cells.sum()))


def test_samples_of_an_energy_are_seeded_and_the_first_of_more(energy):
    state = np.random.get_state()[1].copy()
    z = energy.sample(100, seed=3)
    assert (z.dtype, z.shape) == (torch.float32, (100, 2))
    assert torch.equal(z, energy.sample(9000, seed=3)[:100])
    assert not torch.equal(z, energy.sample(100, seed=4))
    assert not torch.equal(energy.sample(100), energy.sample(100))
    assert (np.random.get_state()[1] == state).all()


# -- the data module ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SETS))
def test_splits_are_points_without_labels_inside_about_the_square(name):
    data = Points(name, train=3000, validation=200, test=300, batch_size=64)
    data.setup()
    for (x, *rest), size in zip((data.train, data.val, data.test), (3000, 200, 300), strict=True):
        data.spec.check(x)
        assert rest == [None, None, None]
        assert x.dtype == torch.float32
        assert x.shape == (size, 2)
        assert x.abs().max() < 5
        assert x.abs().max() > 2
    together = torch.cat([data.train[0], data.val[0], data.test[0]])
    assert len(together.unique(dim=0)) == 3500
    assert data.spec == DataSpec((2,), None, 0)


def test_default_sizes():
    data = Points()
    data.setup()
    assert [len(split[0]) for split in (data.train, data.val, data.test)] == [50_000, 5_000, 10_000]


def test_splits_depend_on_the_data_seed_and_not_on_each_other():
    def split(which: str, **arguments: int) -> Tensor:
        data = Points("circles", **{"train": 50, "validation": 20, "test": 30, **arguments})
        data.setup()
        return getattr(data, which)[0]

    for which, other in (("train", {"test": 7}), ("val", {"train": 7}), ("test", {"train": 7, "validation": 3})):
        assert torch.equal(split(which), split(which, seed=5, batch_size=3, **other))
        assert not torch.equal(split(which), split(which, data_seed=1))


def test_setup_draws_only_what_the_stage_needs():
    data = Points(train=20, validation=10, test=10)
    data.setup("test")
    assert not hasattr(data, "train")
    data.setup("fit")
    train = data.train[0]
    data.setup()
    assert data.train[0] is train


def test_loaders_go_through_all_points():
    data = Points(train=64, validation=10, test=9, batch_size=16, eval_batch_size=4)
    data.setup()
    train = torch.cat([x for x, *_ in data.train_dataloader()])
    assert sorted(train.tolist()) == sorted(data.train[0].tolist())
    assert torch.equal(torch.cat([x for x, *_ in data.val_dataloader()]), data.val[0])
    assert torch.equal(torch.cat([x for x, *_ in data.test_dataloader()]), data.test[0])


def test_config_makes_the_same_data_again():
    data = Points("energy3", train=10, validation=5, test=8, data_seed=4, batch_size=2)
    config = json.loads(json.dumps(data.config))
    again = datamodule(config, root="nowhere", batch_size=3)
    for one in (data, again):
        one.setup()
    assert torch.equal(data.test[0], again.test[0])
    assert torch.equal(data.train[0], again.train[0])
    assert (data.spec, data.protocol) == (again.spec, again.protocol)
    assert data.protocol == "energy3, drawn with seed 4"


def test_draws_of_a_target_in_any_dimension():
    given = {"class_path": "zoo.targets.GaussianGrid", "init_args": {"modes": 3, "dims": 5}}
    data = Points(given, train=2000, validation=20, test=10, data_seed=1)
    again = datamodule(json.loads(json.dumps(data.config)))
    for one in (data, again):
        one.setup()
        one.spec.check(one.train[0])
    assert torch.equal(data.train[0], again.train[0])
    assert (data.spec, data.name) == (DataSpec((5,), None), "3^5 Gaussians on a grid")
    # Places of -2, 0 and 2, and a deviation of 0.2.
    spread = data.train[0].double().square()
    assert spread.mean().item() == pytest.approx(0.04 + 8 / 3, abs=4 * spread.std().item() / math.sqrt(10_000))


# -- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "spiral"}, r"no set of points 'spiral'; choose one of moons, circles, .*, energy4\."),
        ({"name": {"class_path": "zoo.targets.Nowhere"}}, "no target 'zoo.targets.Nowhere'"),
        (
            {"name": {"class_path": "zoo.targets.GaussianGrid", "init_args": {"dims": 2000}}, "train": 10_001},
            "train must be from 1 to 10,000 points, not 10,001",
        ),
        ({"train": 0}, "train must be from 1 to 10,000,000 points, not 0"),
        ({"validation": -1}, "validation must be from 1 to .*, not -1"),
        ({"test": MOST + 1}, "test must be from 1 to .*, not 10,000,001"),
        ({"data_seed": -1}, r"data_seed must be a whole number from 0 to 2\*\*32 - 1, or None, not -1"),
        ({"data_seed": 2**32}, "data_seed must be a whole number from 0"),
    ],
)
def test_bad_arguments(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        Points(**arguments)


def test_bad_energies():
    with pytest.raises(DataError, match="no energy 'energy5'; choose one of energy1, energy2, energy3, energy4"):
        Energy("energy5")
    energy = Energy("energy1")
    with pytest.raises(DataError, match=r"z has shape \(2,\); this model takes \(N, 2\)"):
        energy(torch.zeros(2))
    with pytest.raises(DataError, match=r"z has dtype torch\.int64"):
        energy(torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(DataError, match="n must be at least 1, not 0"):
        energy.sample(0)
    with pytest.raises(DataError, match="resolution must be at least 1 node a unit of length, not 0"):
        energy.log_normalizer(0)


def test_a_target_need_not_draw_by_numpy(monkeypatch):
    class Constant(Target):
        """All draws are 3."""

        name, shape = "three", (4,)

        def sample(self, n, *, seed=None):
            assert seed is not None
            return torch.full((n, 4), 3.0)

    monkeypatch.setattr("zoo.data.points.target_of", lambda given: Constant())
    data = Points({"class_path": "x"}, train=5, validation=5, test=5)
    data.setup("test")
    assert data.test[0].equal(torch.full((5, 4), 3.0))
