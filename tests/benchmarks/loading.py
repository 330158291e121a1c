"""Time what a user waits for: `zoo --help`, `zoo list`, and `zoo.load` beyond importing torch and lightning.

    python tests/benchmarks/loading.py [NAME]

Each number is the least of three fresh processes: the others waited for the disk or for somebody else.
The aim is under 1 s each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

LOAD = """
import sys, time
import torch, lightning.pytorch
start = time.perf_counter()
import zoo
zoo.load(sys.argv[1])
print(time.perf_counter() - start)
"""


def command(*arguments: str) -> float:
    """Seconds that a `zoo` command takes, the start of the interpreter included."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "zoo", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def load(name: str) -> float:
    """Seconds from `import zoo` to a model, with torch and lightning imported before."""
    done = subprocess.run([sys.executable, "-c", LOAD, name], check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", nargs="?", default="pixelcnn-cifar10", help="as for zoo.load")
    name = parser.parse_args().name
    for label, measure in {
        "zoo --help": lambda: command("--help"),
        "zoo list": lambda: command("list"),
        f"zoo.load({name!r}), after importing torch and lightning": lambda: load(name),
    }.items():
        print(f"{min(measure() for _ in range(3)):6.2f} s  {label}", flush=True)


if __name__ == "__main__":
    main()
