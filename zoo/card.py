"""The model card of a checkpoint, and the README's table of checkpoints: made from config.json, never typed.

A card is MODEL_CARD_TEMPLATE.md filled in, below the front matter that the Hugging Face Hub reads: licence,
tags and the `model-index`, the machine-readable copy of the numbers. Nothing here needs the weights or torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any

from zoo.errors import ZooError

Config = Mapping[str, Any]

# Where the README's tables stand: of all checkpoints, and of the likelihoods on a data set.
TABLES = ("checkpoints", "cifar10", "mnist")
BEGIN, END = "<!-- {}:begin -->", "<!-- {}:end -->"
BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
# How a metric is written, and with how many decimals: those that its standard error over 10,000 images leaves
# meaningful. Of all that are held against a reference, less is better.
METRICS = {
    "bits_per_dim": ("bits/dim", 3),
    "nats": ("nats", 2),
    "kl": ("nats of KL(q || p)", 4),
    "not_reconstructed": ("not reconstructed", 0),
    "fid": ("FID", 2),
    "kid": ("KID", 5),
    "energy_distance": ("energy distance", 4),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
}
# What people and the Hub call the data sets whose class has another name.
TITLES = {
    "BreastCancer": "breast cancer",
    "FashionMNIST": "Fashion-MNIST",
    "CIFAR10": "CIFAR-10",
    "Digits": "digits",
    "Points": "points",
    "Table": "the table",
}
HUB_DATASETS = {
    "MNIST": "ylecun/mnist",
    "FashionMNIST": "zalando-datasets/fashion_mnist",
    "CIFAR10": "uoft-cs/cifar10",
}


def render(config: Config, name: str | None = None) -> str:
    """Make the model card, Markdown with YAML front matter, of a checkpoint's config.json.

    Args:
        config: as `zoo.hub.read_config` returns it.
        name: of the checkpoint, or its Hub repository ("namespace/name"); by default that of its recipe, or
            else of its model and data.
    """
    load_name = name or default_name(config)
    fields = {
        "name": load_name.rsplit("/", 1)[-1],
        "load_name": load_name,
        "recipe": config.get("recipe") or "",
        "summary": _summary(config),
        "picture": "![samples](samples.png)" if _makes_images(config) or _makes_points(config) else "",
        "numbers": _numbers(config),
        "comparison": _comparison(config),
        "training": _training(config),
        "weights": _weights(config),
        "notes": "\n".join(f"- {_line(note)}" for note in config.get("notes") or ()),
    }
    body = _fill(template(), fields)
    return f"---\n{_front_matter(config, fields['name'])}\n---\n\n{body}"


def template() -> str:
    """Text of MODEL_CARD_TEMPLATE.md: beside the package in a source checkout, inside it when installed."""
    package = Path(__file__).resolve().parent
    for folder in (package.parent, package):
        file = folder / "MODEL_CARD_TEMPLATE.md"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise ZooError(
        f"MODEL_CARD_TEMPLATE.md, of which cards are made, is neither in {package.parent} nor in {package}: restore it."
    )


def default_name(config: Config) -> str:
    """Name that a config.json implies: its recipe's, else MODEL-DATA, say `pixelcnn-fashion-mnist`."""
    if config.get("recipe"):
        return str(config["recipe"])
    data = dataset_title(_data_class(config)) if config.get("data") else "data"
    return re.sub(r"[^a-z0-9]+", "-", f"{_last(config['class_path'])} {data}".lower()).strip("-")


def dataset_title(name: str) -> str:
    """How people write the data set of this class: `CIFAR10` is CIFAR-10."""
    return TITLES.get(name, name)


def family(config: Config) -> str:
    """Family of models that a checkpoint belongs to, the folder of its class: `autoregressive`."""
    parts = config["class_path"].split(".")
    return parts[1] if parts[0] == "zoo" and len(parts) > 2 else parts[0]


def number(value: float, metric: str) -> str:
    """Write a metric's value with the decimals that mean something."""
    return f"{value:.{_decimals(metric)}f}"


