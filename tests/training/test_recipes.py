"""Recipes and options: which wins, what is refused and how, and what a recipe may not ask for."""

from __future__ import annotations

import importlib
import os
import re
import types
from pathlib import Path

import pytest
import torch
import yaml
from tiny_runs import fit, patch_model, sealed

from zoo import cli
from zoo.errors import CheckpointError, ZooError
from zoo.training import cli as training
from zoo.training.files import AtomicCheckpointIO, read_run
from zoo.training.recipes import BYTES, in_order, options

DIGITS = Path(__file__).resolve().parents[2] / "recipes" / "pixelcnn-digits.yaml"
BASE = DIGITS.read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _sealed(monkeypatch, tmp_path):
    precision = torch.get_float32_matmul_precision()
    monkeypatch.chdir(tmp_path)
    with sealed(monkeypatch):
        yield
    torch.set_float32_matmul_precision(precision)


@pytest.fixture
def parse(monkeypatch, capsys):
    """Parse a command of training, and build nothing: exit status, stdout, stderr and what the arguments come to."""
    seen: list[training.ZooCLI] = []
    monkeypatch.setattr(training.ZooCLI, "instantiate_classes", lambda self: seen.append(self))
    monkeypatch.setattr(training.ZooCLI, "after_instantiate_classes", lambda _: None)
    monkeypatch.setattr(training.ZooCLI, "_run_subcommand", lambda *_: None)

    def parse(*argv: object, main=cli.main) -> types.SimpleNamespace:
        try:
            status = main(list(map(str, argv)))
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        config = seen[-1].config[argv[0]] if seen else None
        seen.clear()
        return types.SimpleNamespace(status=status, out=captured.out, err=captured.err, config=config)

    return parse


def sentence(result: types.SimpleNamespace) -> str:
    """What a refused command says: one line, and exit status 1."""
    assert result.status == 1, result.err
    (said,) = [line for line in result.err.splitlines() if line.startswith("zoo: ")]
    assert result.err.endswith(said + "\n")
    assert len(said) < 500
    return said


# -- what wins -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("main", [cli.main, cli.lightning_main])
@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("config", [["--config", DIGITS], [f"--config={DIGITS}"], ["-c", DIGITS], [f"-c{DIGITS}"]])
def test_an_option_wins_wherever_it_stands(parse, main, command, config):
    weights = [] if command == "fit" else ["--from=pixelcnn-digits"]
    result = parse(command, "--trainer.max_steps", 10, "--model.channels=8", *config, *weights, main=main)
    assert result.status == 0, result.err
    assert result.config.trainer.max_steps == 10
    assert result.config.model.init_args.channels == 8
    assert result.config.trainer.check_val_every_n_epoch == 10, "the recipe's"


def test_the_printed_configuration_is_that_of_the_run(parse):
    result = parse("fit", "--trainer.max_steps=10", "--print_config", "--config", DIGITS)
    assert result.status == 0
    assert yaml.safe_load(result.out)["trainer"]["max_steps"] == 10


def test_the_later_of_two_recipes_wins_and_options_win_over_both(parse):
    Path("longer.yaml").write_text(
        "trainer: {max_steps: 88, log_every_n_steps: 3}\ndata: {class_path: zoo.data.MNIST}\n"
    )
    result = parse(
        "fit", "--data", "FashionMNIST", "--config", DIGITS, "--trainer.log_every_n_steps=4", "-c", "longer.yaml"
    )
    assert result.status == 0, result.err
    assert (result.config.trainer.max_steps, result.config.trainer.log_every_n_steps) == (88, 4)
    assert result.config.data.class_path == "zoo.data.FashionMNIST"


def test_a_class_or_a_file_of_a_group_does_not_undo_its_arguments(parse):
    Path("trainer.yaml").write_text("{max_steps: 77, gradient_clip_val: 3}\n")
    result = parse(
        "fit", "--trainer.max_steps=10", "--trainer=trainer.yaml", "--data.batch_size=7", "--data=Digits", "-c", DIGITS
    )
    assert result.status == 0, result.err
    assert (result.config.trainer.max_steps, result.config.trainer.gradient_clip_val) == (10, 3)
    assert result.config.data.init_args.batch_size == 7


