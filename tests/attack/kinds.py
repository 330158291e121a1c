"""The commands that are killed and broken: what lies there before, what is done, what must hold whatever happened."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import victims
from bench import NAME, Bench, digest, zoo_command
from victims import contents

from zoo.data import CIFAR10, FashionMNIST
from zoo.errors import ZooError
from zoo.hub import finding, remote, store
from zoo.hub.tables import BEGIN, END, TABLES
from zoo.training.files import read_run


class Kind:
    """A command: what lies there before, what it does, what must hold afterwards.

    `clean` is all that lies in the folder of the work after the command alone; a broken one must leave each file as it
    was or as it is there, and a later one must bring all of them there.
    """

    watched: list[Path]
    requests = False  # whether it asks the Hub
    calls = asked = 0  # changes of files, and requests
    duration = 0.0  # in seconds

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.watched = [bench.work, bench.home]
        self.before: dict[str, bytes] = {}
        self.clean: dict[str, bytes] = {}

    def count(self) -> None:
        """Run it once, and note what it does and leaves."""
        with victims.fresh(self.bench.work):
            self.prepare("counted")
            self.bench.hub("break_at", None, "")
            start = time.monotonic()
            self.calls = victims.changes(self.action(), self.bench.work, self.watched)
            self.duration = time.monotonic() - start
            self.asked = self.bench.hub("asked") if self.requests else 0
            self.clean = contents(self.bench.work)

    def prepare(self, case: object) -> None:
        """Lay out what is there before a case, which is named."""

    def action(self) -> Callable[[], int]:
        """What is done."""
        raise NotImplementedError

    def check(self) -> None:
        """What is there is old or new, and whole; run again, all is as it should be."""
        found = contents(self.bench.work)
        for name in sorted({*found, *self.before}):
            old, new, data = (files.get(name) for files in (self.before, self.clean, found))
            assert data in (old, new), f"{name} is {'lost' if data is None else 'neither the old file nor the new one'}"
        if found != self.clean:
            self.again()
        found = contents(self.bench.work)
        assert found == self.clean, f"run again: {_differences(found, self.before, self.clean)}"

    def serve(self) -> None:
        """Put at the server what is to be fetched."""

    def served(self) -> list[str]:
        """The names of what is fetched."""
        return []

    def again(self, action: Callable[[], int] | None = None) -> None:
        """Run the command again, which must succeed."""
        victims.run(action or self.action(), self.bench.work).check()


class Fit(Kind):
    """A training, and its resumption."""

    def action(self) -> Callable[[], int]:
        return self.bench.fit(self.bench.work / "run")

    def check(self) -> None:
        run = self.bench.work / "run"
        there = sorted(path.name for path in run.glob("checkpoints/*.ckpt"))
        for name in there:
            read_run(run / "checkpoints" / name)
        more = ["--ckpt_path", "last"] if "last.ckpt" in there else []
        self.again(self.bench.fit(run, *more))
        assert digest(run) == digest(self.bench.run), "last.ckpt differs in some bit"
        # Of its weights it need not be: a run killed in its last validation has no step left before which to repeat it.
        read_run(run / "checkpoints" / "best.ckpt")


class Export(Kind):
    """A checkpoint folder, made from a run."""

    overwrite = False

    def prepare(self, case: object) -> None:
        if self.overwrite:
            shutil.copytree(self.bench.old, self.bench.work / "checkpoints" / NAME)

    def action(self) -> Callable[[], int]:
        more = ["--overwrite"] if self.overwrite else []
        return zoo_command("export", str(self.bench.folder / "second"), NAME, *more)

    def check(self) -> None:
        old, new = contents(self.bench.old), contents(self.bench.new)
        try:
            found = contents(finding.find(NAME))
        except ZooError:
            found = {}
        assert found in ([old, new] if self.overwrite else [{}, new]), f"neither: {_differences(found, old, new)}"
        if self.overwrite or not found:
            self.again()
        assert contents(finding.find(NAME)) == new


class Overwrite(Export):
    """A checkpoint folder in the place of another one."""

    overwrite = True


class Pull(Kind):
    """A checkpoint fetched from the Hub."""

    requests = True
    update = False

    def prepare(self, case: object) -> None:
        self.repo = f"alice/pixelcnn-{type(self).__name__.lower()}-{case}"
        if self.update:
            self.bench.hub("hold", self.repo, contents(self.bench.old))
            self.again()
        self.serve()

    def serve(self) -> None:
        self.bench.hub("hold", self.repo, contents(self.bench.new))

    def served(self) -> list[str]:
        return [*contents(self.bench.new)]

    def action(self) -> Callable[[], int]:
        return zoo_command("pull", self.repo)

    def check(self) -> None:
        old, new = contents(self.bench.old), contents(self.bench.new)
        try:
            found = contents(remote.pull(self.repo, local_files_only=True))
        except ZooError:
            found = {}
        assert found in ([old, new] if self.update else [{}, new]), f"neither: {_differences(found, old, new)}"
        self.again()
        assert contents(remote.pull(self.repo, local_files_only=True)) == new


class Update(Pull):
    """A newer version of a checkpoint that is in the cache."""

    update = True


class Push(Kind):
    """A checkpoint sent to the Hub."""

    requests = True
    update = False

    def prepare(self, case: object) -> None:
        self.repo = f"alice/pixelcnn-{type(self).__name__.lower()}-{case}"
        if self.update:
            self.bench.hub("hold", self.repo, contents(self.bench.old))

    def action(self) -> Callable[[], int]:
        return zoo_command("push", str(self.bench.new), "--repo-id", self.repo)

    def check(self) -> None:
        old, new = contents(self.bench.old), contents(self.bench.new)
        found = self.bench.hub("held", self.repo)
        self.again()
        there = self.bench.hub("held", self.repo)
        # But for the card, which may say under which name it was pushed.
        assert {**there, "README.md": b""} == {**new, "README.md": b""}, _differences(there, old, new)
        assert found in ([old, there] if self.update else [{}, there]), f"neither: {_differences(found, old, there)}"


class PushUpdate(Push):
    """A newer version sent to the Hub."""

    update = True


class Own(Kind):
    """A command on a checkpoint of one's own, which lies in the folder of the work with a picture and a README."""

    def prepare(self, case: object) -> None:
        work = self.bench.work
        shutil.copytree(self.bench.new, work / "checkpoints" / NAME)
        shutil.copy(self.bench.old / "samples.png", work / "picture.png")
        (work / "checkpoints" / NAME / "README.md").write_text("old\n")
        begin, end = (mark.format(TABLES[0]) for mark in (BEGIN, END))
        for page in (work / "README.md", work / "docs" / "checkpoints.md"):  # wherever the table is
            page.parent.mkdir(exist_ok=True)
            page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
        self.before = contents(work)


