"""Gated PixelCNN: causal, without a blind spot, normalized for each label, and drawn as its likelihood says."""

from __future__ import annotations

import json
import math

import pytest
import torch
from definitions import chi_square, disturb, every_image, order, some_images
from tiny_runs import Patches, fit, sealed
from torch import Tensor
from torch.autograd.functional import jacobian

import zoo
from zoo.autoregressive import GatedPixelCNN, PixelCNN
from zoo.autoregressive.gated_pixelcnn import GATE_GAIN, RowsConv2d, gate
from zoo.data import Digits
from zoo.errors import DataError

GREY, RGB = (1, 3, 4), (3, 3, 4)


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


def tiny(shape=GREY, levels=5, classes=3, channels=6, blocks=2, **arguments) -> GatedPixelCNN:
    return disturb(GatedPixelCNN(list(shape), levels, classes, channels, blocks, **arguments))


def dependence(model, **conditions) -> Tensor:
    """(D, D) in the order of drawing: whether the distribution of a sub-pixel depends on a sub-pixel."""
    # In float64: far influences are small. Of a few images: at a single one a ReLU may hide what it does elsewhere.
    model = model.double()
    images = [model.net.encode(image[None]).detach().double() for image in some_images(model, 3)]
    found = [jacobian(lambda x: model.net.logits(x, **conditions)[0], x, vectorize=True)[:, :, :, :, 0] for x in images]
    found = (torch.stack(found) != 0).any(0).any(1)  # over images and levels: (C, H, W, C * features, H, W)
    found = found.unflatten(3, (model.spec.shape[0], -1)).any(4)
    place = order(model.spec.shape).flatten().argsort()
    return found.flatten(3).flatten(0, 2)[place][:, place]


# -- layers --------------------------------------------------------------------------------------------------


def test_the_gate_is_equation_2():
    x, y = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(gate(torch.cat([x, y], 1)), torch.tanh(x) * torch.sigmoid(y))
    red, green = torch.randn(2, 2, 4), torch.randn(2, 2, 4)
    torch.testing.assert_close(gate(torch.cat([red, green], 1), 2), torch.cat([gate(red), gate(green)], 1))


def test_a_layer_that_reads_a_gate_has_half_the_scale():
    x = gate(torch.randn(1, 2_000_000, dtype=torch.float64))
    assert GATE_GAIN * x.square().mean().sqrt().item() == pytest.approx(0.5, abs=0.0025)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_a_vertical_layer_sees_its_row_and_those_above(kernel_size):
    half, layer = kernel_size // 2, RowsConv2d(1, 1, kernel_size)
    seen = jacobian(layer, torch.randn(1, 1, 7, 7))[0, 0, 3, 3, 0, 0] != 0
    expected = torch.zeros(7, 7, dtype=torch.bool)
    expected[3 - half : 4, 3 - half : 4 + half] = True
    assert torch.equal(seen, expected)


# -- causality -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize(
    ("shape", "levels", "embedding"), [(GREY, 5, 0), (GREY, 2, 0), (RGB, 3, 0), (RGB, 2, 0), (GREY, 5, 4), (RGB, 3, 5)]
)
@pytest.mark.parametrize("classes", [0, 3])
def test_a_sub_pixel_depends_on_all_before_it_and_on_nothing_else(
    double, shape, levels, embedding, kernel_size, classes
):
    model = tiny(shape, levels, classes, 8 * shape[0], kernel_size=kernel_size, embedding=embedding)
    masked = [module for module in model.net.modules() if hasattr(module, "mask_type")]
    assert all((m.weight[m.mask == 0] != 0).all() for m in masked), "the test needs tampered weights"
    before = torch.ones(model.spec.dims, model.spec.dims, dtype=torch.bool).tril(-1)
    label = torch.tensor([1]) if classes else None
    assert torch.equal(dependence(model, label=label), before)


@pytest.mark.parametrize("shape", [(1, 2, 9), (3, 2, 7), (1, 7, 7)])
def test_there_is_no_blind_spot(double, shape):
    """On images larger than the first layers see; stacked 3x3 masks never see above and far to the right."""
    before = torch.ones(math.prod(shape), math.prod(shape), dtype=torch.bool).tril(-1)
    arguments = {"channels": 8 * shape[0], "blocks": 5, "kernel_size": 3}
    assert torch.equal(dependence(tiny(shape, 3, 0, **arguments)), before)
    masked = dependence(disturb(PixelCNN(list(shape), 3, **arguments)))
    assert not (masked & ~before).any()
    # The first pixel of the second row and the last one of the first.
    colours, _, width = shape
    assert not masked[width * colours, width * colours - 1]


