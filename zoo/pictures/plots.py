"""Curves with axes, ticks and a legend, by Pillow alone: panels for `zoo.pictures.plane.save`.

Equal inputs make equal files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.errors import ZooError

WIDTH, HEIGHT = 460, 340  # pixels of a panel
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 34, 42  # from its sides to the axes
FINE = 3  # antialiased by drawing so many times as large
GREY, BLACK = (216, 216, 216), (40, 40, 40)

# Seven colours that people with any colour vision tell apart (Okabe & Ito 2008).
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (0, 0, 0))


class Curve(NamedTuple):
    """Points (x, y), joined in their order by a line, and what the legend says of it."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False


def plot(curves: Sequence[Curve], title: str, x_label: str, *, logarithmic: bool = False) -> Tensor:
    """One panel, uint8 (3, HEIGHT, WIDTH), with the legend inside its axes, above on the left or below if logarithmic.

    Args:
        curves: at most seven.
        title: above the axes.
        x_label: below them.
        logarithmic: both axes; otherwise they begin at zero.

    Raises:
        ZooError: there is no curve, one too many, or a value that has no place on the axes.
    """
    from PIL import Image, ImageDraw, ImageFont

    values = [(x, y) for curve in curves for x, y in zip(curve.x, curve.y, strict=True)]
    least = min((min(pair) for pair in values), default=-1)
    if len(curves) > len(COLOURS) or not np.isfinite(values).all() or least < 0 or (logarithmic and least == 0):
        raise ZooError(f"A plot takes 1 to {len(COLOURS)} curves of finite values, none of which is negative.")
    image = Image.new("RGB", (FINE * WIDTH, FINE * HEIGHT), "white")
    canvas = ImageDraw.Draw(image)

    def write(place: tuple[float, float], text: str, anchor: str, size: int = 11) -> None:
        font = ImageFont.load_default(size * FINE)
        canvas.text((FINE * place[0], FINE * place[1]), text, BLACK, font, anchor)

    def draw(points: Sequence[tuple[float, float]], colour: tuple[int, ...], width: float) -> None:
        canvas.line([(FINE * x, FINE * y) for x, y in points], colour, round(FINE * width), joint="curve")

    scale = math.log if logarithmic else float
    ranges = []
    for axis in zip(*values, strict=True):
        low, high = (min(axis) / 1.15, max(axis) * 1.15) if logarithmic else (0.0, max(axis) * 1.05 or 1.0)
        ranges.append((low, high))

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (
            (scale(value) - scale(low)) / (scale(high) - scale(low))
            for value, (low, high) in zip((x, y), ranges, strict=True)
        )
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    (left, right), (bottom, top) = ranges
    for tick in ticks(left, right, logarithmic):
        draw([place(tick, bottom), place(tick, top)], GREY, 1)
        write((place(tick, bottom)[0], HEIGHT - BOTTOM + 5), f"{tick:g}", "mt")
    for tick in ticks(bottom, top, logarithmic):
        draw([place(left, tick), place(right, tick)], GREY, 1)
        write((LEFT - 5, place(left, tick)[1]), f"{tick:g}", "rm")
    draw([place(left, top), place(left, bottom), place(right, bottom)], BLACK, 1)
    write((LEFT, TOP / 2), title, "lm", 13)
    write(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8), x_label, "mb")

    first = HEIGHT - BOTTOM - 16 * len(curves) if logarithmic else TOP + 12
    for i, (curve, colour) in enumerate(zip(curves, COLOURS, strict=False)):
        line = [place(x, y) for x, y in zip(curve.x, curve.y, strict=True)]
        for j in range(len(line) - 1):
            if not curve.dashed or j % 2 == 0:
                draw(line[j : j + 2], colour, 2)
        y = first + 16 * i
        draw([(LEFT + 8, y), (LEFT + (18 if curve.dashed else 26), y)], colour, 2)
        write((LEFT + 32, y), curve.label, "lm")
    return torch.from_numpy(np.array(image.reduce(FINE)).transpose(2, 0, 1).copy())


def ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Round numbers from low to high, some six: steps of 1, 2 or 5 times a power of ten, or those numbers."""
    if logarithmic:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        return [
            tick for power in powers for tick in (10.0**power, 2 * 10.0**power, 5 * 10.0**power) if low <= tick <= high
        ]
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
