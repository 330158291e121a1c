"""What every diffeomorphism must satisfy, checked in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.flows.core import Transform


def points(n: int, dims: int) -> Tensor:
    """Standard normal points, (n, dims) in float64."""
    return torch.randn(n, dims, dtype=torch.float64)


def jacobian_log_det(function: Transform, x: Tensor, context: Tensor | None = None) -> Tensor:
    """(N,) log |det| of the Jacobian of each datum, by autograd and LU."""
    found = []
    for i in range(len(x)):
        own = None if context is None else context[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(lambda y, own=own: function(y[None], own)[0][0], x[i])
        found.append(jacobian.reshape(x[i].numel(), x[i].numel()).slogdet()[1])
    return torch.stack(found)


def check_diffeomorphism(
    transform: Transform, x: Tensor, context: Tensor | None = None, z: Tensor | None = None, tolerance: float = 1e-9
) -> None:
    """Inverse of forward, forward of inverse, both log-determinants; `z` are points for the inverse, by default T(x).

    The parameters should be random, not those of an identity.
    """
    assert x.dtype == torch.float64
    with torch.no_grad():
        found, log_det = transform(x, context)
        again, back = transform.inverse(found, context)
        assert not torch.equal(found.flatten(), x.flatten()), "an identity shows nothing"
    assert log_det.shape == back.shape == (len(x),)
    torch.testing.assert_close(again, x, rtol=0, atol=tolerance)
    torch.testing.assert_close(back, -log_det, rtol=0, atol=tolerance * x[0].numel())
    torch.testing.assert_close(log_det, jacobian_log_det(transform, x, context), rtol=0, atol=1e-9 * x[0].numel())
    if z is not None:
        with torch.no_grad():
            y, back = transform.inverse(z, context)
            forth, log_det = transform(y, context)
        torch.testing.assert_close(forth, z, rtol=0, atol=tolerance)
        torch.testing.assert_close(back, -log_det, rtol=0, atol=tolerance * x[0].numel())


def randomize(transform: Transform, scale: float = 0.3, seed: int = 0) -> Transform:
    """Add noise to all parameters: many transforms begin as an identity, which would show nothing. In float64."""
    generator = torch.Generator().manual_seed(seed)
    transform = transform.double()
    with torch.no_grad():
        for parameter in transform.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(scale * noise / max(1, parameter[0].numel() if parameter.ndim > 1 else 1) ** 0.5)
    return transform
