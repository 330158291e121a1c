"""RealNVP: the order of the masks, the scales at which variables leave, and the logit."""

from __future__ import annotations

import pytest
import torch
from diffeomorphisms import randomize

from zoo.errors import DataError
from zoo.flows.couplings import AffineCoupling, FactorOut, Logit
from zoo.flows.realnvp import RealNVP


def test_checkerboards_then_rows_and_one_more_checkerboard_at_the_last_scale():
    model = RealNVP([1, 8, 8], 17, scales=2, couplings=3, channels=4, blocks=1)
    kept = [set(m.order[:2]) for m in model.net.modules() if isinstance(m, AffineCoupling)]
    diagonals, rows = [{0, 1}, {2, 3}], [{0, 2}, {1, 3}]
    first, *last = kept[:6], kept[6:]
    assert first == [diagonals[0], diagonals[1], diagonals[0], rows[0], rows[1], rows[0]]
    assert last == [[diagonals[0], diagonals[1], diagonals[0], diagonals[1]]]


def test_half_of_the_variables_leave_at_each_scale():
    model = RealNVP([3, 16, 16], 256, scales=3, couplings=1, channels=4, blocks=1)
    shapes = [m.shape for m in model.net.modules() if isinstance(m, FactorOut)]
    assert shapes == [(6, 8, 8), (12, 4, 4)]
    z = model.encode(torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8))
    assert z.shape == (2, 768)


def test_what_leaves_first_does_not_depend_on_later_scales():
    model = randomize(RealNVP([1, 8, 8], 17, channels=4, blocks=1)).float()
    x = torch.randint(0, 17, (2, 1, 8, 8), dtype=torch.uint8)
    z = model.encode(x)
    (factor,) = (m for m in model.net.modules() if isinstance(m, FactorOut))
    randomize(factor.rest, 0.5, seed=1).float()
    again = model.encode(x)
    assert torch.equal(z[:, 32:], again[:, 32:])
    assert not torch.equal(z[:, :32], again[:, :32])


def test_the_logit_comes_first():
    model = RealNVP([1, 4, 4], 5, channels=4, blocks=1, alpha=0.1)
    first = model.net.transform.transforms[0]
    assert isinstance(first, Logit)
    y = torch.full((1, 1, 1, 1), 2.0)
    torch.testing.assert_close(first(y)[0].sigmoid(), torch.full_like(y, 0.1 + 0.8 * 2 / 5))


def test_draws_stay_near_the_levels():
    """The sigmoid leaves no more room than alpha on either side."""
    model = randomize(RealNVP([1, 4, 4], 5, channels=4, blocks=1, alpha=0.1), 1.0).float()
    y = model.net.sample(100, seed=0, temperature=5.0)
    assert y.min() >= -0.1 / 0.8 * 5 - 1e-5
    assert y.max() <= 5 + 0.1 / 0.8 * 5 + 1e-5


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"couplings": 0}, "couplings must be at least 1, not 0"),
        ({"alpha": 0.0}, r"alpha must be in \(0, 0.5\), not 0.0"),
        ({"alpha": 0.5}, r"alpha must be in \(0, 0.5\), not 0.5"),
    ],
)
def test_bad_arguments_are_refused(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        RealNVP(**arguments)
