"""The commands of models that draw step by step: trace, and complete with the options of such a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusions import DATA, KnownDigits, KnownPoints
from PIL import Image

import zoo
from zoo import cli, diffusion
from zoo.data import Digits, Points
from zoo.hub import card
from zoo.hub.config import read_config, write_config
from zoo.hub.reading import pictures_in
from zoo.pictures import images as pictures
from zoo.pictures import traces

CELL = 64 + pictures.GAP  # an 8x8 digit is drawn 8 times as large


@pytest.fixture
def found(monkeypatch, tmp_path):
    """Checkpoints of the two diffusions, by name, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for cls, data in DATA.items():
        monkeypatch.setattr(cls, "__module__", "zoo.diffusion")
        monkeypatch.setattr(diffusion, cls.__name__, cls, raising=False)
        zoo.save(cls(), tmp_path / cls.__name__.lower(), data=data, dtype="float32")
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run `zoo` in this process: exit status, stdout, stderr."""

    def run(line: str) -> tuple[int, str, str]:
        try:
            status = cli.main(line.split())
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def cells(path) -> np.ndarray:
    """The images of a grid of digits, (rows, columns, 8, 8) bytes."""
    picture = np.asarray(Image.open(path))
    height, width = ((size - pictures.GAP) // CELL for size in picture.shape)
    lattice = picture[pictures.GAP :, pictures.GAP :].reshape(height, CELL, width, CELL).swapaxes(1, 2)
    return lattice[:, :, :64:8, :64:8]


def test_trace_draws_the_states_of_the_seed(run, found):
    line = "trace ./knowndigits -n 3 --frames 5 --seed 2 --steps 9 --label 4 --guidance 1.5 --sampler heun"
    assert run(f"{line} --out a.png") == (0, "a.png\n", "")
    wanted = KnownDigits().trace(3, frames=5, seed=2, steps=9, label=4, guidance=1.5, sampler="heun")
    assert (cells("a.png") == pictures.to_bytes(wanted.transpose(0, 1), 17)[:, :, 0].numpy()).all()
    assert run(f"{line} --out a.webp") == (0, "a.webp\n", "")
    with Image.open("a.webp") as film:
        assert film.n_frames == 5
        film.seek(4)
        last = np.asarray(film.convert("L"))
    assert (last == pictures.grid(wanted[-1], 17)[0].numpy()).all()
    assert run("trace ./knowndigits --seed 0") == (0, "trace.png\n", "")
    assert cells("trace.png").shape[:2] == (4, 8)


def test_trace_of_points_has_the_drift_below(run, found):
    assert run("trace ./knownpoints -n 200 --frames 3 --seed 0 --out a.png")[0] == 0
    model = KnownPoints()
    expected = traces.draw(model, "b.png", n=200, frames=3, seed=0)
    assert (found / "a.png").read_bytes() == (found / expected).read_bytes()
    size = Image.open("a.png").size
    assert size == (3 * (traces.SIZE + 2) + 2, 2 * (traces.SIZE + 2) + 2)


def test_forward_is_the_way_of_test_data(run, found):
    assert run("trace ./knowndigits --forward -n 2 --index 5 --frames 4 --seed 1 --out a.png")[0] == 0
    data = Digits()
    data.setup("test")
    x = data.test[0][5:7]
    way = KnownDigits().diffuse(x, torch.linspace(0, 1, 4), seed=1).transpose(0, 1)
    drawn = cells("a.png")
    assert (drawn == pictures.to_bytes(way, 17)[:, :, 0].numpy()).all()
    assert (drawn[:, 0] == pictures.to_bytes(x, 17)[:, 0].numpy()).all()
    Image.fromarray(pictures.to_bytes(x[0, 0], 17).numpy()).save("mine.png")
    assert run("trace ./knowndigits --forward --image mine.png --frames 4 --seed 1 --out b.png")[0] == 0
    assert (cells("b.png") == drawn[:1]).all()
    assert run("trace ./knowndigits --forward --index 358 --out c.png")[0] == 0
    assert len(cells("c.png")) == 2, "as many as there are"

    assert run("trace ./knownpoints --forward --frames 2 --seed 1 --out p.png")[0] == 0
    points = Points("swiss_roll", train=100, test=300)
    points.setup("test")
    wanted = traces.draw_forward(KnownPoints(), points.test[0], "q.png", frames=2, seed=1)
    assert (found / "p.png").read_bytes() == (found / wanted).read_bytes()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("trace pixelcnn-digits", "PixelCNN does not draw step by step from noise, and so has no trace."),
        ("trace pixelcnn-digits --forward", "PixelCNN has no forward process, from data to noise."),
        ("trace pixelcnn-digits --steps 3", "pixelcnn-digits does not draw step by step from noise"),
        ("trace ./knowndigits --frames 1", "--frames must be at least 2, not 1."),
        ("trace ./knowndigits -n 0", "-n must be at least 1, not 0."),
        ("trace ./knowndigits --index 3", "add --forward for the way of data"),
        ("trace ./knowndigits --image x.png", "add --forward for the way of data"),
        ("trace ./knowndigits --forward --index 3 --image x.png", "Give --image or --index, not both."),
        ("trace ./knowndigits --forward --image x.png", "There is no file x.png"),
        ("trace ./knowndigits --forward --steps 3", "no model draws: leave out --steps, or --forward."),
        ("trace ./knowndigits --forward --index 360", "--index must be 0 to 359"),
        ("trace ./knowndigits --forward --index -1", "--index must be 0 to 359"),
        ("trace ./knowndigits --forward -n 3 --index 358", "--index must be 0 to 357"),
        ("trace ./knowndigits --forward -n 400", "-n must be at most 360, the data of the test split, not 400."),
        ("trace ./knowndigits --out x.gif", "name the file x.png or x.webp, not 'x.gif'"),
        ("trace ./knowndigits --steps 0", "steps must be at least 1, not 0."),
        ("trace ./knowndigits --sampler euler", "sampler must be one of ancestral, "),
        ("trace ./knownpoints --guidance 2", "is not drawn with --guidance: it may be drawn with --steps, --sampler."),
        ("trace ./knownpoints --stepps 2", "is not drawn with --stepps: did you mean --steps?"),
        ("complete pixelcnn-digits --steps 3", "is not drawn with --steps: it may be drawn with --cached."),
        ("complete gan-mnist --steps 3", "gan-mnist cannot complete images."),
        ("complete pixelcnn-digits --hole 9", "--hole must be 1 to 8 for images of 8 x 8, not 9."),
        ("complete pixelcnn-digits --hole 0", "--hole must be 1 to 8 for images of 8 x 8, not 0."),
        ("complete pixelcnn-digits --count 0", "--count must be at least 1, not 0."),
        ("complete pixelcnn-digits --count 2 --image white.png", "Give --image or --count, not both."),
        ("complete pixelcnn-digits --count 2 --index 359", "--index must be 0 to 358"),
        ("complete pixelcnn-digits --hole 2 --rows 3", "Give one of --rows, --hole and --mask."),
        ("complete pixelcnn-digits --mask white.png", "white.png is all white, and leaves nothing to draw"),
        ("complete pixelcnn-digits --mask wide.png", "wide.png is 9 x 8 pixels; this model's images are 8 x 8"),
        ("complete pixelcnn-digits --mask x.png", "There is no file x.png"),
        ("complete pixelcnn-digits --beside gan-mnist", "GAN cannot complete images."),
        ("complete pixelcnn-digits --beside pixelcnn-mnist", "with 17 levels: no image is of both."),
        ("figure ./knowndigits", "There is no FID by a number of steps to draw"),
    ],
)
def test_what_is_refused_is_one_sentence(run, found, line, sentence):
    if line.startswith("figure"):
        pytest.importorskip("matplotlib", reason="curves need the extra plots")
    for name, width in (("white.png", 8), ("wide.png", 9)):
        Image.new("L", (width, 8), 255).save(name)
    before = sorted(found.iterdir())
    status, out, err = run(line)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert sentence in err
    assert sorted(found.iterdir()) == before


def test_the_help_is_that_of_the_model(run, found):
    status, out, _ = run("trace ./knowndigits --help")
    words = " ".join(out.split())
    assert status == 0
    assert "--steps N of the sampler: more are slower" in words, "as `sample` has it"
    assert "--label LABEL an integer, or n of them" in words
    assert "--label" not in run("trace ./knownpoints --help")[1]
    assert "--sampler SAMPLER" in run("complete ./knowndigits --help")[1]
    assert "--steps" not in run("trace --help")[1].partition("What else a model takes")[2].partition("options:")[2]


@pytest.mark.parametrize("kept", ["--hole 4", "--mask mask.png", "--rows 2"])
def test_complete_keeps_what_is_said(run, found, kept):
    known = torch.ones(8, 8, dtype=torch.bool)
    if kept == "--rows 2":
        known[2:] = False
    else:
        known[2:6, 2:6] = False
    Image.fromarray((known.numpy() * 255).astype(np.uint8)).save("mask.png")
    line = f"complete ./knowndigits --index 7 --count 2 {kept} -n 3 --seed 1 --steps 20 --out a.png"
    assert run(f"{line} --beside pixelcnn-digits") == (0, "a.png\n", "")
    data = Digits()
    data.setup("test")
    x = data.test[0][7:9]
    drawn, originals = cells("a.png"), pictures.to_bytes(x, 17)[:, 0].numpy()
    assert drawn.shape[:2] == (4, 5)
    batch, mask = x.repeat_interleave(3, 0), known.expand(6, 1, 8, 8)
    models = (KnownDigits(), {"steps": 20}), (zoo.load("pixelcnn-digits"), {})
    for which, (model, options) in enumerate(models):
        wanted = pictures.to_bytes(model.complete(batch, mask, seed=1, **options), 17)[:, 0].numpy()
        for i, original in enumerate(originals):
            row = drawn[2 * i + which]  # the rows of an image together
            assert (row[0] == original).all()
            assert (row[1] == np.where(known.numpy(), original, 128)).all()
            assert (row[2:] == wanted[3 * i : 3 * i + 3]).all()
            assert (row[2:, known.numpy()] == original[known.numpy()]).all()


def test_a_figure_of_a_checkpoint_is_of_its_numbers(run, found):
    pytest.importorskip("matplotlib", reason="curves need the extra plots")
    folder = found / "knowndigits"
    config = read_config(folder)
    number = {"metric": "fid", "kind": "samples", "dataset": "Digits", "split": "train", "n": 360, "limit": False}
    results = [
        {**number, "value": value, "protocol": f"360 samples; {steps} steps of heun, {2 * steps - 1} passes"}
        for steps, value in ((5, 9.0), (10, 8.0))
    ]
    write_config(folder, {**config, "results": results})
    assert run("figure ./knowndigits") == (0, "fid.png\n", "")
    assert run("figure ./knowndigits --out b.png") == (0, "b.png\n", "")
    assert (found / "fid.png").read_bytes() == (found / "b.png").read_bytes()


def test_a_card_shows_what_lies_beside_it(run, found):
    assert run("trace ./knowndigits --frames 3 --seed 0 --out knowndigits/trace.webp")[0] == 0
    assert run("card ./knowndigits --write")[0] == 0
    folder = found / "knowndigits"
    assert pictures_in(folder) == ["trace.webp"]
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "The way from noise to samples:\n\n![trace](trace.webp)\n" in text
    assert text == card.render(read_config(folder), "knowndigits", ["trace.webp"])
    assert run("card ./knowndigits")[1] == text
