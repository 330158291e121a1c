"""The uniform distribution: its probabilities, samples, and the whole way through training and export."""

import itertools
import math

import pytest
import torch
from tiny_runs import fit, sealed

from zoo.errors import DataError
from zoo.mixtures import Uniform


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


def test_probabilities_sum_to_one():
    x = torch.tensor(list(itertools.product(range(3), repeat=4)), dtype=torch.uint8).view(-1, 1, 2, 2)
    model = Uniform([1, 2, 2], 3)
    assert model.log_prob(x).exp().sum().item() == pytest.approx(1)
    assert model.bits_per_dim(x).tolist() == pytest.approx([math.log2(3)] * 81)


def test_samples_are_uniform():
    x = Uniform([1, 2, 2], 5).sample(5000, seed=0)
    counts = torch.stack([(x == level).sum(0) for level in range(5)]).double()
    chi_square = ((counts - 1000).square() / 1000).sum(0)
    assert (chi_square < 24).all()  # exceeded once in ten thousand, at 4 degrees of freedom
    assert torch.equal(x, Uniform([1, 2, 2], 5).sample(5000, seed=0))


def test_it_can_be_trained(tmp_path):
    _, trainer = fit(tmp_path, model=Uniform([1, 4, 4], 2), max_epochs=1)
    assert trainer.callback_metrics["val_nats"].item() == pytest.approx(16 * math.log(2))
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [({"shape": [0]}, "shape must be of positive sizes"), ({"levels": 1}, "levels must be 2..256, not 1")],
)
def test_bad_constructor_arguments(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        Uniform(**arguments)


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="this model takes"):
        Uniform().log_prob(torch.zeros(1, 8, 8, dtype=torch.uint8))
