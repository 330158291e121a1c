"""A checkpoint -> its numbers: the negative log-likelihood of held-out data, with its standard error, and what else the
model says is to be measured of it, all in one pass over the data.

    zoo.evaluate("pixelcnn-mnist")                # the whole test split: the numbers on the card
    zoo.evaluate("pixelcnn-mnist", limit=500)     # a quick check on its first 500 images

The mean over images x of -log p(x): in nats for binary images, otherwise in bits per dimension, which are
-log p(x) / (D ln 2). Everything is computed in float32, without autocast or TF32. The other numbers are those of
`GenerativeModel.measurements`.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from tqdm import tqdm

from zoo import hub
from zoo.building import check_arguments
from zoo.errors import CheckpointError, DataError, ZooError
from zoo.model import GenerativeModel, Measurement
from zoo.nn.precision import exact_arithmetic

# Name of a split -> the stage that sets it up, and the method that gives its loader.
SPLITS = {"test": ("test", "test_dataloader"), "validation": ("validate", "val_dataloader")}
# What every result says, in this order.
FIELDS = ("metric", "kind", "value", "standard_error", "n", "split", "dataset", "protocol", "limit")
# These belong to the machine, not to the checkpoint: a config.json that sets one is refused.
LOCAL_ARGUMENTS = ("root", "batch_size", "eval_batch_size", "download")


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
    _check_fit(model, data)
    if model.likelihood == "exact" and samples is not None:
        raise ZooError(f"{type(model).__name__} has an exact likelihood, which takes no samples: leave them out.")
    counts = {None: [], "exact": [1], "bound": [samples] if samples else _own_samples(config)}[model.likelihood]
    measurements = [*(Likelihood(model, count, seed) for count in counts), *model.measurements()]
    if not measurements:
        raise ZooError(f"{type(model).__name__} has neither log_prob nor elbo, and there is nothing else to evaluate.")

    loader = held_out(data, split)
    for measurement in measurements:
        measurement.begin(data, limit)
    n, limited = 0, False
    with model.drawing(cached=False), torch.inference_mode(), exact_arithmetic(model.device):
        for batch in tqdm(loader, desc="evaluate", unit="batch", disable=None, leave=False):
            x = batch[0]
            limited = limit is not None and n + len(x) > limit
            x = x[: limit - n] if limited else x
            if len(x):
                x = x.to(model.device)
                for measurement in measurements:
                    measurement.update(x)
            n += len(x)
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


class Likelihood(Measurement):
    """The mean of -log p(x), exact or an upper bound, in the unit that the model's `metric` names.

    Args:
        model: with `log_prob` or `elbo`.
        samples: draws for each datum behind a bound.
        seed: of these draws; each batch adds the number of data before it.
    """

    def __init__(self, model: GenerativeModel, samples: int = 1, seed: int = 0) -> None:
        self.model, self.samples, self.seed = model, samples, seed
        # Only where a bound of many samples is the mean of bounds of one do the draws have a spread.
        self.averages = model.likelihood == "bound" and hasattr(model, "elbo_draws")
        self.n = 0
        self.found: list[Tensor] = []

    def update(self, x: Tensor) -> None:
        """Log-likelihoods of a batch; a `ZooError` where one is not finite."""
        if self.model.likelihood == "exact":
            log_prob = self.model.log_prob(x)[None]
        else:
            given = {"samples": self.samples, "seed": self.seed + self.n}
            log_prob = self.model.elbo_draws(x, **given) if self.averages else self.model.elbo(x, **given)[None]
        self.found.append(_finite(log_prob, self.n))
        self.n += len(x)

    def compute(self) -> list[dict[str, Any]]:
        """Mean, standard error over data and, of several draws of dequantization noise, their spread."""
        model, count = self.model, self.samples
        losses = -torch.cat(self.found, 1)  # (draws, n)
        if model.metric != "nats":
            losses = losses / (model.spec.dims * math.log(2))
        each = losses.mean(0)
        if self.averages:
            protocol = f"{model.protocol}, " + (f"{count:,} draws" if count > 1 else "one draw")
        else:
            protocol = "; ".join(filter(None, (model.protocol, f"{count:,} samples an image" if count > 1 else "")))
        result = {
            "metric": model.metric,
            "kind": model.likelihood,
            "value": each.mean().item(),
            "standard_error": each.std().item() / math.sqrt(self.n) if self.n > 1 else None,
            "protocol": protocol,
        }
        if count > 1:
            result["samples"] = count
        if len(losses) > 1:
            result["spread"] = losses.mean(1).std().item()
        return [result]


def _own_samples(config: Mapping[str, Any] | None) -> list[int]:
    """Numbers of samples behind the bounds that a checkpoint's config.json holds."""
    bounds = [result for result in (config or {}).get("results") or () if result.get("kind") == "bound"]
    return sorted({result.get("samples", 1) for result in bounds}) or [1]


