"""The blocks of README.md and docs/*.md, and a reader's machine on which they can be run in seconds.

What is put in place of large things, and nothing else is:

- the working directory is a new folder with what a reader of the repository has (recipes/, README.md, docs/) and what
  pages name as files of one's own: see `reader`;
- checkpoints are copies of the bundled ones, with weights where a page names them, so that commands may write; those of
  another NAMESPACE are they as well, and a push is only received, for there is no Hub (tests/hub has a server);
- MNIST, Fashion-MNIST, CIFAR-10 and the anime faces are a few random images in their layout, and Inception their first
  pixels;
- training takes two steps, of two images, on one CPU, without validation and without `torch.compile`;
- two data are drawn where the number is one of a command or above ten, eight for a distance, and one pair of samples
  for a figure;
- autoregressive models draw two rows of an image and leave the others black, Gaussian diffusions go two steps;
- NAME stands for pixelcnn-digits, and its FAMILY and MODEL for those of it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import zoo
from zoo import cli, metrics
from zoo.autoregressive import raster
from zoo.callbacks import Compile, CUDAGraphs, SampleGrid
from zoo.data import CIFAR10, MNIST, AnimeFaces, FashionMNIST, TensorData
from zoo.diffusion.gaussian import GaussianDiffusion
from zoo.hub import finding, remote, store

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```[ ]*$", re.MULTILINE | re.DOTALL)
ELSEWHERE = re.compile(r"<!-- run by (\S+) -->\s*\Z")
LANGUAGES = ("sh", "python", "yaml", "text")

TINY = [  # appended to what trains; an option given later wins
    "--trainer.max_steps=2",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.num_nodes=1",
    "--trainer.strategy=auto",
    "--trainer.precision=32-true",
    "--trainer.limit_val_batches=0",
    "--trainer.enable_progress_bar=false",
    "--trainer.accumulate_grad_batches=1",
    "--data.batch_size=2",
]
SETUP = ("git clone --depth 1 ", "cd ", "python3 -m venv ", ". .venv/bin/activate", "hf auth login")  # taken as read


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: where it begins, its language and text, and the test that runs it if it is another."""

    page: Path
    line: int
    language: str
    text: str
    elsewhere: str | None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, without their indentation."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in FENCE.finditer(text):
        indent, language, body = match.groups()
        elsewhere = ELSEWHERE.search(text, 0, match.start())
        found.append(
            Block(
                page,
                text.count("\n", 0, match.start()) + 1,
                language.strip(),
                re.sub(rf"^{indent}", "", body, flags=re.MULTILINE),
                elsewhere and elsewhere[1],
            )
        )
    return found


def commands(block: Block) -> list[list[str]]:
    """The commands of a block, as words, in order; comments are gone, and so are settings of the environment."""
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        for word in [*lexer, "&&"]:
            if word in ("&&", ";"):
                found += [words] if words else []
                words = []
            elif set(word) <= set("&;|<>"):
                raise AssertionError(f"{block}: {word} is not read here; write the commands one to a line.")
            elif words or not re.fullmatch(r"[A-Z_]+=\S*", word):
                words.append(word)
    return found


def named(words: list[str]) -> list[str]:
    """The same with a name in the place of NAME and its kind."""
    known = {"NAMESPACE/NAME": "NAMESPACE/pixelcnn-digits", "FAMILY": "autoregressive", "MODEL": "pixelcnn"}
    for placeholder, value in {**known, "NAME": "pixelcnn-digits"}.items():
        words = [re.sub(rf"(?<![A-Z]){placeholder}(?![A-Z])", value, word) for word in words]
    return words


def ours(words: list[str]) -> list[str] | None:
    """A command of `zoo` or `lightning`, without what starts it: `python -m`, `torchrun ... -m`, `srun ...`."""
    starts = [i for i, word in enumerate(words) if word in ("zoo", "lightning")]
    launched = starts and (starts[0] == 0 or words[starts[0] - 1] == "-m" or words[0] == "srun")
    return words[starts[0] :] if launched else None


