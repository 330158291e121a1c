"""The model card of a checkpoint: made from config.json, never typed.

A card is MODEL_CARD_TEMPLATE.md filled in, below the front matter that the Hugging Face Hub reads: licence,
tags and the `model-index`, the machine-readable copy of the numbers. Nothing here needs the weights or torch.
What a stranger's config.json says is text and stays text: `zoo.errors.literal`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from zoo.errors import ZooError, literal, plain
from zoo.files import write_atomically
from zoo.hub import finding
from zoo.hub.config import CONFIG, hub_id_of, spec_of, title_of, worded
from zoo.hub.example import example, finetuning, install, recipe_of
from zoo.hub.limits import intended_use, limits
from zoo.hub.reading import pictures_in
from zoo.hub.tables import dictionary, effort, family, last_name, markdown, size, start_of
from zoo.papers import papers_of
from zoo.references import Reference, reference_of
from zoo.results import Config, Result, results_of

PICTURE = "samples.png"  # which export draws beside a card
CAPTIONS = {  # of other pictures that lie there, by the name of the file without its ending
    "completions": "Test images, of which a part is kept and the rest drawn:",
    "fid": "FID against the number of steps, for each sampler:",
    "forward": "How noise is mixed into data, from left to right:",
    "steps": "Samples that begin with the same noise, in more and more steps:",
    "trace": "The way from noise to samples:",
}


def render(config: Config, name: str | None = None, pictures: Sequence[str] | None = None) -> str:
    """Make the model card, Markdown with YAML front matter, of a checkpoint's config.json.

    Args:
        config: as `zoo.hub.config.read_config` returns it.
        name: of the checkpoint, or its Hub repository ("namespace/name"); by default that of its recipe, or
            else of its model and data.
        pictures: names of those that lie beside it, which it shows, samples.png first; by default that one, where it
            can be drawn.
    """
    raw, config = config, worded(config, literal)  # of which YAML and the example quote what they have to
    load_name, spec = plain(name or default_name(raw)).replace("`", ""), spec_of(raw)
    if pictures is None:
        pictures = [PICTURE] if spec and spec.picture and _draws(config) else []
    fields = {
        "name": literal(load_name.rsplit("/", 1)[-1]),
        "load_name": shlex.quote(load_name),
        "install": install(raw),
        "example": example(raw, load_name),
        "finetune": finetuning(raw, load_name),
        "summary": _summary(config),
        "pictures": _pictures(pictures),
        "numbers": _numbers(config),
        "comparison": _comparison(config),
        "training": _training(config),
        "weights": _weights(config),
        "use": intended_use(config),
        "limits": "\n".join(f"- {sentence}" for sentence in limits(config)),
        "papers": "\n".join(f"- {paper.cited}" for paper in papers_of(config.get("papers")).values()),
        "bibtex": _bibtex(config),
        "notes": "\n".join(f"- {note}" for note in config.get("notes") or ()),
    }
    body = _fill(template(), fields)
    return f"---\n{_front_matter(raw, load_name.rsplit('/', 1)[-1])}\n---\n\n{body}"


def template() -> str:
    """Text of MODEL_CARD_TEMPLATE.md: beside the package in a source checkout, inside it when installed."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent, package):
        file = folder / "MODEL_CARD_TEMPLATE.md"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise ZooError(
        f"MODEL_CARD_TEMPLATE.md, of which cards are made, is neither in {package.parent} nor in {package}: restore it."
    )


def default_name(config: Config) -> str:
    """Name that a config.json implies: its recipe's, else MODEL-DATA, say `pixelcnn-fashion-mnist`."""
    if recipe_of(config):
        return recipe_of(config)
    data = title_of(config) if config.get("data") else "data"
    return re.sub(r"[^a-z0-9]+", "-", f"{last_name(config['class_path'])} {data}".lower()).strip("-")


