"""`zoo fit` and its kin: runs, resumes equal bit for bit, several processes, published weights, exports."""

from __future__ import annotations

import csv
import itertools
import math
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from interrupted import refused_beyond
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_runs import FewDigits, Stop, differences, fit, last, patch_model, read, sealed

from zoo import cli
from zoo.autoregressive import PixelCNN
from zoo.callbacks.ema import EMA
from zoo.callbacks.pictures import SampleGrid
from zoo.callbacks.run import SaveLast
from zoo.data import MNIST, Digits, FashionMNIST
from zoo.data.loader import TensorLoader
from zoo.diffusion import DDPM
from zoo.errors import CheckpointError, DataError, ZooError
from zoo.evaluation import measure
from zoo.flows import EnergyFlow
from zoo.hub import card, places, store
from zoo.hub.config import read_config, write_config
from zoo.references import WHOSE
from zoo.training import cli as training
from zoo.training.export import export_run

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
DIGITS = ROOT / "recipes" / "pixelcnn-digits.yaml"
SMALL = ["--model.channels=4", "--model.blocks=1", "--model.dropout=0.3", "--trainer.max_steps=25"]
ONE_CPU = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_model_summary=false"]


@pytest.fixture(autouse=True)
def _untouched(monkeypatch):
    precision = torch.get_float32_matmul_precision()
    with sealed(monkeypatch):
        yield
    torch.set_float32_matmul_precision(precision)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run `zoo` here, in an empty folder: exit status, stdout, stderr, and the ZooCLI that was at work."""
    made: list[training.ZooCLI] = []

    class Seen(training.ZooCLI):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            made.append(self)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(training, "ZooCLI", Seen)
    monkeypatch.setattr(sys, "argv", ["zoo"])
    monkeypatch.chdir(tmp_path)

    def run(command: str, *argv: Any) -> types.SimpleNamespace:
        more = [] if command in cli.COMMANDS else ONE_CPU
        try:
            status = cli.main([command, *map(str, argv), *more])
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        ours = made[-1] if made else None
        made.clear()
        return types.SimpleNamespace(status=status, out=captured.out, err=captured.err, cli=ours)

    return run


def sentence(result: types.SimpleNamespace) -> str:
    """What a refused command says: one line, and exit status 1."""
    assert result.status == 1, result.err
    said = [line for line in result.err.splitlines() if line.startswith("zoo: ")]
    assert len(said) == 1
    assert result.err.endswith(said[0] + "\n"), "nothing follows it"
    return said[0]


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64])
def test_a_seed_that_numpy_has_not_is_one_sentence(run, seed):
    said = sentence(run("fit", "--config", DIGITS, f"--seed_everything={seed}"))
    assert said == f"zoo: seed_everything must be a whole number from 0 to 2**32 - 1, or None, not {seed}."


# -- recipes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_builds_a_model_for_its_data(run, monkeypatch, recipe):
    monkeypatch.setattr(training.ZooCLI, "_run_subcommand", lambda *_: None)
    result = run("fit", "--config", recipe)
    assert result.status == 0, result.err
    model, data = result.cli.model, result.cli.datamodule
    assert (model.spec.shape, model.spec.levels) == (data.spec.shape, data.spec.levels)
    assert places.NAME.fullmatch(recipe.stem)
    comment = re.match(r"(#.*\n)+", recipe.read_text())[0]
    assert f"lightning fit --config recipes/{recipe.name}\n" in comment
    assert result.cli.trainer.default_root_dir == str(Path("runs", recipe.stem))
    reference = yaml.safe_load(recipe.read_text()).get("reference")
    if reference is not None:
        maybe = {"whose", "kind", "samples", "protocol", "decimals", "also", "best"}
        assert set(reference) - maybe == {"metric", "value", "source"}
        assert reference["whose"] in WHOSE, "nobody has to guess"
        # An energy's flow is judged by the divergence that it minimizes, by its samples what has no likelihood, or is
        # trained by another loss than its bound.
        by_samples = not model.likelihood or isinstance(model, DDPM)
        expected = "kl" if isinstance(model, EnergyFlow) else "fid" if by_samples else model.metric
        assert reference["metric"] == expected


def test_one_callback_needs_no_list(run, monkeypatch):
    monkeypatch.setattr(training.ZooCLI, "_run_subcommand", lambda *_: None)
    result = run(
        "fit", "--config", DIGITS, "--trainer.callbacks=zoo.callbacks.TimeBudget", "--trainer.callbacks.minutes=1"
    )
    assert result.status == 0, result.err
    kinds = {type(callback).__name__ for callback in result.cli.trainer.callbacks}
    assert {"TimeBudget", "RunRecord", "SaveLast"} <= kinds


def test_there_are_recipes():
    assert DIGITS in RECIPES


# -- a run ---------------------------------------------------------------------------------------------------


def test_a_run_lives_in_one_folder(run, tmp_path):
    result = run("fit", "--config", DIGITS, *SMALL, "--trainer.check_val_every_n_epoch=1")
    assert result.status == 0, result.err
    assert "val_bits_per_dim" in result.err, "a line at each validation, where there is no terminal"
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    root = "runs/pixelcnn-digits"
    assert [name for name in files if "tfevents" not in name] == [
        f"{root}/checkpoints/best.ckpt",
        f"{root}/checkpoints/last.ckpt",
        f"{root}/logs/version_0/config.yaml",
        f"{root}/logs/version_0/hparams.yaml",
        f"{root}/logs/version_0/metrics.csv",
        f"{root}/samples/step-0000019.png",
    ]
    with open(f"{root}/logs/version_0/metrics.csv") as file:
        columns = set(next(csv.reader(file)))
    assert {"step", "train_bits_per_dim", "val_bits_per_dim", "lr-AdamW/pg1"} <= columns
    kept = last(tmp_path / root)
    assert kept["global_step"] == 25
    assert read(tmp_path / root / "checkpoints" / "best.ckpt")["global_step"] == 19
    record = kept["callbacks"]["RunRecord"]
    assert (record["recipe"], record["images"]) == ("pixelcnn-digits", 25 * 64)

    again = run("fit", "--config", f"{root}/logs/version_0/config.yaml", "--trainer.default_root_dir", "again")
    assert again.status == 0, again.err
    assert not list(differences(kept, last(tmp_path / "again"))), "the stored configuration is the run"


@pytest.mark.slow
def test_validate_and_test_measure_the_run(run, tmp_path):
    assert run("fit", "--config", DIGITS, *SMALL, "--trainer.check_val_every_n_epoch=1").status == 0
    for which, subcommand in itertools.product(("last", "best"), ("validate", "test")):
        path = tmp_path / "runs" / "pixelcnn-digits" / "checkpoints" / f"{which}.ckpt"
        model = PixelCNN(shape=[1, 8, 8], channels=4, blocks=1)
        model.load_state_dict(read(path)["state_dict"])
        split = {"validate": "validation", "test": "test"}[subcommand]
        (expected,) = measure.evaluate(model, data=Digits(), split=split, device="cpu")
        # Neither form repeats the model's arguments: the file knows them.
        for named in (["--ckpt_path", which], ["--ckpt_path", path]):
            result = run(subcommand, "--config", DIGITS, *named)
            assert result.status == 0, result.err
            assert "images/s" not in result.err, "nothing was trained"
            (metric,) = result.cli.trainer.callback_metrics.values()
            assert metric.item() == pytest.approx(expected.value, rel=1e-5)
            assert f"{metric.item():.3f}"[:4] in result.out
    grids = sorted(path.name for path in (tmp_path / "runs" / "pixelcnn-digits" / "samples").iterdir())
    assert grids == ["step-0000019.png"], "only training draws"


def test_averaging_comes_after_the_grid_wherever_the_recipe_has_it(run):
    entries = '[{"class_path": "zoo.callbacks.EMA"}, {"class_path": "zoo.callbacks.SampleGrid"}]'
    result = run("fit", "--model=PixelCNN", f"--trainer.callbacks={entries}", "--trainer.fast_dev_run=true")
    assert result.status == 0, result.err
    order = [type(callback) for callback in result.cli.trainer.callbacks]
    assert order.index(SampleGrid) < order.index(EMA) < order.index(ModelCheckpoint) < order.index(SaveLast)


def test_checkpoints_of_a_recipe_go_to_the_runs_folder(run, tmp_path):
    entries = '[{"class_path": "ModelCheckpoint", "init_args": {"every_n_train_steps": 2, "filename": "{step}"}}]'
    result = run("fit", "--model=PixelCNN", *SMALL, "--trainer.max_steps=5", f"--trainer.callbacks={entries}")
    assert result.status == 0, result.err
    folder = tmp_path / "runs" / "unnamed" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "step=4.ckpt"]
    quiet = ["--trainer.enable_checkpointing=false", "--trainer.default_root_dir=quiet"]
    assert run("fit", "--model=PixelCNN", *SMALL, *quiet).status == 0
    assert not (tmp_path / "quiet" / "checkpoints").exists()


# -- what is refused -----------------------------------------------------------------------------------------

MODEL = ["--model=PixelCNN"]


@pytest.mark.parametrize(
    ("command", "argv", "said"),
    [
        ("fit", [*MODEL, "--data=MNIST"], "MNIST gives image data of shape [1, 28, 28] with 256 levels, but"),
        ("fit", [*MODEL, "--model.levels=16"], "with 17 levels, but the model takes"),
        ("fit", [*MODEL, "--model.channels=0"], "channels must be a positive multiple of the 1 colours"),
        ("fit", [*MODEL, "--model.dropout=7"], "between 0 and 1, but got 7"),
        ("fit", [*MODEL, "--data.batch_size=5000"], "1257 items are too few for batches of 5000"),
        ("fit", [*MODEL, "--data.validation=0"], "cannot be held out for validation"),
        ("fit", [*MODEL, "--ckpt_path=nowhere.ckpt"], "There is no checkpoint nowhere.ckpt"),
        ("fit", ["--from=pixelcnn-nonesuch"], "There is no bundled checkpoint pixelcnn-nonesuch"),
        ("fit", ["--from=./nowhere"], "There is no folder nowhere"),
        ("validate", MODEL, "Say which weights: --ckpt_path last (or best) for the run in runs/unnamed"),
        ("test", [*MODEL, "--ckpt_path=last"], "There is no checkpoint runs/unnamed/checkpoints/last.ckpt"),
        ("predict", [*MODEL, "--ckpt_path=best"], "no checkpoint runs/unnamed/checkpoints/best.ckpt"),
    ],
)
def test_a_refusal_is_one_sentence(run, monkeypatch, command, argv, said):
    monkeypatch.setattr("zoo.data.MNIST.prepare_data", lambda _: None)
    monkeypatch.setattr("zoo.data.MNIST.setup", lambda self, stage: None)
    assert said in sentence(run(command, *argv))
    assert not Path("runs", "unnamed", "checkpoints").exists()


def test_a_run_of_another_model_is_not_resumed(run):
    assert run("fit", *MODEL, *SMALL, "--trainer.max_steps=2").status == 0
    for other in ("--model.channels=6", "--model.blocks=2"):
        result = run("fit", *MODEL, *SMALL, other, "--ckpt_path=last")
        assert "The run's checkpoint does not fit the model, first in net." in sentence(result)


# -- resuming ------------------------------------------------------------------------------------------------

SETTINGS = {
    "steps": {},
    "epochs": {"max_steps": -1, "max_epochs": 3},
    "accumulation": {"accumulate_grad_batches": 2},
    "uneven accumulation": {"accumulate_grad_batches": 3},
    "validation inside an epoch": {"val_check_interval": 4, "accumulate_grad_batches": 2},
    "validation across epochs": {"check_val_every_n_epoch": None, "val_check_interval": 7},
    "validation at times": {"check_val_every_n_epoch": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_run_resumed_anywhere_equals_the_uninterrupted_run(tmp_path, settings):
    """Dropout, binarization, averaged weights, AdamW and its schedule: equal in every bit."""

    class EveryLast(SaveLast):
        """Keeps what last.ckpt would be at each step, after each validation and at each end of an epoch."""

        def on_train_batch_end(self, *args: Any) -> None:
            super().on_train_batch_end(*args)
            self.keep(args[0], "batch")

        def on_validation_end(self, *args: Any) -> None:
            super().on_validation_end(*args)
            self.keep(args[0], "validation")

        def on_train_epoch_end(self, *args: Any) -> None:
            super().on_train_epoch_end(*args)
            self.keep(args[0], "epoch")

        def keep(self, trainer: Any, when: str) -> None:
            path = tmp_path / "all" / f"{trainer.global_step:02d}-{when}.ckpt"
            if not path.exists():  # between accumulated batches there is nothing new
                trainer.save_checkpoint(path)

    fit(tmp_path, EMA(0.9), EveryLast(), **settings)
    whole, paths = last(tmp_path), sorted((tmp_path / "all").iterdir())
    paths = [path for path in paths if int(path.name[:2]) < whole["global_step"]]
    # The middle of the first epoch, both sides of its end, the middle of a later one; validations and ends.
    chosen = [path for path in paths if path.name.startswith(("04-b", "05-b", "10-b", "11-b", "14-b"))]
    others = [path for path in paths if "batch" not in path.name]
    for path in [*chosen, *others[:2], *others[-2:]]:
        fit(tmp_path / "resumed", EMA(0.9), ckpt_path=path, **settings)
        assert not list(differences(whole, last(tmp_path / "resumed"))), path.name


@pytest.mark.parametrize("step", [1, 10, 13, 20])
@pytest.mark.parametrize(
    "settings",
    [{}, {"accumulate_grad_batches": 2}, {"check_val_every_n_epoch": 3}],
    ids=["", "accumulated", "not validated"],
)
def test_a_run_that_was_stopped_equals_the_uninterrupted_run(tmp_path, step, settings):
    """Lightning would go on with the next epoch, and leave out the rest of the one it was stopped in."""
    fit(tmp_path / "whole", EMA(0.9), **settings)
    fit(tmp_path / "parts", EMA(0.9), Stop(step), **settings)
    assert last(tmp_path / "parts")["global_step"] == step
    path = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    fit(tmp_path / "parts", EMA(0.9), ckpt_path=path, **settings)
    assert not list(differences(last(tmp_path / "whole"), last(tmp_path / "parts")))


def test_a_run_resumed_twice_equals_the_uninterrupted_run(tmp_path):
    """A resume must not store what it begins with once more, between two accumulated batches."""
    settings = {"accumulate_grad_batches": 2}
    fit(tmp_path / "whole", EMA(0.9), **settings)
    path = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    fit(tmp_path / "parts", EMA(0.9), Stop(12), **settings)
    with pytest.raises(KilledError):
        fit(tmp_path / "parts", EMA(0.9), SaveLast(every_n_steps=4), Killed(13), ckpt_path=path, **settings)
    assert last(tmp_path / "parts")["global_step"] == 12
    fit(tmp_path / "parts", EMA(0.9), ckpt_path=path, **settings)
    assert not list(differences(last(tmp_path / "whole"), last(tmp_path / "parts")))


class KilledError(Exception):
    """A run's end without any of the callbacks at its end."""


