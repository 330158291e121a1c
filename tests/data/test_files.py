"""Files absent, damaged, downloaded and half downloaded: one sentence each, and nothing lost."""

import contextlib
import os
import signal
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from interrupted import refused_beyond
from small_sets import (
    CIFAR_FILES,
    MNIST_FILES,
    SmallCIFAR10,
    SmallMNIST,
    archive,
    md5,
    pack,
    write,
)

from zoo.errors import DataError

NAME = "train-images-idx3-ubyte"
GOOD = MNIST_FILES[NAME]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    """Serve `.pages`, path to bytes; paths in `.cut` break off half-way; `.asked` lists the requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            data = server.pages.get(self.path)
            if data is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if self.path in server.cut else data)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.pages, server.cut, server.asked = {}, set(), []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "MNIST" / "raw"


def mnist(tmp_path, servers=(), **arguments):
    data = SmallMNIST(str(tmp_path), validation=10, **arguments)
    data.servers = list(servers)
    return data


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(call, *parts):
    """Check that `call` is answered with one sentence that holds all `parts`."""
    with pytest.raises(DataError) as error:
        call()
    sentence = str(error.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    for part in parts:
        assert str(part) in sentence
    return sentence


def test_reads_files_or_their_gz(tmp_path, raw):
    write(raw, MNIST_FILES)
    plain = mnist(tmp_path, download=False)
    plain.setup()
    assert plain.train[0].shape == (20, 1, 28, 28)
    assert plain.val[0].shape == (10, 1, 28, 28)
    assert plain.test[0].shape == (20, 1, 28, 28)
    images = torch.cat([plain.train[0], plain.val[0]])
    assert bytes(images.flatten().tolist()) == GOOD[16:]
    assert bytes(torch.cat([plain.train[1], plain.val[1]]).tolist()) == MNIST_FILES["train-labels-idx1-ubyte"][8:]

    for name, data in MNIST_FILES.items():
        (raw / name).unlink()
        (raw / f"{name}.gz").write_bytes(pack(data))
    packed = mnist(tmp_path)  # a download would fail: no servers
    packed.prepare_data()
    packed.setup()
    assert torch.equal(packed.train[0], plain.train[0])
    assert torch.equal(packed.test[1], plain.test[1])


def test_reads_cifar(tmp_path):
    write(tmp_path / SmallCIFAR10.folder, CIFAR_FILES)
    data = SmallCIFAR10(str(tmp_path), validation=10)
    data.setup()
    assert [len(split[0]) for split in (data.train, data.val, data.test)] == [30, 10, 8]
    image, label = data.test[0][3], data.test[1][3]
    row = CIFAR_FILES["test_batch.bin"][3 * 3073 : 4 * 3073]
    assert label == row[0]
    # The planes are red, green and blue; in a plane, rows come one after another.
    assert image[2, 5, 7] == row[1 + 2 * 1024 + 5 * 32 + 7]


def test_missing_file_without_download(tmp_path, raw):
    data = mnist(tmp_path, download=False)
    data.prepare_data()
    refused(data.setup, raw / "train-images-idx3-ubyte", "is missing", "ZOO_DATA")
    assert not raw.exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (GOOD[:-1], f"{len(GOOD) - 1:,} bytes instead of {len(GOOD):,}"),
        (b"", "0 bytes"),
        (GOOD + b"\0", "bytes instead of"),
        (b"\0\0\x0d" + GOOD[3:], "first bytes"),
        (GOOD[:-1] + bytes([GOOD[-1] ^ 1]), "sha256"),
    ],
    ids=["truncated", "empty", "too long", "magic", "flipped bit"],
)
def test_damaged_file(tmp_path, raw, content, complaint):
    write(raw, MNIST_FILES | {NAME: content})
    data = mnist(tmp_path)
    before = contents(raw)
    data.prepare_data()
    refused(data.setup, raw / NAME, complaint, "delete it")
    assert contents(raw) == before


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (pack(GOOD)[:-20], "cannot be read"),
        (b"no gzip", "cannot be read"),
        (pack(GOOD)[:30] + b"????" + pack(GOOD)[34:], "cannot be read"),
        (pack(GOOD[:100]), "100 bytes"),
    ],
    ids=["truncated", "not gzip", "damaged", "too short"],
)
def test_damaged_gz(tmp_path, raw, content, complaint):
    write(raw, {name: data for name, data in MNIST_FILES.items() if name != NAME} | {f"{NAME}.gz": content})
    refused(mnist(tmp_path).setup, raw / f"{NAME}.gz", complaint)


def test_folder_in_place_of_a_file(tmp_path, raw):
    (raw / NAME).mkdir(parents=True)
    refused(mnist(tmp_path).setup, raw / NAME, "cannot be read")


@contextlib.contextmanager
def within(seconds: int):
    """Fail where a call would not end."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"it has not ended after {seconds} s"))
    signal.alarm(seconds)
    yield
    signal.alarm(0)


