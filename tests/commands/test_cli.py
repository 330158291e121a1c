"""The command line: what it prints, writes and refuses, and what it does not import."""

import inspect
import json
import os
import subprocess
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

import zoo
from zoo import cli, mixtures
from zoo.adversarial import GAN
from zoo.autoregressive import GatedPixelCNN, PixelCNN
from zoo.data import Digits
from zoo.diffusion import EDM
from zoo.errors import ZooError
from zoo.flows import MAF, NICE, EnergyFlow, Glow
from zoo.hub import card, finding, remote, store, tables
from zoo.hub.config import read_config, write_config
from zoo.model import GenerativeModel, Model
from zoo.pictures import images as pictures
from zoo.pictures.samples import draw
from zoo.spec import DataSpec

CELL = 64 + pictures.GAP  # an 8x8 digit is drawn 8 times as large


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PixelCNN(shape=[1, 8, 8], levels=17, channels=4, blocks=1)
    return zoo.save(
        model,
        tmp_path_factory.mktemp("runs") / "pixelcnn-digits",
        data={"class_path": "zoo.data.Digits", "init_args": {}},
        reference={"metric": "bits_per_dim", "value": 2.5, "source": "Nobody 1999"},
    )


@pytest.fixture
def own(checkpoint, tmp_path):
    """A copy of the checkpoint to write into."""
    folder = tmp_path / "pixelcnn-digits"
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def run(capsys):
    """Run `zoo` in this process: exit status, stdout, stderr."""

    def run(*argv, main=cli.main):
        try:
            status = main([str(word) for word in argv])
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


