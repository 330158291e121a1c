"""LAPGAN: the pyramid, what each scale depends on, samples, training and published weights."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import FewDigits, Stop, differences, fit, last
from torch import Tensor, nn

from zoo import metrics
from zoo.adversarial import LAPGAN
from zoo.adversarial.pyramid import analysis, enlarged, low_passes, synthesis
from zoo.batch import Batch
from zoo.callbacks.ema import EMA
from zoo.data import Digits
from zoo.errors import DataError, TrainingError
from zoo.hub import store
from zoo.nn.levels import from_unit, to_unit


def lapgan(**arguments) -> LAPGAN:
    """Of the digits, 4x4 and 8x8 with 17 levels; its residuals are not those of a fresh model, zero."""
    model = LAPGAN(**{"shape": [1, 8, 8], "levels": 17, "scales": 2, "latent_dim": 6, "channels": 8, **arguments})
    for generator in model.net.finer:
        nn.init.normal_(generator.last.weight, std=0.1)
    return model


def three(**arguments) -> LAPGAN:
    return lapgan(**{"shape": [3, 16, 24], "levels": 256, "scales": 3, **arguments})


def images(n: int, levels: int = 256, shape=(3, 16, 24)) -> Tensor:
    return torch.randint(0, levels, (n, *shape), dtype=torch.uint8)


def digits() -> Digits:
    return FewDigits(batch_size=16, validation=100)


class Given(nn.Module):
    """A generator that knows what it is to draw."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = images

    def forward(self, *_):
        return self.images


# -- the pyramid ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", [2, 3, 4])
def test_synthesis_is_the_inverse_of_analysis(scales):
    x = 2 * torch.rand(5, 3, 16, 24) - 1
    pyramid = analysis(x, scales)
    assert [tuple(image.shape[2:]) for image in pyramid] == [(16 >> i, 24 >> i) for i in reversed(range(scales))]
    torch.testing.assert_close(synthesis(pyramid), x, atol=1e-6, rtol=0)
    exact = x.double()
    torch.testing.assert_close(synthesis(analysis(exact, scales)), exact, atol=1e-15, rtol=0)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_data_come_back_to_the_value(levels):
    x = images(50, levels)
    assert torch.equal(from_unit(synthesis(analysis(to_unit(x, levels), 3)), levels), x)


def test_the_coarse_images_are_means_and_plain_areas_have_no_residual():
    x = torch.randn(2, 3, 8, 8)
    small, _, _ = analysis(x, 3)
    torch.testing.assert_close(small, x.unflatten(2, (2, 4)).unflatten(4, (2, 4)).mean((3, 5)))
    plain = analysis(torch.full((1, 1, 8, 8), 0.7), 3)
    assert [image.abs().max().item() for image in plain] == pytest.approx([0.7, 0, 0], abs=1e-6)


def test_the_low_pass_is_the_enlarged_coarser_image():
    x = torch.randn(2, 3, 8, 8)
    first, second = low_passes(analysis(x, 3))
    half = nn.functional.avg_pool2d(x, 2)
    torch.testing.assert_close(second, enlarged(half))
    torch.testing.assert_close(first, enlarged(nn.functional.avg_pool2d(half, 2)))


# -- what each scale depends on ------------------------------------------------------------------------------


def test_perfect_generators_draw_the_data():
    model, x = three().eval(), images(4)
    small, *residuals = analysis(to_unit(x, 256), 3)
    model.net.coarse = Given(small)
    model.net.finer = nn.ModuleList(Given(residual) for residual in residuals)
    assert torch.equal(model.decode(model.latents(4)), x)
    real = model.real(Batch(x))
    fake = model.fake(real, Batch(x))
    assert all(map(torch.equal, fake, real))
    assert model.critic(fake).equal(model.critic(real)), "the critics cannot tell"