def check(words: list[str], where: str) -> None:
    """What is not run, but held against what there is: installation, make, git, scripts; all else is refused."""
    line = " ".join(words)
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE) for target in targets), where
    elif words[:2] == ["pip", "install"]:
        extras = re.findall(r"\[(.*?)\]", line)
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert words[2:3] in (["-e"], ["--no-deps"]) or words[2].endswith(".whl"), f"{where}: {line} installs what?"
        assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for part in extras for extra in part.split(","))
    elif words[0] == "python" and words[1].startswith("tests/benchmarks/"):
        assert (ROOT / words[1]).is_file(), where
        assert f'"{Path(words[1]).stem}"' in (ROOT / "tests/test_benchmarks.py").read_text(encoding="utf-8"), where
    elif words[0] == "export":
        variable = words[1].partition("=")[0]
        known = any(variable in path.read_text(encoding="utf-8") for path in (ROOT / "zoo").rglob("*.py"))
        assert known or variable.startswith("HF_"), f"{where}: nothing reads {variable}."
    else:
        assert line.startswith(SETUP), f"{where}: what is `{line}`? tests/pages.py runs and checks what it knows."


def drawn_small(words: list[str]) -> list[str]:
    """The same with two data drawn, and one pair of samples of a figure."""
    if words[1] in ("sample", "complete", "trace", "distance") and "--help" not in words:
        at = words.index("-n") if "-n" in words else None
        words = words if at is None else words[:at] + words[at + 2 :]
        return [*words, "-n", "8" if words[1] == "distance" else "2"]
    if words[1] == "figure":
        return [*words, "--repeats", "1"]
    return words


def run(words: list[str], where: str) -> None:
    """Run a command of `zoo` or `lightning` in this process."""
    main = cli.main if words[0] == "zoo" else cli.lightning_main
    argv = named(words)[1:]
    if argv[0] in cli.TRAINING:
        argv += TINY
    else:
        argv = drawn_small([words[0], *argv])[1:]
    try:
        status = main(argv)
    except SystemExit as stopped:
        status = stopped.code
    assert status in (0, None), f"{where}: `{shlex.join(words)}` ended with {status}."