def resolution(metric: str) -> float:
    """One unit of the last decimal that is printed: two numbers closer than this are the same number."""
    return 10.0 ** -_decimals(metric)


def measured(result: Mapping[str, Any]) -> str:
    """Write a result's value with its standard error, and a bound as the bound it is: `≤ 3.02 ± 0.01`.

    A count is written with what it is out of: `0 of 10,000 images`.
    """
    if result.get("kind") == "count":
        return f"{result['value']:,} of {result['n']:,} images"
    text = number(result["value"], result["metric"])
    if result.get("standard_error") is not None:
        text += f" ± {number(result['standard_error'], result['metric'])}"
    return f"≤ {text}" if result.get("kind") == "bound" else text


def spread(result: Mapping[str, Any]) -> str:
    """What a result says of its draws: `standard deviation over draws 0.00012`; empty where there is one alone.

    The kernel Inception distance has subsets in place of draws.
    """
    if result.get("spread") is None:
        return ""
    over = "subsets" if result["metric"] == "kid" else "draws"
    # Two significant digits: it is far below the standard error over images, in whose decimals it would be 0.000.
    return f"standard deviation over {over} {result['spread']:.2g}"


def unit(metric: str) -> str:
    """How a metric is written: `bits_per_dim` is bits/dim."""
    return METRICS.get(metric, (metric, 4))[0]


def headline(config: Config) -> Mapping[str, Any] | None:
    """The result that stands for a checkpoint: of a whole split, in the reference's metric, exact or the best bound.

    That is the one of most samples: the lowest of several noisy ones would be the luckiest. Where there is no
    reference, metrics come in the order of `METRICS`.
    """
    metric = (config.get("reference") or {}).get("metric")
    kinds = {"exact": 0, "bound": 1}
    whole = [result for result in config.get("results") or () if not result.get("limit")]

    def order(result: Mapping[str, Any]) -> tuple[bool, int, int, int, float]:
        kind, place = kinds.get(result.get("kind"), 2), [*METRICS, result["metric"]].index(result["metric"])
        return result["metric"] != metric, kind, place, -result.get("samples", 1), result["value"]

    return min(whole, key=order, default=None)


