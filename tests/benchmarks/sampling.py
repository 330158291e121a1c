"""Time cached sampling of a PixelCNN against plain sampling, on the CPU, in one run.

    python tests/benchmarks/sampling.py [NAME] [-n 16] [--threads 2] [--passes 4]

Plain sampling runs the whole network once for each of the C*H*W sub-pixels, hours for CIFAR-10. All
these passes are the same work on the same shapes, so `model.sample(cached=False)` is stopped after a few
of them, and their mean time is multiplied by C*H*W. Cached sampling is timed from beginning to end.

Both must draw the same images. That is checked on every value without the hours: one pass of the whole
network over the cached samples gives the distribution of each sub-pixel given those before it, from
which the plain method, with the same random number, draws its value. If all agree, plain sampling draws
these very images. A value may differ where the random number lies within rounding errors (some 1e-6) of
the border of two values.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

import zoo
from zoo.autoregressive import PixelCNN


class _Enough(Exception):
    """As many passes as wanted are timed."""


def time_cached(model: PixelCNN, n: int, seed: int) -> tuple[float, Tensor]:
    """Seconds that cached sampling of `n` images takes, and the images."""
    start = time.perf_counter()
    x = model.sample(n, seed=seed)
    return time.perf_counter() - start, x


def time_plain_passes(model: PixelCNN, n: int, seed: int, passes: int) -> list[float]:
    """Seconds of each of the first `passes` passes of plain sampling, after one to warm up."""
    starts: list[float] = []

    def mark(*_: Any) -> None:
        starts.append(time.perf_counter())
        if len(starts) == passes + 2:
            raise _Enough

    handle = model.net.first.register_forward_pre_hook(mark)
    try:
        model.sample(n, seed=seed, cached=False)
    except _Enough:
        pass
    finally:
        handle.remove()
    return [end - start for start, end in pairwise(starts)][1:]


@torch.inference_mode()
def disagreements(model: PixelCNN, x: Tensor, seed: int) -> int:
    """Number of values of `x`, sampled with `seed`, that plain sampling would have drawn otherwise."""
    uniform = torch.rand(x.shape, generator=model.generator(seed), dtype=torch.float64)
    logits = model.net.logits(model.net.encode(x)).movedim(2, -1)  # (N, C, H, W, K)
    values = model._invert(logits.flatten(0, -2), uniform.flatten())
    return int((values != x.flatten()).sum())


def main() -> None:
    """Measure and print; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="?", default="pixelcnn-cifar10", help="as for zoo.load")
    parser.add_argument("-n", type=int, default=16, help="images drawn together")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--passes", type=int, default=4, help="passes of plain sampling to time")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    model = zoo.load(options.name)
    if not isinstance(model, PixelCNN):
        parser.error(f"{options.name} is a {type(model).__name__}, not a PixelCNN")
    total = model.spec.dims
    passes = min(options.passes, total - 2)
    cached, x = time_cached(model, options.n, options.seed)
    times = time_plain_passes(model, options.n, options.seed, passes)
    each = sum(times) / len(times)
    wrong = disagreements(model, x, options.seed)

    shape = " x ".join(map(str, model.spec.shape))
    print(f"{options.name}: {options.n} images of {shape}, {options.threads} CPU threads")
    print(f"  cached  {cached:10.1f} s  measured, all {total:,} sub-pixels")
    print(
        f"  plain   {each * total:10.1f} s  scaled: {len(times)} passes of {each:.3f} s "
        f"({min(times):.3f} to {max(times):.3f}), times {total:,}"
    )
    print(f"  ratio   {each * total / cached:10.1f}")
    print(
        f"  cache   {model.cache_bytes / 2**20:10.1f} MiB in all, "
        f"{model.cache_bytes / options.n / 2**20:.2f} MiB an image"
    )
    print(f"  values  {x.numel():10,}    drawn, of which plain sampling draws {wrong} otherwise")
    print(
        json.dumps(
            {
                "name": options.name,
                "n": options.n,
                "threads": options.threads,
                "cached_seconds": round(cached, 2),
                "plain_seconds_scaled": round(each * total, 1),
                "plain_passes_timed": len(times),
                "ratio": round(each * total / cached, 1),
                "cache_bytes": model.cache_bytes,
                "values": x.numel(),
                "values_otherwise": wrong,
            }
        )
    )


if __name__ == "__main__":
    main()
