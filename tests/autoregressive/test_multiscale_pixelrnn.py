"""Multi-scale PixelRNN: the small image sees itself alone, all else sees all of it; together one distribution."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from definitions import chi_square, every_image
from test_pixelrnn import before, disturb, some_images
from tiny_runs import fit, sealed
from torch import Tensor
from torch.autograd.functional import jacobian

import zoo
from zoo.autoregressive import MultiScalePixelRNN, PixelRNN
from zoo.autoregressive.multiscale_pixelrnn import Upsampling
from zoo.data import Digits
from zoo.errors import DataError

# No wider: the 7x7 layer at the start of a row sees the end of the row above.
GREY, RGB = (1, 6, 4), (3, 4, 4)
LAYERS = pytest.mark.parametrize("layer", ["row", "diagonal"])


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


def tiny(shape=GREY, levels=5, scale=2, layer="row", channels=6, **arguments) -> MultiScalePixelRNN:
    sizes = {"layers": 2, "small_channels": 3, "small_layers": 1, **arguments}
    return disturb(MultiScalePixelRNN(list(shape), levels, scale, layer, channels, **sizes))


def on_grid(shape, scale: int) -> Tensor:
    """(C, H, W): whether a sub-pixel belongs to the small image."""
    _, height, width = shape
    rows, columns = torch.arange(height) % scale == 0, torch.arange(width) % scale == 0
    return (rows[:, None] & columns).expand(shape)


def drawn_before(shape, scale: int) -> Tensor:
    """(C, H, W, D): whether the second sub-pixel is drawn before the first."""
    grid, earlier = on_grid(shape, scale), before(shape)
    return torch.where(grid[..., None], earlier & grid.flatten(), earlier | grid.flatten())


def smooth(*arguments, **more) -> MultiScalePixelRNN:
    """Without ReLUs: the few of a colour could hide, at all of a few images, what reaches them."""
    model = tiny(*arguments, small_channels=6, activation="gelu", **more).double()
    masked = [module for module in model.net.modules() if hasattr(module, "mask_type")]
    assert all((m.weight[m.mask == 0] != 0).all() for m in masked), "the test needs tampered weights"
    return model


# -- causality -----------------------------------------------------------------------------------------------


@LAYERS
@pytest.mark.parametrize(
    ("shape", "levels", "scale", "embedding"),
    [(GREY, 5, 2, 0), (GREY, 2, 2, 0), (RGB, 3, 2, 5), (RGB, 2, 4, 0), ((1, 6, 3), 4, 3, 0)],
)
def test_an_image_is_drawn_small_first_and_then_in_raster_order(double, layer, shape, levels, scale, embedding):
    """By changing a sub-pixel: the log-probabilities that move are those of all drawn after it, and of no other."""
    model = smooth(shape, levels, scale, layer, embedding=embedding)
    dims, found = math.prod(shape), torch.zeros(*shape, math.prod(shape), dtype=torch.bool)
    with torch.no_grad():
        for image in some_images(model, 4):
            for change in range(1, levels):
                changed = (image + change * torch.eye(dims, dtype=torch.uint8).view(-1, *shape)) % levels
                moved = (model.net(changed) - model.net(image[None])).abs() > 1e-13
                found |= moved.permute(1, 2, 3, 0)
    found.view(dims, dims).fill_diagonal_(False)  # the probability of a value depends on the value
    assert torch.equal(found, drawn_before(shape, scale))


@LAYERS
@pytest.mark.parametrize(("shape", "levels", "scale"), [(GREY, 5, 2), (RGB, 3, 2)])
def test_distributions_depend_on_what_was_drawn_before(double, monkeypatch, layer, shape, levels, scale):
    """By Jacobian, of both networks as functions of the encoded image."""
    model, grid = smooth(shape, levels, scale, layer), on_grid(shape, scale)
    images = [model.net.large.encode(image[None]) for image in some_images(model, 2)]
    monkeypatch.setattr(model.net.large, "encode", lambda x: x)

    def dependence(logits) -> Tensor:
        found = torch.stack([jacobian(logits, x)[0, ..., 0, :, :, :] for x in images])
        return (found != 0).any(0).any(1).flatten(3)

    large = dependence(lambda x: model.net.large.logits(x, small=model.net.subsample(x)))
    expected = drawn_before(shape, scale)
    assert torch.equal(large[~grid], expected[~grid])
    small = dependence(lambda x: model.net.small.logits(model.net.subsample(x)))
    assert torch.equal(small, model.net.subsample(expected.permute(3, 0, 1, 2)).permute(1, 2, 3, 0))


# -- likelihood ----------------------------------------------------------------------------------------------


@LAYERS
@pytest.mark.parametrize(
    ("shape", "levels", "scale", "embedding"),
    [((1, 2, 4), 2, 2, 0), ((1, 4, 4), 2, 2, 0), ((1, 3, 3), 2, 3, 0), ((1, 2, 2), 5, 2, 4), ((3, 2, 2), 2, 2, 0)],
)
def test_probabilities_sum_to_one_and_over_large_images_to_that_of_the_small_one(
    double, layer, shape, levels, scale, embedding
):
    colours, height, width = shape
    sizes = {"channels": 2 * colours, "layers": 1, "small_channels": colours}
    model = tiny(shape, levels, scale, layer, embedding=embedding, **sizes).double()
    alone = PixelRNN([colours, height // scale, width // scale], levels, layer, colours, 1, embedding=embedding)
    alone.net.load_state_dict(model.net.small.state_dict())
    x = every_image(shape, levels)
    with torch.no_grad():
        log_prob = torch.cat([model.log_prob(part) for part in x.split(8192)])
        images, which = model.small(x).unique(dim=0, return_inverse=True)
        expected = alone.double().log_prob(images).exp()
    assert log_prob.dtype == torch.float64
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert log_prob.std() > 0.1, "a uniform distribution would prove little"
    marginal = torch.zeros_like(expected).index_add_(0, which, log_prob.exp())
    torch.testing.assert_close(marginal, expected, rtol=0, atol=1e-9)
    assert model.likelihood == "exact"


@LAYERS
def test_an_image_does_not_depend_on_its_batch(double, layer):
    model = tiny(RGB, 4, layer=layer).double()
    x = some_images(model, 5)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat([model.log_prob(image[None]) for image in x]), model.log_prob(x))


@pytest.mark.parametrize("scale", [2, 3])
def test_upsampling_is_a_transposed_convolution(scale):
    conv = Upsampling(3, 4, scale, "relu").widen
    x = torch.randn(2, 4, 3, 5)
    # The tap of offset d, in -1..1, and sub-row a is at s * (1 - d) + a of the transposed kernel; columns alike.
    kernel = conv.weight.unflatten(0, (4, scale, scale)).flip(4, 5)  # (out, a, b, in, d, e)
    kernel = kernel.permute(3, 0, 4, 1, 5, 2).reshape(4, 4, 3 * scale, 3 * scale)
    expected = F.conv_transpose2d(x, kernel, conv.bias[:: scale * scale], stride=scale, padding=scale)
    torch.testing.assert_close(F.pixel_shuffle(conv(x), scale), expected, rtol=0, atol=1e-5)


# -- training ------------------------------------------------------------------------------------------------


@LAYERS
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_every_parameter_is_trained(layer, precision):
    """In float32 and with automatic bfloat16: DDP waits for the gradient of each parameter."""
    model = tiny(RGB, 6, layer=layer, embedding=4).train()
    with torch.autocast("cpu", precision, enabled=precision is not None):
        loss = model.loss(some_images(model, 4)).mean()
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    with torch.no_grad():
        model.eval()
        x = some_images(model, 4)
        with torch.autocast("cpu", precision, enabled=precision is not None):
            rounded = model.log_prob(x)
        torch.testing.assert_close(rounded, model.log_prob(x), rtol=0.02, atol=0)


@pytest.mark.slow
@LAYERS
def test_the_network_compiles_as_one_graph(layer):
    model = tiny(RGB, 6, layer=layer, layers=1)
    x = some_images(model, 2)
    loss = model.loss(x).sum()
    expected = torch.autograd.grad(loss, list(model.parameters()))
    model.net.compile(fullgraph=True, backend="aot_eager")
    compiled = model.loss(x).sum()
    torch.testing.assert_close(compiled, loss)
    torch.testing.assert_close(torch.autograd.grad(compiled, list(model.parameters())), expected)


def test_grey_images_do_not_blow_up_the_first_gradient():
    """Without a bias, an image of the middle level has no features to normalize."""
    model = MultiScalePixelRNN([1, 8, 8], 17, channels=6, layers=2, small_channels=6, small_layers=2)
    model.loss(torch.full((4, 1, 8, 8), 8, dtype=torch.uint8)).mean().backward()
    norms = {name: float(p.grad.norm()) for name, p in model.named_parameters()}
    assert max(norms.values()) < 10, max(norms, key=norms.get)


def test_muon_takes_the_unmasked_weights_too():
    model = MultiScalePixelRNN(list(GREY), 5, optimizer="muon")
    groups = model.configure_optimizers()["optimizer"].param_groups
    orthogonal = {id(p) for group in groups if group.get("orthogonal") for p in group["params"]}
    convolutions = [m.weight for m in model.net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 5 + 4
    assert {id(weight) for weight in convolutions} <= orthogonal


def test_it_learns(tmp_path):
    """A short run on the digits comes well under a uniform model's bits."""
    sizes = {"channels": 12, "layers": 1, "small_channels": 8, "small_layers": 1}
    model = MultiScalePixelRNN(**sizes, embedding=4, lr=0.01, warmup=5)
    _, trainer = fit(tmp_path, model=model, data=Digits(batch_size=64), max_steps=40, limit_val_batches=1)
    assert trainer.callback_metrics["train_bits_per_dim"].item() < 0.75 * math.log2(17)
    assert trainer.callback_metrics["val_bits_per_dim"].item() < 0.75 * math.log2(17)


