"""PixelRNN: causal, seeing all where diagonal, normalized; the scan and the cache are the cells of the paper."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from definitions import disturb, some_images
from tiny_runs import sealed
from torch import Tensor
from torch.autograd.functional import jacobian

from zoo.autoregressive import PixelRNN
from zoo.autoregressive.pixelrnn import LSTMLayer
from zoo.errors import DataError
from zoo.nn.masked import CachedStep

GREY, RGB = (1, 3, 4), (3, 3, 4)
LAYERS = pytest.mark.parametrize("layer", ["row", "diagonal"])


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


def tiny(shape=GREY, levels=5, layer="row", channels=6, layers=2, **arguments) -> PixelRNN:
    return disturb(PixelRNN(list(shape), levels, layer, channels, layers, **arguments))


def before(shape) -> Tensor:
    """(C, H, W, C, H, W): whether the second sub-pixel is drawn before the first."""
    colours, height, width = shape
    place = torch.arange(math.prod(shape)).view(height, width, colours).permute(2, 0, 1)
    return place.flatten() < place[..., None]


# -- causality -----------------------------------------------------------------------------------------------


def dependence(model: PixelRNN) -> Tensor:
    """(C, H, W, D): whether the distribution of a sub-pixel depends on a sub-pixel."""
    # Any of a few images, for at a single one a ReLU may hide what it does elsewhere.
    images = [model.net.encode(image[None]).detach() for image in some_images(model, 4)]
    found = torch.stack([jacobian(lambda x: model.net.logits(x)[0], x)[:, :, :, :, 0] for x in images])
    found = (found != 0).any(0).any(1)  # over images and levels: (C, H, W, C * features, H, W)
    return found.unflatten(3, (model.spec.shape[0], -1)).any(4).flatten(3)


@LAYERS
@pytest.mark.parametrize(
    ("shape", "levels", "embedding", "activation"),
    [(GREY, 5, 0, "relu"), (GREY, 2, 0, "gelu"), (RGB, 3, 0, "gelu"), (RGB, 2, 0, "relu"), (RGB, 3, 5, "relu")],
)
def test_a_sub_pixel_depends_on_all_before_it_and_on_nothing_else(double, layer, shape, levels, embedding, activation):
    model = tiny(shape, levels, layer, 4 * shape[0], embedding=embedding, activation=activation).double()
    masked = [module for module in model.net.modules() if hasattr(module, "mask_type")]
    assert all((m.weight[m.mask == 0] != 0).all() for m in masked), "the test needs tampered weights"
    # The 7x7 first layer sees all of an image this small, whatever the layers after it see.
    assert torch.equal(dependence(model), before(shape))


@pytest.mark.parametrize("shape", [(1, 2, 9), (1, 9, 2), (1, 3, 6), (3, 2, 6)])
def test_one_diagonal_layer_sees_all_before_it_but_the_end_of_the_row_above(double, shape):
    """The stream at a pixel holds what is before it, so the last value of a row is first in the stream a row below.

    There the 7x7 layer puts it, into the last four columns, which the columns before them do not see.
    """
    colours, height, width = shape
    expected = before(shape).view(shape * 2)
    for i, j in itertools.product(range(1, height), range(width - 4)):
        expected[:, i, j, colours - 1, i - 1, width - 1] = False
    assert torch.equal(dependence(tiny(shape, 3, "diagonal", layers=1).double()).view(shape * 2), expected)


def seen_by_a_layer(layer: str, colours: int, height: int, width: int) -> Tensor:
    """(C, H, W, C, H, W): on which inputs the outputs of one layer depend."""
    module = disturb(LSTMLayer(layer, 2 * colours, 0.0, colours, 1.0)).double()
    x = torch.randn(1, 4 * colours, height, width, dtype=torch.float64)
    found = jacobian(module, x)[0, :, :, :, 0] != 0
    return found.unflatten(3, (colours, -1)).any(4).unflatten(0, (colours, -1)).any(1)


def places(colours: int, height: int, width: int):
    sub_pixels = list(itertools.product(range(colours), range(height), range(width)))
    return itertools.product(sub_pixels, sub_pixels)


@pytest.mark.parametrize("colours", [1, 3])
def test_a_row_lstm_sees_a_triangle(double, colours):
    """One pixel more on each side for each row above; and what the 1x3 convolution adds, the pixel on the left."""
    seen = seen_by_a_layer("row", colours, 3, 7)
    for (c, i, j), (d, k, l) in places(colours, 3, 7):  # noqa: E741
        rise = i - k
        triangle = rise >= 0 and j - rise - 1 <= l <= j + rise
        assert seen[c, i, j, d, k, l] == (triangle and ((k, l) != (i, j) or d <= c))


@pytest.mark.parametrize("colours", [1, 3])
def test_a_diagonal_bilstm_has_no_blind_spot(double, colours):
    """One layer alone sees every pixel before, each colour of it, itself up to its colour, and nothing after."""
    seen = seen_by_a_layer("diagonal", colours, 3, 6)
    for (c, i, j), (d, k, l) in places(colours, 3, 6):  # noqa: E741
        assert seen[c, i, j, d, k, l] == ((k, l) < (i, j) or ((k, l) == (i, j) and d <= c))


# -- the layers of the paper ---------------------------------------------------------------------------------


def lstm(gates: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 3: gates o, f, i, g (4h,) and memory (h,) to memory and state."""
    o, f, i, g = gates.chunk(4)
    memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
    return memory, o.sigmoid() * memory.tanh()


