"""Convolutional LSTMs that scan an image line by line, all positions of a line and all images at once.

A line is a row (`zoo.autoregressive.pixelrnn`, Row LSTM) or a diagonal, which `skew` turns into a column. Every cell
of a line reads the states of a few neighbouring cells of the line before, so the scan has as many steps as there are
lines. What a cell takes from its input does not depend on the states and is computed before, for all lines together.

`lstm_scan` is an operator of PyTorch with a hand-written gradient: a step is one matrix product and one pointwise
kernel, forward and backward, and the gradient of the weights is one product after all steps. To `torch.compile` it is
one node, so that a network with hundreds of steps compiles like one without, and `mode="reduce-overhead"` records the
launches of its steps in a CUDA graph. On a CPU, and in double precision, the pointwise part is written in PyTorch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

try:  # comes with PyTorch for CUDA
    import triton
    import triton.language as tl
except ImportError:
    triton = None


def skew(x: Tensor) -> Tensor:
    """Each row moved right by one from the row above: (..., H, W, F) to (..., H, H + W - 1, F), zeros elsewhere.

    Column t of the result is the diagonal of the pixels (i, t - i).
    """
    height, width = x.shape[-3:-1]
    # Rows padded by H and read as rows one shorter begin one later each time.
    flat = F.pad(x, (0, 0, 0, height)).flatten(-3, -2)[..., :-height, :]
    return flat.unflatten(-2, (height, height + width - 1))


def unskew(x: Tensor) -> Tensor:
    """The inverse of `skew`: (..., H, H + W - 1, F) to (..., H, W, F)."""
    height, length = x.shape[-3:-1]
    flat = F.pad(x.flatten(-3, -2), (0, 0, 0, height))
    return flat.unflatten(-2, (height, length + 1))[..., : length + 1 - height, :]


def lstm_scan(x: Tensor, weight: Tensor) -> Tensor:
    """States of an LSTM, T steps on lines of S cells, with zero states before the first line and beside each.

    Cell s at step t reads the states of the cells s - 1, s, ... s + K - 2 of the line before, and its own memory:

        (o, f, i) = sigmoid, g = tanh of  x[t, s] + weight @ (h[t-1, s-1], h[t-1, s], ...)
        c[t, s] = f * c[t-1, s] + i * g;    h[t, s] = o * tanh(c[t, s])

    The memory c is float32; the matrix products are in the type of `x`.

    Args:
        x: (D, T, N, S, 4h), what the gates take from the input; D independent scans (directions), N images, S cells;
            the gates in the order o, f, i, g.
        weight: (D, 4h, K * h).

    Returns:
        (D, T, N, S, h), of the type of `x`.
    """
    return torch.ops.zoo.lstm_scan(x.contiguous(), weight.to(x.dtype).contiguous())[0]


def cell(gates: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One LSTM cell: gates before their nonlinearities (..., 4h) and memory (..., h) to gates after, memory, state."""
    o, f, i, g = gates.chunk(4, -1)
    o, f, i, g = o.sigmoid(), f.sigmoid(), i.sigmoid(), g.tanh()
    memory = f * memory + i * g
    return torch.cat([o, f, i, g], -1), memory, o * memory.tanh()


# -- the operator --------------------------------------------------------------------------------------------


