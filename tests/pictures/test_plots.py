"""Curves on axes: where they and their labels are drawn, what the file depends on, and what is refused."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from PIL import Image

from zoo import cli
from zoo.errors import ZooError
from zoo.lecture import curves
from zoo.pictures import images as pictures
from zoo.pictures import plots
from zoo.pictures.plots import Curve, Panel


@pytest.fixture(autouse=True)
def _matplotlib(request):
    if "absent" not in request.node.name and "refused" not in request.node.name:
        pytest.importorskip("matplotlib", reason="curves need the extra plots")


@pytest.fixture
def absent(monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)


LINEAR = Panel("linear", "x", [Curve("flat", [0, 10], [2, 2]), Curve("steep", [0, 5, 10], [0, 1, 8], dashed=True)])
POWERS = Panel(
    "powers",
    "n",
    [Curve(str(a), (30, 90, 270, 810), [n**-a for n in (30, 90, 270, 810)]) for a in (0.5, 0.2, 0.9)],
    logarithmic=True,
)


def places(axes, points) -> np.ndarray:
    """Where points of the data are, in pixels from the lower left."""
    return axes.transData.transform(points)


# -- what is drawn -------------------------------------------------------------------------------------------


def test_a_panel_has_its_curves_and_its_words():
    for panel, axes in zip([LINEAR, POWERS], plots.figure([LINEAR, POWERS]).axes, strict=True):
        assert (axes.get_title(loc="left"), axes.get_xlabel()) == (panel.title, panel.x_label)
        assert len(axes.lines) == len(panel.curves)
        for curve, line in zip(panel.curves, axes.lines, strict=True):
            assert line.get_xdata().tolist() == list(curve.x)
            assert line.get_ydata().tolist() == list(curve.y)
            assert (line.get_linestyle() == "--") == curve.dashed
        assert len({line.get_color() for line in axes.lines}) == len(panel.curves)


def test_linear_axes_begin_at_zero_and_hold_all_values():
    (axes,) = plots.figure([LINEAR]).axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")
    assert axes.get_xlim() == (0, 10)
    low, high = axes.get_ylim()
    assert low == 0
    assert 8 < high < 9


def test_on_logarithmic_axes_powers_are_straight_and_ticks_are_written_out():
    drawn = plots.figure([POWERS])
    drawn.draw_without_rendering()
    (axes,) = drawn.axes
    for curve in POWERS.curves:
        steps = np.diff(places(axes, np.array([curve.x, curve.y]).T), axis=0)
        assert steps == pytest.approx(steps[[0]].repeat(3, 0)), "equal factors of n are equal steps"
    low, high = axes.get_xlim()
    ticks = [label.get_text() for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
    assert ticks == ["50", "100", "200", "500"]


def test_the_file_has_each_curve_at_its_place(tmp_path):
    drawn = plots.figure([LINEAR, POWERS])
    drawn.canvas.draw()
    width, height = drawn.canvas.get_width_height()
    pixels = np.asarray(Image.open(plots.save([LINEAR, POWERS], tmp_path / "a.png")).convert("RGB")).astype(int)
    assert pixels.shape == (height + 2 * pictures.GAP, width + 2 * pictures.GAP, 3)
    for axes, point, colour in (
        (drawn.axes[0], (5, 2), plots.COLOURS[0]),
        (drawn.axes[1], (90, 90**-0.5), plots.COLOURS[0]),
        (drawn.axes[1], (270, 270**-0.2), plots.COLOURS[1]),
    ):
        x, y = places(axes, point)
        found = pixels[int(height - y) + pictures.GAP, int(x) + pictures.GAP]
        assert np.abs(found - list(bytes.fromhex(colour[1:]))).max() < 12, "of 256 colours the nearest"


def test_marked_points_are_dots_and_a_wide_range_has_few_ticks():
    dots = [Curve("many", [5, 50, 1000], [60, 20, 10], marked=True), Curve("one", [1000], [9], marked=True)]
    drawn = plots.figure([Panel("dots", "steps", dots, logarithmic=True)])
    drawn.draw_without_rendering()
    (axes,) = drawn.axes
    assert [(line.get_marker(), line.get_clip_on()) for line in axes.lines] == [("o", False)] * 2
    low, high = axes.get_xlim()
    ticks = [label.get_text() for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
    assert ticks == ["10", "30", "100", "300", "1000"]
    with pytest.raises(ZooError, match="'one' needs as many x as y, at least two, all finite and positive"):
        plots.figure([Panel("", "", [dots[1]._replace(marked=False)], logarithmic=True)])
    with pytest.raises(ZooError, match="'one' needs as many x as y, at least one, all finite and positive"):
        plots.figure([Panel("", "", [Curve("one", [], [], marked=True)], logarithmic=True)])


def test_labels_are_beside_the_axes_in_the_order_of_their_curves_and_apart():
    """Seven curves that end at the same height, at the top, and at the bottom are the hardest."""
    rise = [Curve(f"rise {i}", [0, 1], [0, 1]) for i in range(7)]
    fall = [Curve(f"fall {i}", [0, 1], [1, 0]) for i in range(7)]
    fan = [Curve(f"fan {i}", [0, 1], [0, height]) for i, height in enumerate((3, 0.1, 3.1, 9, 0, 2.9, 3))]
    drawn = plots.figure([Panel("", "", lines) for lines in (rise, fall, fan)])
    drawn.canvas.draw()
    for axes, lines in zip(drawn.axes, (rise, fall, fan), strict=True):
        labels = axes.texts
        assert [(label.get_text(), label.xy[1]) for label in labels] == [(line.label, line.y[-1]) for line in lines]
        for label, line in zip(labels, axes.lines, strict=True):
            assert label.arrow_patch.get_edgecolor() == pytest.approx(colour_of(line)), "a leader joins the two"
        order = sorted(range(7), key=lambda i: (lines[i].y[-1], i))
        boxes = [super(type(label), label).get_window_extent() for label in (labels[i] for i in order)]  # of the text
        for below, above in itertools.pairwise(boxes):
            assert below.y1 <= above.y0 + 1
        inner = axes.get_window_extent()
        assert all(inner.x1 < box.x0 and box.x1 < drawn.bbox.x1 for box in boxes)
        middles = [(box.y0 + box.y1) / 2 for box in boxes]
        assert inner.y0 - 3 < middles[0] < middles[-1] < inner.y1 + 3


def colour_of(line) -> tuple[float, ...]:
    colours = pytest.importorskip("matplotlib.colors")
    return colours.to_rgba(line.get_color())


def test_a_label_alone_is_at_the_height_of_its_curves_end():
    (axes,) = plots.figure([POWERS]).axes
    for curve, label in zip(POWERS.curves, axes.texts, strict=True):
        end = axes.transAxes.inverted().transform(places(axes, (curve.x[-1], curve.y[-1])))
        assert label.get_position()[1] == pytest.approx(end[1])


# -- what the file depends on --------------------------------------------------------------------------------


def test_equal_inputs_make_equal_files_whatever_the_readers_settings(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    first = plots.save([LINEAR, POWERS], tmp_path / "first.png").read_bytes()
    theirs = {"lines.linewidth": 9, "font.size": 20, "axes.facecolor": "red", "text.antialiased": False}
    with matplotlib.rc_context(theirs):
        assert plots.save([LINEAR, POWERS], tmp_path / "second.png").read_bytes() == first
        assert {key: matplotlib.rcParams[key] for key in theirs} == theirs
    other = LINEAR._replace(curves=[LINEAR.curves[0]])
    assert plots.save([other, POWERS], tmp_path / "other.png").read_bytes() != first


def test_drawing_leaves_pyplot_and_its_backend_alone(tmp_path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(pyplot, "switch_backend", lambda name: pytest.fail("no display is asked for"))
    monkeypatch.setattr(pyplot, "figure", lambda *rest, **named: pytest.fail("no global figure is made"))
    plots.save([LINEAR], tmp_path / "a.png")
    assert pyplot.get_fignums() == []


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "logarithmic", "sentence"),
    [
        ([], False, "A panel takes 1 to 7 curves; 'title' has 0."),
        ([Curve("many", [1, 2], [1, 2])] * 8, False, "A panel takes 1 to 7 curves; 'title' has 8."),
        ([Curve("c", [1, 2], [1, float("nan")])], False, "all finite and not negative"),
        ([Curve("c", [1, float("inf")], [1, 1])], False, "all finite and not negative"),
        ([Curve("c", [1, 2], [-1, 1])], False, "all finite and not negative"),
        ([Curve("c", [0, 1], [1, 1])], True, "all finite and positive"),
        ([Curve("c", [1], [1])], False, "at least two"),
        ([Curve("c", [1, 2], [1, 2, 3])], False, "The curve 'c' needs as many x as y"),
    ],
)
def test_what_has_no_place_on_the_axes_is_refused(lines, logarithmic, sentence):
    with pytest.raises(ZooError, match=sentence):
        plots.figure([Panel("title", "x", lines, logarithmic)])


def test_no_panel_is_refused():
    with pytest.raises(ZooError, match="at least one panel"):
        plots.figure([])


def test_a_file_that_cannot_be_written_is_refused_first(tmp_path, absent):
    with pytest.raises(ZooError, match=r"name the file a\.png"):
        plots.save([LINEAR], tmp_path / "a.pdf")


def test_absent_matplotlib_is_named_with_the_remedy_before_anything_is_computed(absent, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(curves, "panels", lambda **options: pytest.fail("minutes in vain"))
    sentence = "Curves need matplotlib, which is not installed: pip install generative-zoo[plots]."
    with pytest.raises(ZooError) as caught:
        plots.save([LINEAR], tmp_path / "a.png")
    assert str(caught.value) == sentence
    assert cli.main(["figure", "--out", str(tmp_path / "a.png")]) == 1
    assert capsys.readouterr().err == f"zoo: {sentence}\n"


# -- the command ---------------------------------------------------------------------------------------------


@pytest.mark.slow
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