# -- drawing -------------------------------------------------------------------------------------------------


@LAYERS
@pytest.mark.parametrize(
    ("shape", "levels", "scale", "embedding"),
    [(GREY, 5, 2, 0), (RGB, 4, 2, 5), ((1, 4, 8), 2, 4, 0), ((1, 2, 2), 2, 2, 0), ((3, 3, 6), 3, 3, 0)],
)
def test_a_cached_step_gives_the_logits_of_the_whole(double, layer, shape, levels, scale, embedding):
    model = tiny(shape, levels, scale, layer, embedding=embedding).double()
    net, x = model.net.large, some_images(model, 3)
    colours, height, width = shape
    small, step = some_images(model, 3)[:, :, ::scale, ::scale], net.begin(len(x))
    with torch.no_grad():
        whole = net.logits(net.encode(x), small=small)
        for i in range(height):
            step.begin_row(i)
            for j in range(width):
                step.begin_pixel(j)
                for c in range(colours):
                    step.colour = c
                    unseen = torch.full((len(x), 1), torch.nan, dtype=torch.float64)
                    stepped = net.logits(unseen, step, small=small)
                    torch.testing.assert_close(stepped, whole[:, c, :, i, j], rtol=0, atol=1e-10)
                    net.remember(x[:, c, i, j], step)
            step.end_row()


