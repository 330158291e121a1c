"""Which sets `zoo.distance` compares, and what it says of those that it does not."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import zoo
from zoo import cli, metrics
from zoo.autoregressive import PixelCNN
from zoo.data import Digits, Points
from zoo.errors import ZooError
from zoo.flows import MAF
from zoo.pictures import images as pictures


class Pixels(nn.Module):
    """In place of Inception: the first channel itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0].float().flatten(1) / 255


@pytest.fixture(autouse=True)
def network(monkeypatch):
    monkeypatch.setattr(metrics, "Inception", lambda root: Pixels())


def points(n: int = 30, dims: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(n, dims, generator=torch.Generator().manual_seed(seed))


def images(n: int = 8, shape: tuple[int, ...] = (3, 6, 6), levels: int = 256, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, levels, (n, *shape), generator=random, dtype=torch.uint8)


def saved(path: Path, bytes_: Tensor) -> Path:
    path.mkdir()
    for i, image in enumerate(bytes_):
        pixels = image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels[:, :, 0] if len(image) == 1 else pixels).save(path / f"{i:03}.png")
    return path


def values(results: list[zoo.Result]) -> dict[str, float]:
    return {result.metric.name: result.value for result in results}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PixelCNN(shape=[1, 8, 8], levels=17, channels=4, blocks=1)
    data = {"class_path": "zoo.data.Digits", "init_args": {}}
    return zoo.save(model, tmp_path_factory.mktemp("runs") / "pixelcnn-digits", data=data)


# -- what is compared ----------------------------------------------------------------------------------------


def test_the_same_points_in_every_form_have_the_same_distances(tmp_path):
    x, y = points(), points(seed=1) + 1
    np.save(tmp_path / "x.npy", x.numpy())
    np.savetxt(tmp_path / "x.csv", x.numpy(), delimiter=",", fmt="%.9g")
    expected = values(zoo.distance(x, y))
    assert list(expected) == ["energy_distance", "wasserstein_1", "sliced_wasserstein_2", "sinkhorn"]
    for form in (x.numpy(), x.double(), x.clone().requires_grad_(), tmp_path / "x.npy", str(tmp_path / "x.csv")):
        assert values(zoo.distance(form, y)) == pytest.approx(expected)
    whole = torch.arange(20).reshape(10, 2)
    assert values(zoo.distance(whole, y)) == pytest.approx(values(zoo.distance(whole.float(), y)))


def test_models_and_data_modules_are_sets():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MAF(layers=1, hidden=8)
    data = Points("moons", train=20, validation=10, test=40)
    found = zoo.distance(model, data, n=25, seed=3)
    data.setup("test")
    assert values(found) == pytest.approx(values(zoo.distance(model.sample(25, seed=3), data.test[0][:25], seed=3)))
    assert all(isinstance(result, zoo.Result) and (result.n, result.split) == (25, None) for result in found)


def test_results_say_of_what_and_in_which_unit():
    x, y = points(), points(40, seed=1) + 1
    pytest.importorskip("ot", reason="exact transport of unequal numbers of points needs the extra transport")
    energy, exact, sliced, entropic = zoo.distance(x, y)
    assert energy.protocol == "30 and 40 points; unbiased"
    assert exact.protocol == "30 and 40 points"
    assert "200 directions" in sliced.protocol
    epsilon = metrics.default_epsilon(x, y)
    assert entropic.protocol.endswith(f"squared cost, epsilon {epsilon:.3g}, a twentieth of the mean cost, debiased")


def test_columns_of_other_units_are_said_or_standardized():
    unit = torch.tensor([1.0, 1e4])
    x, y = points(), points(seed=1) + 1
    plain = zoo.distance(x * unit, y * unit)
    low, high = (y.double() * unit).std(0).tolist()
    said = f"columns as they are, of standard deviations {low:.3g} to {high:.3g}"
    assert all(result.protocol.endswith(said) for result in plain)
    alike = zoo.distance(x * unit, y * unit, standardize=True)
    assert all(result.protocol.endswith("columns in standard deviations of the reference") for result in alike)
    assert values(alike) == pytest.approx(values(zoo.distance(x, y, standardize=True)), rel=1e-5)
    scale = y.double().std(0)
    assert values(alike) == pytest.approx(values(zoo.distance(x / scale, y / scale)), rel=1e-5)
    constant = torch.cat([y, torch.ones(30, 1)], 1)
    assert all(np.isfinite(list(values(zoo.distance(constant + 1, constant, standardize=True)).values())))


def test_pictures_of_grey_images_are_those_images(digits, tmp_path):
    data = Digits()
    data.setup("test")
    bytes_ = pictures.to_bytes(data.test[0][:9], 17)
    expected = values(zoo.distance(bytes_[:8], bytes_[1:]))
    folder = saved(tmp_path / "pictures", bytes_[:8])
    colour = saved(tmp_path / "colour", bytes_[:8].expand(-1, 3, -1, -1))
    for one in (folder, colour, bytes_[:8], data.test[0][:8]):
        found = values(zoo.distance(one, f"{digits}:test", n=8))
        assert found == pytest.approx(values(zoo.distance(bytes_[:8].clone(), f"{digits}:test", n=8)))
    assert values(zoo.distance(folder, bytes_[1:])) == pytest.approx(expected)


