"""What a terminal cannot show, and what is said of errors that are nobody's mistake in the code."""

from __future__ import annotations

import errno
import importlib.metadata
import io
import os
import shutil
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from zoo import cli
from zoo.commands.terminal import readable
from zoo.errors import ZooError

ROOT = Path(__file__).resolve().parents[2]
POOR = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


def zoo(*argv: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    alone = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "zoo", *argv], env=os.environ | alone | environment, capture_output=True, timeout=200
    )


@pytest.mark.parametrize("terminal", POOR)
def test_a_table_is_shown_by_stand_ins(terminal):
    done = zoo("list", **POOR[terminal])
    assert done.returncode == 0, done.stderr
    encoding = POOR[terminal].get("PYTHONIOENCODING", "ascii")
    text = done.stdout.decode(encoding)
    assert "<= " in text
    assert "~ " in text
    assert "?" not in text
    assert ("+-" if encoding == "ascii" else "±") in text


@pytest.mark.slow
@pytest.mark.parametrize("argv", [["card", "maf-moons"], ["evaluate", "pixelcnn-digits", "--limit=9"]])
def test_cards_and_measurements_end_well(argv):
    done = zoo(*argv, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()


@pytest.mark.slow
def test_a_recipe_of_other_letters_is_trained_on_a_poor_terminal(tmp_path):
    recipe = tmp_path / "caf\N{LATIN SMALL LETTER E WITH ACUTE}-digits.yaml"
    recipe.write_text(
        "# Café ≤ 3\nmodel: {class_path: zoo.mixtures.Uniform}\n"
        "reference: {metric: bits_per_dim, value: 4, source: 'Müller, „Über ≤“', whose: paper}\n",
        encoding="utf-8",
    )
    for terminal in ("ascii", "C"):
        done = zoo("fit", f"--config={recipe}", "--trainer.max_epochs=1", "--trainer.accelerator=cpu",
                   f"--trainer.default_root_dir={tmp_path / terminal}", **POOR[terminal])  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        written = next((tmp_path / terminal).rglob("config.yaml")).read_text(encoding="utf-8")
        assert "Über" in written or "\\xDC" in written


def test_a_stand_in_for_each_letter(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", errors="strict"))
    readable()
    print("≤ ≥ ≈ ± \xd7 é ﬁ Ω “a” \u2013 …", flush=True)
    assert raw.getvalue() == b'<= >= ~ +- x e fi ? "a" - ...\n'


@pytest.fixture
def fails(monkeypatch, capsys):
    """Run `zoo list` where it raises this: exit status, and what it says."""

    def fails(error: BaseException | None = None, action=None) -> types.SimpleNamespace:
        def command(**_):
            if action is not None:
                action()
            raise error

        monkeypatch.setattr(cli, "_command", lambda argv: command())
        status = cli.main(["list"])
        return types.SimpleNamespace(status=status, err=capsys.readouterr().err)

    return fails


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ZooError("The weights are gone."), "The weights are gone."),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "cannot write /x/y (No space left on device): free"),
        (OSError(errno.EROFS, "Read-only file system", "/x/y"), "make /x writable, or choose another folder"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "/x/y: Permission denied: make it, or the folder"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "z"), "z: No such file or directory: give"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files: let the process open more"),
        (OSError("image file is truncated"), "image file is truncated."),
        (FileNotFoundError(errno.ENOENT, "No", "a\x1b[2J\nb\x9b\u202e"), "a\\u001b[2J b\\u009b\\u202e: No: give"),
        (MemoryError(), "The memory of this machine does not suffice: take smaller batches"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "The memory of the GPU does not"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "The memory of this machine does not"),
        (RuntimeError("[enforce fail] not enough memory: you tried to"), "The memory of this machine does not suffice"),
        (MisconfigurationException("No `x`\n given."), "No `x` given: change the trainer's settings."),
        (MisconfigurationException("`x` is 7. If you want `y`, set `z`."), "zoo: `x` is 7: change the trainer's"),
        (ModuleNotFoundError("No module named 'transformer_engine'", name="transformer_engine"), "is needed for this"),
    ],
)  # fmt: skip
def test_what_is_no_mistake_in_the_code_is_one_sentence(fails, error, said):
    result = fails(error)
    assert result.status == 1
    assert result.err.startswith("zoo: ")
    assert said in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    "action",
    [
        lambda: Trainer(accelerator="gpu", devices=99, logger=False),
        lambda: Trainer(precision="3", logger=False),
        lambda: torch.empty(2**50, dtype=torch.uint8).fill_(1),
    ],
)
def test_settings_and_sizes_that_cannot_be(fails, action):
    result = fails(action=action)
    assert result.status == 1
    assert result.err.splitlines()[-1].startswith("zoo: ")


