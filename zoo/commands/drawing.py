"""The commands that draw: sample, complete, figure."""

from __future__ import annotations

import inspect
import re
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from zoo.commands.terminal import tell
from zoo.errors import ZooError

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.model import GenerativeModel, Model
    from zoo.spec import DataSpec

NAMED = 20  # classes whose names the help lists


def sample(
    name: str,
    *,
    n: int | None = None,
    seed: int | None = None,
    out: Path = Path("samples.png"),
    device: str = "cpu",
    revision: str | None = None,
    **options: Any,
) -> None:
    """Draw samples from a checkpoint and write them as one picture.

    The picture of a model of points in the plane also shows its density and, of a flow, how it bends a grid. What else
    a model takes, such as a label, a temperature or a truncation, `zoo sample NAME --help` tells.

    Args:
        name: a name from `zoo list`, a folder, or a Hub repository NAMESPACE/NAME.
        n: number of samples; by default 16 images, 4 films, or 10,000 points.
        seed: the same seed draws the same samples; by default each run draws others.
        out: the PNG file to write.
        device: cpu, cuda or cuda:1.
        revision: branch, tag or commit of the Hub repository.
    """
    from zoo.model.asking import can_sample, needed
    from zoo.pictures import images as pictures
    from zoo.pictures.samples import draw

    if n is not None:
        _positive("n", n)
    out = pictures.writable(out)
    model = _load(name, device, revision)
    if can_sample(model):
        missing = [option for option in needed(model.sample) if option not in options]
        if missing and set(missing) <= set(_options_of(type(model), None)):
            said = " and ".join(f"--{option.replace('_', '-')}" for option in missing)
            raise ZooError(f"{name} is drawn given a {' and a '.join(missing)}: add {said}.")
    tell(draw(model, out, n=n, seed=seed, **options))


def sample_options(name: str, revision: str | None = None) -> dict[str, tuple[type, Any, str]]:
    """What the `sample` of a checkpoint's model takes beside n and seed, by its class and config.json alone.

    Returns:
        Type, default and help of each option, by name; the default of one that has to be given is None.

    Raises:
        ZooError: there is no such checkpoint, or its model cannot be sampled.
    """
    from zoo.hub import building, finding
    from zoo.hub.config import spec_of
    from zoo.model.asking import can_sample

    config = finding.config_of(name, revision=revision)
    cls, spec = building.resolve(config["class_path"]), spec_of(config)
    if not can_sample(cls):
        raise ZooError(f"{name} cannot be sampled.")
    return _options_of(cls, spec)


sample.options = sample_options


def _options_of(cls: type[Model], spec: DataSpec | None) -> dict[str, tuple[type, Any, str]]:
    """The options of a class; a label that may be left out is one where the model was made with labels."""
    helps, found = documented(cls.sample), {}
    own = inspect.signature(sample).parameters  # an option of the command's own name is the command's
    for parameter in inspect.signature(cls.sample, eval_str=True).parameters.values():
        union = get_origin(parameter.annotation) in (types.UnionType, Union)
        kinds = get_args(parameter.annotation) if union else (parameter.annotation,)
        kind = next((kind for kind in (bool, int, float, str) if kind in kinds), None)
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.name in own or kind is None:
            continue
        required = parameter.default is parameter.empty
        if parameter.name == "label" and not (spec and spec.classes) and not required:
            continue
        default, text = None if required else parameter.default, helps.get(parameter.name, "")
        if parameter.name == "label" and spec and spec.class_names:
            kind, text = str, f"{text.rstrip('.')}. Classes: {', '.join(spec.class_names[:NAMED])}"
            text += " and more" if len(spec.class_names) > NAMED else ""
        found[parameter.name] = kind, default, text
    return found


def documented(function: Any) -> dict[str, str]:
    """The texts of a docstring's Args, on one line each, by name."""
    text = (inspect.getdoc(function) or "").partition("\n\nArgs:\n")[2]
    found = re.findall(r"^ {4}([\w, ]+): (.*(?:\n {8}.*)*)", text, flags=re.MULTILINE)
    return {name: " ".join(help.split()) for names, help in found for name in names.split(", ")}


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

    from zoo.pictures import images as pictures

    _positive("n", n)
    out = pictures.writable(out)
    if image is not None and index is not None:
        raise ZooError("Give --image or --index, not both.")
    model = _load(name, device, revision)
    if not hasattr(model, "complete"):
        raise ZooError(f"{type(model).__name__} cannot complete images.")
    if model.spec.kind != "image" or model.spec.levels is None:
        raise ZooError(f"{name} gives {model.spec.described}, which are not completed as pictures.")
    levels, height = model.spec.levels, model.spec.shape[1]
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
    tell(pictures.save(cells, out, columns=len(cells)))


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
    from zoo.lecture import curves
    from zoo.pictures import images as pictures
    from zoo.pictures import plots

    _positive("repeats", repeats)
    out = pictures.writable(out)
    plots.require()
    panels, slopes = curves.panels(repeats=repeats, seed=seed)
    for distance, dims, fitted, theory in slopes:
        print(f"{distance:6}  dimension {dims:2}: n^({fitted:.3f}), in theory n^({theory:.3f})")
    tell(plots.save(panels, out))


def _load(name: str, device: str, revision: str | None) -> GenerativeModel:
    from zoo.hub import store
    from zoo.nn.devices import checked_device

    return store.load(name, device=checked_device(device), revision=revision)


def _test_image(name: str, index: int, root: Path | None, revision: str | None) -> Tensor:
    """(1, C, H, W): one image of the test split of the data that a checkpoint was measured on."""
    from zoo.data.splits import held_out
    from zoo.hub import finding
    from zoo.hub.config import read_config
    from zoo.hub.data import datamodule

    config = read_config(finding.find(name, revision=revision))
    if not config.get("data"):
        raise ZooError(f"{name} names no data set; give the image as --image FILE.png.")
    first = 0
    for batch in held_out(datamodule(config["data"], root=root)):
        x = batch.x
        if first <= index < first + len(x):
            return x[index - first : index - first + 1]
        first += len(x)
    raise ZooError(f"--index must be 0 to {first - 1}, the images of the test split, not {index}.")


def _positive(option: str, value: int) -> None:
    if value < 1:
        raise ZooError(f"-{option} must be at least 1, not {value}.")
