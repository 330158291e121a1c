"""Random numbers of data: they belong to the datum, and they are what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.nn import draws
from zoo.nn.draws import BLOCK, Draws, chunk_size

KINDS = {
    "uniform": lambda draws: draws.uniform(3),
    "double": lambda draws: draws.uniform(3, dtype=torch.float64),
    "normal": lambda draws: draws.normal(2, 2),
    "integers": lambda draws: draws.integers(5, 3),
    "choice": lambda draws: draws.choice(torch.tensor([0.2, 0.5, 0.3])),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_of_many_are_those_of_few(kind):
    draw, n = KINDS[kind], 3 * BLOCK + 5
    whole = draw(Draws(7, n))
    assert len(whole) == n
    for few in (1, 2, BLOCK, BLOCK + 1):
        assert torch.equal(draw(Draws(7, few)), whole[:few])
    assert not torch.equal(draw(Draws(8, n)), whole)
    assert not torch.equal(draw(Draws(None, n)), draw(Draws(None, n)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 7, BLOCK, 1000])
def test_chunks_of_any_size_have_the_same_numbers(kind, size):
    def twice(draws):  # the streams go on
        return torch.stack([KINDS[kind](draws), KINDS[kind](draws)], 1)

    n = 2 * BLOCK + 3
    parts = list(Draws(7, n).chunks(size))
    assert torch.equal(torch.cat([twice(draws) for _, draws in parts]), twice(Draws(7, n)))
    assert [place for part, _ in parts for place in range(n)[part]] == list(range(n))


def test_several_threads_draw_the_same_numbers(monkeypatch):
    alone, together = Draws(5, 100), Draws(5, 100)
    expected = [alone.normal(3), alone.uniform(2), alone.normal(7)]
    monkeypatch.setattr(draws, "MANY", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for number in (together.normal(3), together.uniform(2), together.normal(7)):
        assert torch.equal(number, expected.pop(0))


def test_numbers_belong_to_the_place_in_whatever_order_it_comes():
    index = torch.tensor([40, 3, 17, 3, 10**12])
    whole = Draws(7, 41).normal(3)
    drawn = Draws(7, index).normal(3)
    assert torch.equal(drawn[:4], whole[index[:4]])
    assert not torch.equal(drawn[4], whole[0])


def test_distributions():
    n = 20_000
    uniform = Draws(0, n).uniform(dtype=torch.float64).sort().values
    assert (uniform - torch.arange(n) / n).abs().max() < 2.0 / n**0.5  # Kolmogorov and Smirnov, p < 0.001
    assert uniform.min() >= 0 and uniform.max() < 1  # noqa: PT018
    normal = Draws(0, n).normal().sort().values.double()
    levels = torch.special.ndtr(normal)
    assert (levels - torch.arange(n) / n).abs().max() < 2.0 / n**0.5
    counts = Draws(0, n).choice(torch.tensor([0.5, 0.0, 2.0])).bincount(minlength=3) / n
    torch.testing.assert_close(counts, torch.tensor([0.2, 0.0, 0.8]), atol=0.012, rtol=0)
    counts = Draws(0, n).integers(4).bincount() / n
    torch.testing.assert_close(counts, torch.full((4,), 0.25), atol=0.013, rtol=0)
    # Neighbours in a stream, and streams beside one another, know nothing of each other.
    pairs = Draws(0, n).normal(2)
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.03
    assert abs(np.corrcoef(pairs[:-BLOCK, 0], pairs[BLOCK:, 0])[0, 1]) < 0.03
    assert abs(np.corrcoef(pairs[:, 0], Draws(1, n).normal(2)[:, 0])[0, 1]) < 0.03


def test_each_datum_may_have_weights_of_its_own():
    weights = torch.eye(4)[torch.tensor([2, 0, 3, 1])]
    assert Draws(0, 4).choice(weights).tolist() == [2, 0, 3, 1]


def test_the_global_random_states_stay():
    before, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
    Draws(0, 5).normal(3)
    Draws(None, 5).uniform(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == legacy).all()


def test_chunks_are_whole_blocks_unless_data_are_huge():
    for device in ("cpu", "cuda"):
        for dims in (1, 64, 3072):
            assert chunk_size(dims, torch.device(device)) % BLOCK == 0
        assert chunk_size(10**9, torch.device(device)) == 1
