"""Frames to animated WebP: what a file holds, how large it may be, and what is given up for that."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from interrupted import refused_beyond
from PIL import Image
from torch import Tensor

from zoo.errors import ZooError
from zoo.pictures import films


def noise(frames: int, size: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (frames, channels, size, size), generator=generator).to(torch.uint8)


def shown(path) -> tuple[list[np.ndarray], list[int]]:
    """The frames of a file, in colour, and the milliseconds of each."""
    frames, durations = [], []
    with Image.open(path) as image:
        assert (image.format, image.info["loop"]) == ("WEBP", 0)
        for k in range(image.n_frames):
            image.seek(k)
            frames.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
            durations.append(image.info["duration"])
    return frames, durations


@pytest.mark.parametrize("channels", [1, 3])
def test_frames_that_fit_are_exact_and_the_last_one_stays(tmp_path, channels):
    x = noise(10, 16, channels)
    path = films.save(x, tmp_path / "a.webp")
    frames, durations = shown(path)
    assert all((frame == wanted.numpy()).all() for frame, wanted in zip(frames, x, strict=True))
    assert durations == [400] * 9 + [1900]
    assert films.save(x, tmp_path / "b.webp").read_bytes() == path.read_bytes()
    assert films.save(x.flip(0), tmp_path / "b.webp").read_bytes() != path.read_bytes()


def test_what_does_not_fit_is_given_up_in_an_order(tmp_path):
    x = noise(16, 128)
    fits = len(films._encoded([films.pictures.as_image(frame) for frame in x], films.QUALITIES[-1]))
    lossy, _ = shown(films.save(x, tmp_path / "a.webp", most=fits))
    assert len(lossy) == 16, "first the exact pixels"
    fewer, durations = shown(films.save(x, tmp_path / "b.webp", most=fits - 1))
    assert 8 <= len(fewer) < 16, "then frames"
    assert fewer[0].shape == (3, 128, 128)
    assert abs(sum(durations) - 5500) <= 16, "which together last as long"
    smaller, _ = shown(films.save(x, tmp_path / "c.webp", most=fits // 4))
    assert smaller[0].shape == (3, 64, 64), "then pixels"
    for name in "abc":
        assert (tmp_path / f"{name}.webp").stat().st_size <= fits


@pytest.mark.parametrize("n", [16, 17, 40, 41])
def test_of_fewer_frames_the_first_and_the_last_remain(n):
    frames = [Image.new("L", (8, 8), k) for k in range(n)]
    kept = [[frame.getpixel((0, 0)) for frame in fewer] for fewer in films._given_up(frames)]
    assert kept[0] == list(range(n))
    for before, after in itertools.pairwise(kept):
        assert len(after) == len(before) // 2 + 1
        assert (after[0], after[-1]) == (0, n - 1)
        assert set(after) <= set(before)
        assert max(np.diff(after)) <= 2 * max(np.diff(before)), "evenly"
    assert films.FEWEST < len(kept[-1]) < 2 * films.FEWEST


def test_what_cannot_be_a_film_is_refused(tmp_path):
    path = tmp_path / "a.webp"
    with pytest.raises(ZooError, match=r"a\.webp would be larger than 100 bytes, however coarse: draw fewer at once"):
        films.save(noise(8, 64), path, most=100)
    for x in (noise(1, 8), noise(2, 8, 2), noise(2, 8).float(), noise(2, 8)[0]):
        with pytest.raises(ZooError, match="A film is made of two frames or more, uint8"):
            films.save(x, path)
    with pytest.raises(ZooError, match=r"written as WebP; name the file a\.webp, not 'a\.png'"):
        films.save(noise(2, 8), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
    path.write_bytes(b"old")
    kinds, said = refused_beyond(lambda: films.save(noise(9, 64), path), 100)
    assert "ZooError" in kinds
    assert "free disk space" in said
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
