"""The command that completes images: complete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.commands.terminal import tell
from zoo.commands.verbs import given, load, options_of, positive
from zoo.errors import ZooError

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.spec import DataSpec

KEPT = 128  # of 255: what is as light as this in a mask is kept, and the grey that stands for the rest


def complete(
    name: str,
    *,
    image: Path | None = None,
    index: int | None = None,
    count: int = 1,
    rows: int | None = None,
    hole: int | None = None,
    mask: Path | None = None,
    beside: str | None = None,
    n: int = 6,
    seed: int | None = None,
    out: Path = Path("completions.png"),
    root: Path | None = None,
    device: str = "cpu",
    revision: str | None = None,
    **options: Any,
) -> None:
    """Keep a part of an image and let the model draw the rest, several times.

    The picture shows the image, the part that is kept, and the completions; those of a second model in the row below.
    What else a model takes, such as a number of steps, `zoo complete NAME --help` tells.

    Args:
        name: a name from `zoo list`, a folder, or a Hub repository NAMESPACE/NAME.
        image: a picture file of the model's size.
        index: instead of a file, this image of the test split of the model's data (by default the first).
        count: so many images of the split, from that one on, a row for each.
        rows: number of rows to keep, from the top; by default the upper half.
        hole: instead keep all but a square in the middle, of so many pixels a side.
        mask: instead a picture file of the model's size: what is white in it is kept, and what is black drawn.
        beside: another model, named as the first, that completes the same image.
        n: number of completions of each image.
        seed: the same seed draws the same completions; by default each run draws others.
        out: the PNG file to write.
        root: folder of the data sets; by default ZOO_DATA or the user cache.
        device: cpu, cuda or cuda:1.
        revision: branch, tag or commit of the Hub repository.
    """
    import torch

    from zoo.pictures import images as pictures

    positive("n", n)
    out = pictures.writable(out)
    if image is not None and index is not None:
        raise ZooError("Give --image or --index, not both.")
    if count < 1:
        raise ZooError(f"--count must be at least 1, not {count}.")
    if image is not None and count > 1:
        raise ZooError("Give --image or --count, not both.")
    if sum(each is not None for each in (rows, hole, mask)) > 1:
        raise ZooError("Give one of --rows, --hole and --mask.")
    models = {each: load(each, device, at) for each, at in ((name, revision), (beside, None)) if each is not None}
    spec = models[name].spec
    for each, model in models.items():
        if not hasattr(model, "complete"):
            raise ZooError(f"{type(model).__name__} cannot complete images.")
        if model.spec.kind != "image" or model.spec.levels is None:
            raise ZooError(f"{each} gives {model.spec.described}, which are not completed as pictures.")
        if (model.spec.shape, model.spec.levels) != (spec.shape, spec.levels):
            raise ZooError(f"{each} gives {model.spec.described} and {name} {spec.described}: no image is of both.")
    known = _known(spec, rows, hole, mask)
    x = given(name, spec, image, index, count, root, revision)
    original = pictures.to_bytes(x, spec.levels)
    kept = original.where(known, KEPT)  # grey, which binary images could not express as a level
    shown = []
    for each, model in models.items():
        batch = x.repeat_interleave(n, 0).to(model.device)
        own = options if each == name else {}
        completions = model.complete(batch, known.to(model.device).expand_as(batch), seed=seed, **own)
        drawn = pictures.to_bytes(completions, spec.levels).view(len(x), n, *spec.shape)
        shown.append(torch.cat([original[:, None], kept[:, None], drawn], 1))
    tell(pictures.save(torch.stack(shown, 1).flatten(0, 2), out, columns=n + 2))


complete.options = options_of("complete", complete, "cannot complete images.")


def _known(spec: DataSpec, rows: int | None, hole: int | None, mask: Path | None) -> Tensor:
    """What of an image is kept, boolean (C, H, W)."""
    import torch

    from zoo.pictures import images as pictures
    from zoo.spec import DataSpec

    _, height, width = spec.shape
    if mask is not None:
        known = (pictures.read(mask, DataSpec((1, height, width)))[0] >= KEPT).expand(spec.shape)
        if bool(known.all()):
            raise ZooError(f"{mask} is all white, and leaves nothing to draw: make black what the model is to draw.")
        return known
    known = torch.ones(spec.shape, dtype=torch.bool)
    if hole is not None:
        if not 1 <= hole <= min(height, width):
            raise ZooError(f"--hole must be 1 to {min(height, width)} for images of {width} x {height}, not {hole}.")
        top, left = (height - hole) // 2, (width - hole) // 2
        known[:, top : top + hole, left : left + hole] = False
        return known
    rows = height // 2 if rows is None else rows
    if not 0 <= rows < height:
        raise ZooError(f"--rows must be 0 to {height - 1} for images of {height} rows, not {rows}.")
    known[:, rows:] = False
    return known