@LAYERS
@pytest.mark.parametrize(
    ("shape", "levels", "scale", "embedding"), [(GREY, 17, 2, 0), (RGB, 9, 2, 4), ((1, 4, 8), 2, 4, 0)]
)
def test_cached_and_plain_sampling_draw_the_same(layer, shape, levels, scale, embedding):
    model = tiny(shape, levels, scale, layer, embedding=embedding, dropout=0.5)
    cached = model.sample(3, seed=1)
    assert torch.equal(cached, model.sample(3, seed=1, cached=False))
    assert not torch.equal(cached, model.sample(3, seed=2))
    known = torch.rand(3, *shape) < 0.4
    completed = model.complete(cached, known, seed=2)
    assert torch.equal(completed, model.complete(cached, known, seed=2, cached=False))
    assert torch.equal(completed[known], cached[known])
    assert not torch.equal(completed, cached)


@LAYERS
def test_the_small_image_is_drawn_first_and_kept(layer):
    """By the small network alone: another large one draws other images around the same small ones."""
    model = tiny(RGB, 9, layer=layer)
    x = model.sample(4, seed=0)
    assert torch.equal(model.small(x), x[:, :, ::2, ::2])
    disturb(model.net.large)
    other = model.sample(4, seed=0)
    assert torch.equal(model.small(other), model.small(x))
    assert not torch.equal(other, x)
    disturb(model.net.small)
    assert not torch.equal(model.small(model.sample(4, seed=0)), model.small(x))


