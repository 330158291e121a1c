"""What all Gaussian diffusions do with a denoiser: draw, show the way, complete; by one that is known exactly."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.diffusion.gaussian import GaussianDiffusion
from zoo.diffusion.predictions import datum, velocity
from zoo.diffusion.samplers import SAMPLERS
from zoo.diffusion.schedules import Cosine, Karras, Linear, LinearBeta, alpha_sigma
from zoo.errors import DataError, ZooError
from zoo.spec import DataSpec


class Exact(nn.Module):
    """E[x | z] of independent Gaussian components, whose mean depends on the label: -1, 1, or of none their mixture's.

    It also keeps the labels that it is given.
    """

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation, self.labels = nn.Parameter(torch.tensor(deviation)), []

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None) -> Tensor:
        self.labels.append(label)
        centre = 0.0 if label is None else torch.tensor([-1.0, 1.0, 0.0])[label][:, None]
        alpha, sigma = (each[:, None] for each in alpha_sigma(log_snr))
        variance = self.deviation**2
        return centre + variance * alpha / (variance * alpha**2 + sigma**2) * (z - alpha * centre)


class Toy(GaussianDiffusion):
    """Gaussian points of the plane."""

    def __init__(self, classes: int = 0, deviation: float = 0.5, **attributes: Any) -> None:
        super().__init__()
        self.spec = DataSpec((2,), None, classes)
        self.net, self.prediction, self.noise_schedule = Exact(deviation), datum, Linear(12.0, -12.0)
        for name, value in attributes.items():
            setattr(self, name, value)


class Pixels(nn.Module):
    """The velocity of images that are white or black, each as often."""

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None) -> Tensor:
        alpha, sigma = (each.view(-1, 1, 1, 1) for each in alpha_sigma(log_snr))
        x = torch.tanh((z * alpha / sigma**2).mean((1, 2, 3), keepdim=True) * z[0].numel())
        return (alpha * z - x) / sigma


class Images(GaussianDiffusion):
    """Images of 2 x 2 pixels and 5 levels, all 0 or all 4."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = DataSpec((1, 2, 2), 5)
        self.net, self.prediction, self.noise_schedule = Pixels(), velocity, Linear(8.0, -8.0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_are_the_datas(sampler):
    """Mean and variance of each component within four standard errors, and a hundredth for the error of the steps."""
    x = Toy().sample(20_000, seed=0, sampler=sampler, steps=1000 if sampler == "ancestral" else 200).double()
    assert x.mean(0).abs().max() < 4 * 0.5 / math.sqrt(len(x))
    assert (x.var(0) / 0.25 - 1).abs().max() < 4 * math.sqrt(2 / len(x)) + 0.01
    assert abs(float(torch.corrcoef(x.T)[0, 1])) < 4 / math.sqrt(len(x))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_first_of_many_are_those_of_few(sampler):
    model = Toy(chunk=3)
    many = model.sample(7, seed=1, sampler=sampler, steps=5)
    model.chunk = None
    torch.testing.assert_close(many[:2], model.sample(2, seed=1, sampler=sampler, steps=5))
    assert not torch.equal(many, model.sample(7, seed=2, sampler=sampler, steps=5))


def test_images_are_levels():
    x = Images().sample(400, seed=0, steps=30, sampler="heun")
    assert x.dtype == torch.uint8
    assert set(x.unique().tolist()) <= {0, 4}
    assert (x == x[:, :, :1, :1]).all()
    assert abs(float((x[:, 0, 0, 0] > 0).double().mean()) - 0.5) < 4 * 0.5 / math.sqrt(400)


def test_a_trace_ends_in_the_sample_and_begins_with_noise():
    model = Toy(sampler="ancestral")
    states = model.trace(500, frames=5, seed=3, steps=12)
    assert states.shape == (5, 500, 2)
    torch.testing.assert_close(states[-1], model.sample(500, seed=3, steps=12))
    # Each is z, so that of data of deviation 1 all states have that: they stay where a picture shows them.
    assert abs(float(states[0].std()) - 1) < 4 / math.sqrt(2 * 1000)
    unit = Toy(deviation=1.0).trace(4000, frames=6, seed=0, steps=40, sampler="heun")
    assert (unit.flatten(1).std(1) - 1).abs().max() < 4 / math.sqrt(2 * 8000)
    assert torch.equal(model.trace(500, frames=2, seed=3, steps=12), states[[0, -1]])


@pytest.mark.parametrize("noise_schedule", [Linear(5.0, -5.0), Cosine(), LinearBeta(100, 1e-3, 0.1), Karras()])
def test_the_way_to_noise_is_the_forward_process(noise_schedule):
    """Mean and deviation of q(z | x) at each time, and between two times the covariance of a Markov process."""
    model = Toy()
    model.noise_schedule, model.deviation = noise_schedule, 2.0
    n, times = 20_000, [0.8, 0.1, 0.5]
    states = model.diffuse(torch.full((n, 2), 3.0), times, seed=0).double() / 2.0  # as the network sees them
    assert states.shape == (3, n, 2)
    alpha, sigma = alpha_sigma(noise_schedule(torch.tensor(times, dtype=torch.float64)))
    for k in range(3):
        assert (states[k].mean(0) - alpha[k] * 1.5).abs().max() < 4 * sigma[k] / math.sqrt(n)
        assert (states[k].std(0) / sigma[k] - 1).abs().max() < 4 / math.sqrt(2 * n)
    late, early = states[0, :, 0], states[1, :, 0]
    correlation = alpha[0] / alpha[1] * sigma[1] / sigma[0]  # z_t is alpha_t / alpha_s z_s, and noise of its own
    assert abs(float(torch.corrcoef(torch.stack([late, early]))[0, 1] - correlation)) < 4 / math.sqrt(n)


def test_the_noise_of_a_datum_is_its_own():
    model, x = Images(), torch.randint(5, (7, 1, 2, 2), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    way = model.diffuse(x, [0.0, 0.4, 1.0], seed=3)
    assert (way.shape, way.dtype) == ((3, 7, 1, 2, 2), torch.uint8)
    assert torch.equal(way[0], x), "at the least noise the nearest levels are the data"
    assert set(way[2].unique().tolist()) <= {0, 1, 2, 3, 4}
    model.chunk = 3
    assert torch.equal(model.diffuse(x, [0.0, 0.4, 1.0], seed=3), way)
    assert torch.equal(model.diffuse(x[:2], [0.0, 0.4, 1.0], seed=3), way[:, :2])
    assert not torch.equal(model.diffuse(x, [0.0, 0.4, 1.0], seed=4), way)
    assert torch.equal(model.diffuse(x, 0.0, seed=3), way[:1])
    assert model.diffuse(x[:0], [0.0, 0.4], seed=3).shape == (2, 0, 1, 2, 2)
    assert model.diffuse(x, [], seed=3).shape == (0, 7, 1, 2, 2)


@pytest.mark.parametrize(("t", "said"), [(1.5, "not 1.5"), ([0.5, -0.1], "not -0.1"), (math.nan, "not nan")])
def test_times_outside_are_refused(t, said):
    with pytest.raises(DataError, match=rf"^t must be in \[0, 1\], {said}\.$"):
        Toy().diffuse(torch.zeros(1, 2), t)
    if isinstance(t, float):
        with pytest.raises(DataError, match=rf"^t must be in \[0, 1\], {said}\.$"):
            Toy().drift(torch.zeros(1, 2), t)
    with pytest.raises(DataError, match=r"^t must be numbers in \[0, 1\], not 'early'"):
        Toy().diffuse(torch.zeros(1, 2), "early")


def test_the_drift_keeps_a_gaussian_one():
    """Of Gaussian data the flow is linear, z(lambda) = z deviation(lambda), the square of which is v alpha^2 + sigma^2:
    its derivative is z (v - 1) alpha^2 sigma^2 / (2 (v alpha^2 + sigma^2)).
    """
    model, x = Toy().double(), torch.randn(5, 2, dtype=torch.float64)
    model.deviation = 3.0  # that of the data as the network sees them is 0.5
    for t in (0.0, 0.4, 0.5, 1.0):
        alpha, sigma = alpha_sigma(model.noise_schedule(torch.tensor(t, dtype=torch.float64)))
        rate = (0.25 - 1) * (alpha * sigma) ** 2 / (2 * (0.25 * alpha**2 + sigma**2))
        torch.testing.assert_close(model.drift(x, t), rate * x)
    labelled = Toy(classes=2, deviation=1.0)
    apart = labelled.drift(torch.zeros(1, 2), 0.5, label=1) - labelled.drift(torch.zeros(1, 2), 0.5)
    assert (apart > 0).all(), "towards the centre of the class"
    with pytest.raises(DataError, match="The drift is that of continuous data, and these have 5 levels"):
        Images().drift(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), 0.5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_completion_keeps_what_is_known_and_sees_it(sampler):
    model = Images()
    x = torch.tensor([0, 4] * 50, dtype=torch.uint8).view(100, 1, 1, 1).expand(100, 1, 2, 2)
    known = torch.zeros(1, 2, 2, dtype=torch.bool)
    known[:, :, 0] = True
    completed = model.complete(x, known, seed=0, sampler=sampler, steps=40)
    assert (completed[:, :, :, 0] == x[:, :, :, 0]).all()
    # A pixel tells all others, but those that are drawn may have agreed on another level before its noise allows that.
    assert (completed == x).flatten(1).all(1).double().mean() > 0.7
    anything = torch.where(known, x, torch.randint(5, x.shape, dtype=torch.uint8))
    assert torch.equal(model.complete(anything, known, seed=0, sampler=sampler, steps=40), completed)


def test_what_is_known_goes_along_as_the_forward_process_has_it():
    """Of the states on the way, in the known components: mean and variance of q(z | x), by each sampler but the one
    whose steps have more variance than q(z_s | z_t, x)."""
    seen: list[tuple[float, Tensor]] = []

    class Watching(Exact):
        def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None) -> Tensor:
            seen.append((float(log_snr[0]), z[:, 0].double()))
            return super().forward(z, log_snr, label)

    model = Toy()
    model.net = Watching(0.5)
    for sampler in SAMPLERS.keys() - {"ancestral_beta"}:
        seen.clear()
        known = torch.tensor([True, False])
        model.complete(torch.full((4000, 2), 0.7), known, seed=0, steps=6, sampler=sampler)
        for log_snr, z in seen:
            alpha, sigma = (float(each) for each in alpha_sigma(torch.tensor(log_snr, dtype=torch.float64)))
            assert abs(float(z.mean()) - 0.7 * alpha) < 4 * sigma / math.sqrt(4000)
            assert abs(float(z.std()) / sigma - 1) < 4 / math.sqrt(2 * 4000)


def test_classes_are_drawn_where_none_is_asked_for():
    model = Toy(classes=2, deviation=0.1)
    x = model.sample(1000, seed=0)
    assert abs(float((x[:, 0] > 0).double().mean()) - 0.5) < 4 * 0.5 / math.sqrt(1000)
    assert (model.sample(50, seed=0, label=1) > 0).all()


def test_guidance_moves_away_from_what_no_label_tells():
    """E[x | z] is linear in the centre c, so that guidance by w is the denoiser of the centre w c."""
    model, z, log_snr = Toy(classes=2, label_dropout=0.1), torch.randn(9, 2), torch.tensor(1.5)
    label = torch.ones(9, dtype=torch.int64)
    plain, none = model.denoiser(label)(z, log_snr), model.denoiser(None)(z, log_snr)
    torch.testing.assert_close(model.denoiser(label, 3.0)(z, log_snr), none + 3 * (plain - none))
    assert torch.equal(model.denoiser(label, 1.0)(z, log_snr), plain)
    assert torch.equal(model.net.labels[1], torch.full((9,), 2)), "two classes, and one more for none"
    torch.testing.assert_close(model.denoiser(label, 0.0)(z, log_snr), none)
    strong = model.sample(2000, seed=0, label=1, guidance=3.0, steps=100, sampler="heun")
    assert abs(float(strong.mean()) - 3.0) < 0.05


def test_a_share_of_the_labels_is_hidden():
    model, label = Toy(classes=2, label_dropout=0.25), torch.ones(10_000, dtype=torch.int64)
    hidden = model.hide_labels(label)
    assert set(hidden.unique().tolist()) == {1, 2}
    assert abs(float((hidden == 2).double().mean()) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 10_000)
    model.label_dropout = 0.0
    assert model.hide_labels(label) is label


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"steps": 11}, "steps must be at most 10, those of the schedule, not 11"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"sampler": "euler"}, "sampler must be one of ancestral, ancestral_beta, ddim, heun, dpm2m, not 'euler'"),
        ({"guidance": 2.0}, "not conditioned on classes, so that nothing guides it: leave out guidance"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(options, sentence):
    model, x = Toy(most_steps=10, steps=10), torch.zeros(1, 2)
    for verb in (model.sample, model.trace):
        with pytest.raises(DataError, match=sentence):
            verb(1, **options)
    with pytest.raises(DataError, match=sentence):
        model.complete(x, torch.tensor([True, False]), **options)


def test_guidance_needs_data_without_labels():
    with pytest.raises(DataError, match="never saw data without labels"):
        Toy(classes=2).sample(1, guidance=2.0)
    with pytest.raises(DataError, match="guidance must be 0 or positive"):
        Toy(classes=2, label_dropout=0.1).sample(1, guidance=-1.0)
    assert Toy(classes=2).sample(1, guidance=1.0, seed=0).isfinite().all()


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(DataError, match=r"known has shape \(3,\), which does not broadcast to \(1, 2\)"):
        Toy().complete(torch.zeros(1, 2), torch.ones(3, dtype=torch.bool))
    assert Toy().complete(torch.zeros(0, 2), torch.tensor([True, False])).shape == (0, 2)


def test_a_denoiser_that_gives_nan_names_the_step():
    class Breaking(Exact):
        def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None) -> Tensor:
            x = super().forward(z, log_snr, label)
            return torch.where(log_snr[:, None] > 0, torch.nan, x)

    model = Toy()
    model.net = Breaking(0.5)
    # At log-SNRs -12, -4, 4, 12 and no noise: the third of the passes is the first to fail.
    with pytest.raises(ZooError, match="NaN or infinite values in step 3 of 4"):
        model.sample(2, steps=4, sampler="ddim")


def test_float64_is_kept():
    model = Toy().double()
    exact, rounded = (each.sample(3, seed=0, steps=7) for each in (model, Toy()))
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), rounded)
