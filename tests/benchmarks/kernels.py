"""Where the time of a training step goes: on a GPU its kernels, the time in which none runs, and what waits for it.

    python tests/benchmarks/kernels.py recipes/glow-cifar10.yaml [RECIPE ...] [--steps 20] [OPTIONS OF zoo fit]

The run is that of `zoo fit`. So many steps after the warm-up are timed, as many after them are traced. The share that
is idle is of a step as timed: a GPU that waits for launches, or for a processor that waits for the GPU, is idle. On a
CPU the operators take the place of the kernels. Options that it does not know go on to `zoo fit`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from scaling import hardware, now, watched
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


class Kernels(Callback):
    """Times steps of a run and traces others; writes what came of it into a JSON file.

    Args:
        warmup: optimizer steps before.
        steps: how many are timed, and how many are traced.
        out: the file.
    """

    def __init__(self, warmup: int, steps: int, out: str) -> None:
        self.warmup, self.steps, self.out = warmup, steps, out
        self.start, self.seconds = 0.0, 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock, stop it and begin to trace, or write the trace's sums."""
        step, gpu = trainer.global_step, pl_module.device.type == "cuda"
        if step == self.warmup:
            self.start = now(pl_module)
        elif step == self.warmup + self.steps:
            self.seconds = now(pl_module) - self.start
            self.trace = profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU])
            self.trace.start()
        elif step == self.warmup + 2 * self.steps:
            now(pl_module)
            self.trace.stop()
            self._write(pl_module, DeviceType.CUDA if gpu else DeviceType.CPU)

    def _write(self, pl_module: LightningModule, kind: DeviceType) -> None:
        rows = self.trace.key_averages()
        each = [
            {
                "name": row.key,
                "calls": row.count / self.steps,
                "ms": (row.self_device_time_total if kind == DeviceType.CUDA else row.self_cpu_time_total)
                / self.steps
                / 1e3,
            }
            for row in rows
            if row.device_type == kind
        ]
        # The last one is ours, at the end of the trace.
        waits = sum(row.count for row in rows if "Synchronize" in row.key) - 1 if kind == DeviceType.CUDA else 0
        result = {
            "hardware": hardware(pl_module),
            "ms": 1e3 * self.seconds / self.steps,
            "busy_ms": sum(row["ms"] for row in each),
            "launches": sum(row["calls"] for row in each),
            "waits": waits / self.steps,
            "kernels": sorted(each, key=lambda row: -row["ms"]),
        }
        Path(self.out).write_text(json.dumps(result))


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE")
    parser.add_argument("--warmup", type=int, default=60, help="optimizer steps before the clock starts")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps that are timed, and as many traced")
    parser.add_argument("--top", type=int, default=15, help="kernels that are printed")
    options, extra = parser.parse_known_args()

    for recipe in options.recipes:
        total = options.warmup + 2 * options.steps
        own = {"warmup": options.warmup, "steps": options.steps}
        result = watched(recipe, 1, total, "kernels.Kernels", own, extra)
        idle = max(0.0, 1 - result["busy_ms"] / result["ms"])
        print(
            f"{recipe.stem} on {result['hardware']}: {result['ms']:.1f} ms a step, of which {result['busy_ms']:.1f} in "
            f"{result['launches']:.0f} kernels ({idle:.0%} idle), and {result['waits']:.1f} waits"
        )
        for row in result["kernels"][: options.top]:
            print(f"{row['ms']:9.3f} ms {row['calls']:7.1f} x  {row['name'][:100]}", flush=True)


if __name__ == "__main__":
    main()
