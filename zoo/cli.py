"""The `zoo` command, and `lightning`, which is its training part alone.

Every subcommand is a plain typed function below: its signature is the command line, its docstring the help.
Nothing heavy is imported before a subcommand runs that needs it: `zoo list` and every `--help` are immediate.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from zoo.errors import ZooError

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.model import GenerativeModel

TRAINING = {
    "fit": "train a model from a recipe: zoo fit --config recipes/NAME.yaml",
    "validate": "measure a training run on the validation split",
    "test": "measure a training run on the test split",
    "predict": "compute the loss of each datum",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zoo` with these arguments (by default the process's) and return its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in TRAINING:
        return _run("zoo", lambda: _train(argv))
    arguments = vars(_parser().parse_args(argv))
    function = arguments.pop("function")
    return _run("zoo", lambda: function(**arguments))


def lightning_main(argv: Sequence[str] | None = None) -> int:
    """Run `lightning fit`, `validate`, `test` or `predict`, which Lightning itself does not install."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in TRAINING:
        return _run("lightning", lambda: _train(argv))
    parser = argparse.ArgumentParser(prog="lightning", description="Train and measure the models of the zoo.")
    _add_training(parser.add_subparsers(metavar="COMMAND", required=True))
    parser.parse_args(argv)  # prints the help or the mistake, and exits
    return 2


def list_checkpoints(*, json: bool = False, table: str | None = None) -> None:
    """List the bundled checkpoints with what they reached.

    Args:
        json: print their config.json instead of a table, as one JSON object by name.
        table: a data set, for example cifar10: the papers' numbers on it beside ours, the worst first.
    """
    from zoo import card

    configs = card.bundled()
    if json:
        print(_json(configs))
        return
    rows = card.likelihoods(configs, table) if table else card.table(configs)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def sample(
    name: str,
    *,
    n: int | None = None,
    label: int | None = None,
    temperature: float | None = None,
    truncation: float | None = None,
    seed: int | None = None,
    out: Path = Path("samples.png"),
    device: str = "cpu",
    revision: str | None = None,
) -> None:
    """Draw samples from a checkpoint and write them as one picture.

    The picture of a model of points in the plane also shows its density and, of a flow, how it bends a grid.

    Args:
        name: a name from `zoo list`, a folder, or a Hub repository NAMESPACE/NAME.
        n: number of samples; by default 16 images, or 10,000 points.
        label: draw samples of this class, from a model that is conditioned on classes; by default of all classes.
        temperature: factor on what a flow makes images of; below one they are less varied and more likely.
        truncation: the largest number that a GAN may make images of, in standard deviations; the smaller, the more
            typical and the more alike they are.
        seed: the same seed draws the same samples; by default each run draws others.
        out: the PNG file to write.
        device: cpu, cuda or cuda:1.
        revision: branch, tag or commit of the Hub repository.
    """
    from zoo import figures, pictures

    if n is not None:
        _positive("n", n)
    out = pictures.writable(out)
    model = _load(name, device, revision)
    if label is not None and not model.spec.classes:
        raise ZooError(f"{name} is not conditioned on classes: leave out --label.")
    given = {"label": label, "temperature": temperature, "truncation": truncation}
    conditions = {option: value for option, value in given.items() if value is not None}
    points = figures.makes_points(model)
    known = () if points else inspect.signature(model.sample).parameters
    for option in conditions:
        if option not in known:
            raise ZooError(f"{name} is not drawn with a {option}: leave out --{option}.")
    if points:
        print(figures.draw(model, out, n=n or 10_000, seed=seed))
        return
    levels = _levels(model)
    print(pictures.save(model.sample(n or 16, seed=seed, **conditions), out, levels))


