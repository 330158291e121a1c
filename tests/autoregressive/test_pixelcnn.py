"""PixelCNN: causal, normalized, and its samples follow the distribution it reports."""

from __future__ import annotations

import json
import math

import pytest
import torch
from definitions import chi_square, disturb, every_image, order, some_images
from tiny_runs import sealed
from torch import Tensor
from torch.autograd.functional import jacobian

from zoo.autoregressive import PixelCNN
from zoo.errors import DataError
from zoo.nn.masked import CachedStep

GREY, RGB = (1, 3, 4), (3, 3, 4)
KERNELS = [1, 3, 5, 7]


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


def tiny(shape=GREY, levels=5, channels=6, blocks=2, **arguments) -> PixelCNN:
    """A model far from its initialization; masked weights are not zero."""
    model = PixelCNN(list(shape), levels, channels=channels, blocks=blocks, **arguments)
    return disturb(model)


def dependence(model: PixelCNN) -> Tensor:
    """(D, D) in the order of drawing: whether the distribution of a sub-pixel depends on a sub-pixel."""
    # Any of a few images, for at a single one a ReLU may hide what it does elsewhere.
    images = [model.net.encode(image[None]).detach() for image in some_images(model, 4)]
    found = torch.stack([jacobian(lambda x: model.net.logits(x)[0], x)[:, :, :, :, 0] for x in images])
    found = (found != 0).any(0).any(1)  # over images and levels: (C, H, W, C * features, H, W)
    found = found.unflatten(3, (model.spec.shape[0], -1)).any(4)
    place = order(model.spec.shape).flatten().argsort()
    return found.flatten(3).flatten(0, 2)[place][:, place]


# -- causality -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel_size", KERNELS)
@pytest.mark.parametrize(
    ("shape", "levels", "embedding"),
    [(GREY, 5, 0), (GREY, 2, 0), (RGB, 3, 0), (RGB, 2, 0), (GREY, 5, 4), (RGB, 3, 5)],
)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_sub_pixel_depends_on_all_before_it_and_on_nothing_else(shape, levels, embedding, kernel_size, activation):
    model = tiny(shape, levels, 8 * shape[0], kernel_size=kernel_size, embedding=embedding, activation=activation)
    masked = [module for module in model.net.modules() if hasattr(module, "mask_type")]
    assert all((m.weight[m.mask == 0] != 0).all() for m in masked), "the test needs tampered weights"
    # The 7x7 first layer sees all of an image this small, so there is no blind spot.
    before = torch.ones(model.spec.dims, model.spec.dims, dtype=torch.bool).tril(-1)
    assert torch.equal(dependence(model), before)


@pytest.mark.parametrize("embedding", [0, 5])
def test_a_value_has_no_say_in_what_comes_before_it(embedding):
    """The same with data: a changed sub-pixel changes its own probability and those after it."""
    model = tiny(RGB, 6, 24, embedding=embedding)
    place = order(RGB)
    (x,) = some_images(model, 1)
    for t in range(model.spec.dims):
        changed = torch.where(place == t, (x + 3) % 6, x)
        with torch.no_grad():
            before, after = model.net(torch.stack([x, changed]))
        assert torch.equal(before[place < t], after[place < t])
        assert (before[place >= t] != after[place >= t]).all()


def test_blocks_widen_the_view():
    shape = (1, 2, 9)
    before = torch.ones(18, 18, dtype=torch.bool).tril(-1)
    narrow, wide = (dependence(tiny(shape, blocks=2, kernel_size=k)) for k in (1, 3))
    assert not (narrow & ~before).any()
    assert not (wide & ~before).any()
    # In the first row the 7x7 layer reaches back 3 pixels, and each of two 3x3 layers one more.
    assert narrow[8, :9].tolist() == [j in (5, 6, 7) for j in range(9)]
    assert wide[8, :9].tolist() == [j in (3, 4, 5, 6, 7) for j in range(9)]


