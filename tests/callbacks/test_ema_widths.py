"""Averages of a relative width: what each step counts in them, several in one run, and what becomes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from tiny_runs import Stop, differences, fit, last, sealed
from torch import Tensor

from zoo.callbacks.ema import EMA, power_of
from zoo.errors import CheckpointError
from zoo.hub import store
from zoo.model import Model
from zoo.nn.masked import visible_entries
from zoo.training.export import export_run


@pytest.fixture(autouse=True)
def _untouched(monkeypatch):
    with sealed(monkeypatch):
        yield


class Weights(Callback):
    """Notes the weights after each optimizer step, in float64."""

    def __init__(self) -> None:
        self.after: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step > len(self.after):
            self.after.append({name: p.detach().double().clone() for name, p in pl_module.named_parameters()})


def counts(width: float, steps: int) -> np.ndarray:
    """What each of so many steps counts: the integral of (gamma + 1) u^gamma over its share of all, from the paper's
    continuous average (arXiv 2312.02696, section 3.1)."""
    ends = np.linspace(0, 1, steps + 1) ** (power_of(width) + 1)
    return np.diff(ends)


def averaged(after: list[dict[str, Tensor]], width: float) -> dict[str, Tensor]:
    weights = counts(width, len(after)).tolist()
    return {name: sum(w * each[name] for w, each in zip(weights, after, strict=True)) for name in after[0]}


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_a_width_is_the_deviation_of_the_steps_that_count(width):
    n = 200_000
    shares, weights = (np.arange(n) + 0.5) / n, counts(width, n)
    mean = weights @ shares
    assert weights.sum() == pytest.approx(1)
    assert np.sqrt(weights @ (shares - mean) ** 2) == pytest.approx(width, rel=1e-6)


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}], ids=["", "accumulated"])
def test_steps_count_by_their_power(tmp_path, settings):
    watch = Weights()
    fit(tmp_path, watch, EMA(width=0.1, others=[0.05, 0.25]), max_steps=22, **settings)
    assert len(watch.after) == 22
    kept = last(tmp_path)
    others = kept["callbacks"]["EMA"]["others"]
    assert list(others) == ["0.05", "0.25"]
    for found, width in ((kept["state_dict"], 0.1), (others["0.05"], 0.05), (others["0.25"], 0.25)):
        expected = averaged(watch.after, width)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name].double(), tensor, rtol=0, atol=1e-6)
    assert list(differences(others["0.05"], others["0.25"], "averages"))


def test_an_average_alone_is_the_one_beside_others(tmp_path):
    fit(tmp_path / "alone", EMA(0.9), max_steps=12)
    fit(tmp_path / "beside", EMA(0.9, others=[0.1]), max_steps=12)
    assert not list(differences(last(tmp_path / "alone"), last(tmp_path / "beside")))
    fit(tmp_path / "width", EMA(width=0.1), max_steps=12)
    other = last(tmp_path / "beside")["callbacks"]["EMA"]["others"]["0.1"]
    assert not list(differences(last(tmp_path / "width")["state_dict"], other, "weights"))


def test_a_resumed_run_has_the_same_averages(tmp_path):
    def average() -> EMA:
        return EMA(width=0.1, others=[0.05, 0.2])

    fit(tmp_path / "whole", average(), max_steps=14)
    fit(tmp_path / "parts", average(), Stop(6), max_steps=14)
    path = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    fit(tmp_path / "parts", average(), max_steps=14, ckpt_path=path)
    whole, parts = last(tmp_path / "whole"), last(tmp_path / "parts")
    assert not list(differences(whole, parts))
    assert not list(differences(whole["callbacks"]["EMA"], parts["callbacks"]["EMA"], "averages"))


def test_a_callback_begins_anew_with_each_run(tmp_path):
    average = EMA(others=[0.1])
    for name in "ab":
        fit(tmp_path / name, average, max_steps=7)
    a, b = (last(tmp_path / name)["callbacks"]["EMA"]["others"] for name in "ab")
    assert not list(differences(a, b, "averages"))


def test_any_average_of_a_run_is_exported(tmp_path):
    fit(tmp_path / "run", EMA(width=0.1, others=[0.05]), max_steps=9)
    kept = last(tmp_path / "run")

    def exported(name: str, **how: Any) -> Model:
        return store.load(export_run(tmp_path / "run", name, out=tmp_path / name, dtype="float32", **how))

    for name, given, weights in (
        ("own", {}, kept["state_dict"]),
        ("narrow", {"width": 0.05}, kept["callbacks"]["EMA"]["others"]["0.05"]),
    ):
        found = exported(name, **given)
        visible = visible_entries(found)  # what a mask hides is not kept
        for key, parameter in found.named_parameters():
            shown = visible.get(key, torch.ones_like(parameter, dtype=torch.bool))
            assert torch.equal(parameter[shown], weights[key][shown]), key
    with pytest.raises(CheckpointError, match=r"no average of width 0.2, beside its own it has those of 0.05"):
        exported("none", width=0.2)
    fit(tmp_path / "run", EMA(0.9), max_steps=2)
    with pytest.raises(CheckpointError, match="none beside its own"):
        exported("none", width=0.05)


@pytest.mark.parametrize("given", [{"width": 0.0}, {"width": 0.3}, {"others": [0.1, -1.0]}])
def test_bad_widths(given):
    with pytest.raises(ValueError, match=r"width must be above 0 and at most 0\.288"):
        EMA(**given)
