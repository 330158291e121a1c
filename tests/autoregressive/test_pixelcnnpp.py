"""PixelCNN++: causal, normalized, and its samples follow the distribution it reports, with either head."""

from __future__ import annotations

import json
import math

import pytest
import torch
from definitions import chi_square, disturb, every_image, order, some_images
from tiny_runs import sealed
from torch import Tensor
from torch.autograd.functional import jacobian

from zoo.autoregressive import PixelCNNPP
from zoo.autoregressive.logistic import LogisticHead, log_bin
from zoo.errors import DataError

GREY, RGB = (1, 3, 4), (3, 3, 4)
HEADS = ["logistic", "softmax"]


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


def tiny(shape=GREY, levels=5, head="softmax", **arguments) -> PixelCNNPP:
    """A model far from its initialization; masked weights are not zero."""
    usual = {"channels": 8, "blocks": 2, "heads": 2, "attention_every": 1, "mixtures": 3}
    model = PixelCNNPP(list(shape), levels, head=head, **{**usual, **arguments})
    return disturb(model)


def dependence(model: PixelCNNPP) -> Tensor:
    """(D, D) in the order of drawing: whether the distribution of a sub-pixel depends on a sub-pixel."""
    # Any of a few images, for at a single one the value may be at an end of a tanh or a clamp.
    images = [model.net.encode(image[None]).detach() for image in some_images(model, 2)]

    def function(x: Tensor) -> Tensor:
        logits = model.net.logits(x)[0]
        # One combination of the levels: what depends on nothing cancels, what depends on something does not.
        return (logits * torch.arange(1, 1 + logits.shape[1])[:, None, None].sqrt()).sum(1)

    found = torch.stack([jacobian(function, x)[:, :, :, 0] for x in images])
    found = (found != 0).any(0).unflatten(3, (model.spec.shape[0], -1)).any(4)  # (C, H, W, C, H, W)
    place = order(model.spec.shape).flatten().argsort()
    return found.flatten(3).flatten(0, 2)[place][:, place]


# -- causality -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention_every", [0, 1])
@pytest.mark.parametrize(
    ("shape", "levels", "head", "arguments"),
    [
        (GREY, 5, "softmax", {}),
        (RGB, 2, "softmax", {"gated": True}),
        (RGB, 3, "softmax", {"embedding": 5, "kernel_size": 5}),
        (GREY, 5, "logistic", {"embedding": 4}),
        (RGB, 9, "logistic", {}),
        (RGB, 9, "logistic", {"embedding": 5, "activation": "relu"}),
    ],
)
def test_a_sub_pixel_depends_on_all_before_it_and_on_nothing_else(shape, levels, head, arguments, attention_every):
    model = tiny(shape, levels, head, attention_every=attention_every, **arguments)
    # The 7x7 first layer sees all of an image this small, so there is no blind spot without attention either.
    before = torch.ones(model.spec.dims, model.spec.dims, dtype=torch.bool).tril(-1)
    assert torch.equal(dependence(model), before)


@pytest.mark.parametrize("head", HEADS)
def test_attention_sees_what_convolutions_do_not(head):
    shape = (1, 2, 9)
    before = torch.ones(18, 18, dtype=torch.bool).tril(-1)
    narrow, wide = (dependence(tiny(shape, 5, head, kernel_size=1, attention_every=every)) for every in (0, 2))
    # In the first row the 7x7 layer reaches back 3 pixels.
    assert narrow[8, :9].tolist() == [j in (5, 6, 7) for j in range(9)]
    assert not (narrow & ~before).any()
    assert torch.equal(wide, before)


@pytest.mark.parametrize(("head", "embedding"), [("logistic", 0), ("logistic", 5), ("softmax", 0), ("softmax", 5)])
def test_a_value_has_no_say_in_what_comes_before_it(head, embedding):
    """The same with data: a changed sub-pixel changes its own probability and those after it."""
    model = tiny(RGB, 6, head, embedding=embedding)
    place = order(RGB)
    (x,) = some_images(model, 1)
    for t in range(model.spec.dims):
        changed = torch.where(place == t, (x + 3) % 6, x)
        with torch.no_grad():
            before, after = model.net(torch.stack([x, changed]))
        # Components of a mixture are added and taken away again: equal but for rounding.
        torch.testing.assert_close(before[place < t], after[place < t], rtol=0, atol=1e-5)
        assert (before[place >= t] != after[place >= t]).all()


