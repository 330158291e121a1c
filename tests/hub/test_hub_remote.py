"""Push and pull through the Hub's real client and a Hub on loopback."""

import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hub_client import Client, client_environment, fails, one_sentence
from hub_server import File, Repo

from zoo.hub import card, store
from zoo.hub.config import read_config
from zoo.hub.reading import PNG

TOKEN = "hf_alice"


def contents(folder: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture
def published(client, checkpoint, repo_id):
    client("push", checkpoint, repo_id, token=TOKEN)
    return repo_id


@pytest.mark.slow
def test_push_then_pull_is_byte_identical(client, server, checkpoint, repo_id, model):
    (checkpoint / "notes.txt").write_text("mine")
    (checkpoint / "last.ckpt").write_bytes(b"mine too")
    url = client("push", checkpoint, repo_id, token=TOKEN, message="First")
    sha = server.repos[repo_id].branches["main"]
    assert url == f"{server.endpoint}/{repo_id}/commit/{sha}"
    folder = client("pull", repo_id)
    wanted = contents(checkpoint)
    del wanted["notes.txt"], wanted["last.ckpt"]
    assert contents(folder) == wanted
    assert server.files(repo_id).keys() == wanted.keys() | {".gitattributes"}
    loaded = store.load(folder)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[key].half().float())


def test_push_again_replaces_what_was_there(client, server, checkpoint, published):
    repo = server.repos[published]
    old = {name: File(b"old", lfs=True) for name in ("model-00001-of-00002.safetensors", "old.png", "old.webp")}
    repo.commit("main", repo.commits[repo.branches["main"]] | old)
    (checkpoint / "README.md").write_text("# Another card\n")
    (checkpoint / "trace.webp").write_bytes(b"RIFF\x04\0\0\0WEBPVP8 ")
    client("push", checkpoint, published, token=TOKEN)
    files = server.files(published)
    assert files["README.md"] == b"# Another card\n"
    assert "model-00001-of-00002.safetensors" not in files
    assert not {"old.png", "old.webp"} & files.keys()
    assert Path(client("pull", published), "trace.webp").read_bytes() == (checkpoint / "trace.webp").read_bytes()
    assert Path(client("pull", published), "README.md").read_text() == "# Another card\n"


def test_broken_checkpoints_are_not_pushed(client, server, checkpoint, repo_id):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    one_sentence(fails(client, "push", checkpoint, repo_id, token=TOKEN), kind="CheckpointError")
    assert repo_id not in server.repos


def test_sharded_checkpoints_travel(client, checkpoint, repo_id, model, monkeypatch, tmp_path):
    monkeypatch.setattr("zoo.hub.folder.SHARD_BYTES", 1500)
    folder = store.save(model, tmp_path / "pixelcnn-shards")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    client("push", folder, repo_id, token=TOKEN)
    assert contents(client("pull", repo_id)) == contents(folder)
    # Pushed as one file later, it leaves no shards behind.
    client("push", checkpoint, repo_id, token=TOKEN)
    assert contents(client("pull", repo_id)) == contents(checkpoint)


def test_a_configuration_comes_without_the_weights(server, checkpoint, published, tmp_path):
    other = Client(server.endpoint, tmp_path / "cache", ZOO_HUB_NAMESPACE="alice")
    try:
        for name in (published, published.split("/")[1]):
            server.requests.clear()
            assert other("config_of", name) == str(read_config(checkpoint))
            assert server.requests
            assert not any("safetensors" in request for request in server.requests)
        one_sentence(fails(other, "config_of", "alice/nothing-there"), "alice/nothing-there")
    finally:
        other.close()


def test_load_takes_namespace_and_name(client, published):
    assert client("load", published).startswith("PixelCNN(")
    name = published.split("/")[1]
    assert client("find", name, namespace="alice") == client("pull", published)
    one_sentence(fails(client, "find", name), name, "namespace/", kind="CheckpointError")


def test_a_token_reaches_private_repositories_and_never_the_cdn(client, server, checkpoint, repo_id):
    client("push", checkpoint, repo_id, token=TOKEN, private=True)
    error = fails(client, "pull", repo_id)
    one_sentence(error, repo_id, "private")
    server.requests.clear()
    client("pull", repo_id, token=TOKEN)
    assert any("/lfs/" in request for request in server.requests)
    assert all(request.endswith("anonymous") == ("/lfs/" in request) for request in server.requests)


