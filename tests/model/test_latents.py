"""Latents of a model whose data are known: drawn, decoded, and walked between."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import sealed
from torch import Tensor, nn

from zoo.errors import DataError
from zoo.model import GenerativeModel
from zoo.model.latents import Latents, draw_latents, slerp
from zoo.nn.draws import Draws
from zoo.nn.levels import from_unit, to_unit
from zoo.spec import DataSpec


@pytest.fixture(autouse=True)
def _untouched(monkeypatch):
    """The global random state does not outlive a test."""
    with sealed(monkeypatch):
        yield


class Plane(Latents, GenerativeModel):
    """Points that are the first two components of their latents, ten to the right of each label before."""

    def __init__(self, latent_dim: int = 3, classes: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec = DataSpec((2,), None, classes)
        self.rows: list[int] = []

    def generate(self, z: Tensor, label: Tensor | None) -> Tensor:
        """(N, 3) to (N, 2)."""
        self.rows.append(len(z))
        return z[:, :2] + (0 if label is None else 10 * label[:, None])


class Grey(Latents, GenerativeModel):
    """Pixels that are latents, through the batch normalization of a decoder; an encoder has one too."""

    def __init__(self, levels: int = 5) -> None:
        super().__init__()
        self.spec = DataSpec((2, 1, 1), levels)
        self.net = nn.ModuleDict({"encoder": nn.BatchNorm2d(2), "decoder": nn.BatchNorm2d(2, momentum=0.3)})

    @property
    def latent_size(self) -> int:
        """One for each pixel."""
        return 2

    def generate(self, z: Tensor, label: Tensor | None) -> Tensor:
        """(N, 2) to (N, 2, 1, 1)."""
        return self.net["decoder"]((3 * z + 1)[:, :, None, None])


def test_samples_are_the_data_of_latents():
    model, state = Plane(), torch.get_rng_state()
    z = model.latents(4, seed=3)
    assert torch.equal(z, Draws(3, 4).normal(3))
    assert torch.equal(model.sample(4, seed=3), z[:, :2])
    assert torch.equal(model.decode(z[:1] - z[1:2]), (z[:1] - z[1:2])[:, :2])
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(model.sample(4), model.sample(4)), "without a seed, others each time"


def test_many_are_decoded_in_parts():
    model = Plane()
    model.chunk = 3
    z = model.latents(7, seed=0)
    assert torch.equal(model.decode(z), z[:, :2])
    assert model.rows == [3, 3, 1]


def test_labels_are_given_or_drawn():
    model = Plane(classes=4)
    z = model.latents(6, seed=0)
    assert torch.equal(model.sample(6, seed=0, label=2), z[:, :2] + 20)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    assert torch.equal(model.decode(z, labels), z[:, :2] + 10 * labels[:, None])
    drawn = ((model.sample(400, seed=0) - model.latents(400, seed=0)[:, :2]) / 10).round()[:, 0]
    counts = torch.bincount(drawn.long(), minlength=4)
    assert ((counts - 100).square() / 100).sum() < 21.1  # chi-square, 3 degrees, p = 1e-4
    way = model.interpolate(z[:2], z[2:4], 3, label=[1, 2])
    assert torch.equal(way[:, 0], model.decode(z[:2], [1, 2]))
    with pytest.raises(DataError, match=r"conditioned on labels: give one of 0\.\.3"):
        model.decode(z)


@pytest.mark.parametrize("levels", [2, 5, 256])
def test_levels_are_spread_over_the_unit_and_come_back(levels):
    x = torch.arange(levels, dtype=torch.uint8)
    y = to_unit(x, levels)
    torch.testing.assert_close(y, torch.linspace(-1, 1, levels))
    assert torch.equal(from_unit(y, levels), x)
    near = y + 0.49 * (2 / (levels - 1))
    assert torch.equal(from_unit(near, levels), x), "the nearest level; beyond the last there is none"
    points = torch.randn(3, 2)
    assert to_unit(points, None) is points is from_unit(points, None)


def test_pixels_are_levels():
    model = Grey().eval()
    x = model.sample(50, seed=0)
    model.spec.check(x)
    y = model.generate(model.latents(50, seed=0), None)
    assert torch.equal(x, (2 * (y + 1)).round().clamp(0, 4).to(torch.uint8))


def test_truncated_latents_lie_within_and_keep_their_law():
    z = draw_latents(Draws(0, 400), 500, 1.5)
    assert z.abs().max() <= 1.5
    exact = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    exact = exact[exact.abs() < 1.5]
    torch.testing.assert_close(z.std(), exact.std(), rtol=0.01, atol=0.0)
    torch.testing.assert_close(z.quantile(0.2), exact.quantile(0.2), rtol=0.03, atol=0.0)
    model = Plane()
    assert torch.equal(model.sample(4, seed=0, truncation=0.5), model.latents(4, seed=0, truncation=0.5)[:, :2])
    for truncation in (0.0, -1.0, float("inf")):
        with pytest.raises(DataError, match="truncation must be positive"):
            model.latents(3, truncation=truncation)


def test_a_way_begins_and_ends_where_it_should_and_a_walk_returns():
    model = Plane()
    start, end = model.latents(2, seed=0), model.latents(2, seed=1)
    way = model.interpolate(start, end, 5)
    assert way.shape == (2, 5, 2)
    torch.testing.assert_close(way[:, 0], start[:, :2])
    torch.testing.assert_close(way[:, -1], end[:, :2])
    path = model.walk(3, 50, seed=0)
    assert path.shape == (150, 2)
    torch.testing.assert_close(path[::50], model.sample(3, seed=0))
    steps = (path.roll(-1, 0) - path).norm(dim=1)
    assert steps.max() < 10 * steps.mean(), "nowhere a jump, at the end neither"


def test_the_great_circle():
    a, b = torch.randn(5, 7), torch.randn(5, 7)
    half = slerp(a, b, torch.tensor(0.5))
    torch.testing.assert_close(half.norm(dim=1), (a.norm(dim=1) + b.norm(dim=1)) / 2)
    cosine = torch.cosine_similarity
    torch.testing.assert_close(cosine(a, half), cosine(half, b))
    angle = cosine(a, b).acos()
    torch.testing.assert_close(cosine(a, slerp(a, b, torch.tensor(0.3))).acos(), 0.3 * angle, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(slerp(a, a, torch.tensor(0.3)), a)
    torch.testing.assert_close(slerp(a, -a, torch.tensor(0.25)), slerp(-a, a, torch.tensor(0.75)))


def test_batch_normalization_is_measured_on_what_latents_give():
    model = Grey()
    with torch.no_grad():
        model.net["encoder"](5 + torch.randn(100, 2, 1, 1))
    encoder = {key: value.clone() for key, value in model.net["encoder"].state_dict().items()}
    model.recalibrate_batch_norm()
    norm = model.net["decoder"]
    torch.testing.assert_close(norm.running_mean, torch.ones(2), atol=0.3, rtol=0.0)  # of 3 z + 1
    torch.testing.assert_close(norm.running_var, torch.full((2,), 9.0), rtol=0.15, atol=0.0)
    assert norm.momentum == 0.3
    assert norm.training
    # No latent passes through an encoder, whose averages stay.
    assert all(torch.equal(value, encoder[key]) for key, value in model.net["encoder"].state_dict().items())
    assert model.net["encoder"].momentum == 0.1


def test_what_are_no_latents_is_refused():
    model = Plane()
    z = model.latents(3, seed=0)
    for wrong in (z.long(), z[:, :2], z[0], [1.0]):
        with pytest.raises(DataError, match=r"z (has|must be) .*(float|\(N, 3\)|tensor)"):
            model.decode(wrong)
    with pytest.raises(DataError, match="steps must be at least 2"):
        model.interpolate(z, z, 1)
    with pytest.raises(DataError, match="as many latents"):
        model.interpolate(z, z[:1])
    with pytest.raises(DataError, match="n must be at least 1"):
        model.latents(0)
