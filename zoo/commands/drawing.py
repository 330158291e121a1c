"""The commands that draw: sample, complete, figure."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import ZooError

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.model import GenerativeModel


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
    from zoo.pictures import images as pictures
    from zoo.pictures.samples import draw, makes_points

    if n is not None:
        _positive("n", n)
    out = pictures.writable(out)
    model = _load(name, device, revision)
    if label is not None and not model.spec.classes:
        raise ZooError(f"{name} is not conditioned on classes: leave out --label.")
    given = {"label": label, "temperature": temperature, "truncation": truncation}
    conditions = {option: value for option, value in given.items() if value is not None}
    points = makes_points(model)
    known = () if points else inspect.signature(model.sample).parameters
    for option in conditions:
        if option not in known:
            raise ZooError(f"{name} is not drawn with a {option}: leave out --{option}.")
    if points:
        print(draw(model, out, n=n or 10_000, seed=seed))
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

    from zoo.pictures import images as pictures

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
    print(plots.save(panels, out))


def _load(name: str, device: str, revision: str | None) -> GenerativeModel:
    from zoo.hub import store
    from zoo.nn.devices import checked_device

    return store.load(name, device=checked_device(device), revision=revision)


def _levels(model: GenerativeModel) -> int:
    if model.spec.levels is None or len(model.spec.shape) != 3:
        raise ZooError(f"{type(model).__name__} of shape {model.spec.shape} does not make images that can be drawn.")
    return model.spec.levels


def _test_image(name: str, index: int, root: Path | None, revision: str | None) -> Tensor:
    """(1, C, H, W): one image of the test split of the data that a checkpoint was measured on."""
    from zoo.data.splits import held_out
    from zoo.hub import store
    from zoo.hub.config import read_config
    from zoo.hub.data import datamodule

    config = read_config(store.find(name, revision=revision))
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
