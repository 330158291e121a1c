"""What is killed and broken: a tiny model on the digits, its run, its checkpoint, and a Hub on loopback for them.

Everything is made once for a process of the runner, by the zoo's own commands, and copied for each case.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import re
import shutil
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sklearn.datasets  # noqa: F401
import torch
import victims
import yaml
from hub_server import Fault, File, HubServer, Repo

import zoo.training.cli  # noqa: F401  (heavy, hence before processes are forked; so is sklearn)
from zoo import cli
from zoo.hub import client, finding
from zoo.training.files import read_run

NAME = "pixelcnn-attacked"
STEPS = 4
TOKEN = "hf_alice"


class Hub:
    """The tests' Hub in a process of its own, for a process with threads is not to be forked; faults on demand."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.endpoint = self("endpoint")

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Call a method of `Breaking` there, or read an attribute."""
        self.pipe.send((name, arguments))
        failed, answer = self.pipe.recv()
        if failed:
            raise AssertionError(answer)
        return answer


def _serve(pipe: Any) -> None:
    server = Breaking()
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            return
        try:
            found = getattr(server, name)
            pipe.send((False, found(*arguments) if callable(found) else found))
        except Exception as error:
            pipe.send((True, f"{type(error).__name__}: {error}"))


@dataclass(frozen=True)
class Spoilt(File):
    """A file that is announced as another one."""

    announced: str

    @property
    def oid(self) -> str:
        """That of the other one."""
        return self.announced


class Breaking(HubServer):
    """A Hub that breaks at the k-th request from now, behind a line that may be slow."""

    def __init__(self) -> None:
        self.break_at(None, "")
        super().__init__()
        self.line = Line(self.port)

    @property
    def endpoint(self) -> str:
        """The address of the line."""
        return f"http://127.0.0.1:{self.line.port}"

    @property
    def cdn(self) -> str:
        """As `HubServer` has it: another name for the same."""
        return f"http://localhost:{self.line.port}"

    def break_at(self, at: int | None, how: str, value: int = 0, times: int = 1) -> None:
        """At request `at` and the `times - 1` after it: "status", "cut" after bytes, "stall", or "kill" a process."""
        self.count, self.at, self.how, self.value, self.times = 0, at, how, value, times

    def take_fault(self, request: str) -> Fault | None:
        """The fault of a request."""
        with self.lock:
            number, self.count = self.count, self.count + 1
        if self.at is None or not self.at <= number < self.at + self.times:
            return None
        if self.how == "kill":
            os.kill(self.value, 9)
        elif self.how == "stall":
            time.sleep(STALL)
        elif self.how == "status":
            return Fault(re.compile(""), 1, status=self.value)
        elif self.how == "cut":
            return Fault(re.compile(""), 1, cut_after=self.value)
        return None

    def asked(self) -> int:
        """Requests since `break_at`."""
        return self.count

    def hold(self, repo_id: str, files: dict[str, bytes]) -> None:
        """Make files the newest commit of a repository, which is made if need be."""
        with self.lock:
            repo = self.repos.setdefault(repo_id, Repo(private=False))
            kept = {path: File(data, path.endswith((".safetensors", ".png"))) for path, data in files.items()}
            self.objects |= {file.oid: file.data for file in kept.values() if file.lfs}
            repo.commit("main", kept)

    def held(self, repo_id: str) -> dict[str, bytes]:
        """The files of a repository but the hidden ones; none where there is none."""
        found = self.files(repo_id) if repo_id in self.repos else {}
        return {name: data for name, data in found.items() if not name.startswith(".")}

    def spoil(self, repo_id: str, path: str, how: str) -> None:
        """Give another content for a file, under the checksum of the right one."""
        with self.lock:
            files = self.repos[repo_id].commits[self.repos[repo_id].branches["main"]]
            data = bytearray(files[path].data)
            if how == "flip":
                data[len(data) // 2] ^= 1
            data = {"flip": bytes(data), "cut": bytes(data[:-1]), "other": b"something else"}[how]
            if files[path].lfs:
                self.objects[files[path].oid] = data
            else:
                files[path] = Spoilt(data, False, files[path].oid)

    def paced(self, how: str, value: int = 0) -> None:
        """Make the line "good", "slow" (a few bytes at a time), "dead" after bytes, "closed" after bytes or "gone"."""
        self.line.set(how, value)


STALL = 2.5  # longer than the clients are told to wait


class Line:
    """A line to a server on loopback, which passes on what comes, in the way that it is set to."""

    def __init__(self, port: int) -> None:
        self.how, self.value, self.upstream = "good", 0, port
        self.port = 0
        self.listener: socket.socket | None = None
        self.set("good", 0)

    def set(self, how: str, value: int) -> None:
        """How answers come, from now on."""
        self.how, self.value = how, value
        if how == "gone":  # nobody listens
            self.listener.shutdown(socket.SHUT_RDWR)  # which ends the waiting for the next
            self.listener.close()
            self.listener = None
        elif self.listener is None:
            self.listener = socket.create_server(("127.0.0.1", self.port))
            self.port = self.listener.getsockname()[1]
            threading.Thread(target=self._listen, args=(self.listener,), daemon=True).start()

    def _listen(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self.upstream))
                for source, sink, answers in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pass, args=(source, sink, answers), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        passed, how, value = 0, self.how, self.value
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if answers and how == "slow":
                    for start in range(0, len(data), 512):
                        sink.sendall(data[start : start + 512])
                        time.sleep(0.002)
                    continue
                if answers and how in ("dead", "closed"):
                    data = data[: max(0, value - passed)]
                    passed += len(data)
                sink.sendall(data)
                if answers and how == "closed" and passed == value:
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()


def use(hub: Hub, home: Path) -> None:
    """Let the Hub's client, in this process and those forked from it, speak to this Hub, and not wait for long."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "ZOO_HUB"))]:
        del os.environ[name]
    os.environ.update(
        HF_ENDPOINT=hub.endpoint,
        HF_HOME=str(home),
        HF_TOKEN=TOKEN,
        HF_HUB_DISABLE_XET="1",  # another protocol, which the server does not speak
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_HUB_DOWNLOAD_TIMEOUT="1",
        HF_HUB_ETAG_TIMEOUT="1",
        NO_PROXY="127.0.0.1,localhost",
    )
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        del sys.modules[name]  # it reads the environment when it is imported
    import huggingface_hub  # noqa: F401
    from huggingface_hub import HfApi, hf_hub_download  # noqa: F401  (lazy: now, and not in each process)


