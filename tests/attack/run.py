"""What damaged files, kills and broken disks and networks do to the zoo: tried by the thousand, and counted.

    python tests/attack/run.py [--seed 0] [--jobs 16] [--scale 0.1] [--only checkpoints] [--write] [--json FILE]
    python tests/attack/run.py --case checkpoints:1234      one case again, here, with its traceback

An attack is a module of this folder with `cases(seed, n, folder)`, which yields at most n cases in the same order
for the same seed, each a description and a function without arguments that does one thing to the zoo, in files of
its own below `folder`. A case may end in two ways: the function returns ("worked"), or it raises a `ZooError` of less
than 500 printable characters, all on one line ("refused"). Anything else is a fault: another exception, a longer
message, more than 10 s of computing or 120 s in all, more than 1 GiB of memory beyond what the imports take, a crash.

Processes are forked from one that has imported the modules; each takes the next case that nobody has taken yet.
"""

from __future__ import annotations

import os

# Before torch is imported: as many processes run as there are cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import contextlib
import importlib
import json
import multiprocessing
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

CPU_SECONDS = 10  # of computing, which a machine that others use does not lengthen
SECONDS = 120  # that a case may take in all: waiting for ever is a fault as well
BYTES = 2**30  # beyond what the process held when its first case began
CHARACTERS = 500
PROMISES = ROOT / "docs" / "promises.md"
BEGIN, END = "<!-- promises:begin -->", "<!-- promises:end -->"


class Attack(NamedTuple):
    """A module of this folder: what it tries, how often in all and in the suite, and whether its kinds have rows."""

    name: str
    what: str
    count: int
    small: int
    kinds: bool = False


ATTACKS = [
    Attack("checkpoints", "damaged checkpoint folders", 10_000, 150),
    Attack("tables", "damaged tables", 1000, 40),
    Attack("image_folders", "damaged image folders", 1000, 40),
    Attack("recipes", "damaged recipes", 100, 4),
    Attack("kills", "kills (-9)", 400, 7, kinds=True),
    Attack("faults", "broken disks and networks", 2000, 14, kinds=True),
]


# -- one case ----------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """How a case ended: "worked", "refused" or "fault", and what is to be said of it."""

    result: str
    said: str = ""


def judge(case: Any) -> Outcome:
    """Run a case and judge how it ended."""
    from zoo.errors import ZooError

    try:
        case()
    except ZooError as error:
        said = str(error)
        if len(said) >= CHARACTERS:
            return Outcome("fault", f"a message of {len(said)} characters: {said[:200]!a}...")
        if not said.isprintable():
            return Outcome("fault", f"a message of several lines, or with characters that cannot be printed: {said!a}")
        if not said:
            return Outcome("fault", "a message that says nothing")
        return Outcome("refused", said)
    except BaseException as error:  # a KeyboardInterrupt or SystemExit of a case's own is a fault like any other
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {str(error)[:2000]!a} in {Path(where.filename).name}:{where.lineno}"
        return Outcome("fault", text)
    return Outcome("worked")


def peak() -> int:
    """The most memory, in bytes, that this process or one that it has waited for ever held."""
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return most * (1 if sys.platform == "darwin" else 1024)


def resident(pid: int) -> int | None:
    """The memory, in bytes, that a process holds now, where the system tells."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return None


def computed() -> float:
    """Seconds of computing of this process and of those that it has waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


