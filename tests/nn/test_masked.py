"""Masked layers see what comes before in raster and colour order, all of it and nothing else."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_runs import sealed
from torch import nn
from torch.autograd.functional import jacobian

from zoo.nn.masked import CachedStep, MaskedConv2d, MaskedRMSNorm, residual_gain

HEIGHT, WIDTH = 4, 5
SETTINGS = [(mask, colours, kernel_size) for mask in "AB" for colours in (1, 3) for kernel_size in (1, 3, 5, 7)]
ABOVE = pytest.mark.parametrize("above", [True, False])


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


def layer(mask="B", colours=1, kernel_size=3, groups=(2, 3), **settings) -> MaskedConv2d:
    """A layer in float64 with random weights, the masked ones included."""
    conv = MaskedConv2d(groups[0] * colours, groups[1] * colours, kernel_size, mask=mask, colours=colours, **settings)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return conv.double()


def dependence(function, x: torch.Tensor, colours: int) -> torch.Tensor:
    """Whether output (colour, row, column) depends on input (colour, row, column): (c, H, W, c, H, W)."""
    nonzero = jacobian(function, x)[0, :, :, :, 0] != 0  # (out, H, W, in, H, W)
    by_colour = nonzero.unflatten(3, (colours, -1)).any(4).unflatten(0, (colours, -1)).any(1)
    assert by_colour.shape == (colours, HEIGHT, WIDTH) * 2
    return by_colour


def allowed(mask: str, colours: int, kernel_size: int, above: bool) -> torch.Tensor:
    """The definition, one pair of sub-pixels at a time."""
    result = torch.zeros((colours, HEIGHT, WIDTH) * 2, dtype=torch.bool)
    half = kernel_size // 2
    places = list(itertools.product(range(colours), range(HEIGHT), range(WIDTH)))
    for (c, i, j), (d, k, l) in itertools.product(places, places):  # noqa: E741
        in_window = (i - half if above else i) <= k <= i and abs(j - l) <= half
        earlier_pixel = (k, l) < (i, j)
        earlier_colour = (k, l) == (i, j) and (d < c or (d == c and mask == "B"))
        result[c, i, j, d, k, l] = in_window and (earlier_pixel or earlier_colour)
    return result


@ABOVE
@pytest.mark.parametrize(("mask", "colours", "kernel_size"), SETTINGS)
def test_a_layer_sees_what_its_mask_says(mask, colours, kernel_size, above):
    conv = layer(mask, colours, kernel_size, above=above)
    assert (conv.weight[conv.mask == 0] != 0).all(), "masked weights count for nothing, whatever they are"
    x = torch.randn(1, 2 * colours, HEIGHT, WIDTH, dtype=torch.float64)
    assert torch.equal(dependence(conv, x, colours), allowed(mask, colours, kernel_size, above))


@ABOVE
@pytest.mark.parametrize(("mask", "colours", "kernel_size"), SETTINGS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_step_by_step_is_the_layer(mask, colours, kernel_size, bias, above):
    conv = layer(mask, colours, kernel_size, bias=bias, above=above)
    x = torch.randn(3, 2 * colours, HEIGHT, WIDTH, dtype=torch.float64)
    whole = conv(x).detach()
    stepped = torch.full_like(whole, torch.nan)
    step = CachedStep(3, WIDTH)
    with torch.no_grad():
        for i in range(HEIGHT):
            step.begin_row(i)
            for j in range(WIDTH):
                step.begin_pixel(j)
                for c in range(colours):
                    step.colour = c
                    piece = x[:, 2 * c : 2 * c + 2, i, j]
                    if mask == "A":  # it answers before it is told
                        stepped[:, 3 * c : 3 * c + 3, i, j] = conv(torch.full_like(piece, torch.nan), step)
                        conv.remember(piece, step)
                    else:
                        stepped[:, 3 * c : 3 * c + 3, i, j] = conv(piece, step)
            step.end_row()
    torch.testing.assert_close(stepped, whole, rtol=0, atol=1e-12)


def test_a_cache_begun_late_starts_at_zero_padding():
    """Images narrower than the kernel and one pixel high, where the window is mostly padding."""
    conv = layer("B", 1, 7)
    x = torch.randn(2, 2, 1, 2, dtype=torch.float64)
    step = CachedStep(2, 2)
    step.begin_row(0)
    with torch.no_grad():
        for j in range(2):
            step.begin_pixel(j)
            torch.testing.assert_close(conv(x[:, :, 0, j], step), conv(x)[:, :, 0, j], rtol=0, atol=1e-12)


def test_memory_grows_with_batch_width_and_layers_only():
    def bytes_of(layers: int, batch: int, rows: int = 2) -> int:
        net = nn.ModuleList(layer("B", 3, 5, groups=(2, 2)) for _ in range(layers))
        step = CachedStep(batch, WIDTH)
        with torch.no_grad():
            for i in range(rows):
                step.begin_row(i)
                for j in range(WIDTH):
                    step.begin_pixel(j)
                    for c in range(3):
                        step.colour, h = c, torch.zeros(batch, 2, dtype=torch.float64)
                        for conv in net:
                            h = conv(h, step)
                step.end_row()
        return step.nbytes

    one = bytes_of(1, 1)
    assert one > 0
    assert [bytes_of(1, n) for n in (2, 5)] == [2 * one, 5 * one]
    assert [bytes_of(n, 1) for n in (2, 5)] == [2 * one, 5 * one]
    assert bytes_of(1, 1, rows=7) == one


def test_masks_follow_the_module_and_are_not_stored():
    conv = layer("A", 3, 5)
    assert set(conv.state_dict()) == {"weight", "bias"}
    assert conv.mask.dtype == torch.float64


def test_initial_scale():
    """Unit inputs give outputs of standard deviation `gain`, however few inputs are visible."""
    for colours, above in [(1, True), (3, True), (3, False)]:
        conv = MaskedConv2d(120, 120, 5, colours=colours, gain=0.5, above=above)
        out = conv(torch.randn(8, 120, 12, 12))[:, :, 4:, 4:-4]  # away from the padding
        for group in out.unflatten(1, (colours, -1)).unbind(1):
            assert group.std().item() == pytest.approx(0.5, rel=0.1)
    assert residual_gain(16) ** 2 * 16 == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"mask": "C"}, "mask must be 'A' or 'B', not 'C'"),
        ({"kernel_size": 4}, "kernel_size must be odd, not 4"),
        ({"in_channels": 4, "colours": 3}, "4 and 6 channels do not split into 3 colours"),
        ({"out_channels": 4, "colours": 3}, "6 and 4 channels do not split into 3 colours"),
    ],
)
def test_bad_arguments(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        MaskedConv2d(**{"in_channels": 6, "out_channels": 6, **arguments})


# -- normalization -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colours", [1, 3])
def test_norm_keeps_colours_and_positions_apart(colours):
    norm = MaskedRMSNorm(4 * colours, colours)
    x = torch.randn(1, 4 * colours, HEIGHT, WIDTH)
    eye = torch.eye(colours * HEIGHT * WIDTH, dtype=torch.bool)
    assert torch.equal(dependence(norm, x, colours).flatten(0, 2).flatten(1), eye)


def test_norm_is_root_mean_square_normalization():
    norm = MaskedRMSNorm(12, 3)
    x = 5 * torch.randn(2, 12, HEIGHT, WIDTH)
    groups = x.double().view(2, 3, 4, HEIGHT, WIDTH)
    expected = groups / groups.pow(2).mean(2, keepdim=True).add(norm.eps).sqrt()
    torch.testing.assert_close(norm(x).double(), expected.view_as(x), rtol=1e-5, atol=1e-6)
    assert norm(x.bfloat16()).dtype == torch.float32, "a sum of squares needs more than 8 bits"
    assert torch.equal(norm(torch.zeros_like(x)), torch.zeros_like(x))


def test_norm_step_by_step_is_the_norm():
    norm = MaskedRMSNorm(12, 3)
    x = torch.randn(2, 12, HEIGHT, WIDTH)
    step = CachedStep(2, WIDTH)
    whole = norm(x)
    for step.colour in range(3):
        group = slice(4 * step.colour, 4 * step.colour + 4)
        torch.testing.assert_close(norm(x[:, group, 1, 2], step), whole[:, group, 1, 2])