def complete(
    name: str,
    *,
    image: Path | None = None,
    index: int | None = None,
    rows: int | None = None,
    n: int = 6,
    seed: int | None = None,
    out: Path = Path("completions.png"),
    root: Path | None = None,
    device: str = "cpu",
    revision: str | None = None,
) -> None:
    """Keep the top rows of an image and let the model draw the rest, several times.

    The picture shows the image, the part that is kept, and the completions.

    Args:
        name: a name from `zoo list`, a folder, or a Hub repository NAMESPACE/NAME.
        image: a picture file of the model's size.
        index: instead of a file, this image of the test split of the model's data (by default the first).
        rows: number of rows to keep; by default the upper half.
        n: number of completions.
        seed: the same seed draws the same completions; by default each run draws others.
        out: the PNG file to write.
        root: folder of the data sets; by default ZOO_DATA or the user cache.
        device: cpu, cuda or cuda:1.
        revision: branch, tag or commit of the Hub repository.
    """
    import torch

    from zoo import pictures

    _positive("n", n)
    out = pictures.writable(out)
    if image is not None and index is not None:
        raise ZooError("Give --image or --index, not both.")
    model = _load(name, device, revision)
    if not hasattr(model, "complete"):
        raise ZooError(f"{type(model).__name__} cannot complete images.")
    levels, height = _levels(model), model.spec.shape[1]
    rows = height // 2 if rows is None else rows
    if not 0 <= rows < height:
        raise ZooError(f"--rows must be 0 to {height - 1} for images of {height} rows, not {rows}.")
    if image is not None:
        x = pictures.read(image, model.spec)
    else:
        x = _test_image(name, 0 if index is None else index, root, revision)
    known = torch.zeros(model.spec.shape, dtype=torch.bool)
    known[:, :rows] = True
    batch = x.expand(n, *model.spec.shape).to(model.device)
    completions = model.complete(batch, known.to(model.device).expand_as(batch), seed=seed)
    original = pictures.to_bytes(x, levels)
    kept = original.where(known, 128)  # grey, which binary images could not express as a level
    cells = torch.cat([original, kept, pictures.to_bytes(completions, levels)])
    print(pictures.save(cells, out, columns=len(cells)))


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
    from zoo import card, evaluation, hub

    if write and limit is not None:
        raise ZooError("A card holds numbers of the whole test split: leave out --limit to --write.")
    folder = hub.find(name, revision=revision)
    if write:
        _check_own(name, folder)
    config = hub.read_config(folder)
    results = evaluation.evaluate(folder, limit=limit, batch_size=batch_size, device=device, root=root, samples=samples)
    for result in results:
        print(_report(name, result, config))
    if write:
        hub.write_config(folder, {**config, "results": evaluation.merge(list(config.get("results") or ()), results)})
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
    from zoo import card, comparison

    x, y = (comparison.gather(name, n=n, seed=seed, device=device, root=root) for name in (a, b))
    for result in comparison.compare(x, y, batch_size=batch_size, device=device, root=root, seed=seed):
        said = "; ".join(filter(None, (result["protocol"], card.spread(result))))
        print(f"{result['metric']:<21} {result['value']:.5g}\n  {said}")


def figure(*, out: Path = Path("distances.png"), repeats: int = 100, seed: int = 0) -> None:
    """Draw what each distance makes of a shift, and how its error falls with the size of a sample.

    On the left two unit squares, shifted against each other by tau: total variation and Jensen-Shannon divergence stand
    still where the squares no longer meet, distances by transport grow. On the right two samples of one distribution,
    the uniform one on a cube. The slopes of these curves are printed beside those of theory. It takes a minute or two,
    and matplotlib, the extra `plots`.

    Args:
        out: the PNG file to write.
        repeats: pairs of samples that an error is the mean over.
        seed: of the samples.
    """
    from zoo import pictures, plots
    from zoo.metrics import curves

    _positive("repeats", repeats)
    out = pictures.writable(out)
    plots.require()
    panels, slopes = curves.panels(repeats=repeats, seed=seed)
    for distance, dims, fitted, theory in slopes:
        print(f"{distance:6}  dimension {dims:2}: n^({fitted:.3f}), in theory n^({theory:.3f})")
    print(plots.save(panels, out))


