"""FID against steps: the numbers are those of config.json, each in the curve of its sampler."""

from __future__ import annotations

import pytest

from zoo.errors import ZooError
from zoo.lecture import steps


def result(value: float, how: str, n: int = 50_000, metric: str = "fid", limit: bool = False) -> dict:
    protocol = f"Inception of the original FID; {how}"
    return {"metric": metric, "kind": "samples", "value": value, "n": n, "protocol": protocol, "limit": limit}


def test_each_sampler_is_a_curve_in_the_order_of_steps():
    results = [
        result(13.0, "50 steps of heun, 99 passes"),
        result(15.0, "10 steps of heun, 19 passes"),
        result(11.0, "1,000 steps of ancestral, 1,000 passes"),
        result(9.0, "10 steps of heun, 19 passes, guidance 2.0"),
        result(0.1, "10 steps of heun, 19 passes", metric="kid"),
        result(99.0, "5 steps of heun, 9 passes", limit=True),
        result(7.0, "drawn at once"),
    ]
    found = steps.found_in({"results": results})
    assert found == {"heun": {10: 15.0, 50: 13.0}, "ancestral": {1000: 11.0}, "heun, guidance 2.0": {10: 9.0}}
    assert [list(each) for each in found.values()] == [[10, 50], [1000], [10]]
    drawn = steps.panel(found)
    assert (drawn.title, drawn.x_label, drawn.logarithmic) == ("FID", "steps", True)
    assert [(curve.label, list(curve.x), list(curve.y)) for curve in drawn.curves] == [
        ("heun", [10, 50], [15.0, 13.0]),
        ("ancestral", [1000], [11.0]),
        ("heun, guidance 2.0", [10], [9.0]),
    ]
    assert all(curve.marked for curve in drawn.curves)


def test_numbers_of_other_numbers_of_samples_are_no_curve_together():
    results = [result(13.0, "50 steps of heun"), result(15.0, "20 steps of heun", n=10_000)]
    assert steps.found_in({"results": results}) == {"heun, n = 50,000": {50: 13.0}, "heun, n = 10,000": {20: 15.0}}


def test_without_a_number_there_is_no_curve():
    assert steps.found_in({}) == {}
    with pytest.raises(ZooError, match="There is no FID by a number of steps to draw: measure some"):
        steps.panel({})