def difference(result: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    """`missed by 0.02`, `reached exactly` or `better by 0.11`, from the unrounded values."""
    gap = result["value"] - reference["value"]
    if gap == 0:
        return "reached exactly"
    # Two significant digits: a miss by less than the printed decimals must not read "missed by 0.000".
    return f"{'missed' if gap > 0 else 'better'} by {float(f'{abs(gap):.2g}'):g}"


def size(config: Config) -> str:
    """Size of a checkpoint's weights, for people: `12.3 MB`."""
    weights = config["weights"]
    count = weights.get("bytes") or weights["parameters"] * BYTES[weights["dtype"]]
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def table(configs: Mapping[str, Config]) -> list[tuple[str, ...]]:
    """Rows (name, family, data, metric, ours, paper's, size) of some checkpoints, a header row first."""
    rows: list[tuple[str, ...]] = [("name", "family", "data", "metric", "ours", "paper's", "size")]
    for name, config in configs.items():
        result = headline(config)
        metric = (result or config.get("reference") or {}).get("metric")
        kind = result.get("kind") if result else None
        rows.append(
            (
                name,
                family(config),
                dataset_title(_data_class(config)) if config.get("data") else "-",
                ", ".join(filter(None, [metric and unit(metric), kind])) or "-",
                measured(result) if result else "-",
                _reference(config, metric),
                size(config),
            )
        )
    return rows


def likelihoods(configs: Mapping[str, Config], dataset: str) -> list[tuple[str, ...]]:
    """Rows (name, paper's, ours, unit, kind) of the checkpoints on a data set, the paper's worst first, after a header.

    Args:
        configs: config.json by name.
        dataset: as in the names of checkpoints: cifar10, mnist.

    Raises:
        ZooError: no checkpoint is about that data set.
    """
    by_dataset: dict[str, list[tuple[float, tuple[str, ...]]]] = {}
    for name, config in configs.items():
        result, reference = headline(config), config.get("reference")
        # What is measured on samples, as FID, is no likelihood.
        if result and result.get("kind") != "samples" and config.get("data"):
            metric = result["metric"]
            paper = reference["value"] if reference and reference["metric"] == metric else -math.inf
            row = (name, _reference(config, metric), measured(result), unit(metric), str(result.get("kind") or "-"))
            by_dataset.setdefault(_key(dataset_title(_data_class(config))), []).append((paper, row))
    if _key(dataset) not in by_dataset:
        known = ", ".join(sorted(by_dataset)) or "none"
        raise ZooError(f"No checkpoint has a number on {_line(dataset)!r}; there are numbers on: {known}.")
    ranked = sorted(by_dataset[_key(dataset)], key=lambda pair: (-pair[0], pair[1][0]))
    return [("name", "paper's", "ours", "unit", "kind"), *(row for _, row in ranked)]


def results_table(configs: Mapping[str, Config]) -> str:
    """Markdown table of some checkpoints by name: what they reached, the paper's numbers, sizes, training."""
    header, *rows = table(configs)
    lines = []
    for row, config in zip(rows, configs.values(), strict=True):
        name, *cells = row
        result, reference = headline(config), config.get("reference")
        if result and reference and result["value"] > reference["value"] and result["metric"] == reference["metric"]:
            cells[header.index("paper's") - 1] += f" ({difference(result, reference)})"
        lines.append([_link(name), *cells, _effort(config) or "-"])
    return _markdown([*header, "training"], lines)


def write(folder: str | Path, name: str | None = None) -> Path:
    """Write a checkpoint folder's card, README.md, anew from its config.json, and return its path."""
    from zoo import hub

    folder = Path(folder)
    card = folder / "README.md"
    card.write_text(render(hub.read_config(folder), name or folder.resolve().name), encoding="utf-8")
    return card


def likelihoods_table(configs: Mapping[str, Config], dataset: str) -> str:
    """Markdown table of `likelihoods`, with links to the cards."""
    header, *rows = likelihoods(configs, dataset)
    return _markdown(header, [[_link(name), *cells] for name, *cells in rows])


def write_readme(path: str | Path) -> Path:
    """Replace what is between the markers of a README by the tables of the bundled checkpoints.

    `<!-- checkpoints:begin -->` and `<!-- checkpoints:end -->` enclose the table of all of them, and those with the
    name of a data set, `cifar10` or `mnist`, the likelihoods on it; a README may leave these out.

    Raises:
        ZooError: when there is no such file or it lacks the markers.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ZooError(f"{path} cannot be read: {error.strerror}.") from error
    configs = bundled()
    for name in TABLES:
        begin, end = BEGIN.format(name), END.format(name)
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found and name != TABLES[0]:
            continue
        if not found or not closed:
            raise ZooError(f"{path} has no place for the table: put the lines {begin} and {end} where it belongs.")
        table = results_table(configs) if name == TABLES[0] else likelihoods_table(configs, name)
        text = f"{before}{begin}\n{table}\n{end}{after}"
    path.write_text(text, encoding="utf-8")
    return path


def bundled() -> dict[str, Config]:
    """config.json of every bundled checkpoint, by name."""
    from zoo import hub

    return {name: hub.read_config(hub.find(name)) for name in hub.names()}


def _fill(text: str, fields: Mapping[str, str]) -> str:
    """Fill a template, leaving out paragraphs with an empty field and sections left with a title alone."""
    paragraphs: list[str] = []
    for paragraph in re.split(r"\n{2,}", text.strip()):
        used = re.findall(r"\$\{(\w+)\}", paragraph)
        unknown = [field for field in used if field not in fields]
        if unknown:
            raise ZooError(f"MODEL_CARD_TEMPLATE.md asks for ${{{unknown[0]}}}; it may use {', '.join(fields)}.")
        if all(fields[field] for field in used):
            paragraphs.append(Template(paragraph).safe_substitute(fields))
    kept = [
        paragraph
        for paragraph, following in zip(paragraphs, [*paragraphs[1:], "## "], strict=True)
        if not (paragraph.startswith("## ") and following.startswith("## "))
    ]
    return "\n\n".join(kept) + "\n"


def _front_matter(config: Config, name: str) -> str:
    """YAML that the Hub reads, without its `---` lines."""
    from huggingface_hub import EvalResult, ModelCardData

    data = _data_class(config) if config.get("data") else None
    images = _makes_images(config)
    task = "unconditional-image-generation" if images else "other"
    results = [
        EvalResult(
            task_type=task,
            dataset_type=HUB_DATASETS.get(result["dataset"], result["dataset"].lower()),
            dataset_name=dataset_title(result["dataset"]),
            dataset_split=result["split"],
            metric_type=result["metric"],
            metric_name=unit(result["metric"]),
            metric_value=result["value"],
            metric_args={
                key: result[key] for key in ("kind", "standard_error", "n", "protocol", "spread") if key in result
            },
        )
        for result in config.get("results") or ()
        if not result.get("limit")  # a quick check on a few images is not for leaderboards
    ]
    card = ModelCardData(
        license="mit",
        library_name="generative-zoo",
        tags=["generative-model", "pytorch-lightning", family(config), _last(config["class_path"]).lower()],
        datasets=[HUB_DATASETS[data]] if data in HUB_DATASETS else None,
        pipeline_tag=task if images else None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return card.to_yaml()


def _summary(config: Config) -> str:
    """One sentence: the model, its size, its data."""
    sentence = f"{_last(config['class_path'])} (`{config['class_path']}`), {family(config)}"
    sentence += f", with {config['weights']['parameters']:,} parameters"
    if config.get("data"):
        arguments = ", ".join(f"{key}={value!r}" for key, value in (config["data"].get("init_args") or {}).items())
        sentence += f", trained on {dataset_title(_data_class(config))}" + (f" ({arguments})" if arguments else "")
    return sentence + "."


def _numbers(config: Config) -> str:
    """Table of all results with everything that gives a number its meaning."""
    rows = [
        [
            unit(result["metric"]),
            measured(result),
            result.get("kind", "-"),
            dataset_title(result["dataset"]),
            (result["split"] or "-") + (" (part)" if result.get("limit") else ""),
            f"{result['n']:,}",
            "; ".join(filter(None, (result.get("protocol"), spread(result)))) or "-",
        ]
        for result in config.get("results") or ()
    ]
    header = ["metric", "value ± standard error", "kind", "data", "split", "n", "protocol"]
    return _markdown(header, rows) if rows else ""


def _comparison(config: Config) -> str:
    """How the results stand to the paper's number or to a target, a miss as a miss; empty where nothing is measured."""
    results, reference = config.get("results") or (), config.get("reference")
    if not results:
        return ""
    if not reference:
        return "The paper gives no number for this data set."
    metric, what = reference["metric"], "The target" if reference.get("target") else "The paper's number"
    sentences = [f"{what} is {reference['value']:g} {unit(metric)} ({_line(reference['source'])})."]
    compared = [result for result in results if result["metric"] == metric and not result.get("limit")]
    for result in compared:
        verdict = difference(result, reference).capitalize()
        sentences.append(f"{verdict}: {measured(result)} {unit(metric)} ({result.get('kind')}) here.")
    return " ".join(sentences if compared else [*sentences, "It has not been measured here yet."])


def _training(config: Config) -> str:
    """List of what training took and the command that repeats it."""
    training = config.get("training") or {}
    labels = {
        "hardware": ("hardware", "{}"),
        "minutes": ("time", "{:,.1f} minutes"),
        "steps": ("optimizer steps", "{:,}"),
        "images": ("images seen", "{:,}"),
        "images_per_second": ("speed", "{:,.0f} images/s"),
        "precision": ("precision", "{}"),
        "torch": ("torch", "{}"),
        "lightning": ("lightning", "{}"),
    }
    lines = []
    if config.get("recipe"):
        lines.append(f"- recipe: `lightning fit --config recipes/{config['recipe']}.yaml`")
    for key, (label, form) in labels.items():
        if training.get(key) is not None:
            # The values of a stranger's config.json may be anything; text is shown as it is.
            known = isinstance(training[key], int | float)
            lines.append(f"- {label}: {_line(form.format(training[key]) if known else training[key])}")
    start = _start(training)
    if start:
        digests = start.get("sha256")
        which = f", of SHA-256 {', '.join(map(str, digests.values()))}" if isinstance(digests, dict) else ""
        lines.append(f"- started from: the weights of {_line(start.get('name'))}{_line(which)}")
        took = [_effort(start)]
        for what in ("steps", "images"):
            count = _dictionary(start.get("training")).get(what)
            took += [f"{count:,} {what}"] if isinstance(count, int) else []
        if any(took):
            lines.append(f"- training of those weights: {_line(', '.join(filter(None, took)))}")
    return "\n".join(lines)


def _start(training: Any) -> dict[str, Any]:
    """What a run says of the weights it started from; empty where it started from none."""
    return _dictionary(_dictionary(training).get("from"))


def _dictionary(value: Any) -> dict[str, Any]:
    """A part of a stranger's config.json, which may be anything."""
    return value if isinstance(value, dict) else {}


def _weights(config: Config) -> str:
    """What is stored, and the fingerprints that `zoo.load` checks."""
    weights = config["weights"]
    lines = [f"Safetensors of {weights['dtype']}, {size(config)}; `zoo.load` checks the SHA-256 of each file."]
    lines += [f"- `{file}`: `{digest}`" for file, digest in sorted(weights["sha256"].items())]
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def _effort(config: Config) -> str:
    """Time and hardware of training, for a table cell; before it, those of the weights that it started from."""
    training = _dictionary(config.get("training"))
    parts = []
    if isinstance(training.get("minutes"), int | float):
        parts.append(f"{training['minutes']:,.1f} min")
    if training.get("hardware"):
        parts.append(_line(training["hardware"]))
    start = _start(training)
    return ", then ".join(filter(None, (_effort(start) if start else "", ", ".join(parts))))


def _markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; the text of a cell stays one cell."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_line(cell).replace("|", "\\|") for cell in row) + " |" for row in lines)


def _link(name: str) -> str:
    """A checkpoint's name, linked to its card from the README."""
    return f"[`{name}`](checkpoints/{name}/README.md)"


def _makes_images(config: Config) -> bool:
    """Whether the model's data have the shape (C, H, W)."""
    shape = config["init_args"].get("shape")
    return isinstance(shape, list) and len(shape) == 3


def _makes_points(config: Config) -> bool:
    """Whether the model's data are points of the plane, of which `zoo export` draws a figure."""
    return (config.get("data") or {}).get("class_path") == "zoo.data.Points"


def _reference(config: Config, metric: str | None) -> str:
    """The paper's number in a metric, a number that is none as the `target 0.02` it is, or `-`."""
    reference = config.get("reference")
    if not reference or reference["metric"] != metric:
        return "-"
    return f"{'target ' if reference.get('target') else ''}{reference['value']:g}"


def _decimals(metric: str) -> int:
    return METRICS.get(metric, ("", 4))[1]


def _line(text: Any) -> str:
    """Text on one line."""
    return " ".join(str(text).split())


def _key(dataset: str) -> str:
    """A data set's name without its writing: CIFAR-10 and cifar10 are one."""
    return re.sub(r"[^a-z0-9]", "", dataset.lower())


def _last(class_path: str) -> str:
    """Name of a class without its module."""
    return class_path.rsplit(".", 1)[-1]


def _data_class(config: Config) -> str:
    """Name of the data module's class, for example `CIFAR10`."""
    return _last(config["data"]["class_path"])
