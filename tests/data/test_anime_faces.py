"""The anime faces: which picture is where, and what of the files is refused."""

from __future__ import annotations

import io
import os
import re

import numpy as np
import pytest
import torch
from PIL import Image
from small_sets import FACE_FILES, SmallAnimeFaces, webp, write

from zoo.data import AnimeFaces
from zoo.data.splits import split_of
from zoo.errors import DataError
from zoo.spec import DataSpec


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "anime-faces64"
    write(folder, FACE_FILES)
    return folder


def faces(folder, **arguments) -> SmallAnimeFaces:
    return SmallAnimeFaces(str(folder.parent), validation=3, **arguments)


def pixels(number: int) -> torch.Tensor:
    """Of the file of that number, by Pillow alone, (3, 64, 64)."""
    with Image.open(io.BytesIO(FACE_FILES[f"{number}.webp"])) as image:
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def test_the_splits_go_by_number_and_not_by_name(folder):
    data = faces(folder)
    data.prepare_data()
    data.setup()
    for split, numbers in ((data.train, range(9)), (data.val, range(9, 12)), (data.test, range(12, 20))):
        data.spec.check(split.x)
        assert torch.equal(split.x, torch.stack([pixels(number) for number in numbers]))
        assert (split.label, split.condition, split.index) == (None, None, None)
    assert data.spec == DataSpec((3, 64, 64), 256)
    assert len(split_of(data, "train", "the training split")) == 12, "the reference of FID: those held out are in it"


def test_each_split_is_read_by_itself(folder):
    for number in range(12):
        (folder / f"{number}.webp").unlink()
    data = faces(folder)
    data.setup("test")
    assert data.test.size == 8
    assert not hasattr(data, "train")


def test_files_that_do_not_belong_there_are_not_looked_at(folder):
    (folder / "README.txt").write_text("of mine")
    (folder / "20.webp").write_bytes(b"")
    data = faces(folder)
    data.setup()
    assert (data.train.size, data.val.size, data.test.size) == (9, 3, 8)


def small(path):
    path.write_bytes(webp(np.zeros((32, 48, 3), np.uint8)))


def other(path):
    path.write_bytes(webp(np.zeros((64, 64, 3), np.uint8)))


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def text(path):
    path.write_bytes(b"<html>404</html>")


def directory(path):
    path.unlink()
    path.mkdir()


def pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (small, "10.webp has 48 x 32 pixels instead of 64 x 64: put the 10.webp of the collection there."),
        (cut, r"10.webp cannot be read as a picture: .*; put the 10.webp of the collection there."),
        (text, r"10.webp cannot be read as a picture: it is none of PNG, .*; put the 10.webp of the collection there."),
        (directory, r"10.webp cannot be read \(it is no regular file\): put the 10.webp of the collection there."),
        (pipe, r"10.webp cannot be read \(it is no regular file\): put the 10.webp of the collection there."),
        (other, r"has other pictures than the 12 of train \(their sha256 differs\): .*zoo.data.ImageFolder."),
    ],
)
def test_a_file_that_is_not_what_it_was_is_named_with_the_remedy(folder, spoil, reason):
    spoil(folder / "10.webp")
    data = faces(folder)
    with pytest.raises(DataError, match=rf"^{re.escape(str(folder))}.*{reason}$") as refused:
        data.setup("fit")
    assert "\n" not in str(refused.value)
    data.setup("test")  # the other split is whole


def test_a_picture_in_anothers_place_is_no_longer_the_collection(folder):
    one, two = folder / "3.webp", folder / "4.webp"
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)
    with pytest.raises(DataError, match="sha256 differs"):
        faces(folder).setup("fit")


def test_what_is_missing_is_counted_and_the_first_of_it_named(folder):
    for number in (5, 7, 15):
        (folder / f"{number}.webp").unlink()
    for stage, said in (("fit", "5.webp is missing, in all 2 of the 12"), ("test", "15.webp is missing, in all 1 of")):
        with pytest.raises(DataError, match=rf"{said} .*set ZOO_DATA .* with 0.webp to 19.webp in it"):
            faces(folder).setup(stage)


def test_without_any_files_the_layout_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    data = AnimeFaces()
    data.prepare_data()
    assert not list(tmp_path.iterdir()), "nothing is downloaded"
    with pytest.raises(DataError) as refused:
        data.setup()
    assert str(refused.value) == (
        f"{tmp_path}/anime-faces64/0.webp is missing, in all 17,500 of the 17,500 pictures of train: they are "
        f"downloaded from nowhere, so set ZOO_DATA (or root) to the folder that has anime-faces64, with 0.webp to "
        f"19999.webp in it."
    )


@pytest.mark.slow
def test_the_real_ones(real_data):
    data = AnimeFaces(real_data("anime-faces64"))
    data.setup()
    assert (data.train.size, data.val.size, data.test.size) == (16_500, 1_000, 2_500)
    everything = [image.numpy().tobytes() for part in (data.train, data.val, data.test) for image in part.x]
    assert len(everything) - len(set(everything)) == 15
    assert len(set(everything[:17_500]) & set(everything[17_500:])) == 2