def test_offline_after_the_first_pull(client, server, published):
    folder = client("pull", published)
    sha = server.repos[published].branches["main"]
    server.requests.clear()
    assert client("pull", published, local_files_only=True) == folder
    assert client("pull", published, revision=sha) == folder
    assert server.requests == []  # neither asked
    server.stop()
    try:
        assert client("pull", published) == folder
        assert client("load", published).startswith("PixelCNN(")
        assert client("pull", published, revision=sha) == folder
        one_sentence(fails(client, "pull", "alice/never-seen"), "alice/never-seen", "network")
    finally:
        server.start()
    assert client("pull", published) == folder


def test_local_files_only_without_a_copy(client, published):
    one_sentence(fails(client, "pull", published, local_files_only=True), published, "pull it once")


def test_the_clients_offline_mode(server, published, client, tmp_path):
    folder = client("pull", published)
    offline = Client(server.endpoint, client.home, HF_HUB_OFFLINE="1")
    try:
        server.requests.clear()
        assert offline("pull", published) == folder
        one_sentence(fails(offline, "pull", "alice/never-seen"), "HF_HUB_OFFLINE", "alice/never-seen")
        assert server.requests == []
    finally:
        offline.close()


def test_revisions(client, server, checkpoint, published):
    first = server.repos[published].branches["main"]
    (checkpoint / "README.md").write_text("# Second\n")
    client("push", checkpoint, published, token=TOKEN, revision="experiment")
    client("push", checkpoint, published, token=TOKEN, revision="experiment")  # nothing new
    second = server.repos[published].branches["experiment"]
    assert server.repos[published].branches["main"] == first != second

    def card(revision: str | None) -> str:
        return Path(client("pull", published, revision=revision), "README.md").read_text()

    assert card(None) == card("main") == card(first)
    assert card("experiment") == card(second) == "# Second\n"
    for missing in ("no-such-branch", "0" * 40):
        one_sentence(fails(client, "pull", published, revision=missing), published, missing, "revision")
    one_sentence(fails(client, "pull", published, revision="../../x"), "../../x", "revision")


def test_two_processes_pull_at_once(server, published, checkpoint, tmp_path):
    code = f"import sys; from zoo.hub import remote; sys.stdin.readline(); print(remote.pull({published!r}))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=client_environment(server.endpoint, tmp_path / "shared"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    folders = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    (folder,) = folders
    assert contents(folder) == contents(checkpoint)
    assert not list((tmp_path / "shared").rglob("*.incomplete"))


def test_wrong_token(client, published, checkpoint):
    wrong = "hf_notonethathubknows"
    one_sentence(fails(client, "pull", published, token=wrong), "does not accept the token")
    one_sentence(fails(client, "push", checkpoint, published, token=wrong), "does not accept the token")
    one_sentence(fails(client, "push", checkpoint, published, token="hf_bob"), published, "does not allow")
    one_sentence(fails(client, "push", checkpoint, published), "token")
    # A token with a line break must not be quoted back by the HTTP library.
    one_sentence(fails(client, "pull", published, token="hf_secret\nX: y"), "token")
    one_sentence(fails(client, "pull", published, token=""), "token")


def test_missing_repository(client, checkpoint):
    one_sentence(fails(client, "pull", "alice/not-there"), "There is no alice/not-there")
    one_sentence(fails(client, "pull", "alice/not-there", token=TOKEN), "There is no alice/not-there")
    one_sentence(fails(client, "load", "alice/not-there"), "There is no alice/not-there")
    for name in ("alice", "alice/a/b", "alice/..", "../x", "alice/a--b", "a" * 100 + "/b"):
        one_sentence(fails(client, "push", checkpoint, name, token=TOKEN))
        one_sentence(fails(client, "pull", name, local_files_only=True))