def test_a_critic_sees_the_image_of_its_scale_and_the_low_pass():
    model, x = three(), images(2)
    whole = to_unit(x, 256)
    half = nn.functional.avg_pool2d(whole, 2)
    quarter = nn.functional.avg_pool2d(half, 2)
    expected = [quarter, torch.cat([half, enlarged(quarter)], 1), torch.cat([whole, enlarged(half)], 1)]
    for view, other in zip(model.real(Batch(x)), expected, strict=True):
        torch.testing.assert_close(view, other)


def test_coarse_images_do_not_depend_on_finer_noise():
    model = three().eval()
    z, others = model.latents(2, seed=0)
    assert model.latent_size == len(z) == 6 + 8 * 12 + 16 * 24
    ends = [6, 6 + 8 * 12, len(z)]
    with torch.no_grad():
        drawn = model.net(z[None])
        for scale, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            altered = z.clone()
            altered[begin:end] = others[begin:end]
            again = model.net(altered[None])
            same = [torch.equal(one, other) for one, other in zip(drawn, again, strict=True)]
            assert same == [i < scale for i in range(3)]


def test_a_scale_is_trained_on_its_own_distance_alone():
    model, batch = three(), Batch(images(2))
    outputs = model.critic(model.fake(model.real(batch), batch))
    assert outputs.shape == (2, 3)
    parts = [model.net.coarse, *model.net.finer], model.critic.critics
    for scale in range(3):
        model.zero_grad()
        outputs[:, scale].sum().backward(retain_graph=True)
        for networks in parts:
            moved = [any(p.grad is not None and p.grad.any() for p in network.parameters()) for network in networks]
            assert moved == [i == scale for i in range(3)]