def opinionated(shape, levels) -> MultiScalePixelRNN:
    """A model far from uniform."""
    model = tiny(shape, levels, channels=4 * shape[0])
    with torch.no_grad():
        model.net.large.head.weight.mul_(2)
    return model


# What a chi-square variable with m - 1 degrees of freedom exceeds once in a thousand, by m.
BOUNDS = {4: 16.27, 16: 37.70, 32: 61.10, 64: 103.44, 256: 330.52}


@pytest.mark.parametrize(("shape", "levels"), [((1, 2, 2), 2), ((1, 2, 4), 2), ((3, 2, 2), 2)])
def test_samples_follow_the_distribution(shape, levels):
    model = opinionated(shape, levels)
    x = every_image(shape, levels)
    with torch.no_grad():
        p = model.log_prob(x).exp()
    draws = model.sample(5000, seed=0)
    if shape[0] == 3:  # 4096 images are too many: look at the last two pixels and the small one's red
        looked_at = torch.zeros(shape, dtype=torch.bool)
        looked_at[0, 0, 0] = looked_at[:, 1, 1] = looked_at[:2, 1, 0] = True
        draws, x = draws[:, looked_at], x[:, looked_at]
        x, which = x.unique(dim=0, return_inverse=True)
        p = torch.zeros(len(x)).index_add_(0, which, p)
    assert chi_square(draws, x, p) < BOUNDS[len(x)]
    assert chi_square(draws, x, p.roll(1)) > BOUNDS[len(x)], "the test can tell"


@pytest.mark.parametrize(
    "known",
    [
        [[1, 0, 1, 0], [0, 0, 0, 0]],  # the small image: super-resolution
        [[1, 1, 1, 1], [1, 1, 0, 0]],  # and a prefix of the raster order
        [[1, 0, 0, 0], [0, 0, 0, 0]],  # a prefix of the small image
    ],
)
def test_completions_of_a_small_image_follow_the_conditional_distribution(known):
    model, known = opinionated((1, 2, 4), 2), torch.tensor(known, dtype=torch.bool)[None]
    outcomes = every_image((1, 2, 4), 2)
    for start in outcomes[[0, -1, 77]]:
        possible = outcomes[((outcomes == start) | ~known).flatten(1).all(1)]
        with torch.no_grad():
            conditional = model.log_prob(possible).softmax(0)
        draws = model.complete(start.expand(4000, 1, 2, 4), known, seed=7)
        if len(possible) == 128:  # expectations of a few: look at the small image and the pixels below it
            possible, which = possible.view(-1, 2, 4)[:, :, [0, 2]].unique(dim=0, return_inverse=True)
            conditional = torch.zeros(len(possible)).index_add_(0, which, conditional)
            draws = draws.view(-1, 2, 4)[:, :, [0, 2]]
            assert chi_square(draws, possible, conditional) < {8: 24.32}[len(possible)]
        else:
            assert chi_square(draws, possible, conditional) < BOUNDS[len(possible)]


def test_what_a_completion_looks_at():
    """The small image looks at its own known pixels alone; nothing looks at unknown ones."""
    model = tiny(RGB, 9)
    known = torch.zeros(RGB, dtype=torch.bool)
    known[:, :2] = True
    x = some_images(model, 4)
    other = torch.where(known, x, some_images(model, 4))
    drawn = model.complete(x, known, seed=0)
    assert not torch.equal(other, x)
    assert torch.equal(drawn, model.complete(other, known, seed=0))
    off_grid = torch.where(on_grid(RGB, 2), x, some_images(model, 4))
    again = model.complete(off_grid, known, seed=0)
    assert torch.equal(model.small(again), model.small(drawn))
    assert not torch.equal(again[:, :, 2:], drawn[:, :, 2:]), "the others look at all before them"
    assert torch.equal(model.complete(x, torch.tensor(False), seed=2), model.sample(4, seed=2))
    assert torch.equal(model.complete(x, torch.tensor(True), seed=2), x)