@torch.library.custom_op(
    "zoo::lstm_scan", mutates_args=(), schema="(Tensor x, Tensor weight) -> (Tensor, Tensor, Tensor, Tensor)"
)
def _scan(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States (D, T, N, S, h); for the gradient, gates (..., 4h), memories (..., h) and states read (..., K * h)."""
    state, gates, memory, read = _empty(x, weight)
    D, T, N, S, H = state.shape
    read[:, 0] = 0
    product = x.new_empty(D, N * S, 4 * H)
    transposed, operands = weight.mT, read.flatten(2, 3).unbind(1)
    step = _forward_kernel if _has_kernels(x) else _forward_step
    with torch.cuda.device_of(x):
        for t in range(T):
            torch.bmm(operands[t], transposed, out=product)
            step(t, x, product, state, gates, memory, read)
    return state, gates, memory, read


@_scan.register_fake
def _empty(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lines = x.shape[:-1]
    size = x.shape[-1] // 4
    precise = torch.promote_types(x.dtype, torch.float32)
    return (
        x.new_empty(*lines, size),
        x.new_empty(*lines, 4 * size),
        x.new_empty(*lines, size, dtype=precise),
        x.new_empty(*lines, weight.shape[-1]),
    )


@torch.library.custom_op(
    "zoo::lstm_scan_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor weight, Tensor gates, Tensor memory, Tensor read) -> (Tensor, Tensor)",
)
def _scan_backward(grad: Tensor, weight: Tensor, gates: Tensor, memory: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `x` and `weight` from that of the states."""
    D, T, N, S, _ = grad.shape
    grad_x, grad_memory = torch.empty_like(gates), torch.zeros_like(memory[:, 0])
    grad_read = read.new_zeros(D, N * S, read.shape[-1])
    steps = grad_x.flatten(2, 3).unbind(1)
    step = _backward_kernel if _has_kernels(grad) else _backward_step
    with torch.cuda.device_of(grad):
        for t in reversed(range(T)):
            step(t, grad, grad_read, gates, memory, grad_memory, grad_x)
            if t:
                torch.bmm(steps[t], weight, out=grad_read)
    grad_weight = torch.bmm(grad_x.flatten(1, 3).mT, read.flatten(1, 3))
    return grad_x, grad_weight


@_scan_backward.register_fake
def _empty_backward(grad: Tensor, weight: Tensor, gates: Tensor, memory: Tensor, read: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(gates), torch.empty_like(weight)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[1], *output[1:])


def _gradient(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor, Tensor]:
    return torch.ops.zoo.lstm_scan_backward(grad.contiguous(), *ctx.saved_tensors)


_scan.register_autograd(_gradient, setup_context=_save)


# -- the pointwise part of a step, in PyTorch ----------------------------------------------------------------


def _shifts(read: Tensor, size: int) -> list[tuple[int, slice, slice]]:
    """For each of the K neighbours: its number, the cells that have it, and where it is."""
    cells, taps = read.shape[-2], read.shape[-1] // size
    spans = []
    for tap in range(taps):
        low, high = max(0, 1 - tap), max(0, cells + min(0, 1 - tap))
        spans.append((tap, slice(low, high), slice(low + tap - 1, high + tap - 1)))
    return spans


def _forward_step(
    t: int, x: Tensor, product: Tensor, state: Tensor, gates: Tensor, memory: Tensor, read: Tensor
) -> None:
    last = memory[:, t - 1] if t else torch.zeros_like(memory[:, 0])
    total = x[:, t].to(memory.dtype) + product.view_as(x[:, t]).to(memory.dtype)
    gates[:, t], memory[:, t], state[:, t] = cell(total, last)
    if t + 1 < x.shape[1]:
        neighbours = read[:, t + 1].unflatten(-1, (-1, state.shape[-1]))
        neighbours.zero_()
        for tap, cells, places in _shifts(read, state.shape[-1]):
            neighbours[:, :, cells, tap] = state[:, t, :, places]


def _backward_step(
    t: int, grad: Tensor, grad_read: Tensor, gates: Tensor, memory: Tensor, grad_memory: Tensor, grad_x: Tensor
) -> None:
    D, _, N, S, H = grad.shape
    grad_h = grad[:, t].to(memory.dtype)
    neighbours = grad_read.view(D, N, S, -1, H)
    for tap, cells, places in _shifts(grad_read.view(D, N, S, -1), H):
        grad_h[:, :, places] += neighbours[:, :, cells, tap]
    o, f, i, g = gates[:, t].to(memory.dtype).chunk(4, -1)
    last = memory[:, t - 1] if t else torch.zeros_like(grad_memory)
    tanh = memory[:, t].tanh()
    grad_c = grad_memory + grad_h * o * (1 - tanh * tanh)
    parts = (
        grad_h * tanh * o * (1 - o),
        grad_c * last * f * (1 - f),
        grad_c * g * i * (1 - i),
        grad_c * i * (1 - g * g),
    )
    grad_x[:, t] = torch.cat(parts, -1)
    torch.mul(grad_c, f, out=grad_memory)


# -- the same in one kernel, for CUDA ------------------------------------------------------------------------


def _has_kernels(x: Tensor) -> bool:
    return triton is not None and x.is_cuda and x.dtype != torch.float64


if triton is not None:
    _BLOCK = 1024  # elements of a program: 4 to 8 for each thread

    @triton.jit
    def _tanh(x):  # tl has none; libdevice's is NVIDIA's alone
        return 2 * tl.sigmoid(2 * x) - 1

    @triton.jit(do_not_specialize=["t", "T", "M"])
    def _forward_triton(t, x, product, state, gates, memory, read, T, M, S, H: tl.constexpr, K: tl.constexpr,
                        BLOCK: tl.constexpr):  # fmt: skip
        index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        d = tl.program_id(1).to(tl.int64)
        inside = index < M * H
        row, unit = index // H, index % H
        cells = ((d * T + t) * M + row) * H + unit
        quads = ((d * T + t) * M + row) * (4 * H) + unit
        local = (d * M + row) * (4 * H) + unit
        last = tl.load(memory + cells - M * H, index < tl.where(t > 0, M * H, 0), 0.0)
        o = tl.sigmoid(tl.load(x + quads, inside, 0.0).to(tl.float32) + tl.load(product + local, inside, 0.0))
        f = tl.sigmoid(tl.load(x + quads + H, inside, 0.0).to(tl.float32) + tl.load(product + local + H, inside, 0.0))
        i = tl.sigmoid(
            tl.load(x + quads + 2 * H, inside, 0.0).to(tl.float32) + tl.load(product + local + 2 * H, inside, 0.0)
        )
        g = _tanh(
            tl.load(x + quads + 3 * H, inside, 0.0).to(tl.float32) + tl.load(product + local + 3 * H, inside, 0.0)
        )
        c = f * last + i * g
        h = o * _tanh(c)
        tl.store(gates + quads, o, inside)
        tl.store(gates + quads + H, f, inside)
        tl.store(gates + quads + 2 * H, i, inside)
        tl.store(gates + quads + 3 * H, g, inside)
        tl.store(memory + cells, c, inside)
        tl.store(state + cells, h, inside)
        # Each cell writes its state where its neighbours of the next line will read it, and zero for those it lacks.
        s = row % S
        more = index < tl.where(t + 1 < T, M * H, 0)
        for tap in tl.static_range(K):
            reader, neighbour = s + 1 - tap, s + tap - 1
            to = ((d * T + t + 1) * M + row) * (K * H) + tap * H + unit
            tl.store(read + to + (1 - tap) * K * H, h, more & (reader >= 0) & (reader < S))
            tl.store(read + to, tl.zeros_like(h), more & ((neighbour < 0) | (neighbour >= S)))

    @triton.jit(do_not_specialize=["t", "T", "M"])
    def _backward_triton(t, grad, grad_read, gates, memory, grad_memory, grad_x, T, M, S, H: tl.constexpr,
                         K: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
        index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        d = tl.program_id(1).to(tl.int64)
        inside = index < M * H
        row, unit = index // H, index % H
        cells = ((d * T + t) * M + row) * H + unit
        quads = ((d * T + t) * M + row) * (4 * H) + unit
        local = (d * M + row) * H + unit
        grad_h = tl.load(grad + cells, inside, 0.0).to(tl.float32)
        s = row % S
        for tap in tl.static_range(K):
            reader = s + 1 - tap
            source = (d * M + row + 1 - tap) * (K * H) + tap * H + unit
            grad_h += tl.load(grad_read + source, inside & (reader >= 0) & (reader < S), 0.0).to(tl.float32)
        o = tl.load(gates + quads, inside, 0.0).to(tl.float32)
        f = tl.load(gates + quads + H, inside, 0.0).to(tl.float32)
        i = tl.load(gates + quads + 2 * H, inside, 0.0).to(tl.float32)
        g = tl.load(gates + quads + 3 * H, inside, 0.0).to(tl.float32)
        tanh = _tanh(tl.load(memory + cells, inside, 0.0))
        last = tl.load(memory + cells - M * H, index < tl.where(t > 0, M * H, 0), 0.0)
        grad_c = tl.load(grad_memory + local, inside, 0.0) + grad_h * o * (1 - tanh * tanh)
        tl.store(grad_x + quads, grad_h * tanh * o * (1 - o), inside)
        tl.store(grad_x + quads + H, grad_c * last * f * (1 - f), inside)
        tl.store(grad_x + quads + 2 * H, grad_c * g * i * (1 - i), inside)
        tl.store(grad_x + quads + 3 * H, grad_c * i * (1 - g * g), inside)
        tl.store(grad_memory + local, grad_c * f, inside)


def _forward_kernel(
    t: int, x: Tensor, product: Tensor, state: Tensor, gates: Tensor, memory: Tensor, read: Tensor
) -> None:
    D, T, N, S, H = state.shape
    grid = (triton.cdiv(N * S * H, _BLOCK), D)
    _forward_triton[grid](
        t, x, product, state, gates, memory, read, T, N * S, S, H=H, K=read.shape[-1] // H, BLOCK=_BLOCK
    )


def _backward_kernel(
    t: int, grad: Tensor, grad_read: Tensor, gates: Tensor, memory: Tensor, grad_memory: Tensor, grad_x: Tensor
) -> None:
    D, T, N, S, H = grad.shape
    grid = (triton.cdiv(N * S * H, _BLOCK), D)
    _backward_triton[grid](
        t, grad, grad_read, gates, memory, grad_memory, grad_x, T, N * S, S,
        H=H, K=grad_read.shape[-1] // H, BLOCK=_BLOCK,
    )  # fmt: skip
