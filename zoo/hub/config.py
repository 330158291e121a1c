"""config.json of a checkpoint folder: read strictly, checked field by field, written whole or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from zoo.classes import CLASS_NAMES, HUB_DATASETS, SPECS, dataset_title, up_to_date
from zoo.errors import CheckpointError, DataError, plain, refusing, show
from zoo.files import write_atomically
from zoo.hub.reading import read_json
from zoo.references import WHOSE
from zoo.results import KINDS
from zoo.spec import DataSpec

FORMAT = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
DTYPES = ("float16", "bfloat16", "float32", "float64")

_MOST = 1000  # results, and notes
_LONGEST, _LONGEST_WORD = 10_000, 200  # characters of a text; of what stands in a table's cell
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors")
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHECKPOINT = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", re.ASCII)


# ---------------------------------------------------------------------------------------------- config.json


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The validated config.json of a checkpoint folder (imports no torch).

    Raises:
        CheckpointError: the folder or its config.json is absent, too large, not JSON or not of this format.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; a checkpoint is a folder with {CONFIG} and {WEIGHTS}.")
    path = folder / CONFIG
    with refusing(f"{path} cannot be read"):
        config = worded(up_to_date(read_json(path), complete=True), plain)
        _check_config(config, path)
    return config


def worded(value: Any, function: Callable[[str], str]) -> Any:
    """A config.json with `function` of every text that people read, which are all but a constructor's arguments."""
    if isinstance(value, str):
        return function(value)
    if isinstance(value, list):
        return [worded(each, function) for each in value]
    if not isinstance(value, dict):
        return value
    return {function(key): each if key == "init_args" else worded(each, function) for key, each in value.items()}


def spec_of(config: Mapping[str, Any]) -> DataSpec | None:
    """What data a checkpoint's model takes, without its class; None where its config.json does not tell."""
    given = config.get("spec")
    if given is None:  # published before configurations held it
        names = ("shape", "levels", "classes")
        own = {key: value for key, value in config["init_args"].items() if key in names}
        given = SPECS.get(config["class_path"], {}) | own
    try:
        spec = DataSpec.from_config(given)
    except DataError:
        return None
    if spec.class_names is None:
        names = CLASS_NAMES.get((config.get("data") or {}).get("class_path"), ())
        spec = replace(spec, class_names=names) if names and len(names) == spec.classes else spec
    return spec


def title_of(config: Mapping[str, Any], dataset: str | None = None) -> str:
    """How people write a data set, by default the checkpoint's own: `CIFAR10` is CIFAR-10."""
    own = config.get("data") or {}
    name = own.get("class_path", "").rpartition(".")[2]
    if dataset in (None, name) and own.get("title"):
        return str(own["title"])
    return dataset_title(name if dataset is None else dataset)


def hub_id_of(config: Mapping[str, Any], dataset: str | None = None) -> str | None:
    """The name of a data set on the Hugging Face Hub, by default the checkpoint's own; None where it has none."""
    own = config.get("data") or {}
    name = own.get("class_path", "").rpartition(".")[2]
    if dataset in (None, name) and "hub_id" in own:
        return own["hub_id"]
    return HUB_DATASETS.get(name if dataset is None else dataset)


def portable(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says of a data module, without the folders of somebody's machine.

    A file that it names by a path from the root, from a home folder or by way of the folder above is a file of that
    name, which is looked for in the folder that whoever evaluates the checkpoint gives as `root`.
    """

    def own(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [own(each) for each in value]
        if isinstance(value, Mapping):
            return {key: own(each) for key, each in value.items()}
        if not isinstance(value, (str, os.PathLike)):
            return value
        text = os.fspath(value)
        for path in (PurePosixPath(text), PureWindowsPath(text)):
            away = path.is_absolute() or path.drive or text.startswith("~") or ".." in path.parts
            if len(text) > 2 and away and path.name:
                return path.name
        return text

    found, arguments = dict(data), data.get("init_args")
    if isinstance(arguments, Mapping):
        found["init_args"] = {key: value if key == "class_names" else own(value) for key, value in arguments.items()}
    return found


def write_config(folder: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
    """Validate `config` and put it into `folder` as config.json, replacing the old one in one step.

    Raises:
        CheckpointError: `config` would not be accepted by `read_config`.
        DataError: the file cannot be written.
    """
    path = Path(folder) / CONFIG
    text = dump_json(config, str(path))
    # Checked as a reader will see it: tuples have become lists by now.
    _check_config(json.loads(text), path)
    write_atomically(path, text)


def dump_json(value: object, what: str) -> str:
    """`value` as indented JSON; raises `CheckpointError` naming `what` if it is not plain JSON."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} must hold plain JSON values only: {error}.") from error


