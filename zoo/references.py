"""What a checkpoint's numbers are held against: like beside like, and which of them stands for the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from zoo.results import KIND_NOUNS, KINDS, METRICS, Config, Metric, Result, metric_of, results_of

WHOSE = {
    "paper": "the paper's number",
    "reported": "a reported number",
    "other": "another model's number",
    "target": "the target",
}
"""Whose number a reference is, and what it is called in a sentence: of the model's own paper; of somebody's run of that
model; of a model that is another one; the zoo's own goal."""

_SHARED = ("metric", "unit", "higher_is_better", "source", "whose", "protocol")  # by all numbers of one reference
_OWN = ("value", "kind", "samples", "protocol", "decimals")  # of each


@dataclass(frozen=True)
class Reference:
    """A number that a checkpoint is held against.

    Args:
        metric: of it.
        value: the number.
        source: where it stands.
        whose: one of `WHOSE`.
        kind: one of `zoo.results.KINDS`, None where the source does not tell.
        samples: draws for each datum behind it; of an importance-weighted estimate more than one.
        protocol: how it was taken where that decides whether ours is comparable: `fixed binarization`, or words that
            the protocol of ours has as well, `50,000 against 10,000 images`.
        decimals: those that the source prints; None for as few as the value has.
        also: numbers of the same source and metric, of other kinds.
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
    decimals: int | None = None
    also: tuple[Reference, ...] = ()
    best: float | None = None
    best_source: str = ""

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None) -> Reference | None:
        """The reference of a config.json or of a recipe; None where there is none."""
        if not config:
            return None
        best, shared = config.get("best") or {}, {key: config[key] for key in _SHARED if key in config}
        return cls(
            metric_of({key: value for key, value in config.items() if key != "decimals"}),
            config["value"],
            config["source"],
            config.get("whose") or "paper",
            config.get("kind"),
            config.get("samples") or 1,
            config.get("protocol") or "",
            config.get("decimals"),
            tuple(
                cls.from_config(shared | {key: each[key] for key in _OWN if key in each})
                for each in config.get("also") or ()
            ),
            best.get("value"),
            best.get("source", ""),
        )

    @property
    def noun(self) -> str:
        """In a sentence: `the paper's number`, `a reported number`, `the target`."""
        return WHOSE[self.whose]

    @property
    def printed(self) -> str:
        """The value with the decimals of its source: `3.00`."""
        return f"{self.value:g}" if self.decimals is None else f"{self.value:.{self.decimals}f}"

    @property
    def written(self) -> str:
        """In a table: `≤ 85.1`, `22.29 (reported)`, `target 0.02`."""
        value = f"{KINDS.get(self.kind or '', '')}{self.printed}"
        forms = {"paper": "{}", "reported": "{} (reported)", "other": "{} (another model)", "target": "target {}"}
        return forms[self.whose].format(value)

    @property
    def said(self) -> str:
        """In a sentence: `84.13 nats, an estimate, fixed binarization`."""
        kind = self.kind and _kind_and_draws(self.kind, self.samples)
        return ", ".join(filter(None, (f"{self.printed} {self.metric.unit}", kind, self.protocol)))

    def is_like(self, result: Result) -> bool:
        """Whether a result is of this number's metric, kind and binarization: a plain bound beside a plain bound."""
        same = self.metric.name == result.metric.name and self.whose != "other"
        return same and self.is_of_kind(result) and self.is_of_data(result)

    def is_of_data(self, result: Result) -> bool:
        """Whether both are about the same binary images, or as many samples and data, where this number says so."""
        if binarization(self.protocol):
            return binarization(self.protocol) == binarization(result.protocol)
        return self.protocol in result.protocol

    def is_of_kind(self, result: Result) -> bool:
        """Whether both are exact, or bounds, or estimates, where this number says which it is.

        What papers call an estimate by importance sampling is, in expectation, a bound of several draws.
        """
        if self.kind in (None, "samples"):
            return True
        if self.kind in ("upper", "lower", "estimate") and result.kind in ("upper", "lower", "estimate"):
            return (self.samples > 1 or self.kind == "estimate") == result.importance_weighted
        return result.kind == self.kind

    def nearest(self, result: Result) -> Reference:
        """This number or, of those that its source has as well, the first that is like a result; itself if none is."""
        return next((each for each in (self, *self.also) if each.is_like(result)), self)

    def verdict(self, result: Result) -> str:
        """`missed by 0.02`, `reached exactly` or `better by 0.11`, from the unrounded values."""
        gap = result.value - self.value
        if gap == 0:
            return "reached exactly"
        missed = (gap < 0) if result.metric.higher_is_better else (gap > 0)
        # Two significant digits: a miss by less than the printed decimals must not read "missed by 0.000".
        return f"{'missed' if missed else 'better'} by {float(f'{abs(gap):.2g}'):g}"

    def judged(self, result: Result) -> str:
        """The verdict where the result is like this number, else in what it is not."""
        if self.whose == "other":
            return "not compared, for it is of another model"
        if not self.is_of_data(result):
            binary = binarization(self.protocol) and f"ours is of {binarization(result.protocol) or 'no'} binarization"
            return f"not compared, for {binary or f'it is of {self.protocol}'}"
        if not self.is_of_kind(result):
            draws = result.samples if result.importance_weighted else 1
            return f"not compared, for ours is {_kind_and_draws(result.kind, draws)}"
        return self.verdict(result)


def _kind_and_draws(kind: str, samples: int) -> str:
    """`an upper bound of 500 draws`."""
    return KIND_NOUNS[kind] + (f" of {samples:,} draws" if samples > 1 else "")


def binarization(protocol: str) -> str:
    """Which binary images a protocol is about: "fixed", Larochelle's files; "dynamic", drawn of grey ones; or "".

    Likelihoods of the two differ by about two nats on MNIST, so that one is not held against the other.
    """
    if "fixed binarization" in protocol:
        return "fixed"
    return "dynamic" if "binarized" in protocol or "dynamic binarization" in protocol else ""


def reference_of(config: Config) -> Reference | None:
    """The reference of a config.json, in the unit and the direction of its results; None where there is none."""
    reference = Reference.from_config(config.get("reference"))
    measured = {result.metric.name: result.metric for result in results_of(config)}
    if reference is None or reference.metric.name not in measured:
        return reference
    metric = measured[reference.metric.name]
    return replace(reference, metric=metric, also=tuple(replace(each, metric=metric) for each in reference.also))


def headline(config: Config) -> Result | None:
    """The result that stands for a checkpoint: of a whole split, in the reference's metric and of its kind.

    Among several it is the exact one, then the pessimistic bound, then the estimate; of bounds that of most samples,
    and of numbers alike the one that was measured first, for the lowest of several would be the luckiest. Where there
    is no reference, metrics come in the order of `zoo.results.METRICS`.
    """
    reference = reference_of(config)
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
        )

    return min(whole, key=order, default=None)
