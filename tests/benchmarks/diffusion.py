"""Measure the U-Net of diffusions against those of diffusers and denoising-diffusion-pytorch, in one run.

    pip install diffusers denoising-diffusion-pytorch      # needed for this alone
    python tests/benchmarks/diffusion.py train [--recipe recipes/NAME.yaml | --net JSON] [--batch 512]
    python tests/benchmarks/diffusion.py sample [--n 16] [--steps 20] [--threads 2]
    python tests/benchmarks/diffusion.py memory

The others have the same levels, blocks and attention, as far as they have such arguments, and as many parameters within
5 %: by their width, a multiple of 8, and by the size of what tells the noise or the number of heads. In each round all
run one after the other, in another order each time; given are the median of each, and the median of the ratios of a
round: above one, zoo is faster. `--net` takes arguments of `zoo.nn.unet.UNet` and may be given several times; with
`--alone` networks of zoo are timed without the others, which need not be installed:

    python tests/benchmarks/diffusion.py train --alone --net '{}' --net '{"channels": 128, "multipliers": [1, 1, 1]}'

- train: images/s of steps on a batch in memory: the network, a squared error, its gradients, Adam. All have bf16
  autocast (or `--precision 32`) and `torch.compile`, as recipes do, and weights with their channels last. Beside it the
  FLOPs of matrix products, convolutions and attention for an image, forward and backward, as PyTorch counts them, and
  the share of the device's peak in dense bf16 products, where that is known. No data are loaded and nothing is
  averaged: how fast a recipe is in all, `training.py` tells.
- sample: seconds in which a CPU draws images in float32, all by zoo's sampler; ratios are of processor time, in which
  other work on the machine does not count with `--threads 1` (several threads wait for one another, which counts).
- memory: MiB that four chunks of samples take beyond those of one, and beyond the samples.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from math import gcd
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from training import share

from zoo.diffusion.gaussian import GaussianDiffusion
from zoo.diffusion.predictions import velocity
from zoo.diffusion.schedules import Cosine
from zoo.nn.draws import chunk_size
from zoo.nn.unet import UNet
from zoo.spec import DataSpec

Settings = dict[str, Any]
SETTINGS: Settings = {"shape": (3, 32, 32), "channels": 64, "multipliers": (1, 2, 2), "blocks": 3, "attention": (16, 8)}
CLOSE = 0.05  # how far numbers of parameters may be apart


# -- contenders --------------------------------------------------------------------------------------------------


class Diffusers(nn.Module):
    """UNet2DModel, called as zoo's.

    Args:
        settings: of zoo's.
        width: channels of the first level.
        embedding: size of what tells the noise.
    """

    def __init__(self, settings: Settings, width: int, embedding: int) -> None:
        from diffusers import UNet2DModel

        super().__init__()
        colours, height, _ = settings["shape"]
        attend = [height >> i in settings["attention"] for i in range(len(settings["multipliers"]))]
        widths = tuple(width * multiplier for multiplier in settings["multipliers"])
        self.net = UNet2DModel(
            in_channels=colours,
            out_channels=colours,
            layers_per_block=settings["blocks"],
            block_out_channels=widths,
            down_block_types=tuple("AttnDownBlock2D" if each else "DownBlock2D" for each in attend),
            up_block_types=tuple("AttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attend)),
            attention_head_dim=gcd(64, *widths),
            norm_num_groups=gcd(32, *widths),
            time_embedding_dim=embedding,
        )

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None = None) -> Tensor:
        """(N, C, H, W) and (N,) to (N, C, H, W)."""
        return self.net(z, 500 - 25 * log_snr, return_dict=False)[0]


class Lucidrains(nn.Module):
    """Unet of denoising-diffusion-pytorch, called as zoo's. It has two blocks a level, and linear attention else.

    Args:
        settings: of zoo's.
        width: channels of the first level.
        heads: of attention, each of 32 channels.
        flash: whether it takes PyTorch's attention.
    """

    def __init__(self, settings: Settings, width: int, heads: int, flash: bool) -> None:
        from denoising_diffusion_pytorch import Unet

        super().__init__()
        colours, height, _ = settings["shape"]
        attend = tuple(height >> i in settings["attention"] for i in range(len(settings["multipliers"])))
        multipliers = tuple(settings["multipliers"])
        self.net = Unet(
            width, dim_mults=multipliers, channels=colours, full_attn=attend, attn_heads=heads, flash_attn=flash
        )

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None = None) -> Tensor:
        """(N, C, H, W) and (N,) to (N, C, H, W)."""
        return self.net(z, 500 - 25 * log_snr)


def parameters(net: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in net.parameters())


def matched(makes: Iterable[Callable[[], nn.Module]], count: int) -> nn.Module:
    """The first of many networks that has about so many parameters.

    Raises:
        SystemExit: none has.
    """
    for make in makes:
        with torch.device("meta"):
            close = abs(parameters(make()) / count - 1) <= CLOSE
        if close:
            return make()
    sys.exit(f"No network of the other library has within {CLOSE:.0%} of {count:,} parameters: give another --net.")


def contenders(settings: Settings, flash: bool, alone: bool = False) -> dict[str, nn.Module]:
    """zoo's network and those that it is held against, unless it is alone.

    Raises:
        SystemExit: a library is not installed, or has no network of that size.
    """
    own, channels = UNet(out_channels=settings["shape"][0], **settings), settings["channels"]
    if alone:
        return {"zoo": own}
    for library in ("diffusers", "denoising_diffusion_pytorch"):
        try:
            importlib.import_module(library)
        except ImportError:
            sys.exit(
                "This benchmark compares with diffusers and denoising-diffusion-pytorch, which are not both installed: "
                "pip install diffusers denoising-diffusion-pytorch."
            )
    # The nearest widths first, of these the ones that GPUs are fast with.
    widths = sorted(range(8, 3 * channels, 8), key=lambda width: (abs(width - channels) // 16, -gcd(width, 64)))
    by_diffusers = (partial(Diffusers, settings, w, e) for w in widths for e in (4 * w, 2 * w, w, 8 * w))
    by_lucidrains = (partial(Lucidrains, settings, w, heads, flash) for w in widths for heads in (4, 8, 6, 2))
    others = {"diffusers": by_diffusers, "denoising-diffusion-pytorch": by_lucidrains}
    return {"zoo": own, **{name: matched(makes, parameters(own)) for name, makes in others.items()}}


def settings_of(recipe: Path) -> Settings:
    """The settings of a recipe's U-Net.

    Raises:
        SystemExit: its model has none.
    """
    content = yaml.safe_load(recipe.read_text())["model"]
    module, _, name = content["class_path"].rpartition(".")
    with torch.device("meta"):
        model = getattr(importlib.import_module(module), name)(**content["init_args"])
    nets = [module for module in model.modules() if isinstance(module, UNet)]
    if not nets:
        sys.exit(f"{recipe} trains no U-Net: time it with training.py.")
    given = {name: model.hparams[name] for name in SETTINGS if name in model.hparams}
    return {**SETTINGS, **given, "fourier": nets[0].fourier}


# -- training ----------------------------------------------------------------------------------------------------


class Step:
    """A training step on one batch of noise.

    Args:
        net: is laid out with its channels last, and compiled.
        shape: (N, C, H, W).
        half: whether products are in bfloat16.
        mode: of torch.compile; None for none.
    """

    def __init__(self, net: nn.Module, shape: tuple[int, ...], half: bool, mode: str | None) -> None:
        device = next(net.parameters()).device
        self.net, self.half = net.train().to(memory_format=torch.channels_last), half
        self.z, self.target = (torch.randn(shape, device=device) for _ in range(2))
        self.log_snr = torch.linspace(-5, 13, len(self.z), device=device)
        self.flops = self._count()
        self.optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=device.type == "cuda")
        if mode is not None:
            net.compile(dynamic=False, mode=mode)

    def __call__(self) -> None:
        """The error, its gradients, Adam."""
        self.optimizer.zero_grad()
        self._loss(slice(None)).backward()
        self.optimizer.step()

    def _loss(self, part: slice) -> Tensor:
        with torch.autocast(self.z.device.type, torch.bfloat16, enabled=self.half):
            output = self.net(self.z[part], self.log_snr[part])
        return (output.float() - self.target[part]).square().mean()

    def _count(self) -> float:
        """FLOPs for an image."""
        # Attention in separate products: fused kernels compute some of them again in the backward pass.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self._loss(slice(2)).backward()
        return counter.get_total_flops() / len(self.z[:2])


class Times(NamedTuple):
    """Of a work in each round, in seconds."""

    wall: list[float]
    processor: list[float]


def in_rounds(works: dict[str, Callable[[], Any]], rounds: int, repeats: int, warmup: int) -> dict[str, Times]:
    """The times of one repetition of each work."""
    times = {name: Times([], []) for name in works}
    for work in works.values():
        for _ in range(warmup):
            work()
    for _ in range(rounds):
        for name in random.sample(list(works), len(works)):
            synchronize()
            wall, processor = time.perf_counter(), time.process_time()
            for _ in range(repeats):
                works[name]()
            synchronize()
            times[name].wall.append((time.perf_counter() - wall) / repeats)
            times[name].processor.append((time.process_time() - processor) / repeats)
    return times


def synchronize() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(times: list[float], own: list[float]) -> float:
    """How many times as long as zoo another takes."""
    return median(a / b for a, b in zip(times, own, strict=True))


def train(settings: Settings, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Images/s of each, and the share of the peak."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    half, mode = options.precision == "bf16", None if options.compile == "none" else options.compile
    batch = options.batch or (512 if device.type == "cuda" else 4)
    nets = contenders(settings, half and device.type == "cuda", options.alone)
    steps = {name: Step(net.to(device), (batch, *settings["shape"]), half, mode) for name, net in nets.items()}
    times = in_rounds(steps, options.rounds, options.repeats, options.warmup)
    rows = []
    for name, step in steps.items():
        speed, faster = batch / median(times[name].wall), ratio(times[name].wall, times["zoo"].wall)
        part = share(hardware, speed * step.flops)
        rows.append(
            {
                "hardware": hardware,
                "contender": name,
                "parameters": parameters(step.net),
                "batch": batch,
                "images_per_second": round(speed, 2),
                "ratio": round(faster, 3),
                "flops_per_image": step.flops,
                "share_of_bf16_peak": None if part is None else round(part, 4),
            }
        )
        shown = "-" if part is None else f"{part:.1%}"
        print(
            f"{name:28}  {parameters(step.net):10,}  {speed:9,.1f} images/s  {faster:5.2f}  "
            f"{step.flops / 1e9:7.2f} GFLOP/image  {speed * step.flops / 1e12:7.2f} TFLOP/s  {shown:>6} of the peak",
            flush=True,
        )
    return rows


# -- drawing -----------------------------------------------------------------------------------------------------


class Drawn(GaussianDiffusion):
    """A diffusion that is there to draw from, with a network of any library, which tells the velocity.

    Args:
        shape: (C, H, W).
        net: the network.
    """

    def __init__(self, shape: tuple[int, ...], net: nn.Module) -> None:
        super().__init__()
        self.spec, self.net, self.prediction, self.noise_schedule = DataSpec(shape), net, velocity, Cosine()
        self.eval()


def sample(settings: Settings, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds of each on a CPU."""
    torch.set_num_threads(options.threads)
    models = {name: Drawn(settings["shape"], net) for name, net in contenders(settings, False, options.alone).items()}
    draws = {
        name: partial(model.sample, options.n, seed=0, steps=options.steps, sampler="ddim")
        for name, model in models.items()
    }
    times = in_rounds(draws, options.rounds, 1, 0)
    rows = []
    for name, model in models.items():
        count, seconds = parameters(model.net), median(times[name].wall)
        faster = ratio(times[name].processor, times["zoo"].processor)
        rows.append(
            {
                "contender": name,
                "parameters": count,
                "n": options.n,
                "steps": options.steps,
                "seconds": round(seconds, 3),
                "processor_seconds": round(median(times[name].processor), 3),
                "ratio": round(faster, 3),
            }
        )
        print(f"{name:28}  {count:10,}  {seconds:8.2f} s  {faster:5.2f}", flush=True)
    return rows


