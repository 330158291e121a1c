"""Curves on axes: where their points are drawn, and which ticks the axes have."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo import cli
from zoo.errors import ZooError
from zoo.pictures import plots


def of_colour(panel: Tensor, colour: tuple[int, ...]) -> Tensor:
    """(rows, columns) of the pixels within the axes, right of the legend's lines, that have a colour."""
    same = (panel == torch.tensor(colour, dtype=torch.uint8)[:, None, None]).all(0)
    same[:, : plots.LEFT + 30] = False
    return same.nonzero().double()


def test_a_curve_is_where_its_values_are():
    panel = plots.plot([plots.Curve("flat", [0, 10], [2, 2]), plots.Curve("high", [0, 10], [4, 4])], "title", "x")
    assert panel.shape == (3, plots.HEIGHT, plots.WIDTH)
    assert panel.dtype == torch.uint8
    inner = plots.HEIGHT - plots.TOP - plots.BOTTOM
    for colour, value in zip(plots.COLOURS, (2, 4), strict=False):
        pixels = of_colour(panel, colour)
        expected = plots.HEIGHT - plots.BOTTOM - value / 4.2 * inner  # the axis ends 5 % above the highest
        assert float(pixels[:, 0].mean()) == pytest.approx(expected, abs=1.5)
        assert float(pixels[:, 1].max()) == pytest.approx(plots.LEFT + (plots.WIDTH - 62) / 1.05, abs=2)


def test_on_logarithmic_axes_a_power_is_straight():
    x = [10.0 * 2**i for i in range(7)]
    panel = plots.plot([plots.Curve("power", x, [v**-0.5 for v in x])], "title", "n", logarithmic=True)
    pixels = of_colour(panel, plots.COLOURS[0])
    pixels = pixels[(pixels[:, 0] > plots.TOP) & (pixels[:, 1] > plots.LEFT + 120)]
    ones = torch.ones(len(pixels), dtype=torch.float64)
    design = torch.stack([pixels[:, 1], ones], 1)
    left = pixels[:, 0] - design @ torch.linalg.lstsq(design, pixels[:, 0]).solution
    assert float(left.abs().max()) < 2


def test_dashes_leave_half_of_a_curve_out():
    values = [float(i) for i in range(41)]
    drawn = [
        len(of_colour(plots.plot([plots.Curve("c", values, values, dashed)], "", ""), plots.COLOURS[0]))
        for dashed in (False, True)
    ]
    assert 0.3 < drawn[1] / drawn[0] < 0.7


def test_ticks_are_round():
    assert plots.ticks(0, 5.25, False) == [0, 1, 2, 3, 4, 5]
    assert plots.ticks(0, 0.9, False) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert plots.ticks(28, 1180, True) == [50, 100, 200, 500, 1000]


def test_what_cannot_be_drawn_is_refused():
    bad = [
        ([], False),
        ([plots.Curve("nan", [1], [float("nan")])], False),
        ([plots.Curve("infinite", [1], [float("inf")])], False),
        ([plots.Curve("negative", [1], [-1])], False),
        ([plots.Curve("zero", [0], [1])], True),
        ([plots.Curve("many", [1], [1])] * 8, False),
    ]
    for curves, logarithmic in bad:
        with pytest.raises(ZooError, match="A plot takes 1 to 7 curves of finite values"):
            plots.plot(curves, "title", "x", logarithmic=logarithmic)


def test_the_command_draws_and_prints_slopes(tmp_path, capsys):
    path = tmp_path / "distances.png"
    assert cli.main(["figure", "--out", str(path), "--repeats", "1"]) == 0
    *slopes, last = capsys.readouterr().out.splitlines()
    assert len(slopes) == 8
    assert slopes[3].startswith("W1      dimension 10: n^(-0.1")
    assert slopes[3].endswith("in theory n^(-0.100)")
    assert last == str(path)
    assert path.stat().st_size < 150_000
    assert cli.main(["figure", "--out", str(tmp_path / "no" / "a.png")]) == 1
