"""NICE: volumes are kept but for the diagonal scaling, and the components are independent logistics."""

from __future__ import annotations

import math

import pytest
import torch
from diffeomorphisms import check_diffeomorphism, randomize

from zoo.errors import DataError
from zoo.flows.couplings import AdditiveCoupling
from zoo.flows.nice import NICE, Scaling


def tiny(**arguments) -> NICE:
    model = NICE([1, 4, 4], 5, channels=6, blocks=1, **arguments)
    return randomize(model, 0.3).float().eval()


def test_scaling_is_a_diffeomorphism_of_volume_exp_sum_s():
    scaling = randomize(Scaling(6, 2.0))
    x, z = torch.randn(2, 3, 6, dtype=torch.float64)
    check_diffeomorphism(scaling, x, z=z)
    torch.testing.assert_close(scaling(x)[1], scaling.log_scale.sum().expand(3))
    assert torch.equal(Scaling(6, 0.0)(x)[0], x)


def test_only_the_scaling_changes_volumes():
    model = tiny()
    y = 5 * torch.rand(3, 1, 4, 4)
    log_det = model.net.transform(y)[1]
    expected = model.net.transform.transforms[-1].log_scale.sum() - 16 * math.log(5)
    torch.testing.assert_close(log_det, expected.expand(3))


def test_the_density_is_that_of_logistic_components():
    model = tiny()
    y = 5 * torch.rand(3, 1, 4, 4)
    z, log_det = model.net.transform(y)
    # p(z) = 1 / ((1 + exp(z)) (1 + exp(-z))), section 3.4
    prior = -((1 + z.exp()).log() + (1 + (-z).exp()).log()).sum(1)
    torch.testing.assert_close(model.log_density(y), prior + log_det)


@pytest.mark.parametrize(("couplings", "scales"), [(1, 1), (2, 1), (3, 2)])
def test_kinds_and_parts_alternate(couplings, scales):
    model = NICE([1, 4, 4], 5, scales=scales, couplings=couplings, channels=4, blocks=1)
    layers = [m for m in model.net.modules() if isinstance(m, AdditiveCoupling)]
    assert len(layers) == 2 * couplings * scales
    kept = [set(layer.order[:2]) for layer in layers[: 2 * couplings]]
    diagonals, rows = ({0, 1}, {2, 3}), ({0, 2}, {1, 3})
    assert kept == [pair[i % 2] for pair in (diagonals, rows) for i in range(couplings)]


def test_couplings_below_one_are_refused():
    with pytest.raises(DataError, match="couplings must be at least 1, not 0"):
        NICE(couplings=0)
