"""The scan is the loop over cells that defines it, and its gradient is that of the loop."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from tiny_runs import sealed
from torch import Tensor

from zoo.nn import scan
from zoo.nn.scan import lstm_scan, skew, unskew

# directions, steps, images, cells, units, neighbours
SIZES = [(1, 4, 2, 5, 3, 3), (2, 5, 2, 3, 2, 2), (2, 3, 1, 1, 2, 3), (1, 1, 2, 2, 3, 2), (3, 2, 2, 4, 1, 1)]


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


def problem(size, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    directions, steps, images, cells, units, taps = size
    x = torch.randn(directions, steps, images, cells, 4 * units, dtype=dtype)
    return x.requires_grad_(), torch.randn(directions, 4 * units, taps * units, dtype=dtype).requires_grad_()


def cell_by_cell(x: Tensor, weight: Tensor) -> Tensor:
    """The definition, one cell of one image at a time."""
    directions, steps, images, cells, gates = x.shape
    units, taps = gates // 4, weight.shape[2] // (gates // 4)
    zero = x.new_zeros(units)
    h, c = {}, {}
    for d in range(directions):
        for t in range(steps):
            for n in range(images):
                for s in range(cells):
                    read = torch.cat([h.get((d, t - 1, n, s + tap - 1), zero) for tap in range(taps)])
                    o, f, i, g = (x[d, t, n, s] + weight[d] @ read).split(units)
                    last = c.get((d, t - 1, n, s), zero)
                    c[d, t, n, s] = f.sigmoid() * last + i.sigmoid() * g.tanh()
                    h[d, t, n, s] = o.sigmoid() * c[d, t, n, s].tanh()
    return torch.stack(list(h.values())).view(directions, steps, images, cells, units)


@pytest.mark.parametrize("size", SIZES)
def test_the_scan_is_the_loop_over_cells(size):
    x, weight = problem(size)
    states, expected = lstm_scan(x, weight), cell_by_cell(x, weight)
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-12)
    direction = torch.randn_like(states)
    gradients = torch.autograd.grad((states * direction).sum(), (x, weight))
    by_autograd = torch.autograd.grad((expected * direction).sum(), (x, weight))
    torch.testing.assert_close(gradients, by_autograd, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", SIZES[:2])
def test_gradients_are_slopes(size):
    assert torch.autograd.gradcheck(lstm_scan, problem(size))


def test_memory_may_be_laid_out_in_any_way():
    x, weight = problem(SIZES[1])
    expected = lstm_scan(x, weight)
    strided = x.detach().transpose(1, 3).contiguous().transpose(1, 3).requires_grad_()
    states = lstm_scan(strided, weight.mT.contiguous().mT)
    assert torch.equal(states, expected)
    direction = torch.randn_like(states).transpose(1, 2).contiguous().transpose(1, 2)
    (gradient,) = torch.autograd.grad(states, strided, direction)
    assert torch.equal(gradient, *torch.autograd.grad(expected, x, direction))


def test_half_precision_keeps_the_memory_in_single():
    """A sum of 64 small terms: with a memory of 8 bits it would stand still at a fraction of it."""
    x = torch.zeros(1, 64, 1, 1, 4)
    x[..., :2], x[..., 3] = 20.0, 2**-6  # output and forget gates open, input gate half open
    weight = torch.zeros(1, 4, 1)
    single, half = lstm_scan(x, weight), lstm_scan(x.bfloat16(), weight)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), single, rtol=2**-8, atol=0)


def test_the_operator_keeps_pytorchs_rules():
    """Schema, shapes without data and gradient, as `torch.compile` relies on them."""
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    torch.library.opcheck(torch.ops.zoo.lstm_scan.default, problem(SIZES[1], torch.float32), test_utils=tests)


KERNELS = """
import torch
from zoo.nn import scan

def results(size, dtype, kernels):
    scan._has_kernels = lambda x: kernels
    torch.manual_seed(0)
    directions, steps, images, cells, units, taps = size
    x = torch.randn(directions, steps, images, cells, 4 * units).to(dtype).requires_grad_()
    weight = torch.randn(directions, 4 * units, taps * units).requires_grad_()
    states = scan.lstm_scan(x, weight)
    states.backward(torch.randn(states.shape).to(dtype))
    return states, x.grad, weight.grad

for size in {sizes}:
    torch.testing.assert_close(results(size, torch.float32, True), results(size, torch.float32, False))
    half = results(size, torch.bfloat16, True), results(size, torch.bfloat16, False)
    torch.testing.assert_close(*half, rtol=0.05, atol=0.05)
"""


@pytest.mark.slow
@pytest.mark.skipif(scan.triton is None, reason="needs Triton")
def test_the_kernels_are_the_steps_in_pytorch():
    """The CUDA kernels, run by Triton's interpreter, which must be chosen before they are defined."""
    sizes = [*SIZES[1:3], (1, 2, 7, 5, 33, 3)]  # the last one takes more than one program
    done = subprocess.run(
        [sys.executable, "-c", KERNELS.replace("{sizes}", str(sizes))],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


# -- diagonals -----------------------------------------------------------------------------------------------

SHAPES = [(3, 5), (5, 3), (4, 4), (1, 6), (6, 1), (1, 1)]


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_skewed_columns_are_diagonals(height, width):
    x = torch.randn(2, height, width, 3)
    skewed = skew(x)
    assert skewed.shape == (2, height, height + width - 1, 3)
    for i in range(height):
        for t in range(height + width - 1):
            expected = x[:, i, t - i] if 0 <= t - i < width else torch.zeros(2, 3)
            assert torch.equal(skewed[:, i, t], expected)


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_unskew_is_the_inverse(height, width):
    x = torch.randn(2, 2, height, width, 3)
    assert torch.equal(unskew(skew(x)), x)
    assert torch.equal(unskew(skew(x.transpose(0, 1))), x.transpose(0, 1)), "also of a view"
    # What lies beside the image is not read.
    beside = skew(torch.ones_like(x)) == 0
    assert torch.equal(unskew(torch.where(beside, torch.nan, skew(x))), x)
