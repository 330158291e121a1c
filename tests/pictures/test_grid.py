"""Images to PNG and back."""

from __future__ import annotations

import pytest
import torch
from interrupted import refused_beyond
from PIL import Image

from zoo.errors import ZooError
from zoo.pictures import images
from zoo.spec import DataSpec


def levels(n: int, shape: tuple[int, ...], top: int) -> torch.Tensor:
    return torch.randint(top, (n, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_a_grid_has_each_image_in_its_cell():
    x = levels(5, (3, 40, 20), 256)
    picture = images.grid(x, columns=2)
    factor = images.scale(40, 20)
    high, wide = 40 * factor + images.GAP, 20 * factor + images.GAP
    assert picture.shape == (3, 3 * high + images.GAP, 2 * wide + images.GAP)
    for i, image in enumerate(x):
        top, left = i // 2 * high + images.GAP, i % 2 * wide + images.GAP
        assert torch.equal(picture[:, top : top + 40 * factor : factor, left : left + 20 * factor : factor], image)
    assert (picture[:, 2 * high + images.GAP :, wide + images.GAP :] == 255).all(), "an empty cell is white"


@pytest.mark.parametrize("top", [2, 17, 256])
def test_levels_spread_over_the_bytes_and_come_back(tmp_path, top):
    x = torch.arange(top, dtype=torch.uint8).view(1, 1, 1, -1)
    shown = images.to_bytes(x, top)
    assert (int(shown.min()), int(shown.max())) == (0, 255)
    Image.fromarray(shown[0, 0].numpy()).save(tmp_path / "row.png")
    assert torch.equal(images.read(tmp_path / "row.png", DataSpec((1, 1, top), top)), x)


def test_equal_images_make_equal_files(tmp_path):
    x = levels(4, (1, 8, 8), 17)
    first, second = (images.save(x, tmp_path / name, 17).read_bytes() for name in ("a.png", "b.png"))
    assert first == second != images.save(x.flip(0), tmp_path / "c.png", 17).read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "L"


def test_grey_and_colour_are_turned_into_each_other(tmp_path):
    x = levels(1, (1, 4, 6), 256)
    Image.fromarray(x[0, 0].numpy()).save(tmp_path / "grey.png")
    assert torch.equal(images.read(tmp_path / "grey.png", DataSpec((3, 4, 6))), x.expand(1, 3, 4, 6))


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (DataSpec((1, 5, 6)), "is 6 x 4 pixels; this model's images are 6 x 5: resize it first"),
        (DataSpec((2,), None), r"takes vector data of shape \[2\] with continuous values, and no pictures"),
        (DataSpec((4, 4, 6)), "and no pictures"),
    ],
)
def test_a_picture_that_does_not_fit_is_refused(tmp_path, spec, sentence):
    Image.new("L", (6, 4)).save(tmp_path / "a.png")
    with pytest.raises(ZooError, match=sentence):
        images.read(tmp_path / "a.png", spec)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ZooError, match="cannot be read as a picture"):
        images.read(tmp_path / "text.png", DataSpec((1, 4, 6)))
    with pytest.raises(ZooError, match="There is no file"):
        images.read(tmp_path / "absent.png", DataSpec((1, 4, 6)))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("a.jpg", r"name the file a\.png"), ("folder.png", "is a folder"), ("absent/a.png", "There is no folder")],
)
def test_a_bad_path_is_refused_before_anything_is_drawn(tmp_path, name, sentence):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ZooError, match=sentence):
        images.writable(tmp_path / name)


@pytest.mark.parametrize("x", [torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 4, dtype=torch.uint8), torch.zeros(3, 4)])
def test_what_are_no_images_is_refused(x):
    with pytest.raises(ZooError, match="Only images can be drawn"):
        images.grid(x)
    with pytest.raises(ZooError, match="no image to draw"):
        images.grid(torch.zeros(0, 1, 4, 4, dtype=torch.uint8))


def test_a_full_disk_leaves_the_picture_that_was_there(tmp_path):
    path, x = tmp_path / "x.png", levels(4, (3, 40, 40), 256)
    path.write_bytes(b"old")
    kinds, said = refused_beyond(lambda: images.save(x, path), 1000)
    assert "ZooError" in kinds
    assert str(path) in said
    assert "free disk space" in said
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_takes_the_place_of_a_link_and_is_not_written_through_it(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    (tmp_path / "x.png").symlink_to(mine)
    images.save(levels(1, (1, 4, 4), 2), tmp_path / "x.png", 2)
    assert mine.read_text() == "mine"
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.format == "PNG"
