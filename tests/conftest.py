"""What tests share: where the real data sets are, or why a test that needs one is skipped."""

from __future__ import annotations

import os

# Before torch is imported, here and in the processes that tests start: on tiny models, threads on busy cores cost far
# more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], str]:
    """Return the data root, given a folder it must hold ("MNIST/raw"), or skip the test and say why."""

    def find(folder: str) -> str:
        root = os.environ.get("ZOO_DATA")
        if not root:
            pytest.skip("needs real data: ZOO_DATA is not set")
        if not (Path(root) / folder).is_dir():
            pytest.skip(f"needs real data: there is no {folder} in ZOO_DATA ({root})")
        return root

    return find
