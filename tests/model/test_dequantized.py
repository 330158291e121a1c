"""Uniform dequantization: the bound, whose noise it is, and the way back to levels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.model import GenerativeModel
from zoo.model.dequantized import Dequantized
from zoo.nn.draws import Draws
from zoo.spec import DataSpec


class Triangle(Dequantized, GenerativeModel):
    """p(y) = 2 y / 9 on [0, 3) in each of two independent dimensions."""

    spec = DataSpec((2,), 3)

    def log_density(self, y: Tensor) -> Tensor:
        return (2 * y / 9).log().sum(1)


X = torch.tensor([[0, 2], [1, 1]], dtype=torch.uint8)


def test_the_bound_is_the_mean_over_the_noise_and_below_the_probability():
    # P(x) = (2 x + 1) / 9; the mean of log y over [x, x + 1) is [y log y - y].
    y = torch.arange(4, dtype=torch.float64)
    mean_log = (torch.xlogy(y, y) - y).diff() + torch.tensor(2 / 9).double().log()
    exact = ((2 * y[:3] + 1) / 9).log()
    found = Triangle().elbo(X, samples=40000, seed=0).double()
    torch.testing.assert_close(found, mean_log[X.long()].sum(1), rtol=0, atol=0.03)
    assert (found < exact[X.long()].sum(1) - 0.03).all()


def test_the_noise_is_the_seeds():
    model = Triangle()
    state = torch.get_rng_state()
    first = model.elbo(X, seed=3)
    assert torch.equal(first, model.elbo(X, seed=3))
    assert not torch.equal(first, model.elbo(X, seed=4))
    assert not torch.equal(model.elbo(X), model.elbo(X)), "without a seed each call draws anew"
    assert torch.equal(state, torch.get_rng_state())
    draws = Draws(3, 2)
    expected = torch.stack([model.log_density(X + draws.uniform(2)) for _ in range(2)])
    assert torch.equal(model.elbo_draws(X, samples=2, seed=3), expected)
    places = torch.tensor([1, 0])
    assert torch.equal(model.elbo_draws(X.flip(0), samples=2, seed=3, index=places), expected.flip(1))
    assert torch.equal(model.elbo(X, samples=2, seed=3), expected.mean(0))
    bits = -expected.mean(0) / (2 * math.log(2))
    torch.testing.assert_close(model.bits_per_dim(X, samples=2, seed=3), bits)


def test_noise_in_training_is_the_global_generators():
    torch.manual_seed(5)
    y = Triangle.noised(X)
    assert ((y >= X) & (y < X + 1)).all()
    assert not torch.equal(y, Triangle.noised(X))
    torch.manual_seed(5)
    assert torch.equal(y, Triangle.noised(X))


def test_values_go_back_to_the_level_they_lie_in():
    model = Triangle()
    y = torch.tensor([[-5.0, 0.0], [0.999, 1.0], [2.5, 7.0]])
    assert model.to_levels(y).tolist() == [[0, 0], [0, 1], [2, 2]]
    assert model.to_levels(y).dtype == torch.uint8
    assert torch.equal(model.to_levels(X + 0.5), X)


def test_it_is_a_bound_and_says_how_it_is_taken():
    model = Triangle()
    assert (model.likelihood, model.protocol) == ("bound", "uniform dequantization")
    with pytest.raises(DataError, match="samples must be at least 1, not 0"):
        model.elbo(X, samples=0)
    with pytest.raises(DataError, match=r"values 0\.\.3; this model takes 0\.\.2"):
        model.elbo(torch.tensor([[0, 3]]))