def test_blocks_widen_the_view(double):
    shape = (1, 2, 9)
    views = [dependence(tiny(shape, 3, 0, blocks=2, kernel_size=k))[9] for k in (1, 3, 5)]
    # To the right in the row above: the 7x7 layers reach 3 pixels, and each of two blocks k // 2 more.
    assert [view[:9].nonzero().max().item() for view in views] == [3, 5, 7]


# -- likelihood ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "levels", "embedding"),
    [((1, 2, 3), 2, 0), ((1, 3, 3), 2, 0), ((1, 2, 2), 5, 0), ((3, 1, 2), 3, 0), ((3, 2, 1), 2, 0), ((3, 1, 2), 3, 7)],
)
def test_probabilities_sum_to_one_for_each_label_and_in_all(double, shape, levels, embedding):
    model = tiny(shape, levels, 3, 8 * shape[0], embedding=embedding).double()
    x = every_image(shape, levels)
    with torch.no_grad():
        each = torch.stack([model.log_prob(x, label=y) for y in range(3)])
        marginal = model.log_prob(x)
    assert marginal.dtype == torch.float64
    assert each.exp().sum(1).tolist() == pytest.approx([1, 1, 1], abs=1e-9)
    assert marginal.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert each.std(1).min() > 0.1, "a uniform distribution would prove little"
    # The definition: the mean of the probabilities over the labels.
    torch.testing.assert_close(marginal.exp(), each.exp().mean(0))
    total_variation = (each[0].exp() - each[1].exp()).abs().sum() / 2
    assert total_variation > 0.05, "the label changes the distribution"


def test_an_unconditional_model_sums_to_one(double):
    model = tiny((1, 3, 3), 2, 0).double()
    with torch.no_grad():
        assert model.log_prob(every_image((1, 3, 3), 2)).exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert model.protocol == ""


def test_each_image_has_its_own_label():
    model = tiny(RGB, 4)
    x = some_images(model, 4)
    labels = [2, 0, 1, 1]
    with torch.no_grad():
        expected = torch.cat([model.log_prob(image[None], label=y) for image, y in zip(x, labels, strict=True)])
        for label in (labels, torch.tensor(labels), torch.tensor(labels, dtype=torch.uint8)):
            torch.testing.assert_close(model.log_prob(x, label=label), expected)
        bits = model.bits_per_dim(x, label=labels)
        torch.testing.assert_close(bits, -expected / (model.spec.dims * math.log(2)))
        torch.testing.assert_close(model.negative_log_likelihood(x), -model.log_prob(x))
        torch.testing.assert_close(model.log_prob(x, label=1), model.log_prob(x, label=[1] * 4))
    assert model.protocol == "marginal over 3 equally likely classes"
    assert (model.likelihood, model.spec.classes) == ("exact", 3)


# -- drawing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize(
    ("shape", "levels", "embedding"),
    [((1, 5, 6), 5, 0), ((3, 5, 4), 4, 0), ((1, 5, 6), 2, 0), ((1, 1, 1), 2, 0), ((3, 5, 4), 4, 5)],
)
@pytest.mark.parametrize("classes", [0, 3])
def test_a_cached_step_gives_the_logits_of_the_whole(double, shape, levels, embedding, kernel_size, classes):
    model = tiny(shape, levels, classes, kernel_size=kernel_size, embedding=embedding).double()
    x, (colours, height, width) = some_images(model, 3), shape
    label = torch.tensor([2, 0, 1]) if classes else None
    step = model.net.begin(len(x))
    with torch.no_grad():
        whole = model.net.logits(model.net.encode(x), label=label)
        for i in range(height):
            step.begin_row(i)
            for j in range(width):
                step.begin_pixel(j)
                for c in range(colours):
                    step.colour = c
                    unseen = torch.full((len(x), 1), torch.nan, dtype=torch.float64)
                    stepped = model.net.logits(unseen, step, label=label)
                    torch.testing.assert_close(stepped, whole[:, c, :, i, j], rtol=0, atol=1e-10)
                    model.net.remember(x[:, c, i, j], step)
            step.end_row()


