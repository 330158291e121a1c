"""What every distance makes of another unit, another origin and another type: the rules of `zoo.metrics`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.metrics import (
    DistanceInduced,
    Gaussian,
    RationalQuadratic,
    default_epsilon,
    energy_distance,
    frechet_distance,
    median_distance,
    mmd,
    objectives,
    precision_recall,
    sinkhorn,
    sliced_wasserstein,
    wasserstein,
)


def sample(n: int, shift: float = 0.0, dims: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(n, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


# Each with the power of the unit that it has.
DEFAULTS = {
    "wasserstein": (wasserstein, 1),
    "wasserstein in a line": (lambda x, y: wasserstein(x[:, :1], y[:, :1]), 1),
    "wasserstein 2": (lambda x, y: wasserstein(x, y, p=2), 1),
    "sliced": (lambda x, y: sliced_wasserstein(x, y, seed=0), 1),
    "sinkhorn": (sinkhorn, 2),
    "sinkhorn, p = 1": (lambda x, y: sinkhorn(x, y, p=1), 1),
    "sinkhorn, p = 1.5": (lambda x, y: sinkhorn(x, y, p=1.5), 1.5),
    "energy": (energy_distance, 1),
    "mmd": (mmd, 0),
    "mmd, rational": (lambda x, y: mmd(x, y, RationalQuadratic(scale=None)), 0),
    "mmd, induced": (lambda x, y: mmd(x, y, DistanceInduced()), 1),
    "frechet": (frechet_distance, 2),
    "precision": (lambda x, y: precision_recall(x, y)[0], 0),
    "recall": (lambda x, y: precision_recall(x, y)[1], 0),
}
# Of a scale of their own, to which an origin matters no more than to the others.
SCALED = {
    "sinkhorn, epsilon": lambda x, y: sinkhorn(x, y, epsilon=0.1),
    "mmd, scales": lambda x, y: mmd(x, y, Gaussian([0.5, 2.0])),
    "mmd, rational of the paper": lambda x, y: mmd(x, y, RationalQuadratic()),
    **{
        f"objective {name}": objectives.distance(name, options).value
        for name, options in {"energy": {}, "mmd": {}, "sinkhorn": {"epsilon": 1.0}}.items()
    },
}
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@TYPES
@pytest.mark.parametrize("unit", [1e-6, 1e6])
@pytest.mark.parametrize("name", DEFAULTS)
def test_in_another_unit_it_is_that_power_of_the_unit(name: str, unit: float, dtype: torch.dtype):
    function, power = DEFAULTS[name]
    x, y = sample(60).to(dtype), sample(60, 0.5, seed=1).to(dtype)
    value, scaled = function(x, y), function(unit * x, unit * y)
    assert scaled.dtype == value.dtype
    assert float(value) != 0
    assert float(scaled) / unit**power == pytest.approx(float(value), rel=2e-4 if dtype == torch.float32 else 1e-9)


@TYPES
@pytest.mark.parametrize("origin", [1e6, -1e6])
@pytest.mark.parametrize("name", [*DEFAULTS, *SCALED])
def test_far_from_the_origin_it_is_as_exact_as_near_it(name: str, origin: float, dtype: torch.dtype):
    """Of points that both places represent exactly, so that nothing but the distance may err."""
    function = SCALED.get(name) or DEFAULTS[name][0]
    x, y = ((part * 16).round() / 16 for part in (sample(60), sample(60, 0.5, seed=1)))
    near, far = function(x, y), function((x + origin).to(dtype), (y + origin).to(dtype))
    assert float(far) == pytest.approx(float(near), rel=2e-4 if dtype == torch.float32 else 1e-7)


@pytest.mark.parametrize("name", DEFAULTS)
def test_where_only_one_column_is_far_it_is_as_exact(name: str):
    function, _ = DEFAULTS[name]
    x, y = ((part * 16).round() / 16 for part in (sample(60), sample(60, 0.5, seed=1)))
    moved = torch.tensor([0.0, 0.0, 1e6])
    far = function(x.float() + moved, y.float() + moved)
    assert float(far) == pytest.approx(float(function(x, y)), rel=2e-4)


# With an epsilon as large as the clusters are apart Sinkhorn's tolerance hides the rest; a given one shows it.
@pytest.mark.parametrize("name", [*(name for name in DEFAULTS if "sinkhorn" not in name), *list(SCALED)[:3]])
def test_clusters_far_apart_are_seen_from_within(name: str):
    """In float32, where the squared distance of the clusters has no digits left for that of neighbours."""
    function = SCALED.get(name) or DEFAULTS[name][0]
    x, y = ((part * 16).round() / 16 for part in (sample(60), sample(60, 0.5, seed=1)))
    x[:30] += 2.0**14
    y[:30] += 2.0**14
    assert float(function(x.float(), y.float())) == pytest.approx(float(function(x, y)), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", DEFAULTS)
def test_of_a_narrow_type_it_is_computed_in_float32(name: str, dtype: torch.dtype):
    function, _ = DEFAULTS[name]
    x, y = sample(40).to(dtype), sample(40, 0.5, seed=1).to(dtype)
    assert float(function(x, y)) == pytest.approx(float(function(x.float(), y.float())), rel=1e-6)


SQUARED = [name for name in DEFAULTS if name not in ("frechet", "precision", "recall", "wasserstein in a line")]


@pytest.mark.parametrize("name", SQUARED)
def test_a_cost_that_is_no_number_of_its_type_is_refused(name: str):
    function, _ = DEFAULTS[name]
    x, y = sample(10).float(), sample(10, 0.5, seed=1).float()
    with pytest.raises(DataError, match=r"is too large for torch.float32: scale the points down"):
        function(1e30 * x, 1e30 * y)
    with pytest.raises(DataError, match=r"is too small for torch.float32: scale the points up"):
        function(1e-25 * x, 1e-25 * y)


def test_the_smallest_numbers_are_refused_and_not_taken_for_zero():
    points = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None].repeat(1, 2) * 1e-200
    with pytest.raises(DataError, match="scale the points up"):
        energy_distance(points, points * 2)


def test_in_a_line_nothing_is_squared():
    x = sample(10, dims=1).float()
    assert float(wasserstein(1e30 * x, -1e30 * x)) == pytest.approx(1e30 * float(wasserstein(x, -x)))


def test_the_default_epsilon_is_a_twentieth_of_the_mean_cost():
    x, y = sample(20), sample(30, 0.5, seed=1)
    for p in (1.0, 1.5, 2.0):
        mean = (x[:, None] - y).norm(dim=2).pow(p).mean()
        assert default_epsilon(x, y, p=p) == pytest.approx(0.05 * float(mean))
        assert float(sinkhorn(x, y, p=p)) == float(sinkhorn(x, y, p=p, epsilon=default_epsilon(x, y, p=p)))
    assert default_epsilon(x[:1], x[:1]) == 1
    assert float(sinkhorn(x[:1], x[:1])) == 0


def test_the_default_scales_are_around_the_median_distance():
    x, y = sample(20), sample(31, 0.5, seed=1)
    both = torch.cat([x, y])
    median = (both[:, None] - both).norm(dim=2)[torch.ones(51, 51).triu(1) > 0].median()
    assert median_distance(x, y) == median_distance(y, x) == pytest.approx(float(median))
    scales = [0.5 * float(median), float(median), 2 * float(median)]
    torch.testing.assert_close(mmd(x, y), mmd(x, y, Gaussian(scales)))
    torch.testing.assert_close(
        mmd(x, y, RationalQuadratic(scale=None)), mmd(x / median, y / median, RationalQuadratic())
    )
    same = x[:1].repeat(10, 1)
    assert median_distance(same, same) == 1
    assert median_distance(torch.cat([same, x[1:2]]), same) > 0