class Save(Own):
    """`zoo.hub.store.save`, in the place of another checkpoint."""

    def action(self) -> Callable[[], int]:
        return sentence(lambda: store.save(store.load(self.bench.old), self.bench.work / "checkpoints" / NAME))

    def check(self) -> None:
        weights = self.bench.work / "checkpoints" / NAME
        store.load(weights)  # which compares them with config.json
        super().check()


class Card(Own):
    """A card, written anew."""

    def action(self) -> Callable[[], int]:
        return zoo_command("card", NAME, "--write")


class Table(Own):
    """The table of a README, written anew."""

    def action(self) -> Callable[[], int]:
        return zoo_command("card", "--readme")


class Evaluate(Own):
    """Numbers, put into config.json and on the card."""

    def action(self) -> Callable[[], int]:
        return zoo_command("evaluate", NAME, "--write", "--device", "cpu")


class Sample(Own):
    """A picture of samples, in the place of another one."""

    def action(self) -> Callable[[], int]:
        return zoo_command("sample", NAME, "-n", "2", "--seed", "1", "--out", "picture.png")


class Complete(Own):
    """A picture of completions, in the place of another one."""

    def action(self) -> Callable[[], int]:
        return zoo_command("complete", NAME, "-n", "2", "--seed", "1", "--out", "picture.png")


