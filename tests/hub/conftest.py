import shutil
import uuid
from pathlib import Path

import pytest
import torch
from hub_client import Client
from hub_server import HubServer

from zoo.autoregressive import PixelCNN
from zoo.hub import store


@pytest.fixture(scope="session")
def server():
    server = HubServer()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _no_faults(request):
    yield
    if "server" in request.fixturenames:
        request.getfixturevalue("server").faults.clear()


@pytest.fixture(scope="session")
def client(server, tmp_path_factory):
    client = Client(server.endpoint, tmp_path_factory.mktemp("hf"))
    yield client
    client.close()


@pytest.fixture
def repo_id():
    """A repository that no other test knows."""
    return f"alice/pixelcnn-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def model():
    torch.manual_seed(0)
    return PixelCNN(shape=[1, 4, 4], levels=4, channels=2, blocks=1).eval()


@pytest.fixture(scope="session")
def pristine(model, tmp_path_factory):
    folder = store.save(model, tmp_path_factory.mktemp("pristine") / "pixelcnn-tiny")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    (folder / "samples.png").write_bytes(b"\x89PNG\r\n\x1a\n and more")
    return folder


@pytest.fixture
def checkpoint(pristine, tmp_path):
    """A sound checkpoint folder for a test to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "pixelcnn-tiny"))