# -- the discretized logistic --------------------------------------------------------------------------------

MEANS = [-40.0, -1.0, -0.013, 0.0, 0.3, 0.999, 5.0]
LOG_SCALES = [-7.0, -3.0, 0.0, 7.0]


@pytest.mark.parametrize("levels", [3, 256])
@pytest.mark.parametrize("log_scale", LOG_SCALES)
def test_a_bin_has_the_mass_of_its_interval(levels, log_scale):
    """Against differences of the distribution function, in float64 where they are well conditioned."""
    half = (levels - 1) / 2
    mean = (torch.tensor(MEANS, dtype=torch.float64)[:, None] + 1) * half
    scale = math.exp(log_scale) * half
    value = torch.arange(levels, dtype=torch.float64)
    found = log_bin(value, mean, torch.tensor(math.log(scale), dtype=torch.float64), levels)
    upper, lower = (value + 0.5 - mean) / scale, (value - 0.5 - mean) / scale
    upper[:, -1], lower[:, 0] = math.inf, -math.inf
    # On the side of the mean where the distribution function is small.
    mirrored = lower > 0
    a, b = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
    expected = b.sigmoid() - a.sigmoid()
    well = expected > 1e-300
    assert well.any()
    torch.testing.assert_close(found.exp()[well], expected[well], rtol=1e-9, atol=0)
    # Where it is too small to subtract, the logarithm of the density is finite and falls with the distance.
    assert found.isfinite().all()
    torch.testing.assert_close(found.exp().sum(1), torch.ones(len(MEANS), dtype=torch.float64), rtol=0, atol=1e-9)


def test_bins_in_single_precision():
    half = 127.5
    mean = (torch.tensor(MEANS)[:, None, None] + 1) * half
    log_scale = torch.tensor(LOG_SCALES)[:, None] + math.log(half)
    single = log_bin(torch.arange(256.0), mean, log_scale, 256)
    exact = log_bin(torch.arange(256.0).double(), mean.double(), log_scale.double(), 256)
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(single.exp().sum(-1), torch.ones(len(MEANS), len(LOG_SCALES)), rtol=0, atol=1e-5)


