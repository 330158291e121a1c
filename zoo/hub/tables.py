"""Tables of checkpoints, for the terminal and for the README, made from their config.json."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo.errors import ZooError, literal
from zoo.files import write_atomically
from zoo.hub import finding
from zoo.hub.config import title_of, worded
from zoo.references import binarization, headline, reference_of
from zoo.results import Config

# Tables in README.md and docs/: of all checkpoints, of the ten below, and of the likelihoods on a data set.
TABLES = ("checkpoints", "chosen", "cifar10", "mnist")
CHOSEN = (
    "biggan-cifar10",
    "wgan-gp-cifar10",
    "pixelcnnpp-cifar10",
    "pixelcnn-cifar10",
    "glow-cifar10",
    "pixelrnn-diagonal-mnist",
    "iaf-vae-mnist",
    "maf-breast-cancer",
    "continuous-pinwheel",
    "pixelcnn-digits",
)
"""The rows of the README, which differ in family and data; the best FID and the best likelihoods are among them."""
BEGIN, END = "<!-- {}:begin -->", "<!-- {}:end -->"
BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


def family(config: Config) -> str:
    """Family of models that a checkpoint belongs to, the folder of its class: `autoregressive`."""
    parts = config["class_path"].split(".")
    return parts[1] if parts[0] == "zoo" and len(parts) > 2 else parts[0]


def size(config: Config) -> str:
    """Size of a checkpoint's weights, for people: `12.3 MB`."""
    weights = config["weights"]
    count = weights.get("bytes") or weights["parameters"] * BYTES[weights["dtype"]]
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def table(configs: Mapping[str, Config]) -> list[tuple[str, ...]]:
    """Rows (name, family, data, metric, ours, reference, size) of some checkpoints, a header row first.

    A reference that is not the number of the model's own paper says so: `37.7 (reported)`, `target 60`; and each says
    whether it was missed, or is of another kind or on other data.
    """
    rows: list[tuple[str, ...]] = [("name", "family", "data", "metric", "ours", "reference", "size")]
    for name, config in configs.items():
        result, reference = headline(config), reference_of(config)
        metric = result.metric if result else reference.metric if reference else None
        held_against = "-"
        if reference and reference.metric.name == metric.name:
            held_against = reference.written
            verdict = reference.judged(result) if result else ""
            if verdict.startswith(("missed", "not compared")):
                held_against += f" ({verdict.partition(',')[0]})"
        rows.append(
            (
                name,
                family(config),
                title_of(config) if config.get("data") else "-",
                ", ".join(filter(None, [metric and metric.unit, result and result.kind])) or "-",
                result.written if result else "-",
                held_against,
                size(config),
            )
        )
    return rows


def likelihoods(configs: Mapping[str, Config], dataset: str) -> list[tuple[str, ...]]:
    """Rows (name, reference, ours, unit, kind) of the checkpoints on a data set, the worst reference first, after a
    header.

    Where images are binarized there are two columns more, which binarization the reference and ours are about: numbers
    of one are not ranked among those of the other.

    Args:
        configs: config.json by name.
        dataset: as in the names of checkpoints: cifar10, mnist.

    Raises:
        ZooError: no checkpoint is about that data set.
    """
    by_dataset: dict[str, list[tuple[tuple[Any, ...], tuple[str, ...], tuple[str, str]]]] = {}
    for name, config in configs.items():
        result = headline(config)
        # What is measured on samples, as FID, is no likelihood.
        if not result or result.kind == "samples" or not config.get("data"):
            continue
        reference, sign = reference_of(config), 1 if result.metric.higher_is_better else -1
        if reference and reference.metric.name != result.metric.name:
            reference = None
        binary = (binarization(reference.protocol) if reference else "", binarization(result.protocol))
        place = (binary[1], binary[0], reference is None, sign * reference.value if reference else 0.0, name)
        row = (name, reference.written if reference else "-", result.written, result.metric.unit, result.kind)
        by_dataset.setdefault(_key(title_of(config)), []).append((place, row, binary))
    if _key(dataset) not in by_dataset:
        known = ", ".join(sorted(by_dataset)) or "none"
        raise ZooError(f"No checkpoint has a number on {one_line_of(dataset)!r}; there are numbers on: {known}.")
    ranked = sorted(by_dataset[_key(dataset)], key=lambda each: each[0])
    if not any(theirs or ours for _, _, (theirs, ours) in ranked):
        return [("name", "reference", "ours", "unit", "kind"), *(row for _, row, _ in ranked)]
    header = ("name", "reference", "its binarization", "ours", "binarization", "unit", "kind")
    return [
        header,
        *((row[0], row[1], theirs or "-", row[2], ours or "-", *row[3:]) for _, row, (theirs, ours) in ranked),
    ]


