"""The README is true: its commands parse, its links lead somewhere, its table is what `zoo card` makes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from zoo import cli
from zoo.hub import store, tables
from zoo.training import cli as training

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", README, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def commands(*, fit: bool) -> list[str]:
    """The commands that train, or the other ones of `zoo`, from the program's name on."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    split = (shlex.split(line, comments=True) for line in lines)
    # What stands before is `python -m`, `torchrun ... -m` or `srun ...`.
    ours = [
        words[next(i for i, word in enumerate(words) if word in ("zoo", "lightning")) :]
        for words in split
        if {"zoo", "lightning"} & set(words)
    ]
    return list(dict.fromkeys(shlex.join(words) for words in ours if (words[1] == "fit") == fit))


def test_there_are_commands_to_check():
    assert len(commands(fit=True)) > 5
    assert len(commands(fit=False)) > 5


@pytest.mark.parametrize("command", commands(fit=False))
def test_a_command_parses(command: str):
    words = shlex.split(command)[1:]
    if words[-1] == "--help":
        with pytest.raises(SystemExit) as stopped:
            cli._parsed(words)
        assert stopped.value.code == 0
        return
    assert callable(cli._parsed(words)["function"])


@pytest.fixture
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a reader who saved the README's mydata.py."""
    (tmp_path / "mydata.py").write_text(next(b for b in blocks("python") if b.startswith("# mydata.py")))
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", commands(fit=True))
def test_a_training_command_parses(
    command: str, own_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    words = shlex.split(command.replace("recipes/NAME.yaml", "recipes/pixelcnn-digits.yaml"))
    monkeypatch.setattr("sys.argv", [*words, "--print_config"])
    precision = torch.get_float32_matmul_precision()
    try:
        with pytest.raises(SystemExit) as stopped:
            training.main()
    finally:
        torch.set_float32_matmul_precision(precision)
    assert stopped.value.code in (0, None), capsys.readouterr().err


def test_the_data_set_of_ones_own_works(own_data: Path):
    import mydata

    data = mydata.Stripes(validation=500, batch_size=10)
    data.setup()
    x, labels, *_ = next(iter(data.train_dataloader()))
    data.spec.check(x)
    assert labels.shape == (10,)
    assert len(data.test[0]) == 1000


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", README))))
def test_a_link_leads_somewhere(target: str):
    assert (ROOT / target).exists()


def test_the_table_is_made_from_the_checkpoints():
    table = README.partition(tables.BEGIN.format("checkpoints"))[2].partition(tables.END.format("checkpoints"))[0]
    # A reader's own checkpoints, which have no recipe of their name, need not be in it.
    listed = set(re.findall(r"checkpoints/([a-z0-9-]+)/README", table))
    published = {name for name in store.names() if (ROOT / "recipes" / f"{name}.yaml").exists()}
    assert listed >= published
    configs = {name: config for name, config in tables.bundled().items() if name in listed}
    assert set(configs) == listed
    assert table.strip() == (tables.results_table(configs).strip() if configs else "")
