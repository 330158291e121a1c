"""The runner of the attacks says what went wrong, in which case; and a few cases of each attack, in the suite."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TOY = """
import os, signal, time
from zoo.errors import CheckpointError, ZooError

class Careless(CheckpointError):
    # What it quotes, it says as it is, as no error of the package does.

    def __init__(self, text):
        super().__init__()
        self.args = (text,)

def refuse(text):
    raise Careless(text)

def hold():
    kept = []
    for _ in range(30):
        kept.append(bytes(bytearray(os.urandom(2**20)) * 64))
        time.sleep(0.01)

CASES = [
    ("fine", lambda: None),
    ("refused", lambda: refuse("No.")),
    ("long", lambda: refuse("x" * 500)),
    ("almost", lambda: refuse("x" * 499)),
    ("lines", lambda: refuse("one\\ntwo")),
    ("escape", lambda: refuse("\\x1b[2J")),
    ("csi", lambda: refuse("\\x9b2J")),
    ("foreign", lambda: 1 / 0),
    ("leaves", lambda: exit(3)),
    ("crash", lambda: os.kill(os.getpid(), signal.SIGSEGV)),
    ("ends", lambda: os._exit(5)),
    ("memory", hold),
    ("last", lambda: None),
]

def cases(seed, n, folder):
    for i, (name, case) in enumerate(CASES[:n]):
        yield f"{name} {seed}", case
"""
HANGS = """
import time

def cases(seed, n, folder):
    yield "computes", lambda: [0 for _ in iter(int, 1)]
    yield "waits", lambda: time.sleep(100)
    yield "fine", lambda: (folder / "own").write_text("x")
    yield "alone", lambda: (folder / "own").unlink()
"""


def attack(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess:
    found = os.pathsep.join(map(str, filter(None, (path, HERE.parents[1]))))
    environment = os.environ | {"PYTHONPATH": found, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "run.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def faults_of(file: Path) -> dict[str, str]:
    return {each["description"]: each["fault"] for each in json.loads(file.read_text())["faults"]}


@pytest.mark.slow
def test_each_way_to_end_is_judged(tmp_path: Path):
    (tmp_path / "toy_attack.py").write_text(TOY)
    out = tmp_path / "out.json"
    done = attack("--only", "toy_attack", "--seed", "7", "--jobs", "2", "--json", str(out), path=tmp_path)
    assert done.returncode == 1, done.stderr
    found = faults_of(out)
    said = {
        "long 7": "a message of 500 characters",
        "lines 7": "several lines",
        "escape 7": "cannot be printed",
        "csi 7": "cannot be printed",
        "foreign 7": "ZeroDivisionError: 'division by zero' in toy_attack.py:",
        "leaves 7": "SystemExit: '3'",
        "crash 7": "died of SIGSEGV",
        "ends 7": "ended with status 5",
        "memory 7": "GiB of memory",
    }
    assert found.keys() == said.keys()
    for description, words in said.items():
        assert words in found[description]
    (row,) = json.loads(out.read_text())["rows"]
    assert {key: row[key] for key in ("tried", "refused", "worked", "fault")} == {
        "tried": 13,
        "refused": 2,
        "worked": 2,
        "fault": 9,
    }
    assert row["memory_mib"] > 1024
    assert "| toy_attack | 13 | 2 | 2 | 9 |" in done.stdout
    assert "--seed 7 --count 100 --case toy_attack:7" in done.stdout
    again = attack("--seed", "7", "--count", "100", "--case", "toy_attack:7", path=tmp_path)
    assert again.returncode == 1
    assert "foreign 7" in again.stdout
    assert "ZeroDivisionError: division by zero" in again.stderr
    assert attack("--only", "toy_attack", "--count", "2", path=tmp_path).returncode == 0
    (tmp_path / "broken_attack.py").write_text("def cases(seed, n, folder):\n    yield 1 / 0\n")
    done = attack("--only", "broken_attack", "--jobs", "2", "--json", str(out), path=tmp_path)
    assert done.returncode == 1
    assert set(faults_of(out).values()) == {"ZeroDivisionError: division by zero"}


@pytest.mark.slow
def test_what_hangs_is_ended_and_named(tmp_path: Path):
    (tmp_path / "hanging_attack.py").write_text(HANGS)
    out = tmp_path / "out.json"
    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); import run; run.CPU_SECONDS, run.SECONDS = 0.5, 3; "
        "sys.exit(run.main(sys.argv[1:]))"
    )
    arguments = ["--only", "hanging_attack", "--jobs", "1", "--json", str(out)]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{HERE.parents[1]}"}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert faults_of(out) == {"computes": "more than 0.5 s of computing", "waits": "no end after 3 s"}
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["tried"], row["worked"]) == (4, 2)


def test_the_table_is_written_between_its_marks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(HERE)
    import run

    path = tmp_path / "promises.md"
    path.write_text(f"# Before\n\n{run.BEGIN}\nold\n{run.END}\n\nafter\n")
    tally = run.Tally()
    tally.add("x:3", "worked", 1.234, 0.5, 5 * 2**20)
    tally.add("x:4", "refused", 0.5, 0.25, 2**20)
    rows = run.rows(run.Attack("x", "things", 5, 1), {"": tally})
    run.write_promises(path, run.table(rows))
    text = path.read_text()
    assert text.startswith(f"# Before\n\n{run.BEGIN}\n| what | tried |")
    assert text.endswith(f"| things | 2 | 1 | 1 | 0 | 1.23 | 0.5 | 5 |\n{run.END}\n\nafter\n")
    path.write_text("no marks")
    with pytest.raises(SystemExit, match="promises:begin"):
        run.write_promises(path, "")


def attacks() -> list[str]:
    """The names in `ATTACKS`, without importing what the runner imports."""
    return re.findall(r'^    Attack\("(\w+)"', (HERE / "run.py").read_text(), flags=re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("name", attacks())
def test_a_few_of_each(name: str, tmp_path: Path):
    out = tmp_path / "out.json"
    done = attack("--small", "--jobs", "2", "--only", name, "--json", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    assert found["faults"] == []
    assert found["rows"][0]["tried"] > 0
