"""Time training steps of a PixelRNN with its scan against the plain loop over rows or diagonals, in one run.

    python tests/benchmarks/recurrent.py [--layer diagonal] [--channels 96] [--layers 4] [--batch 64]

The loop is the network as one would write it first: at each line the input-to-state convolution of that line, the
state-to-state convolution, and the cell in separate operations; the two directions of a Diagonal BiLSTM one after the
other; gradients by autograd, eagerly. The scan is `zoo.nn.scan`, as models use it, in a network compiled as
`--compile` says. Both have the same weights, images and precision, and a step is loss, gradients and AdamW. Before
any is timed their gradients on one batch are compared.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.autoregressive import PixelRNN
from zoo.autoregressive.pixelrnn import LSTMLayer, RowLSTM
from zoo.nn.masked import MaskedConv2d
from zoo.nn.scan import cell, skew, unskew


def loop_over_lines(layer: LSTMLayer, x: Tensor, step: None = None) -> Tensor:
    """What `layer(x)` computes: (N, 2h, H, W) to the same."""
    h = layer.norm(x)
    scan = _rows if isinstance(layer.scan, RowLSTM) else _diagonals
    return x + layer.expand(layer.dropout(scan(layer, h)))


def _rows(layer: LSTMLayer, x: Tensor) -> Tensor:
    """Row LSTM on normalized inputs (N, 2h, H, W): states (N, h, H, W)."""
    kernel = layer.scan.states[0].weight.unflatten(1, (3, -1)).mT  # (4h, h, 3)
    state = x.new_zeros(len(x), layer.scan.channels, x.shape[3])
    memory, states = state.mT, []
    for i in range(x.shape[2]):
        gates = layer.inputs(x[:, :, i : i + 1])[:, _by_gate(layer, 0), 0]
        _, memory, new = cell((gates + F.conv1d(state, kernel, padding=1)).mT.float(), memory)
        state = new.mT
        states.append(state)
    return torch.stack(states, 2)


def _diagonals(layer: LSTMLayer, x: Tensor) -> Tensor:
    """Diagonal BiLSTM on normalized inputs (N, 2h, H, W): states (N, h, H, W)."""
    maps = []
    for direction, linear in enumerate(layer.scan.states):
        inside = x.flip(3) if direction else x
        skewed = skew(torch.cat([inside, torch.ones_like(inside[:, :1])], 1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        skewed, inside = skewed[:, :-1], skewed[:, -1:]  # the gates take nothing, not even a bias, beside the image
        kernel = linear.weight.unflatten(1, (2, -1)).mT  # (4h, h, 2): above, beside
        state = x.new_zeros(len(x), layer.scan.channels, x.shape[2])
        memory, states = state.mT, []
        for t in range(skewed.shape[3]):
            gates = layer.inputs(skewed[..., t : t + 1])[:, _by_gate(layer, direction)] * inside[..., t : t + 1]
            _, memory, new = cell((gates[..., 0] + F.conv1d(F.pad(state, (1, 0)), kernel)).mT.float(), memory)
            state = new.mT
            states.append(state)
        unskewed = unskew(torch.stack(states, 3).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        maps.append(F.pad(unskewed.flip(3), (0, 0, 1, 0))[:, :, :-1] if direction else unskewed)
    return maps[0] + maps[1]


def _by_gate(layer: LSTMLayer, direction: int) -> Tensor:
    """The channels of one direction's gates, (4h,): from [colour][direction, gate, unit] to [gate][colour, unit]."""
    scan = layer.scan
    channels = torch.arange(scan.directions * 4 * scan.channels, device=layer.inputs.weight.device)
    return channels.view(scan.colours, scan.directions, 4, -1)[:, direction].transpose(0, 1).flatten()


def with_loops(model: PixelRNN) -> PixelRNN:
    """A copy of a model, with the same weights, whose layers are loops over lines."""
    model = copy.deepcopy(model)
    for layer in model.net.layers:
        layer.forward = partial(loop_over_lines, layer)
    return model


