"""The way from noise to data as a strip and as a film: which state is where."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from zoo.errors import ZooError
from zoo.model import GenerativeModel, Model
from zoo.pictures import films, images, plane, traces
from zoo.spec import DataSpec


class Steps(GenerativeModel):
    """The state k of datum i is the level k + 2 i, or the point (k, i) of a lattice, moved by `up`."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.spec = spec

    def trace(self, n: int, *, frames: int = 8, seed: int | None = None, up: int = 0) -> Tensor:
        k, i = torch.meshgrid(torch.arange(frames), torch.arange(n), indexing="ij")
        if self.spec.levels is None:
            return torch.stack([k, i], -1) / 4.0 + up
        return (k + 2 * i + up).to(torch.uint8).view(frames, n, 1, 1, 1).expand(frames, n, *self.spec.shape)

    def diffuse(self, x: Tensor, t: Tensor, *, seed: int | None = None) -> Tensor:
        return torch.stack([(x * (1 - each)).to(x.dtype) for each in t])


class Drifting(Steps):
    """It also keeps the times and labels that it is asked at."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self.asked: list[tuple[float, object]] = []

    def trace(self, n: int, *, frames: int = 8, seed: int | None = None, label: object = None) -> Tensor:
        return super().trace(n, frames=frames, seed=seed)

    def drift(self, x: Tensor, t: float, *, label: object = None) -> Tensor:
        self.asked.append((t, label))
        return torch.tensor([1.0, 0.0]).expand_as(x) * (1 + t)


GREY, PLANE = DataSpec((1, 4, 4), 17), DataSpec((2,), None)


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_images_have_a_row_each_and_states_a_column(tmp_path):
    path = traces.draw(Steps(GREY), tmp_path / "a.png", n=3, frames=5)
    side = 64 + images.GAP
    picture = pixels(path)
    assert picture.shape == (3 * side + images.GAP, 5 * side + images.GAP, 3)
    found = [[int(picture[r * side + 30, c * side + 30, 0]) for c in range(5)] for r in range(3)]
    assert found == [[round((c + 2 * r) * 255 / 16) for c in range(5)] for r in range(3)]
    other = traces.draw(Steps(GREY), tmp_path / "b.png", n=3, frames=5, up=1)
    assert other.read_bytes() != path.read_bytes()
    assert pixels(traces.draw(Steps(GREY), tmp_path / "c.png")).shape == (4 * side + 2, 8 * side + 2, 3)


def test_a_film_of_images_is_of_grids(tmp_path):
    model = Steps(GREY)
    drawn = traces.draw(model, tmp_path / "a.webp", n=4, frames=6)
    frames = torch.stack([images.grid(state, 17) for state in model.trace(4, frames=6)])
    assert drawn.read_bytes() == films.save(frames, tmp_path / "b.webp").read_bytes()
    assert Image.open(traces.draw(model, tmp_path / "c.webp", n=1)).n_frames == 32


def fields(panel: Tensor) -> Tensor:
    return plane.arrows(lambda x: torch.tensor([1.0, 0.0]).expand_as(x), size=len(panel[0]), behind=panel)


def test_points_have_a_panel_for_each_state_and_below_it_the_drift_at_its_time(tmp_path):
    model = Drifting(PLANE)
    picture = pixels(traces.draw(model, tmp_path / "a.png", n=9, frames=3, label=7))
    size = traces.SIZE
    assert picture.shape == (2 * (size + 2) + 2, 3 * (size + 2) + 2, 3)
    assert model.asked == [(1.0, 7), (0.5, 7), (0.0, 7)], "from noise to data"
    for k, state in enumerate(model.trace(9, frames=3)):
        panel, left = plane.scatter(state, size=size), 2 + k * (size + 2)
        for row, wanted in enumerate((panel, fields(panel))):
            top = 2 + row * (size + 2)
            found = picture[top : top + size, left : left + size].astype(int)
            apart = np.abs(found - wanted.permute(1, 2, 0).numpy().astype(int))
            assert apart.mean() < 1, "but for the 256 colours of the file"
    assert pixels(traces.draw(Steps(PLANE), tmp_path / "b.png", n=9)).shape[:2] == (size + 4, 5 * (size + 2) + 2)
    film = traces.draw(model, tmp_path / "c.webp", n=9, frames=4)
    panels = torch.stack([plane.scatter(state, size=size) for state in model.trace(9, frames=4)])
    assert film.read_bytes() == films.save(panels, tmp_path / "d.webp").read_bytes()


def test_the_way_of_data_begins_with_them(tmp_path):
    x = torch.full((2, 1, 4, 4), 16, dtype=torch.uint8)
    picture = pixels(traces.draw_forward(Steps(GREY), x, tmp_path / "a.png", frames=5))
    side = 64 + images.GAP
    assert [int(picture[30, c * side + 30, 0]) for c in range(5)] == [255, round(12 * 255 / 16), 128, 64, 0]


def test_of_what_there_is_no_picture(tmp_path):
    class Translator(Model):
        spec = GREY

    for model, sentence in (
        (Translator(), "Translator does not draw step by step from noise, and so has no trace"),
        (Steps(DataSpec((3,), None)), r"Steps gives vector data of shape \[3\] .*, of whose way there is no picture"),
        (Steps(DataSpec((3, 1, 4, 4), 2, kind="video")), "of whose way there is no picture"),
    ):
        with pytest.raises(ZooError, match=sentence):
            traces.draw(model, tmp_path / "a.png")
    with pytest.raises(ZooError, match="Translator has no forward process, from data to noise"):
        traces.draw_forward(Translator(), torch.zeros(1, 1, 4, 4), tmp_path / "a.png")
    with pytest.raises(ZooError, match=r"written as PNG or WebP; name the file a\.png or a\.webp, not 'a\.gif'"):
        traces.draw(Steps(GREY), tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())