def merge(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put new results in the place of the old ones of the same measurement; the others stay as they are."""

    def key(result: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(result.get(field) for field in ("metric", "kind", "split", "dataset", "protocol"))

    fresh = {key(result): result for result in new}
    kept = [fresh.pop(key(result), result) for result in old]
    return kept + list(fresh.values())


def datamodule(
    data: Mapping[str, Any], *, root: str | Path | None = None, batch_size: int | None = None
) -> LightningDataModule:
    """Build the data module that a config.json names.

    Args:
        data: {"class_path": "zoo.data.MNIST", "init_args": {...}}.
        root: folder of the data sets; by default ZOO_DATA or the user cache.
        batch_size: by default the data module's own.

    Raises:
        CheckpointError: when it names a class outside `zoo.data`, or arguments that the class does not take.
    """
    path, arguments = str(data.get("class_path")), dict(data.get("init_args") or {})
    cls = _data_class(path)
    for key in LOCAL_ARGUMENTS:
        if key in arguments:
            raise CheckpointError(
                f"A checkpoint may not set {key} of {path}; take it out of the init_args of its data."
            )
    check_arguments(cls, arguments)
    local = {"root": root and str(root), "batch_size": batch_size}
    accepted = inspect.signature(cls).parameters
    arguments |= {key: value for key, value in local.items() if value is not None and key in accepted}
    return cls(**arguments)


def held_out(data: LightningDataModule, split: str = "test") -> Iterable[tuple[Tensor, ...]]:
    """The loader of a split, in its order, its data fetched first if need be; batches are (data, labels)."""
    stage, loader = SPLITS[split]
    data.prepare_data()
    data.setup(stage)
    return getattr(data, loader)()


def checked_device(device: str | torch.device | None) -> torch.device:
    """A device that exists: the named one, or by default the GPU where there is one."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ZooError(f"There is no device {str(device)!r} here; choose cpu, or cuda where there is a GPU.") from error
    return device


def _data_class(path: str) -> type[LightningDataModule]:
    """Class of that name below `zoo.data`; nothing else is ever imported or called."""
    module, _, name = path.rpartition(".")
    if module != "zoo.data" and not module.startswith("zoo.data."):
        raise CheckpointError(f"The data of a checkpoint must be a class of zoo.data, not {path!r}.")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        found = None
    own = inspect.isclass(found) and issubclass(found, LightningDataModule) and found.__module__.startswith("zoo.data")
    if not own:
        raise CheckpointError(f"There is no data module {path!r}; a newer version of generative-zoo may have it.")
    return found


def _model(
    name: str | Path | GenerativeModel, device: str | torch.device | None
) -> tuple[GenerativeModel, dict[str, Any] | None]:
    """The model on its device, and its config.json where it comes from a checkpoint."""
    if isinstance(name, torch.nn.Module):
        return (name if device is None else name.to(checked_device(device))), None
    folder = hub.find(name)
    return hub.load(folder, device=checked_device(device)), hub.read_config(folder)


def _check_fit(model: GenerativeModel, data: LightningDataModule) -> None:
    """A digits model has nothing to say on CIFAR-10: refuse before downloading anything."""
    ours, theirs = model.spec, data.spec
    if (ours.shape, ours.levels) != (theirs.shape, theirs.levels):
        raise DataError(
            f"{type(model).__name__} models data of shape {ours.shape} with {ours.levels} levels, "
            f"but {type(data).__name__} has shape {theirs.shape} with {theirs.levels} levels."
        )


def _finite(log_prob: Tensor, start: int) -> Tensor:
    """log p, (draws, N), as float64 on the CPU; a NaN must not hide in a mean."""
    log_prob = log_prob.double().cpu()
    bad = (~torch.isfinite(log_prob)).nonzero()
    if len(bad):
        draw, index = bad[0].tolist()
        raise ZooError(
            f"The log-likelihood of image {start + index} is {log_prob[draw, index].item()}: "
            "the weights are damaged, or the model does not cover its data."
        )
    return log_prob
