"""What a measured number is, what it is held against, how both are written, and which one stands for a checkpoint."""

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

_OLD_KINDS = {"bound": "upper"}  # checkpoints of before had bounds of one direction alone
WHOSE = ("paper", "reported", "target")


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
        kind = _OLD_KINDS.get(config["kind"], config["kind"])
        return cls(metric_of(config), kind, **{name: config[name] for name in names if name in config})

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
            return f"{self.value:,} of {self.n:,}"
        error = "" if self.standard_error is None else f" ± {self.metric.write(self.standard_error)}"
        return f"{KINDS[self.kind]}{self.metric.write(self.value)}{error}"

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


def binarization(protocol: str) -> str:
    """Which binary images a protocol is about: "fixed", Larochelle's files; "dynamic", drawn of grey ones; or "".

    Likelihoods of the two differ by about two nats on MNIST, so that one is not held against the other.
    """
    if "fixed binarization" in protocol:
        return "fixed"
    return "dynamic" if "binarized" in protocol or "dynamic binarization" in protocol else ""


@dataclass(frozen=True)
class Reference:
    """The number that a checkpoint is held against.

    Args:
        metric: of it.
        value: the number.
        source: where it stands.
        whose: "paper", the model's own; "reported", somebody's run of that model; "target", the zoo's own goal.
        kind: one of `KINDS`, None where the source does not tell.
        samples: draws for each datum behind it; of an importance-weighted estimate more than one.
        protocol: how it was taken where that decides whether ours is comparable, as `fixed binarization`.
        best: a better number that somebody else has reported, None where there is none.
        best_source: where that stands.
    """

    metric: Metric
    value: float
    source: str
    whose: str = "paper"
    kind: str | None = None
    samples: int = 1
    protocol: str = ""
    best: float | None = None
    best_source: str = ""

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> Reference | None:
        """The reference of a config.json or of a recipe; None where there is none."""
        if not config:
            return None
        best = config.get("best") or {}
        return cls(
            metric_of(config),
            config["value"],
            config["source"],
            # Checkpoints of before had the paper's numbers and targets alone.
            config.get("whose") or ("target" if config.get("target") else "paper"),
            config.get("kind"),
            config.get("samples", 1),
            config.get("protocol", ""),
            best.get("value"),
            best.get("source", ""),
        )

    @property
    def noun(self) -> str:
        """In a sentence: `the paper's number`, `a reported number`, `the target`."""
        return {"paper": "the paper's number", "reported": "a reported number", "target": "the target"}[self.whose]

    @property
    def written(self) -> str:
        """In a table: `≤ 85.1`, `22.29 (reported)`, `target 0.02`."""
        value = f"{KINDS.get(self.kind or '', '')}{self.value:g}"
        return {"paper": value, "reported": f"{value} (reported)", "target": f"target {value}"}[self.whose]

    def is_like(self, result: Result) -> bool:
        """Whether a result is of this number's metric, kind and binarization: a plain bound beside a plain bound."""
        if result.metric.name != self.metric.name:
            return False
        return self.is_of_kind(result) and self.is_of_data(result)

    def is_of_data(self, result: Result) -> bool:
        """Whether both are about the same binary images, where this number says about which."""
        return not self.protocol or binarization(self.protocol) == binarization(result.protocol)

    def is_of_kind(self, result: Result) -> bool:
        """Whether both are exact, or bounds, or estimates, where this number says which it is.

        What papers call an estimate by importance sampling is, in expectation, a bound of several draws.
        """
        if self.kind in (None, "samples"):
            return True
        several = self.samples > 1 or self.kind == "estimate"
        if self.kind in ("upper", "lower", "estimate") and result.kind in ("upper", "lower", "estimate"):
            return several == (result.samples > 1 or result.kind == "estimate")
        return result.kind == self.kind

    def verdict(self, result: Result) -> str:
        """`missed by 0.02`, `reached exactly` or `better by 0.11`, from the unrounded values."""
        gap = result.value - self.value
        if gap == 0:
            return "reached exactly"
        missed = (gap < 0) if self.metric.higher_is_better else (gap > 0)
        # Two significant digits: a miss by less than the printed decimals must not read "missed by 0.000".
        return f"{'missed' if missed else 'better'} by {float(f'{abs(gap):.2g}'):g}"

    def judged(self, result: Result) -> str:
        """The verdict where the result is like this number, else in what it is not."""
        if not self.is_of_data(result):
            return f"not compared, for it is of {self.protocol}"
        if not self.is_of_kind(result):
            theirs, ours = _kind_and_draws(self.kind, self.samples), _kind_and_draws(result.kind, result.samples)
            return f"not compared, for it is {theirs}, and this is {ours}"
        return self.verdict(result)


def _kind_and_draws(kind: str, samples: int) -> str:
    """`an upper bound of 500 draws`; exact numbers have none."""
    if kind not in ("upper", "lower", "estimate"):
        return KIND_NOUNS[kind]
    return f"{KIND_NOUNS[kind]} of {f'{samples:,} draws' if samples > 1 else 'one draw'}"


def results_of(config: Config) -> list[Result]:
    """The results of a config.json."""
    return [Result.from_config(result) for result in config.get("results") or ()]


def headline(config: Config) -> Result | None:
    """The result that stands for a checkpoint: of a whole split, in the reference's metric and of its kind.

    Among several it is the exact one, then the pessimistic bound, then the estimate; of bounds that of most samples,
    for the lowest of several noisy ones would be the luckiest. Where there is no reference, metrics come in the order
    of `METRICS`.
    """
    reference = Reference.from_config(config.get("reference"))
    whole = [result for result in results_of(config) if not result.limit]

    def order(result: Result) -> tuple[Any, ...]:
        metric = result.metric
        pessimistic = "lower" if metric.higher_is_better else "upper"
        kinds = ["exact", pessimistic, "estimate", "quadrature", "samples", "count", "upper", "lower"]
        return (
            reference is None or metric.name != reference.metric.name,
            reference is None or not reference.is_of_kind(result),
            [*METRICS, metric.name].index(metric.name),
            kinds.index(result.kind),
            -result.samples,
            -result.value if metric.higher_is_better else result.value,
        )

    return min(whole, key=order, default=None)


def merge(old: Iterable[Result], new: Iterable[Result]) -> list[Result]:
    """Put new results in the place of the old ones of the same measurement; the others stay as they are."""
    fresh = {result.of: result for result in new}
    kept = [fresh.pop(result.of, result) for result in old]
    return kept + list(fresh.values())
