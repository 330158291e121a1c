"""Time cached sampling of autoregressive models against plain sampling, on the CPU, in one run.

    python tests/benchmarks/sampling.py [NAME ...] [-n 16] [--threads 2] [--passes 4] [--limit 60]

Without a name it takes all bundled checkpoints that can sample both ways. Cached sampling is timed from beginning to
end. Plain sampling runs the whole network once for each of the D values of a datum, hours for CIFAR-10: where it would
take more than `--limit` seconds it is stopped after a few of these passes, which are the same work on the same shapes,
and their median time is multiplied by D (of a DARN the passes of the decoder, of a multi-scale PixelRNN those of the
large network; those of the prior and of the small network come on top). It gets one thread or `--threads`, whichever
makes its passes faster: where somebody else uses the cores, two threads may be slower than one. Cached sampling always
takes one.

Both must draw the same values. Where plain sampling runs to its end, its values are compared. Where not:

- of a `RasterModel` with one network, one pass of it over the cached samples gives the distribution of each sub-pixel
  given those before it, from which the plain method, with the same random number, draws its value. If all agree, plain
  sampling draws these very images;
- of the others one datum is drawn in both ways to its end.

A value may differ where the random number lies within rounding errors of the border of two values: some 1e-6, and some
1e-15 for NADE and EoNADE, which draw in double precision.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import zoo
from zoo.autoregressive.raster import RasterModel
from zoo.model import GenerativeModel
from zoo.nn.draws import Draws


class _Enough(Exception):
    """As many passes as wanted are timed."""


def has_both(model: GenerativeModel) -> bool:
    """Whether a model can sample cached and plainly."""
    return "cached" in inspect.signature(model.sample).parameters


def draw(model: GenerativeModel, n: int, seed: int, cached: bool) -> Tensor:
    """Samples; of a conditional model all of one class, for to draw labels is work of neither way."""
    return model.sample(n, seed=seed, cached=cached, **({"label": 0} if model.spec.classes else {}))


def timed(model: GenerativeModel, n: int, seed: int, cached: bool) -> tuple[float, Tensor]:
    """Seconds that sampling of `n` data takes, and the data."""
    start = time.perf_counter()
    x = draw(model, n, seed, cached)
    return time.perf_counter() - start, x


def time_plain_passes(model: GenerativeModel, n: int, seed: int, passes: int) -> list[float]:
    """Seconds of each of the first `passes` passes of plain sampling, after one to warm up; fewer if it ends before."""
    starts: list[float] = []
    # A pass is a call of the network's `logits` or, where there is none, of the network. It is looked up in the class,
    # for some models draw with a copy of their network. DARN has two networks of a class, one for its latent units, and
    # a multi-scale PixelRNN a small one and a large one.
    network = getattr(model.net, "decoder", getattr(model.net, "large", model.net))
    other = getattr(model.net, "prior", None)
    name = "logits" if hasattr(network, "logits") else "forward"
    whole_pass = getattr(type(network), name)

    def mark(module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        if module is not other:
            starts.append(time.perf_counter())
            if len(starts) == passes + 2:
                raise _Enough
        return whole_pass(module, *args, **kwargs)

    with patch.object(type(network), name, mark), contextlib.suppress(_Enough):
        draw(model, n, seed, cached=False)
    return [end - start for start, end in pairwise(starts)][1:]


@torch.inference_mode()
def disagreements(model: RasterModel, x: Tensor, seed: int) -> int:
    """Number of values of `x`, drawn with `seed`, that plain sampling would have drawn otherwise: by one pass."""
    conditions = {"label": torch.zeros(len(x), dtype=torch.int64)} if model.spec.classes else {}
    uniform = Draws(seed, len(x)).uniform(*x.shape[1:], dtype=torch.float64)
    logits = model.net.logits(model.net.encode(x), **conditions).movedim(2, -1)  # (N, C, H, W, K)
    values = model._invert(logits.flatten(0, -2), uniform.flatten())
    return int((values != x.flatten()).sum())


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """So many CPU threads, then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compare(model: GenerativeModel, n: int, seed: int, passes: int, limit: float, most: int = 1) -> dict[str, Any]:
    """Both ways of sampling `n` data: their times, and how many values differ.

    Args:
        model: one that `has_both`.
        n: number of data drawn together.
        seed: of the samples.
        passes: of plain sampling, to time.
        limit: seconds; plain sampling that would take longer does not run to its end.
        most: CPU threads of plain sampling, if one is not faster.
    """
    cached, x = timed(model, n, seed, cached=True)
    memory, trials = getattr(model, "cache_bytes", None), {}
    for count in {1, most}:
        with threads(count):
            trials[count] = time_plain_passes(model, n, seed, passes)
    count = min(trials, key=lambda count: median(trials[count]))
    with threads(count):
        row = _compare(model, cached, x, seed, trials[count], limit)
    return {"n": n, "plain_threads": count, "cache_bytes": memory, **row}


def _compare(
    model: GenerativeModel, cached: float, x: Tensor, seed: int, times: list[float], limit: float
) -> dict[str, Any]:
    """Of samples `x`, which took `cached` seconds, and the times of some plain passes."""
    plain, values = median(times) * model.spec.dims, x.numel()
    full = plain <= limit
    if full:
        plain, y = timed(model, len(x), seed, cached=False)
        otherwise = int((x != y).sum())
    elif isinstance(model, RasterModel) and hasattr(model.net, "logits"):
        otherwise = disagreements(model, x, seed)
    else:
        one, same = (draw(model, 1, seed, way) for way in (True, False))
        otherwise, values = int((one != same).sum()), one.numel()
    return {
        "cached_seconds": round(cached, 3),
        "plain_seconds": round(plain, 2),
        "plain_passes_timed": None if full else len(times),
        "pass_seconds": None if full else [round(min(times), 4), round(max(times), 4)],
        "ratio": round(plain / cached, 1),
        "values": values,
        "values_otherwise": otherwise,
    }


def line(name: str, row: dict[str, Any]) -> str:
    """A row of the table."""
    how = f"{row['plain_passes_timed']} passes, scaled" if row["plain_passes_timed"] else "measured"
    cache = "-" if row["cache_bytes"] is None else f"{row['cache_bytes'] / 2**20:.2f}"
    plain = f"{row['plain_seconds']:9,.1f}  {row['plain_threads']:7}  {how:17}"
    return (
        f"{name:26}  {row['n']:4}  {row['cached_seconds']:8.2f}  {plain}  "
        f"{row['ratio']:7,.1f}  {cache:>9}  {row['values_otherwise']} of {row['values']:,}"
    )


def main() -> None:
    """Measure and print a table; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="as for zoo.load; by default all bundled ones")
    parser.add_argument("-n", type=int, default=16, help="data drawn together")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of plain sampling, if one is not faster")
    parser.add_argument("--passes", type=int, default=4, help="passes of plain sampling to time")
    parser.add_argument("--limit", type=float, default=60, help="seconds that plain sampling may take to run in full")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    results = []
    print(f"Up to {options.threads} CPU threads, times in seconds")
    print(f"{'name':26}     n    cached      plain  threads  {'':17}    ratio  cache MiB  drawn otherwise")
    for name in options.names or zoo.names():
        model = zoo.load(name)
        if has_both(model):
            row = compare(model, options.n, options.seed, options.passes, options.limit, options.threads)
            results.append({"name": name, **row})
            print(line(name, row), flush=True)
        elif options.names:
            parser.error(f"{name} is a {type(model).__name__}, which samples in one way only")
    print(json.dumps({"threads": options.threads, "results": results}))


if __name__ == "__main__":
    main()