def pixel_by_pixel(module: LSTMLayer, layer: str, inputs: Tensor) -> Tensor:
    """States (h, H, W) of one image from what the gates take from the input, (D, 4h, H, W)."""
    height, width = inputs.shape[2:]
    weights = [linear.weight for linear in module.scan.states]
    zero = inputs.new_zeros(module.scan.channels)
    out = torch.zeros(len(zero), height, width, dtype=inputs.dtype)
    for d, weight in enumerate(weights):
        h, c = {}, {}
        for i in range(height):
            for j in range(width) if d == 0 else reversed(range(width)):
                beside = j - 1 if d == 0 else j + 1
                if layer == "row":
                    read, last = [(i - 1, j - 1), (i - 1, j), (i - 1, j + 1)], (i - 1, j)
                else:
                    read, last = [(i - 1, j), (i, beside)], (i, beside)
                gates = inputs[d, :, i, j] + weight @ torch.cat([h.get(place, zero) for place in read])
                c[i, j], h[i, j] = lstm(gates, c.get(last, zero))
                if i + d < height:  # the map from the right is moved down by a row
                    out[:, i + d, j] += h[i, j]
    return out


@LAYERS
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(3, 5), (4, 2), (1, 4), (3, 1)])
def test_a_scan_is_the_cells_one_by_one(double, layer, colours, height, width):
    units = 2 * colours
    module = disturb(LSTMLayer(layer, units, 0.0, colours, 1.0)).double()
    x = torch.randn(2, 2 * units, height, width, dtype=torch.float64)
    with torch.no_grad():
        gates = module.inputs(module.norm(x))
        states = module.scan(gates)
        for image, expected in zip(gates, states, strict=True):
            directions = module.scan.directions
            ordered = torch.empty(directions, 4 * units, height, width, dtype=torch.float64)
            for d, gate, unit in itertools.product(range(directions), range(4), range(units)):
                colour, place = divmod(unit, 2)
                channel = ((colour * directions + d) * 4 + gate) * 2 + place
                ordered[d, gate * units + unit] = image[channel]
            one_by_one = pixel_by_pixel(module, layer, ordered)
            torch.testing.assert_close(expected, one_by_one, rtol=0, atol=1e-12)
        torch.testing.assert_close(module(x), x + module.expand(states))


@LAYERS
def test_forget_gates_start_open(layer):
    colours, units = 3, 6
    module = LSTMLayer(layer, units, 0.0, colours, 1.0)
    bias = module.inputs.bias.view(colours, module.scan.directions, 4, units // colours)
    assert (bias[:, :, 1] == 1).all()
    assert (bias[:, :, [0, 2, 3]] == 0).all()


@LAYERS
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_every_parameter_is_trained(layer, precision):
    """In float32 and with automatic bfloat16: DDP waits for the gradient of each parameter."""
    model = tiny(RGB, 6, layer, embedding=4).train()
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


@LAYERS
def test_the_network_compiles_as_one_graph(layer):
    model = tiny(RGB, 6, layer)
    x = some_images(model, 2)
    loss = model.loss(x).sum()
    expected = torch.autograd.grad(loss, list(model.parameters()))
    model.net.compile(fullgraph=True, backend="aot_eager")
    compiled = model.loss(x).sum()
    torch.testing.assert_close(compiled, loss)
    torch.testing.assert_close(torch.autograd.grad(compiled, list(model.parameters())), expected)


@LAYERS
def test_muon_takes_the_states(layer):
    model = PixelRNN(list(GREY), 5, layer, 6, 2, optimizer="muon")
    groups = model.configure_optimizers()["optimizer"].param_groups
    orthogonal = {id(p) for group in groups if group.get("orthogonal") for p in group["params"]}
    states = [linear.weight for block in model.net.layers for linear in block.scan.states]
    assert len(states) == 2 * (2 if layer == "diagonal" else 1)
    assert {id(weight) for weight in states} <= orthogonal


# -- likelihood ----------------------------------------------------------------------------------------------


@LAYERS
@pytest.mark.parametrize(
    ("shape", "levels", "embedding"),
    [((1, 2, 3), 2, 0), ((1, 3, 3), 2, 0), ((1, 2, 2), 5, 4), ((3, 1, 2), 3, 0), ((3, 2, 1), 3, 7)],
)
def test_probabilities_sum_to_one(double, layer, shape, levels, embedding):
    model = tiny(shape, levels, layer, embedding=embedding).double()
    values = itertools.product(range(levels), repeat=math.prod(shape))
    with torch.no_grad():
        log_prob = model.log_prob(torch.tensor(list(values), dtype=torch.uint8).view(-1, *shape))
    assert log_prob.dtype == torch.float64
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert log_prob.std() > 0.1, "a uniform distribution would prove little"
    assert model.likelihood == "exact"


@LAYERS
def test_an_image_does_not_depend_on_its_batch(double, layer):
    model = tiny(RGB, 4, layer).double()
    x = some_images(model, 5)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat([model.log_prob(image[None]) for image in x]), model.log_prob(x))


