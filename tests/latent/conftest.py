"""What the tests of models with latent variables share."""

from __future__ import annotations

import pytest
from tiny_runs import sealed


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    """Neither the global random state nor the seed in the environment outlive a test."""
    with sealed(monkeypatch):
        yield
