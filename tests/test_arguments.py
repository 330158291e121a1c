"""Seeds and counts: what stands for a whole number is taken, all else is refused in one sentence."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from zoo.arguments import count_of, real_of, seed_of
from zoo.errors import DataError

NO_WHOLE = [True, np.bool_(True), torch.tensor(True), 3.0, np.float32(3), torch.tensor(3.0), "3", [3], math.nan]
NO_SCALAR = [np.array([3]), torch.tensor([3]), torch.empty((), dtype=torch.int64, device="meta"), object(), 3j]


@pytest.mark.parametrize("given", [3, np.int8(3), np.uint64(3), np.array(3), torch.tensor(3), torch.tensor(3).byte()])
def test_whole_numbers_of_any_library(given):
    assert type(seed_of(given)) is type(count_of(given)) is int
    assert seed_of(given) == count_of(given) == 3


def test_a_seed_is_what_a_generator_tells_apart():
    assert seed_of(None) is None
    assert (seed_of(0), seed_of(2**64 - 1)) == (0, 2**64 - 1)
    for seed in (-1, 2**64, np.int64(-1), 10**400, *NO_WHOLE, *NO_SCALAR):
        with pytest.raises(
            DataError, match=r"^seed must be a whole number from 0 to 2\*\*64 - 1, or None, not "
        ) as error:
            seed_of(seed)
        assert "\n" not in str(error.value)


def test_a_count():
    assert count_of(0, "samples", least=0) == 0
    for n in (0, -1, *NO_WHOLE, *NO_SCALAR, None):
        with pytest.raises(DataError, match=r"^n must be (a whole number, )?at least 1, not ") as error:
            count_of(n)
        assert "\n" not in str(error.value)
    for n, size in ((2**62, 1), (2**40, 3072), (10**400, 1)):
        with pytest.raises(DataError, match="more than the memory of this machine"):
            count_of(n, size=size)


def test_a_real_number():
    for given in (0.5, np.float32(0.5), torch.tensor(0.5), Fraction(1, 2)):
        assert real_of(given, "temperature") == 0.5
    assert real_of(0, "temperature", zero=True) == 0
    for wrong in (-1, -0.5, math.nan, math.inf, -math.inf, "1", None, True, [1], np.array([1.0]), 1j, 10**400):
        with pytest.raises(DataError, match=r"^temperature must be 0 or positive and finite, not "):
            real_of(wrong, "temperature", zero=True)
    with pytest.raises(DataError, match="positive and finite, not 0"):
        real_of(0, "temperature")
    with pytest.raises(DataError, match=r"positive and at most 1, not 1\.5"):
        real_of(1.5, "share", most=1)
