"""Distances of folders, checkpoints and their data, as `zoo distance` gives them."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import zoo
from zoo import cli, metrics
from zoo.autoregressive import PixelCNN
from zoo.data import Digits
from zoo.errors import ZooError
from zoo.evaluation import comparison, sets
from zoo.flows import MAF
from zoo.pictures import images as pictures
from zoo.spec import DataSpec


class Pixels(nn.Module):
    """In place of Inception: the red pixels themselves."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0].float().flatten(1) / 255


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setattr(metrics, "Inception", lambda root: Pixels())


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PixelCNN(shape=[1, 8, 8], levels=17, channels=4, blocks=1)
    data = {"class_path": "zoo.data.Digits", "init_args": {}}
    return zoo.save(model, tmp_path_factory.mktemp("runs") / "pixelcnn-digits", data=data)


@pytest.fixture(scope="module")
def moons(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MAF(layers=1, hidden=8)
    data = {"class_path": "zoo.data.Points", "init_args": {"name": "moons", "train": 300, "validation": 50}}
    return zoo.save(model, tmp_path_factory.mktemp("runs") / "maf-moons", data=data)


def folder(path, n: int = 8, seed: int = 0, side: int = 6):
    path.mkdir()
    random = np.random.default_rng(seed)
    for i in range(n):
        Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8)).save(path / f"{i}.png")
    return path


def numbers(results: list[dict]) -> dict[str, float]:
    return {result.metric.name: result.value for result in results}


# -- sets ----------------------------------------------------------------------------------------------------


def test_a_folder_is_its_pictures_in_the_order_of_names(tmp_path):
    path = folder(tmp_path / "a")
    (path / "notes.txt").write_text("no picture")
    images = comparison.gather(path)
    assert images.shape == (8, 3, 6, 6)
    assert images.dtype == torch.uint8
    expected = np.asarray(Image.open(path / "2.png")).transpose(2, 0, 1)
    assert np.array_equal(images[2].numpy(), expected)
    assert torch.equal(comparison.gather(path, n=3), images[:3])


def test_a_checkpoint_draws_with_its_levels_spread_over_bytes(digits):
    drawn = comparison.gather(digits, n=5, seed=2)
    assert torch.equal(drawn, pictures.to_bytes(zoo.load(digits).sample(5, seed=2), 17))
    assert int(drawn.max()) == 255


def test_a_split_is_that_of_the_checkpoints_data(digits):
    data = Digits()
    data.setup()
    assert torch.equal(comparison.gather(f"{digits}:test"), pictures.to_bytes(data.test[0], 17))
    training = comparison.gather(f"{digits}:train")
    assert len(training) == len(data.train[0]) + len(data.val[0]), "what was held out belongs to it"


def test_a_split_that_is_binarized_later_is_refused(digits, monkeypatch):
    monkeypatch.setattr(Digits, "spec", DataSpec((1, 8, 8), 2))
    with pytest.raises(ZooError, match=r":train has values 0\.\.16; this model takes 0\.\.1"):
        comparison.gather(f"{digits}:train")


def test_points_stay_what_they_are(moons):
    drawn = comparison.gather(moons, n=7, seed=1)
    torch.testing.assert_close(drawn, zoo.load(moons).sample(7, seed=1))
    assert comparison.gather(f"{moons}:train").shape == (350, 2)


# -- distances -----------------------------------------------------------------------------------------------


def test_of_images_all_by_the_features(tmp_path, network):
    pytest.importorskip("ot", reason="exact transport of unequal numbers of images needs the extra transport")
    x, y = comparison.gather(folder(tmp_path / "a", 40)), comparison.gather(folder(tmp_path / "b", 30, 1))
    results = comparison.compare(x, y, batch_size=7)
    a, b = (Pixels()(images) for images in (x, y))
    precision, recall = metrics.precision_recall(b, a)
    kid, spread = metrics.kernel_distance(a, b, size=30)
    assert numbers(results) == pytest.approx(
        {
            "fid": float(metrics.frechet_distance(a, b)),
            "kid": float(kid),
            "precision": float(precision),
            "recall": float(recall),
            "scattering_w1": float(metrics.wasserstein(*(metrics.Scattering(6, 6, scales=1)(part) for part in (x, y)))),
        }
    )
    assert results[4].protocol.startswith("the first 40 and 30 images of 3 x 6 x 6, in 0..1")
    assert results[1].spread == pytest.approx(float(spread))
    assert results[0].protocol.startswith("40 against 30 images; Inception v3 of 2015-12-05, 2048 features, bilinear")


def test_without_the_exact_solver_the_others_are_given(tmp_path, network, monkeypatch):
    x, y = (comparison.gather(folder(tmp_path / name, n)) for name, n in (("a", 40), ("b", 30)))
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.warns(UserWarning, match=r"scattering_w1 is left out\. .* generative-zoo\[transport\]"):
        found = numbers(comparison.compare(x, y, batch_size=7))
    assert list(found) == ["fid", "kid", "precision", "recall"]
    points = torch.rand(9, 2), torch.rand(8, 2)
    with pytest.warns(UserWarning, match=r"wasserstein_1 is left out\. .* generative-zoo\[transport\]"):
        found = numbers(comparison.compare(*points))
    assert list(found) == ["energy_distance", "sliced_wasserstein_2", "sinkhorn"]
    assert "wasserstein_1" in numbers(comparison.compare(points[0], points[0])), "of equal numbers it needs none"


