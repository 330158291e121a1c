"""A flow fitted to any target: in any dimension, and also where the normalizer or exact draws are not known."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_runs import fit
from torch import Tensor, nn

from zoo.data.points import Points
from zoo.errors import DataError, ZooError
from zoo.flows import EnergyFlow
from zoo.hub import store
from zoo.targets import Target

RING = {"class_path": "zoo.targets.GaussianRing", "init_args": {"modes": 3, "radius": 1.0, "scale": 0.5}}
GRID = {"class_path": "zoo.targets.GaussianGrid", "init_args": {"modes": 1, "scale": 0.5, "dims": 5}}


class Banana(Target):
    """exp(-(a^2 + (b - a^2)^2) / 2): its normalizer is log 2 pi, which it does not tell."""

    def __init__(self, width: float = 1.0) -> None:
        self.width, self.shape, self.name = width, (2,), "banana"

    def log_density(self, x: Tensor) -> Tensor:
        a, b = self.checked(x).unbind(1)
        return -0.5 * ((a / self.width).square() + (b - a.square()).square())


class Image(Banana):
    """One of another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.shape = (1, 2, 2)


BANANA = {"class_path": f"{__name__}.Banana"}


def to_gaussian(model: EnergyFlow, scale: float, shift: float = 0.0) -> EnergyFlow:
    """q = N(shift, scale^2 I)."""
    cascade, affine = (inverse.transform for inverse in model.flow.transform.transforms)
    with torch.no_grad():
        cascade.raw.zero_()
        affine.log_scale.fill_(math.log(scale))
        affine.shift.fill_(shift)
    return model.eval()


@pytest.mark.parametrize("flow", ["planar", "radial"])
@pytest.mark.parametrize(("energy", "shape"), [(RING, (2,)), (GRID, (5,)), (BANANA, (2,))])
def test_the_shape_is_the_targets(energy, shape, flow):
    model = EnergyFlow(energy, flow, layers=2)
    x = model.sample(7, seed=0)
    assert (model.spec.shape, model.spec.levels, x.shape) == (shape, None, (7, *shape))
    drawn, log_prob = model.flow.rsample(50)
    torch.testing.assert_close(model.log_prob(drawn), log_prob, atol=1e-3, rtol=1e-4)


def test_the_divergence_in_five_dimensions_is_the_closed_form():
    model = to_gaussian(EnergyFlow(GRID, layers=1), scale=1.0, shift=0.5)
    # KL(N(m, I) || N(0, s^2 I)) = D/2 ((1 + m^2) / s^2 - 1 + log s^2).
    expected = 2.5 * (1.25 / 0.25 - 1 + math.log(0.25))
    (result,) = model.measurements()[0].compute()
    assert (result.metric.name, result.kind, result.n, result.split) == ("kl", "estimate", 100_000, None)
    assert "1^5 Gaussians on a grid, normalized; mean over draws" in result.protocol
    assert 0 < result.standard_error < 0.05
    assert abs(result.value - expected) < 4 * result.standard_error
    assert model.free_energy()[0] == pytest.approx(result.value - model.energy.log_normalizer(), abs=1e-9)
    with pytest.raises(ZooError, match="no normalized target of the plane"):
        model.divergence_by_quadrature()


def test_in_the_plane_it_is_by_quadrature_for_any_normalized_target():
    model = to_gaussian(EnergyFlow(RING, layers=1), scale=1.0)
    (result,) = model.measurements()[0].compute()
    assert (result.metric.name, result.kind, result.standard_error) == ("kl", "quadrature", None)
    mean, error = model.divergence()
    assert abs(result.value - mean) < 4 * error + 1e-4


def test_the_free_energy_bounds_the_normalizer_that_is_not_known():
    model = to_gaussian(EnergyFlow(BANANA, layers=1), scale=1.0)
    (result,) = model.measurements()[0].compute()
    assert (result.metric.name, result.kind, result.n) == ("free_energy", "upper", 100_000)
    assert not result.metric.higher_is_better
    # E[log q] = -(1 + log 2 pi), and E[U] = (1 + E[b^2] + E[a^4]) / 2 = (1 + 1 + 3) / 2.
    assert abs(result.value - (2.5 - 1 - math.log(2 * math.pi))) < 4 * result.standard_error
    assert result.value > -math.log(2 * math.pi), "the truth"
    with pytest.raises(ZooError, match=r"normalizer of banana is not known.*free_energy\(\)"):
        model.divergence()
    assert model.likelihood is None
    assert model.monitor.name == "free_energy"


def test_it_learns_a_target_in_more_dimensions(tmp_path):
    data = Points(GRID, train=1024, validation=100, test=10, batch_size=64)
    model = EnergyFlow(GRID, layers=2, annealing=0.2, warmup=5)
    before = model.divergence(2000)[0]
    model, trainer = fit(tmp_path, model=model, data=data, max_steps=150)
    assert model.divergence(2000)[0] < 0.1 * before
    (result,) = trainer.validate(model, data, verbose=False)
    assert result["val_nats"] == pytest.approx(-model.log_prob(data.val[0]).mean().item(), abs=1e-3)


def test_without_exact_draws_any_points_count_and_validation_is_the_free_energy(tmp_path):
    data = Points("moons", train=640, validation=200, test=10, batch_size=64, eval_batch_size=100)
    model, trainer = fit(tmp_path, model=EnergyFlow(BANANA, layers=4, warmup=5), data=data, max_steps=100)
    (result,) = trainer.validate(model, data, verbose=False)
    assert set(result) == {"val_free_energy"}
    value, error = model.free_energy(10_000)
    assert abs(result["val_free_energy"] - value) < 4 * error * math.sqrt(10_000 / 200)


def test_points_of_another_target_are_refused(tmp_path):
    data = Points("moons", train=64, validation=4, test=4, batch_size=8)
    with pytest.raises(DataError, match="are those of moons, the model is to fit 3 Gaussians on a ring"):
        fit(tmp_path, model=EnergyFlow(RING, layers=1), data=data, max_steps=1)


def test_a_saved_flow_brings_its_target(tmp_path):
    model = EnergyFlow(GRID, layers=2).eval()
    again = store.load(store.save(model, tmp_path / "planar-grid", dtype="float32"))
    x = model.sample(8, seed=0)
    assert again.energy.config["init_args"] == {**model.energy.config["init_args"], **GRID["init_args"]}
    assert torch.equal(again.sample(8, seed=0), x)
    assert again.divergence(100) == model.divergence(100)


def test_a_target_is_no_part_of_the_weights():
    assert not any("energy" in key for key in EnergyFlow(RING, layers=1).state_dict())
    assert not isinstance(EnergyFlow(RING, layers=1).energy, nn.Module)


def test_targets_of_other_shapes_are_refused():
    with pytest.raises(DataError, match=r"The flow is one of vectors: .* not \[1, 2, 2\]"):
        EnergyFlow({"class_path": f"{__name__}.Image"})
