"""A name is a bundled folder, a path or a Hub's repository, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest
from hub_client import ROOT

from zoo.errors import CheckpointError, HubError
from zoo.hub import finding, store


@pytest.fixture
def bundled(pristine, tmp_path, monkeypatch):
    """A checkpoints folder with two checkpoints and some litter."""
    folder = tmp_path / "checkpoints"
    for name in ("pixelcnn-digits", "pixelcnn-cifar10"):
        (folder / name).mkdir(parents=True)
        for file in pristine.iterdir():
            (folder / name / file.name).write_bytes(file.read_bytes())
    for litter in (".pixelcnn-digits.new-x1", "Pixelcnn-Digits", "pixelcnn", "pixelcnn-empty", "a--b"):
        (folder / litter).mkdir()
        if litter != "pixelcnn-empty":
            (folder / litter / "config.json").write_text("{}")
    monkeypatch.setattr(finding, "BUNDLED", folder)
    monkeypatch.delenv("ZOO_HUB_NAMESPACE", raising=False)
    return folder


def refused(name: object, kind: type[Exception] = CheckpointError, **options: object) -> str:
    with pytest.raises(kind) as caught:
        finding.find(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_names_lists_the_bundled_checkpoints(bundled):
    assert finding.names() == ["pixelcnn-cifar10", "pixelcnn-digits"]


def test_no_checkpoints_folder_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(finding, "BUNDLED", tmp_path / "absent")
    assert finding.names() == []


def test_find_takes_names_and_paths(bundled, monkeypatch):
    folder = bundled / "pixelcnn-digits"
    assert finding.find("pixelcnn-digits") == folder
    assert finding.find(folder) == finding.find(str(folder)) == folder
    monkeypatch.chdir(bundled.parent)
    assert finding.find("./checkpoints/pixelcnn-digits").resolve() == folder
    assert finding.find("checkpoints/pixelcnn-digits").resolve() == folder
    monkeypatch.setenv("HOME", str(bundled))
    assert finding.find("~/pixelcnn-digits") == folder


def test_a_plain_name_is_never_a_path(bundled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pixelcnn-digits").mkdir()
    Path("pixelcnn-other").mkdir()
    assert finding.find("pixelcnn-digits") == bundled / "pixelcnn-digits"
    assert "pixelcnn-other" in refused("pixelcnn-other")


def test_a_close_name_is_offered(bundled):
    message = refused("pixelcnn-cifar")
    assert "pixelcnn-cifar10" in message
    assert "namespace/pixelcnn-cifar" in message
    assert "zoo list" in refused("nothing-likethis")


@pytest.mark.parametrize(
    "name",
    [
        "pixelcnn-../../x",
        "pixelcnn-digits/../../../etc",
        "a/..",
        "..",
        ".",
        "",
        "pixelcnn",
        "Pixelcnn-Digits",
        "pixelcnn-digits\n",
        "pixelcnn-digits\0",
        "pixelcnn_digits-x",
        "-a-b",
        "a/b/c",
        "a\\..\\b-c",
        "hf://a/b",
        "é-ü",
        "\ud800-a",
    ],
)
def test_what_is_no_name_is_refused(bundled, name):
    assert ascii(name)[:70] in refused(name)
    refused(name, namespace="alice", revision="main", local_files_only=True)


def test_what_is_no_folder_is_refused(bundled):
    for name in (
        "/no/such/folder",
        "./no-such",
        "../no-such",
        "~/no-such",
        "~nobody-here/x",
        Path("no-such"),
        "./\0",
    ):
        assert "no folder" in refused(name)


def test_a_folder_has_no_revision(bundled):
    assert "revision" in refused(bundled / "pixelcnn-digits", revision="main")


def test_a_bundled_name_with_a_revision_asks_for_a_namespace(bundled):
    assert "ZOO_HUB_NAMESPACE" in refused("pixelcnn-digits", revision="main")


def test_namespaces_are_checked(bundled, monkeypatch):
    for namespace in ("../..", "a/b", "/etc", ""):
        monkeypatch.setenv("ZOO_HUB_NAMESPACE", namespace)
        refused("pixelcnn-absent")
        if namespace:
            refused("pixelcnn-absent", namespace=namespace)


def test_push_takes_only_what_is_local(bundled):
    with pytest.raises(CheckpointError, match="namespace/pixelcnn-absent"):
        store.push("pixelcnn-absent", "alice/pixelcnn-absent")
    with pytest.raises(HubError, match="no repository"):
        store.push("pixelcnn-digits", "no-namespace")


def test_listing_imports_neither_torch_nor_the_client():
    code = (
        "import sys; from zoo.hub import config, finding, store;"
        "[config.read_config(finding.find(name)) for name in finding.names()];"
        "assert not {'torch', 'lightning', 'huggingface_hub', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
