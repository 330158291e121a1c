"""A fixture of several families' tests."""

import pytest
import torch


@pytest.fixture
def double(monkeypatch):
    """Everything that is computed in float32 is computed in float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
