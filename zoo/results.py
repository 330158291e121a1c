"""What a measured number is, how it is written, and which of several stands for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]
# How a metric is written, and with how many decimals: those that its standard error over 10,000 images leaves
# meaningful. Of all that are held against a reference, less is better.
METRICS = {
    "bits_per_dim": ("bits/dim", 3),
    "nats": ("nats", 2),
    "kl": ("nats of KL(q || p)", 4),
    "not_reconstructed": ("not reconstructed", 0),
    "fid": ("FID", 2),
    "kid": ("KID", 5),
    "energy_distance": ("energy distance", 4),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
}


def number(value: float, metric: str) -> str:
    """Write a metric's value with the decimals that mean something."""
    return f"{value:.{_decimals(metric)}f}"


def resolution(metric: str) -> float:
    """One unit of the last decimal that is printed: two numbers closer than this are the same number."""
    return 10.0 ** -_decimals(metric)


def measured(result: Mapping[str, Any]) -> str:
    """Write a result's value with its standard error, and a bound as the bound it is: `≤ 3.02 ± 0.01`.

    A count is written with what it is out of: `0 of 10,000 images`.
    """
    if result.get("kind") == "count":
        return f"{result['value']:,} of {result['n']:,} images"
    text = number(result["value"], result["metric"])
    if result.get("standard_error") is not None:
        text += f" ± {number(result['standard_error'], result['metric'])}"
    return f"≤ {text}" if result.get("kind") == "bound" else text


def spread(result: Mapping[str, Any]) -> str:
    """What a result says of its draws: `standard deviation over draws 0.00012`; empty where there is one alone.

    The kernel Inception distance has subsets in place of draws.
    """
    if result.get("spread") is None:
        return ""
    over = "subsets" if result["metric"] == "kid" else "draws"
    # Two significant digits: it is far below the standard error over images, in whose decimals it would be 0.000.
    return f"standard deviation over {over} {result['spread']:.2g}"


def unit(metric: str) -> str:
    """How a metric is written: `bits_per_dim` is bits/dim."""
    return METRICS.get(metric, (metric, 4))[0]


def headline(config: Config) -> Mapping[str, Any] | None:
    """The result that stands for a checkpoint: of a whole split, in the reference's metric, exact or the best bound.

    That is the one of most samples: the lowest of several noisy ones would be the luckiest. Where there is no
    reference, metrics come in the order of `METRICS`.
    """
    metric = (config.get("reference") or {}).get("metric")
    kinds = {"exact": 0, "bound": 1}
    whole = [result for result in config.get("results") or () if not result.get("limit")]

    def order(result: Mapping[str, Any]) -> tuple[bool, int, int, int, float]:
        kind, place = kinds.get(result.get("kind"), 2), [*METRICS, result["metric"]].index(result["metric"])
        return result["metric"] != metric, kind, place, -result.get("samples", 1), result["value"]

    return min(whole, key=order, default=None)


def difference(result: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    """`missed by 0.02`, `reached exactly` or `better by 0.11`, from the unrounded values."""
    gap = result["value"] - reference["value"]
    if gap == 0:
        return "reached exactly"
    # Two significant digits: a miss by less than the printed decimals must not read "missed by 0.000".
    return f"{'missed' if gap > 0 else 'better'} by {float(f'{abs(gap):.2g}'):g}"


def _decimals(metric: str) -> int:
    return METRICS.get(metric, ("", 4))[1]


# What every result says, in this order.
FIELDS = ("metric", "kind", "value", "standard_error", "n", "split", "dataset", "protocol", "limit")


def merge(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put new results in the place of the old ones of the same measurement; the others stay as they are."""

    def key(result: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(result.get(field) for field in ("metric", "kind", "split", "dataset", "protocol"))

    fresh = {key(result): result for result in new}
    kept = [fresh.pop(key(result), result) for result in old]
    return kept + list(fresh.values())
