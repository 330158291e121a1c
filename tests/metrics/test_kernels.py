"""Maximum mean discrepancies and energy distance against their definitions, SciPy and one another."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from zoo.errors import DataError
from zoo.metrics import (
    DistanceInduced,
    Gaussian,
    Kernel,
    Polynomial,
    RationalQuadratic,
    energy_distance,
    mmd,
    points,
)

KERNELS = [Gaussian([0.5, 2.0]), RationalQuadratic([0.5, 1.0]), DistanceInduced(), Polynomial(3)]
EACH = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)


def normal(n: int, dims: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


FORMULAS = {
    "Gaussian": lambda x, y: sum(torch.exp(-(x - y).square().sum() / (2 * s**2)) for s in (0.5, 2.0)),
    "RationalQuadratic": lambda x, y: sum((1 + (x - y).square().sum() / (2 * a)) ** -a for a in (0.5, 1.0)),
    "DistanceInduced": lambda x, y: x.norm() + y.norm() - (x - y).norm(),
    "Polynomial": lambda x, y: (x @ y / len(x) + 1) ** 3,
}


@EACH
def test_a_kernel_is_its_formula_and_positive(kernel: Kernel):
    x, y = normal(5, 3), normal(4, 3, 1)
    formula = FORMULAS[type(kernel).__name__]
    torch.testing.assert_close(kernel(x, y), torch.stack([torch.stack([formula(a, b) for b in y]) for a in x]))
    torch.testing.assert_close(kernel.diagonal(x), kernel(x, x).diagonal(), rtol=1e-6, atol=1e-6)
    assert float(torch.linalg.eigvalsh(kernel(x, x)).min()) > -1e-9


@EACH
@pytest.mark.parametrize("unbiased", [True, False])
def test_mmd_is_its_sum_over_pairs(kernel: Kernel, unbiased: bool):
    x, y = normal(5, 2), normal(7, 2, 1)
    formula = FORMULAS[type(kernel).__name__]

    def mean(a: Tensor, b: Tensor, *, same: bool) -> Tensor:
        pairs = [formula(s, t) for i, s in enumerate(a) for j, t in enumerate(b) if not (same and unbiased and i == j)]
        return sum(pairs) / len(pairs)

    expected = mean(x, x, same=True) + mean(y, y, same=True) - 2 * mean(x, y, same=False)
    torch.testing.assert_close(mmd(x, y, kernel, unbiased=unbiased), expected)


@pytest.mark.parametrize("unbiased", [True, False])
def test_energy_distance_is_mmd_of_the_distance_induced_kernel(unbiased: bool):
    x, y = normal(9, 3), normal(6, 3, 1, 0.4)
    expected = mmd(x, y, DistanceInduced(), unbiased=unbiased)
    torch.testing.assert_close(energy_distance(x, y, unbiased=unbiased), expected)


def test_energy_distance_in_one_dimension():
    """Twice the integral of the squared difference of the distribution functions, which is SciPy's, squared."""
    x, y = normal(9, 1), normal(6, 1, 1)
    expected = stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    assert float(energy_distance(x, y, unbiased=False)) == pytest.approx(expected)


@EACH
def test_the_unbiased_estimate_is_right_in_the_mean(kernel: Kernel):
    """Over all samples of two points of a measure of three, weighed by how likely they are."""
    places = torch.tensor([[-1.0], [0.5], [2.0]], dtype=torch.float64)
    p, q = torch.tensor([0.2, 0.3, 0.5]).double(), torch.tensor([0.6, 0.1, 0.3]).double()
    gram = kernel(places, places)
    exact = p @ gram @ p + q @ gram @ q - 2 * p @ gram @ q
    total = 0.0
    for a, b, c, d in torch.cartesian_prod(*[torch.arange(3)] * 4).tolist():
        value = mmd(places[[a, b]], places[[c, d]], kernel)
        total = total + p[a] * p[b] * q[c] * q[d] * value
    torch.testing.assert_close(total, exact)


@EACH
def test_gradients_are_those_of_differences(kernel: Kernel):
    x, y = normal(4, 2).requires_grad_(), normal(3, 2, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: mmd(x, y, kernel), (x, y))
    assert torch.autograd.gradcheck(energy_distance, (x, y))


@EACH
def test_blocks_make_no_difference(kernel: Kernel, monkeypatch):
    x, y = normal(23, 2), normal(17, 2, 1)
    whole = mmd(x, y, kernel), energy_distance(x, y)
    monkeypatch.setattr(points, "BLOCK", 40)
    torch.testing.assert_close((mmd(x, y, kernel), energy_distance(x, y)), whole)


def test_bad_settings_are_named():
    with pytest.raises(DataError, match="scales must be positive numbers"):
        Gaussian([0.0])
    with pytest.raises(DataError, match="exponents must be positive numbers, at least one"):
        RationalQuadratic([])
    with pytest.raises(DataError, match="degree must be at least 1, not 0"):
        Polynomial(0)
    with pytest.raises(DataError, match="x must hold at least 2 points, not 1"):
        mmd(normal(1, 2), normal(3, 2), Gaussian())
    with pytest.raises(DataError, match="y must hold at least 2 points, not 1"):
        energy_distance(normal(3, 2), normal(1, 2))
