"""The commands that draw: sample, trace, figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.commands.terminal import tell
from zoo.commands.verbs import given, load, options_of, own_options, positive
from zoo.errors import ZooError


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
        positive("n", n)
    out = pictures.writable(out)
    model = load(name, device, revision)
    if can_sample(model):
        missing = [option for option in needed(model.sample) if option not in options]
        if missing and set(missing) <= set(own_options(type(model), "sample", sample)):
            said = " and ".join(f"--{option.replace('_', '-')}" for option in missing)
            raise ZooError(f"{name} is drawn given a {' and a '.join(missing)}: add {said}.")
    tell(draw(model, out, n=n, seed=seed, **options))


sample_options = sample.options = options_of("sample", sample, "cannot be sampled.")


def trace(
    name: str,
    *,
    forward: bool = False,
    image: Path | None = None,
    index: int | None = None,
    n: int | None = None,
    frames: int | None = None,
    seed: int | None = None,
    out: Path = Path("trace.png"),
    root: Path | None = None,
    device: str = "cpu",
    revision: str | None = None,
    **options: Any,
) -> None:
    """Draw the way from noise to samples, of a model that goes it step by step, or with --forward from data to noise.

    A PNG file shows the states beside each other, of points of the plane with the drift below them, and a WebP file
    one after another, in at most 200 kB. What else a model takes, such as a number of steps, `zoo trace NAME --help`
    tells.

    Args:
        name: a name from `zoo list`, a folder, or a Hub repository NAMESPACE/NAME.
        forward: show how noise is mixed into data of the test split.
        image: instead into a picture file of the model's size.
        index: the first of these data in the test split (by default its first).
        n: number of data; by default 4 images, and 5,000 points or in a WebP file 2,000.
        frames: number of states; by default 8 of images, 5 of points, and 32 in a WebP file.
        seed: the same seed draws the same way; by default each run draws others.
        out: the PNG or WebP file to write.
        root: folder of the data sets; by default ZOO_DATA or the user cache.
        device: cpu, cuda or cuda:1.
        revision: branch, tag or commit of the Hub repository.
    """
    from zoo.pictures import traces

    for option, value, least in (("n", n, 1), ("-frames", frames, 2)):
        if value is not None and value < least:
            raise ZooError(f"-{option} must be at least {least}, not {value}.")
    if not forward and (image is not None or index is not None):
        raise ZooError("Samples begin with noise and not with --image or --index: add --forward for the way of data.")
    if image is not None and index is not None:
        raise ZooError("Give --image or --index, not both.")
    if forward and options:
        said = " and ".join(f"--{option.replace('_', '-')}" for option in options)
        raise ZooError(f"On the way of data to noise no model draws: leave out {said}, or --forward.")
    out = traces.writable(out)
    model = load(name, device, revision)
    if not forward:
        tell(traces.draw(model, out, n=n, frames=frames, seed=seed, **options))
        return
    traces.check(model, "diffuse", traces.ONE_WAY)
    x = given(name, model.spec, image, index, n or traces.usual(model, out), root, revision, n or 1)
    tell(traces.draw_forward(model, x, out, frames=frames, seed=seed))


trace.options = options_of("trace", trace, "does not draw step by step from noise, and so has no trace.")


def figure(name: str | None = None, *, out: Path | None = None, repeats: int = 100, seed: int = 0) -> None:
    """Draw FID against the steps of each sampler, or what each distance makes of a shift and of few samples.

    Of a checkpoint that is drawn step by step it shows the numbers in its config.json, where `zoo evaluate NAME
    --metrics fid --steps 20 --write` puts them. Without a name, on the left two unit squares, shifted against each
    other by tau: total variation and Jensen-Shannon divergence stand still where the squares no longer meet, distances
    by transport grow. On the right two samples of one distribution, the uniform one on a cube. The slopes of these
    curves are printed beside those of theory. It takes a minute or two, and matplotlib, the extra `plots`.

    Args:
        name: a name from `zoo list`, a folder, or a Hub repository NAMESPACE/NAME.
        out: the PNG file to write; by default fid.png of a checkpoint, and else distances.png.
        repeats: pairs of samples that an error is the mean over.
        seed: of the samples.
    """
    from zoo.hub import finding
    from zoo.lecture import curves, steps
    from zoo.pictures import images as pictures
    from zoo.pictures import plots

    positive("repeats", repeats)
    out = pictures.writable(out or Path("distances.png" if name is None else "fid.png"))
    plots.require()
    if name is not None:
        tell(plots.save([steps.panel(steps.found_in(finding.config_of(name)))], out))
        return
    panels, slopes = curves.panels(repeats=repeats, seed=seed)
    for distance, dims, fitted, theory in slopes:
        print(f"{distance:6}  dimension {dims:2}: n^({fitted:.3f}), in theory n^({theory:.3f})")
    tell(plots.save(panels, out))
