"""`zoo.hub` in another process, and what the tests say of its errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class RemoteError(Exception):
    """What a call raised in the worker: names of the exception's classes, and its text."""

    def __init__(self, kinds: list[str], message: str) -> None:
        super().__init__(f"{kinds[0]}: {message}")
        self.kinds, self.message = kinds, message


class Client:
    """`zoo.hub` in a process of its own, which talks to one server and has a cache of its own."""

    def __init__(self, endpoint: str, home: Path, **environment: str) -> None:
        self.home = home
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("hub_worker.py"))],
            env=client_environment(endpoint, home) | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, call: str, *args: object, **kwargs: object) -> str:
        request = {"call": call, "args": [str(arg) for arg in args], "kwargs": kwargs}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "result" not in answer:
            raise RemoteError(answer["kinds"], answer["message"])
        return answer["result"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def client_environment(endpoint: str, home: Path) -> dict[str, str]:
    """Of a process that talks to this Hub; ZOO_HUB_CLIENT is a folder with another version of the Hub's client.

    `pip install --target FOLDER huggingface_hub==1.3.0` makes one.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "ZOO_"))}
    return inherited | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",  # another protocol, which the server does not speak
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("ZOO_HUB_CLIENT"), str(ROOT)))),
    }


def fails(client: Client, *args: object, **kwargs: object) -> RemoteError:
    """What a call raises."""
    try:
        result = client(*args, **kwargs)
    except RemoteError as error:
        return error
    raise AssertionError(f"{args[0]} returned {result}")


def one_sentence(error: RemoteError, *words: str, kind: str = "HubError") -> None:
    """The error is the package's own, and its text one sentence that has these words and no token."""
    assert kind in error.kinds, error
    assert "ZooError" in error.kinds, error
    assert "\n" not in error.message
    assert error.message.endswith(".")
    assert "hf_" not in error.message
    for word in words:
        assert word in error.message, error.message