def test_the_masks_and_images_of_the_caller_stay_as_they_are():
    model = tiny(GREY, 5)
    known, x = torch.rand(2, *GREY) < 0.5, some_images(model, 2)
    given = known.clone(), x.clone()
    completed = model.complete(x, known, seed=0)
    assert torch.equal(known, given[0])
    assert torch.equal(x, given[1])
    model.small(completed).zero_()
    assert torch.equal(completed, model.complete(x, known, seed=0))


@LAYERS
def test_memory_is_linear_in_the_batch(layer):
    model, bytes_of = tiny((1, 4, 6), layer=layer), {}
    for n in (1, 2, 4):
        model.sample(n, seed=0)
        bytes_of[n] = model.cache_bytes
    assert bytes_of[1] > 0
    assert [bytes_of[2], bytes_of[4]] == [2 * bytes_of[1], 4 * bytes_of[1]]


@pytest.mark.parametrize("training", [True, False])
def test_drawing_neither_trains_nor_drops(training):
    model, state = tiny(dropout=0.9), torch.get_rng_state()
    expected = model.sample(3, seed=0)
    model.train(training)
    assert torch.equal(model.sample(3, seed=0), expected)
    assert all(module.training == training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


# -- refusals and round trip ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["log_prob", "small"])
@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.zeros(2, 1, 4, 6, dtype=torch.uint8), r"shape \(2, 1, 4, 6\); this model takes \(N, 1, 6, 4\)"),
        (torch.zeros(2, *GREY), "dtype torch.float32; this model takes torch.uint8 with values 0..4"),
        (torch.full((2, *GREY), 5, dtype=torch.uint8), "values 5..5; this model takes 0..4"),
    ],
)
def test_what_does_not_fit_is_refused(method, x, sentence):
    with pytest.raises(DataError, match=sentence):
        getattr(tiny(), method)(x)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"scale": 1}, "scale must be at least 2 and divide the 8 rows and 8 columns, not 1"),
        ({"scale": 0}, "at least 2 .*, not 0"),
        ({"scale": -2}, "at least 2 .*, not -2"),
        ({"scale": 3}, "divide the 8 rows and 8 columns, not 3"),
        ({"shape": [1, 8, 9]}, "divide the 8 rows and 9 columns, not 2"),
        ({"shape": [1, 9, 8]}, "divide the 9 rows and 8 columns, not 2"),
        ({"shape": [8, 8]}, r"shape must be \(C, H, W\) of positive sizes, not \[8, 8\]"),
        ({"layer": "column"}, "layer must be one of row, diagonal, not 'column'"),
        ({"channels": 0}, "channels must be a positive multiple of the 1 colours, not 0"),
        ({"shape": [3, 8, 8], "channels": 6}, "small_channels must be a positive multiple of the 3 colours, not 32"),
        ({"small_channels": 0}, "small_channels must be a positive multiple of the 1 colours, not 0"),
        ({"layers": 0}, "layers must be positive, not 0"),
        ({"small_layers": 0}, "small_layers must be positive, not 0"),
        ({"dropout": 1.5}, r"dropout must be at least 0 and below 1, not 1.5"),
        ({"embedding": 3}, "embedding must be 0, or at least 4 .* not 3"),
        ({"activation": "tanh"}, "activation must be one of relu, gelu, not 'tanh'"),
    ],
)
def test_bad_constructor_arguments(arguments, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        MultiScalePixelRNN(**arguments)
    assert "\n" not in str(caught.value)


@LAYERS
def test_arguments_and_weights_rebuild_the_model(tmp_path, layer):
    model = tiny(RGB, 7, 4, layer, dropout=0.25, activation="gelu", embedding=5)
    other = MultiScalePixelRNN(**json.loads(json.dumps(dict(model.hparams))))
    other.load_state_dict(model.state_dict())
    x = some_images(model, 2)
    assert torch.equal(other.eval().log_prob(x), model.log_prob(x))
    assert (other.spec.shape, other.spec.levels) == (RGB, 7)
    saved = zoo.load(zoo.save(model, tmp_path / "multiscale-digits"))
    assert saved.spec == model.spec
    assert torch.equal(saved.sample(2, seed=0), model.sample(2, seed=0))