@pytest.mark.parametrize("name", [NAME, f"{NAME}.gz"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path, raw, name):
    write(raw, {other: data for other, data in MNIST_FILES.items() if other != NAME})
    os.mkfifo(raw / name)
    with within(5):
        refused(mnist(tmp_path).setup, raw / name, "no regular file", "delete it")


def test_a_pipe_in_place_of_the_other_data_sets_files(tmp_path):
    for path in (tmp_path / SmallCIFAR10.folder / "data_batch_1.bin", tmp_path / "binarized_mnist_train.amat"):
        path.parent.mkdir(exist_ok=True)
        os.mkfifo(path)
    with within(5):
        refused(SmallCIFAR10(str(tmp_path), download=False).setup, "data_batch_1.bin", "no regular file")
        refused(SmallMNIST(fixed=str(tmp_path)).setup, "train.amat", "no regular file")


def test_what_is_packed_is_not_unpacked_beyond_its_size(tmp_path, raw):
    write(raw, {name: data for name, data in MNIST_FILES.items() if name != NAME})
    packed = raw / f"{NAME}.gz"
    for size, complaint in (
        (2**27, "cannot be read (its"),
        (2**23, f"more than {len(GOOD):,} bytes instead of {len(GOOD):,}"),
    ):
        packed.write_bytes(pack(bytes(size)))
        tracemalloc.start()
        try:
            refused(mnist(tmp_path).setup, packed, complaint)
            assert tracemalloc.get_traced_memory()[1] < 2**21
        finally:
            tracemalloc.stop()


def test_a_file_that_is_far_too_large_is_not_read(tmp_path, raw):
    write(raw, MNIST_FILES)
    with (raw / NAME).open("r+b") as file:
        file.truncate(2**40)  # which takes no disk
    refused(mnist(tmp_path).setup, raw / NAME, "1,099,511,627,776 bytes")


def test_downloads_what_is_absent_and_touches_nothing_else(tmp_path, raw, server):
    server.pages = {f"/{name}.gz": pack(data) for name, data in MNIST_FILES.items()}
    write(raw, {NAME: b"mine"})
    mnist(tmp_path, [server.url]).prepare_data()
    assert contents(raw) == MNIST_FILES | {NAME: b"mine"}
    assert f"/{NAME}.gz" not in server.asked

    (raw / NAME).unlink()
    data = mnist(tmp_path, [server.url])
    data.prepare_data()
    data.setup()
    asked = len(server.asked)
    data.prepare_data()
    assert len(server.asked) == asked


def test_next_mirror_when_one_fails(tmp_path, raw, server):
    server.pages = {f"/good/{name}.gz": pack(data) for name, data in MNIST_FILES.items()}
    server.pages |= {f"/wrong/{name}.gz": pack(b"else") for name in MNIST_FILES}
    mirrors = [f"{server.url}/{mirror}" for mirror in ("absent", "wrong", "good")]
    mnist(tmp_path, mirrors).prepare_data()
    assert contents(raw) == MNIST_FILES


def test_failed_downloads_leave_nothing_behind(tmp_path, raw, server):
    address = f"{server.url}/{NAME}.gz"
    data = mnist(tmp_path, [server.url])
    refused(data.prepare_data, address, "404", "ZOO_DATA")

    server.pages[f"/{NAME}.gz"] = pack(GOOD)
    server.cut.add(f"/{NAME}.gz")
    refused(data.prepare_data, address, "check the network")

    server.cut.clear()
    server.pages[f"/{NAME}.gz"] = pack(GOOD[:-1])
    refused(data.prepare_data, address, "md5 differs")

    server.shutdown()
    server.server_close()
    refused(data.prepare_data, address, "check the network")
    assert contents(raw) == {}


def test_a_full_disk_while_downloading_is_no_failure_of_the_network(tmp_path, raw, server):
    server.pages = {f"/{name}.gz": pack(data) for name, data in MNIST_FILES.items()}
    data = mnist(tmp_path, [server.url])
    for size in (0, 100, 20_000):  # as the packed file, or the file itself, is written
        kinds, said = refused_beyond(data.prepare_data, size)
        assert "DataError" in kinds
        assert "\n" not in said
        assert str(raw) in said
        assert "free disk space" in said
        assert "network" not in said
        assert all(contents(raw)[name] == MNIST_FILES[name] for name in contents(raw))
    data.prepare_data()
    assert contents(raw) == MNIST_FILES


def test_root_that_cannot_be_written(tmp_path, server):
    (tmp_path / "MNIST").write_text("a file where the folder should be")
    refused(mnist(tmp_path, [server.url]).prepare_data, tmp_path / "MNIST", "cannot write", "ZOO_DATA")


def test_several_processes_may_download_at_once(tmp_path, raw, server):
    server.pages = {f"/{name}.gz": pack(data) for name, data in MNIST_FILES.items()}

    def run(_):
        data = mnist(tmp_path, [server.url])
        data.prepare_data()
        data.setup()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))
    assert contents(raw) == MNIST_FILES


def test_cifar_archive(tmp_path, server):
    data = SmallCIFAR10(str(tmp_path), validation=10)
    data.url = f"{server.url}/cifar.tar.gz"

    def offer(content):
        server.pages["/cifar.tar.gz"] = content
        data.md5 = md5(content)

    for content in (
        b"no archive",
        archive({}),
        archive(CIFAR_FILES)[:-2000],
        archive({"data_batch_1.bin": CIFAR_FILES["data_batch_1.bin"]}),
    ):
        offer(content)
        refused(data.prepare_data, data.url, tmp_path)
    folder = tmp_path / SmallCIFAR10.folder
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]

    offer(archive(CIFAR_FILES | {"../../../escape.bin": b"no"}))
    data.prepare_data()
    assert contents(folder) == CIFAR_FILES
    assert not list(tmp_path.parent.rglob("escape.bin"))
    data.setup()


def test_validation_must_leave_training_images(tmp_path, raw):
    write(raw, MNIST_FILES)
    for validation in (0, -1, 30, 31):
        data = SmallMNIST(str(tmp_path), validation=validation)
        refused(data.setup, "MNIST", "validation", "1 to 29")
