"""Curves on axes, each with its name at its end, by matplotlib, which is optional and imported only to draw.

matplotlib is used without pyplot: no display, and no setting of the reader's own enters a file or is changed. Equal
inputs make equal files under one version of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from zoo.errors import ZooError
from zoo.pictures import images as pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Seven colours that people with any colour vision tell apart (Okabe & Ito 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

SIZE = (4.2, 3.1)  # inches of a panel, with its labels
WIDE = 60  # a range of so many times its least value has fewer ticks
APART = 0.075  # of the axes' height, between the middles of two labels
INK, GREY = "#333333", "#e4e4e4"
STYLE = {  # what differs from matplotlib's defaults
    "figure.dpi": 144,
    "font.size": 11,
    "text.color": INK,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GREY,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "xtick.color": INK,
    "ytick.color": INK,
}


class Curve(NamedTuple):
    """Points (x, y), joined in their order by a line, and the name at its end, in which $...$ is mathematics.

    Marked, each point is a dot, and there may be one alone.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False
    marked: bool = False


class Panel(NamedTuple):
    """At most seven curves on axes that both begin at zero, or are both logarithmic."""

    title: str
    x_label: str
    curves: Sequence[Curve]
    logarithmic: bool = False


def require() -> None:
    """Refuse before minutes of computing what could not be drawn in the end.

    Raises:
        ZooError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise ZooError("Curves need matplotlib, which is not installed: pip install generative-zoo[plots].") from None


def figure(panels: Sequence[Panel]) -> Figure:
    """Panels side by side, as a matplotlib figure with a canvas of its own.

    Raises:
        ZooError: there is no panel, a panel has no curve or one too many, a curve has a value with no place on its
            axes, or matplotlib is not installed.
    """
    for panel in panels:
        _check(panel)
    if not panels:
        raise ZooError("A figure takes at least one panel.")
    require()
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style.context(["default", STYLE]):
        drawn = Figure(figsize=(SIZE[0] * len(panels), SIZE[1]), layout="constrained")
        FigureCanvasAgg(drawn)
        drawn.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
        for panel, axes in zip(panels, drawn.subplots(1, len(panels), squeeze=False)[0], strict=True):
            _draw(panel, axes)
    return drawn


def save(panels: Sequence[Panel], path: str | Path) -> Path:
    """Write `figure(panels)` as a PNG file and return its path.

    Raises:
        ZooError: as `figure` has it, or the file cannot be written.
    """
    path = pictures.writable(path)
    canvas = figure(panels).canvas
    from matplotlib import style

    with style.context(["default", STYLE]):  # some settings count only now
        canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[:, :, :3].transpose(2, 0, 1).copy()
    return pictures.save(torch.from_numpy(pixels)[None], path, palette=True)


def _check(panel: Panel) -> None:
    if not 1 <= len(panel.curves) <= len(COLOURS):
        raise ZooError(f"A panel takes 1 to {len(COLOURS)} curves; {panel.title!r} has {len(panel.curves)}.")
    for curve in panel.curves:
        values = np.array([*curve.x, *curve.y], dtype=float)
        placed = np.isfinite(values) & (values > 0 if panel.logarithmic else values >= 0)
        least = 1 if curve.marked else 2
        if len(curve.x) != len(curve.y) or len(curve.x) < least or not placed.all():
            sign, few = "positive" if panel.logarithmic else "not negative", "one" if curve.marked else "two"
            raise ZooError(f"The curve {curve.label!r} needs as many x as y, at least {few}, all finite and {sign}.")


def _draw(panel: Panel, axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullLocator
    from sklearn.isotonic import isotonic_regression

    axes.set_title(panel.title)
    axes.set_xlabel(panel.x_label)
    axes.margins(x=0, y=0.05)
    for curve, colour in zip(panel.curves, COLOURS, strict=False):
        line, marker = (0, (3, 3)) if curve.dashed else "-", "o" if curve.marked else None
        (drawn,) = axes.plot(curve.x, curve.y, color=colour, linestyle=line, marker=marker, label=curve.label)
        drawn.set(markersize=5, clip_on=not curve.marked)  # a dot on an axis is a whole one
    if panel.logarithmic:
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            low, high = axis.get_data_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < WIDE * low else (1, 3)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)

    # A label stands at the height of its curve's end, or as near to it as the others allow: of all heights in the same
    # order and far enough apart, those with the least squares of the shifts.
    ends = np.array([(curve.x[-1], curve.y[-1]) for curve in panel.curves])
    heights = axes.transAxes.inverted().transform(axes.transData.transform(ends))[:, 1]
    order = np.argsort(heights, kind="stable")
    steps = APART * np.arange(len(order))
    heights[order] = steps + isotonic_regression(heights[order] - steps, y_min=0, y_max=1 - steps[-1])
    for curve, end, height, colour in zip(panel.curves, ends, heights, COLOURS, strict=False):
        axes.annotate(
            curve.label,
            xy=end,
            xytext=(1.08, height),
            textcoords="axes fraction",
            verticalalignment="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 1, "shrinkA": 2, "shrinkB": 0},
        )