def export(run: Path, name: str, *, dtype: str = "float16", overwrite: bool = False) -> None:
    """Make a checkpoint folder, checkpoints/NAME, from a training run.

    Args:
        run: the run's folder, or one .ckpt file in it.
        name: FAMILY-DATASET in lower case, for example pixelcnn-digits.
        dtype: of the stored weights; float32 for small models whose numbers 16 bits would change.
        overwrite: replace a checkpoint of that name, with its numbers and notes.
    """
    from zoo import card, figures, hub, pictures, training

    folder = training.export_run(run, name, dtype=dtype, overwrite=overwrite)
    picture = folder / "samples.png"
    if not picture.exists():
        model = hub.load(folder)
        if figures.makes_points(model):
            figures.draw(model, picture)
        elif len(model.spec.shape) == 3:
            pictures.save(model.sample(16, seed=0), picture, _levels(model))
    card.write(folder)
    print(folder)


def push(
    name: str, *, repo_id: str, private: bool = False, revision: str | None = None, message: str | None = None
) -> None:
    """Publish a checkpoint as a Hugging Face Hub repository.

    The access token is the one of `hf auth login`, or the environment's HF_TOKEN.

    Args:
        name: a name from `zoo list`, or a folder.
        repo_id: the repository NAMESPACE/NAME; it is made if there is none.
        private: make a new repository private.
        revision: branch to push to; by default main.
        message: of the commit.
    """
    from zoo import hub

    print(hub.push(name, repo_id, private=private, revision=revision, message=message))


def pull(repo_id: str, *, revision: str | None = None) -> None:
    """Fetch a checkpoint from the Hugging Face Hub and print the folder it lies in.

    Args:
        repo_id: the repository NAMESPACE/NAME.
        revision: branch, tag or commit; by default main.
    """
    from zoo import hub

    print(hub.pull(repo_id, revision=revision))


def show_card(name: str | None = None, *, write: bool = False, readme: bool = False) -> None:
    """Print a checkpoint's card, made anew from its config.json, or write cards and tables.

    Args:
        name: a name from `zoo list`, a folder, or a Hub repository NAMESPACE/NAME.
        write: write it into the checkpoint's folder instead of printing it.
        readme: replace the table of checkpoints in ./README.md.
    """
    from zoo import card, hub

    if name is None and not readme:
        raise ZooError("Name the checkpoint whose card to make, or give --readme for the table in README.md.")
    if name is not None:
        folder = hub.find(name)
        if write:
            _check_own(name, folder)
            print(card.write(folder))
        else:
            shown = folder.resolve().name if _is_own(name, folder) else name
            print(card.render(hub.read_config(folder), shown), end="")
    if readme:
        print(card.write_readme(Path("README.md")))


COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_checkpoints,
    "sample": sample,
    "complete": complete,
    "evaluate": evaluate,
    "distance": distance,
    "figure": figure,
    "export": export,
    "push": push,
    "pull": pull,
    "card": show_card,
}