class Killed(Stop):
    """Ends a run before an optimizer step."""

    def on_before_optimizer_step(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step + 1 == self.step:
            raise KilledError


def test_validation_and_the_best_go_on_after_a_resume(tmp_path):
    """The best checkpoint of two halves is the best of the whole."""

    def best(name: str) -> ModelCheckpoint:
        folder = tmp_path / name / "checkpoints"
        return ModelCheckpoint(folder, "best", monitor="val_nats", enable_version_counter=False)

    settings = {"check_val_every_n_epoch": None, "val_check_interval": 3}
    whole, first, second = best("whole"), best("parts"), best("parts")
    fit(tmp_path / "whole", EMA(0.5), whole, **settings)
    fit(tmp_path / "parts", EMA(0.5), first, Stop(14), **settings)
    path = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    fit(tmp_path / "parts", EMA(0.5), second, ckpt_path=path, **settings)
    assert second.best_model_score == whole.best_model_score
    one, other = (read(tmp_path / name / "checkpoints" / "best.ckpt") for name in ("whole", "parts"))
    assert not list(differences(one, other))


# -- killing -------------------------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    """Of a process that runs `python -m zoo` on one thread, and finds the tests' modules."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    loopback = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    alone = {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return os.environ | loopback | alone | more


def start(folder: Path, *argv: str, **more: str) -> subprocess.Popen[str]:
    """`python -m zoo fit` in a folder."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "zoo", "fit", *argv]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(**more),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for its end, which must be a good one; what it wrote to stderr."""
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err[-3000:]
    return err


@pytest.mark.slow
def test_kill_9_between_two_checkpoints(run, tmp_path):
    recipe = yaml.safe_load(DIGITS.read_text())
    recipe["model"]["init_args"] |= {"channels": 4, "blocks": 1, "dropout": 0.3}
    recipe["trainer"] |= {"max_steps": 30, "check_val_every_n_epoch": 1, "accelerator": "cpu"}
    saving = {"class_path": "zoo.callbacks.SaveLast", "init_args": {"every_n_steps": 4}}
    recipe["trainer"]["callbacks"] += [saving, {"class_path": "tiny_runs.Hold"}]
    config = tmp_path / "killed-digits.yaml"
    config.write_text(yaml.safe_dump(recipe))
    argv = ["--config", str(config)]

    killed = start(tmp_path / "killed", *argv, HOLD_AT="23")
    whole = run("fit", *argv)
    assert whole.status == 0, whole.err
    root = tmp_path / "killed" / "runs" / "killed-digits"
    deadline = time.monotonic() + 120
    while not (root / "held").exists():
        assert killed.poll() is None, killed.stderr.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.kill()
    assert killed.wait(timeout=60) == -signal.SIGKILL
    killed.stderr.close()
    assert last(root)["global_step"] == 20, "three steps are lost"
    # Such a file is what a kill leaves that comes while a checkpoint is written.
    (root / "checkpoints" / "last.ckpt.partial").write_bytes(b"half a checkpoint")

    err = finish(start(tmp_path / "killed", *argv, "--ckpt_path", "last"))
    assert "Restored all states" in err
    one, other = last(tmp_path / "runs" / "killed-digits"), last(root)
    assert one["global_step"] == 30
    assert set(one) >= {"state_dict", "current_model_state", "optimizer_states", "lr_schedulers"}
    assert not list(differences(one, other))
    assert one["callbacks"]["RunRecord"]["images"] == other["callbacks"]["RunRecord"]["images"] == 30 * 64
    assert not list(root.rglob("*.partial"))


def test_a_kill_while_writing_leaves_a_whole_file(tmp_path, monkeypatch):
    # Another file system than the run's, where there is one: moving a file from there is copying it.
    if os.access("/dev/shm", os.W_OK):
        monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")
    path = tmp_path / "checkpoints" / "last.ckpt"
    versions = [{"x": torch.full((1_000_000,), float(i))} for i in range(2)]
    writer = training.AtomicCheckpointIO()
    writer.save_checkpoint(versions[0], path)
    moments = random.Random(0)
    for _ in range(12):
        child = os.fork()
        if not child:
            for version in itertools.cycle(versions):
                writer.save_checkpoint(version, path)
        time.sleep(moments.uniform(0.01, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert len(read(path)["x"].unique()) == 1
    writer.save_checkpoint(versions[1], path)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "last.ckpt"
    writer = training.AtomicCheckpointIO()
    writer.save_checkpoint({"x": 1}, path)
    with pytest.raises(Exception, match=r"pickle|local object"):
        writer.save_checkpoint({"x": torch.zeros(1000), "y": lambda: None}, path)
    assert read(path) == {"x": 1}


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    writer = training.AtomicCheckpointIO()
    writer.save_checkpoint({"x": 1}, path)

    def full(_, file):
        Path(file).write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/3")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ZooError, match=r"cannot write .*last\.ckpt .*: free disk space there, and run again\."):
        writer.save_checkpoint({"x": 2}, path)
    assert read(path) == {"x": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_is_one_sentence_wherever_in_the_file_it_is_full(tmp_path):
    path = tmp_path / "last.ckpt"
    writer, state = training.AtomicCheckpointIO(), {str(i): torch.zeros(50) for i in range(20)}
    writer.save_checkpoint({"x": 1}, path)
    torch.save(state, tmp_path / "whole")
    for size in range(0, (tmp_path / "whole").stat().st_size, 401):
        kinds, said = refused_beyond(lambda: writer.save_checkpoint(state, path), size)
        assert kinds[0] == "DataError", said
        assert "free disk space" in said
        assert read(path) == {"x": 1}


# -- several processes ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(run, tmp_path):
    settings = ["--model.channels=6", "--model.blocks=1", "--model.dropout=0", "--trainer.max_steps=8"]
    settings += ["--trainer.val_check_interval=8", "--trainer.accumulate_grad_batches=2"]
    settings += ["--trainer.log_every_n_steps=1", "--trainer.check_val_every_n_epoch=1", "--model.warmup=1"]
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]
    ddp = start(tmp_path / "two", "--config", str(DIGITS), *settings, "--data.batch_size=16", *two)
    result = run("fit", "--config", DIGITS, *settings, "--data.batch_size=32")
    assert result.status == 0, result.err
    finish(ddp)

    roots = [tmp_path / "runs" / "pixelcnn-digits", tmp_path / "two" / "runs" / "pixelcnn-digits"]
    one, both = map(last, roots)
    torch.manual_seed(0)
    start_weights = PixelCNN(shape=[1, 8, 8], levels=17, channels=6, blocks=1).state_dict()
    for state in ("state_dict", "current_model_state"):
        # Sums over a batch in another order: equal up to rounding, which is small beside what was learned.
        learned = sum((one[state][key] - start_weights[key]).square().sum() for key in start_weights)
        apart = sum((one[state][key] - both[state][key]).square().sum() for key in start_weights)
        assert learned > 0.01
        assert apart < 1e-6 * learned
    assert one["callbacks"]["RunRecord"]["images"] == both["callbacks"]["RunRecord"]["images"] == 16 * 32
    assert both["callbacks"]["RunRecord"]["hardware"].startswith("2 x CPU")

    def validated(root: Path) -> list[float]:
        with open(root / "logs" / "version_0" / "metrics.csv") as file:
            return [float(row["val_bits_per_dim"]) for row in csv.DictReader(file) if row["val_bits_per_dim"]]

    assert len(validated(roots[0])) == 2
    assert validated(roots[1]) == pytest.approx(validated(roots[0]), rel=1e-5)
    names = [{str(path.relative_to(root)) for path in root.rglob("*.*")} for root in roots]
    single, double = ({name for name in some if "tfevents" not in name} for some in names)
    assert single == double, "the second process writes no files of its own"


# -- published weights ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint folder, pixelcnn-digits, of a model that has learned something, and its run."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, sealed(patch):
        model = PixelCNN(shape=[1, 8, 8], levels=17, channels=12, blocks=2, lr=5e-3, warmup=20)
        fit(folder / "run", EMA(0.9), model=model, data=Digits(), max_steps=200)
    return export_run(folder / "run", "pixelcnn-digits", out=folder / "pixelcnn-digits")


FEW = ["--data=tiny_runs.FewDigits"]


def test_from_starts_with_the_published_weights(run, trained):
    model, data = store.load(trained), FewDigits()
    (expected,) = measure.evaluate(model, data=data, split="validation", device="cpu")
    (untrained,) = measure.evaluate(PixelCNN(), data=data, split="validation", device="cpu")
    assert expected.value < untrained.value - 1
    for subcommand in ("validate", "fit"):
        more = ["--trainer.max_steps=1", "--trainer.logger=false"] if subcommand == "fit" else []
        result = run(subcommand, "--from", trained, *FEW, *more)
        assert result.status == 0, result.err
        metrics = result.cli.trainer.callback_metrics
        if subcommand == "validate":
            assert metrics["val_bits_per_dim"].item() == pytest.approx(expected.value, rel=1e-5)
        else:
            train = TensorLoader(*data.train[:3], batch_size=64, shuffle=True, drop_last=True)
            with torch.no_grad():
                first = model.bits_per_dim(next(iter(train))[0]).mean().item()
            assert metrics["train_bits_per_dim"].item() == pytest.approx(first, rel=1e-5)


def test_from_brings_the_model_and_what_is_said_wins(run, trained, tmp_path):
    quick = ["--trainer.max_steps=1", "--trainer.logger=false", *FEW]
    config = read_config(trained)
    plain = run("fit", "--from", trained, *quick)
    assert plain.status == 0, plain.err
    hparams = {key: value for key, value in plain.cli.model.hparams.items() if not key.startswith("_")}
    assert hparams == config["init_args"]
    recipe = tmp_path / "finetune-digits.yaml"
    for model in (
        {"init_args": {"lr": 0.25}},
        {"class_path": "PixelCNN", "init_args": {"lr": 0.25}},
        {"class_path": "zoo.autoregressive.PixelCNN", "init_args": {"lr": 0.25, "shape": [1, 8, 8]}},
    ):
        recipe.write_text(yaml.safe_dump({"model": model}))
        result = run("fit", "--config", recipe, "--from", trained, *quick)
        assert result.status == 0, result.err
        hparams = {key: value for key, value in result.cli.model.hparams.items() if not key.startswith("_")}
        assert hparams == config["init_args"] | {"lr": 0.25}
    assert run("fit", "--from", trained, *quick, "--model.dropout=0.5").cli.model.hparams.dropout == 0.5


def test_from_may_stand_in_the_recipe(run, trained, tmp_path):
    model = {"class_path": "PixelCNN", "init_args": read_config(trained)["init_args"]}
    recipe = tmp_path / "finetune-digits.yaml"
    recipe.write_text(yaml.safe_dump({"from": str(trained), "model": model}))
    result = run("validate", "--config", recipe, "--trainer.logger=false")
    (expected,) = measure.evaluate(trained, split="validation", device="cpu")
    assert result.status == 0, result.err
    assert result.cli.trainer.callback_metrics["val_bits_per_dim"].item() == pytest.approx(expected.value)


def test_a_fine_tuning_resumes_from_its_own_weights(run, trained, tmp_path):
    common = ["--from", trained, *FEW, "--trainer.logger=false", "--model.dropout=0.2"]
    assert run("fit", *common, "--trainer.max_steps=6").status == 0
    stored = last(tmp_path / "runs" / "unnamed")
    result = run("validate", *common, "--ckpt_path=last")
    model = PixelCNN(**read_config(trained)["init_args"])
    model.load_state_dict(stored["state_dict"])
    (expected,) = measure.evaluate(model, data=FewDigits(), split="validation", device="cpu")
    assert result.cli.trainer.callback_metrics["val_bits_per_dim"].item() == pytest.approx(expected.value)


def test_a_fine_tuning_tells_what_it_started_from(run, trained, tmp_path):
    config = read_config(trained)
    options = ["--trainer.logger=false", *FEW]
    assert run("fit", "--from", trained, *options, "--trainer.max_steps=2").status == 0
    # Resumed, it still started there.
    assert run("fit", *options, "--from", trained, "--trainer.max_steps=3", "--ckpt_path=last").status == 0
    folder = export_run(tmp_path / "runs" / "unnamed", "pixelcnn-few", out=tmp_path / "out")
    told = read_config(folder)["training"]
    assert told["steps"] == 3
    assert told["from"] == {
        "name": "pixelcnn-digits",
        "sha256": config["weights"]["sha256"],
        "training": config["training"],
    }
    assert "from" not in config["training"]


def test_weights_that_do_not_fit_are_refused(run, trained):
    said = sentence(run("fit", "--config", DIGITS, "--from", trained))
    assert str(trained) in said
    assert "PixelCNN" in said
    said = sentence(run("fit", "--from", trained, "--model.levels=16"))
    assert "'net.head." in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"class_path": "os.system"}, None),
        ({"class_path": "zoo.autoregressive.Nonesuch"}, "does not exist in this version of zoo"),
        ({"init_args": {"channels": 2_000_000}}, "far larger than its weights"),
        ({"init_args": {"nonesuch": 1}}, "takes no argument 'nonesuch'"),
    ],
)
def test_a_hostile_checkpoint_builds_nothing(run, trained, tmp_path, monkeypatch, change, said):
    folder = tmp_path / "hostile-digits"
    folder.mkdir()
    for file in trained.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    write_config(folder, {**read_config(folder), **change})
    called = []
    monkeypatch.setattr(os, "system", called.append)
    result = run("fit", "--from", folder, "--trainer.logger=false", "--trainer.max_steps=1")
    if said is None:  # nothing names a model then
        assert result.status == 2
        assert "fit.model" in result.err
    else:
        assert said in sentence(result)
    assert not called