@contextlib.contextmanager
def limited() -> Any:
    """End this process by a signal where what is done here takes too long, also inside of a library's own code."""
    for clock, name, seconds in (
        (signal.ITIMER_PROF, signal.SIGPROF, CPU_SECONDS),
        (signal.ITIMER_REAL, signal.SIGALRM, SECONDS),
    ):
        signal.signal(name, signal.SIG_DFL)
        signal.setitimer(clock, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


# -- many cases ----------------------------------------------------------------------------------------------------


def work(module: ModuleType, seed: int, n: int, folder: str, counter: Any, pipe: Connection) -> None:
    """Take case after case until there are none: of each its number, description, outcome, time and memory."""
    os.setpgrp()  # so that what a case starts can be ended with it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open(os.devnull, "r+b") as nothing:
        for descriptor in (0, 1, 2):
            os.dup2(nothing.fileno(), descriptor)

    def take() -> int:
        with counter.get_lock():
            counter.value += 1
            return counter.value - 1

    number, wanted, base = -1, take(), None
    try:
        for number, (description, case) in enumerate(module.cases(seed, n, Path(folder))):
            if number < wanted:
                continue
            base = base or peak()
            pipe.send(("start", number, description))
            start, cpu = time.perf_counter(), computed()
            with limited():
                outcome = judge(case)
            memory = max(0, peak() - base)
            if memory > BYTES:
                outcome = Outcome("fault", f"{memory / 2**30:.1f} GiB of memory; {outcome.said}")
            pipe.send(("end", *outcome, time.perf_counter() - start, computed() - cpu, memory))
            if memory > BYTES:
                return  # the mark only rises: another process takes the cases to come
            wanted = take()
    except Exception as error:
        pipe.send(("start", number + 1, "the making of the case itself"))
        pipe.send(("end", "fault", f"{type(error).__name__}: {error}", 0.0, 0.0, 0))
    pipe.send(("none",))


@dataclass
class Worker:
    """A process, and the case that it is at."""

    process: Any
    pipe: Connection
    folder: str
    case: tuple[int, str] | None = None
    began: float = 0.0
    too_large: int = 0


@dataclass
class Tally:
    """What became of the cases of an attack, or of one kind of them."""

    results: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    longest: str = ""

    def add(self, case: str, result: str, seconds: float, cpu: float, memory: int) -> None:
        """Count a case."""
        self.results[result] += 1
        if seconds > self.seconds:
            self.seconds, self.longest = seconds, case
        self.cpu, self.memory = max(self.cpu, cpu), max(self.memory, memory)


def carry_out(attack: Attack, seed: int, n: int, jobs: int) -> tuple[dict[str, Tally], list[dict[str, Any]]]:
    """Run the cases of an attack in `jobs` processes; what became of them, by kind and as "", and the faults."""
    module = importlib.import_module(attack.name)
    context = multiprocessing.get_context("fork")
    counter, base = context.Value("q", 0), resident(os.getpid()) or 0
    tallies: dict[str, Tally] = {"": Tally()}
    faults: list[dict[str, Any]] = []
    workers: list[Worker] = []
    done = False

    def start() -> None:
        folder = tempfile.mkdtemp(prefix=f"zoo-attack-{attack.name}-")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(module, seed, n, folder, counter, theirs))
        process.start()
        theirs.close()
        workers.append(Worker(process, ours, folder))

    def count(worker: Worker, result: str, said: str, seconds: float, cpu: float, memory: int) -> None:
        number, description = worker.case
        worker.case = None
        case = f"{attack.name}:{number}"
        kind = description.partition(":")[0] if attack.kinds else ""
        for each in {"", kind}:
            tallies.setdefault(each, Tally()).add(case, result, seconds, cpu, memory)
        if result == "fault":
            faults.append({"case": case, "seed": seed, "n": n, "description": description, "fault": said})
            print(f"  {case} ({description}): {said}", file=sys.stderr, flush=True)

    def bury(worker: Worker) -> None:
        worker.process.join()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.process.pid, signal.SIGKILL)
        worker.pipe.close()
        workers.remove(worker)
        shutil.rmtree(worker.folder, ignore_errors=True)
        if worker.case is not None:
            seconds = time.perf_counter() - worker.began
            count(worker, "fault", _end(worker), seconds, 0.0, worker.too_large)

    try:
        for _ in range(min(jobs, n)):
            start()
        while workers:
            for pipe in wait([worker.pipe for worker in workers], timeout=0.05):
                worker = next(each for each in workers if each.pipe is pipe)
                try:
                    event, *rest = pipe.recv()
                except EOFError:
                    bury(worker)
                    if not done and counter.value < n:
                        start()
                    continue
                if event == "start":
                    worker.case, worker.began = tuple(rest), time.perf_counter()
                elif event == "end":
                    count(worker, *rest)
                else:
                    done = True  # this many cases there are
            for worker in workers:
                held = resident(worker.process.pid)
                if worker.case and held is not None and held - base > BYTES and not worker.too_large:
                    worker.too_large = held - base
                    worker.process.kill()
    finally:
        for worker in list(workers):
            worker.process.kill()
            worker.case = None
            bury(worker)
    return tallies, sorted(faults, key=lambda fault: int(fault["case"].partition(":")[2]))


def _end(worker: Worker) -> str:
    """What ended a process in the middle of a case."""
    if worker.too_large:
        return f"more than {BYTES / 2**30:g} GiB of memory"
    ends = {
        -signal.SIGPROF: f"more than {CPU_SECONDS} s of computing",
        -signal.SIGALRM: f"no end after {SECONDS} s",
    }
    status = worker.process.exitcode
    if status < 0:
        return ends.get(status) or f"the process died of {signal.Signals(-status).name}"
    return f"the process ended with status {status}"