def gradient(model: PixelRNN, x: Tensor, precision: torch.dtype) -> Tensor:
    """Mean loss and its gradient, which stays in the parameters."""
    with torch.autocast(x.device.type, precision, enabled=precision != torch.float32):
        loss = model.loss(x).mean()
    loss.backward()
    return loss.detach()


def disagreement(model: PixelRNN, other: PixelRNN, x: Tensor, precision: torch.dtype) -> float:
    """Norm of the difference of the two models' gradients, relative to the gradient's norm."""
    vectors = []
    for each in (model, other):
        each.zero_grad()
        gradient(each, x, precision)
        vectors.append(torch.cat([p.grad.flatten().double() for p in each.parameters()]))
        each.zero_grad()
    return ((vectors[0] - vectors[1]).norm() / vectors[1].norm()).item()


def images_per_second(model: PixelRNN, x: Tensor, precision: torch.dtype, warmup: int, steps: int) -> float:
    """Images of `steps` training steps, after `warmup` others, each second."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=x.is_cuda)
    for step in range(warmup + steps):
        if step == warmup:
            start = _now(x)
        gradient(model, x, precision)
        optimizer.step()
        optimizer.zero_grad()
    return steps * len(x) / (_now(x) - start)


def _now(x: Tensor) -> float:
    """The time when the device has finished what it was asked to do."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter()


def flops(model: PixelRNN) -> int:
    """Multiplications and additions of one image's training step in matrix products, what is masked included."""
    height, width = model.spec.shape[1:]
    weights = sum(m.weight.numel() for m in model.net.modules() if isinstance(m, (MaskedConv2d, torch.nn.Linear)))
    return 3 * 2 * weights * height * width


def main() -> None:
    """Measure and print; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layer", choices=["row", "diagonal"], default="diagonal")
    parser.add_argument("--channels", type=int, default=96)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--shape", type=int, nargs=3, default=[3, 32, 32])
    parser.add_argument("--levels", type=int, default=256)
    parser.add_argument("--embedding", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["bf16", "32"], default="bf16")
    parser.add_argument("--compile", default="default", help="mode of torch.compile for the scan's network, or none")
    parser.add_argument("--warmup", type=int, default=5, help="training steps before the clock starts")
    parser.add_argument("--steps", type=int, default=20, help="training steps that are timed")
    options = parser.parse_args()

    torch.manual_seed(0)
    device, precision = torch.device(options.device), torch.bfloat16 if options.precision == "bf16" else torch.float32
    arguments = {name: getattr(options, name) for name in ("levels", "layer", "channels", "layers", "embedding")}
    model = PixelRNN(shape=options.shape, **arguments).to(device, memory_format=torch.channels_last).train()
    x = torch.randint(0, options.levels, (options.batch, *options.shape), dtype=torch.uint8).to(device)
    loops = with_loops(model)
    if options.compile != "none":
        model.net.compile(mode=options.compile, dynamic=False)
    different = disagreement(model, loops, x, precision)
    slow = images_per_second(loops, x, precision, options.warmup, options.steps)
    del loops
    fast = images_per_second(model, x, precision, options.warmup, options.steps)

    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    size = " x ".join(map(str, options.shape))
    print(f"{options.layer}, {options.layers} layers of {options.channels}, {options.precision}, {hardware}")
    print(f"  batches of {options.batch} images of {size}")
    print(f"  scan   {fast:10,.1f} images/s, {fast * flops(model) / 1e12:.1f} TFLOP/s in matrix products")
    print(f"  loop   {slow:10,.1f} images/s")
    print(f"  ratio  {fast / slow:10.1f}")
    print(f"  gradients of one batch differ by {different:.1e} of their norm")
    print(
        json.dumps(
            {
                **arguments,
                "shape": options.shape,
                "batch": options.batch,
                "precision": options.precision,
                "compile": options.compile,
                "hardware": hardware,
                "scan_images_per_second": round(fast, 1),
                "loop_images_per_second": round(slow, 1),
                "ratio": round(fast / slow, 2),
                "gradient_disagreement": different,
            }
        )
    )


if __name__ == "__main__":
    main()