def zoo_command(*words: str) -> Callable[[], int]:
    """A command line as what a process does."""
    return lambda: cli.main([*words])


class Bench:
    """A run, a checkpoint of it and one of other weights, and the Hub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.home, self.work = self.folder / "hf", self.folder / "work"
        self.hub = Hub()
        use(self.hub, self.home)
        # Nothing waits for long: the Hub's client between its attempts, the zoo for an answer.
        sleep, urlopen = time.sleep, urllib.request.urlopen
        time.sleep = lambda seconds: sleep(min(seconds, 0.01))
        urllib.request.urlopen = lambda *given, **named: urlopen(*given, **{**named, "timeout": 1})
        client.TIMEOUT = client.SILENCE = 1.0
        self.place(self.work)
        self.recipe = self.folder / "tiny.yaml"
        self.recipe.write_text(yaml.safe_dump(recipe()))
        self.run = self.folder / "run"
        victims.run(self.fit(self.run), self.folder).check()
        self.old = self._exported("first", steps=2)
        self.new = self._exported("second", steps=STEPS)

    def place(self, folder: Path) -> None:
        """Let the bundled checkpoints be those of a folder, here and in processes forked from now on."""
        finding.BUNDLED = folder / "checkpoints"
        os.environ["ZOO_CHECKPOINTS"] = str(finding.BUNDLED)

    def fit(self, run: Path, *more: str) -> Callable[[], int]:
        """Train into a run's folder."""
        return zoo_command("fit", "--config", str(self.recipe), "--trainer.default_root_dir", str(run), *more)

    def _exported(self, name: str, steps: int) -> Path:
        run = self.folder / name
        victims.run(self.fit(run, "--trainer.max_steps", str(steps)), self.folder).check()
        with victims.fresh(self.work):
            victims.run(zoo_command("export", str(run), NAME), self.work).check()
            return Path(shutil.copytree(self.work / "checkpoints" / NAME, self.folder / f"{name}-{NAME}"))


def recipe() -> dict[str, Any]:
    """A training of some steps that writes all that a training writes: checkpoints, curves, pictures."""
    arguments = {"shape": [1, 8, 8], "levels": 17, "channels": 2, "blocks": 1, "dropout": 0.3}
    callbacks = [
        {"class_path": "zoo.callbacks.SampleGrid", "init_args": {"n": 1}},
        {"class_path": "zoo.callbacks.EMA", "init_args": {"decay": 0.5}},
        {"class_path": "zoo.callbacks.run.SaveLast", "init_args": {"every_n_steps": 1}},
    ]
    trainer = {"max_steps": STEPS, "val_check_interval": 2, "limit_val_batches": 1, "num_sanity_val_steps": 0}
    usual = {"accelerator": "cpu", "devices": 1, "enable_model_summary": False, "log_every_n_steps": 1}
    return {
        "model": {"class_path": "zoo.autoregressive.PixelCNN", "init_args": arguments},
        "data": {"class_path": "zoo.data.Digits", "init_args": {"batch_size": 32}},
        "trainer": {**trainer, **usual, "callbacks": callbacks},
    }


def digest(run: Path) -> str:
    """Of the training state in a run's last checkpoint, to the bit; the clock of its record is left out."""
    state = read_run(run / "checkpoints" / "last.ckpt")
    names = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "global_step")
    sha = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            sha.update(f"{value.dtype} {tuple(value.shape)}".encode())
            sha.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            for key, each in value.items():
                sha.update(repr(key).encode())
                add(each)
        elif isinstance(value, (list, tuple)):
            sha.update(str(len(value)).encode())
            for each in value:
                add(each)
        else:
            sha.update(repr(value).encode())

    add({name: state.get(name) for name in names})
    return sha.hexdigest()