@pytest.mark.parametrize(
    "error", [ValueError("x"), TypeError("x"), RuntimeError("x"), ModuleNotFoundError("x", name="zoo.x"), KeyError("x")]
)
def test_a_mistake_in_the_code_keeps_its_traceback(fails, error):
    with pytest.raises(type(error)):
        fails(error)


class Unwritten:
    """What cannot be written when it goes."""

    def __del__(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "events")


def in_a_thread(error: Exception) -> None:
    def fall() -> None:
        raise error

    thread = threading.Thread(target=fall)
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    "action",
    [lambda: in_a_thread(OSError(errno.ENOSPC, "No space left on device", "events")), lambda: Unwritten() and None],
)
@pytest.mark.parametrize("error", [None, OSError(errno.ENOSPC, "No space left on device", "last.ckpt")])
def test_a_full_disk_in_a_thread_or_a_clean_up_is_one_sentence(monkeypatch, capsys, action, error):
    """As TensorBoard's writer thread has it."""

    def command(argv):
        action()
        if error is not None:
            raise error

    monkeypatch.setattr(cli, "_command", command)
    hooks = threading.excepthook, sys.unraisablehook
    assert cli.main(["list"]) == 1
    name = "last.ckpt" if error else "events"
    remedy = "free disk space there, and run again"
    assert capsys.readouterr().err == f"zoo: cannot write {name} (No space left on device): {remedy}.\n"
    assert (threading.excepthook, sys.unraisablehook) == hooks, "as they were"


def test_another_error_of_a_thread_is_shown_as_it_was(monkeypatch):
    shown = []
    monkeypatch.setattr(threading, "excepthook", lambda args: shown.append(args.exc_value))
    monkeypatch.setattr(cli, "_command", lambda argv: in_a_thread(KeyError("x")))
    assert cli.main(["list"]) == 0
    assert [type(error) for error in shown] == [KeyError]


def test_another_packages_command_is_said(monkeypatch, capsys, tmp_path):
    script = tmp_path / "lightning"
    script.write_text("#!/usr/bin/env python\nfrom zoo.cli import lightning_main\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.foreign_lightning() is None
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().err == ""
    script.write_text("#!/usr/bin/env python\nfrom lightning_sdk.cli.entrypoint import main_cli\n")
    point = importlib.metadata.EntryPoint("lightning", "lightning_sdk.cli.entrypoint:main_cli", "console_scripts")
    vars(point)["dist"] = types.SimpleNamespace(name="lightning-sdk")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [point])
    assert cli.main(["--version"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("generative-zoo ")
    assert (
        captured.err
        == "The command `lightning` is that of lightning-sdk here: `zoo fit` is the twin of our `lightning fit`.\n"
    )
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "lightning-sdk" in capsys.readouterr().out


def test_a_warning_is_a_sentence_and_that_of_others_stays():
    code = """
import warnings
from zoo import cli, errors

def action():
    errors.warn("Of it is left out: 2 hidden.")
    warnings.warn("of others")

cli._run("zoo", action)
warnings.warn_explicit("later", errors.ZooWarning, "file", 1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second, *_, last = done.stderr.splitlines()
    assert first == "zoo: Of it is left out: 2 hidden."
    assert second.endswith("UserWarning: of others")
    assert last == "file:1: ZooWarning: later"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_name_of_a_folder_does_nothing_to_a_terminal(tmp_path, capsys, monkeypatch, terminal):
    """A pipe gets it as it is, for the next command."""
    folder = tmp_path / "a\x1b[2J\x9b31m-digits"
    shutil.copytree(ROOT / "checkpoints" / "uniform-cifar10", folder)
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: terminal, raising=False)
    assert cli.main(["card", str(folder), "--write"]) == 0
    shown = "a\\u001b[2J\\u009b31m-digits" if terminal else folder.name
    assert capsys.readouterr().out == f"{tmp_path / shown / 'README.md'}\n"
    with pytest.raises(SystemExit):
        cli.main(["figure", "curves", "x\x1b[2J"])
    assert "x\\u001b[2J" in capsys.readouterr().err
