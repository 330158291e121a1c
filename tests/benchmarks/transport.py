"""Time debiased Sinkhorn divergences of points against POT and geomloss, on one CPU thread, in one run.

    pip install -e '.[transport]' geomloss      # geomloss for this alone
    python tests/benchmarks/transport.py [--n 2000 10000] [--rounds 3] [NAME ...]

The points are 2-D, float32: a standard normal and one of half its width at (1, 1); the cost is the squared distance,
epsilon 0.05. Every piece of work has a process of its own, in each round in another order. Given are the median
processor time, in which other work on the machine does not count, its ratio to zoo's (above one, zoo is faster), by how
much the process grew, at its largest, and the errors of the value and of the gradient in x (relative, in the Euclidean
norm) against a solution in float64 whose marginals are right to 1e-7. What does not fit into memory is left out.

    value       the divergence
    gradient    and its gradients in x and in y

- zoo stops where the marginals are off by 1e-3, in the mean.
- geomloss (`SamplesLoss`, without KeOps: its "tensorized" backend, which holds all pairs) has no such tolerance: it
  follows a schedule, by the ratio `scaling` from one blur to the next, 0.5 by default. Its cost is half the squared
  distance and its epsilon the square of the blur, so its value doubles at blur = sqrt(epsilon / 2).
- POT (`ot.sinkhorn`, which holds all pairs) solves the three problems one after the other and stops at zoo's error of
  the marginals, which it measures as a Euclidean norm, every tenth iteration: at 1e-3 / sqrt(n). It works on the scale
  of logarithms, "sinkhorn_log"; its default, with exp(-c / epsilon) itself, underflows here and gives 0 for 2.5.
  Its gradients are those with its plans held fixed; through its iterations they would need all pairs once for each.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import random
import resource
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from zoo.metrics import sinkhorn

EPSILON, TOLERANCE, LIMIT = 0.05, 1e-3, 10_000
Divergence = Callable[[Tensor, Tensor], Tensor]


def points(n: int) -> tuple[Tensor, Tensor]:
    """Two sets, float32 (n, 2)."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, n, 2, generator=generator)
    return x, 0.5 * y + 1


# -- contenders --------------------------------------------------------------------------------------------------


def of_zoo(x: Tensor, y: Tensor) -> Tensor:
    """zoo's divergence."""
    return sinkhorn(x, y, epsilon=EPSILON, tolerance=TOLERANCE, iterations=LIMIT)


def of_geomloss(scaling: float, x: Tensor, y: Tensor) -> Tensor:
    """geomloss's divergence."""
    import geomloss

    loss = geomloss.SamplesLoss("sinkhorn", p=2, blur=(EPSILON / 2) ** 0.5, scaling=scaling, backend="tensorized")
    return 2 * loss(x, y)


def of_pot(x: Tensor, y: Tensor) -> Tensor:
    """POT's divergence."""
    return _pot_term(x, y) - 0.5 * _pot_term(x, x) - 0.5 * _pot_term(y, y)


def _pot_term(x: Tensor, y: Tensor) -> Tensor:
    """The regularized cost, with the gradients of its plan."""
    import ot

    cost, n = ot.dist(x, y), len(x)
    mass = x.new_full((n,), 1 / n)
    how = {"method": "sinkhorn_log", "numItermax": LIMIT, "stopThr": TOLERANCE / n**0.5}
    plan, log = ot.sinkhorn(mass, mass, cost.detach(), EPSILON, log=True, **how)
    # The masses are exp(log u_i + log v_j - c_ij / epsilon).
    value = EPSILON * (log["log_u"].mean() + log["log_v"].mean() + 2 * math.log(n))
    moving = (plan * cost).sum()
    return value + moving - moving.detach()


NAMES: dict[str, Divergence] = {
    "zoo": of_zoo,
    **{f"geomloss {scaling}": partial(of_geomloss, scaling) for scaling in (0.5, 0.9, 0.99)},
    "POT": of_pot,
}


# -- measuring ---------------------------------------------------------------------------------------------------


def measure(name: str, n: int, gradients: bool) -> dict[str, Any]:
    """One piece of work, in this process: seconds, MB that it grew by, the value and the gradient in x."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    work = NAMES[name]
    small = [part.requires_grad_(gradients) for part in points(50)]
    for _ in range(2):  # what is loaded or set up once
        value = work(*small)
        if gradients:
            value.backward()
    x, y = (part.requires_grad_(gradients) for part in points(n))
    before, start = _peak(), time.process_time()
    value = work(x, y)
    if gradients:
        value.backward()
    seconds = time.process_time() - start
    gradient = x.grad.tolist() if gradients else None
    return {"seconds": seconds, "megabytes": _peak() - before, "value": float(value.detach()), "gradient": gradient}


def _peak() -> float:
    """Most MB that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def reference(n: int) -> tuple[float, Tensor]:
    """The value and its gradient in x, in float64."""
    x, y = (part.double().requires_grad_() for part in points(n))
    value = sinkhorn(x, y, epsilon=EPSILON, tolerance=1e-7, iterations=LIMIT)
    return float(value.detach()), torch.autograd.grad(value, x)[0]


def compare(names: list[str], n: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each piece of work of each contender."""
    expected, slope = reference(n)
    runs: dict[tuple[bool, str], list[dict[str, Any]]] = {(g, name): [] for g in (False, True) for name in names}
    for _ in range(rounds):
        for gradients, name in random.sample(list(runs), len(runs)):
            runs[gradients, name].append(alone(measure, name, n, gradients))
    rows = []
    for (gradients, name), found in runs.items():
        seconds = [run["seconds"] for run in found]
        first = [run["seconds"] for run in runs[gradients, names[0]]]
        last = found[-1]
        error = (torch.tensor(last["gradient"]).double() - slope).norm() / slope.norm() if gradients else None
        rows.append(
            {
                "n": n,
                "work": "gradient" if gradients else "value",
                "contender": name,
                "seconds": round(median(seconds), 4),
                "ratio": round(median(a / b for a, b in zip(seconds, first, strict=True)), 3),
                "megabytes": round(max(run["megabytes"] for run in found), 1),
                "error": abs(last["value"] - expected),
                "gradient_error": None if error is None else float(error),
            }
        )
    return rows


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    gradient = "" if row["gradient_error"] is None else f"{row['gradient_error']:.0e}"
    return (
        f"{row['n']:6}  {row['work']:8}  {row['contender']:13}  {row['seconds']:8.3f}  {row['ratio']:6.2f}  "
        f"{row['megabytes']:6,.0f}  {row['error']:.0e}  {gradient}"
    ).rstrip()


def main() -> None:
    """Measure and print a table; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; by default all, after zoo")
    parser.add_argument("--n", type=int, nargs="+", default=[2000, 10_000], help="points of each set")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for name in options.names:
        if name not in NAMES:
            parser.error(f"{name} is none of {', '.join(NAMES)}")
    names = ["zoo", *(name for name in options.names or NAMES if name != "zoo")]
    if names != ["zoo"]:
        try:
            import geomloss  # noqa: F401
            import ot  # noqa: F401
        except ImportError:
            sys.exit(
                "This benchmark compares with POT and geomloss, which are not both installed: pip install pot geomloss."
            )
    print(f"One CPU thread, 2-D, float32, epsilon {EPSILON}")
    print("     n  work      contender       seconds   ratio      MB  error  of the gradient")
    results = []
    for n in options.n:
        for row in compare(names, n, options.rounds):
            results.append(row)
            print(line(row), flush=True)
    print(json.dumps({"rounds": options.rounds, "results": results}))


if __name__ == "__main__":
    main()