def test_gradients_are_finite_everywhere():
    head = LogisticHead((3, 1, 1), 256, 8, 10, "gelu", 0)
    parameters = torch.randn(256, sum(head.sizes), 1, 1)
    parameters[::2] *= 100
    parameters.requires_grad_()
    x = torch.randint(0, 256, (256, 3, 1, 1))
    x[::3], x[1::3] = 0, 255
    head.log_prob(x, head.encode(x), parameters).sum().backward()
    assert parameters.grad.isfinite().all()
    assert (parameters.grad != 0).any(0).all(), "each parameter counts"


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_a_colour_has_a_distribution_given_those_before(double, size):
    """All levels of red, of green given red, of blue given both; also for extreme parameters."""
    head = LogisticHead((3, 1, 1), 6, 8, 4, "gelu", 0).double()
    parameters = (size * torch.randn(20, sum(head.sizes), 1, 1, dtype=torch.float64)).repeat_interleave(6**3, 0)
    x = every_image((3, 1, 1), 6).repeat(20, 1, 1, 1)
    log_prob = head.log_prob(x, head.encode(x), parameters).view(20, 6, 6, 6, 3)
    ones = torch.ones(20, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(log_prob[..., 2].exp().sum(3), ones, rtol=0, atol=1e-9)
    torch.testing.assert_close(log_prob[..., 0, 1].exp().sum(2), ones[..., 0], rtol=0, atol=1e-9)
    torch.testing.assert_close(log_prob[..., 0, 0, 0].exp().sum(1), ones[..., 0, 0], rtol=0, atol=1e-9)


def test_the_mixture_is_equations_1_to_3():
    """One component for all colours; green follows red, and blue follows both: one pixel at a time in float64."""
    head = LogisticHead((3, 1, 1), 256, 8, 2, "gelu", 0)
    parameters = torch.randn(5, sum(head.sizes), 1, 1)
    x = torch.randint(0, 256, (5, 3, 1, 1))
    x[0, 0], x[1, 1] = 0, 255
    found = head.log_prob(x, head.encode(x), parameters).flatten(1).sum(1)
    for p, (r, g, b), total in zip(parameters.flatten(1).double(), x.flatten(1).tolist(), found, strict=True):
        weight, means, scales, pairs = p[:2].softmax(0), p[2:8].view(3, 2) * head.unit, p[8:14].view(3, 2), p[14:]
        green_red, blue_red, blue_green = pairs.view(3, 2).tanh()
        red, green = r / 127.5 - 1, g / 127.5 - 1
        mean = torch.stack([means[0], means[1] + green_red * red, means[2] + blue_red * red + blue_green * green])

        def distribution(value: float, colour: int, k: int, mean=mean, scales=scales) -> float:
            """At the upper end of a value."""
            if value in (-1, 255):
                return float(value == 255)
            end = (value + 0.5) / 127.5 - 1
            return float(torch.sigmoid((end - mean[colour, k]) / scales[colour, k].exp()))

        mass = [
            math.prod(distribution(v, c, k) - distribution(v - 1, c, k) for c, v in enumerate((r, g, b)))
            for k in range(2)
        ]
        assert total.item() == pytest.approx(math.log(sum(w * m for w, m in zip(weight.tolist(), mass, strict=True))))


def test_components_start_side_by_side():
    """A new model is not far from uniform: no image costs much more than 8 bits."""
    model = PixelCNNPP([3, 4, 4], 256, channels=8, blocks=2)
    with torch.no_grad():
        bits = model.bits_per_dim(torch.arange(256, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4))
    assert bits.max() < 9
    assert bits.min() < 8 < bits.max() or bits.max() < 8


# -- likelihood ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "levels", "head", "embedding"),
    [
        ((1, 2, 3), 2, "softmax", 0),
        ((1, 3, 3), 2, "softmax", 0),
        ((1, 2, 2), 5, "softmax", 4),
        ((2, 2, 2), 2, "softmax", 0),
        ((3, 1, 2), 3, "softmax", 7),
        ((3, 2, 1), 3, "logistic", 0),
        ((1, 2, 2), 5, "logistic", 4),
        ((3, 1, 2), 4, "logistic", 5),
        ((2, 1, 2), 5, "logistic", 0),
    ],
)
def test_probabilities_sum_to_one(double, shape, levels, head, embedding):
    model = tiny(shape, levels, head, embedding=embedding).double()
    with torch.no_grad():
        log_prob = model.log_prob(every_image(shape, levels))
    assert log_prob.dtype == torch.float64
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert log_prob.std() > 0.1, "a uniform distribution would prove little"


@pytest.mark.parametrize(("head", "levels", "embedding"), [("softmax", 2, 0), ("softmax", 9, 6), ("logistic", 9, 6)])
def test_log_prob_is_the_product_of_the_conditionals(double, head, levels, embedding):
    model = tiny(RGB, levels, head, embedding=embedding).double()
    x = some_images(model, 3)
    with torch.no_grad():
        logits = model.net.logits(model.net.encode(x))  # (N, C, K, H, W)
        if levels == 2:
            logits = torch.cat([torch.zeros_like(logits), logits], 2)
        chosen = logits.log_softmax(2).gather(2, x[:, :, None].long())[:, :, 0]
        torch.testing.assert_close(model.net(x), chosen)
        torch.testing.assert_close(model.log_prob(x), chosen.flatten(1).sum(1))
        torch.testing.assert_close(model.bits_per_dim(x), -model.log_prob(x) / (model.spec.dims * math.log(2)))
    assert model.likelihood == "exact"


@pytest.mark.parametrize("head", HEADS)
def test_an_image_does_not_depend_on_its_batch(double, head):
    model = tiny(RGB, 4, head).double()
    x = some_images(model, 4)
    with torch.no_grad():
        together = model.log_prob(x)
        torch.testing.assert_close(torch.cat([model.log_prob(image[None]) for image in x]), together)