def peak(device: torch.device) -> float:
    """MiB that were taken at most so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 2**10


def memory(settings: Settings, options: argparse.Namespace) -> list[dict[str, Any]]:
    """MiB that more samples take: this program has not taken more before."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Drawn(settings["shape"], UNet(out_channels=settings["shape"][0], **settings)).to(device)
    model.chunk = size = options.chunk or chunk_size(model.spec.dims, device)
    draw = partial(model.sample, seed=0, steps=2, sampler="ddim")
    draw(size)
    before = peak(device)
    samples = draw(4 * size)
    grown = peak(device) - before - samples.nbytes / 2**20
    print(f"{size} samples take {before:,.0f} MiB, {4 * size} take {grown:+,.1f} MiB beside themselves", flush=True)
    return [{"chunk": size, "mebibytes": round(before, 1), "growth": round(grown, 2)}]


MODES = {"train": train, "sample": sample, "memory": memory}


def main() -> None:
    """Measure and print a table; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("mode", choices=MODES)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--recipe", type=Path, help="of a model with a U-Net")
    which.add_argument("--net", action="append", type=json.loads, help="arguments of a U-Net, as JSON; several times")
    parser.add_argument("--alone", action="store_true", help="without the other libraries")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, help="images of a training step; by default 512 on a GPU, 4 on a CPU")
    parser.add_argument("--precision", choices=("bf16", "32"), default="bf16", help="of training")
    parser.add_argument("--compile", default="default", help="mode of torch.compile; none for eager")
    parser.add_argument("--warmup", type=int, default=10, help="training steps before the first round")
    parser.add_argument("--repeats", type=int, default=20, help="training steps in a round")
    parser.add_argument("--n", type=int, default=16, help="samples")
    parser.add_argument("--steps", type=int, default=20, help="of the sampler")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU that draws")
    parser.add_argument("--chunk", type=int, help="samples that are drawn at once where memory is measured")
    options = parser.parse_args()
    nets = [settings_of(options.recipe)] if options.recipe else [{**SETTINGS, **net} for net in options.net or [{}]]
    results = []
    for settings in nets:
        torch.manual_seed(0)
        torch._dynamo.reset()
        print(json.dumps(settings), flush=True)
        results += [{"settings": settings, **row} for row in MODES[options.mode](settings, options)]
    print(json.dumps({"mode": options.mode, "rounds": options.rounds, "results": results}))


if __name__ == "__main__":
    main()