# -- what is said of them --------------------------------------------------------------------------------------------


def rows(attack: Attack, tallies: dict[str, Tally]) -> list[dict[str, Any]]:
    """Of an attack, and of its kinds where they have rows: the counts, and the worst."""
    return [
        {
            "what": f"{attack.what}: {kind}" if kind else attack.what,
            "tried": sum(tally.results.values()),
            **{result: tally.results[result] for result in ("refused", "worked", "fault")},
            "seconds": round(tally.seconds, 2),
            "cpu_seconds": round(tally.cpu, 2),
            "memory_mib": round(tally.memory / 2**20),
            "longest": tally.longest,
        }
        for kind, tally in sorted(tallies.items())
    ]


def table(found: list[dict[str, Any]]) -> str:
    """The rows as a table in Markdown."""
    header = [
        "what",
        "tried",
        "refused in one sentence",
        "worked",
        "faults",
        "longest, s",
        "computing, s",
        "memory, MiB",
    ]
    keys = ("tried", "refused", "worked", "fault", "seconds", "cpu_seconds", "memory_mib")
    lines = [header, ["---", *["--:"] * len(keys)]]
    lines += [[row["what"], *(f"{row[key]:,}" for key in keys)] for row in found]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_promises(path: Path, text: str) -> None:
    """Put the table between the marks of a file, which keeps the rest."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{path} has no {BEGIN} ... {END} to write the table between.")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def about(seed: int, jobs: int, minutes: float) -> str:
    """Where and when the numbers of a table are from."""
    import platform

    import torch

    python = ".".join(platform.python_version_tuple()[:2])
    return (
        f"Seed {seed}, {jobs} processes, {minutes:.0f} minutes; Python {python}, "
        f"PyTorch {torch.__version__.partition('+')[0]}, {platform.system()}."
    )


def replay(case: str, seed: int, count: int | None) -> int:
    """Run one case here, with whatever it prints, and its traceback."""
    name, _, number = case.partition(":")
    n = count or _attack(name).count
    with tempfile.TemporaryDirectory(prefix="zoo-attack-") as folder:
        for i, (description, function) in enumerate(importlib.import_module(name).cases(seed, n, Path(folder))):
            if i == int(number):
                print(f"{case}: {description}\nfiles in {folder}", flush=True)
                with limited():
                    try:
                        function()
                        print("worked")
                        return 0
                    except BaseException as error:
                        traceback.print_exc()
                        print(f"{type(error).__name__} of {len(str(error))} characters: {error}")
                        return 1
    raise SystemExit(f"{name} has no case {number} of {n}.")


def _attack(name: str) -> Attack:
    """One of `ATTACKS`, or any other module that can be imported."""
    return next((each for each in ATTACKS if each.name == name), Attack(name, name, 100, 10))


def main(argv: list[str] | None = None) -> int:
    """Carry out the attacks, print the table, and return 1 where there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the cases")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once; by default one a core")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--scale", type=float, default=1.0, help="of the numbers of cases")
    size.add_argument("--small", action="store_true", help="as few as run in the suite")
    size.add_argument("--count", type=int, help="this many of each attack")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="modules of this folder, by default all")
    parser.add_argument("--case", metavar="NAME:NUMBER", help="run one case again")
    parser.add_argument("--write", action="store_true", help="put the table into docs/promises.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows and the faults there")
    given = parser.parse_args(argv)
    # The modules here, and what the tests share (`damage`, `hub_server`); the package of this checkout.
    sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "hub"), str(ROOT)]
    if given.case:
        return replay(given.case, given.seed, given.count)
    found, faults, began = [], [], time.perf_counter()
    for attack in [_attack(name) for name in given.only] if given.only else ATTACKS:
        n = given.count or (attack.small if given.small else max(1, round(attack.count * given.scale)))
        print(f"{attack.what}, {n:,} at most", file=sys.stderr, flush=True)
        tallies, wrong = carry_out(attack, given.seed, n, given.jobs)
        found += rows(attack, tallies)
        faults += wrong
    text = table(found)
    print(text)
    for fault in faults:
        again = f"python tests/attack/run.py --seed {fault['seed']} --count {fault['n']} --case {fault['case']}"
        print(f"\n{fault['description']}\n  {fault['fault']}\n  {again}")
    if given.json:
        given.json.write_text(json.dumps({"rows": found, "faults": faults}, indent=2) + "\n", encoding="utf-8")
    if given.write:
        minutes = (time.perf_counter() - began) / 60
        write_promises(PROMISES, f"{text}\n\n{about(given.seed, given.jobs, minutes)}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