def cells(path):
    """The images of a grid, (rows, columns, 8, 8) bytes; all pixels of an enlarged pixel must be equal."""
    picture = np.asarray(Image.open(path))
    height, width = ((size - pictures.GAP) // CELL for size in picture.shape)
    assert picture.shape == (height * CELL + pictures.GAP, width * CELL + pictures.GAP)
    lattice = picture[pictures.GAP :, pictures.GAP :].reshape(height, CELL, width, CELL).swapaxes(1, 2)
    enlarged = lattice[:, :, :64, :64].reshape(height, width, 8, 8, 8, 8)
    assert (enlarged == enlarged[:, :, :, :1, :, :1]).all()
    return enlarged[:, :, :, 0, :, 0]


# -- help and listing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ["list"],
        ["list", "--json"],
        ["list", "--table", "cifar10"],
        ["--help"],
        ["--version"],
        [],
        *([name, "--help"] for name in cli.COMMANDS),
    ],
)
def test_listing_and_help_import_neither_torch_nor_lightning(argv):
    code = (
        "import sys; from zoo.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'lightning', 'torchvision', 'huggingface_hub', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code, *argv], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_signature_is_the_command_line(run, name):
    status, out, _ = run(name, "--help")
    assert status == 0
    for parameter in inspect.signature(cli.COMMANDS[name]).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue  # those of a model
        dashes = "-" if len(parameter.name) == 1 else "--"
        option = f"  {dashes}{parameter.name.replace('_', '-')}"
        assert (option if parameter.kind is parameter.KEYWORD_ONLY else f"\n  {parameter.name} ") in out


def test_list_is_a_table(run, monkeypatch, checkpoint):
    config = read_config(checkpoint)
    monkeypatch.setattr(tables, "bundled", lambda: {"pixelcnn-digits": config, "pixelcnn-mnist": config})
    status, out, _ = run("list")
    header, first, second = out.splitlines()
    assert status == 0
    assert header.split() == ["name", "family", "data", "metric", "ours", "reference", "size"]
    assert first.split()[:3] == ["pixelcnn-digits", "autoregressive", "digits"]
    assert header.index("data") == first.index("digits", 20) == second.index("digits")
    assert json.loads(run("list", "--json")[1]) == {"pixelcnn-digits": config, "pixelcnn-mnist": config}


def test_usage_errors_exit_with_2(run):
    for argv in (
        [],
        ["paint"],
        ["sample"],
        ["sample", "x", "-n", "many"],
        ["push", "x"],
        ["list", "--colour"],
    ):
        status, out, err = run(*argv)
        assert (status, out) == (2, "")
        assert err.startswith("usage: zoo")


# -- sample --------------------------------------------------------------------------------------------------


def test_sample_writes_the_picture_of_the_seed(run, checkpoint, tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, seed in zip(files, (0, 0, 1), strict=True):
        status, out, err = run("sample", checkpoint, "-n", 5, "--seed", seed, "--out", file)
        assert (status, out, err) == (0, f"{file}\n", "")
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    drawn = cells(files[0])
    assert drawn.shape == (2, 3, 8, 8)
    expected = zoo.load(checkpoint).sample(5, seed=0)[:, 0].numpy()
    assert (np.round(drawn.reshape(6, 8, 8)[:5] * (16 / 255)) == expected).all()
    assert (drawn[1, 2] == 255).all(), "the sixth cell is empty"


def test_sample_draws_the_label(run, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GatedPixelCNN(shape=[1, 8, 8], levels=17, classes=10, channels=4, blocks=1)
        torch.nn.init.normal_(model.net.gate_bias)  # labels start alike
    checkpoint = zoo.save(model, tmp_path / "gated-pixelcnn-digits")
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, label in zip(files, (["--label", 3], ["--label", 4], []), strict=True):
        assert run("sample", checkpoint, "-n", 4, "--seed", 0, "--out", file, *label) == (0, f"{file}\n", "")
    for file, label in zip(files, (3, 4, None), strict=True):
        expected = model.sample(4, label=label, seed=0)
        assert (cells(file).reshape(4, 8, 8) == pictures.to_bytes(expected, 17)[:, 0].numpy()).all()
    assert len({file.read_bytes() for file in files}) == 3
    status, out, err = run("sample", checkpoint, "--label", 10, "--out", tmp_path / "none.png")
    assert (status, out, err) == (1, "", "zoo: label is 10; this model takes 0..9: labels are counted from 0.\n")


@pytest.mark.parametrize(("option", "other"), [("temperature", "truncation"), ("truncation", "temperature")])
def test_sample_draws_as_the_family_can(run, tmp_path, option, other):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = {"temperature": Glow, "truncation": GAN}[option]([1, 8, 8], 17, channels=8)
    checkpoint, file = zoo.save(model, tmp_path / "it"), tmp_path / "drawn.png"
    command = ["sample", checkpoint, "-n", 4, "--seed", 0, "--out", file]
    assert run(*command, f"--{option}", 0.25) == (0, f"{file}\n", "")
    expected = zoo.load(checkpoint).sample(4, seed=0, **{option: 0.25})
    assert (cells(file).reshape(4, 8, 8) == pictures.to_bytes(expected, 17)[:, 0].numpy()).all()
    assert not torch.equal(expected, model.sample(4, seed=0))
    assert f"--{other}" in run(*command, f"--{other}", 0.25)[2]
    assert run(*command, f"--{option}", 0) in [
        (1, "", f"zoo: {option} must be positive{end}, not 0.0.\n") for end in ("", " and finite")
    ]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["-n", "0"], "-n must be at least 1, not 0"),
        (["-n", "-3"], "-n must be at least 1, not -3"),
        (["--out", "absent/grid.png"], "no folder absent"),
        (["--out", "grid.jpg"], "name the file grid.png, not 'grid.jpg'"),
        (["--out", "grid"], "name the file grid.png"),
        (["--device", "cuda:99"], "no device 'cuda:99'"),
        (["--device", "abacus"], "no device 'abacus'"),
        (["--label", "3"], "is not conditioned on classes: leave out --label"),
        (["--temperature", "0.7"], "is not drawn with --temperature: it may be drawn with --cached."),
        (["--sede", "3"], "is not drawn with --sede: did you mean --seed?"),
    ],
)
def test_sample_refuses(run, checkpoint, monkeypatch, tmp_path, argv, sentence):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("sample", checkpoint, *argv)
    assert (status, out) == (1, "")
    assert err.startswith("zoo: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert not list(tmp_path.rglob("*.*"))


class Framed(GenerativeModel):
    """An image given another."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec = DataSpec((1, size, size), 4, condition=DataSpec((1, size, size), 4))

    def sample(self, n: int, *, condition: torch.Tensor, seed: int | None = None) -> torch.Tensor:
        return condition


class Labelled(GenerativeModel):
    """A black or a white image, as its label says."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec = DataSpec((1, size, size), 2, classes=2)

    def sample(self, n: int, *, label: int | torch.Tensor, seed: int | None = None) -> torch.Tensor:
        labels = self.spec.labels(label, n)
        return labels.to(torch.uint8).view(n, 1, 1, 1).expand(n, *self.spec.shape).contiguous()


class Silent(Model):
    """A translator of images."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec = DataSpec((1, size, size), 4)


class Mute(Silent, GenerativeModel):
    """A distribution that cannot be sampled."""


@pytest.fixture
def odd(monkeypatch, tmp_path):
    """Checkpoints of classes that are in the zoo for a test, by name."""
    found = {}
    for cls in (Framed, Labelled, Silent, Mute):
        monkeypatch.setattr(cls, "__module__", "zoo.mixtures")
        monkeypatch.setattr(mixtures, cls.__name__, cls, raising=False)
        data = {"class_path": "zoo.data.Digits", "init_args": {}}
        found[cls.__name__] = zoo.save(cls(), tmp_path / f"{cls.__name__.lower()}-digits", data=data)
    return found


@pytest.mark.parametrize(
    ("name", "argv", "sentence"),
    [
        ("Framed", [], "Framed is drawn given a condition, which is lacking here: use it from Python, "),
        ("Labelled", [], "is drawn given a label: add --label."),
        ("Silent", [], "Silent cannot be sampled."),
        ("Mute", [], "Mute cannot be sampled."),
        ("Mute", ["--label", 1], "cannot be sampled."),
    ],
)
def test_what_cannot_be_drawn_so_says_why(run, odd, tmp_path, name, argv, sentence):
    status, out, err = run("sample", odd[name], "--out", tmp_path / "none.png", *argv)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert sentence in err
    assert not (tmp_path / "none.png").exists()


def test_a_label_that_is_needed_is_an_option(run, odd, tmp_path):
    out = tmp_path / "white.png"
    assert run("sample", odd["Labelled"], "-n", 4, "--label", 1, "--out", out) == (0, f"{out}\n", "")
    status, text, _ = run("sample", odd["Labelled"], "--help")
    assert (status, "--label N" in text, "default: <" in text) == (0, True, False)


@pytest.mark.parametrize("name", ["Framed", "Labelled", "Silent", "Mute"])
def test_what_cannot_be_drawn_is_exported_and_measured_without(run, training, odd, name):
    training.exports(odd[name])
    assert run("export", "runs/mine", name) == (0, f"{odd[name]}\n", "")
    text = (odd[name] / "README.md").read_text(encoding="utf-8")
    assert "help(model)" in text
    assert "samples.png" not in text
    status, out, err = run("evaluate", odd[name], "--metrics", "all", "--limit", 8, "--device", "cpu")
    assert (status, out, err.count("\n")) == (1, "", 1)
    if name != "Silent":
        status, out, err = run("distance", odd[name], f"{odd[name]}:test", "-n", 8)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert "drawn given a" in err or "cannot be sampled" in err


def test_a_picture_that_fails_leaves_a_whole_checkpoint(run, training, own, monkeypatch):
    training.exports(own)
    (own / "README.md").unlink(missing_ok=True)
    monkeypatch.setattr(PixelCNN, "sample", lambda self, n, *, seed=None: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("export", "runs/mine", "pixelcnn-digits")
    assert (own / "README.md").read_text(encoding="utf-8") == card.render(read_config(own), own.name, pictures=())


def test_an_unknown_name_is_one_sentence(run, tmp_path):
    for name in ("nonesuch-digits", "../up", tmp_path / "absent"):
        status, out, err = run("sample", name, "--out", tmp_path / "x.png")
        assert (status, out, err.count("\n")) == (1, "", 1)


# -- complete ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 3, 7])
def test_complete_keeps_the_known_rows(run, checkpoint, tmp_path, rows):
    out = tmp_path / "c.png"
    argv = ["complete", checkpoint, "--index", 5, "--rows", rows, "-n", 3, "--seed", 1, "--out", out]
    assert run(*argv)[0] == 0
    original, kept, *completions = cells(out)[0]
    data = Digits()
    data.setup("test")
    assert (original == pictures.to_bytes(data.test[0][5, 0], 17).numpy()).all()
    for image in (kept, *completions):
        assert (image[:rows] == original[:rows]).all()
    assert (kept[rows:] == 128).all()
    assert len(completions) == 3
    assert (completions[0] != completions[1]).any()
    before = out.read_bytes()
    assert run(*argv)[0] == 0
    assert out.read_bytes() == before


def test_complete_takes_a_picture_file(run, checkpoint, tmp_path):
    levels = torch.randint(0, 17, (8, 8), generator=torch.Generator().manual_seed(0))
    Image.fromarray(pictures.to_bytes(levels, 17).numpy()).convert("RGB").save(tmp_path / "mine.png")
    run("complete", checkpoint, "--image", tmp_path / "mine.png", "--out", tmp_path / "c.png")
    original, _, *completions = cells(tmp_path / "c.png")[0]
    assert (original == pictures.to_bytes(levels, 17).numpy()).all()
    assert len(completions) == 6
    assert all((image[:4] == original[:4]).all() for image in completions)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--rows", "8"], "--rows must be 0 to 7 for images of 8 rows, not 8"),
        (["--rows", "-1"], "--rows must be 0 to 7"),
        (["--index", "360"], "--index must be 0 to 359"),
        (["--index", "-1"], "--index must be 0 to 359"),
        (["-n", "0"], "-n must be at least 1"),
        (["--image", "wide.png"], "wide.png is 9 x 8 pixels; this model's images are 8 x 8"),
        (["--image", "absent.png"], "There is no file absent.png"),
        (["--image", "text.png"], "text.png cannot be read as a picture"),
        (["--image", "wide.png", "--index", "1"], "not both"),
    ],
)
def test_complete_refuses(run, checkpoint, monkeypatch, tmp_path, argv, sentence):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (9, 8)).save("wide.png")
    (tmp_path / "text.png").write_text("not a picture")
    status, out, err = run("complete", checkpoint, *argv)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert sentence in err


# -- evaluate and card ---------------------------------------------------------------------------------------


def test_evaluate_prints_the_number_beside_the_papers(run, checkpoint):
    (result,) = zoo.evaluate(checkpoint, device="cpu", limit=50)
    status, out, err = run("evaluate", checkpoint, "--limit", 50, "--device", "cpu")
    assert (status, err) == (0, "")
    assert f"{result.value:.3f} ± {result.standard_error:.3f} bits/dim, exact" in out
    assert "first 50 of the test split" in out
    assert "2.5 (Nobody 1999)" in out, "a part of the split does not miss or reach anything"


def test_evaluate_measures_samples_as_they_are_asked_for(run, tmp_path):
    """By options of the model, whose way of sampling is in the protocol: a card keeps numbers of several ways."""
    torch.manual_seed(0)
    model = EDM([2], None, hidden=8, layers=1)
    data = {"class_path": "zoo.data.Points", "init_args": {"name": "moons", "train": 9, "validation": 9, "test": 30}}
    own = zoo.save(model, tmp_path / "edm-moons", data=data)
    asked = [["--steps", 2, "--sampler", "ddim"], [], ["--steps", 3]]
    said = ["2 steps of ddim, 2 passes", "18 steps of heun, 35 passes", "3 steps of heun, 5 passes"]
    for options, how in zip(asked, said, strict=True):
        status, out, err = run("evaluate", own, "--write", "--device", "cpu", *options)
        assert (status, err) == (0, "")
        assert how in out
    protocols = [result["protocol"] for result in read_config(own)["results"]]
    assert [each.rpartition("; ")[2] for each in protocols] == said
    assert ": confirmed" in run("evaluate", own, "--device", "cpu", "--steps", 3)[1]
    assert run("evaluate", own, "--step", 0)[2] == "zoo: steps must be at least 1, not 0.\n"
    assert "did you mean --steps?" in run("evaluate", own, "--stops", 3)[2]


def test_evaluate_write_puts_the_number_on_the_card(run, own):
    status, out, _ = run("evaluate", own, "--write", "--device", "cpu")
    assert status == 0
    assert "missed by" in out
    (result,) = zoo.evaluate(own, device="cpu")
    config = read_config(own)
    assert config["results"] == [result.config]
    text = (own / "README.md").read_text(encoding="utf-8")
    assert text == card.render(config, "pixelcnn-digits", pictures=())
    (read,) = ModelCard(text).data.eval_results
    assert (read.metric_type, read.metric_value) == ("bits_per_dim", result.value)
    assert (own / "model.safetensors").is_file()

    assert ": confirmed" in run("evaluate", own, "--device", "cpu")[1]
    write_config(own, {**config, "results": [replace(result, value=result.value + 0.01).config]})
    assert ": NOT confirmed" in run("evaluate", own, "--write", "--device", "cpu")[1]
    assert read_config(own)["results"] == [result.config], "written twice, it is there once"


def test_evaluate_reports_draws_counts_and_targets(run, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image, plane = NICE(shape=[1, 8, 8], levels=17, channels=4, blocks=1), EnergyFlow("energy2", layers=1)
    data = {"class_path": "zoo.data.Digits", "init_args": {}}
    digits = zoo.save(image, tmp_path / "nice-digits", dtype="float32", data=data)
    status, out, _ = run("evaluate", digits, "--samples", 3, "--write", "--device", "cpu")
    assert status == 0
    bound, lost = zoo.evaluate(digits, samples=3, device="cpu")
    assert f"standard deviation over draws {bound.spread:.2g}\n" in out
    assert f"{digits}: 0 of 360 not reconstructed, count\n  data   digits, 360, whole test split" in out
    text = (digits / "README.md").read_text(encoding="utf-8")
    assert "| not reconstructed | 0 of 360 | count |" in text
    assert read_config(digits)["results"] == [bound.config, lost.config]
    assert run("evaluate", digits, "--device", "cpu")[1].count(": confirmed") == 2

    data = {"class_path": "zoo.data.Points", "init_args": {"name": "energy2", "test": 20}}
    reference = {"metric": "kl", "value": 0.02, "whose": "target", "source": "no paper"}
    points = zoo.save(plane, tmp_path / "planar-energy2", dtype="float32", data=data, reference=reference)
    status, out, _ = run("evaluate", points, "--write", "--device", "cpu")
    assert status == 0
    _, kl = zoo.evaluate(points, device="cpu")
    assert f"{points}: {kl.value:.4f} nats of KL(q || p), quadrature\n" in out
    assert f"  data   points, n = {kl.n:,}; energy2, normalized" in out
    assert "  target 0.02: missed by" in out
    assert read_config(points)["results"][1] == kl.config
    assert "The target is 0.02 nats of KL(q || p): no paper. Missed by" in (points / "README.md").read_text()
    assert run("evaluate", points, "--write", "--device", "cpu")[1].count(": confirmed") == 2
    assert len(read_config(points)["results"]) == 2


def test_evaluate_write_refuses_a_part_and_what_is_not_yours(run, own, monkeypatch):
    before = {file.name: file.read_bytes() for file in own.iterdir()}
    status, _, err = run("evaluate", own, "--write", "--limit", 10)
    assert (status, "leave out --limit" in err) == (1, True)
    assert {file.name: file.read_bytes() for file in own.iterdir()} == before
    monkeypatch.setattr(finding, "pull", lambda *args, **options: own)
    for command in ("evaluate", "card"):
        status, _, err = run(command, "someone/pixelcnn-digits", "--write")
        assert (status, "folder of your own" in err) == (1, True)
    assert {file.name: file.read_bytes() for file in own.iterdir()} == before
    assert 'zoo.load("someone/pixelcnn-digits")' in run("card", "someone/pixelcnn-digits")[1]


def test_card_prints_or_writes(run, own, monkeypatch, tmp_path):
    config = read_config(own)
    status, out, _ = run("card", own)
    assert (status, out) == (0, card.render(config, "pixelcnn-digits", pictures=()))
    assert not (own / "README.md").exists()
    assert run("card", own, "--write")[0] == 0
    assert (own / "README.md").read_text(encoding="utf-8") == out

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tables, "bundled", lambda: {"pixelcnn-digits": config})
    (tmp_path / "README.md").write_text(f"{tables.BEGIN}\n{tables.END}".replace("{}", "checkpoints"))
    assert run("card", "--readme")[0] == 0
    assert "`pixelcnn-digits`" in (tmp_path / "README.md").read_text(encoding="utf-8")
    status, _, err = run("card")
    assert (status, "--readme" in err) == (1, True)


# -- what is handed on ---------------------------------------------------------------------------------------


@pytest.fixture
def training(monkeypatch):
    """A stand-in for zoo.training that notes its calls."""
    calls = []

    def exports(folder):
        """Let `export_run` find the checkpoint finished but for its card and picture."""

        def export_run(run, name, *, finish, **options):
            calls.append((str(run), name, options))
            finish(folder, zoo.load(folder))
            return folder

        module.export_run = export_run

    module = types.SimpleNamespace(main=calls.append, calls=calls, exports=exports)
    monkeypatch.setitem(sys.modules, "zoo.training.cli", module)
    monkeypatch.setitem(sys.modules, "zoo.training.export", module)
    return module


@pytest.mark.parametrize("main", [cli.main, cli.lightning_main])
@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_training_commands_get_the_whole_line(run, training, main, command):
    argv = [command, "--config", "recipes/x.yaml", "--help", "--model.lr=1"]
    assert run(*argv, main=main)[0] == 0
    assert training.calls == [argv]


def test_lightning_has_the_training_commands_only(run, training):
    status, out, _ = run("--help", main=cli.lightning_main)
    assert status == 0
    assert all(command in out for command in ("fit", "validate", "test", "predict"))
    for argv in (["list"], [], ["sample", "x"]):
        status, _, err = run(*argv, main=cli.lightning_main)
        assert (status, err.startswith("usage: lightning")) == (2, True)
    assert training.calls == []


def test_export_leaves_a_card_and_samples(run, training, own):
    training.exports(own)
    assert run("export", "runs/mine", "pixelcnn-digits")[:2] == (0, f"{own}\n")
    other = ["--dtype", "float32", "--width", 0.05, "--overwrite"]
    assert run("export", "runs/mine", "pixelcnn-digits", *other)[:2] == (0, f"{own}\n")
    names = "runs/mine", "pixelcnn-digits"
    assert training.calls == [
        (*names, {"dtype": "float16", "width": None, "overwrite": False}),
        (*names, {"dtype": "float32", "width": 0.05, "overwrite": True}),
    ]
    assert (own / "README.md").read_text(encoding="utf-8") == card.render(read_config(own), own.name)
    assert cells(own / "samples.png").shape == (4, 4, 8, 8)


def test_points_are_drawn_as_a_figure(run, training, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MAF(shape=[2], layers=1, hidden=4)
    data = {"class_path": "zoo.data.Points", "init_args": {"name": "moons"}}
    folder = zoo.save(model, tmp_path / "maf-moons", data=data, dtype="float32")
    expected = draw(model, tmp_path / "expected.png", n=500, seed=3).read_bytes()
    out = tmp_path / "drawn.png"
    assert run("sample", folder, "-n", "500", "--seed", "3", "--out", out)[:2] == (0, f"{out}\n")
    assert out.read_bytes() == expected
    training.exports(folder)
    assert run("export", "runs/mine", "maf-moons")[0] == 0
    draw(model, tmp_path / "exported.png")
    assert (folder / "samples.png").read_bytes() == (tmp_path / "exported.png").read_bytes()
    assert "![samples](samples.png)" in (folder / "README.md").read_text(encoding="utf-8")
    cold = draw(model, tmp_path / "cold.png", n=500, seed=3, temperature=0.5).read_bytes()
    arguments = ["-n", "500", "--seed", "3", "--temperature", "0.5", "--out", out]
    assert run("sample", folder, *arguments)[:2] == (0, f"{out}\n")
    assert out.read_bytes() == cold != expected
    before = ["sample", "--temp", "0.5", "--n", "500", "--seed", "3", folder, "--out", out]
    out.unlink()
    assert run(*before)[:2] == (0, f"{out}\n"), "whatever their order, and however they are spelled"
    assert out.read_bytes() == cold
    status, _, err = run("sample", folder, "--truncation", "0.5")
    assert (status, err) == (1, f"zoo: {folder} is not drawn with --truncation: it may be drawn with --temperature.\n")
    status, _, err = run("sample", folder, "--label=1")
    assert (status, err) == (1, f"zoo: {folder} is not conditioned on classes: leave out --label.\n")


def test_the_help_of_sample_is_that_of_the_model(run, tmp_path, monkeypatch):
    """Its options, of its class and configuration, and without its weights."""
    gan = zoo.save(GAN([1, 8, 8], 17, 10, network="mlp", latent_dim=2, channels=2), tmp_path / "gan-digits")
    plain = zoo.save(PixelCNN([1, 2, 2], 2, channels=2, blocks=1), tmp_path / "pixelcnn-tiny")
    monkeypatch.setattr(store, "load", lambda *a, **k: pytest.fail("the weights are not needed"))
    status, out, _ = run("sample", gan, "--help")
    words = " ".join(out.split())
    assert status == 0
    for text in ("--label N an integer, or n of them", "--truncation TRUNCATION latents beyond this are drawn again"):
        assert text in words
    assert "--temperature" not in words
    status, out, _ = run("sample", "--help", plain)
    assert status == 0
    assert "--cached, --no-cached" in out
    assert "--label" not in out
    assert "--label" not in run("sample", "--help")[1]
    monkeypatch.undo()
    pictures = [tmp_path / "fast.png", tmp_path / "slow.png"]
    for picture, words in zip(pictures, ([], ["--no-cached"]), strict=True):
        assert run("sample", plain, "-n", 2, "--seed", 0, "--out", picture, *words)[0] == 0
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert run("sample", gan, "--truncation", "wide")[0] == 2
    status, _, err = run("sample", tmp_path / "nothing", "--label", 3)
    assert (status, "There is no folder" in err) == (1, True)


def test_push_and_pull_hand_on_what_was_said(run, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(store, "push", lambda *a, **k: calls.append((a, k)) or "the-commit")
    monkeypatch.setattr(remote, "pull", lambda *a, **k: calls.append((a, k)) or tmp_path)
    line = [
        "push",
        "pixelcnn-digits",
        "--repo-id",
        "me/x",
        "--private",
        "--revision",
        "dev",
        "--message",
        "First.",
    ]
    assert run(*line)[:2] == (0, "the-commit\n")
    assert run("pull", "me/x", "--revision", "v1")[:2] == (0, f"{tmp_path}\n")
    assert calls == [
        (("pixelcnn-digits", "me/x"), {"private": True, "revision": "dev", "message": "First."}),
        (("me/x",), {"revision": "v1"}),
    ]


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [(ZooError("The weights are gone."), 1, "zoo: The weights are gone.\n"), (KeyboardInterrupt(), 130, "")],
)
def test_exit_status(run, training, error, status, said):
    def fail(argv):
        raise error

    training.main = fail
    assert run("fit") == (status, "", said)


def test_a_reader_that_leaves_is_no_error():
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-m", "zoo.cli", "list"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (141, "")


# -- pictures ------------------------------------------------------------------------------------------------


def test_grid_lays_images_out_row_by_row():
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 100, 70)
    picture = pictures.grid(images, 256, columns=4)
    gap = pictures.GAP
    assert picture.shape == (3, 2 * (100 + gap) + gap, 4 * (70 + gap) + gap)
    for i in range(6):
        top, left = gap + i // 4 * (100 + gap), gap + i % 4 * (70 + gap)
        assert (picture[:, top : top + 100, left : left + 70] == i).all()
        assert (picture[:, top - gap : top, left : left + 70] == 255).all()
    assert pictures.grid(images[:1], 256).shape == (3, 100 + 2 * gap, 70 + 2 * gap)


@pytest.mark.parametrize("levels", [2, 3, 17, 255, 256])
def test_levels_survive_a_png(levels, tmp_path):
    x = torch.arange(levels, dtype=torch.uint8).view(1, 1, 1, levels)
    values = pictures.to_bytes(x, levels)
    assert (values[0, 0, 0, 0], values[0, 0, 0, -1]) == (0, 255)
    Image.fromarray(values[0, 0].numpy()).save(tmp_path / "x.png")
    assert torch.equal(pictures.read(tmp_path / "x.png", DataSpec((1, 1, levels), levels)), x)
    colour = pictures.read(tmp_path / "x.png", DataSpec((3, 1, levels), levels))
    assert torch.equal(colour, x.expand(1, 3, 1, levels))


@pytest.mark.parametrize("images", [torch.zeros(2, 5), torch.zeros(1, 1, 8, 8), torch.zeros(0, 1, 8, 8).byte()])
def test_what_is_no_image_is_not_drawn(images):
    with pytest.raises(ZooError):
        pictures.grid(images, 256)