# -- cached sampling -----------------------------------------------------------------------------------------


@LAYERS
@pytest.mark.parametrize(
    ("shape", "levels", "embedding"),
    [((1, 5, 6), 5, 0), ((3, 5, 4), 4, 0), ((1, 5, 6), 2, 0), ((1, 1, 1), 2, 0), ((3, 4, 1), 4, 5), ((3, 1, 4), 4, 0)],
)
def test_a_cached_step_gives_the_logits_of_the_whole(double, layer, shape, levels, embedding):
    model = tiny(shape, levels, layer, embedding=embedding).double()
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


@LAYERS
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("shape", "levels", "embedding"), [((1, 5, 6), 17, 0), ((3, 4, 5), 9, 4), ((1, 5, 6), 2, 0)])
def test_cached_and_plain_sampling_draw_the_same(layer, shape, levels, embedding, seed):
    model = tiny(shape, levels, layer, embedding=embedding, dropout=0.5)
    cached = model.sample(3, seed=seed)
    assert torch.equal(cached, model.sample(3, seed=seed, cached=False))
    assert not torch.equal(cached, model.sample(3, seed=seed + 1))
    known = torch.rand(3, *shape) < 0.4
    completed = model.complete(cached, known, seed=seed + 1)
    assert torch.equal(completed, model.complete(cached, known, seed=seed + 1, cached=False))
    assert torch.equal(completed[known], cached[known])
    assert not torch.equal(completed, cached)


@LAYERS
def test_memory_is_linear_in_batch_and_layers(layer):
    def bytes_of(n: int, layers: int) -> int:
        model = tiny((1, 3, 6), layer=layer, layers=layers)
        model.sample(n, seed=0)
        return model.cache_bytes

    one = bytes_of(1, 2)
    assert one > 0
    assert [bytes_of(n, 2) for n in (2, 4)] == [2 * one, 4 * one]
    assert bytes_of(1, 6) - bytes_of(1, 4) == bytes_of(1, 4) - one > 0


# -- refusals ------------------------------------------------------------------------------------------------


@LAYERS
@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.zeros(2, 1, 4, 3, dtype=torch.uint8), r"shape \(2, 1, 4, 3\); this model takes \(N, 1, 3, 4\)"),
        (torch.zeros(2, *GREY), "dtype torch.float32; this model takes torch.uint8 with values 0..4"),
        (torch.full((2, *GREY), 5, dtype=torch.uint8), "values 5..5; this model takes 0..4"),
    ],
)
def test_what_does_not_fit_is_refused(layer, x, sentence):
    with pytest.raises(DataError, match=sentence):
        tiny(layer=layer).log_prob(x)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"shape": [8, 8]}, r"shape must be \(C, H, W\) of positive sizes, not \[8, 8\]"),
        ({"levels": 257}, "levels must be 2..256, not 257"),
        ({"layer": "column"}, "layer must be one of row, diagonal, not 'column'"),
        ({"channels": 0}, "channels must be a positive multiple of the 1 colours, not 0"),
        ({"shape": [3, 8, 8], "channels": 32}, "multiple of the 3 colours, not 32"),
        ({"layers": 0}, "layers must be positive, not 0"),
        ({"dropout": 1.5}, r"dropout must be at least 0 and below 1, not 1.5"),
        ({"embedding": 3}, "embedding must be 0, or at least 4 .* not 3"),
        ({"activation": "tanh"}, "activation must be one of relu, gelu, not 'tanh'"),
    ],
)
def test_bad_constructor_arguments(arguments, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        PixelRNN(**arguments)
    assert "\n" not in str(caught.value)


@LAYERS
def test_arguments_and_weights_rebuild_the_model(layer):
    model = tiny(RGB, 7, layer, channels=6, layers=3, dropout=0.25, activation="gelu", embedding=5)
    other = PixelRNN(**json.loads(json.dumps(dict(model.hparams))))
    other.load_state_dict(model.state_dict())
    x = some_images(model, 2)
    assert torch.equal(other.eval().log_prob(x), model.log_prob(x))
    assert (other.spec.shape, other.spec.levels) == (RGB, 7)
