"""A checkpoint -> its numbers: the negative log-likelihood of held-out data, with its standard error, and what else the
model says is to be measured of it, all in one pass over the data.

    zoo.evaluate("pixelcnn-mnist")                # the whole test split: the numbers on the card
    zoo.evaluate("pixelcnn-mnist", limit=500)     # a quick check on its first 500 images

The mean over images x of -log p(x): in nats for binary images, otherwise in bits per dimension, which are
-log p(x) / (D ln 2). Everything is computed in float32, without autocast or TF32. The other numbers are those of
`GenerativeModel.measurements`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from tqdm import tqdm

from zoo.batch import as_batch
from zoo.data.splits import SPLITS, held_out
from zoo.errors import DataError, ZooError
from zoo.evaluation.likelihood import Likelihood, own_samples
from zoo.hub import store
from zoo.hub.config import read_config
from zoo.hub.data import datamodule
from zoo.model import GenerativeModel
from zoo.nn.devices import checked_device, full_precision
from zoo.results import FIELDS


def evaluate(
    name: str | Path | GenerativeModel,
    *,
    data: LightningDataModule | Mapping[str, Any] | None = None,
    limit: int | None = None,
    batch_size: int = 100,
    device: str | torch.device | None = None,
    root: str | Path | None = None,
    split: str = "test",
    seed: int = 0,
    samples: int | None = None,
) -> list[dict[str, Any]]:
    """Measure how likely a model finds held-out data, and the other numbers that tell what it is worth.

    Args:
        name: what `zoo.load` takes (a name, a folder, "namespace/name"), or a model.
        data: a data module, or {"class_path": ..., "init_args": ...} as in config.json; by default the
            checkpoint's own. A model that is passed itself needs it.
        limit: only the first so many images of the split.
        batch_size: images computed at once; it does not change an exact number.
        device: "cpu", "cuda", ...; by default the GPU where there is one, for a model where it is.
        root: folder of the data sets; by default ZOO_DATA or the user cache.
        split: "test" or "validation".
        seed: of the draws behind a bound; exact numbers have none.
        samples: draws for each image behind a bound, for a tighter one, or of dequantization noise for one that is
            less noisy; by default those behind each of the checkpoint's own results, else one.

    Returns:
        The results in the form that config.json holds: metric ("bits_per_dim" or "nats"), kind ("exact" from
        `log_prob` or "bound" from `elbo`), value (the mean), standard_error (std / sqrt(n); None for one
        image), n, split, dataset, protocol, and limit, which is true when only a part of the split was used; of
        a bound with more than one sample also samples and, of dequantization, spread: the standard deviation over
        draws of the mean over the images. After the likelihood come the model's other measurements in the same form, as
        {"metric": "not_reconstructed", "kind": "count", ...} of flows of images; a number that uses no data, as
        {"metric": "kl", "kind": "quadrature", ...} of a flow fitted to an energy, has the split None.

    Raises:
        ZooError: when there is nothing to measure, the data do not fit the model, a likelihood is not finite, or a
            measurement fails.
    """
    if limit is not None and limit < 1:
        raise ZooError(f"limit must be at least 1 image, not {limit}.")
    if batch_size < 1:
        raise ZooError(f"batch_size must be at least 1, not {batch_size}.")
    if split not in SPLITS:
        raise ZooError(f"There is no split {split!r} to evaluate on; choose one of {', '.join(SPLITS)}.")
    if samples is not None and samples < 1:
        raise ZooError(f"samples must be at least 1, not {samples}.")
    model, config = _model(name, device)
    if data is None:
        data = (config or {}).get("data")
    if data is None:
        raise ZooError("The checkpoint names no data set; say which one with data={'class_path': 'zoo.data...'}.")
    if isinstance(data, Mapping):
        data = datamodule(data, root=root, batch_size=batch_size)
    model.spec.fits(data.spec, type(data).__name__)
    if model.likelihood == "exact" and samples is not None:
        raise ZooError(f"{type(model).__name__} has an exact likelihood, which takes no samples: leave them out.")
    counts = {None: [], "exact": [1], "bound": [samples] if samples else own_samples(config)}[model.likelihood]
    measurements = [*(Likelihood(model, count, seed) for count in counts), *model.measurements()]
    if not measurements:
        raise ZooError(f"{type(model).__name__} has neither log_prob nor elbo, and there is nothing else to evaluate.")

    loader = held_out(data, split)
    for measurement in measurements:
        measurement.begin(data, limit)
    n, limited = 0, False
    with model.sampling_mode(cached=False), torch.inference_mode(), full_precision(model.device):
        for batch in tqdm(loader, desc="evaluate", unit="batch", disable=None, leave=False):
            batch = as_batch(batch)
            limited = limit is not None and n + batch.size > limit
            batch = batch.first(limit - n) if limited else batch
            if batch.size:
                batch = batch.to(model.device)
                for measurement in measurements:
                    measurement.update(batch)
            n += batch.size
            if limited:
                break
        if not n:
            raise DataError(f"The {split} split of {type(data).__name__} is empty.")
        found = [result for measurement in measurements for result in measurement.compute()]

    seen = {"n": n, "split": split, "dataset": type(data).__name__, "limit": limited}
    results = [{**dict.fromkeys(FIELDS), **seen, **result} for result in found]
    for result in results:
        used = data.protocol if result["split"] else ""
        result["protocol"] = "; ".join(filter(None, (used, result["protocol"])))
    return results


def _model(
    name: str | Path | GenerativeModel, device: str | torch.device | None
) -> tuple[GenerativeModel, dict[str, Any] | None]:
    """The model on its device, and its config.json where it comes from a checkpoint."""
    if isinstance(name, torch.nn.Module):
        return (name if device is None else name.to(checked_device(device))), None
    folder = store.find(name)
    return store.load(folder, device=checked_device(device)), read_config(folder)