@pytest.mark.parametrize(("head", "embedding"), [("logistic", 8), ("softmax", 8), ("softmax", 0)])
def test_reduced_precision_stops_before_the_head(head, embedding):
    model = tiny(RGB, 256, head, embedding=embedding, dropout=0.2).train()
    x = some_images(model, 2)
    seen = {}
    model.net.head.head.register_forward_pre_hook(lambda _, inputs: seen.update(head=inputs[0].dtype))
    model.net.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.update(stream=inputs[0].dtype))
    model.net.blocks[0].conv.register_forward_hook(lambda _, inputs, output: seen.update(inside=output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.loss(x).mean()
    assert seen == {"head": torch.float32, "stream": torch.float32, "inside": torch.bfloat16}
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters()), "DDP waits for all"


@pytest.mark.parametrize("head", HEADS)
def test_the_network_is_one_graph(head):
    model = tiny(RGB, 9, head, embedding=4, dropout=0.1)
    x = some_images(model, 2)
    torch._dynamo.reset()
    compiled = torch.compile(model.net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model.net(x))


# -- cached sampling -----------------------------------------------------------------------------------------

DRAWN = [
    ((1, 4, 5), 5, "softmax", {}),
    ((3, 3, 4), 4, "softmax", {"embedding": 5, "kernel_size": 5}),
    ((3, 3, 4), 2, "softmax", {"gated": True}),
    ((1, 1, 1), 2, "softmax", {}),
    ((1, 4, 5), 5, "logistic", {"embedding": 4, "attention_every": 2}),
    ((3, 3, 4), 256, "logistic", {}),
    ((3, 4, 3), 9, "logistic", {"embedding": 5, "attention_every": 0}),
    ((2, 3, 3), 9, "logistic", {"gated": True}),
]


@pytest.mark.parametrize(("shape", "levels", "head", "arguments"), DRAWN)
def test_a_cached_step_gives_the_logits_of_the_whole(double, shape, levels, head, arguments):
    model = tiny(shape, levels, head, **arguments).double()
    x, (colours, height, width) = some_images(model, 3), shape
    step = model.net.begin(len(x))
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
                    model.net.remember(x[:, c, i, j], step)
            step.end_row()


@pytest.mark.parametrize("seed", [0, 12345])
@pytest.mark.parametrize(("shape", "levels", "head", "arguments"), DRAWN)
def test_cached_and_plain_sampling_draw_the_same(shape, levels, head, arguments, seed):
    model = tiny(shape, levels, head, **arguments)
    cached = model.sample(3, seed=seed)
    assert torch.equal(cached, model.sample(3, seed=seed, cached=False))
    known = torch.rand(3, *shape) < 0.4
    completed = model.complete(cached, known, seed=seed + 1)
    assert torch.equal(completed, model.complete(cached, known, seed=seed + 1, cached=False))
    assert torch.equal(completed[known], cached[known])


def test_the_body_runs_once_a_pixel():
    model = tiny((3, 2, 3), 5)
    runs = []
    model.net.blocks[0].register_forward_pre_hook(lambda *_: runs.append(1))
    model.sample(2, seed=0)
    assert len(runs) == 6


def test_memory_is_linear_in_the_batch():
    def bytes_of(n: int) -> int:
        model = tiny((1, 3, 6))
        model.sample(n, seed=0)
        return model.cache_bytes

    assert bytes_of(1) > 0
    assert [bytes_of(n) for n in (2, 4)] == [2 * bytes_of(1), 4 * bytes_of(1)]


# -- samples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "levels", "head"), [(GREY, 2, "softmax"), (RGB, 256, "softmax"), (GREY, 5, "logistic")]
)
def test_samples_are_data_and_the_seed_decides(shape, levels, head):
    model = tiny(shape, levels, head)
    state = torch.get_rng_state()
    x = model.sample(6, seed=3)
    assert (x.dtype, tuple(x.shape)) == (torch.uint8, (6, *shape))
    model.spec.check(x)
    assert torch.equal(x, model.sample(6, seed=3))
    assert not torch.equal(x, model.sample(6, seed=4))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("head", HEADS)
def test_sampling_does_not_drop(head):
    model = tiny(RGB, 5, head, dropout=0.9)
    expected = model.sample(3, seed=0)
    model.train()
    assert torch.equal(model.sample(3, seed=0), expected)
    x = some_images(model, 2)
    assert not torch.equal(model.log_prob(x), model.log_prob(x)), "training does"