# -- export --------------------------------------------------------------------------------------------------


def test_an_export_is_the_last_step_of_the_average(tmp_path):
    fit(tmp_path / "run", EMA(0.9), max_steps=13)
    folder = export_run(tmp_path / "run", "pixelcnn-patches", out=tmp_path / "out", dtype="float32")
    state = last(tmp_path / "run")
    assert state["global_step"] == 13
    model = store.load(folder)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state["state_dict"][key])
    assert list(differences(dict(model.state_dict()), state["current_model_state"], "weights"))
    config = read_config(folder)
    assert config["class_path"] == "zoo.autoregressive.PixelCNN"
    assert config["init_args"] == dict(patch_model().hparams)
    own = {"title": "patches", "hub_id": None}
    assert config["data"] == {"class_path": "tiny_runs.Patches", "init_args": {"binarized": True}, **own}
    assert config["training"]["steps"] == 13
    assert config["training"]["images"] == 13 * 4
    assert config["training"]["precision"] == "32-true"
    assert set(config["training"]) == {
        "hardware",
        "minutes",
        "steps",
        "images",
        "images_per_second",
        "precision",
        "torch",
        "lightning",
    }
    one = export_run(tmp_path / "run" / "checkpoints" / "last.ckpt", "x-y", out=tmp_path / "file", dtype="float32")
    assert (one / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_an_export_without_averaging_is_the_weights(tmp_path):
    model, _ = fit(tmp_path / "run", max_steps=7)
    folder = export_run(tmp_path / "run", "pixelcnn-patches", out=tmp_path / "out", dtype="float32")
    for key, tensor in store.load(folder).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key])


