"""What of a folder is published: what a checkpoint is made of, each a file of its own, under a card with its name."""

import os
from pathlib import Path

import pytest
from hub_client import fails, one_sentence

from zoo import cli
from zoo.errors import CheckpointError
from zoo.hub import card, publishing, store
from zoo.hub.config import read_config

TOKEN = "hf_alice"
WEBP = b"RIFF\x04\0\0\0WEBP"


@pytest.fixture
def secret(tmp_path):
    """A file that no folder's stranger has any business with."""
    path = tmp_path / "id_ed25519"
    path.write_text("secret")
    return path


def contents(folder: Path, repo_id: str = "alice/x") -> dict:
    return publishing.contents(folder, read_config(folder), repo_id)


@pytest.mark.parametrize(
    "name", ["README.md", "samples.png", "other.png", "trace.webp", "model.safetensors", "config.json"]
)
def test_a_link_is_not_followed(client, server, checkpoint, secret, repo_id, name):
    path = checkpoint / name
    if name in ("model.safetensors", "config.json"):  # which have to hold what belongs there
        secret = path.rename(secret)
    path.unlink(missing_ok=True)
    path.symlink_to(secret)
    with pytest.raises(CheckpointError) as caught:
        contents(checkpoint)
    assert str(caught.value).startswith(f"{path} is a link, to {secret}, ")
    assert "\n" not in str(caught.value)
    one_sentence(fails(client, "push", checkpoint, repo_id, token=TOKEN), str(path), kind="CheckpointError")
    assert repo_id not in server.repos


def test_a_link_that_leads_nowhere_and_what_is_no_file(checkpoint):
    (checkpoint / "samples.png").unlink()
    for make in (lambda path: path.symlink_to("nowhere"), os.mkfifo, os.mkdir):
        make(checkpoint / "samples.png")
        with pytest.raises(CheckpointError, match=r"samples\.png is (a link|no file)"):
            contents(checkpoint)
        path = checkpoint / "samples.png"
        path.rmdir() if path.is_dir() else path.unlink()


def test_only_what_a_checkpoint_is_made_of_is_sent(checkpoint):
    for name in (
        "notes.txt",
        "last.ckpt",
        ".hidden.webp",
        "x.gif",
        "model-00001-of-00002.safetensors",
        "x.PNG",
        ".env",
    ):
        (checkpoint / name).write_bytes(b"mine")
    (checkpoint / "runs").mkdir()
    (checkpoint / "runs" / "samples.png").write_bytes(b"mine")
    (checkpoint / "completions.png").write_bytes((checkpoint / "samples.png").read_bytes())
    (checkpoint / "trace.webp").write_bytes(WEBP)
    assert sorted(contents(checkpoint)) == [
        "README.md",
        "completions.png",
        "config.json",
        "model.safetensors",
        "samples.png",
        "trace.webp",
    ]


def test_it_is_listed_before(checkpoint, capsys, monkeypatch):
    sent = []
    monkeypatch.setattr(store, "push", lambda *args, **options: sent.append(capsys.readouterr()) or "the address")
    assert cli.main(["push", str(checkpoint), "--repo-id", "alice/x", "--dry-run"]) == 0
    listed, _ = capsys.readouterr()
    assert not sent
    assert [line.split()[-1] for line in listed.splitlines()] == list(contents(checkpoint))
    assert f"{(checkpoint / 'samples.png').stat().st_size} bytes  samples.png" in listed
    assert cli.main(["push", str(checkpoint), "--repo-id", "hf-hub:alice/x"]) == 0
    assert capsys.readouterr().out == "the address\n"
    assert sent[0].err == listed, "on stderr, before anything was sent"


@pytest.mark.parametrize("made_as", [None, "pixelcnn-tiny", "bob/elsewhere"])
def test_the_card_says_the_name_under_which_it_was_pushed(client, server, checkpoint, repo_id, made_as):
    (checkpoint / "README.md").unlink()
    before = None
    if made_as is not None:
        before = card.write(checkpoint, made_as).read_bytes()
    client("push", checkpoint, f"hf-hub:{repo_id}", token=TOKEN)
    published = server.files(repo_id)["README.md"].decode()
    assert published == card.render(read_config(checkpoint), repo_id, ["samples.png"])
    assert f'zoo.load("{repo_id}")' in published
    if before is not None:
        assert (checkpoint / "README.md").read_bytes() == before, "one's own card has one's own name"
    # And what was fetched has the name under which it was.
    assert Path(client("pull", repo_id), "README.md").read_text() == published


def test_a_card_that_somebody_wrote_is_sent_as_it_is(checkpoint):
    text = card.write(checkpoint).read_text() + "\nTrained on a train.\n"
    (checkpoint / "README.md").write_text(text)
    with pytest.warns(UserWarning, match=r"README\.md is not the card that zoo makes"):
        assert contents(checkpoint)["README.md"] == text.encode()


def test_a_card_that_is_no_text(checkpoint):
    (checkpoint / "README.md").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"cannot be read as a card: `zoo card .* --write` makes it anew"):
        contents(checkpoint)


def test_a_card_of_terabytes_is_not_read(checkpoint):
    with (checkpoint / "README.md").open("wb") as sparse:
        sparse.truncate(2**42)
    with pytest.raises(CheckpointError, match=r"cannot be read as a card"):
        contents(checkpoint)


@pytest.mark.parametrize("name", ["other.png", "other.webp"])
def test_what_is_only_called_a_picture_is_not_sent(checkpoint, secret, name):
    os.link(secret, checkpoint / name)  # a link that looks like any other file
    with pytest.raises(CheckpointError, match=rf"{name} is no PNG or WebP picture, and would be published: remove it"):
        contents(checkpoint)
    with (checkpoint / name).open("wb") as sparse:
        sparse.truncate(2**42)
    with pytest.raises(CheckpointError, match=rf"{name} cannot be read: its 4,398,046,511,104 bytes are more than"):
        contents(checkpoint)


def test_a_card_made_before_another_picture_lay_there_is_made_anew(checkpoint):
    card.write(checkpoint)
    (checkpoint / "trace.webp").write_bytes(WEBP)
    config = read_config(checkpoint)
    assert contents(checkpoint)["README.md"].decode() == card.render(config, "alice/x", ["samples.png", "trace.webp"])
    (checkpoint / "samples.png").unlink()
    assert contents(checkpoint)["README.md"].decode() == card.render(config, "alice/x", ["trace.webp"])


def test_a_checkpoint_is_not_written_through_a_link(checkpoint, model, tmp_path):
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    link = tmp_path / "pixelcnn-link"
    link.symlink_to(checkpoint)
    with pytest.raises(CheckpointError, match=f"is a link, to {checkpoint}: name the folder itself"):
        store.save(model, link)
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    secret = tmp_path / "mine"
    secret.write_text("mine")
    (checkpoint / "README.md").unlink()
    (checkpoint / "README.md").symlink_to(secret)
    card.write(checkpoint)
    assert secret.read_text() == "mine"
    assert not (checkpoint / "README.md").is_symlink()