def test_training_is_given_the_low_pass_of_the_data():
    model, seen = lapgan(), []
    model.net.finer[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    batch = Batch(images(3, 17, (1, 8, 8)))
    model.fake(model.real(batch), batch)
    torch.testing.assert_close(seen[0], enlarged(nn.functional.avg_pool2d(to_unit(batch.x, 17), 2)))


def test_samples_have_the_labels_of_the_low_pass_they_are_given():
    label = torch.tensor([3, 1, 4])
    assert lapgan(classes=10).fake_labels(label).equal(label)


# -- samples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [0, 10])
def test_a_seed_means_the_same_samples_and_nothing_else(classes):
    model = lapgan(classes=classes)
    state = torch.get_rng_state()
    x = model.sample(5, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    model.spec.check(x)
    assert x.shape == (5, 1, 8, 8)
    assert torch.equal(x, model.sample(5, seed=3))
    assert not torch.equal(x, model.sample(5, seed=4))
    if classes:
        assert not torch.equal(model.sample(5, seed=3, label=1), model.sample(5, seed=3, label=2))


def test_latents_decode_to_samples_and_have_ways_between_them():
    model = lapgan()
    z = model.latents(3, seed=0)
    assert z.shape == (3, 6 + 64)
    assert torch.equal(model.decode(z), model.sample(3, seed=0))
    assert torch.equal(model.interpolate(z[:2], z[1:], 4)[:, 0], model.decode(z[:2]))
    assert torch.equal(model.walk(3, 4, seed=0)[::4], model.decode(z))
    assert model.latents(3, truncation=0.5).abs().max() <= 0.5
    with pytest.raises(DataError, match=r"z has shape .*; this model takes \(N, 70\)"):
        model.decode(z[:, :6])


def test_batch_normalization_settles_on_what_is_drawn():
    """Not on the low-pass of the data, which it is given in training."""
    model, inside = lapgan(), []
    norm = model.net.finer[0].norm
    norm.register_forward_hook(lambda module, inputs, output: inside.append(inputs[0]))
    model.recalibrate_batch_norm()
    inside.clear()
    model.sample(2000, seed=1)
    values = torch.cat(inside)
    torch.testing.assert_close(norm.running_mean, values.mean((0, 2, 3)), rtol=0.05, atol=0.05)
    torch.testing.assert_close(norm.running_var, values.var((0, 2, 3)), rtol=0.1, atol=0.0)


# -- training ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_comes_closer_to_its_data(tmp_path):
    model, data = lapgan(channels=16, lr=2e-3), digits()
    data.setup("fit")
    real = data.val[0].flatten(1).float()

    def distance() -> Tensor:
        return metrics.energy_distance(model.sample(300, seed=0).flatten(1).float(), real)

    before = distance()
    fit(tmp_path, model=model, data=data, max_steps=150)
    model.recalibrate_batch_norm()
    assert distance() < before / 4


@pytest.mark.parametrize("arguments", [{"critic_steps": 2}, {"classes": 10}])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, arguments):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for folder, end in ((whole, None), (pieces, 3)):
        torch.manual_seed(1)
        stop = [Stop(end)] if end else []
        fit(folder, EMA(0.9), *stop, model=lapgan(decay=True, **arguments), data=digits(), max_steps=7)
    torch.manual_seed(2)
    path = pieces / "checkpoints" / "last.ckpt"
    fit(pieces, EMA(0.9), model=lapgan(decay=True, **arguments), data=digits(), max_steps=7, ckpt_path=path)
    assert not list(differences(last(whole), last(pieces)))
    assert last(whole)["global_step"] == 7


def test_a_collapsed_small_image_stops_the_run(tmp_path):
    model = lapgan()
    model.net.coarse = Given(torch.zeros(16, 1, 4, 4))
    with pytest.raises(TrainingError, match="All samples of optimizer step 1 are alike"):
        fit(tmp_path, model=model, data=digits(), max_steps=3)


# -- published weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [0, 10])
def test_published_weights_draw_what_they_drew(classes, tmp_path):
    model = lapgan(classes=classes, distance="jensen_shannon", options={"saturating": True})
    folder = store.save(model, tmp_path / "lapgan-digits", dtype="float32")
    again = store.load(folder)
    assert type(again) is LAPGAN
    assert torch.equal(again.sample(4, seed=0), model.sample(4, seed=0))
    assert again.critic.state_dict().keys() == model.critic.state_dict().keys(), "for fine-tuning"


def test_its_arguments_are_its_own():
    """Those that it leaves out of a GAN's would keep a run from being exported."""
    hparams = lapgan().hparams
    assert LAPGAN(**hparams).hparams == hparams
    assert "network" not in hparams


def test_each_scale_may_have_channels_of_its_own():
    model = three(channels=[8, 12, 4], critic_channels=[4, 6, 10])
    assert [generator.last.in_channels for generator in (model.net.coarse, *model.net.finer)] == [8, 12, 4]
    assert [critic.blocks[0].conv1.out_channels for critic in model.critic.critics] == [4, 6, 10]
    same = three(channels=[8, 12, 4])
    assert [critic.blocks[0].conv1.out_channels for critic in same.critic.critics] == [8, 12, 4]
    assert three(channels=(8, 12, 4)).sample(1, seed=0).shape == (1, 3, 16, 24)


def test_a_cifar_model_is_small():
    model = LAPGAN([3, 32, 32])
    assert 2 * sum(value.numel() for value in model.state_dict().values()) <= 6 * 2**20


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"scales": 1}, "scales must be at least 2"),
        ({"shape": [1, 12, 10], "scales": 3}, "12 x 10 pixels cannot be halved 2 times"),
        ({"scales": 4}, "8 x 8 pixels cannot be halved 3 times, to 2 x 2 or more"),
        ({"shape": [8]}, "shape must be"),
        ({"distance": "energy"}, "energy is one of features, but the critics of LAPGAN give one number each"),
        ({"distance": "far"}, "distance must be one of"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"channels": [8, 0]}, "channels must be at least 1"),
        ({"channels": [8, 8, 8]}, r"channels must be one number, or 2, one for each scale, not \[8, 8, 8\]"),
        ({"critic_channels": [8]}, r"critic_channels must be one number, or 2, one for each scale, not \[8\]"),
        ({"critic_steps": 0}, "critic_steps must be at least 1"),
    ],
)
def test_what_makes_no_model_is_refused(arguments, said):
    with pytest.raises(DataError, match=said) as caught:
        lapgan(**arguments)
    assert "\n" not in str(caught.value)
