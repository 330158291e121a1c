"""Each block of docs/hub.md runs, in the order of the page, against a Hub on loopback."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hub_client import ROOT, client_environment

PAGE = (ROOT / "docs" / "hub.md").read_text(encoding="utf-8")
TINY = ["--trainer.max_steps=2", "--trainer.enable_progress_bar=false", "--trainer.limit_val_batches=0"]


def blocks() -> list[tuple[str, str]]:
    """Language and text of each block that says it is run here."""
    return re.findall(r"<!-- run by tests/hub/test_hub_docs\.py -->\n```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)


def lines(text: str) -> list[list[str]]:
    return [words for words in (shlex.split(line, comments=True) for line in text.splitlines()) if words]


def test_every_block_is_run_here():
    assert len(blocks()) == PAGE.count("\n```\n") == 4


@pytest.mark.slow
def test_the_page_is_true(server, tmp_path):
    """What is published comes first, so that there is something to fetch."""
    checkpoints = tmp_path / "checkpoints"
    for source in (ROOT / "checkpoints" / "pixelcnn-digits").iterdir():
        target = checkpoints / "pixelcnn-digits" / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    environment = client_environment(server.endpoint, tmp_path / "hf")
    environment |= {"HF_TOKEN": "hf_alice", "ZOO_CHECKPOINTS": str(checkpoints)}

    def run(*command: str) -> str:
        done = subprocess.run([*command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def said(words: list[str]) -> str:
        """The output of a line of the page, with two steps of training."""
        main = {"zoo": "main", "lightning": "lightning_main"}[words[0]]
        code = f"import sys, zoo.cli; sys.exit(zoo.cli.{main}())"
        more = TINY if words[1] == "fit" else []
        return run(sys.executable, "-c", code, *words[1:], *more)

    def page(i: int) -> str:
        return blocks()[i][1].replace("NAMESPACE", "alice")

    fetching, publishing, python, wheel = range(4)
    listed, *pushed = [said(words) for words in lines(page(publishing))]
    assert [line.split()[-1] for line in listed.splitlines()] == [
        "config.json",
        "model.safetensors",
        "README.md",
        "samples.png",
    ]
    assert all(f"/{name}/commit/" in url for name, url in zip(["alice/pixelcnn-digits"] * 2, pushed, strict=False))
    assert server.repos["alice/digits"].private
    assert {"main", "trial"} == set(server.repos["alice/pixelcnn-digits"].branches)
    first, second, *_, card = [said(words) for words in lines(page(fetching))]
    assert first == second
    assert Path(first.strip(), "model.safetensors").exists()
    assert (tmp_path / "drawn.png").exists()
    assert 'zoo.load("alice/pixelcnn-digits")' in card
    run(sys.executable, "-c", page(python) + "\nassert type(model).__name__ == 'PixelCNN', folder")
    outputs = [said(words) for words in lines(page(wheel))]
    assert "pixelcnn-digits" in outputs[0]
    assert outputs[-1] == f"{checkpoints / 'pixelcnn-mine'}\n"
