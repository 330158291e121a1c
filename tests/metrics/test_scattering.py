"""The scattering transform by its definition, its bounds, and what it is for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.metrics import Scattering, features_of, wasserstein
from zoo.metrics.scattering import _filters


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width", "scales", "angles"), [(32, 32, 3, 4), (28, 20, 2, 8), (9, 16, 3, 3)])
def test_all_filters_together_are_at_most_one(height: int, width: int, scales: int, angles: int):
    wavelets, gaussian = _filters(height, width, scales, angles)
    bank = wavelets.flatten(0, 1)
    assert float(bank[:, 0, 0].abs().max()) < 1e-12, "of mean zero"
    rows, columns = -torch.arange(height) % height, -torch.arange(width) % width
    opposite = bank[:, rows][:, :, columns]
    total = gaussian.square() + 0.5 * (bank.square() + opposite.square()).sum(0)
    assert float(total.max()) == pytest.approx(1)
    assert float(total.min()) > 0, "no frequency is lost"


@pytest.mark.parametrize("shape", [(16, 16), (13, 18)])
@pytest.mark.parametrize("angles", [3, 4])
def test_it_neither_adds_energy_nor_distance(shape: tuple[int, int], angles: int):
    scattering = Scattering(*shape, scales=2, angles=angles)
    for x, y in (
        (noise(5, 2, *shape) - 0.5, noise(5, 2, *shape, seed=1) - 0.5),
        (noise(5, 2, *shape), noise(5, 2, *shape) + 0.01 * noise(5, 2, *shape, seed=1)),
        (torch.ones(1, 1, *shape), torch.zeros(1, 1, *shape)),
    ):
        before, after = (x - y).flatten(1).norm(dim=1), (scattering(x) - scattering(y)).norm(dim=1)
        assert bool((after <= before * (1 + 1e-5)).all())
        assert bool((scattering(x).norm(dim=1) <= x.flatten(1).norm(dim=1) * (1 + 1e-5)).all())
    assert float(after) == pytest.approx(float(before)), "of a constant nothing is lost"


def test_coefficients_are_convolutions_moduli_and_means():
    """Of one path, in space and by sums, on the mirrored image."""
    scattering, x = Scattering(8, 8, scales=2, angles=2), noise(1, 1, 8, 8)
    mirrored = torch.cat([x[0, 0], x[0, 0].flip(0)])
    mirrored = torch.cat([mirrored, mirrored.flip(1)], 1).double()
    wavelets, gaussian = _filters(16, 16, 2, 2)

    def convolve(u: Tensor, response: Tensor) -> Tensor:
        kernel = torch.fft.ifft2(response)
        return sum(u[i, j] * kernel.roll((i, j), (0, 1)) for i in range(16) for j in range(16))

    def means(u: Tensor) -> Tensor:
        smooth = convolve(u, gaussian).real[:8, :8]
        return 4 * smooth.reshape(2, 4, 2, 4).mean((1, 3))

    first = convolve(mirrored, wavelets[0, 1]).abs()
    second = convolve(first, wavelets[1, 0]).abs()
    # In order: x; psi_00, its two of the second order; psi_01 and its two; psi_10; psi_11.
    features = scattering(x).view(9, 2, 2).double()
    for place, expected in ((0, mirrored), (4, first), (5, second)):
        torch.testing.assert_close(features[place], means(expected), rtol=1e-4, atol=1e-6)


def test_the_number_of_features_and_bytes():
    scattering = Scattering(12, 10, scales=3, angles=4)
    x = (255 * noise(2, 3, 12, 10)).to(torch.uint8)
    assert scattering(x).shape == (2, 3 * (1 + 3 * 4 + 3 * 4 * 4) * 2 * 2)
    torch.testing.assert_close(scattering(x), scattering(x.float() / 255))


def test_larger_scales_forgive_larger_shifts():
    line = torch.arange(64.0)
    place = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)

    def blob(centre: float) -> Tensor:
        ripples = torch.cos(place[..., 1] * math.pi / 2)
        return (ripples * torch.exp(-(place - torch.tensor([32.0, centre])).square().sum(-1) / 50))[None, None]

    moved = []
    for scales in (1, 3, 5):
        scattering = Scattering(64, 64, scales=scales, angles=4)
        before, after = scattering(blob(30)), scattering(blob(32))
        moved.append(float((before - after).norm() / before.norm()))
    assert moved[0] > moved[1] > moved[2], moved
    assert moved[2] < moved[0] / 2, moved


def test_it_makes_a_wasserstein_distance_over_features():
    images = [(255 * noise(6, 1, 8, 8, seed=seed)).to(torch.uint8) for seed in (0, 1)]
    scattering = Scattering(8, 8, scales=1)
    x, y = (features_of([part], scattering) for part in images)
    distance = wasserstein(x, y)
    assert 0 < float(distance) <= float(wasserstein(*(part.flatten(1).float() / 255 for part in images)))


def test_it_has_gradients():
    x = (noise(1, 1, 8, 8).double()).requires_grad_()
    scattering = Scattering(8, 8, scales=2, angles=2).double()
    assert torch.autograd.gradcheck(lambda x: scattering(x).square().sum(), x)


def test_bad_settings_are_named():
    with pytest.raises(
        DataError, match="2\\^scales at most the sides of the images: not 4 scales and 2 angles for 8 x 9"
    ):
        Scattering(8, 9, scales=4, angles=2)
    with pytest.raises(DataError, match=r"Images must be \(N, C, 8, 8\), not \(1, 1, 8, 9\)"):
        Scattering(8, 8)(torch.zeros(1, 1, 8, 9))