@pytest.mark.parametrize("seed", [0, 12345])
@pytest.mark.parametrize(("shape", "levels", "embedding"), [((1, 5, 6), 17, 0), ((3, 4, 5), 9, 4), ((1, 5, 6), 2, 0)])
@pytest.mark.parametrize(("classes", "label"), [(0, None), (3, None), (3, 2), (3, [1, 0, 2])])
def test_cached_and_plain_sampling_draw_the_same(shape, levels, embedding, classes, label, seed):
    model = tiny(shape, levels, classes, embedding=embedding)
    cached = model.sample(3, label=label, seed=seed)
    assert torch.equal(cached, model.sample(3, label=label, seed=seed, cached=False))
    known = torch.rand(3, *shape) < 0.4
    completed = model.complete(cached, known, label=label, seed=seed + 1)
    assert torch.equal(completed, model.complete(cached, known, label=label, seed=seed + 1, cached=False))
    assert torch.equal(completed[known], cached[known])
    assert not torch.equal(completed, cached)


def test_memory_is_linear_in_batch_and_layers():
    def bytes_of(n: int, blocks: int) -> int:
        model = tiny((1, 3, 6), blocks=blocks)
        model.sample(n, seed=0)
        return model.cache_bytes

    one = bytes_of(1, 2)
    assert one > 0
    assert [bytes_of(n, 2) for n in (2, 4)] == [2 * one, 4 * one]
    assert bytes_of(1, 6) - bytes_of(1, 4) == bytes_of(1, 4) - one > 0


