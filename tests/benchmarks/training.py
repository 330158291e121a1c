"""Measure training speed, images/s, of recipes on one device, and its share of the device's bf16 peak.

    python tests/benchmarks/training.py recipes/pixelcnn-cifar10.yaml [RECIPE ...] [OPTIONS OF zoo fit]

The speed is that of `zoo fit`, as `scaling.py` measures it. The work is what the matrix products, convolutions and
attention of one training step take, forward and backward, as PyTorch counts them on the recipe's model in eager mode.
What a mask hides counts, and so does what a checkpointed layer computes again (NADE's); pointwise operations and the
optimizer do not. The share is images/s times this work for an image, over the peak of the device in dense bf16
products, whatever the recipe's precision; a device whose peak is not known has none.
Options that it does not know go on to `zoo fit`:

    python tests/benchmarks/training.py recipes/pixelcnn-digits.yaml --trainer.accelerator cpu --model.optimizer muon
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from scaling import measure
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from zoo.model import GenerativeModel
from zoo.nn import scan  # noqa: F401  its operators are counted

# Dense bf16 FLOP/s by the device's name, from NVIDIA's data sheets; other variants of a device have other peaks.
PEAKS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
}


def _scan(x: torch.Size, weight: torch.Size, **_: Any) -> int:
    """FLOPs of `zoo::lstm_scan`: a product with the states for each line, x (D, T, N, S, 4h), weight (D, 4h, K * h)."""
    return 2 * x[:4].numel() * weight[1:].numel()


def _scan_backward(grad: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    """FLOPs of its gradients: of the weight from all lines, of the states read by all lines but the first."""
    return (2 * grad[1] - 1) * _scan(grad, weight) // grad[1]


COUNTS = {torch.ops.zoo.lstm_scan: _scan, torch.ops.zoo.lstm_scan_backward: _scan_backward}


def flops(model: GenerativeModel, images: int = 2) -> float:
    """FLOPs of one training step for each image, a multiplication and an addition being two.

    Args:
        model: stays as it is.
        images: of the batch that is counted.
    """
    model, spec = copy.deepcopy(model).cpu().train(), model.spec
    model.log = lambda *_, **__: None  # there is no trainer
    shape = (images, *spec.shape)
    x = torch.rand(shape) if spec.levels is None else torch.randint(spec.levels, shape, dtype=torch.uint8)
    label = torch.randint(max(1, spec.classes), (images,))
    # Attention in separate products: fused kernels compute some of them again in the backward pass.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=COUNTS) as counter:
        model.training_step((x, label), 0).backward()
    return counter.get_total_flops() / images


class FlopCounter(Callback):
    """Writes the FLOPs of a training step for each image into a JSON file, before a run begins.

    Args:
        out: the file.
    """

    def __init__(self, out: str) -> None:
        self.out = out

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Count.

        Raises:
            SystemExit: the model takes the steps of its optimizers itself.
        """
        if not pl_module.automatic_optimization:
            sys.exit(f"{type(pl_module).__name__} trains two networks in turns: time it with adversarial.py.")
        Path(self.out).write_text(json.dumps(flops(pl_module)))


def share(hardware: str, flops_per_second: float) -> float | None:
    """Of the bf16 peak of one device, None where it is not known."""
    return flops_per_second / PEAKS[hardware] if hardware in PEAKS else None


def measure_with_flops(recipe: Path, warmup: int, steps: int, extra: list[str]) -> dict[str, Any]:
    """What `scaling.measure` returns of one device, and the FLOPs of an image and the share of the peak.

    Raises:
        SystemExit: the run failed; its output is on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "flops.json")
        counter = ["--trainer.callbacks+=training.FlopCounter", f"--trainer.callbacks.out={out}"]
        result = measure(recipe, 1, warmup, steps, [*extra, *counter])
        each = json.loads(out.read_text())
    part = share(result["hardware"], result["images_per_second"] * each)
    return {
        "recipe": recipe.stem,
        **result,
        "flops_per_image": each,
        "share_of_bf16_peak": None if part is None else round(part, 4),
    }


def main() -> None:
    """Measure and print a table; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE")
    parser.add_argument("--warmup", type=int, default=60, help="optimizer steps before the clock starts")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps that are timed")
    options, extra = parser.parse_known_args()

    results = []
    print(f"{'recipe':26}  {'hardware':22}  precision    images/s  GFLOP/image  TFLOP/s  bf16 peak")
    for recipe in options.recipes:
        result = measure_with_flops(recipe, options.warmup, options.steps, extra)
        results.append(result)
        part = "-" if result["share_of_bf16_peak"] is None else f"{result['share_of_bf16_peak']:.1%}"
        speed, each = result["images_per_second"], result["flops_per_image"]
        print(
            f"{recipe.stem:26}  {result['hardware']:22}  {result['precision']:10}  {speed:9,.0f}  {each / 1e9:11,.3f}  "
            f"{speed * each / 1e12:7.2f}  {part:>9}",
            flush=True,
        )
    print(json.dumps({"steps": options.steps, "results": results}))


if __name__ == "__main__":
    main()