def test_a_repository_of_something_else_is_refused_before_its_weights_are_fetched(client, server, repo_id):
    files = {"model.safetensors": File(b"x" * 1000, lfs=True)}
    server.repos[repo_id] = repo = Repo(private=False)
    repo.commit("main", files)
    one_sentence(fails(client, "pull", repo_id), repo_id, "no config.json", kind="CheckpointError")
    repo.commit("main", files | {"config.json": File(b'{"model_type": "gpt2"}', lfs=False)})
    server.requests.clear()
    one_sentence(fails(client, "pull", repo_id), repo_id, kind="CheckpointError")
    assert not any("safetensors" in request or "/lfs/" in request for request in server.requests)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_server_errors(client, server, published, status):
    server.fail(f"GET /api/models/{published}", status, times=100)
    one_sentence(fails(client, "pull", published), str(status), published)
    server.faults.clear()
    server.fail(f"/{published}/resolve/", status, times=100)
    one_sentence(fails(client, "pull", published), str(status), published)
    server.faults.clear()
    folder = client("pull", published)
    server.fail(".", status, times=100)
    assert client("pull", published) == folder  # the cached copy serves meanwhile


def test_server_errors_while_pushing(client, server, checkpoint, repo_id):
    (checkpoint / "samples.png").write_bytes(PNG + repo_id.encode())  # no other test has uploaded it
    for step in ("repos/create", "preupload", "objects/batch", "PUT /lfs", "POST /verify", "commit/main"):
        server.fail(step, 503, times=100)
        one_sentence(fails(client, "push", checkpoint, repo_id, token=TOKEN), "503", repo_id)
        server.faults.clear()
    client("push", checkpoint, repo_id, token=TOKEN)
    assert contents(client("pull", repo_id)) == contents(checkpoint)


def test_a_cut_connection_leaves_no_broken_state(client, server, published, checkpoint):
    server.cut("GET /lfs/", after=700, times=100)
    one_sentence(fails(client, "pull", published), published, "network")
    one_sentence(fails(client, "pull", published, local_files_only=True), published, "pull it")
    server.faults.clear()
    assert contents(client("pull", published)) == contents(checkpoint)
    assert client("pull", published, local_files_only=True)


def test_a_cut_connection_is_resumed(client, server, published, checkpoint):
    server.cut("GET /lfs/", after=700, times=1)
    assert contents(client("pull", published)) == contents(checkpoint)