# -- from a function to its command line ---------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    """The parser of `zoo`."""
    parser = argparse.ArgumentParser(prog="zoo", description="Generative models on PyTorch Lightning, with weights.")
    parser.add_argument("--version", action="version", version=f"generative-zoo {_version()}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, function in COMMANDS.items():
        _add_command(subparsers, name, function)
    _add_training(subparsers)
    return parser


def _add_command(subparsers: Any, name: str, function: Callable[..., None]) -> None:
    """A subcommand of a typed function: positional parameters are arguments, keyword-only ones options."""
    description, _, documented = inspect.getdoc(function).partition("\n\nArgs:\n")
    helps = dict(re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", documented, flags=re.MULTILINE))
    parser = subparsers.add_parser(name, help=description.partition("\n")[0], description=description)
    parser.set_defaults(function=function)
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        text = " ".join(helps[parameter.name].split()).replace("%", "%%")
        kind, default = parameter.annotation, parameter.default
        if get_origin(kind) is types.UnionType:
            kind = next(member for member in get_args(kind) if member is not type(None))
        if parameter.kind is not parameter.KEYWORD_ONLY:
            optional = default is not parameter.empty
            parser.add_argument(parameter.name, type=kind, nargs="?" if optional else None, help=text)
            continue
        option = f"-{parameter.name}" if len(parameter.name) == 1 else f"--{parameter.name.replace('_', '-')}"
        if kind is bool:
            parser.add_argument(option, action="store_true", help=text)
            continue
        settings = {"required": True} if default is parameter.empty else {"default": default}
        if default not in (None, parameter.empty):
            text += f" (default: {default})"
        metavar = parameter.name.upper() if kind is not int else "N"
        parser.add_argument(option, type=kind, metavar=metavar, help=text, **settings)


def _add_training(subparsers: Any) -> None:
    """List the training subcommands in the help; `main` hands them on before any parsing."""
    for name, text in TRAINING.items():
        subparsers.add_parser(name, help=text)


def _train(argv: list[str]) -> None:
    from zoo import training

    training.main(argv)


def _run(program: str, action: Callable[[], None]) -> int:
    """Run a subcommand; what the zoo refuses is one sentence on stderr and exit status 1."""
    try:
        action()
        sys.stdout.flush()
    except ZooError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; the interpreter's own flush at exit must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


# -- what the subcommands share ------------------------------------------------------------------------------


def _load(name: str, device: str, revision: str | None) -> GenerativeModel:
    from zoo import evaluation, hub

    return hub.load(name, device=evaluation.checked_device(device), revision=revision)


def _levels(model: GenerativeModel) -> int:
    if model.spec.levels is None or len(model.spec.shape) != 3:
        raise ZooError(f"{type(model).__name__} of shape {model.spec.shape} does not make images that can be drawn.")
    return model.spec.levels


def _test_image(name: str, index: int, root: Path | None, revision: str | None) -> Tensor:
    """(1, C, H, W): one image of the test split of the data that a checkpoint was measured on."""
    from zoo import evaluation, hub

    config = hub.read_config(hub.find(name, revision=revision))
    if not config.get("data"):
        raise ZooError(f"{name} names no data set; give the image as --image FILE.png.")
    first = 0
    for x, *_ in evaluation.held_out(evaluation.datamodule(config["data"], root=root)):
        if first <= index < first + len(x):
            return x[index - first : index - first + 1]
        first += len(x)
    raise ZooError(f"--index must be 0 to {first - 1}, the images of the test split, not {index}.")


def _is_own(name: str, folder: Path) -> bool:
    """Whether a checkpoint is bundled or a folder that was named, and not one in the Hub's cache."""
    from zoo import hub

    return folder.parent == hub.BUNDLED or folder == Path(name).expanduser()


def _check_own(name: str, folder: Path) -> None:
    if not _is_own(name, folder):
        raise ZooError(f"{name} is in the Hub's cache, which is not to be changed: --write takes a folder of your own.")


def _report(name: str, result: dict[str, Any], config: dict[str, Any]) -> str:
    """What was measured, beside what the card says and the paper's number."""
    from zoo import card

    metric = result["metric"]
    data = card.dataset_title(result["dataset"])
    part = f"first {result['n']:,} images of the" if result["limit"] else f"{result['n']:,} images, whole"
    seen = f"{part} {result['split']} split" if result["split"] else f"n = {result['n']:,}"
    said = "; ".join(filter(None, (result["protocol"], card.spread(result))))
    lines = [
        f"{name}: {card.measured(result)} {card.unit(metric)}, {result['kind']}",
        f"  data   {data}, {seen}; {said}",
    ]
    same = ("metric", "kind", "split", "dataset", "protocol")
    for old in config.get("results") or ():
        if all(old.get(key) == result[key] for key in same):
            lines.append(f"  card   {card.measured(old)}, n = {old['n']:,}" + _agreement(result, old))
    reference = config.get("reference")
    if reference and reference["metric"] == metric:
        verdict = "" if result["limit"] else f": {card.difference(result, reference)}"
        what = "target" if reference.get("target") else "paper "
        lines.append(f"  {what} {reference['value']:g}{verdict} ({reference['source']})")
    return "\n".join(lines)


def _agreement(result: dict[str, Any], old: dict[str, Any]) -> str:
    """Whether the card's number is confirmed in its printed digits; a part of the split cannot tell."""
    from zoo import card

    if result["limit"] or old.get("limit"):
        return ""
    same = abs(result["value"] - old["value"]) < card.resolution(result["metric"])
    return ": confirmed" if same else ": NOT confirmed"


def _positive(option: str, value: int) -> None:
    if value < 1:
        raise ZooError(f"-{option} must be at least 1, not {value}.")


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _version() -> str:
    import zoo

    return zoo.__version__


if __name__ == "__main__":
    sys.exit(main())
