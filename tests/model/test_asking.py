"""What `sample` needs is read from its signature."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.model import GenerativeModel, Model
from zoo.model.asking import can_sample, check_draws, draws, needed


class Free(GenerativeModel):
    @torch.no_grad()
    def sample(self, n: int, *, label: Any = None, seed: int | None = None, **options: Any) -> Tensor: ...


class Given(GenerativeModel):
    @torch.no_grad()
    def sample(self, n: int, *, condition: Tensor, label: int, seed: int | None = None) -> Tensor: ...

    def log_prob(self, x: Tensor, *, condition: Tensor) -> Tensor: ...


class Unsampled(GenerativeModel): ...


class Translator(Model): ...


def test_what_has_no_default_is_needed():
    assert needed(Free().sample) == ()
    assert needed(Given().sample) == ("condition", "label")
    assert needed(Given().log_prob) == ("condition",)


@pytest.mark.parametrize(("cls", "sampled"), [(Free, True), (Given, True), (Unsampled, False), (Translator, False)])
def test_only_what_defines_sample_can_be_sampled(cls, sampled):
    assert can_sample(cls) == can_sample(cls()) == sampled
    assert draws(cls()) == (cls is Free)
    assert draws(cls(), ["condition", "label"]) == sampled


def test_a_refusal_says_what_is_lacking():
    check_draws(Free())
    check_draws(Given(), ["condition", "label"])
    with pytest.raises(ZooError, match=r"Given is drawn given a label, .* model\.sample\(n, label=\.\.\.\)\."):
        check_draws(Given(), ["condition"])
    with pytest.raises(ZooError, match="given a condition and a label"):
        check_draws(Given())
    for model in (Unsampled(), Translator()):
        with pytest.raises(ZooError, match="cannot be sampled"):
            check_draws(model, ["condition"])
