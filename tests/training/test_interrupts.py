"""Ctrl-C and SIGTERM: the run is saved, and goes on as if nothing had been; what is kept; what predict tells."""

from __future__ import annotations

import csv
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from tiny_runs import Patches, differences, fit, last, patch_model, sealed

from zoo import cli
from zoo.adversarial import GAN
from zoo.callbacks import EMA
from zoo.data import Digits, Points
from zoo.mixtures import GaussianMixture

DIGITS = Path(__file__).resolve().parents[2] / "recipes" / "pixelcnn-digits.yaml"
SMALL = ["--model.channels=4", "--model.blocks=1", "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false"]


@pytest.fixture(autouse=True)
def _sealed(monkeypatch, tmp_path):
    precision = torch.get_float32_matmul_precision()
    monkeypatch.chdir(tmp_path)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with sealed(monkeypatch):
        yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers, "as they were"
    torch.set_float32_matmul_precision(precision)


class Signal(Callback):
    """Sends this process a signal in the midst of a batch, or of a validation."""

    def __init__(
        self, batch: int, number: int = int(signal.SIGINT), hook: str = "on_before_zero_grad", times: int = 1
    ) -> None:
        self.batch, self.number, self.times = batch, number, times
        setattr(self, hook, self.send)

    def send(self, trainer, *_):
        if trainer.state.fn == "fit" and trainer.fit_loop.epoch_loop.batch_progress.total.ready == self.batch:
            times, self.times = self.times, 0
            for _ in range(times):
                os.kill(os.getpid(), self.number)


def kinds():
    points = {"train": 60, "test": 30, "validation": 20, "batch_size": 8}
    gan = {"network": "mlp", "latent_dim": 2, "channels": 4, "critic_steps": 2}
    return {
        "steps": (patch_model, Patches, {}),
        "accumulated": (patch_model, Patches, {"accumulate_grad_batches": 3}),
        "validated inside": (patch_model, Patches, {"val_check_interval": 4}),
        "a game": (lambda: GAN([2], None, **gan), lambda: Points(**points), {"max_steps": 8}),
        "expectation maximization": (
            lambda: GaussianMixture([1, 8, 8], components=2),
            Digits,
            {"max_epochs": 3, "max_steps": -1, "limit_train_batches": 4},
        ),
    }


def run(folder, kind, *callbacks, **more):
    model, data, settings = kinds()[kind]
    torch.manual_seed(1)
    return fit(folder, *callbacks, model=model(), data=data(), **settings, **more)


@pytest.mark.parametrize("batch", [1, 2, 6])
@pytest.mark.parametrize("kind", kinds())
def test_a_run_that_was_interrupted_goes_on_as_the_uninterrupted_one(tmp_path, capfd, kind, batch):
    run(tmp_path / "whole", kind, EMA(0.9))
    with pytest.raises(SystemExit):
        run(tmp_path / "parts", kind, EMA(0.9), Signal(batch, hook="on_train_batch_start"))
    err = capfd.readouterr().err
    assert "the run ends after this batch" in err
    path = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    assert f"saved {path}" in err
    run(tmp_path / "parts", kind, EMA(0.9), ckpt_path=path)
    assert list(differences(last(tmp_path / "whole"), last(tmp_path / "parts"))) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_while_it_validates_ends_with_the_validation(tmp_path, number):
    run(tmp_path / "whole", "validated inside", EMA(0.9))
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "parts", "validated inside", EMA(0.9), Signal(4, number, "on_validation_batch_start"))
    assert stop.value.code == (1 if number == signal.SIGINT else 143)
    path = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    assert last(tmp_path / "parts")["global_step"] == 4
    run(tmp_path / "parts", "validated inside", EMA(0.9), ckpt_path=path)
    assert list(differences(last(tmp_path / "whole"), last(tmp_path / "parts"))) == []


def test_a_second_signal_ends_the_run_at_once(tmp_path):
    with pytest.raises(SystemExit):
        run(tmp_path, "steps", Signal(2, times=2, hook="on_train_batch_start"))
    assert not (tmp_path / "checkpoints").exists()


def test_an_interrupted_command_says_how_it_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["zoo"])
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    common = ["fit", "--config", str(DIGITS), *SMALL, "--trainer.max_steps=6"]
    signalled = [f"--trainer.callbacks+={__name__}.Signal", "--trainer.callbacks.batch=3"]
    signalled += ["--trainer.callbacks.hook=on_train_batch_start"]
    assert cli.main([*common, *signalled]) == 130
    assert "last.ckpt at step 3: --ckpt_path last goes on." in capsys.readouterr().err
    assert cli.main([*common, "--ckpt_path=last"]) == 0
    assert last(tmp_path / "runs" / "pixelcnn-digits")["global_step"] == 6