def test_images_of_two_sizes_are_not_scattered(network, monkeypatch):
    x, y = torch.zeros(6, 3, 8, 8, dtype=torch.uint8), torch.zeros(6, 3, 8, 9, dtype=torch.uint8)
    monkeypatch.setattr(Pixels, "forward", lambda self, x: x.float().mean((2, 3)))
    assert "scattering_w1" not in numbers(comparison.compare(x, y))
    monkeypatch.setattr(comparison, "SIDE", 7)
    assert "scattering_w1" not in numbers(comparison.compare(x, x))


def test_of_points_all_four(moons, monkeypatch):
    monkeypatch.setattr(comparison, "EXACT", 60)
    x, y = comparison.gather(moons, n=80), comparison.gather(f"{moons}:train", n=90)
    results = comparison.compare(x, y)
    found = numbers(results)
    x, y = x.double(), y.double()
    assert found["energy_distance"] == pytest.approx(float(metrics.energy_distance(x, y)))
    assert found["wasserstein_1"] == pytest.approx(float(metrics.wasserstein(x[:60], y[:60])))
    assert found["sliced_wasserstein_2"] == pytest.approx(float(metrics.sliced_wasserstein(x, y, seed=0)))
    epsilon = metrics.default_epsilon(x[:60], y[:60])
    assert found["sinkhorn"] == pytest.approx(float(metrics.sinkhorn(x[:60], y[:60], epsilon=epsilon)))
    assert f"epsilon {epsilon:.3g}, a twentieth of the mean cost" in results[3].protocol
    assert results[1].protocol == "the first 60 and 60 points"
    assert results[0].protocol == "80 and 90 points; unbiased"


def test_the_command_prints_every_number(tmp_path, network, digits, capsys):
    assert cli.main(["distance", str(digits), f"{digits}:test", "-n", "30", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    x, y = comparison.gather(digits, n=30), comparison.gather(f"{digits}:test", n=30)
    for result in comparison.compare(x, y, device="cpu"):
        assert f"{result.metric.name:<21} {result.value:.5g}" in printed
        assert result.protocol in printed


# -- bad input -----------------------------------------------------------------------------------------------


def test_what_is_no_set_is_named(tmp_path, network, digits, moons):
    (tmp_path / "empty").mkdir()
    broken, sizes = folder(tmp_path / "broken"), folder(tmp_path / "sizes")
    (broken / "3.png").write_bytes(b"no picture")
    Image.new("RGB", (7, 6)).save(sizes / "9.png")
    for name, message in {
        tmp_path / "empty": r"There is no picture in .*empty: it takes files ending in \.png",
        broken: r"3\.png cannot be read as a picture",
        sizes: r"9\.png is 7 x 6 pixels, and the pictures before it 6 x 6: resize them",
        f"{digits}:half": "After a checkpoint's name comes :train or :test, not :half",
    }.items():
        with pytest.raises(ZooError, match=message):
            comparison.gather(name)
    with pytest.raises(ZooError, match="has 8, not the 9 that are asked for"):
        comparison.gather(folder(tmp_path / "few"), n=9)
    with pytest.raises(ZooError, match="n must be at least 1, not 0"):
        comparison.gather(digits, n=0)
    images, points = comparison.gather(tmp_path / "few"), comparison.gather(moons, n=9)
    with pytest.raises(ZooError, match="One of the two is a set of images and the other one of points"):
        comparison.compare(images, points)
    with pytest.raises(ZooError, match="at least 5 images of each, not 8 and 4"):
        comparison.compare(images, images[:4])


def test_other_kinds_of_data_are_refused(moons, monkeypatch):
    class Words:
        spec = DataSpec((2,), 9, kind="tokens")

        def sample(self, n, seed=None):
            pytest.fail("nothing is drawn of what cannot be compared")

    class Translator:
        spec = DataSpec((1, 8, 8), 17)

    for model, sentence in (
        (Words(), "gives tokens data of shape [2] with 9 levels: images and points are compared"),
        (Translator(), "cannot be sampled"),
    ):
        monkeypatch.setattr(sets.store, "load", lambda name, device, model=model: model)
        with pytest.raises(ZooError, match=re.escape(sentence)):
            comparison.gather(moons)


def test_a_table_far_from_the_origin_is_compared_as_exactly_as_near_it(tmp_path):
    steps = torch.arange(50, dtype=torch.float64)
    points = torch.stack([steps / 8, steps / 4], 1)
    found = []
    for far in (0.0, 2.0**30):
        for name, shift in (("a", 0.0), ("b", 3.0)):
            rows = (points + points.new_tensor([far + shift, far])).tolist()
            text = "\n".join(f"{x!r},{y!r}" for x, y in rows)
            (tmp_path / f"{name}.csv").write_text(f"x,y\n{text}\n")
        results = zoo.distance(tmp_path / "a.csv", tmp_path / "b.csv")
        found.append({result.metric.name: result.value for result in results})
    assert found[0]["wasserstein_1"] == pytest.approx(3)
    assert found[1] == found[0]


def test_a_table_is_compared_with_draws_in_float32(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,4\n")
    results = zoo.distance(tmp_path / "a.csv", torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    assert {result.metric.name: result.value for result in results}["wasserstein_1"] == pytest.approx(0.5)
