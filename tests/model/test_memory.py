"""What `sample` takes of memory beside the samples: of four chunks no more than of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GROWTH = """if True:
    import sys, zoo
    from zoo.nn.draws import chunk_size
    model = zoo.load(sys.argv[1])
    size = chunk_size(model.spec.dims, model.device)
    status = lambda: open("/proc/self/status").read().partition("VmHWM:")[2]
    peak = lambda: int(status().split()[0])  # KiB of this program; that of getrusage may be its parent's
    model.sample(size, seed=0)
    before = peak()
    if sys.argv[2] == "whole":
        model.chunk = 4 * size
    samples = model.sample(4 * size, seed=0)
    print(peak() - before - samples.nbytes // 1024)"""


def growth(name: str, how: str) -> int:
    """MiB that four chunks take beyond one and beyond what is drawn."""
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, name, how],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout) // 1024


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is in KiB on Linux")
@pytest.mark.parametrize("name", ["nice-cifar10", "dcgan-cifar10"])
def test_the_memory_of_samples_does_not_grow_with_their_number(name):
    assert growth(name, "in chunks") < 40
    assert growth(name, "whole") > 60, "as it would without chunks"