@pytest.mark.parametrize(
    ("shape", "levels", "head", "bound"),
    [  # the value that a chi-square variable with m - 1 degrees of freedom exceeds once in a thousand times
        ((1, 2, 2), 2, "softmax", 37.70),
        ((3, 1, 1), 3, "softmax", 54.05),
        ((3, 1, 1), 3, "logistic", 54.05),
    ],
)
def test_samples_follow_the_distribution(shape, levels, head, bound):
    model = tiny(shape, levels, head)
    outcomes = every_image(shape, levels)
    with torch.no_grad():
        probabilities = model.log_prob(outcomes).exp()
    assert chi_square(model.sample(4000, seed=0), outcomes, probabilities) < bound
    wrong = probabilities.roll(1)
    assert chi_square(model.sample(4000, seed=0), outcomes, wrong) > bound, "the test can tell"


@pytest.mark.parametrize(("head", "levels", "kept"), [("softmax", 2, 4), ("logistic", 3, 4)])
def test_completions_follow_the_conditional_distribution(head, levels, kept):
    """A pixel is known, and of the next one red."""
    shape = (3, 1, 2)
    model = tiny(shape, levels, head)
    known = order(shape) < kept
    outcomes = every_image(shape, levels)
    for prefix in outcomes[[0, -1, 5]]:
        possible = outcomes[((outcomes == prefix) | ~known).flatten(1).all(1)]
        assert len(possible) == levels ** (model.spec.dims - kept)
        with torch.no_grad():
            conditional = model.log_prob(possible).softmax(0)
        draws = model.complete(prefix.expand(2000, *shape), known, seed=7)
        assert chi_square(draws, possible, conditional) < {4: 16.27, 9: 26.12}[len(possible)]


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["log_prob", "complete"])
@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.zeros(2, 1, 4, 3, dtype=torch.uint8), r"shape \(2, 1, 4, 3\); this model takes \(N, 1, 3, 4\)"),
        (torch.zeros(2, *GREY), "dtype torch.float32; this model takes torch.uint8 with values 0..4"),
        (torch.full((2, *GREY), 5, dtype=torch.uint8), "values 5..5; this model takes 0..4"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_compute(monkeypatch, method, x, sentence):
    model = tiny()
    monkeypatch.setattr(model.net, "encode", None)  # calling it would be a TypeError
    arguments = [torch.ones(GREY, dtype=torch.bool)] if method == "complete" else []
    with pytest.raises(DataError, match=sentence) as caught:
        getattr(model, method)(x, *arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"shape": [8, 8]}, r"shape must be \(C, H, W\) of positive sizes, not \[8, 8\]"),
        ({"levels": 257}, "levels must be 2..256, not 257"),
        ({"channels": 0}, "channels must be positive, not 0"),
        ({"channels": 20, "heads": 2}, "channels must be a multiple of 4 times the heads, not 20 with 2 heads"),
        ({"heads": 0}, "not 32 with 0 heads"),
        ({"attention_every": -1}, "attention_every must be 0, for none, to 4, the blocks, not -1"),
        ({"attention_every": 5}, "attention_every must be 0, for none, to 4, the blocks, not 5"),
        ({"blocks": 0}, "blocks must be positive"),
        ({"kernel_size": 4}, "kernel_size odd, not 4 and 4"),
        ({"embedding": 3}, "embedding must be 0, or at least 4 .* not 3"),
        ({"activation": "tanh"}, "activation must be one of relu, gelu, not 'tanh'"),
        ({"head": "gaussian"}, "head must be one of logistic, softmax, not 'gaussian'"),
        ({"mixtures": 0}, "at least 1 of mixtures, not 17 and 0"),
        ({"levels": 2}, "more than 2 levels .* for binary images set head to softmax"),
    ],
)
def test_bad_constructor_arguments(arguments, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        PixelCNNPP(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("head", HEADS)
def test_arguments_are_plain_and_rebuild_the_model(head):
    model = tiny(RGB, 7, head, blocks=3, kernel_size=5, dropout=0.25, gated=True, embedding=4, attention_every=3)
    arguments = json.loads(json.dumps(dict(model.hparams)))
    other = PixelCNNPP(**arguments)
    other.load_state_dict(model.state_dict())
    x = some_images(model, 2)
    assert torch.equal(other.eval().log_prob(x), model.log_prob(x))
    assert (other.spec.shape, other.spec.levels) == (RGB, 7)
