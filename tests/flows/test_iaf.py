"""IAF: the gated update of equation 14, one pass forward, causal in its order, and a posterior of a context."""

from __future__ import annotations

import math

import pytest
import torch
from diffeomorphisms import check_diffeomorphism, points, randomize
from torch.autograd.functional import jacobian

from zoo.errors import DataError
from zoo.flows.core import Compose, Flow, Inverse, Normal
from zoo.flows.iaf import IAFTransform
from zoo.flows.maf import LIMIT
from zoo.nn.draws import Draws


def chain(dims: int, context_dims: int = 0, steps: int = 3) -> list[IAFTransform]:
    made = [IAFTransform(dims, context_dims, 16, reverse=k % 2 == 1, seed=k) for k in range(steps)]
    return [randomize(step, 0.7, seed=k) for k, step in enumerate(made)]


@pytest.mark.parametrize("context_dims", [0, 3])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("dims", "layers"), [(1, 1), (2, 1), (5, 2)])
def test_it_is_a_diffeomorphism(dims, layers, reverse, context_dims):
    transform = randomize(IAFTransform(dims, context_dims, 16, layers, reverse), 0.7)
    context = points(4, context_dims) if context_dims else None
    check_diffeomorphism(transform, points(4, dims), context, points(4, dims))


def test_it_is_equation_14():
    step = randomize(IAFTransform(3, 2, 16), 0.7)
    z, context = points(5, 3), points(5, 2)
    m, s = step.net(z, context=context).unbind(-1)
    gate = torch.sigmoid(LIMIT * torch.tanh(s / LIMIT))
    found, log_det = step(z, context)
    torch.testing.assert_close(found, gate * z + (1 - gate) * m)
    torch.testing.assert_close(log_det, gate.log().sum(1))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_dimension_depends_on_those_before_it_and_on_itself(reverse):
    step = randomize(IAFTransform(5, 0, 32, 2, reverse), 0.7)
    found = torch.stack([jacobian(lambda z: step(z[None])[0][0], z) for z in points(8, 5)])
    expected = torch.ones(5, 5).tril().bool()
    assert torch.equal((found != 0).any(0), expected.T if reverse else expected)


def test_a_chain_is_a_posterior_whose_draws_come_with_their_density():
    flow = Flow(Normal([4]), [Inverse(Compose(chain(4, 2)))]).double()
    context = points(16, 2)
    z, log_prob = flow.rsample(16, draws=Draws(0, 16), context=context)
    with torch.no_grad():
        torch.testing.assert_close(flow.log_prob(z, context), log_prob)
    log_prob.mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in flow.parameters())


def test_a_density_integrates_to_one():
    flow = Flow(Normal([2]), [Inverse(Compose(chain(2)))])
    line = torch.linspace(-8, 8, 641, dtype=torch.float64)
    with torch.no_grad():
        log_prob = flow.log_prob(torch.cartesian_prod(line, line))
    total = log_prob.exp().sum() * (line[1] - line[0]) ** 2
    assert total.item() == pytest.approx(1, abs=2e-3)


def test_a_step_begins_near_the_identity():
    step, gate = IAFTransform(3, gate=2.0).double(), LIMIT * math.tanh(2 / LIMIT)
    with torch.no_grad():
        step.net.head.weight.zero_()
    z = points(5, 3)
    found, log_det = step(z)
    torch.testing.assert_close(found, z / (1 + math.exp(-gate)))
    torch.testing.assert_close(log_det, torch.full((5,), -3 * math.log1p(math.exp(-gate)), dtype=torch.float64))
    assert gate > 1.5


@pytest.mark.parametrize("s", [-500.0, 500.0])
def test_closed_and_open_gates_are_finite(s):
    step = IAFTransform(3, 2)
    with torch.no_grad():
        step.net.head.bias.view(3, 2)[:, 1] = s
    z = torch.randn(5, 3, requires_grad=True)
    found, log_det = step(z, torch.randn(5, 2))
    (found.sum() + log_det.sum()).backward()
    for value in (found, log_det, z.grad, *(parameter.grad for parameter in step.parameters())):
        assert torch.isfinite(value).all()


def test_autocast_leaves_results_in_float32():
    step = randomize(IAFTransform(3, 2, 16), 0.3).float()
    z, context = torch.randn(5, 3), torch.randn(5, 2)
    expected = step(z, context)
    with torch.autocast("cpu", torch.bfloat16):
        found, log_det = step(z, context.bfloat16())
    assert found.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(found, expected[0], atol=0.05, rtol=0)
    torch.testing.assert_close(log_det, expected[1], atol=0.05, rtol=0)


def test_bad_sizes_and_shapes_are_refused():
    for arguments in ({"dims": 0}, {"dims": -1}, {"dims": 2, "hidden": 0}, {"dims": 2, "context_dims": -1}):
        with pytest.raises(DataError, match=f"{list(arguments)[-1]} must be at least"):
            IAFTransform(**arguments)
    with pytest.raises(DataError, match=r"shape \(3, 4\); this transform takes \(N, 2\)"):
        IAFTransform(2)(torch.zeros(3, 4))
    with pytest.raises(DataError, match=r"this transform takes \(3, 5\)"):
        IAFTransform(2, 5)(torch.zeros(3, 2))