def _check_config(config: dict[str, Any], path: Path) -> None:
    """Refuse a config.json that is not of the format, naming the field."""

    def need(condition: bool, field: str, wanted: str, value: object) -> None:
        if not condition:
            raise CheckpointError(f"{path}: {field} must be {wanted}, not {show(value)}.")

    def check_hashes(hashes: object, field: str) -> None:
        need(isinstance(hashes, dict) and bool(hashes), field, "an object from file to SHA-256", hashes)
        for name, digest in hashes.items():
            need(FILE_NAME.fullmatch(name) is not None, f"a name in {field}", "a plain *.safetensors", name)
            valid = text(digest) and _SHA256.fullmatch(digest) is not None
            need(valid, f"{field}[{show(name)}]", "64 hexadecimal digits", digest)

    def text(value: object) -> bool:
        return isinstance(value, str) and len(value) <= _LONGEST

    def word(value: object) -> bool:
        return isinstance(value, str) and len(value) <= _LONGEST_WORD

    def integer(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def number(value: object) -> bool:
        return isinstance(value, float) or integer(value)

    for key in ("format", "class_path", "init_args", "weights"):
        if key not in config:
            raise CheckpointError(f'{path} has no "{key}"; export the checkpoint again.')
    version = config["format"]
    need(
        integer(version) and version == FORMAT,
        "format",
        f"{FORMAT}, the one this version of zoo reads",
        version,
    )

    def component(value: object, field: str) -> None:
        need(isinstance(value, dict), field, "an object", value)
        path_ = value.get("class_path")
        dotted = text(path_) and _CLASS_PATH.fullmatch(path_) is not None
        need(dotted, f"{field}.class_path".lstrip("."), "a dotted class name", path_)
        arguments = value.get("init_args", {})
        need(isinstance(arguments, dict), f"{field}.init_args".lstrip("."), "an object", arguments)

    def metric(value: dict[str, Any], field: str) -> None:
        """What a number says of its metric itself."""
        unit, decimals, higher = (value.get(key) for key in ("unit", "decimals", "higher_is_better"))
        need(unit is None or word(unit), f"{field}.unit", "a short string or null", unit)
        whole = decimals is None or (integer(decimals) and 0 <= decimals <= 9)
        need(whole, f"{field}.decimals", "a number of digits from 0 to 9, or null", decimals)
        need(higher is None or isinstance(higher, bool), f"{field}.higher_is_better", "true, false or null", higher)

    def published(value: dict[str, Any], field: str) -> None:
        """How a number that a checkpoint is held against was taken."""
        kind, samples, protocol = (value.get(key) for key in ("kind", "samples", "protocol"))
        need(kind is None or (text(kind) and kind in KINDS), f"{field}.kind", f"one of {', '.join(KINDS)}", kind)
        need(samples is None or (integer(samples) and samples > 0), f"{field}.samples", "a positive count", samples)
        need(protocol is None or text(protocol), f"{field}.protocol", "a string or null", protocol)
        metric(value, field)

    component(config, "")
    data = config.get("data")
    if data is not None:
        component(data, "data")
        for key in ("title", "hub_id"):
            need(data.get(key) is None or word(data[key]), f"data.{key}", "a short string or null", data.get(key))
    if config.get("spec") is not None:
        try:
            DataSpec.from_config(config["spec"])
        except DataError as error:
            raise CheckpointError(f"{path}: spec is none of data. {error}") from error
    draws = config.get("draws", True)
    need(isinstance(draws, bool), "draws", "true or false", draws)
    recipe = config.get("recipe")
    need(recipe is None or word(recipe), "recipe", "a short string or null", recipe)
    training = config.get("training")
    need(training is None or isinstance(training, dict), "training", "an object or null", training)

    reference = config.get("reference")
    if reference is not None:
        need(isinstance(reference, dict), "reference", "an object or null", reference)
        for key, fits, wanted in (
            ("metric", word, "a short string"),
            ("value", number, "a number"),
            ("source", text, "a string"),
        ):
            need(fits(reference.get(key)), f"reference.{key}", wanted, reference.get(key))
        need("target" not in reference, "reference.target", "left out, whose saying it", reference.get("target"))
        whose, also = reference.get("whose"), reference.get("also")
        known = whose is None or (text(whose) and whose in WHOSE)
        need(known, "reference.whose", f"one of {', '.join(WHOSE)}", whose)
        published(reference, "reference")
        short = also is None or (isinstance(also, list) and len(also) <= _MOST)
        need(short, "reference.also", f"a list of at most {_MOST} or null", also)
        for i, each in enumerate(also or ()):
            field = f"reference.also[{i}]"
            need(isinstance(each, dict), field, "an object", each)
            need(number(each.get("value")), f"{field}.value", "a number", each.get("value"))
            published(each, field)
        best = reference.get("best")
        if best is not None:
            need(isinstance(best, dict), "reference.best", "an object or null", best)
            need(number(best.get("value")), "reference.best.value", "a number", best.get("value"))
            need(text(best.get("source")), "reference.best.source", "a string", best.get("source"))

    papers = config.get("papers") or []
    need(isinstance(papers, list) and all(map(text, papers)), "papers", "a list of keys or null", papers)

    weights = config["weights"]
    need(isinstance(weights, dict), "weights", "an object", weights)
    dtype, parameters, hashes = (weights.get(key) for key in ("dtype", "parameters", "sha256"))
    need(text(dtype) and dtype in DTYPES, "weights.dtype", f"one of {', '.join(DTYPES)}", dtype)
    need(integer(parameters) and parameters >= 0, "weights.parameters", "a count", parameters)
    size = weights.get("bytes")  # which early checkpoints lack
    need(size is None or (integer(size) and size >= 0), "weights.bytes", "a count or null", size)
    check_hashes(hashes, "weights.sha256")
    rests_on = config.get("rests_on")
    if rests_on is not None:
        need(isinstance(rests_on, dict), "rests_on", "an object or null", rests_on)
        name, digests = rests_on.get("name"), rests_on.get("sha256")
        # A path would be another one elsewhere.
        need(text(name) and _CHECKPOINT.fullmatch(name) is not None, "rests_on.name", "a checkpoint's name", name)
        check_hashes(digests, "rests_on.sha256")

    results = config.get("results", [])
    need(isinstance(results, list) and len(results) <= _MOST, "results", f"a list of at most {_MOST}", results)
    for i, result in enumerate(results):
        field = f"results[{i}]"
        need(isinstance(result, dict), field, "an object", result)
        for key in ("metric", "kind", "dataset"):
            need(word(result.get(key)), f"{field}.{key}", "a short string", result.get(key))
        need(text(result.get("protocol")), f"{field}.protocol", "a string", result.get("protocol"))
        need(result["kind"] in KINDS, f"{field}.kind", f"one of {', '.join(KINDS)}", result["kind"])
        metric(result, field)
        need("split" in result, field, "a result with a split, which may be null", result)
        need(result["split"] is None or word(result["split"]), f"{field}.split", "a string or null", result["split"])
        need(number(result.get("value")), f"{field}.value", "a number", result.get("value"))
        for key in ("standard_error", "spread"):
            error = result.get(key)
            need(error is None or number(error), f"{field}.{key}", "a number or null", error)
        n = result.get("n")
        need(n is None or (integer(n) and n > 0), f"{field}.n", "a positive count or null", n)
        samples = result.get("samples", 1)
        need(integer(samples) and samples > 0, f"{field}.samples", "a positive count", samples)
    notes = config.get("notes", [])
    few = isinstance(notes, list) and len(notes) <= _MOST
    need(few and all(map(text, notes)), "notes", f"a list of at most {_MOST} strings", notes)
