"""Fit Gaussian mixtures to the data of recipes, choose one by validation, and measure it once on the test split.

    python tests/benchmarks/mixtures.py recipes/maf-moons.yaml [RECIPE ...] [--components 25 50 100 200] [--threads 1]

What a flow of points or of a table must beat. The mixtures are scikit-learn's, fitted by expectation-maximization to
the training split that the recipe's flow sees, its columns standardized. All numbers of components are tried with full
covariances and, where there are more than two columns, with diagonal, tied and spherical ones too, and with several
floors under the variances; each from `--starts` starts, of which scikit-learn keeps the likeliest. The one of highest
validation likelihood is measured on the test split: nats, the mean of -log p(x) of the data as they are, with its
standard error. Where the recipe's checkpoint is bundled, so is the mean by which it is below the mixture, datum by
datum: its standard error is much smaller than that of either. Fits that fail, as those of more components than rows,
are left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

import zoo
from zoo.hub.data import LOCAL_ARGUMENTS, datamodule


def splits(recipe: Path) -> dict[str, np.ndarray]:
    """The training, validation and test rows of a recipe's data, in float64."""
    data = yaml.safe_load(recipe.read_text())["data"]
    arguments = {key: value for key, value in data.get("init_args", {}).items() if key not in LOCAL_ARGUMENTS}
    data = datamodule({**data, "init_args": arguments})
    data.prepare_data()
    data.setup()
    return {name: getattr(data, name)[0].double().numpy() for name in ("train", "val", "test")}


def choose(
    rows: dict[str, np.ndarray], components: list[int], starts: int, *, report: Any = lambda line: None
) -> tuple[dict[str, Any], np.ndarray]:
    """The mixture of highest validation likelihood and its test nats with their standard error; those of each row."""
    mean, scale = rows["train"].mean(0), rows["train"].std(0)
    standardized = {name: (x - mean) / scale for name, x in rows.items()}
    wide = len(mean) > 2
    kinds = ("full", "diag", "tied", "spherical") if wide else ("full",)
    floors = (1e-6, 1e-3, 1e-2, 3e-2, 1e-1) if wide else (1e-6,)
    best: tuple[float, dict[str, Any], GaussianMixture] | None = None
    for count, kind, floor in itertools.product(components, kinds, floors):
        mixture = GaussianMixture(
            count, covariance_type=kind, reg_covar=floor, n_init=starts, tol=1e-4, max_iter=200, random_state=0
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                mixture.fit(standardized["train"])
        except ValueError:  # a component of one row, without a variance
            continue
        found = mixture.score(standardized["val"])
        report(f"  {count:4d} {kind:9s} {floor:g}: validation {np.log(scale).sum() - found:.4f} nats")
        if best is None or found > best[0]:
            best = found, {"components": count, "covariance": kind, "floor": floor}, mixture
    if best is None:
        raise SystemExit("No mixture could be fitted: give fewer components.")
    found, arguments, mixture = best
    test = np.log(scale).sum() - mixture.score_samples(standardized["test"])
    validation, (nats, error) = float(np.log(scale).sum() - found), mean_and_error(test)
    return {**arguments, "validation": validation, "nats": nats, "standard_error": error}, test


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """The mean of (N,) values, and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


@torch.no_grad()
def gain(name: str, rows: np.ndarray, nats: np.ndarray) -> dict[str, float]:
    """By how many nats a checkpoint is below those `nats` of the rows, on average, and the standard error of that."""
    model = zoo.load(name, device="cpu")
    own = [-model.log_prob(part).double() for part in torch.from_numpy(rows).float().split(5000)]
    mean, error = mean_and_error(nats - torch.cat(own).numpy())
    return {"gain": mean, "gain_error": error}


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print, and return one result a recipe."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--components", nargs="+", type=int, default=[25, 50, 100, 200])
    parser.add_argument("--starts", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    results = []
    with threadpool_limits(arguments.threads):
        for recipe in arguments.recipes:
            print(recipe, flush=True)
            rows, say = splits(recipe), lambda line: print(line, flush=True)
            result, nats = choose(rows, arguments.components, arguments.starts, report=say)
            against = gain(recipe.stem, rows["test"], nats) if recipe.stem in zoo.names() else {}
            results.append({"recipe": recipe.stem, **result, **against})
            print(json.dumps(results[-1]), flush=True)
    return results


if __name__ == "__main__":
    main()