def test_a_cut_update_leaves_the_version_before(client, server, published, checkpoint, tmp_path, model):
    folder = client("pull", published)
    for parameter in model.parameters():
        parameter.data.mul_(0.5)
    try:
        newer = store.save(model, tmp_path / "pixelcnn-newer")
    finally:
        for parameter in model.parameters():
            parameter.data.mul_(2)
    client("push", newer, published, token=TOKEN)
    server.cut("GET /lfs/", after=700, times=100)
    assert client("pull", published) == folder  # as while the Hub cannot be reached
    assert client("pull", published, local_files_only=True) == folder
    server.faults.clear()
    updated = client("pull", published)
    assert updated != folder
    assert contents(updated) == contents(newer)
    assert client("pull", published, local_files_only=True) == updated


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_damaged_cache_is_named_and_repaired(client, server, published, checkpoint, file):
    folder = Path(client("pull", published))
    sha = server.repos[published].branches["main"]
    for revision in (None, sha):
        path = folder / file
        blob = path.resolve()
        data = blob.read_bytes()
        blob.chmod(0o644)
        blob.write_bytes(data[: len(data) // 2])
        error = fails(client, "pull", published, revision=revision, local_files_only=True)
        one_sentence(error, file, "pull it", kind="CheckpointError")
        server.stop()
        try:
            fails(client, "pull", published, revision=revision)
        finally:
            server.start()
        assert Path(client("pull", published, revision=revision)) == folder
        assert contents(folder) == contents(checkpoint)


def test_a_checkpoint_damaged_on_the_hub(client, server, published):
    repo = server.repos[published]
    files = repo.commits[repo.branches["main"]]
    damaged = bytearray(files["model.safetensors"].data)
    damaged[-1] ^= 1
    repo.commit("main", files | {"model.safetensors": File(bytes(damaged), lfs=True)})
    server.objects[repo.commits[repo.branches["main"]]["model.safetensors"].oid] = bytes(damaged)
    one_sentence(fails(client, "pull", published), published, "SHA-256", kind="CheckpointError")
    repo.commit("main", {path: file for path, file in files.items() if path != "model.safetensors"})
    one_sentence(fails(client, "pull", published), published, "model.safetensors", kind="CheckpointError")


@dataclass(frozen=True)
class Other(File):
    """A file that is announced as another one."""

    announced: str

    @property
    def oid(self) -> str:
        return self.announced


@pytest.mark.parametrize("file", ["config.json", "README.md", "samples.png"])
def test_what_is_not_what_was_announced_is_fetched_again_or_refused(client, server, published, checkpoint, file):
    """Of which config.json, that holds the SHA-256 of the weights, says nothing."""
    repo = server.repos[published]
    files = repo.commits[repo.branches["main"]]
    right = files[file]
    files[file] = Other(right.data.replace(b"o", b"0").replace(b"m", b"n"), False, right.oid)
    assert files[file].data != right.data
    one_sentence(fails(client, "pull", published), published, file, kind="CheckpointError")
    one_sentence(fails(client, "pull", published, local_files_only=True), published)
    files[file] = right
    assert contents(client("pull", published)) == contents(checkpoint)


def test_a_failure_prints_nothing_but_its_sentence(server, published, checkpoint, tmp_path):
    card.write(checkpoint)  # another one would be warned of
    code = """if True:
        import sys, time
        sleep = time.sleep
        time.sleep = lambda seconds: sleep(min(seconds, 0.01))
        from zoo.cli import main
        sys.exit(main(sys.argv[1:]))"""
    environment = client_environment(server.endpoint, tmp_path / "cache") | {"HF_TOKEN": TOKEN}
    command = [sys.executable, "-c", code]
    for fault, words in {
        lambda: server.fail(f"/{published}/resolve/", 503, times=100): ["pull", published],
        lambda: server.cut("GET /lfs/", after=700, times=100): ["pull", published],
        lambda: server.fail("preupload", 503, times=100): ["push", str(checkpoint), "--repo-id", published],
    }.items():
        fault()
        done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True)
        server.faults.clear()
        said = [line for line in done.stderr.splitlines() if " bytes  " not in line]  # what a push is to send
        assert done.returncode == 1
        assert len(said) == 1, done.stderr
        assert said[0].startswith("zoo: The Hub at ")


def test_a_silent_hub_is_not_waited_for_for_ever(server, published, checkpoint, tmp_path, monkeypatch):
    """As the Hub's client does that nobody tells how long to wait."""
    started = threading.Event()
    answer = server.take_fault

    def silent(request: str) -> None:
        if "preupload" in request and not started.wait(20):
            return None
        return answer(request)

    monkeypatch.setattr(server, "take_fault", silent)
    code = f"""if True:
        import time
        sleep = time.sleep
        time.sleep = lambda seconds: sleep(min(seconds, 0.01))
        from zoo.errors import HubError
        from zoo.hub import client, store
        client.SILENCE = 0.2
        try:
            store.push({str(checkpoint)!r}, {published!r}, token={TOKEN!r})
        except HubError as error:
            print(error)"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=client_environment(server.endpoint, tmp_path / "cache"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    started.set()
    assert "cannot be reached or broke the connection" in done.stdout, done.stderr


def test_file_names_on_the_hub_stay_in_the_folder(client, server, published):
    repo = server.repos[published]
    files = repo.commits[repo.branches["main"]]
    config = json.loads(files["config.json"].data)
    digest = config["weights"]["sha256"].pop("model.safetensors")
    for name in ("../../model.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..safetensors"):
        hostile = config | {"weights": config["weights"] | {"sha256": {name: digest}}}
        repo.commit("main", files | {"config.json": File(json.dumps(hostile).encode(), lfs=False)})
        one_sentence(fails(client, "pull", published), "weights.sha256", kind="CheckpointError")


def test_pull_needs_no_torch(server, published, tmp_path):
    code = f"import sys; from zoo.hub import remote; remote.pull({published!r}); assert 'torch' not in sys.modules"
    environment = client_environment(server.endpoint, tmp_path)
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_a_cache_that_cannot_be_written(server, published, tmp_path):
    home = tmp_path / "file"
    home.write_text("not a folder")
    blocked = Client(server.endpoint, home)
    try:
        one_sentence(fails(blocked, "pull", published), "cache cannot be written", "HF_HOME")
    finally:
        blocked.close()


def test_a_full_disk_while_pulling(server, published, checkpoint, tmp_path):
    full = Client(server.endpoint, tmp_path / "home")
    try:
        for size in (0, 300, 1000):
            full("limit", size)
            one_sentence(fails(full, "pull", published), "cache cannot be written", str(tmp_path), "make room")
        full("limit", 2**30)
        assert contents(full("pull", published)) == contents(checkpoint)
    finally:
        full.close()
