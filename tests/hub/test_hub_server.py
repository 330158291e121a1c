"""The tests' own Hub answers as the real client of the Hub expects.

The client itself is run against it, no mock of it: that which is installed, and with `ZOO_HUB_CLIENT=FOLDER` that of
another version, for this file and for every other test of `tests/hub`. Both ends of what `pyproject.toml` allows were
run: `pip install --target FOLDER huggingface_hub==1.3.0`, the oldest, and 2.4.0, the newest when this was written.

Covered: making a repository and a branch, also where they exist; what is to be uploaded how (preupload); the LFS batch,
in which older clients offer Xet and the server chooses the plain transfer; a commit of files, LFS files and removals,
and one in which nothing is new; a model's information and its list of files, of a branch, a commit and a revision that
there is not; downloads with ETag, commit, redirection to a CDN without the token, Range; repositories that are private,
gated, somebody else's or not there; wrong tokens; rate limits with `RateLimit` and `Retry-After`; status 5xx; answers
that are cut, wrong or late.

Not covered, for the server does not speak it: Xet's own transfer of files in chunks. The newest clients upload by it
without asking where `hf_xet` is installed, and download by it what the Hub keeps so: the tests set
HF_HUB_DISABLE_XET=1, which sends both over the paths above. Neither are uploads in several parts (files beyond 5 GB),
pull requests, organizations' rights, the check of a card's metadata by the Hub (here everything passes), quotas, TLS
and proxies.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_client import Client, RemoteError, client_environment, fails, one_sentence

from zoo.hub.reading import PNG

TOKEN = "hf_alice"


def contents(folder: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture
def published(client, checkpoint, repo_id):
    client("push", checkpoint, repo_id, token=TOKEN)
    return repo_id


@pytest.fixture
def large(checkpoint, published, client):
    """A checkpoint with a picture that is fetched in several pieces."""
    (checkpoint / "samples.png").write_bytes(PNG + bytes(range(250)) * 160 + published.encode())
    client("push", checkpoint, published, token=TOKEN)
    return checkpoint


@pytest.fixture
def said(server, checkpoint, repo_id, tmp_path):
    """What the client made of the answers."""
    (checkpoint / "samples.png").write_bytes(PNG + repo_id.encode())  # which is not on the server yet
    server.sent.clear()
    script = Path(__file__).with_name("hub_protocol.py")
    command = [sys.executable, str(script), str(checkpoint), repo_id]
    environment = client_environment(server.endpoint, tmp_path / "hf") | {"HF_TOKEN": TOKEN}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_client_understands_each_answer(said, server, checkpoint, repo_id):
    repo = server.repos[repo_id]
    assert "HfHubHTTPError" in said["created again"]
    assert said["first"]["url"] == f"{server.endpoint}/{repo_id}/commit/{said['first']['oid']}"
    assert repo.branches == {"main": said["first"]["oid"], "dev": said["second"]}
    assert said["nothing new"] == said["first"]["oid"]
    files = sorted([".gitattributes", *contents(checkpoint)])
    assert said["files"]["main"] == files
    assert said["files"]["dev"] == sorted(repo.commits[said["second"]])
    assert said["info"] == {"sha": said["second"], "files": said["files"]["dev"], "private": False}
    assert {name: bytes.fromhex(data) for name, data in said["downloaded"].items()} == server.files(repo_id)
    assert "RevisionNotFoundError" in said["no revision"]
    assert "EntryNotFoundError" in said["no file"]
    assert "RepositoryNotFoundError" in said["no repository"]
    assert "HfHubHTTPError" in said["no repository, anonymous"]  # by https it would be the same as above
    assert "HfHubHTTPError" in said["foreign"]
    assert "RepositoryNotFoundError" not in said["wrong token"]
    assert said["slept"] == [], "no answer made it try again"

    # And what it sent is what the Hub takes.
    (batch, *_) = [json.loads(each.body) for each in server.asked(r"POST .*/objects/batch")]
    assert batch["operation"] == "upload"
    assert batch["hash_algo"] == "sha256"
    assert {"basic", "multipart"} <= set(batch["transfers"])
    assert len(server.asked("PUT /lfs/")) == len(server.asked("POST /verify/")) > 0
    assert all("authorization" not in each.headers for each in server.asked(" /lfs/"))
    (upload, *_) = server.asked(r"POST .*/preupload/main")
    assert all({"path", "size", "sample"} <= set(file) for file in json.loads(upload.body)["files"])
    commits = server.asked(rf"POST /api/models/{repo_id}/commit/")
    assert {each.headers["content-type"] for each in commits} == {"application/x-ndjson"}
    lines = [json.loads(line) for line in commits[0].body.splitlines()]
    assert lines[0]["key"] == "header"
    assert lines[0]["value"]["summary"] == "First"
    assert {line["key"] for line in lines[1:]} == {"file", "lfsFile"}


@pytest.mark.slow
def test_with_xet_a_push_goes_the_plain_way_or_says_how(server, checkpoint, repo_id, tmp_path, monkeypatch):
    """Older clients ask and take the plain way; newer ones do not ask, and the sentence says what to set."""
    (checkpoint / "samples.png").write_bytes(PNG + repo_id.encode())
    server.sent.clear()
    client = Client(server.endpoint, tmp_path, HF_HUB_DISABLE_XET="0")
    try:
        try:
            client("push", checkpoint, repo_id, token=TOKEN)
        except RemoteError as error:
            one_sentence(error, "HF_HUB_DISABLE_XET=1", repo_id)
            assert not server.asked("objects/batch")
            Client(server.endpoint, tmp_path)("push", checkpoint, repo_id, token=TOKEN)
        else:
            assert "xet" in json.loads(server.asked("objects/batch")[0].body)["transfers"]
        # What is not kept by Xet is downloaded as ever.
        assert contents(client("pull", repo_id)) == contents(checkpoint)
    finally:
        client.close()


def test_a_gated_repository(client, server, published):
    server.repos[published].gated = True
    for token in (None, "hf_bob"):
        one_sentence(fails(client, "pull", published, token=token), published, "gated", "ask for access")
    assert client("pull", published, token=TOKEN)


def test_a_private_repository_is_not_there_for_others(client, server, published):
    server.repos[published].private = True
    for token in (None, "hf_bob"):
        one_sentence(fails(client, "pull", published, token=token), f"There is no {published}", "private")
    assert client("pull", published, token=TOKEN)


@pytest.mark.parametrize("header", [{"Retry-After": "3"}, {"RateLimit": '"api";r=0;t=3'}])
def test_a_rate_limit_is_waited_for(client, server, checkpoint, repo_id, header):
    """The client waits as long as it is told (here its clock is shortened), and the push goes on."""
    server.fail("POST .*/preupload", 429, headers=header)
    client("push", checkpoint, repo_id, token=TOKEN)
    assert len(server.asked(f"POST /api/models/{repo_id}/preupload")) == 2
    assert contents(client("pull", repo_id)) == contents(checkpoint)


@pytest.mark.parametrize("header", [{"Retry-After": "86400"}, {"RateLimit": '"api";r=0;t=86400'}])
def test_a_rate_limit_of_a_day_is_said_and_not_waited_for(client, server, checkpoint, repo_id, header):
    server.fail("POST .*/preupload", 429, headers=header, times=100)
    asked = "The Hub asks to wait 86,401 s before it answers again: try then."
    one_sentence(fails(client, "push", checkpoint, repo_id, token=TOKEN), asked)


def test_what_is_not_asked_again_says_when_to_try(client, server, published):
    server.fail(f"GET /api/models/{published}", 429, headers={"Retry-After": "600"}, times=100)
    one_sentence(fails(client, "pull", published), "with status 429; try in 600 s.")


def test_a_wait_of_some_time_is_said(server, checkpoint, repo_id, tmp_path):
    server.fail("POST .*/preupload", 429, headers={"Retry-After": "100"})
    code = """if True:
        import sys, time
        time.sleep = lambda seconds: None
        from zoo.cli import main
        sys.exit(main(sys.argv[1:]))"""
    done = subprocess.run(
        [sys.executable, "-c", code, "push", str(checkpoint), "--repo-id", repo_id],
        env=client_environment(server.endpoint, tmp_path / "cache") | {"HF_TOKEN": TOKEN},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("The Hub asks to wait 101 s before it answers again: waiting.") == 1
    assert "Rate limited" not in done.stderr


def test_a_cut_download_goes_on_where_it_was(client, server, published, large):
    server.sent.clear()
    oid = server.repos[published].commits[server.repos[published].branches["main"]]["samples.png"].oid
    server.cut(f"GET /lfs/{oid}", after=20_000)
    assert contents(client("pull", published)) == contents(large)
    assert [each.headers.get("range") for each in server.asked(f"GET /lfs/{oid}")] == [None, "bytes=20000-"]


@pytest.mark.slow
def test_a_killed_download_is_whole_the_next_time(server, published, large, tmp_path):
    """The oldest client goes on where it was, the newest begins anew: neither takes half a file for a whole one."""
    oid = server.repos[published].commits[server.repos[published].branches["main"]]["samples.png"].oid
    server.cut(f"GET /lfs/{oid}", after=20_000, pause=60)
    client = Client(server.endpoint, tmp_path)
    request = {"call": "pull", "args": [published], "kwargs": {}}
    client.process.stdin.write(json.dumps(request) + "\n")
    client.process.stdin.flush()
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size == 20_000 for path in tmp_path.rglob("*.incomplete")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    client.process.kill()
    client.process.wait()
    again = Client(server.endpoint, tmp_path)
    try:
        one_sentence(fails(again, "pull", published, local_files_only=True), published, "pull it")
        assert contents(again("pull", published)) == contents(large)
    finally:
        again.close()


def test_content_that_is_not_what_was_published(client, server, published, checkpoint, model, tmp_path):
    """A wrong SHA-256 or length is refused, said, and not kept: the next pull has the right one."""
    (oid,) = (file.oid for path, file in server.repos[published].commits[
        server.repos[published].branches["main"]].items() if path == "model.safetensors")  # fmt: skip
    data = server.objects[oid]
    try:
        for wrong in (data[:-1] + bytes([data[-1] ^ 1]), data[:-5]):
            server.objects[oid] = wrong
            error = fails(client, "pull", published)
            one_sentence(error, published, kind="ZooError")
            server.objects[oid] = data
            assert contents(client("pull", published)) == contents(checkpoint)
            client("push", checkpoint, published, token=TOKEN, revision="other")
            for blob in Path(client.home).rglob("blobs/*"):
                if blob.name == oid:
                    blob.unlink()
    finally:
        server.objects[oid] = data


@pytest.mark.slow
def test_a_late_answer_is_asked_for_again(server, published, checkpoint, tmp_path):
    server.cut("GET /lfs/", after=300, pause=8)
    client = Client(server.endpoint, tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="1", HF_HUB_ETAG_TIMEOUT="2")
    try:
        assert contents(client("pull", published)) == contents(checkpoint)
    finally:
        client.close()


def test_without_a_network_the_cached_copy_is_used_and_it_is_said(server, published, tmp_path):
    command = [sys.executable, "-c", "import sys, zoo.cli; sys.exit(zoo.cli.main())", "pull", published]
    environment = client_environment(server.endpoint, tmp_path)

    def pull() -> subprocess.CompletedProcess:
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    first = pull()
    server.stop()
    try:
        again = pull()
    finally:
        server.start()
    assert (again.returncode, again.stdout) == (first.returncode, first.stdout) == (0, first.stdout)
    assert "cannot be reached" in again.stderr
    assert f"Using the cached copy of {published}." in again.stderr


def test_a_cache_without_links_is_no_warning(server, published, tmp_path):
    code = f"""if True:
        import os
        def none(*_, **__):
            raise OSError(1, "no links")
        os.symlink = none
        from zoo.hub import remote
        remote.pull({published!r})"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=client_environment(server.endpoint, tmp_path / "cache"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "symlink" not in done.stderr
