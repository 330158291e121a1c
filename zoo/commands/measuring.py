"""The commands that measure: evaluate, distance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.errors import ZooError


def evaluate(
    name: str,
    *,
    limit: int | None = None,
    batch_size: int = 100,
    device: str | None = None,
    root: Path | None = None,
    revision: str | None = None,
    samples: int | None = None,
    write: bool = False,
) -> None:
    """Recompute a checkpoint's numbers on its test split from the published weights.

    Args:
        name: a name from `zoo list`, a folder, or a Hub repository NAMESPACE/NAME.
        limit: a quick check on the first so many images.
        batch_size: images computed at once.
        device: cpu, cuda or cuda:1; by default the GPU where there is one.
        root: folder of the data sets; by default ZOO_DATA or the user cache.
        revision: branch, tag or commit of the Hub repository.
        samples: of a bound, draws for each image; more make it tighter, or of dequantization noise less noisy. By
            default those behind the card's numbers.
        write: put the numbers into the folder's config.json and on its card.
    """
    from zoo.evaluation import measure
    from zoo.hub import card, store
    from zoo.hub.config import read_config, write_config
    from zoo.results import merge_old as merge

    if write and limit is not None:
        raise ZooError("A card holds numbers of the whole test split: leave out --limit to --write.")
    folder = store.find(name, revision=revision)
    if write:
        store.check_own(name, folder)
    config = read_config(folder)
    results = measure.evaluate(folder, limit=limit, batch_size=batch_size, device=device, root=root, samples=samples)
    for result in results:
        print(_report(name, result, config))
    if write:
        write_config(folder, {**config, "results": merge(list(config.get("results") or ()), results)})
        print(card.write(folder))


def distance(
    a: str,
    b: str,
    *,
    n: int | None = None,
    batch_size: int = 100,
    seed: int = 0,
    device: str | None = None,
    root: Path | None = None,
) -> None:
    """Measure how far apart two sets of images or of points are.

    Images by FID, KID, precision and recall, on the network of the original FID, and by W_1 of scattering features;
    points by energy distance, Wasserstein distances and Sinkhorn divergence. Each of the two is a folder of pictures, a
    checkpoint, which draws, or CHECKPOINT:train or CHECKPOINT:test, that split of its data.

    Args:
        a: what is judged.
        b: the reference.
        n: number of images or points of each; by default all of a folder or split, and 10,000 draws.
        batch_size: images computed at once.
        seed: of draws, subsets and directions.
        device: cpu, cuda or cuda:1; by default the GPU where there is one.
        root: folder of the data sets; by default ZOO_DATA or the user cache.
    """
    from zoo.evaluation import comparison
    from zoo.results import spread

    x, y = (comparison.gather(name, n=n, seed=seed, device=device, root=root) for name in (a, b))
    for result in comparison.compare(x, y, batch_size=batch_size, device=device, root=root, seed=seed):
        said = "; ".join(filter(None, (result["protocol"], spread(result))))
        print(f"{result['metric']:<21} {result['value']:.5g}\n  {said}")


def _report(name: str, result: dict[str, Any], config: dict[str, Any]) -> str:
    """What was measured, beside what the card says and the paper's number."""
    from zoo.classes import dataset_title
    from zoo.results import difference, measured, spread, unit

    metric = result["metric"]
    data = dataset_title(result["dataset"])
    part = f"first {result['n']:,} images of the" if result["limit"] else f"{result['n']:,} images, whole"
    seen = f"{part} {result['split']} split" if result["split"] else f"n = {result['n']:,}"
    said = "; ".join(filter(None, (result["protocol"], spread(result))))
    lines = [
        f"{name}: {measured(result)} {unit(metric)}, {result['kind']}",
        f"  data   {data}, {seen}; {said}",
    ]
    same = ("metric", "kind", "split", "dataset", "protocol")
    for old in config.get("results") or ():
        if all(old.get(key) == result[key] for key in same):
            lines.append(f"  card   {measured(old)}, n = {old['n']:,}" + _agreement(result, old))
    reference = config.get("reference")
    if reference and reference["metric"] == metric:
        verdict = "" if result["limit"] else f": {difference(result, reference)}"
        what = "target" if reference.get("target") else "paper "
        lines.append(f"  {what} {reference['value']:g}{verdict} ({reference['source']})")
    return "\n".join(lines)


def _agreement(result: dict[str, Any], old: dict[str, Any]) -> str:
    """Whether the card's number is confirmed in its printed digits; a part of the split cannot tell."""
    from zoo.results import resolution

    if result["limit"] or old.get("limit"):
        return ""
    same = abs(result["value"] - old["value"]) < resolution(result["metric"])
    return ": confirmed" if same else ": NOT confirmed"
