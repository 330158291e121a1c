"""What a measured number is, and how it is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from zoo.errors import ZooError, show

Config = Mapping[str, Any]

KINDS = {
    "exact": "",
    "upper": "≤ ",
    "lower": "≥ ",
    "estimate": "≈ ",
    "samples": "",
    "quadrature": "",
    "count": "",
}
"""The kinds of numbers, each with what is written before one: an exact value, bounds, an estimate whose error may go
either way, a distance of samples, an integral, a count of data."""

KIND_NOUNS = {
    "exact": "an exact number",
    "upper": "an upper bound",
    "lower": "a lower bound",
    "estimate": "an estimate",
    "samples": "a distance of samples",
    "quadrature": "an integral",
    "count": "a count",
}
"""What each kind is called in a sentence."""


@dataclass(frozen=True)
class Metric:
    """What is measured, and how it is written.

    Args:
        name: as in config.json.
        unit: as people write it: `bits_per_dim` is bits/dim.
        decimals: those that the standard error over 10,000 data leaves meaningful.
        higher_is_better: whether more is better.
    """

    name: str
    unit: str
    decimals: int = 4
    higher_is_better: bool = False

    def write(self, value: float) -> str:
        """A value with the decimals that mean something."""
        return f"{value:.{self.decimals}f}"

    @property
    def resolution(self) -> float:
        """One unit of the last decimal that is printed: two numbers closer than this are the same number."""
        return 10.0**-self.decimals

    @property
    def mode(self) -> str:
        """ "max" or "min", as callbacks have it."""
        return "max" if self.higher_is_better else "min"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("bits_per_dim", "bits/dim", 3),
        Metric("nats", "nats", 2),
        Metric("kl", "nats of KL(q || p)", 4),
        Metric("not_reconstructed", "not reconstructed", 0),
        Metric("fid", "FID", 2),
        Metric("kid", "KID", 5),
        Metric("energy_distance", "energy distance", 4),
        Metric("precision", "precision", 3, higher_is_better=True),
        Metric("recall", "recall", 3, higher_is_better=True),
        Metric("free_energy", "nats of free energy", 3),
        Metric("flow_bits_per_dim", "bits/dim by the probability flow", 3),
        Metric("flow_nats", "nats by the probability flow", 2),
        Metric("flow_less_bound_bits_per_dim", "bits/dim by the probability flow less the bound", 4),
        Metric("flow_less_bound_nats", "nats by the probability flow less the bound", 3),
    )
}
"""The metrics that the zoo itself measures, in the order in which they stand for a checkpoint."""


def metric_of(config: str | Mapping[str, Any]) -> Metric:
    """The metric of that name; of a result or a reference of a config.json, with the unit that it says itself."""
    given = {"metric": config} if isinstance(config, str) else config
    known = METRICS.get(given["metric"], Metric(given["metric"], given["metric"]))
    own = {key: given[key] for key in ("unit", "decimals", "higher_is_better") if given.get(key) is not None}
    return replace(known, **own)


@dataclass(frozen=True)
class Result:
    """A number that was measured, with everything that gives it its meaning.

    Args:
        metric: what was measured.
        kind: one of `KINDS`.
        value: the number.
        standard_error: of the mean over data; None where there is none.
        n: number of data, or of whatever else it is of; None, in a measurement, for the data that were seen.
        split: of the data; None for a number of the model alone, and in a measurement "" for the split that was seen.
        dataset: name of the data module's class.
        protocol: how it was taken, in a phrase.
        limit: whether a part of the split was seen only.
        samples: draws for each datum behind it.
        spread: standard deviation over draws, or over subsets.
    """

    metric: Metric
    kind: str
    value: float
    standard_error: float | None = None
    n: int | None = None
    split: str | None = ""
    dataset: str | None = None
    protocol: str = ""
    limit: bool | None = None
    samples: int = 1
    spread: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ZooError(f"The kind of a number is one of {', '.join(KINDS)}, not {show(self.kind)}.")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Result:
        """The result that a config.json holds."""
        names = ("value", "standard_error", "n", "split", "dataset", "protocol", "limit", "samples", "spread")
        return cls(metric_of(config), config["kind"], **{name: config[name] for name in names if name in config})

    @property
    def config(self) -> dict[str, Any]:
        """The result as config.json holds it, from which `from_config` makes it again."""
        names = ("value", "standard_error", "n", "split", "dataset", "protocol", "limit")
        config = {"metric": self.metric.name, "kind": self.kind} | {name: getattr(self, name) for name in names}
        if self.samples > 1:
            config["samples"] = self.samples
        if self.spread is not None:
            config["spread"] = self.spread
        metric = self.metric
        return config | {
            "unit": metric.unit,
            "decimals": metric.decimals,
            "higher_is_better": metric.higher_is_better,
        }

    @property
    def of(self) -> tuple[Any, ...]:
        """What was measured, on what and how: two results that agree in this are the same measurement."""
        return self.metric.name, self.kind, self.split, self.dataset, self.protocol

    @property
    def written(self) -> str:
        """The value with its standard error, a bound as the bound it is: `≤ 3.02 ± 0.01`, `0 of 10,000`."""
        if self.kind == "count":
            return f"{self.value:,.0f} of {self.n:,}"
        error = "" if self.standard_error is None else f" ± {self.metric.write(self.standard_error)}"
        return f"{KINDS[self.kind]}{self.metric.write(self.value)}{error}"

    @property
    def importance_weighted(self) -> bool:
        """Whether several draws make it a tighter number than one does: of an importance-weighted bound or an estimate.

        A bound of several draws of dequantization noise, which has a spread over them, is the mean of plain ones.
        """
        return self.kind == "estimate" or (self.samples > 1 and self.spread is None)

    @property
    def said_of_draws(self) -> str:
        """Of several draws: `standard deviation over draws 0.00012`; empty where there is one alone.

        The kernel Inception distance has subsets in place of draws.
        """
        if self.spread is None:
            return ""
        over = "subsets" if self.metric.name == "kid" else "draws"
        # Two significant digits: it is far below the standard error over data, in whose decimals it would be 0.000.
        return f"standard deviation over {over} {self.spread:.2g}"


def results_of(config: Config) -> list[Result]:
    """The results of a config.json."""
    return [Result.from_config(result) for result in config.get("results") or ()]


def merge(old: Iterable[Result], new: Iterable[Result]) -> list[Result]:
    """Put new results in the place of the old ones of the same measurement; the others stay as they are."""
    fresh = {result.of: result for result in new}
    kept = [fresh.pop(result.of, result) for result in old]
    return kept + list(fresh.values())
