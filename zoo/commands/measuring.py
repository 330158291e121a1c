"""The commands that measure: evaluate, distance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.commands.terminal import tell
from zoo.errors import ZooError, plain

if TYPE_CHECKING:
    from zoo.results import Result


def evaluate(
    name: str,
    *,
    limit: int | None = None,
    batch_size: int = 100,
    device: str | None = None,
    root: Path | None = None,
    revision: str | None = None,
    samples: int | None = None,
    metrics: str | None = None,
    n: int | None = None,
    write: bool = False,
    **options: Any,
) -> None:
    """Recompute a checkpoint's numbers on its test split from the published weights.

    With options of the model's `sample`, such as its steps, or with n, those of samples alone, which are drawn so: what
    there is, `zoo evaluate NAME --help` tells.

    Args:
        name: a name from `zoo list`, a folder, or a Hub repository NAMESPACE/NAME.
        limit: a quick check on the first so many data.
        batch_size: data computed at once.
        device: cpu, cuda or cuda:1; by default the GPU where there is one.
        root: folder of the data sets; by default ZOO_DATA or the user cache.
        revision: branch, tag or commit of the Hub repository.
        samples: of a bound, draws for each datum; more make it tighter, or of dequantization noise less noisy. By
            default those behind the card's numbers.
        metrics: names of metrics to measure as well, separated by commas, or all.
        n: images that are drawn for FID and what goes with it; by default 50,000.
        write: put the numbers into the folder's config.json and on its card.
    """
    from zoo.evaluation import measure
    from zoo.hub import card, finding
    from zoo.hub.config import read_config, write_config
    from zoo.results import merge, results_of

    if write and limit is not None:
        raise ZooError("A card holds numbers of the whole test split: leave out --limit to --write.")
    folder = finding.find(name, revision=revision)
    if write:
        finding.check_own(name, folder)
    config = read_config(folder)
    how = {"limit": limit, "batch_size": batch_size, "device": device, "root": root, "samples": samples}
    results = measure.evaluate(folder, metrics=metrics or (), n=n, options=options, **how)
    for result in results:
        print(_report(name, result, config))
    if write:
        kept = merge(results_of(config), results)
        write_config(folder, {**config, "results": [result.config for result in kept]})
        tell(card.write(folder))


def sampling_options(name: str, revision: str | None = None) -> dict[str, tuple[type, Any, str]]:
    """What the `sample` of a checkpoint's model takes, as `zoo.commands.drawing.sample_options`; of one that cannot be
    sampled, or is not there, nothing: the command says what is wrong with it.
    """
    from zoo.commands.drawing import sample_options

    try:
        return sample_options(name, revision)
    except ZooError:
        return {}


evaluate.options = sampling_options


def distance(
    a: str,
    b: str,
    *,
    n: int | None = None,
    standardize: bool = False,
    batch_size: int = 100,
    seed: int = 0,
    device: str | None = None,
    root: Path | None = None,
) -> None:
    """Measure how far apart two sets of images or of points are.

    Images by FID, KID, precision and recall, on the network of the original FID, and by W_1 of scattering features;
    points by energy distance, Wasserstein distances and Sinkhorn divergence. Each of the two is a folder of pictures, a
    table (.csv, .tsv, .npy), a checkpoint, which draws, or CHECKPOINT:train or CHECKPOINT:test, that split of its data.

    Args:
        a: what is judged.
        b: the reference.
        n: number of images or points of each; by default all of a folder or split, and 10,000 draws.
        standardize: divide each column of points by the reference's standard deviation first.
        batch_size: images computed at once.
        seed: of draws, subsets and directions.
        device: cpu, cuda or cuda:1; by default the GPU where there is one.
        root: folder of the data sets; by default ZOO_DATA or the user cache.
    """
    from zoo.evaluation import comparison

    how = {"n": n, "standardize": standardize, "batch_size": batch_size, "seed": seed, "device": device, "root": root}
    for result in comparison.distance(a, b, **how):
        said = "; ".join(filter(None, (result.protocol, result.said_of_draws)))
        print(f"{result.metric.name:<21} {result.value:.5g}\n  {said}")


def _report(name: str, result: Result, config: dict[str, Any]) -> str:
    """What was measured, beside what the card says and the reference."""
    from zoo.hub.config import title_of
    from zoo.references import reference_of
    from zoo.results import results_of

    metric, n = result.metric, f"{result.n or 0:,}"
    said = "; ".join(filter(None, (result.protocol, result.said_of_draws)))
    if result.split:
        seen = f"first {n} of the {result.split} split" if result.limit else f"{n}, whole {result.split} split"
        about = f"  data   {title_of(config, result.dataset)}, {seen}"
    else:
        about = f"  data   {title_of(config, result.dataset)}" if result.dataset else "  of     the model alone"
        about += f", n = {n}" if result.n else ""
    lines = [f"{plain(name)}: {result.written} {metric.unit}, {result.kind}", "; ".join(filter(None, (about, said)))]
    for old in results_of(config):
        if old.of == result.of:
            count = f", n = {old.n:,}" if old.n else ""
            lines.append(f"  card   {old.written}{count}" + _agreement(result, old))
    reference = reference_of(config)
    if reference and reference.metric.name == metric.name:
        nearest = reference.nearest(result)
        verdict = "" if result.limit else f": {nearest.judged(result)}"
        what = {"paper": "paper ", "target": "target"}.get(nearest.whose, "others")
        lines.append(f"  {what} {nearest.printed}{verdict} ({nearest.source})")
    return "\n".join(lines)


def _agreement(result: Result, old: Result) -> str:
    """Whether the card's number is confirmed in its printed digits; a part of the split cannot tell."""
    if result.limit or old.limit:
        return ""
    return ": confirmed" if abs(result.value - old.value) < result.metric.resolution else ": NOT confirmed"