def test_fewer_images_than_features_are_said():
    fid, *others = zoo.distance(images(), images(seed=1))
    assert fid.protocol.endswith("no more images than the 2,048 features")
    assert not any("no more images" in result.protocol for result in others)


def test_the_same_set_twice_is_said(digits):
    x = points()
    with pytest.warns(UserWarning, match="a and b are the same 30 points: their distance says nothing of a model"):
        found = values(zoo.distance(x, x.clone()))
    assert found["wasserstein_1"] == found["sliced_wasserstein_2"] == 0
    assert found["sinkhorn"] == pytest.approx(0, abs=1e-6)
    with pytest.warns(UserWarning, match="are the same 6 images"):
        zoo.distance(digits, digits, n=6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.distance(x, points(seed=1))


# -- what is not ---------------------------------------------------------------------------------------------


def refused(a, b, message: str, **options) -> None:
    with pytest.raises(ZooError, match=message) as caught:
        zoo.distance(a, b, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_two_sets_that_differ_by_more_than_what_they_hold_are_refused(digits, tmp_path):
    grey = images(8, (1, 8, 8))
    refused(images(), points(), "a is a set of images and b of points: there is no distance")
    refused(images(), images(8, (3, 6, 7)), r"a has images of 6 x 6 pixels and b of 7 x 6: resize them to one size")
    refused(images(), images(8, (1, 6, 6)), "b is grey and a in colour: make both one of these")
    refused(points(), points(dims=3), "a has 2 columns and b 3: give both the same ones")
    refused(digits, grey, "has 17 levels, and b values between them", n=6)
    refused(f"{digits}:test", saved(tmp_path / "grey", grey), "has 17 levels, and .* values between them", n=6)
    binary = PixelCNN(shape=[1, 8, 8], levels=2, channels=4, blocks=1)
    refused(binary, digits, "a has 2 levels and .* 17: a distance would tell these apart", n=6)
    refused(binary, Digits(), "a has 2 levels and b 17", n=6)
    refused(binary, saved(tmp_path / "digits", grey), "a has 2 levels, and .* values between them", n=6)
    refused(images(), images(seed=1), "Columns of points are standardized, and these are images", standardize=True)


def test_columns_of_other_names_are_refused():
    class Named(Points):
        def __init__(self, *columns: str) -> None:
            super().__init__("moons", train=20, validation=10, test=40)
            self.columns = columns

    refused(Named("x", "age"), Named("x", "weight"), "a has a column 'age' where b has 'weight': give both the same")
    with pytest.warns(UserWarning, match="the same"):
        zoo.distance(Named("x", "age"), Named("x", "age"))
    with pytest.warns(UserWarning, match="the same"):
        zoo.distance(Named("x", "age"), Points("moons", train=20, validation=10, test=40))


def test_what_is_too_few_or_no_set_is_refused(tmp_path):
    x, pixels = points(), images()
    refused(x[:1], x, "a has 1 point: distances take at least 2 of each")
    refused(x, x[:0], "b is empty")
    refused(pixels, pixels[:1], "b has 1 image: distances take at least 5 of each")
    refused(pixels[:0], pixels, "a is empty")
    refused(x, torch.tensor([[0.0, float("nan")], [1.0, 1.0]]), "b holds a value that is no finite number: remove its")
    refused(x, np.array([[0.0, np.inf], [1.0, 1.0]]), "b holds a value that is no finite number")
    refused(x, x + 1, "a has 30, not the 31 that are asked for", n=31)
    refused(x, x + 1, "n must be at least 1, not 0", n=0)
    refused(x, x + 1, "batch_size must be at least 1, not 0", batch_size=0)
    refused(pixels.float(), pixels, r"a is torch.float32 of shape \(8, 3, 6, 6\): a set is uint8 images .* or points")
    refused(x[:, 0], x, r"a is torch.float32 of shape \(30,\): a set is uint8 images")
    refused(x[:, :0], x, r"a is torch.float32 of shape \(30, 0\)")
    refused(x * 1j, x, "a is a tensor of torch.complex64, which are no real numbers")
    refused(np.array([["a", "b"]]), x, "a is an array of <U1, which are no real numbers")
    refused([[0.0, 1.0]], x, "a name, a path, a tensor, a data module or a model, not list")
    picture = saved(tmp_path / "one", pixels[:1]) / "000.png"
    refused(picture, pixels, r"000\.png is one picture, and a set is compared: give the folder")
    (tmp_path / "words.csv").write_text("a,b\nc,d\n")
    refused(tmp_path / "words.csv", x, "words.csv")


def test_the_command_refuses_in_one_line(digits, tmp_path, capsys):
    x = tmp_path / "x.npy"
    np.save(x, points().numpy())
    assert cli.main(["distance", str(x), str(digits), "-n", "6"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    np.save(tmp_path / "y.npy", points(seed=1).numpy())
    assert cli.main(["distance", str(x), str(tmp_path / "y.npy"), "--standardize"]) == 0
    assert "columns in standard deviations of the reference" in capsys.readouterr().out
