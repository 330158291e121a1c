"""docs/distances.md is true: its commands and its Python run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoo import cli, metrics
from zoo.lecture import curves

PAGE = Path(__file__).resolve().parents[2] / "docs" / "distances.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]


class Pixels(nn.Module):
    """In place of Inception, whose file need not be there."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float().flatten(1)[:, :8] / 255


@pytest.fixture(autouse=True)
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tables in the working directory, and a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(metrics, "Inception", lambda root=None: Pixels())
    random = np.random.default_rng(0)
    for name in ("train.csv", "test.csv"):
        np.savetxt(name, random.normal(size=(20, 3)) * [1, 10, 1000], delimiter=",")


def test_there_is_something_to_run():
    assert [words[1] for words in COMMANDS] == ["distance", "distance", "distance", "figure"]
    assert {kind for kind, _ in BLOCKS} == {"sh", "python"}


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[1] == "distance"], ids=shlex.join)
def test_a_command_runs(words: list[str], capsys: pytest.CaptureFixture[str]):
    words = words[: words.index("-n")] if "-n" in words else words
    assert cli.main([*words[1:], "-n", "10", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert ("fid" in printed) == ("pixelcnn-digits" in words)
    assert ("standard deviations of the reference" in printed) == ("--standardize" in words)


def test_the_figure_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("matplotlib", reason="the figure needs the extra plots")
    monkeypatch.setattr(curves, "STEPS", 2)
    monkeypatch.setattr(curves, "SIZES", (8, 16))
    (words,) = (words for words in COMMANDS if words[1] == "figure")
    assert cli.main([*words[1:], "--repeats", "2"]) == 0
    assert (tmp_path / "distances.png").exists()


def test_its_python_runs():
    namespace: dict[str, Any] = {}
    for kind, text in BLOCKS:
        if kind == "python":
            exec(compile(text.replace("sample(1000", "sample(50"), str(PAGE), "exec"), namespace)
    assert isinstance(namespace["x"], torch.Tensor)


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`(?:metrics\.)?([a-z_]+|[A-Z]+)`", PAGE.read_text(encoding="utf-8"))))
)
def test_a_function_that_it_names_is_there(name: str):
    assert hasattr(metrics, name)