def results_table(configs: Mapping[str, Config], top: str = "") -> str:
    """Markdown table of some checkpoints by name: what they reached, the references, sizes, training.

    Args:
        configs: config.json by name.
        top: the way from the page to the folder that `checkpoints/` is in: "../" from docs/.
    """
    configs = {name: worded(config, literal) for name, config in configs.items()}
    header, *rows = table(configs)
    lines = []
    for row, config in zip(rows, configs.values(), strict=True):
        name, *cells = row
        lines.append([_link(name, top), *cells, effort(config) or "-"])
    return markdown([*header, "training"], lines)


def likelihoods_table(configs: Mapping[str, Config], dataset: str, top: str = "") -> str:
    """Markdown table of `likelihoods`, with links to the cards, as `results_table` has them."""
    header, *rows = likelihoods({name: worded(config, literal) for name, config in configs.items()}, dataset)
    return markdown(header, [[_link(name, top), *cells] for name, *cells in rows])


def write_pages(folder: str | Path) -> list[Path]:
    """Replace what is between the markers in README.md and docs/*.md of a folder by tables of the bundled checkpoints.

    `<!-- checkpoints:begin -->` and `<!-- checkpoints:end -->` enclose the table of all of them, those of `chosen` that
    of ten, and those with the name of a data set, `cifar10` or `mnist`, the likelihoods on it. A page has what it has.

    Returns:
        The pages that have changed.

    Raises:
        ZooError: a page cannot be read or written, a table has no end, or there is no page with a table.
    """
    folder = Path(folder)
    old = {}
    for path in (folder / "README.md", *sorted((folder / "docs").glob("*.md"))):
        try:
            old[path] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ZooError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if not any(BEGIN.format(name) in text for text in old.values() for name in TABLES):
        begin, end = BEGIN.format(TABLES[0]), END.format(TABLES[0])
        raise ZooError(f"No page has a place for a table: put the lines {begin} and {end} where it belongs.")
    configs = bundled()
    tops = {path: "" if path.parent == folder else "../" for path in old}
    new = {path: _with_tables(text, path, configs, tops[path]) for path, text in old.items()}
    changed = [path for path in new if new[path] != old[path]]
    for path in changed:
        write_atomically(path, new[path])
    return changed


def _with_tables(text: str, path: Path, configs: Mapping[str, Config], top: str) -> str:
    """A page with its tables made anew."""
    for name in TABLES:
        begin, end = BEGIN.format(name), END.format(name)
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if found and not closed:
            raise ZooError(f"{path} has no end of the table {name}: put the line {end} below {begin}.")
        if found:
            text = f"{before}{begin}\n{page_table(configs, name, top)}\n{end}{after}"
    return text


def page_table(configs: Mapping[str, Config], name: str, top: str = "") -> str:
    """One of `TABLES`, as a page has it."""
    if name == "chosen":
        configs = {chosen: configs[chosen] for chosen in CHOSEN if chosen in configs}
    return results_table(configs, top) if name in ("checkpoints", "chosen") else likelihoods_table(configs, name, top)


def bundled() -> dict[str, Config]:
    """config.json of every checkpoint that goes by a plain name, by this; nothing is fetched."""
    return {name: finding.config_of(name) for name in finding.names()}


def start_of(training: Any) -> dict[str, Any]:
    """What a run says of the weights it started from; empty where it started from none."""
    return dictionary(dictionary(training).get("from"))


def dictionary(value: Any) -> dict[str, Any]:
    """A part of a stranger's config.json, which may be anything."""
    return value if isinstance(value, dict) else {}


def effort(config: Config) -> str:
    """Time and hardware of training, for a table cell; before it, those of the weights that it started from."""
    training = dictionary(config.get("training"))
    parts = []
    if isinstance(training.get("minutes"), int | float):
        parts.append(f"{training['minutes']:,.1f} min")
    if training.get("hardware"):
        parts.append(one_line_of(training["hardware"]))
    start = start_of(training)
    return ", then ".join(filter(None, (effort(start) if start else "", ", ".join(parts))))


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; the text of a cell stays one cell."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(one_line_of(cell).replace("|", "\\|") for cell in row) + " |" for row in lines)


def _link(name: str, top: str) -> str:
    """A checkpoint's name, linked to its card."""
    return f"[`{name}`]({top}checkpoints/{name}/README.md)"


def one_line_of(text: Any) -> str:
    """Text on one line."""
    return " ".join(str(text).split())


def _key(dataset: str) -> str:
    """A data set's name without its writing: CIFAR-10 and cifar10 are one."""
    return re.sub(r"[^a-z0-9]", "", dataset.lower())


def last_name(class_path: str) -> str:
    """Name of a class without its module."""
    return class_path.rsplit(".", 1)[-1]
