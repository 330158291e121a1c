"""Measure training speed, images/s, on one and on several devices.

    python tests/benchmarks/scaling.py recipes/pixelcnn-cifar10.yaml --devices 1 2 4 [OPTIONS OF zoo fit]

For each number of devices it runs `zoo fit` as a user does, with the recipe's batch size on each device,
and times `--steps` optimizer steps after `--warmup` others: start-up, compilation and validation are
left out, everything that a step needs (data, gradients between devices, averaging of weights) is in.
Efficiency is the speed for each device, relative to the first number of devices. Options that it does
not know go on to `zoo fit`:

    python tests/benchmarks/scaling.py recipes/pixelcnn-digits.yaml --devices 1 2 --trainer.accelerator cpu
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Stopwatch(Callback):
    """Writes a run's images/s, between two optimizer steps, into a JSON file.

    Args:
        warmup: optimizer steps before the clock starts.
        steps: optimizer steps that are timed.
        out: the file, written by the first rank.
    """

    def __init__(self, warmup: int, steps: int, out: str) -> None:
        self.warmup, self.last, self.out = warmup, warmup + steps, out
        self.start, self.images, self.running = 0.0, 0, False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count this batch, start the clock, or stop it."""
        if self.running:
            self.images += len(batch[0]) * trainer.world_size
        step = trainer.global_step
        if step == self.warmup and not self.running:
            self.start, self.running = now(pl_module), True
        elif step == self.last and self.running:
            seconds = now(pl_module) - self.start
            self.running = False
            if trainer.is_global_zero:
                result = {
                    "devices": trainer.world_size,
                    "hardware": hardware(pl_module),
                    "precision": str(trainer.precision),
                    "images": self.images,
                    "seconds": round(seconds, 3),
                    "images_per_second": round(self.images / seconds, 1),
                }
                Path(self.out).write_text(json.dumps(result))


def now(pl_module: LightningModule) -> float:
    """The time when the device has finished what it was asked to do."""
    if pl_module.device.type == "cuda":
        torch.cuda.synchronize(pl_module.device)
    return time.perf_counter()


def hardware(pl_module: LightningModule) -> str:
    """The device's name."""
    return torch.cuda.get_device_name(pl_module.device) if pl_module.device.type == "cuda" else "CPU"


def watched(
    recipe: Path, devices: int, steps: int, callback: str, arguments: dict[str, Any], extra: list[str]
) -> dict[str, Any]:
    """Train so many optimizer steps, in processes of their own, and return what a callback wrote into its file `out`.

    Args:
        recipe: the recipe.
        devices: number of devices.
        steps: optimizer steps.
        callback: its class, in a module of this folder.
        arguments: of the callback, beside `out`.
        extra: options of `zoo fit`.

    Raises:
        SystemExit: the run failed; its output is on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "result.json")
        command = [sys.executable, "-m", "zoo", "fit", "--config", str(recipe)]
        command += [f"--trainer.devices={devices}", f"--trainer.max_steps={steps}"]
        command += ["--trainer.max_epochs=-1", "--trainer.limit_val_batches=0", "--trainer.logger=false"]
        command += [f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
        command += [f"--trainer.callbacks+={callback}", f"--trainer.callbacks.out={out}"]
        command += [f"--trainer.callbacks.{name}={value}" for name, value in arguments.items()]
        # The callback is found as a module of this folder, by this process's children and theirs.
        path = os.pathsep.join([str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)}
        done = subprocess.run(
            [*command, *extra], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode or not out.exists():
            sys.exit(f"The run on {devices} device(s) failed:\n{done.stdout[-4000:]}")
        return json.loads(out.read_text())


def measure(recipe: Path, devices: int, warmup: int, steps: int, extra: list[str]) -> dict[str, Any]:
    """Train on so many devices, and return what `Stopwatch` wrote.

    Raises:
        SystemExit: the run failed; its output is on stderr.
    """
    return watched(recipe, devices, warmup + steps, "scaling.Stopwatch", {"warmup": warmup, "steps": steps}, extra)


def main() -> None:
    """Measure and print a table; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--warmup", type=int, default=100, help="optimizer steps before the clock starts")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps that are timed")
    options, extra = parser.parse_known_args()

    results = []
    print(f"{options.recipe.stem}: {options.steps} steps after {options.warmup}")
    print("devices   images/s  efficiency")
    for devices in options.devices:
        result = measure(options.recipe, devices, options.warmup, options.steps, extra)
        results.append(result)
        alone = results[0]["images_per_second"] / results[0]["devices"]
        result["efficiency"] = round(result["images_per_second"] / devices / alone, 3)
        print(f"{devices:7}  {result['images_per_second']:9,.0f}  {result['efficiency']:10.0%}", flush=True)
    print(json.dumps({"recipe": options.recipe.stem, "results": results}))


if __name__ == "__main__":
    main()