# -- likelihood ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "levels", "embedding"),
    [
        ((1, 2, 3), 2, 0),
        ((1, 3, 3), 2, 0),
        ((1, 2, 2), 5, 0),
        ((3, 1, 2), 3, 0),
        ((3, 2, 1), 3, 0),
        ((2, 2, 2), 2, 0),
        ((1, 2, 2), 5, 4),
        ((3, 1, 2), 3, 7),
    ],
)
def test_probabilities_sum_to_one(double, shape, levels, embedding):
    model = tiny(shape, levels, kernel_size=3, embedding=embedding).double()
    with torch.no_grad():
        log_prob = model.log_prob(every_image(shape, levels))
    assert log_prob.dtype == torch.float64
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert log_prob.std() > 0.1, "a uniform distribution would prove little"


@pytest.mark.parametrize(("shape", "levels", "embedding"), [(GREY, 5, 0), (RGB, 3, 0), (GREY, 2, 0), (RGB, 9, 6)])
def test_log_prob_is_the_product_of_the_conditionals(shape, levels, embedding):
    model = tiny(shape, levels, embedding=embedding)
    x = some_images(model, 3)
    with torch.no_grad():
        logits = model.net.logits(model.net.encode(x))  # (N, C, K, H, W)
        if levels == 2:
            logits = torch.cat([torch.zeros_like(logits), logits], 2)
        chosen = logits.log_softmax(2).gather(2, x[:, :, None].long())
        torch.testing.assert_close(model.log_prob(x), chosen.flatten(1).sum(1))
        torch.testing.assert_close(model.bits_per_dim(x), -model.log_prob(x) / (model.spec.dims * math.log(2)))
    assert model.likelihood == "exact"
    assert model.metric == ("nats" if levels == 2 else "bits_per_dim")


def test_an_image_does_not_depend_on_its_batch(double):
    model = tiny(RGB, 4).double()
    x = some_images(model, 5)
    with torch.no_grad():
        together = model.log_prob(x)
        torch.testing.assert_close(torch.cat([model.log_prob(image[None]) for image in x]), together)


# -- cached sampling -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel_size", KERNELS)
@pytest.mark.parametrize(
    ("shape", "levels", "embedding"),
    [
        ((1, 5, 6), 5, 0),
        ((3, 5, 4), 4, 0),
        ((1, 5, 6), 2, 0),
        ((1, 1, 1), 2, 0),
        ((1, 5, 6), 5, 4),
        ((3, 5, 4), 4, 5),
    ],
)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_cached_step_gives_the_logits_of_the_whole(double, shape, levels, embedding, kernel_size, activation):
    model = tiny(shape, levels, kernel_size=kernel_size, embedding=embedding, activation=activation).double()
    x, (colours, height, width) = some_images(model, 3), shape
    step = CachedStep(len(x), width)
    with torch.no_grad():
        whole = model.net.logits(model.net.encode(x))
        for i in range(height):
            step.begin_row(i)
            for j in range(width):
                step.begin_pixel(j)
                for c in range(colours):
                    step.colour = c
                    unseen = torch.full((len(x), 1), torch.nan, dtype=torch.float64)
                    stepped = model.net.logits(unseen, step)
                    torch.testing.assert_close(stepped, whole[:, c, :, i, j], rtol=0, atol=1e-10)
                    model.net.first.remember(model.net.encode(x[:, c, i, j], c), step)
            step.end_row()


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize("kernel_size", KERNELS)
@pytest.mark.parametrize(
    ("shape", "levels", "embedding"),
    [((1, 5, 6), 17, 0), ((3, 4, 5), 9, 0), ((1, 5, 6), 2, 0), ((3, 4, 5), 9, 4)],
)
def test_cached_and_plain_sampling_draw_the_same(shape, levels, embedding, kernel_size, seed):
    model = tiny(
        shape, levels, kernel_size=kernel_size, embedding=embedding, activation="gelu" if embedding else "relu"
    )
    cached = model.sample(3, seed=seed)
    assert torch.equal(cached, model.sample(3, seed=seed, cached=False))
    known = torch.rand(3, *shape) < 0.4
    completed = model.complete(cached, known, seed=seed + 1)
    assert torch.equal(completed, model.complete(cached, known, seed=seed + 1, cached=False))
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


