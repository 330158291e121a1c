"""`import zoo` is immediate, and has what the README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import zoo

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "lightning", "huggingface_hub", "jsonargparse", "sklearn", "PIL", "numpy", "matplotlib"}


def modules_after(code: str) -> set[str]:
    """The packages that a fresh process has imported after some code."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    ["import zoo", "import zoo; dir(zoo), zoo.__version__, zoo.__all__", "import zoo; zoo.names()"],
)
def test_importing_imports_nothing_heavy(code):
    assert not modules_after(code) & HEAVY


def test_the_face():
    assert set(zoo.__all__) <= set(dir(zoo))
    for name in zoo.__all__:
        assert callable(getattr(zoo, name))
    assert zoo.load.__module__ == "zoo.hub.store"
    assert zoo.evaluate.__module__ == "zoo.evaluation.measure"
    assert all(issubclass(e, zoo.ZooError) for e in (zoo.DataError, zoo.CheckpointError, zoo.HubError))


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'zoo' has no attribute 'nonesuch'"):
        zoo.nonesuch  # noqa: B018
    assert not hasattr(zoo, "registry")
    with pytest.raises(ImportError):
        from zoo import nonesuch  # noqa: F401


def test_one_version():
    declared = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert zoo.__version__ == declared[1]
