"""The lecture's curves against what is known of them in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from zoo.errors import DataError
from zoo.lecture import curves


def test_of_a_shift_densities_saturate_and_transport_grows():
    found = curves.of_shift(16)
    taus = [0.1 * i for i in range(16)]
    apart = [min(tau, 1) for tau in taus]
    assert found["total variation"] == pytest.approx(apart)
    assert found["Jensen-Shannon"] == pytest.approx([math.log(2) * part for part in apart])
    assert found["W1"] == pytest.approx(taus)
    assert found["root of Sinkhorn"] == pytest.approx(taus, abs=2e-3)
    assert found["sliced W2"] == pytest.approx([tau / 2**0.5 for tau in taus], rel=0.1)
    assert found["energy distance"] == sorted(found["energy distance"])
    steps = torch.tensor([found["energy distance"], found["MMD, Gaussian"]]).diff()
    assert float(steps[0, -1]) > 0.15, "it goes on growing, nearly by twice the step"
    assert float(steps[1, -1]) < 0.02


def test_the_energy_distance_of_two_samples_is_twice_the_mean_distance_over_n():
    """Biased, of uniform numbers, whose mean distance is a third."""
    found = curves.of_size(1, [10, 40], repeats=2000)
    assert found["energy"] == pytest.approx([(2 / 3 / n) ** 0.5 for n in (10, 40)], rel=0.05)
    assert curves.slope([10, 40], found["energy"]) == pytest.approx(-0.5, abs=0.03)


def test_transport_of_samples_falls_slowly_in_many_dimensions():
    sizes = [16, 64, 256]
    slopes = [curves.slope(sizes, curves.of_size(dims, sizes, repeats=10)["W1"]) for dims in (1, 5, 10)]
    assert slopes == pytest.approx([-1 / 2, -1 / 5, -1 / 10], abs=0.08)
    assert curves.of_size(2, [8], repeats=2) == curves.of_size(2, [8], repeats=2), "it has a seed"


def test_a_slope_is_an_exponent():
    assert curves.slope([3, 10, 50], [7 * n**-0.3 for n in (3, 10, 50)]) == pytest.approx(-0.3)
    with pytest.raises(DataError, match="at least two sizes, and positive"):
        curves.slope([3, 10], [1.0, 0.0])


@pytest.mark.slow
def test_panels_show_these_curves_and_slopes_are_theirs(monkeypatch):
    monkeypatch.setattr(curves, "SIZES", (8, 16, 32))
    drawn, slopes = curves.panels(repeats=2, seed=3)
    shift, *samples = drawn
    assert [list(curve.y) for curve in shift.curves] == list(curves.of_shift(31).values())
    assert all(list(curve.x) == pytest.approx([0.1 * i for i in range(31)]) for curve in shift.curves)
    assert [curve.label for curve in shift.curves if curve.dashed] == ["root of Sinkhorn"]
    assert [panel.logarithmic for panel in drawn] == [False, True, True]
    left = iter(slopes)
    for key, panel in zip(("W1", "energy"), samples, strict=True):
        for dims, curve in zip((1, 2, 5, 10), panel.curves, strict=True):
            values = curves.of_size(dims, (8, 16, 32), repeats=2, seed=3)[key]
            assert (tuple(curve.x), list(curve.y)) == ((8, 16, 32), values)
            found = next(left)
            assert found[:2] == (key, dims)
            assert found.fitted == curves.slope((8, 16, 32), values)
            assert found.theory == (-1 / dims if key == "W1" and dims > 2 else -0.5)
            assert f"D = {dims}:" in curve.label
            assert f"{found.fitted:.2f}" in curve.label
    assert next(left, None) is None