def test_a_best_that_is_not_there_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["zoo"])
    assert cli.main(["fit", "--config", str(DIGITS), *SMALL, "--ckpt_path=best"]) == 1
    assert "There is no checkpoint runs/pixelcnn-digits/checkpoints/best.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--model.blocks=10000000", "The model would have more than 500 layers"),
        ("--model.channels=1000000000000", "The memory of this machine does not suffice"),
        ("--trainer.accumulate_grad_batches=0", "accumulate_grad_batches must be at least 1, not 0."),
        ("--trainer.check_val_every_n_epoch=0", "check_val_every_n_epoch must be at least 1, not 0."),
        ("--model.lr=-1", "lr must be 0 or positive and finite, not -1.0."),
        ("--model.weight_decay=-1", "weight_decay must be 0 or positive and finite, not -1.0."),
        ("--trainer.val_check_interval=999", "of the training batches (19): change the trainer's settings."),
        ("--trainer.callbacks+=NoSuch", "zoo: trainer.callbacks: there is no class NoSuch: give MODULE.CLASS"),
        ("--model.class_path=zoo.data.MNIST", "zoo: model: zoo.data.MNIST is no class of that kind: give"),
        ("--reference.metrc=3", "unknown key reference.metrc: did you mean reference.metric?"),
        ("--reference.metric=x", "The reference has no value: say reference.value, or leave the reference out."),
        ("--from=/", "/config.json is missing"),
        ("--ckpt_path=", "There is no checkpoint"),
        ("--ckpt_path=/dev/null", "/dev/null is no plain file: give a run's .ckpt file."),
        ("--trainer.precision=64-true", "precision to 32-true or bf16-mixed, not 64-true."),
    ],
)
def test_a_number_that_no_machine_takes_is_refused(monkeypatch, capsys, option, said):
    monkeypatch.setattr(sys, "argv", ["zoo"])
    monkeypatch.setattr("zoo.training.refusals.MODULES", 500)  # 20,000 take seconds
    small = [each for each in SMALL if each.partition("=")[0] != option.partition("=")[0]]
    assert cli.main(["fit", "--config", str(DIGITS), *small, "--trainer.max_steps=1", option]) == 1
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_run_that_is_not_there_to_go_on_from_is_said(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["zoo"])
    with pytest.warns(UserWarning, match=r"There is no runs/pixelcnn-digits/checkpoints/last.ckpt to go on from"):
        assert cli.main(["fit", "--config", str(DIGITS), *SMALL, "--trainer.max_steps=1", "--ckpt_path=last"]) == 0


@pytest.mark.parametrize(
    "own", ["{filename: other}", "{monitor: val_bits_per_dim, mode: min}", "{filename: best, monitor: step, mode: max}"]
)
def test_the_best_is_kept_beside_what_a_recipe_keeps(tmp_path, monkeypatch, own):
    monkeypatch.setattr(sys, "argv", ["zoo"])
    Path("mine.yaml").write_text(
        f"{DIGITS.read_text()}    - {{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {own}}}\n"
    )
    common = ["fit", "--config=mine.yaml", *SMALL, "--trainer.max_steps=40", "--trainer.check_val_every_n_epoch=1"]
    assert cli.main(common) == 0
    assert (tmp_path / "runs" / "mine" / "checkpoints" / "best.ckpt").is_file()
    assert cli.main([*common, "--trainer.max_steps=41", "--ckpt_path=last"]) == 0


def test_predict_tells_the_mean_and_writes_the_loss_of_each_datum(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["zoo"])
    argv = ["predict", "--from=pixelcnn-digits", "--trainer.accelerator=cpu", "--out=losses.csv"]
    assert cli.main(argv) == 0
    out = capsys.readouterr().out.splitlines()
    rows = list(csv.DictReader(Path("losses.csv").read_text(encoding="utf-8").splitlines()))
    losses = torch.tensor([float(row["bits_per_dim"]) for row in rows], dtype=torch.float64)
    data = Digits()
    data.setup("predict")
    assert [int(row["index"]) for row in rows] == list(range(len(data.test[0])))
    error = losses.std() / len(losses) ** 0.5
    assert f"digits: n = {len(rows)}, {losses.mean():.4f} ± {error:.4f} bits/dim, exact" in out
    assert out[-1] == "losses.csv"


@pytest.mark.parametrize("command", [["fit"], ["predict", "--from=pixelcnn-digits"]])
@pytest.mark.parametrize("name", ["pipe.ckpt", "last"])
def test_a_pipe_in_place_of_a_checkpoint_is_not_waited_for(monkeypatch, capsys, command, name):
    monkeypatch.setattr(sys, "argv", ["zoo"])
    pipe = Path("runs/pixelcnn-digits/checkpoints/last.ckpt" if name == "last" else name)
    pipe.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(pipe)
    assert cli.main([*command, "--config", str(DIGITS), *SMALL, "--trainer.max_steps=1", f"--ckpt_path={name}"]) == 1
    assert f"{pipe.name} is no plain file: give a run's .ckpt file." in capsys.readouterr().err


def test_a_pipe_is_not_replaced_by_a_file(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["zoo"])
    os.mkfifo("losses.csv")
    assert cli.main(["predict", "--from=pixelcnn-digits", "--out=losses.csv"]) == 1
    assert cli.main(["sample", "pixelcnn-digits", "-n=1", "--out=losses.csv"]) == 1
    assert Path("losses.csv").is_fifo()
    assert "cannot write losses.csv (there is a folder, a device or a pipe): choose another" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["nowhere/losses.csv", ".", "/dev/null"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_computed(monkeypatch, capsys, out):
    monkeypatch.setattr(sys, "argv", ["zoo"])
    assert cli.main(["predict", "--from=pixelcnn-digits", f"--out={out}"]) == 1
    assert f"cannot write {out}" in capsys.readouterr().err