def test_the_weights_to_start_from_are_those_of_the_option(parse):
    Path("tune.yaml").write_text("from: pixelcnn-mnist\ndata: {class_path: zoo.data.Digits}\n")
    result = parse("fit", "--from", "pixelcnn-digits", "--config", "tune.yaml")
    assert result.status == 0, result.err
    assert result.config["from"] == "pixelcnn-digits"
    assert result.config.model.init_args.levels == 17


def test_words_keep_their_order_among_their_like():
    callbacks = [
        "--trainer.callbacks+=A",
        "--trainer.callbacks.a",
        "-1",
        "--trainer.callbacks+=B",
        "--trainer.callbacks.b=2",
    ]
    assert in_order(["fit", *callbacks, "--config", "x"]) == ["fit", "--config", "x", *callbacks]
    assert options(["fit", "--from", "a", "--from=b"], "--from") == ["a", "b"]


# -- what is refused -----------------------------------------------------------------------------------------

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
REFUSED = {
    "unknown key": (BASE + "trainr: {}\n", "r.yaml has the unknown key trainr: did you mean trainer?"),
    "of the trainer": (BASE.replace("max_steps", "max_stepz"), "trainer.max_stepz: did you mean trainer.max_steps?"),
    "of the model": (
        BASE.replace("channels:", "chanels:"),
        "model.init_args.chanels: did you mean model.init_args.channels?",
    ),
    "of the data": (
        BASE.replace("batch_size", "batchsize"),
        "data.init_args.batchsize: did you mean data.init_args.batch_size?",
    ),
    "of a callback": (BASE.replace("decay: 0.995", "dekay: 1"), "trainer.callbacks[1].init_args.dekay: did you mean"),
    "beside a class": (BASE.replace("init_args", "init_arg", 1), "model.init_arg: did you mean model.init_args?"),
    "a type": (BASE.replace("1200", "many"), "r.yaml: trainer.max_steps must be int, not 'many'."),
    "a choice": (
        BASE.replace("1200", "1\n  precision: x"),
        "r.yaml: trainer.precision must be one of transformer-engine",
    ),
    "a type of an argument": (
        BASE.replace("channels: 48", "channels: [4]"),
        "r.yaml: model.init_args.channels must be int, not",
    ),
    "no class": (BASE.replace("PixelCNN\n", "PixelCN\n"), "there is no class zoo.autoregressive.PixelCN: did you mean"),
    "no module": (BASE.replace("zoo.data.Digits", "zoo.dada.Digits"), "did you mean zoo.data.Digits?"),
    "no path": (BASE.replace("zoo.data.Digits", "Digitz"), "there is no class Digitz: did you mean zoo.data.Digits?"),
    "no word": (
        BASE.replace("zoo.data.Digits", "[1]"),
        "r.yaml: data.class_path must be the path of a class, not [1].",
    ),
    "no arguments": ("model: {class_path: zoo.mixtures.Uniform, init_args: 3}\n", "must name arguments, not be 3."),
    "no mapping": ("- 1\n- 2\n", "r.yaml is no recipe, which names a model, data and a trainer: it holds [1, 2]."),
    "nothing": ("", "it holds nothing."),
    "no YAML": ("a: [1,\nb: {", "r.yaml, line 3, is no YAML"),
    "a tab": (
        "model:\n\tclass_path: x\n",
        "r.yaml, line 2, is no YAML: found character that cannot start any token: YAML is",
    ),
    "twice": (BASE + "trainer:\n  max_steps: 3\n", "r.yaml says 'trainer' twice in one place, again in line"),
    "laughs": (LAUGHS, "its aliases make more of it than any recipe holds."),
    "letters": (f"a: &a {'x' * 99_999}\nb: [{', '.join(['*a'] * 99)}]\n", "its aliases make more of it"),
    "a loop": ("model: &a {class_path: *a}\n", "its aliases make more of it than any recipe holds."),
    "deep": ("model: " + "[" * 5000 + "]" * 5000, "is no "),
    "wide": ("model: [" + "1, " * 20_000 + "1]", "has more than 10,000 values"),
    "large": ("# " + "x" * BYTES, "bytes, and a recipe at most"),
    "code": ("model: !!python/object/apply:os.system ['touch ran']\n", "could not determine a constructor"),
    "a date": ("model: 2001-99-99\n", "holds a value that is none"),
    "a key": ("? [1, 2]\n: 3\n", "line 1: a key must be a word."),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_recipe_is_refused_in_one_sentence(parse, name):
    text, said = REFUSED[name]
    Path("r.yaml").write_text(text, encoding="utf-8")
    result = sentence(parse("fit", "--config", "r.yaml"))
    assert said in result
    assert "r.yaml" in result or name == "no path"
    assert not Path("ran").exists()


def test_what_is_no_file_of_a_recipe_is_refused_and_not_waited_for(parse):
    Path("recipes").mkdir()
    Path("recipes", "toy-digits.yaml").write_text(BASE)
    os.mkfifo("pipe.yaml")
    Path("latin.yaml").write_bytes("# Café\n".encode("latin-1"))
    os.symlink("loop.yaml", "loop.yaml")
    for path, said in {
        "recipes/toy-digit.yaml": "did you mean recipes/toy-digits.yaml?",
        "nowhere/toy-digits.yaml": f"nor a folder {Path.cwd()}/nowhere",
        "recipes": "recipes is a folder: give the file of a recipe.",
        "pipe.yaml": "pipe.yaml is no plain file",
        "/dev/zero": "/dev/zero is no plain file",
        "latin.yaml": "latin.yaml is not UTF-8, from byte 5 on: save it as UTF-8.",
        "loop.yaml": "The recipe loop.yaml cannot be read",
        "x" * 999: "cannot be read: File name too long",
        "pixelcnn-" + "x" * 999: "cannot be read: File name too long",
        "recipes/nade-mnis.yaml": "did you mean recipes/nade-mnist.yaml?",
    }.items():
        assert said in sentence(parse("fit", "--config", path))
        if len(path) < 99:
            assert str(path) in sentence(parse("fit", f"--config={path}"))


@pytest.mark.parametrize("option", ["--model", "--data", "--trainer", "--config"])
def test_what_a_recipe_or_an_option_takes_in_is_within_the_same_bounds(parse, option):
    Path("part.yaml").write_text(LAUGHS)
    os.mkfifo("pipe")
    if option == "--config":
        Path("whole.yaml").write_text("model: part.yaml\n")
        assert "part.yaml is no recipe" in sentence(parse("fit", "--config", "whole.yaml"))
        Path("whole.yaml").write_text("model: pipe\n")
        assert "pipe is no plain file" in sentence(parse("fit", "--config", "whole.yaml"))
    else:
        assert "part.yaml is no recipe" in sentence(parse("fit", "--config", DIGITS, option, "part.yaml"))
        assert "pipe is no plain file" in sentence(parse("fit", "--config", DIGITS, option, "./pipe"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--trainer.max_stepz=1"], "There is no option --trainer.max_stepz: did you mean --trainer.max_steps?"),
        (
            ["--model.chanels=1"],
            "There is no option --model.chanels of zoo.autoregressive.PixelCNN: did you mean --model.channels?",
        ),
        (["--trainer.max_steps=x"], "zoo: trainer.max_steps must be int, not 'x'."),
        (["recipes/x.yaml"], "recipes/x.yaml is no option: those begin with --, and recipes stand after --config."),
        (["--model", "PixelCN"], "there is no class PixelCN: did you mean zoo.autoregressive.PixelCNN?"),
    ],
)
def test_an_option_is_refused_in_one_sentence(parse, argv, said):
    assert said in sentence(parse("fit", "--config", DIGITS, *argv))


def test_a_model_must_be_named(parse):
    result = parse("fit")
    said = "zoo: No model is named, as fit.model: give --config RECIPE.yaml, --from NAME or --model.\n"
    assert (result.status, result.err) == (2, said)


# -- what a recipe may not ask for ---------------------------------------------------------------------------


class Runs:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def test_a_pickle_runs_only_where_the_command_line_says_so(parse, tmp_path):
    fit(tmp_path / "run", model=patch_model(), max_steps=1)
    state = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    torch.save({**state, "extra": Runs()}, "evil.ckpt")
    model = "model: {class_path: zoo.autoregressive.PixelCNN}\nckpt_path: evil.ckpt\n"
    Path("plain.yaml").write_text(model)
    Path("asks.yaml").write_text(f"{model}weights_only: false\n")
    assert "evil.ckpt is not a checkpoint that `zoo fit` wrote" in sentence(parse("fit", "--config", "plain.yaml"))
    for command in ("fit", "validate", "test", "predict"):
        for more in ([], ["--ckpt_path=evil.ckpt"]):
            said = sentence(parse(command, "--config", "asks.yaml", *more))
            assert "weights_only: false, with which a checkpoint may run any code" in said
    with pytest.raises(CheckpointError):
        read_run(Path("evil.ckpt"))
    assert not Path("ran").exists()
    assert parse("fit", "--config", "asks.yaml", "--weights_only=false").status == 0
    assert Path("ran").exists(), "whoever says so himself gets it"


@pytest.mark.parametrize("path", ["https://example.org/x.ckpt", "s3://bucket/x.ckpt", "registry:me/x", "folder"])
def test_a_recipe_has_nothing_fetched_and_no_folder_unpickled(parse, path):
    Path("folder").mkdir()
    Path("r.yaml").write_text(f"model: {{class_path: zoo.mixtures.Uniform}}\nckpt_path: {path}\n")
    assert "give --ckpt_path yourself" in sentence(parse("fit", "--config", "r.yaml"))
    assert parse("fit", "--config", "r.yaml", "--ckpt_path", path).status == 0


@pytest.mark.parametrize("key", ["model", "data", "trainer", "trainer.callbacks"])
@pytest.mark.parametrize("before", ["", "simplecache::"])
def test_no_part_of_a_recipe_is_fetched(parse, key, before, monkeypatch):
    """The parser would read it from any address, and then call the classes that it names."""
    import fsspec

    asked = []
    monkeypatch.setattr(fsspec, "open", lambda address, *_, **__: asked.append(address))
    name, _, inner = key.partition(".")
    address = f"{before}memory://there/part.yaml"
    recipe = {"model": {"class_path": "zoo.mixtures.Uniform"}} | {name: {inner: address} if inner else address}
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    assert "memory://there/part.yaml" in sentence(parse("fit", "--config", "r.yaml"))
    assert not asked


def test_a_callback_that_is_there_twice_is_one_sentence(capsys):
    Path("r.yaml").write_text(
        "model: {class_path: zoo.mixtures.Uniform}\ntrainer: {accelerator: cpu, logger: false, callbacks: "
        "[{class_path: zoo.callbacks.EMA}, {class_path: zoo.callbacks.EMA}]}\n"
    )
    assert cli.main(["fit", "--config", "r.yaml", "--trainer.max_steps=1"]) == 1
    assert "more than one stateful callback of type `EMA`" in capsys.readouterr().err.splitlines()[-1]


def test_a_checkpoint_chooses_no_module_to_import(parse, tmp_path, monkeypatch):
    fit(tmp_path / "run", model=patch_model(), max_steps=1)
    state = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    Path("strange.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    state["hyper_parameters"]["_class_path"] = "strange.Model"
    torch.save(state, "evil.ckpt")
    said = sentence(parse("fit", "--model=zoo.autoregressive.PixelCNN", "--ckpt_path=evil.ckpt"))
    assert "evil.ckpt is a run of 'strange.Model', which lies outside zoo" in said
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", ["last", "best"])
def test_the_checkpoint_of_a_run_is_one_file_and_no_pickle(parse, name):
    checkpoint = Path("run", "checkpoints", f"{name}.ckpt")
    checkpoint.mkdir(parents=True)
    Path("r.yaml").write_text(f"model: {{class_path: zoo.mixtures.Uniform}}\nckpt_path: {name}\n")
    command = ["fit", "--config", "r.yaml", "--trainer.default_root_dir=run"]
    assert f"{checkpoint} is no plain file" in sentence(parse(*command))
    checkpoint.rmdir()
    torch.save({"extra": Runs()}, checkpoint)
    with pytest.raises(CheckpointError, match=r"is not a checkpoint that `zoo fit` wrote \(UnpicklingError\)"):
        AtomicCheckpointIO().load_checkpoint(checkpoint, weights_only=True)
    assert not Path("ran").exists()


@pytest.mark.slow
def test_damaged_recipes_train_or_are_refused_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "attack"))
    for name, case in importlib.import_module("recipes").cases(seed=0, n=10, folder=tmp_path):
        said = "zoo: "
        try:
            case()
        except ZooError as error:
            said = str(error)
        assert re.fullmatch("zoo: [ -~]*", said), name
        assert len(said) < 500, name


@pytest.mark.parametrize("key", ["model", "data"])
def test_arguments_without_their_class(parse, key):
    recipe = yaml.safe_load(BASE)
    del recipe[key]["class_path"]
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    said = sentence(parse("fit", "--config", "r.yaml"))
    assert re.search(rf"No class is named whose argument {key}\.\w+ would be: add {key}\.class_path\.", said)
