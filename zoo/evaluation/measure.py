"""A checkpoint -> its numbers: the negative log-likelihood of held-out data, with its standard error, and what else the
model says is to be measured of it, all in one pass over the data.

    zoo.evaluate("pixelcnn-mnist")                # the whole test split: the numbers on the card
    zoo.evaluate("pixelcnn-mnist", limit=500)     # a quick check on its first 500 images

The mean over images x of -log p(x): in nats for binary images, otherwise in bits per dimension, which are
-log p(x) / (D ln 2). Everything is computed in float32, without autocast or TF32. The other numbers are those of
`Model.measurements`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from tqdm import tqdm

from zoo.arguments import count_of, seed_of
from zoo.batch import as_batch
from zoo.data.splits import SPLITS, held_out
from zoo.errors import DataError, ZooError
from zoo.evaluation.choice import choose
from zoo.hub import finding, store
from zoo.hub.config import read_config
from zoo.hub.data import datamodule
from zoo.model import Measurement, Model
from zoo.nn.devices import checked_device, full_precision
from zoo.results import Result


def evaluate(
    name: str | Path | Model,
    *,
    data: LightningDataModule | Iterable[Any] | Mapping[str, Any] | None = None,
    metrics: Iterable[str] = (),
    limit: int | None = None,
    batch_size: int = 100,
    device: str | torch.device | None = None,
    root: str | Path | None = None,
    split: str = "test",
    seed: int = 0,
    samples: int | None = None,
    n: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Result]:
    """Measure how likely a model finds held-out data, and the other numbers that tell what it is worth.

    Args:
        name: what `zoo.load` takes (a name, a folder, "namespace/name"), or a model.
        data: a data module, a loader of batches as `zoo.batch.as_batch` takes them, which is then the split, or
            {"class_path": ..., "init_args": ...} as in config.json; by default the checkpoint's own. A model that is
            passed itself needs it, unless its numbers need no data.
        metrics: what is to be measured beside what `zoo.evaluation.choice` chooses: names, in a list or in a text with
            commas, or "all".
        limit: only the first so many data of the split.
        batch_size: data computed at once; it does not change an exact number.
        device: "cpu", "cuda", ...; by default the GPU where there is one, for a model where it is.
        root: folder of the data sets; by default ZOO_DATA or the user cache.
        split: "test" or "validation".
        seed: of the draws behind a bound; exact numbers have none.
        samples: draws for each datum behind a bound, for a tighter one, or of dequantization noise for one that is
            less noisy; by default those behind each of the checkpoint's own results, else one.
        n: images that are drawn for FID and what goes with it; by default 50,000. With it, or with options, only
            samples are measured.
        options: of the model's `sample`, with which these are drawn: {"steps": 10}.

    Returns:
        The results: first the likelihood (kind "exact" from `log_prob` or "upper" from `elbo`, its mean and standard
        error over the data; of dequantization with several draws also the spread of that mean over draws), then the
        model's own measurements and the others. A number that uses no data has the split None.

    Raises:
        ZooError: when there is nothing to measure, the data do not fit the model, a likelihood is not finite, or a
            measurement fails.
    """
    limit = None if limit is None else count_of(limit, "limit")
    batch_size, seed = count_of(batch_size, "batch_size"), seed_of(seed)
    if split not in SPLITS:
        raise ZooError(f"There is no split {split!r} to evaluate on; choose one of {', '.join(SPLITS)}.")
    samples = None if samples is None else count_of(samples, "samples")
    n = None if n is None else count_of(n)
    model, config = _model(name, device)
    data = (config or {}).get("data") if data is None else data
    if isinstance(data, Mapping):
        data = datamodule(data, root=root, batch_size=batch_size)
    if isinstance(metrics, str):
        metrics = [name.strip() for name in metrics.split(",")]
    model.check_data(data)
    measurements = choose(model, data, config, names=metrics, samples=samples, seed=seed, n=n, options=options)
    if not measurements and data is None:
        raise ZooError("The checkpoint names no data set; say which one with data={'class_path': 'zoo.data...'}.")
    if not measurements:
        raise ZooError(f"{type(model).__name__} has neither log_prob nor elbo, and there is nothing else to evaluate.")

    with model.sampling_mode(cached=False), torch.no_grad(), full_precision(model.device):
        count, limited = _pass(model, measurements, data, split, limit)
        # A number that needs no data is of no split, whatever other numbers have seen.
        seen = {True: (data, count, split, limited), False: (data, None, None, False)}
        return [_complete(each, *seen[some.needs_data]) for some in measurements for each in some.compute()]


def _pass(model: Model, measurements: list[Measurement], data: Any, split: str, limit: int | None) -> tuple[int, bool]:
    """Show the split to what needs data; how many they were, and whether the limit has left out some."""
    seeing = [measurement for measurement in measurements if measurement.needs_data]
    n, limited = 0, False
    if not seeing:
        return n, limited
    loader = held_out(data, split) if isinstance(data, LightningDataModule) else data
    for measurement in seeing:
        measurement.begin(data, limit)
    for given in tqdm(loader, desc="evaluate", unit="batch", disable=None, leave=False):
        batch = as_batch(given)
        limited = limit is not None and n + batch.size > limit
        batch = batch.first(limit - n) if limited else batch
        if batch.size:
            batch = model.taken(batch.to(model.device))
            for measurement in seeing:
                measurement.update(batch)
        n += batch.size
        if limited:
            break
    if not n:
        raise DataError(f"The {split} split of {type(data).__name__} is empty.")
    return n, limited


def _complete(result: Result, data: Any, n: int | None, split: str | None, limited: bool) -> Result:
    """A result with what it leaves out: the data that were seen, and how they were made."""
    result = replace(
        result,
        n=n if result.n is None else result.n,
        split=split if result.split == "" else result.split,
        dataset=result.dataset or _name_of(data),
        limit=limited if result.limit is None else result.limit,
    )
    if result.split is None:
        result = replace(result, limit=False)
    if result.n == 1 and result.standard_error is not None:
        result = replace(result, standard_error=None)  # one datum tells nothing of how it varies
    used = getattr(data, "protocol", "") if result.split else ""
    return replace(result, protocol="; ".join(filter(None, (used, result.protocol))))


def _name_of(data: Any) -> str:
    """The class of a data module, or of the data set behind a loader; "" of none."""
    if data is None:
        return ""
    return type(data if isinstance(data, LightningDataModule) else getattr(data, "dataset", data)).__name__


def _model(name: str | Path | Model, device: str | torch.device | None) -> tuple[Model, dict[str, Any] | None]:
    """The model on its device, and its config.json where it comes from a checkpoint."""
    if isinstance(name, torch.nn.Module):
        return (name if device is None else name.to(checked_device(device))), None
    folder = finding.find(name)
    return store.load(folder, device=checked_device(device)), read_config(folder)