# -- samples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "levels", "embedding"), [(GREY, 2, 0), (GREY, 5, 0), (RGB, 256, 0), (RGB, 256, 16)])
def test_samples_are_data_and_the_seed_decides(shape, levels, embedding):
    model = tiny(shape, levels, embedding=embedding)
    state = torch.get_rng_state()
    x = model.sample(6, seed=3)
    assert (x.dtype, tuple(x.shape)) == (torch.uint8, (6, *shape))
    model.spec.check(x)
    assert torch.equal(x, model.sample(6, seed=3))
    assert not torch.equal(x, model.sample(6, seed=4))
    assert not torch.equal(model.sample(6), model.sample(6)), "without a seed each call draws anew"
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(x[:3], x[3:])


def test_samples_can_be_changed():
    """They are the caller's: ordinary tensors, not ones that only inference mode may write to."""
    x = tiny().sample(2, seed=0)
    x[0] = 0


@pytest.mark.parametrize("training", [True, False])
def test_sampling_neither_trains_nor_drops(monkeypatch, training):
    model = tiny(dropout=0.9)
    expected = model.sample(3, seed=0)
    model.train(training)
    assert torch.equal(model.sample(3, seed=0), expected)
    assert torch.equal(model.complete(expected, torch.tensor(True)), expected)
    assert all(module.training == training for module in model.modules())
    monkeypatch.setattr(model.net, "logits", None)
    with pytest.raises(TypeError):
        model.sample(1)
    assert all(module.training == training for module in model.modules()), "also when it fails"


@pytest.mark.parametrize(
    ("shape", "levels", "embedding", "bound"),
    [  # the value that a chi-square variable with m - 1 degrees of freedom exceeds once in a thousand times
        ((1, 1, 2), 2, 0, 16.27),
        ((1, 2, 2), 2, 0, 37.70),
        ((3, 1, 1), 3, 0, 54.05),
        ((3, 1, 1), 3, 4, 54.05),
    ],
)
def test_samples_follow_the_distribution(shape, levels, embedding, bound):
    model = tiny(shape, levels, embedding=embedding)
    outcomes = every_image(shape, levels)
    with torch.no_grad():
        probabilities = model.log_prob(outcomes).exp()
    assert chi_square(model.sample(4000, seed=0), outcomes, probabilities) < bound
    wrong = probabilities.roll(1)
    assert chi_square(model.sample(4000, seed=0), outcomes, wrong) > bound, "the test can tell"


@pytest.mark.parametrize(
    ("shape", "levels", "kept"),
    [((1, 2, 2), 2, 2), ((1, 2, 2), 2, 1), ((1, 2, 2), 2, 3), ((3, 1, 2), 2, 4)],
    ids=["a row", "a pixel", "three pixels", "a pixel and the next one's red"],
)
def test_completions_follow_the_conditional_distribution(shape, levels, kept):
    model = tiny(shape, levels)
    known = order(shape) < kept
    outcomes = every_image(shape, levels)
    for prefix in outcomes[[0, -1, 5]]:
        possible = outcomes[((outcomes == prefix) | ~known).flatten(1).all(1)]
        assert len(possible) == levels ** (model.spec.dims - kept)
        with torch.no_grad():
            conditional = model.log_prob(possible).softmax(0)
        draws = model.complete(prefix.expand(2000, *shape), known, seed=7)
        bound = {2: 10.83, 4: 16.27, 8: 24.32}[len(possible)]
        assert chi_square(draws, possible, conditional) < bound