def test_the_seed_and_the_label_decide():
    model, state = tiny(RGB, 256), torch.get_rng_state()
    x = model.sample(6, seed=3)
    model.spec.check(x)
    assert torch.equal(x, model.sample(6, seed=3))
    assert not torch.equal(x, model.sample(6, seed=4))
    assert not torch.equal(model.sample(6), model.sample(6)), "without a seed each call draws anew"
    assert not torch.equal(model.sample(6, label=0, seed=3), model.sample(6, label=1, seed=3))
    assert torch.equal(model.sample(6, label=1, seed=3), model.sample(6, label=torch.ones(6).long(), seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    x[0] = 0  # samples are the caller's, to change


def opinionated(shape, levels) -> GatedPixelCNN:
    """A model whose labels differ much in every pixel."""
    model = tiny(shape, levels, channels=8 * shape[0])
    with torch.no_grad():
        model.net.gate_bias.mul_(20)
        model.net.head.weight.mul_(2)
        probabilities = torch.stack([model.log_prob(every_image(shape, levels), label=y).exp() for y in range(3)])
    assert (probabilities.amax(0) - probabilities.amin(0)).sum() > 0.5
    return model


@pytest.mark.parametrize(
    ("shape", "levels", "bound"),  # what a chi-square variable with m - 1 degrees of freedom exceeds once in a thousand
    [((1, 2, 2), 2, 37.70), ((3, 1, 1), 3, 54.05)],
)
@pytest.mark.parametrize("label", [None, 0, 2])
def test_samples_follow_the_distribution(shape, levels, bound, label):
    model = opinionated(shape, levels)
    outcomes = every_image(shape, levels)
    with torch.no_grad():
        probabilities = model.log_prob(outcomes, label=label).exp()
    draws = model.sample(4000, label=label, seed=0)
    assert chi_square(draws, outcomes, probabilities) < bound
    assert chi_square(draws, outcomes, probabilities.roll(1)) > bound, "the test can tell"


def test_drawn_labels_are_equally_likely_and_independent_of_the_pixels_random_numbers(monkeypatch):
    model, labels = tiny(), []
    monkeypatch.setattr(model, "_draw", lambda *_, label: labels.append(label.item()))
    for seed in range(600):
        model.sample(1, seed=seed)
    labels = torch.tensor(labels)
    assert labels.bincount().tolist() == pytest.approx([200, 200, 200], abs=50)  # more than 4 standard deviations
    uniform = torch.stack(
        [torch.rand(GREY, generator=model.generator(seed), dtype=torch.float64) for seed in range(600)]
    )
    for y in range(3):  # a mean over some 200 images has a standard deviation of 0.02
        assert (uniform[labels == y].mean(0) - 0.5).abs().max() < 0.1


@pytest.mark.parametrize("label", [None, 1])
@pytest.mark.parametrize(("shape", "kept"), [((1, 2, 2), 2), ((1, 2, 2), 1), ((3, 1, 2), 4)])
def test_completions_follow_the_conditional_distribution(shape, kept, label):
    """Without a label, of the marginal: the label is drawn from its posterior given the known pixels."""
    model = opinionated(shape, 2)
    known = order(shape) < kept
    outcomes = every_image(shape, 2)
    for prefix in outcomes[[0, -1, 5]]:
        possible = outcomes[((outcomes == prefix) | ~known).flatten(1).all(1)]
        with torch.no_grad():
            conditional = model.log_prob(possible, label=label).softmax(0)
        draws = model.complete(prefix.expand(3000, *shape), known, label=label, seed=7)
        assert chi_square(draws, possible, conditional) < {4: 16.27, 8: 24.32}[len(possible)]


def test_unknown_pixels_are_not_looked_at():
    model = tiny(RGB, 5)
    known = order(RGB) < 7
    x = some_images(model, 4)
    other = torch.where(known, x, some_images(model, 4))
    assert not torch.equal(other, x)
    assert torch.equal(model.complete(x, known, seed=0), model.complete(other, known, seed=0))
    assert torch.equal(model.complete(x, torch.tensor(False), seed=2), model.sample(4, seed=2))
    assert torch.equal(model.complete(x, torch.tensor(True), seed=2), x)


@pytest.mark.parametrize("training", [True, False])
def test_drawing_neither_trains_nor_drops(training):
    model = tiny(dropout=0.9)
    known = order(GREY) < 5
    expected = model.sample(3, seed=0)
    completed = model.complete(expected, known, seed=1)
    model.train(training)
    assert torch.equal(model.sample(3, seed=0), expected)
    assert torch.equal(model.complete(expected, known, seed=1), completed)
    assert all(module.training == training for module in model.modules())


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["log_prob", "bits_per_dim", "sample", "complete"])
@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        (3, "label is 3; this model takes 0..2"),
        (-1, "label is -1; this model takes 0..2"),
        ([0, 5], "label is 0..5; this model takes 0..2"),
        ([0, 1, 2], r"label has shape \(3,\); give one integer, or 2 for 2 data"),
        (torch.zeros(2, 1, dtype=torch.int64), r"label has shape \(2, 1\)"),
        (torch.zeros(2), "label must be of integers 0..2, not of torch.float32"),
        (1.5, "label must be of integers"),
        (True, "label must be of integers 0..2, not of torch.bool"),
        ("cat", "There is no class 'cat'"),
    ],
)
def test_bad_labels_are_refused_before_any_compute(monkeypatch, method, label, sentence):
    model = tiny()
    monkeypatch.setattr(model.net, "logits", None)  # calling it would be a TypeError
    x, known = some_images(model, 2), torch.ones(GREY, dtype=torch.bool)
    arguments = {"sample": [2], "complete": [x, known]}.get(method, [x])
    with pytest.raises(DataError, match=sentence) as caught:
        getattr(model, method)(*arguments, label=label)
    assert "\n" not in str(caught.value)


def test_an_unconditional_model_takes_no_label():
    model = tiny(classes=0)
    for call in (lambda: model.sample(2, label=0), lambda: model.log_prob(some_images(model, 2), label=[0, 0])):
        with pytest.raises(DataError, match="made without classes: leave out the label"):
            call()


