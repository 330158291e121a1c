"""Pictures of distributions of the plane: densities, samples, and how a map bends a grid, with NumPy and Pillow alone.

Every panel is a square, uint8 (3, size, size), that shows [-extent, extent]^2 with y upwards, on black: `density`,
`scatter` and `transported_grid`. `save` puts panels side by side into one PNG, and `draw` makes all three of a model.
Equal inputs make equal files.

Heat is shown in `magma`, a map of Smith and van der Walt (matplotlib 1.5, 2015, public domain) whose equal steps look
equal; lines are coloured in Oklab (Ottosson 2020, "A perceptual color space for image processing").
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.pictures import images as pictures

SIZE = 320  # pixels of a panel's side
GAP = 6  # white pixels between panels
CHUNK = 16_384  # points evaluated at once
ARROW, DIM = (170, 220, 255), 0.55  # the colour of arrows, and how light is what lies behind them

# Every seventeenth of the 256 colours of magma; in between, straight lines stay within 2.2 of 255.
MAGMA = """
    000004 0b0924 20114b 3b0f70 57157e 721f81 8c2981 a8327d c43c75 de4968 f1605d fa7f5e fe9f6d febf84 fddea0 fcfdbf
"""


def magma(values: np.ndarray) -> np.ndarray:
    """(...) in 0..1 to uint8 colours (..., 3), from black by purple and orange to a light yellow."""
    anchors = np.array([list(bytes.fromhex(colour)) for colour in MAGMA.split()])
    places = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(values, places, anchor) for anchor in anchors.T], -1).round().astype(np.uint8)


def density(log_prob: Callable[[Tensor], Tensor], extent: float = 4.0, size: int = SIZE) -> Tensor:
    """A density as a heat map: black where it is zero, linear up to light yellow.

    The lightest colour is for densities above that which one hundredth of the mass exceeds, so that a needle somewhere
    does not darken all the rest.

    Args:
        log_prob: float32 (N, 2) to (N,) nats, maybe up to a constant, and -inf where there is nothing.
        extent: the picture shows [-extent, extent]^2.
        size: pixels of a side.

    Raises:
        ZooError: a log-density is NaN or +inf.
    """
    _check(extent, size)
    line = torch.linspace(-extent, extent, 2 * size + 1)[1::2]  # the middles of pixels
    x, y = torch.meshgrid(line, line.flip(0), indexing="xy")
    points = torch.stack([x, y], -1).view(-1, 2)
    nats = np.concatenate([log_prob(part).detach().double().cpu().numpy() for part in points.split(CHUNK)])
    bad = ~(nats < np.inf)
    if bad.any():
        place = ", ".join(f"{coordinate:.3g}" for coordinate in points[bad.argmax()].tolist())
        raise ZooError(f"The log-density at ({place}) is {nats[bad.argmax()]}, which cannot be drawn.")
    values = np.exp(nats - max(nats.max(), np.finfo(float).min))
    ordered = np.sort(values)[::-1]
    mass = np.cumsum(ordered)
    level = ordered[np.searchsorted(mass, 0.01 * mass[-1])]
    heat = np.minimum(values / level, 1) if level else values
    return _panel(magma(heat.reshape(size, size)))


def scatter(points: Tensor, extent: float = 4.0, size: int = SIZE, width: float = 1.6) -> Tensor:
    """Points as soft dots, which grow lighter where they overlap.

    Args:
        points: (N, 2); those outside the picture, or not finite, are left out.
        extent: the picture shows [-extent, extent]^2.
        size: pixels of a side.
        width: of a dot, in pixels.
    """
    _check(extent, size)
    _check_points(points)
    place = _pixels(points.detach().double().cpu().numpy(), extent, size)
    place = place[((place >= -0.5) & (place < size - 0.5)).all(1)]
    # A point counts for the four pixels around it, by its distance to their middles.
    sigma = width / 2.355  # a Gaussian's full width at half its height
    margin = math.ceil(4 * sigma) + 1
    corner = np.floor(place).astype(int)
    share = place - corner
    counts = np.zeros((size + 2 * margin, size + 2 * margin))
    for right, down in itertools.product((0, 1), repeat=2):
        weight = np.abs(1 - right - share[:, 0]) * np.abs(1 - down - share[:, 1])
        np.add.at(counts, (corner[:, 1] + down + margin, corner[:, 0] + right + margin), weight)
    shifts = range(1 - margin, margin)
    for axis in (0, 1):
        counts = sum(math.exp(-0.5 * (shift / sigma) ** 2) * np.roll(counts, shift, axis) for shift in shifts)
    # One dot alone reaches 0.55 of the colours, and no number of dots the end.
    heat = 1 - np.exp(-0.8 * counts[margin:-margin, margin:-margin])
    return _panel(magma(heat))


def transported_grid(
    transport: Callable[[Tensor], Tensor],
    extent: float = 4.0,
    size: int = SIZE,
    *,
    reach: float = 3.0,
    lines: int = 25,
    steps: int = 400,
) -> Tensor:
    """A regular grid of lines after a map, each place in the colour that tells where it came from.

    The hue is the direction from the origin before the map, and the further away it was, the fuller and darker is the
    colour; what was at the origin is white.

    Args:
        transport: float32 (N, 2) to (N, 2); lines are broken where it is not finite.
        extent: the picture shows [-extent, extent]^2.
        size: pixels of a side.
        reach: the grid covers [-reach, reach]^2 before the map, by default 99.5 % of a standard normal.
        lines: in each direction.
        steps: straight pieces of a line.
    """
    from PIL import Image, ImageDraw

    _check(extent, size)
    if lines < 2 or steps < 1:
        raise ZooError(f"A grid needs at least 2 lines of 1 step, not {lines} of {steps}.")
    across, along = torch.linspace(-reach, reach, lines), torch.linspace(-reach, reach, steps + 1)
    x, y = torch.meshgrid(across, along, indexing="ij")
    source = torch.cat([torch.stack([x, y], -1), torch.stack([y, x], -1)])  # (2 lines, steps + 1, 2)
    moved = torch.cat([transport(part).detach().cpu() for part in source.view(-1, 2).split(CHUNK)])
    _check_points(moved)

    fine = 4  # antialiased by drawing four times as large
    place = fine * (_pixels(moved.double().numpy(), extent, size) + 0.5).reshape(2 * lines, steps + 1, 2)
    origin = source.double().numpy()
    middle = (origin[:, 1:] + origin[:, :-1]) / 2 / reach
    colours = _colour_of_place(middle)
    # Where a line is far outside, its exact place does not matter, but must be a number that Pillow can draw.
    drawn = np.isfinite(place).all(-1)
    place = np.clip(np.nan_to_num(place), -8 * fine * size, 9 * fine * size)
    drawn = drawn[:, 1:] & drawn[:, :-1]
    image = Image.new("RGB", (fine * size, fine * size), tuple(magma(0.0).tolist()))
    canvas = ImageDraw.Draw(image)
    # From the outside to the middle, so that what is likely lies above.
    for line, step in sorted(np.argwhere(drawn).tolist(), key=lambda i: -np.square(middle[i[0], i[1]]).sum()):
        ends = [tuple(place[line, step]), tuple(place[line, step + 1])]
        canvas.line(ends, fill=tuple(colours[line, step].tolist()), width=fine + 1)
    return _panel(np.asarray(image.reduce(fine)))


def arrows(
    field: Callable[[Tensor], Tensor],
    extent: float = 4.0,
    size: int = SIZE,
    *,
    across: int = 14,
    behind: Tensor | None = None,
) -> Tensor:
    """A vector field on a lattice, an arrow around each of its points, which is the lighter the stronger the field is.

    The longest arrows, those of the strongest twentieth, nearly reach to the next; the length of the others grows with
    the root of their strength, so that of weak ones too it is seen where they point.

    Args:
        field: float32 (N, 2) to (N, 2); where it is not finite there is no arrow.
        extent: the picture shows [-extent, extent]^2.
        size: pixels of a side.
        across: arrows in a row.
        behind: a panel of this size to draw on, darkened; by default black.
    """
    from PIL import Image, ImageDraw

    _check(extent, size)
    if across < 1:
        raise ZooError(f"A field needs at least 1 arrow in a row, not {across}.")
    line = torch.linspace(-extent, extent, 2 * across + 1)[1::2]
    start = torch.cartesian_prod(line, line)
    vector = field(start).detach().cpu()
    _check_points(vector)
    vector = vector.double().numpy()
    strength = np.linalg.norm(vector, axis=1)
    shown = np.isfinite(strength) & (strength > 0)
    full = np.quantile(strength[shown], 0.95) if shown.any() else 1.0
    length = np.sqrt(np.minimum(strength[shown] / full, 1))[:, None]
    direction = vector[shown] / strength[shown, None]
    half = direction * length * (0.45 * 2 * extent / across)
    middle = start.double().numpy()[shown]

    fine = 4  # antialiased by drawing four times as large
    image = Image.new("RGB", (size, size), tuple(magma(0.0).tolist()))
    if behind is not None:
        if behind.shape != (3, size, size):
            raise ZooError(f"A panel of {size} x {size} pixels is drawn on, not {tuple(behind.shape)}.")
        image = Image.fromarray((behind.permute(1, 2, 0).numpy() * DIM).astype(np.uint8))
    image = image.resize((fine * size, fine * size), Image.Resampling.NEAREST)
    canvas = ImageDraw.Draw(image)
    colours = np.rint(np.array(ARROW) * (0.35 + 0.65 * length)).astype(int)
    tails, tips = (fine * (_pixels(each, extent, size) + 0.5) for each in (middle - half, middle + half))
    for tail, tip, colour in zip(tails, tips, map(tuple, colours.tolist()), strict=True):
        ahead = (tip - tail) / max(np.linalg.norm(tip - tail), 1e-9)
        aside, reach = np.array([-ahead[1], ahead[0]]), min(4.5 * fine, 0.7 * np.linalg.norm(tip - tail))
        neck = tip - reach * ahead
        canvas.line([tuple(tail), tuple(neck)], fill=colour, width=fine + 1)
        canvas.polygon([tuple(each) for each in (tip, neck + reach / 2 * aside, neck - reach / 2 * aside)], fill=colour)
    return _panel(np.asarray(image.reduce(fine)))


def _colour_of_place(place: np.ndarray) -> np.ndarray:
    """(..., 2) in [-1, 1]^2 to uint8 colours (..., 3): the hue is the direction, equally light at equal distances."""
    distance = np.hypot(place[..., 0], place[..., 1])
    light = 0.97 - 0.27 * np.minimum(distance, 1.2)
    a, b = 0.17 * np.moveaxis(place / np.maximum(distance, 1)[..., None], -1, 0)
    # Oklab to linear sRGB.
    long = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (light - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short
    linear = np.clip(np.stack([red, green, blue], -1), 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (255 * encoded).round().astype(np.uint8)


def save(panels: Sequence[Tensor], path: str | Path) -> Path:
    """Write panels of one height side by side as a PNG file, `GAP` white pixels between them, and return its path.

    Raises:
        ZooError: there is no panel, they differ in height, or the file cannot be written.
    """
    if not panels or len({panel.shape[1] for panel in panels}) > 1:
        raise ZooError(f"Panels must be of one height; these are {[tuple(panel.shape) for panel in panels]}.")
    white = panels[0].new_full((3, panels[0].shape[1], GAP), 255)
    row = [piece for panel in panels for piece in (white, panel)][1:]
    return pictures.save(torch.cat(row, 2)[None], path, palette=True)


def _pixels(points: np.ndarray, extent: float, size: int) -> np.ndarray:
    """(..., 2) to columns and rows (..., 2); whole numbers are the middles of pixels, and the first row is the top."""
    column = (points[..., 0] + extent) * size / (2 * extent) - 0.5
    row = (extent - points[..., 1]) * size / (2 * extent) - 0.5
    return np.stack([column, row], -1)


def _panel(colours: np.ndarray) -> Tensor:
    """Colours (H, W, 3) to a picture (3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(colours.transpose(2, 0, 1)))


def _check(extent: float, size: int) -> None:
    if not 0 < extent < np.inf:
        raise ZooError(f"extent must be a positive number, not {extent}.")
    if size < 1:
        raise ZooError(f"size must be at least 1 pixel, not {size}.")


def _check_points(points: Tensor) -> None:
    if points.ndim != 2 or points.shape[1] != 2:
        raise ZooError(f"Points to draw have shape (N, 2), not {tuple(points.shape)}.")