def test_unknown_pixels_are_not_looked_at():
    model = tiny(RGB, 5)
    known = torch.zeros(RGB, dtype=torch.bool)
    known[:, :1] = True
    x = some_images(model, 2)
    other = torch.where(known, x, some_images(model, 2))
    assert not torch.equal(other, x)
    assert torch.equal(model.complete(x, known, seed=0), model.complete(other, known, seed=0))
    nothing = torch.tensor(False)
    assert torch.equal(model.complete(x, nothing, seed=2), model.sample(2, seed=2))
    original = x.clone()
    model.complete(x, known, seed=0)
    assert torch.equal(x, original), "the argument is left as it was"


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["log_prob", "bits_per_dim", "complete"])
@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (
            torch.zeros(2, 1, 4, 3, dtype=torch.uint8),
            r"shape \(2, 1, 4, 3\); this model takes \(N, 1, 3, 4\)",
        ),
        (torch.zeros(1, 3, 4, dtype=torch.uint8), r"shape \(1, 3, 4\)"),
        (torch.zeros(2, *GREY), "dtype torch.float32; this model takes torch.uint8 with values 0..4"),
        (torch.zeros(2, *GREY, dtype=torch.int64), "dtype torch.int64"),
        (torch.full((2, *GREY), 5, dtype=torch.uint8), "values 5..5; this model takes 0..4"),
        ([[0]], "must be a torch tensor, not list"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_compute(monkeypatch, method, x, sentence):
    model = tiny()
    monkeypatch.setattr(model.net, "logits", None)  # calling it would be a TypeError
    arguments = [torch.ones(GREY, dtype=torch.bool)] if method == "complete" else []
    with pytest.raises(DataError, match=sentence) as caught:
        getattr(model, method)(x, *arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        (torch.ones(GREY), "known must be a boolean tensor, not torch.float32"),
        (torch.ones(4, 3, dtype=torch.bool), r"known has shape \(4, 3\), which does not broadcast"),
        (torch.ones(3, 1, 3, 4, dtype=torch.bool), r"known has shape \(3, 1, 3, 4\)"),
    ],
)
def test_a_bad_mask_is_refused(known, sentence):
    model = tiny()
    with pytest.raises(DataError, match=sentence):
        model.complete(some_images(model, 2), known)


@pytest.mark.parametrize("n", [0, -1])
def test_n_is_positive(n):
    with pytest.raises(DataError, match=f"n must be at least 1, not {n}"):
        tiny().sample(n)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"shape": [8, 8]}, r"shape must be \(C, H, W\) of positive sizes, not \[8, 8\]"),
        ({"shape": [1, 0, 8]}, r"not \[1, 0, 8\]"),
        ({"levels": 1}, "levels must be 2..256, not 1"),
        ({"levels": 257}, "levels must be 2..256, not 257"),
        ({"channels": 0}, "channels must be a positive multiple of the 1 colours, not 0"),
        ({"shape": [3, 8, 8], "channels": 32}, "multiple of the 3 colours, not 32"),
        ({"blocks": 0}, "blocks must be positive"),
        ({"kernel_size": 4}, "kernel_size odd, not 4 and 4"),
        ({"kernel_size": -1}, "kernel_size odd"),
        ({"embedding": 3}, "embedding must be 0, or at least 4 .* not 3"),
        ({"levels": 2, "embedding": 8}, "images of more than 2 levels, not 8"),
        ({"activation": "tanh"}, "activation must be one of relu, gelu, not 'tanh'"),
    ],
)
def test_bad_constructor_arguments(arguments, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        PixelCNN(**arguments)
    assert "\n" not in str(caught.value)


def test_arguments_are_plain_and_rebuild_the_model():
    model = tiny(RGB, 7, channels=6, blocks=3, kernel_size=5, dropout=0.25, activation="gelu")
    arguments = json.loads(json.dumps(dict(model.hparams)))
    other = PixelCNN(**arguments)
    other.load_state_dict(model.state_dict())
    x = some_images(model, 2)
    assert torch.equal(other.eval().log_prob(x), model.log_prob(x))
    assert other.spec == model.spec
    assert (model.spec.shape, model.spec.levels) == (RGB, 7)