def test_images_and_counts_are_checked_too():
    model = tiny()
    with pytest.raises(DataError, match=r"shape \(2, 1, 4, 3\); this model takes \(N, 1, 3, 4\)"):
        model.log_prob(torch.zeros(2, 1, 4, 3, dtype=torch.uint8), label=0)
    with pytest.raises(DataError, match=r"values 5\.\.5; this model takes 0\.\.4"):
        model.log_prob(torch.full((2, *GREY), 5, dtype=torch.uint8))
    with pytest.raises(DataError, match="n must be at least 1, not 0"):
        model.sample(0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"classes": -1}, "classes must be 0 or the number of labels, not -1"),
        ({"shape": [3, 8, 8], "channels": 32}, "multiple of the 3 colours, not 32"),
        ({"blocks": 0}, "blocks must be positive"),
        ({"kernel_size": 4}, "kernel_size odd, not 4 and 4"),
        ({"levels": 2, "embedding": 8}, "images of more than 2 levels, not 8"),
    ],
)
def test_bad_constructor_arguments(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        GatedPixelCNN(**arguments)


# -- training ------------------------------------------------------------------------------------------------


def test_training_is_given_the_labels_and_validation_is_marginal(monkeypatch):
    model = tiny()
    monkeypatch.setattr(model, "log", lambda *_, **__: None)
    x, label = some_images(model, 4), torch.tensor([2, 0, 1, 1])
    with torch.no_grad():
        expected = model.bits_per_dim(x, label=label).mean()
        torch.testing.assert_close(model.training_step((x, label), 0), expected)
        assert model.training_step((x, label.roll(1)), 1) != expected
        torch.testing.assert_close(model.predict_step((x, label), 0), model.bits_per_dim(x))
        model.validation_step((x, label), 0)
        torch.testing.assert_close(model.val_mean.compute(), model.bits_per_dim(x).mean())
    with pytest.raises(DataError, match=r"label is -1\.\.-1; this model takes 0\.\.2"):
        model.training_step((x, torch.full((4,), -1)), 0)


def test_every_parameter_learns():
    """Of labels that occur; masked weights do not."""
    model = tiny(RGB, 5, channels=24, embedding=4).train()
    model.loss(some_images(model, 8), label=[0, 1] * 4).mean().backward()
    masks = {f"{name}.weight": module.mask for name, module in model.named_modules() if hasattr(module, "mask")}
    for name, parameter in model.named_parameters():
        learns = parameter.grad != 0
        if name == "net.gate_bias":
            assert learns[:2].all()
            assert not learns[2].any(), "no image has this label"
        elif name in masks:
            assert not learns[masks[name] == 0].any()
            assert learns[masks[name] != 0].float().mean() > 0.4, name  # the image is smaller than the 7x7 layer
        else:
            assert learns.float().mean() > 0.4, name


@pytest.mark.parametrize("classes", [0, 10])
def test_it_learns(tmp_path, classes):
    """A short run on the digits comes under half of a uniform model's bits."""
    model = GatedPixelCNN([1, 8, 8], 17, classes, channels=16, blocks=2, embedding=4, lr=0.01, warmup=5)
    model, trainer = fit(tmp_path, model=model, data=Digits(batch_size=64), max_steps=40, limit_val_batches=1)
    trained = trainer.callback_metrics["train_bits_per_dim"].item()
    assert trained < 0.75 * math.log2(17)
    assert trainer.callback_metrics["val_bits_per_dim"].item() < 0.75 * math.log2(17)


def test_other_labels_than_the_models_are_refused_in_training(tmp_path):
    """Before any compute; measuring needs no labels."""
    for data in (Patches(), Digits()):
        model = GatedPixelCNN(list(data.spec.shape), data.spec.levels, classes=7, channels=2, blocks=1)
        with pytest.raises(DataError, match="has 10 classes, but the model is conditioned on 7: set"):
            fit(tmp_path, model=model, data=data)
    wrong = GatedPixelCNN([1, 4, 4], 3, classes=10, channels=2, blocks=1)
    with pytest.raises(DataError, match="gives image data of shape"):
        fit(tmp_path, model=wrong)


# -- round trip ----------------------------------------------------------------------------------------------


def test_arguments_and_weights_rebuild_the_model(tmp_path):
    model = tiny(RGB, 7, kernel_size=5, dropout=0.25, embedding=4)
    other = GatedPixelCNN(**json.loads(json.dumps(dict(model.hparams))))
    other.load_state_dict(model.state_dict())
    x = some_images(model, 2)
    with torch.no_grad():
        assert torch.equal(other.eval().log_prob(x), model.log_prob(x))
    assert other.spec == model.spec
    saved = zoo.load(zoo.save(model, tmp_path / "gated-digits"))
    assert saved.spec == model.spec
    assert torch.equal(saved.sample(2, label=[0, 2], seed=0), model.sample(2, label=[0, 2], seed=0))


def test_the_network_is_one_graph():
    """It compiles without a break, with the labels as an input."""
    model = tiny(RGB, 5, embedding=4)
    x, label = some_images(model, 2), torch.tensor([0, 2])
    compiled = torch.compile(model.net, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, label=label), model.net(x, label=label))
        torch.testing.assert_close(compiled(x, label=label.flip(0)), model.net(x, label=label.flip(0)))
