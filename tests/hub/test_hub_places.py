"""Where checkpoints are in a checkout and in an installed wheel, which has an index of them and no weights."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hub_client import ROOT, client_environment
from hub_server import File, Repo

from zoo import cli
from zoo.errors import CheckpointError
from zoo.hub import card, client, finding, places, remote, store, tables
from zoo.hub.config import read_config
from zoo.training.export import export_run
from zoo.training.files import in_todays_names

NAME = "pixelcnn-digits"


@pytest.fixture
def wheel(pristine, tmp_path, monkeypatch):
    """As in an installed wheel that lists one checkpoint; the folder of the user's own."""
    published = tmp_path / "published" / NAME
    shutil.copytree(pristine, published)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.json").write_text(json.dumps(places.made_index(published.parent)))
    monkeypatch.setattr(places, "INDEX", tmp_path / "site" / "index.json")
    monkeypatch.setattr(finding, "BUNDLED", tmp_path / "site" / "checkpoints")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(places.sys, "platform", "linux")
    for name in ("ZOO_CHECKPOINTS", "ZOO_HUB_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    return published


def pulled(monkeypatch, folder: Path) -> list[str]:
    """Have the Hub answer with a folder, and note what it is asked for."""
    asked = []
    monkeypatch.setattr(finding, "pull", lambda repo_id, **options: asked.append(repo_id) or folder)
    return asked


def test_the_index_is_made_of_the_checkpoints():
    index = places.made_index(ROOT / "checkpoints")
    assert index["namespace"] == places.NAMESPACE
    assert len(index["checkpoints"]) >= 52
    assert all(config["weights"]["sha256"] for config in index["checkpoints"].values())
    assert "/" not in json.dumps(list(index["checkpoints"]))


def test_a_wheel_lists_what_is_published(wheel, capsys):
    assert finding.names() == [NAME]
    assert finding.config_of(NAME) == read_config(wheel)
    assert tables.table(tables.bundled()) == tables.table({NAME: read_config(wheel)})
    assert cli.main(["list"]) == 0
    assert NAME in capsys.readouterr().out


def test_a_wheel_has_the_cards_of_what_it_lists(wheel, monkeypatch, capsys):
    asked = pulled(monkeypatch, wheel)
    assert cli.main(["card", NAME]) == 0
    assert capsys.readouterr().out == card.render(read_config(wheel), NAME)
    assert not asked


def test_a_name_of_the_wheel_is_in_the_default_namespace(wheel, monkeypatch):
    asked = pulled(monkeypatch, wheel)
    assert finding.find(NAME) == wheel
    assert asked == [f"{places.NAMESPACE}/{NAME}"]
    monkeypatch.setenv("ZOO_HUB_NAMESPACE", "alice")
    finding.find(NAME)
    finding.find(NAME, namespace="bob")
    monkeypatch.delenv("ZOO_HUB_NAMESPACE")
    finding.find(NAME, revision="v1")
    assert asked[1:] == [f"alice/{NAME}", f"bob/{NAME}", f"{places.NAMESPACE}/{NAME}"]
    with pytest.raises(CheckpointError, match=f"close to it are {NAME}"):
        finding.find("pixelcnn-digit")


def test_other_weights_under_a_name_of_the_wheel_are_refused(wheel, model, tmp_path, monkeypatch):
    """Whoever holds the namespace cannot change what a name stands for."""
    other = store.save(model, tmp_path / "other", dtype="float32")
    pulled(monkeypatch, other)
    with pytest.raises(CheckpointError, match=r"are others than this version of zoo knows") as caught:
        finding.find(NAME)
    assert f"write {places.NAMESPACE}/{NAME}" in str(caught.value)
    for said in ({"namespace": "bob"}, {"revision": "main"}):
        assert finding.find(NAME, **said) == other
    assert finding.find(f"{places.NAMESPACE}/{NAME}") == other


def test_exports_go_to_the_users_data_and_are_found_there(wheel, model, tmp_path, monkeypatch):
    own = tmp_path / "data" / "zoo" / "checkpoints"
    assert finding.folders()[0] == own
    folder = store.save(model, own / "pixelcnn-mine")
    assert finding.find("pixelcnn-mine") == folder
    assert finding.names() == [NAME, "pixelcnn-mine"]
    assert finding.is_own("pixelcnn-mine", folder)
    assert finding.to_push("pixelcnn-mine") == folder
    assert set(tables.bundled()) == {NAME, "pixelcnn-mine"}
    monkeypatch.setenv("ZOO_CHECKPOINTS", str(tmp_path / "mine"))
    assert finding.folders()[0] == tmp_path / "mine"
    assert finding.names() == [NAME]


def test_ones_own_goes_before_what_is_published(wheel, model, tmp_path, monkeypatch):
    asked = pulled(monkeypatch, wheel)
    own = store.save(model, finding.folders()[0] / NAME)
    assert finding.find(NAME) == own
    assert not asked


def test_what_is_on_the_hub_alone_is_not_pushed(wheel):
    with pytest.raises(CheckpointError, match=f"is not here: `zoo pull {places.NAMESPACE}/{NAME}`"):
        store.push(NAME, "alice/x")


@pytest.mark.parametrize(
    ("platform", "environment", "folder"),
    [
        ("linux", {}, "~/.local/share"),
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data"),
        ("darwin", {}, "~/Library/Application Support"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local"),
    ],
)
def test_the_users_data_folder(platform, environment, folder, monkeypatch):
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(places.sys, "platform", platform)
    assert places.user_data() == Path(folder).expanduser()


def test_a_checkout_keeps_its_checkpoints(monkeypatch, tmp_path):
    monkeypatch.delenv("ZOO_CHECKPOINTS", raising=False)
    assert not places.INDEX.exists()
    assert finding.folders() == [finding.BUNDLED] == [ROOT / "checkpoints"]
    monkeypatch.setenv("ZOO_CHECKPOINTS", str(tmp_path))
    assert finding.folders() == [tmp_path, finding.BUNDLED], "what is said is done"


@pytest.mark.parametrize("name", ["../x-y", "/tmp/x-y", "Pixelcnn-Digits", "pixelcnn", "a/b-c"])
def test_an_export_has_a_name(name, tmp_path):
    with pytest.raises(CheckpointError, match="is no checkpoint's name: write FAMILY-DATASET"):
        export_run(tmp_path, name)


@pytest.mark.parametrize("word", ["recipes/pixelcnn-digits.yaml", "pixelcnn-digits.yaml", "pixelcnn-digits"])
def test_a_recipe_of_the_zoo_is_found_from_anywhere(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = str(ROOT / "recipes" / "pixelcnn-digits.yaml")
    assert in_todays_names(["fit", "--config", word], tmp_path) == ["fit", "--config", found]
    assert in_todays_names(["fit", f"--config={word}"], tmp_path) == ["fit", f"--config={found}"]
    # A file of one's own is that file.
    Path(word).parent.mkdir(exist_ok=True)
    Path(word).write_text("seed_everything: 1\n")
    assert in_todays_names(["fit", "--config", word], tmp_path) == ["fit", "--config", word]


def test_no_other_file_is_taken_for_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word in ("recipes/../recipes/pixelcnn-digits.yaml", "pixelcnn-nothing", "x/pixelcnn-digits.yaml", "", "/etc"):
        assert places.recipe(word) is None


def test_names_with_the_prefix_that_others_use(monkeypatch, pristine):
    asked = pulled(monkeypatch, pristine)
    assert finding.find("hf-hub:alice/pixelcnn-tiny") == pristine
    assert finding.may_be_name("hf-hub:alice/pixelcnn-tiny")
    assert client.repository(asked[0]) == "alice/pixelcnn-tiny" == client.repository("alice/pixelcnn-tiny")
    monkeypatch.undo()
    for name in ("hf-hub:", "hf-hub:pixelcnn-digits", "hf-hub:../x", "hf-hub:a/b/c", "hf-hub:hf-hub:a/b", "hf_hub:a/b"):
        with pytest.raises((CheckpointError, remote.HubError)):
            finding.find(name, local_files_only=True)


# -- the wheel itself ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built of this checkout and installed into a folder."""
    pytest.importorskip("hatchling", reason="needs hatchling, of the extra dev")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True)
    (file,) = folder.glob("*.whl")
    into = ["--no-deps", "--no-index", "--target", str(folder / "site")]
    subprocess.run([*pip, "install", *into, str(file)], check=True)
    return folder / "site"


@pytest.mark.slow
def test_an_installed_wheel_lists_loads_trains_and_exports(installed, server, tmp_path, monkeypatch, capsys):
    published = ROOT / "checkpoints" / NAME
    files = {path.name: File(path.read_bytes(), path.suffix == ".safetensors") for path in published.iterdir()}
    server.repos[f"{places.NAMESPACE}/{NAME}"] = repo = Repo(private=False)
    repo.commit("main", files)
    server.objects |= {file.oid: file.data for file in files.values() if file.lfs}
    server.requests.clear()
    environment = client_environment(server.endpoint, tmp_path / "hf") | {
        "PYTHONPATH": str(installed),
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }

    def run(*words: str) -> str:
        command = [sys.executable, "-c", "import sys, zoo.cli; sys.exit(zoo.cli.main())", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with zipfile.ZipFile(next(installed.parent.glob("*.whl"))) as file:
        assert json.loads(file.read("zoo/index.json")) == places.made_index(ROOT / "checkpoints")
        assert not [name for name in file.namelist() if name.endswith((".safetensors", ".png"))]
    monkeypatch.delenv("ZOO_CHECKPOINTS", raising=False)
    cli.main(["list"])
    assert run("list") == capsys.readouterr().out
    assert not server.requests, "the list is the wheel's"
    run("sample", NAME, "-n", "1", "--out", "x.png")
    assert (tmp_path / "x.png").exists()
    run("fit", "--config", f"recipes/{NAME}.yaml", "--trainer.max_steps", "2", "--trainer.enable_progress_bar", "false")
    folder = tmp_path / "data" / "zoo" / "checkpoints" / "pixelcnn-mine"
    assert run("export", f"runs/{NAME}", "pixelcnn-mine") == f"{folder}\n"
    assert "pixelcnn-mine" in run("list")
    run("sample", "pixelcnn-mine", "-n", "1", "--out", "y.png")
    assert not (installed / "checkpoints").exists()
