"""`zoo.show` makes a picture of whatever a model draws, and says of what it makes none."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.errors import ZooError
from zoo.pictures import images


def pixels(picture: Image.Image) -> torch.Tensor:
    array = torch.from_numpy(np.array(picture))
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1)


def test_images_are_what_the_command_draws(tmp_path):
    x = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shown = zoo.show(x)
    assert pixels(shown).equal(images.grid(x))
    shown.save(tmp_path / "grid.png")
    assert images.save(x, tmp_path / "saved.png").read_bytes() == (tmp_path / "grid.png").read_bytes()
    assert pixels(zoo.show(x, columns=5)).equal(images.grid(x, columns=5))
    assert pixels(zoo.show(x.numpy())).equal(images.grid(x))
    assert pixels(zoo.show(x[0])).equal(images.grid(x[:1]))


@pytest.mark.parametrize(("largest", "levels"), [(0, 2), (1, 2), (16, 17), (31, 32), (32, 256), (255, 256)])
def test_few_levels_are_seen(largest, levels):
    x = torch.tensor([0, largest], dtype=torch.uint8).view(1, 1, 1, 2).expand(2, 1, 2, 2)
    assert pixels(zoo.show(x)).equal(images.grid(x, levels))
    assert pixels(zoo.show(x, levels=256)).equal(images.grid(x, 256)), "unless it is said how many"


def test_films_and_interpolations_are_rows():
    films = torch.randint(0, 2, (2, 7, 1, 4, 4), dtype=torch.uint8)
    assert pixels(zoo.show(films, levels=2)).equal(images.grid(films.flatten(0, 1), 2, columns=7))


@pytest.mark.parametrize("scale", [1, 300])
def test_points_are_seen_wherever_they_are(scale):
    points = scale * torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shown = pixels(zoo.show(points))
    assert shown.shape == (3, 320, 320)
    background = shown[:, 0, 0]
    assert (shown != background[:, None, None]).any(0).float().mean() > 0.01
    assert pixels(zoo.show(torch.tensor([[float("nan"), 1.0]]))).shape == (3, 320, 320)


def test_a_notebook_displays_it():
    png = zoo.show(torch.zeros(1, 1, 4, 4, dtype=torch.uint8))._repr_png_()
    assert Image.open(io.BytesIO(png)).format == "PNG"


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        (torch.zeros(3, 5), "points of the plane are"),
        (torch.zeros(2, 3, 4, 4), "images are integers"),
        (torch.zeros(2, 2, 4, 4, dtype=torch.uint8), "no picture of torch.uint8 of shape"),
        (torch.zeros(0, 1, 4, 4, dtype=torch.uint8), "no picture"),
        (torch.zeros(4, dtype=torch.int64), "no picture"),
        (torch.full((1, 1, 2, 2), -1), "values -1..-1, and not 0..1"),
        ("text", "one tensor"),
        (None, "one tensor"),
        ([torch.zeros(2), torch.zeros(3)], "one tensor"),
    ],
)
def test_of_what_there_is_no_picture(samples, sentence):
    with pytest.raises(ZooError, match=sentence):
        zoo.show(samples)


def test_values_beyond_the_levels_and_odd_grids_are_refused():
    x = torch.full((1, 1, 2, 2), 200, dtype=torch.uint8)
    with pytest.raises(ZooError, match=r"values 200\.\.200, and not 0\.\.1: give levels"):
        zoo.show(x, levels=2)
    with pytest.raises(ZooError, match="columns must be at least 1"):
        zoo.show(x, columns=0)