def write(folder: str | Path, name: str | None = None) -> Path:
    """Write a checkpoint folder's card, README.md, anew from its config.json, and return its path."""
    from zoo.hub.config import read_config

    folder = Path(folder)
    card = folder / "README.md"
    text = render(read_config(folder), name or folder.resolve().name, pictures_in(folder))
    write_atomically(card, text)
    return card


def write_all() -> list[Path]:
    """Write the cards of all bundled checkpoints anew, and return those that have changed."""
    folders = {name: finding.BUNDLED / name for name in finding.names()}
    cards = {folder / "README.md": name for name, folder in folders.items() if (folder / CONFIG).is_file()}
    before = {card: card.read_bytes() if card.is_file() else None for card in cards}
    return [card for card, name in cards.items() if write(card.parent, name).read_bytes() != before[card]]


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

    task = _task(config)
    results = [
        EvalResult(
            task_type=task,
            dataset_type=hub_id_of(config, result.dataset) or result.dataset.lower(),
            dataset_name=title_of(config, result.dataset),
            dataset_split=result.split,
            metric_type=result.metric.name,
            metric_name=result.metric.unit,
            metric_value=result.value,
            metric_args={
                key: value
                for key, value in result.config.items()
                if key in ("kind", "standard_error", "n", "protocol", "spread")
            },
        )
        for result in results_of(config)
        if not result.limit and result.dataset  # a quick check on a few data is not for leaderboards
    ]
    hub_id = hub_id_of(config) if config.get("data") else None
    card = ModelCardData(
        license="mit",
        library_name="generative-zoo",
        tags=["generative-model", "pytorch-lightning", family(config), last_name(config["class_path"]).lower()],
        datasets=[hub_id] if hub_id else None,
        pipeline_tag=None if task == "other" else task,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return card.to_yaml()


def _task(config: Config) -> str:
    """What the Hub calls what the model does."""
    spec = spec_of(config)
    if spec is None or spec.kind != "image":
        return "other"
    if spec.condition is not None:
        return "image-to-image" if spec.condition.kind == "image" else "other"
    return "unconditional-image-generation" if _draws(config) else "other"


def _summary(config: Config) -> str:
    """One sentence: the model, its size, its data."""
    sentence = f"{last_name(config['class_path'])} (`{config['class_path']}`), {family(config)}"
    sentence += f", with {config['weights']['parameters']:,} parameters"
    if config.get("data"):
        arguments = ", ".join(f"{key}={value!r}" for key, value in (config["data"].get("init_args") or {}).items())
        sentence += f", trained on {title_of(config)}" + (f" ({literal(arguments)})" if arguments else "")
    return sentence + "."


def _pictures(names: Sequence[str]) -> str:
    """The pictures of these names, samples first, with what is known of them by their names."""
    shown = []
    for name in sorted(names, key=lambda name: (name != PICTURE, name)):
        stem = name.rpartition(".")[0]
        shown += [CAPTIONS[stem]] if stem in CAPTIONS else []
        shown.append(f"![{stem}]({name})")
    return "\n\n".join(shown)


def _bibtex(config: Config) -> str:
    """The entries of its papers in a fence; empty where it has none."""
    entries = [paper.bibtex(key) for key, paper in papers_of(config.get("papers")).items()]
    return "```bibtex\n" + "\n".join(entries) + "\n```" if entries else ""


def _draws(config: Config) -> bool:
    """Whether the model can be sampled without being given anything."""
    return config.get("draws", True)


def _numbers(config: Config) -> str:
    """Table of all results with everything that gives a number its meaning."""
    rows = [
        [
            result.metric.unit,
            result.written,
            result.kind,
            title_of(config, result.dataset) or "-",
            (result.split or "-") + (" (part)" if result.limit else ""),
            "-" if result.n is None else f"{result.n:,}",
            "; ".join(filter(None, (result.protocol, result.said_of_draws))) or "-",
        ]
        for result in results_of(config)
    ]
    header = ["metric", "value ± standard error", "kind", "data", "split", "n", "protocol"]
    return markdown(header, rows) if rows else ""


def _comparison(config: Config) -> str:
    """How the results stand to the reference, like beside like, a miss as a miss; empty where nothing is measured."""
    results, reference = results_of(config), reference_of(config)
    if not results:
        return ""
    if not reference:
        return "No number is known to hold these against."
    noun, source = reference.noun, reference.source
    sentences = [f"{noun[0].upper()}{noun[1:]} is {reference.said}: {source}."]
    sentences += [f"The same source has {each.said}." for each in reference.also]
    judged: dict[str, list[str]] = {}  # numbers of which the same is to be said share a sentence
    for result in results:
        if result.metric.name == reference.metric.name and not result.limit:
            judged.setdefault(_verdict(reference, result), []).append(_written(result))
    sentences += [f"{verdict}: {' and '.join(numbers)} here." for verdict, numbers in judged.items()]
    if not judged:
        sentences.append("It has not been measured here yet.")
    if reference.best is not None:
        sentences.append(f"The best reported is {reference.best:g} ({reference.best_source}).")
    return " ".join(sentences)


def _verdict(reference: Reference, result: Result) -> str:
    """`Missed by 2.9`; where the source has several numbers, `Against 80.80 missed by 2.9`."""
    nearest = reference.nearest(result)
    verdict = nearest.judged(result)
    return f"Against {nearest.printed} {verdict}" if reference.also else verdict.capitalize()


def _written(result: Result) -> str:
    """`≤ 81.22 ± 0.22 nats (upper, 500 draws)`."""
    draws = f", {result.samples:,} draws" if result.importance_weighted and result.samples > 1 else ""
    return f"{result.written} {result.metric.unit} ({result.kind}{draws})"


def _training(config: Config) -> str:
    """List of what training took and the command that repeats it."""
    training = config.get("training") or {}
    spec = spec_of(config)
    what = "images" if spec and spec.kind == "image" else "data"
    labels = {
        "hardware": ("hardware", "{}"),
        "minutes": ("time", "{:,.1f} minutes"),
        "steps": ("optimizer steps", "{:,}"),
        "images": (f"{what} seen", "{:,}"),
        "images_per_second": ("speed", f"{{:,.0f}} {what}/s"),
        "precision": ("precision", "{}"),
        "torch": ("torch", "{}"),
        "lightning": ("lightning", "{}"),
    }
    lines = []
    if recipe_of(config):
        lines.append(f"- recipe: `lightning fit --config recipes/{recipe_of(config)}.yaml`")
    for key, (label, form) in labels.items():
        if training.get(key) is not None:
            # The values of a stranger's config.json may be anything; text is shown as it is.
            known = isinstance(training[key], int | float)
            lines.append(f"- {label}: {form.format(training[key]) if known else training[key]}")
    start = start_of(training)
    if start:
        digests = start.get("sha256")
        which = f", of SHA-256 {', '.join(map(str, digests.values()))}" if isinstance(digests, dict) else ""
        lines.append(f"- started from: the weights of {start.get('name')}{which}")
        took = [effort(start)]
        for what in ("steps", "images"):
            count = dictionary(start.get("training")).get(what)
            took += [f"{count:,} {what}"] if isinstance(count, int) else []
        if any(took):
            lines.append(f"- training of those weights: {', '.join(filter(None, took))}")
    return "\n".join(lines)


def _weights(config: Config) -> str:
    """What is stored, and the fingerprints that `zoo.load` checks."""
    weights = config["weights"]
    lines = [f"Safetensors of {weights['dtype']}, {size(config)}; `zoo.load` checks the SHA-256 of each file."]
    lines += [f"- `{file}`: `{digest}`" for file, digest in sorted(weights["sha256"].items())]
    rests_on = config.get("rests_on")
    if rests_on:
        digests = ", ".join(f"`{digest}`" for _, digest in sorted(rests_on["sha256"].items()))
        lines.append(f"- used with the weights of `{rests_on['name']}`, of SHA-256 {digests}")
    return lines[0] + "\n\n" + "\n".join(lines[1:])