class Pixels(torch.nn.Module):
    """In place of Inception, whose file need not be there: the first pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().flatten(1)[:, :8] / 255


def reader(folder: Path, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the machine of a reader of a page in an empty folder, and stand there."""
    from small_sets import CIFAR_FILES, FACE_FILES, MNIST_FILES, SmallAnimeFaces, SmallCIFAR10, SmallMNIST, write

    for name in ("recipes", "tests", "zoo", "Makefile", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "README.md", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    text = page.read_text(encoding="utf-8")
    left_out = "pixelcnn-digits" if "zoo export runs/NAME NAME" in text else ""  # it is made there
    for name in finding.names():
        whole = name in text or name == "pixelcnn-digits"  # of the others config.json, for the tables
        if name != left_out:
            ignore = None if whole else lambda _, files: [file for file in files if file != "config.json"]
            shutil.copytree(finding.find(name), folder / "checkpoints" / name, ignore=ignore)
    Image.new("RGB", (32, 32), (90, 140, 200)).save(folder / "photo.png")
    rows = "\n".join(f"{i % 2},{i // 2 % 2},{i // 4 % 2},{i // 8 % 2}" for i in range(64)) + "\n"
    for name in ("train.csv", "test.csv"):
        (folder / name).write_text(rows)
    numbers = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)).tolist()
    heights = "height,weight,age\n" + "".join(",".join(f"{each:.4f}" for each in row) + "\n" for row in numbers)
    for name in ("heights.csv", "more-heights.csv"):
        (folder / name).write_text(heights)
    for i in range(40):
        (folder / "pictures" / ("cat", "dog")[i % 2]).mkdir(parents=True, exist_ok=True)
        picture = Image.effect_noise((40 + i, 60), 50).convert("RGB")
        picture.save(folder / "pictures" / ("cat", "dog")[i % 2] / f"{i}.png")
    write(folder / "data" / "MNIST" / "raw", MNIST_FILES)
    write(folder / "data" / "FashionMNIST" / "raw", MNIST_FILES)
    write(folder / "data" / "cifar-10-batches-bin", CIFAR_FILES)
    write(folder / "data" / "anime-faces64", FACE_FILES)
    for cls, small in ((MNIST, SmallMNIST), (FashionMNIST, SmallMNIST), (AnimeFaces, SmallAnimeFaces)):
        monkeypatch.setattr(cls, "counts", small.counts)
        monkeypatch.setattr(cls, "sha256", small.sha256)
    monkeypatch.setattr(CIFAR10, "rows", SmallCIFAR10.rows)
    monkeypatch.setattr(CIFAR10, "sha256", SmallCIFAR10.sha256)
    monkeypatch.setattr(TensorData, "_held_out", lambda self, n: max(1, n // 10))
    monkeypatch.setattr(metrics, "Inception", lambda root=None: Pixels())
    for callback, method in ((Compile, "on_train_start"), (CUDAGraphs, "on_train_start"), (SampleGrid, "_draw")):
        monkeypatch.setattr(callback, method, lambda *arguments: None)

    monkeypatch.setattr(raster, "tqdm", lambda rows, *arguments, **settings: rows[:2])
    check_steps = GaussianDiffusion.check_steps
    monkeypatch.setattr(GaussianDiffusion, "check_steps", lambda self, steps: min(2, check_steps(self, steps)))

    def pulled(repo_id: str, **settings: Any) -> Path:
        return folder / "checkpoints" / repo_id.rpartition("/")[2]

    monkeypatch.setattr(finding, "BUNDLED", folder / "checkpoints")
    monkeypatch.setattr(finding, "pull", pulled)
    monkeypatch.setattr(remote, "pull", pulled)
    monkeypatch.setattr(store, "push", lambda name, repo_id, **settings: f"https://hub.example/{repo_id}")
    monkeypatch.setenv("ZOO_DATA", str(folder / "data"))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(folder)


def run_block(block: Block, namespace: dict[str, Any]) -> None:
    """Run a block; Python in the page's namespace."""
    if block.language == "yaml":
        yaml.safe_load(block.text)
    elif block.language == "sh":
        for words in commands(block):
            own = ours(words)
            check(words, str(block)) if own is None else run(own, str(block))
    elif block.language == "python":
        title = re.match(r"# (\w+)\.py\n", block.text)
        if title:
            Path(f"{title[1]}.py").write_text(block.text, encoding="utf-8")
            sys.modules.pop(title[1], None)
        code = re.sub(
            r"\.sample\((1[1-9]|[2-9]\d|\d{3,})\b", ".sample(2", block.text.replace("NAME)", "pixelcnn-digits)")
        )
        exec(compile("\n" * (block.line - 1) + code, str(block.page), "exec"), namespace)


def run_page(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run all blocks of a page that have no test of their own, in order."""
    reader(folder, page, monkeypatch)
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.elsewhere is None:
            try:
                run_block(block, namespace)
            except Exception as error:
                raise AssertionError(f"{block} does not run: {type(error).__name__}: {error}") from error


def in_its_own_process(page: Path, folder: Path) -> None:
    """`run_page` where what it leaves behind (loggers, seeds, threads, modules) dies with it."""
    script = (
        "import sys, pathlib, pytest, pages\n"
        "with pytest.MonkeyPatch.context() as patch:\n"
        "    pages.run_page(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), patch)\n"
    )
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "data")))
    done = subprocess.run(
        [sys.executable, "-c", script, str(page), str(folder)],
        env={**os.environ, "PYTHONPATH": path, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    said = [line for line in done.stderr.splitlines() if line.startswith(("zoo: ", "lightning: ", "AssertionError: "))]
    assert done.returncode == 0, "\n".join([*said, "", done.stderr[-3000:]])


assert zoo.__file__ == str(ROOT / "zoo" / "__init__.py"), "the pages are about this tree"
