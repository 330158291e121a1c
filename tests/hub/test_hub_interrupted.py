"""Killed or met by a full disk at any step, a command leaves the old checkpoint or the new one, and a rerun works.

A small number of the steps is tried here; ZOO_STEPS=all tries each.
"""

import errno
import itertools
import os
from pathlib import Path

import pytest
import torch
from interrupted import killed, refused, refused_beyond

from zoo import cli, files
from zoo.autoregressive import PixelCNN
from zoo.hub import card, finding, store
from zoo.hub.config import read_config, write_config
from zoo.hub.folder import verify

NAME = "pixelcnn-own"
ALL = os.environ.get("ZOO_STEPS") == "all"


def steps():
    """Which steps are tried, until one is beyond the last."""
    return itertools.count(1) if ALL else itertools.chain(range(1, 8, 2), itertools.count(8, 5))


def other() -> PixelCNN:
    torch.manual_seed(1)
    return PixelCNN(shape=[1, 4, 4], levels=4, channels=4, blocks=1).eval()


@pytest.fixture(params=["exchange", "rename"])
def home(request, monkeypatch, tmp_path, pristine):
    """The folder of one's own checkpoints, with what the system has to exchange two names and without."""
    if request.param == "rename":
        monkeypatch.setattr(files, "_exchanged", lambda a, b: False)
    monkeypatch.setattr(finding, "BUNDLED", tmp_path / "checkpoints")
    monkeypatch.delenv("ZOO_CHECKPOINTS", raising=False)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run to export, of two steps."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["fit", "--model", "zoo.autoregressive.PixelCNN", "--model.shape", "[1, 8, 8]",
                     "--model.levels", "17", "--model.channels", "2", "--model.blocks", "1",
                     "--trainer.max_steps", "1", "--trainer.logger", "false",
                     "--trainer.enable_progress_bar", "false"]) == 0  # fmt: skip
    return Path("runs/unnamed")


def weights(folder: Path) -> dict[str, str]:
    """The SHA-256 of a sound checkpoint."""
    return verify(folder)["weights"]["sha256"]


def test_saving(home, model):
    """Each moment finds the checkpoint of before or that of after, by its name."""
    store.save(model, home / NAME)
    old, new = weights(home / NAME), weights(store.save(other(), home / "pixelcnn-new"))
    for step in steps():
        store.save(model, home / NAME)
        stopped = killed(lambda: store.save(other(), home / NAME), step)
        assert NAME in finding.names()
        found = weights(finding.find(NAME))
        assert found in ([old, new] if stopped else [new])
        if not stopped:
            break
        said = refused(lambda: store.save(other(), home / NAME), step)
        assert weights(finding.find(NAME)) in (old, new)
        if said:
            assert "ZooError" in said[0]
            assert "free disk space" in said[1]
            assert NAME in said[1]


def test_a_full_disk_while_saving(home, model):
    store.save(model, home / NAME)
    before = {path.name: path.read_bytes() for path in (home / NAME).iterdir()}
    for size in (0, 100, 1000):
        kinds, said = refused_beyond(lambda: store.save(other(), home / NAME), size)
        assert "ZooError" in kinds
        assert "\n" not in said
        assert str(home) in said
        assert "free disk space" in said
        assert {path.name: path.read_bytes() for path in (home / NAME).iterdir()} == before
        assert [path.name for path in home.iterdir()] == [NAME]
    kinds, said = refused(lambda: store.save(other(), home / NAME), 1, errno.EROFS)
    assert (
        said == f"cannot write {home / NAME} (Read-only file system): make {home} writable, or choose another folder."
    )


@pytest.mark.slow
def test_exporting_anew(home, run, capsys):
    command = ["export", str(run), NAME, "--overwrite"]
    assert cli.main(command) == 0
    # Another checkpoint in its place, which the export replaces.
    new = weights(home / NAME)

    def old() -> dict[str, str]:
        store.save(other(), home / NAME)
        card.write(home / NAME)
        return weights(home / NAME)

    for step in steps():
        before = old()
        stopped = killed(lambda: cli.main(command), step)
        found = finding.find(NAME)
        assert weights(found) in ([before, new] if stopped else [new])
        if (found / "README.md").exists():  # whole, and of these weights
            picture = (found / "samples.png").exists()
            texts = {card.render(read_config(found), NAME, seen) for seen in ([], ["samples.png"][:picture])}
            assert (found / "README.md").read_text() in texts
        if not stopped:
            break
        assert cli.main(command) == 0
        assert weights(finding.find(NAME)) == new
        assert sorted(path.name for path in (home / NAME).iterdir()) == [
            "README.md", "config.json", "model.safetensors", "samples.png"]  # fmt: skip
    assert step > 10


def test_cards_and_configurations(home, model):
    """A disk that is full leaves the card, and config.json, as they were."""
    folder = store.save(model, home / NAME)
    card.write(folder, "pixelcnn-before")

    def held() -> dict[str, bytes]:
        return {name: (folder / name).read_bytes() for name in ("README.md", "config.json", "model.safetensors")}

    config = {**read_config(folder), "notes": ["new" * 1000]}
    for write in (lambda: card.write(folder), lambda: write_config(folder, config)):
        before = held()
        for said in (refused_beyond(write, 100), refused(write, 1), refused(write, 2)):
            assert "ZooError" in said[0]
            assert "free disk space" in said[1]
            assert held() == before
        assert len(list(folder.iterdir())) == 3
        seen = []
        for step in steps():
            stopped = killed(write, step)
            seen.append(held())
            if not stopped:
                break
        assert all(each in (before, seen[-1]) for each in seen)
        assert seen[-1] != before
        for litter in folder.glob(".*"):
            litter.unlink()


def test_what_cannot_be_written_is_said_before_it_is_computed(home, model, monkeypatch):
    folder = store.save(model, home / NAME)
    monkeypatch.setattr(os, "access", lambda path, mode: path != folder)
    with pytest.raises(files.DataError, match=f"cannot write {folder / 'config.json'} .*: make {folder} writable"):
        finding.check_own(NAME, folder)
