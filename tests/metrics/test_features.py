"""Distances of features against closed forms and torchmetrics, on a small network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from zoo.errors import DataError
from zoo.metrics import (
    Polynomial,
    features_of,
    frechet_distance,
    frechet_of_moments,
    kernel_distance,
    mmd,
    precision_recall,
    wasserstein,
)


def normal(n: int, dims: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(n: int, seed: int, low: int = 0) -> Tensor:
    return torch.randint(low, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


class Network(nn.Module):
    """Images to 16 features, in place of Inception."""

    num_features = 16

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(192, 16, generator=torch.Generator().manual_seed(3)) / 14)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu((x.float() / 64 - 2).flatten(1) @ self.weight.detach())


# -- Frechet -------------------------------------------------------------------------------------------------


def test_frechet_of_gaussians_whose_covariances_commute():
    """|m|^2 + sum (s_x - s_y)^2, in any common basis."""
    basis = torch.linalg.qr(normal(4, 4)).Q
    s_x, s_y = torch.tensor([1.0, 2.0, 0.5, 0.0]).double(), torch.tensor([3.0, 1.0, 0.5, 1.0]).double()
    mean = torch.tensor([1.0, 0.0, 2.0, 0.0]).double()
    covs = (basis @ torch.diag(s**2) @ basis.T for s in (s_x, s_y))
    value = frechet_of_moments(mean, next(covs), 0 * mean, next(covs))
    assert float(value) == pytest.approx(5 + float((s_x - s_y).square().sum()))


def test_frechet_of_an_affine_image_is_what_transport_costs():
    """A symmetric positive A carries the one Gaussian to the other at the cost E |x - A x - b|^2, which is W_2^2."""
    x = normal(400, 3)
    a = torch.tensor([[2.0, 0.3, 0.0], [0.3, 1.0, 0.2], [0.0, 0.2, 0.7]]).double()
    y = x @ a + torch.tensor([1.0, 0.0, -1.0]).double()
    centred = x - x.mean(0)
    n = len(x)
    cost = (x.mean(0) - y.mean(0)).square().sum() + (centred - centred @ a).square().sum() / (n - 1)
    torch.testing.assert_close(frechet_distance(x, y), cost)
    assert float(cost) == pytest.approx(float(wasserstein(x, y, p=2)) ** 2, rel=0.01)


def test_frechet_is_zero_for_the_same_and_symmetric():
    x, y = normal(50, 6), normal(70, 6, 1) + 0.5
    assert float(frechet_distance(x, x)) == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(frechet_distance(x, y), frechet_distance(y, x))
    few = normal(4, 6)  # fewer rows than columns: a singular covariance
    assert float(frechet_distance(few, few)) == pytest.approx(0, abs=1e-7)


def test_fid_is_torchmetrics():
    real, fake = images(100, 0), images(80, 1, 60)
    network = Network()
    theirs = FrechetInceptionDistance(feature=network, input_img_size=(3, 8, 8))
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    ours = frechet_distance(features_of(real.split(30), network), features_of([fake], network))
    assert float(ours) == pytest.approx(float(theirs.compute()), rel=1e-3)


# -- kernel --------------------------------------------------------------------------------------------------


def test_kid_is_torchmetrics():
    """Of subsets that are the whole, both are the same without chance."""
    real, fake = images(60, 0), images(60, 1, 60)
    network = Network()
    theirs = KernelInceptionDistance(feature=network, subsets=3, subset_size=60)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    mean, spread = kernel_distance(features_of([real], network), features_of([fake], network), subsets=3, size=60)
    expected = theirs.compute()
    assert float(mean) == pytest.approx(float(expected[0]), rel=1e-4)
    assert float(spread) == pytest.approx(float(expected[1]), abs=1e-4)


def test_subsets_have_a_seed_and_a_spread():
    x, y = normal(80, 4), normal(90, 4, 1) + 0.2
    state = torch.random.get_rng_state()
    mean, spread = kernel_distance(x, y, subsets=400, size=30)
    assert torch.equal(state, torch.random.get_rng_state())
    assert (mean, spread) == kernel_distance(x, y, subsets=400, size=30)
    assert float(spread) > 0
    # The mean over all subsets is the unbiased value of the whole.
    assert abs(float(mean - mmd(x, y, Polynomial(3)))) < 5 * float(spread) / 400**0.5


# -- precision and recall ------------------------------------------------------------------------------------


def test_precision_and_recall_by_their_definition():
    real, generated = normal(30, 2), 0.7 * normal(25, 2, 1) + 0.4

    def share(x: Tensor, manifold: Tensor, k: int) -> float:
        inside = 0
        for point in x:
            for centre in manifold:
                radius = sorted((manifold - centre).norm(dim=1).tolist())[k]
                if float((point - centre).norm()) <= radius:
                    inside += 1
                    break
        return inside / len(x)

    for k in (1, 3):
        precision, recall = precision_recall(real, generated, k=k)
        assert float(precision) == pytest.approx(share(generated, real, k))
        assert float(recall) == pytest.approx(share(real, generated, k))
        assert 0 < float(precision) != float(recall)


def test_precision_and_recall_of_extremes():
    real = normal(40, 3)
    assert [float(value) for value in precision_recall(real, real)] == [1, 1]
    assert [float(value) for value in precision_recall(real, real + 100)] == [0, 0]
    one_mode = torch.cat([real[:1] + 1e-3 * normal(20, 3, 2)])
    precision, recall = precision_recall(torch.cat([real, real + 50]), one_mode)
    assert float(precision) > 0.9
    assert float(recall) < 0.1


def test_bad_input_is_named():
    with pytest.raises(DataError, match="There is no image"):
        features_of([], Network())
    x = normal(5, 2)
    with pytest.raises(DataError, match="their size 2 to 5, the number of features, not 3 and 6"):
        kernel_distance(x, x, subsets=3, size=6)
    with pytest.raises(DataError, match="k must be 1 to 4, fewer than the features, not 5"):
        precision_recall(x, x, k=5)
