"""Which numbers are measured of a model: by default those that it is known by, and whatever else is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import LightningDataModule

from zoo.errors import ZooError, listed
from zoo.evaluation.fidelity import Fidelity, N, PointFidelity
from zoo.evaluation.likelihood import Likelihood, own_samples
from zoo.model import GenerativeModel, Measurement, Model
from zoo.model.asking import draws
from zoo.references import reference_of
from zoo.results import results_of

ALL = "all"


def choose(
    model: Model,
    data: LightningDataModule | None,
    config: Mapping[str, Any] | None = None,
    *,
    names: Iterable[str] = (),
    samples: int | None = None,
    seed: int = 0,
    n: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Measurement]:
    """The measurements to take.

    They are the likelihood, where there is one; the model's own, but those that wait to be asked for; those that give
    the metrics of the checkpoint's results and of its reference; and, where nothing remains, the fidelity of the data's
    kind. Where it is said how samples are drawn, they are those of samples alone.

    Args:
        model: what is measured.
        data: the data module; None leaves out whatever needs data.
        config: the checkpoint's config.json, if it comes from one.
        names: metrics to measure as well, or "all" for everything that the data and the model allow.
        samples: draws for each datum behind a bound.
        seed: of such draws.
        n: data that are drawn for the fidelity of images.
        options: of `sample`, with which they are.

    Raises:
        ZooError: a name is none of what can be measured here.
    """
    others = fidelities(model, n, options)
    if options or n is not None:
        own = usual = []
        if samples is not None:
            raise ZooError(
                "Where it is said how data are drawn, or how many, these alone are measured: leave out samples, the "
                "draws behind a bound."
            )
        if not others:
            raise ZooError(f"No samples of {type(model).__name__} are measured: leave out how they are drawn.")
    else:
        own = model.measurements()
        usual = [*likelihoods(model, config, samples, seed), *(each for each in own if not each.asked)]
    asked = [each for each in own if each.asked]
    if data is None:
        usual, others, asked = ([each for each in some if not each.needs_data] for some in (usual, others, asked))
    possible = {metric.name for each in (*usual, *asked, *others) for metric in each.metrics}
    names = set(names)
    unknown = sorted(names - possible - {ALL})
    if unknown:
        raise ZooError(
            f"{type(model).__name__} is not measured by {listed(unknown)} here; choose from "
            f"{', '.join(sorted(possible)) or 'nothing'}, or {ALL}."
        )
    known = {each.metric.name for each in results_of(config or {})} | names
    reference = reference_of(config or {})
    if reference:
        known.add(reference.metric.name)
    extra = (*asked, *others)
    wanted = [each for each in extra if ALL in names or known & {metric.name for metric in each.metrics}]
    return [*usual, *wanted] or others


def likelihoods(
    model: Model, config: Mapping[str, Any] | None = None, samples: int | None = None, seed: int = 0
) -> list[Measurement]:
    """The likelihood, exact or, for each number of samples behind the checkpoint's own results, a bound."""
    kind = getattr(model, "likelihood", None)
    if kind == "exact" and samples is not None:
        raise ZooError(f"{type(model).__name__} has an exact likelihood, which takes no samples: leave them out.")
    if kind is None:
        return []
    counts = [1] if kind == "exact" else [samples] if samples else own_samples(config, model.metric)
    return [Likelihood(model, count, seed) for count in counts]


def fidelities(model: Model, n: int | None = None, options: Mapping[str, Any] | None = None) -> list[Measurement]:
    """How close samples come to data, by the kind of these; none of a model that draws only given a condition.

    Args:
        model: that draws.
        n: samples of images.
        options: of its `sample`.
    """
    options = dict(options or {})
    if not isinstance(model, GenerativeModel) or not draws(model, options):
        return []
    if model.spec.kind == "image" and model.spec.levels is not None:
        return [Fidelity(model, n or N, options=options)]
    return [PointFidelity(model, options=options)] if model.spec.kind == "vector" and model.spec.levels is None else []