class Download(Kind):
    """A data set, fetched from its official source into a folder that has a part of it."""

    requests = True
    repo = "data/sets"
    files: dict[str, bytes]  # at the source
    kept: dict[str, bytes]  # in the folder, before

    def serve(self) -> None:
        self.bench.hub("hold", self.repo, self.files)

    def served(self) -> list[str]:
        return [*self.files]

    def prepare(self, case: object) -> None:
        self.serve()
        for name, data in self.kept.items():
            path = self.bench.work / name
            path.parent.mkdir(parents=True)
            path.write_bytes(data)
        self.before = contents(self.bench.work)

    def url(self, name: str) -> str:
        """Of a file at the source."""
        return f"{self.bench.hub.endpoint}/{self.repo}/resolve/main/{name}"


class Clothes(Download):
    """Fashion-MNIST of a few images: four files, each with an address of its own."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        counts = {"train": 12, "t10k": 4}
        plain = {}
        for part, n in counts.items():
            images, labels = _bytes(n * 784), _bytes(n, 10)
            plain[f"{part}-images-idx3-ubyte"] = bytes([0, 0, 8, 3]) + _big(n, 28, 28) + images
            plain[f"{part}-labels-idx1-ubyte"] = bytes([0, 0, 8, 1]) + _big(n) + labels
        self.files = {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in plain.items()}
        first = next(iter(plain))
        self.kept = {f"FashionMNIST/raw/{first}": plain[first]}
        given = [(name, [self.url(f"{name}.gz")], _md5(self.files[f"{name}.gz"])) for name in plain]
        sums = {name: hashlib.sha256(data).hexdigest() for name, data in plain.items()}
        own = {"counts": counts, "sha256": sums, "sources": lambda data: given}
        self.data = type("Clothes", (FashionMNIST,), own)

    def action(self) -> Callable[[], int]:
        def fetch() -> None:
            data = self.data(root=str(self.bench.work), validation=2)
            data.prepare_data()
            data.setup("fit")
            data.setup("test")

        return sentence(fetch)


class Photos(Download):
    """CIFAR-10 of a few images: files of one archive."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        rows, folder = 2, CIFAR10.folder
        plain = {name: _bytes(rows * 3073, 10) for name in CIFAR10.sha256}
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for name, data in plain.items():
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        self.files = {"cifar.tar.gz": packed.getvalue()}
        first = next(iter(plain))
        self.kept = {f"{folder}/{first}": plain[first]}
        sums = {name: hashlib.sha256(data).hexdigest() for name, data in plain.items()}
        own = {"url": self.url("cifar.tar.gz"), "md5": _md5(packed.getvalue()), "rows": rows, "sha256": sums}
        self.data = type("Photos", (CIFAR10,), own)

    action = Clothes.action


KINDS: dict[str, type[Kind]] = {
    "fit": Fit,
    "export": Export,
    "export --overwrite": Overwrite,
    "pull": Pull,
    "pull of a newer version": Update,
    "push": Push,
    "push of a newer version": PushUpdate,
    "save": Save,
    "evaluate --write": Evaluate,
    "card --write": Card,
    "card --readme": Table,
    "sample": Sample,
    "complete": Complete,
    "download of files": Clothes,
    "download of an archive": Photos,
}


def sentence(action: Callable[[], object]) -> Callable[[], int]:
    """A call of the package, ending as its command line ends."""

    def call() -> int:
        try:
            action()
        except ZooError as error:
            print(f"zoo: {error}", file=sys.stderr)
            return 1
        return 0

    return call


def _differences(found: dict[str, bytes], old: dict[str, bytes], new: dict[str, bytes]) -> str:
    """Of each file, whether it is the old one, the new one or another."""

    def said(name: str) -> str:
        data = found.get(name)
        if data is None:
            return "absent"
        return "new" if data == new.get(name) else "old" if data == old.get(name) else "another"

    return ", ".join(f"{name} is {said(name)}" for name in sorted({*found, *new}))


def _bytes(n: int, most: int = 256) -> bytes:
    return np.random.RandomState(n).randint(0, most, n).astype(np.uint8).tobytes()


def _big(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in numbers)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
