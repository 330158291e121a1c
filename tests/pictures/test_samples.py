"""One place chooses the picture of a model, by the kind of its data."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import Tensor

from zoo.errors import ZooError
from zoo.model import GenerativeModel, Model
from zoo.pictures import images, samples
from zoo.spec import DataSpec


class Constant(GenerativeModel):
    """Each datum is its number, in every component."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.spec = spec

    def sample(self, n: int, *, seed: int | None = None, up: int = 0) -> Tensor:
        x = torch.arange(n).view(-1, *[1] * len(self.spec.shape)).expand(n, *self.spec.shape) + up
        return x.float() if self.spec.levels is None else x.to(torch.uint8)


@pytest.mark.parametrize(
    ("spec", "picture"),
    [
        (DataSpec((1, 4, 4), 17), "grid"),
        (DataSpec((3, 4, 4)), "grid"),
        (DataSpec((2, 4, 4)), None),
        (DataSpec((1, 4, 4), None), None),
        (DataSpec((3, 1, 4, 4), 2, kind="video"), "film"),
        (DataSpec((3, 2, 4, 4), 2, kind="video"), None),
        (DataSpec((2,), None), "plane"),
        (DataSpec((2,), 5), None),
        (DataSpec((3,), None), None),
        (DataSpec((2,), 9, kind="tokens"), None),
        (DataSpec((2,), None, kind="graph"), None),
    ],
)
def test_the_kind_says_which_picture(spec, picture, tmp_path):
    model = Constant(spec)
    assert spec.picture == picture
    assert samples.has_picture(model) == (picture is not None)
    if picture is None:
        with pytest.raises(
            ZooError, match=f"Constant gives {spec.kind} data .*of which there is no picture: in Python `model.sample`"
        ):
            samples.draw(model, tmp_path / "none.png")
    else:
        assert samples.draw(model, tmp_path / "some.png", n=3) == tmp_path / "some.png"


def test_what_cannot_be_sampled_has_no_picture(tmp_path):
    class Translator(Model):
        spec = DataSpec((1, 4, 4))

    class Density(GenerativeModel):
        spec = DataSpec((2,), None)

        def log_prob(self, x: Tensor) -> Tensor:
            return -x.square().sum(1)

    for model in (Translator(), Density()):
        assert not samples.has_picture(model)
        with pytest.raises(ZooError, match=f"^{type(model).__name__} cannot be sampled"):
            samples.draw(model, tmp_path / "none.png")
    assert not list(tmp_path.iterdir())


class Moved(GenerativeModel):
    """Points around where the condition says."""

    spec = DataSpec((2,), None, condition=DataSpec((2,), None))

    def sample(self, n: int, *, condition: Tensor, seed: int | None = None) -> Tensor:
        return condition + torch.randn(n, 2, generator=self.generator(seed))

    def log_prob(self, x: Tensor, *, condition: Tensor) -> Tensor:
        return -(x - condition).square().sum(1) / 2


def test_what_is_drawn_given_a_condition_has_a_picture_only_with_it(tmp_path, monkeypatch):
    model, condition = Moved(), torch.ones(10, 2)
    assert not samples.has_picture(model)
    assert samples.has_picture(model, ["condition"])
    with pytest.raises(ZooError, match=r"^Moved is drawn given a condition, .*model\.sample\(n, condition=\.\.\.\)"):
        samples.draw(model, tmp_path / "none.png")
    monkeypatch.setattr(samples, "density", lambda *_: pytest.fail("there is no one density"))
    assert samples.draw(model, tmp_path / "some.png", n=10, condition=condition).is_file()


def test_the_density_of_what_needs_more_is_left_out(tmp_path, monkeypatch):
    class Free(Moved):
        def sample(self, n: int, *, seed: int | None = None) -> Tensor:
            return torch.randn(n, 2, generator=self.generator(seed))

    monkeypatch.setattr(samples, "density", lambda *_: pytest.fail("nobody gives the condition"))
    assert samples.draw(Free(), tmp_path / "some.png", n=10).is_file()


def test_images_are_a_grid_and_the_models_options_are_handed_on(tmp_path):
    model = Constant(DataSpec((1, 4, 4), 17))
    drawn = samples.draw(model, tmp_path / "a.png", n=6, up=3)
    expected = images.save(model.sample(6, up=3), tmp_path / "b.png", 17)
    assert drawn.read_bytes() == expected.read_bytes()
    assert samples.seen(model)[0].shape == (16, 1, 4, 4)


def test_each_film_is_a_row(tmp_path):
    model = Constant(DataSpec((3, 1, 4, 4), 5, kind="video"))
    drawn = samples.draw(model, tmp_path / "film.png", n=2)
    side = 4 * images.scale(4, 4) + images.GAP
    picture = Image.open(drawn)
    assert picture.size == (3 * side + images.GAP, 2 * side + images.GAP)
    rows = [picture.getpixel((side // 2, row * side + side // 2)) for row in range(2)]
    assert rows == [0, 64], "the second film is of the level 1 of 5"
    frames, columns = samples.seen(model)
    assert (frames.shape, columns) == ((12, 1, 4, 4), 3)