def test_an_export_replaces_a_checkpoint_only_when_told(tmp_path):
    fit(tmp_path / "run", max_steps=3)
    out = tmp_path / "out"
    export_run(tmp_path / "run", "pixelcnn-patches", out=out)
    kept = {path.name: path.read_bytes() for path in out.iterdir()}
    fit(tmp_path / "run", max_steps=5, seed=6)
    with pytest.raises(CheckpointError, match=r"out is a checkpoint already: choose another name, or --overwrite"):
        export_run(tmp_path / "run", "pixelcnn-patches", out=out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == kept
    export_run(tmp_path / "run", "pixelcnn-patches", out=out, overwrite=True)
    assert read_config(out)["training"]["steps"] == 5


def test_an_export_is_there_with_its_card_or_not_at_all(tmp_path, monkeypatch):
    fit(tmp_path / "run", max_steps=3)
    monkeypatch.setenv("ZOO_CHECKPOINTS", str(tmp_path / "own"))
    write = card.write

    def full(folder, name=None):
        raise DataError("The disk is full: make room.")

    for writes in ([], [write]):  # at the card alone, and at the card with the picture
        monkeypatch.setattr(card, "write", lambda *given, left=iter(writes): next(left, full)(*given))  # noqa: B008
        assert cli.main(["export", str(tmp_path / "run"), "pixelcnn-patches"]) == 1
        assert not list((tmp_path / "own").iterdir())
    monkeypatch.setattr(card, "write", write)
    assert cli.main(["export", str(tmp_path / "run"), "pixelcnn-patches"]) == 0
    names = ["README.md", "config.json", "model.safetensors", "samples.png"]
    assert sorted(path.name for path in (tmp_path / "own" / "pixelcnn-patches").iterdir()) == names


def test_an_export_of_the_command_line_knows_its_recipe(run, tmp_path):
    reference = '{"metric": "bits_per_dim", "value": 1.5, "source": "Nobody 1999"}'
    result = run("fit", "--config", DIGITS, *SMALL, "--trainer.max_steps=3", f"--reference={reference}")
    assert result.status == 0, result.err
    folder = export_run("runs/pixelcnn-digits", "pixelcnn-digits", out=tmp_path / "out")
    config = read_config(folder)
    assert config["recipe"] == "pixelcnn-digits"
    assert config["reference"] == {"metric": "bits_per_dim", "value": 1.5, "source": "Nobody 1999"}
    assert config["data"] == {"class_path": "zoo.data.Digits", "init_args": {}, "title": "digits", "hub_id": None}
    assert store.load(folder).hparams.channels == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "There is no run"),
        ("folder", "holds no checkpoints/last.ckpt"),
        (b"not a checkpoint", "is not a checkpoint that `zoo fit` wrote"),
        ({"state_dict": {}, "callbacks": {}, "hyper_parameters": {}}, "is not a checkpoint that `zoo fit`"),
        ({"x": Stop(3)}, "is not a checkpoint that `zoo fit` wrote"),
        (
            {
                "state_dict": {},
                "callbacks": {"RunRecord": {"class_path": "os.system"}},
                "hyper_parameters": {},
                "global_step": 1,
            },
            "lies outside zoo",
        ),
    ],
    ids=["absent", "empty folder", "bytes", "another's", "code", "another class"],
)
def test_what_cannot_be_exported(tmp_path, content, said):
    path = tmp_path / "last.ckpt"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=re.escape(said)) as caught:
        export_run(path, "pixelcnn-patches", out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


RECORD = {
    **{"class_path": "zoo.mixtures.Uniform", "hardware": "a CPU", "seconds": 1.0, "images": 1, "precision": "32"},
    **{"images_per_second": 1.0, "torch": "2", "lightning": "2", "data": None, "recipe": None, "reference": None},
}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((("record", key), value) for key in ("class_path", "data") for value in (3, [1])),
        *((("record", key), "x") for key in ("seconds", "images_per_second")),
        *((("record", "seconds"), value) for value in (None, math.nan, math.inf)),
        *((("state", "global_step"), value) for value in ("x", None)),
        *((("state", "state_dict"), value) for value in ([], {"a": 3}, {3: torch.zeros(1)})),
        (("state", "callbacks"), [1]),
    ],
)
def test_a_run_that_a_stranger_wrote_is_one_sentence(tmp_path, place, value):
    record, path = dict(RECORD), tmp_path / "last.ckpt"
    state = {"state_dict": {}, "callbacks": {"RunRecord": record}, "global_step": 1}
    state["hyper_parameters"] = {"shape": [1, 2, 2], "levels": 4}
    torch.save(state, path)
    export_run(path, "uniform-x", out=tmp_path / "sound")
    {"record": record, "state": state}[place[0]][place[1]] = value
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"last\.ckpt is not a checkpoint that|plain JSON values only"):
        export_run(path, "uniform-x", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_that_would_not_load_is_refused(tmp_path):
    """Weights that are not those of the arguments beside them, and weights that are not finite."""
    fit(tmp_path / "run", max_steps=1)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    state = last(tmp_path / "run")
    for change in (
        {"hyper_parameters": {**state["hyper_parameters"], "channels": 6}},
        {"hyper_parameters": {**state["hyper_parameters"], "nonesuch": 6}},
        {"state_dict": {key: tensor * math.nan for key, tensor in state["state_dict"].items()}},
    ):
        torch.save({**state, **change}, path)
        with pytest.raises(ZooError) as caught:
            export_run(path, "pixelcnn-patches", out=tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("recipe", ["validation: 7", None])
def test_the_default_data_leaves_no_argument_to_other_data(tmp_path, capsys, recipe):
    """Data that a recipe or an option names has its own defaults, and not those of Digits."""
    path = tmp_path / "recipe.yaml"
    text = "model: zoo.autoregressive.PixelCNN\n"
    if recipe:
        text += f"data:\n  class_path: zoo.data.MNIST\n  init_args:\n    {recipe}\n"
    path.write_text(text)
    options = [] if recipe else ["--data", "zoo.data.MNIST"]
    with pytest.raises(SystemExit):
        training.main(["fit", "--config", str(path), *options, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)["data"]
    assert printed["class_path"] == "zoo.data.MNIST"
    assert printed["init_args"]["validation"] == (7 if recipe else MNIST().validation)


def test_without_any_data_it_is_digits(tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: zoo.autoregressive.PixelCNN\n")
    with pytest.raises(SystemExit):
        training.main(["fit", f"--config={path}", "--data.batch_size", "5", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)["data"]
    assert (printed["class_path"], printed["init_args"]["batch_size"]) == ("zoo.data.Digits", 5)


@pytest.mark.slow
def test_published_digits_start_clothes_below_an_untrained_model(real_data):
    """The README's example of fine-tuning: binarized Fashion-MNIST from pixelcnn-mnist."""
    data = FashionMNIST(root=real_data("FashionMNIST/raw"), binarized=True, eval_batch_size=64)
    data.setup("validate")
    x, _, *_ = next(iter(data.val_dataloader()))
    published = store.load("pixelcnn-mnist")
    with torch.inference_mode():
        untrained = PixelCNN(**published.hparams).eval().loss(x)
        assert published.loss(x).mean() < untrained.mean() - 3 * untrained.std()


# -- what came after a run began, and what a model does not have ---------------------------------------------

GLOW = """
model:
  class_path: zoo.flows.Glow
  init_args: {shape: [1, 8, 8], levels: 17, scales: 1, steps: 1, channels: 4, blocks: 1, warmup: 2%s}
"""


def test_a_run_goes_on_with_what_it_had_before_its_class_had_an_argument(run, tmp_path):
    old, today = tmp_path / "old.yaml", tmp_path / "today.yaml"
    old.write_text(GLOW % ", stretch: null")
    today.write_text(GLOW % "")
    assert run("fit", "--config", old, "--trainer.max_steps=2").status == 0
    folder = tmp_path / "runs/old/checkpoints"
    state = torch.load(folder / "last.ckpt", weights_only=True)
    del state["hyper_parameters"]["stretch"]
    torch.save(state, folder / "last.ckpt")
    own = ["--config", today, "--trainer.default_root_dir=runs/old", "--trainer.max_steps=3"]
    for path in (folder / "last.ckpt", "last"):
        result = run("fit", *own, "--ckpt_path", path)
        assert result.status == 0, result.err
        assert result.cli.model.hparams.stretch is None
        torch.save(state, folder / "last.ckpt")
    assert run("fit", "--config", today, "--trainer.fast_dev_run=true").cli.model.hparams.stretch == 4.0


def test_what_a_model_does_not_have_is_not_measured(run, monkeypatch):
    monkeypatch.setattr(training.ZooCLI, "_run_subcommand", lambda *_: None)
    assert "GAN has no likelihood, which `predict` computes" in sentence(run("predict", "--from", "gan-mnist"))
    monkeypatch.setattr(PixelCNN, "test_step", LightningModule.test_step)
    said = sentence(run("test", "--from", "pixelcnn-digits"))
    assert "PixelCNN defines no test_step: export the run, and measure it with `zoo evaluate`." in said


def test_a_run_that_no_checkpoint_can_hold_says_so_before_it_starts(run, monkeypatch, tmp_path):
    (tmp_path / "mytarget.py").write_text(
        "from zoo.targets import GaussianRing\n\n\nclass Well(GaussianRing):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = tmp_path / "well.yaml"
    recipe.write_text(
        "model: {class_path: zoo.flows.EnergyFlow, init_args: {energy: {class_path: mytarget.Well}, layers: 1}}\n"
        "data: {class_path: zoo.data.Points, init_args: {name: {class_path: mytarget.Well}}}\n"
    )
    with pytest.warns(UserWarning, match=r"`zoo export` will refuse it\. .*mytarget\.Well' is not one of zoo\.targets"):
        result = run("fit", "--config", recipe, "--trainer.fast_dev_run=true")
    assert result.status == 0, result.err
