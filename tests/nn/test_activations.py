"""The soft limit."""

from __future__ import annotations

import torch

from zoo.nn.activations import soft_limit


def test_a_soft_limit_is_the_identity_at_zero_odd_rising_and_never_beyond():
    x = torch.arange(-500, 501, dtype=torch.float64).div(10).requires_grad_()
    y = soft_limit(x, 5.0)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope[500] == 1
    assert (slope >= 0).all()
    assert (y.abs() <= 5).all()
    assert torch.equal(soft_limit(-x, 5.0), -y)
    assert y[-1] > 4.999
