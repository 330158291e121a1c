"""Planar and radial flows: invertible whatever their parameters, and a density that is fitted to an energy."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from diffeomorphisms import check_diffeomorphism, randomize
from tiny_runs import Stop, differences, fit, last
from torch import Tensor

from zoo.data.points import Points
from zoo.errors import DataError, ZooError
from zoo.evaluation.measure import evaluate
from zoo.flows import energy as energy_flow
from zoo.flows.core import Compose, Flow, Inverse, Normal
from zoo.flows.energy import EnergyFlow
from zoo.flows.planar import Planar, Radial, positive, solve_planar
from zoo.flows.vectors import Affine
from zoo.hub import store
from zoo.hub.config import read_config
from zoo.nn.draws import Draws
from zoo.results import METRICS, Result, merge, results_of
from zoo.targets.base import Target
from zoo.targets.energies import quadrature

KINDS = [Planar, Radial]


def points(n: int, dims: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(n, dims, dtype=torch.float64)


# -- transforms ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context_dims", [0, 3])
@pytest.mark.parametrize(("dims", "layers"), [(1, 1), (2, 1), (2, 8), (5, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_they_are_diffeomorphisms(kind, dims, layers, context_dims):
    transform = randomize(kind(dims, layers, context_dims), 1.0)
    context = points(4, context_dims) if context_dims else None
    check_diffeomorphism(transform, points(4, dims), context, points(4, dims))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [10.0, 1000.0])
def test_extreme_parameters_leave_a_layer_invertible(kind, scale):
    for seed in range(20):
        transform = randomize(kind(2), scale, seed)
        x, z = points(16, 2), points(16, 2, 5.0)
        with torch.no_grad():
            there, log_det = transform(x)
            back, inverse_log_det = transform.inverse(there)
            forth = transform(transform.inverse(z)[0])[0]
        # A slope can be as small as 1e-3 for each of the parts that a rounding error passes; w may be 1000.
        torch.testing.assert_close(back, x, rtol=0, atol=1e-6)
        torch.testing.assert_close(forth, z, rtol=0, atol=1e-6)
        assert torch.isfinite(log_det).all()
        torch.testing.assert_close(inverse_log_det, -log_det, rtol=0, atol=1e-2)


def test_the_constraint_of_appendix_a1():
    """w^T u > -1 whatever u and w; u itself where it holds with room, up to the shift of the softplus."""
    planar = randomize(Planar(3, 200), 30.0)
    u, w, _, slope = planar.coefficients(points(1, 3), None)
    assert slope.min().item() > -1
    assert (planar.raw[:, :3] * planar.raw[:, 3:6]).sum(1).min() < -100, "the constraint has work to do"
    torch.testing.assert_close((u * w).sum(-1), slope, rtol=1e-9, atol=1e-9)


def test_the_constraint_of_appendix_a2():
    radial = randomize(Radial(3, 200), 30.0)
    _, alpha, total = radial.coefficients(points(1, 3), None)
    assert alpha.min().item() > 0
    assert (total / alpha).min().item() >= 1e-3


def test_a_layer_is_the_formula_of_the_paper():
    x = points(5, 3)
    planar = randomize(Planar(3), 1.0)
    u, w, b, _ = (value[0] for value in planar.coefficients(x, None))
    torch.testing.assert_close(planar(x)[0], x + u * torch.tanh(x @ w[0] + b)[:, None])
    radial = randomize(Radial(3), 1.0)
    centre, alpha, total = (value[0] for value in radial.coefficients(x, None))
    r = (x - centre).norm(dim=1, keepdim=True)
    torch.testing.assert_close(radial(x)[0], x + (total - alpha) * (x - centre) / (alpha + r))


@pytest.mark.parametrize("kind", KINDS)
def test_several_layers_are_a_cascade(kind):
    whole = randomize(kind(2, 3), 1.0)
    parts = [kind(2).double() for _ in range(3)]
    with torch.no_grad():
        for k, part in enumerate(parts):
            part.raw.copy_(whole.raw[k : k + 1])
    x = points(4, 2)
    torch.testing.assert_close(whole(x), Compose(parts)(x))


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_of_zero_are_the_identity(kind):
    transform = kind(3, 4).double()
    with torch.no_grad():
        transform.raw.zero_()
    x = points(4, 3)
    for y, log_det in (transform(x), transform.inverse(x)):
        torch.testing.assert_close(y, x)
        torch.testing.assert_close(log_det, torch.zeros(4, dtype=torch.float64))


def test_the_softplus_is_one_at_zero_and_above_its_floor():
    x = torch.linspace(-1000, 1000, 2001, dtype=torch.float64)
    assert positive(torch.zeros(1, dtype=torch.float64)).item() == pytest.approx(1, abs=1e-12)
    assert positive(x).min().item() >= 1e-3
    assert (positive(x).diff() >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_scalar_equation_is_solved_to_rounding(dtype):
    slope = torch.logspace(-3, 6, 200, dtype=dtype) - 1
    size = torch.logspace(-12, 8, 200, dtype=dtype)
    slope, value = torch.meshgrid(slope, torch.cat([-size, torch.zeros(1, dtype=dtype), size]), indexing="ij")
    slope, value = slope.flatten(), value.flatten()
    a = solve_planar(slope, value)
    error = a + slope * torch.tanh(a) - value
    assert float((error.abs() / (a.abs() + slope.abs() + value.abs())).max()) < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("kind", KINDS)
def test_the_inverse_has_the_derivatives_of_the_implicit_function(kind):
    transform = randomize(kind(2, 3, 2), 1.0)
    z, context = points(3, 2).requires_grad_(), points(3, 2).requires_grad_()
    assert torch.autograd.gradcheck(transform.inverse, (z, context), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_where_a_norm_has_none(kind):
    transform = kind(2)
    with torch.no_grad():
        transform.raw.zero_()
    x = torch.zeros(2, 2, requires_grad=True)  # at the centre of a radial layer
    z, log_det = transform(x)
    (z.sum() + log_det.sum()).backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(transform.raw.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_density_integrates_to_one(kind):
    flow = Flow(Normal([2]), [Inverse(randomize(kind(2, 4), 1.0))])
    line = torch.linspace(-25, 25, 801, dtype=torch.float64)
    with torch.no_grad():
        total = flow.log_prob(torch.cartesian_prod(line, line)).exp().sum() * (line[1] - line[0]) ** 2
    assert total.item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_autocast_changes_nothing(kind):
    transform = kind(2, 4, 3)
    x, context = torch.randn(5, 2), torch.randn(5, 3)
    expected = transform(x, context)
    with torch.autocast("cpu", torch.bfloat16):
        found = transform(x, context)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("kind", KINDS)
def test_bad_sizes_and_shapes_of_transforms_are_refused(kind):
    for arguments in ({"dims": 0}, {"dims": 2, "layers": 0}, {"dims": 2, "context_dims": -1}):
        name = list(arguments)[-1]
        with pytest.raises(DataError, match=f"{name} must be at least"):
            kind(**arguments)
    with pytest.raises(DataError, match=r"shape \(3, 4\); this transform takes \(N, 2\)"):
        kind(2)(torch.zeros(3, 4))
    with pytest.raises(DataError, match="takes no context"):
        kind(2)(torch.zeros(3, 2), torch.zeros(3, 1))
    for context in (None, torch.zeros(3, 2), torch.zeros(1, 5)):
        with pytest.raises(DataError, match=r"this transform takes \(3, 5\)"):
            kind(2, context_dims=5)(torch.zeros(3, 2), context)


# -- a flow fitted to an energy ------------------------------------------------------------------------------


def disturbed(**arguments) -> EnergyFlow:
    model = EnergyFlow(**{"layers": 4, **arguments})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("flow", ["planar", "radial"])
def test_draws_come_with_the_density_that_the_inverse_finds(flow):
    model = disturbed(flow=flow)
    x, log_prob = model.flow.rsample(256, draws=Draws(0, 256))
    torch.testing.assert_close(model.log_prob(x), log_prob, atol=1e-3, rtol=0)


def gaussian(model: EnergyFlow, mean: Tensor, covariance: Tensor) -> EnergyFlow:
    """A model whose energy is a Gaussian's, and whose planar layers do nothing: all is known in closed form."""
    density = torch.distributions.MultivariateNormal(mean.double(), covariance.double())

    class Quadratic(Target):
        name, shape = "energy1", (2,)

        def log_density(self, x):
            return density.log_prob(x.double()).to(x.dtype) + 3.0

        def log_normalizer(self):
            return 3.0

    model.energy = Quadratic()
    with torch.no_grad():
        model.flow.transform.transforms[0].transform.raw.zero_()
    return model


def test_the_divergence_of_two_gaussians_is_the_closed_form():
    mean, covariance = torch.tensor([0.5, -1.0]), torch.tensor([[2.0, 0.6], [0.6, 0.5]])
    model = gaussian(disturbed(), mean, covariance)
    affine = model.flow.transform.transforms[1].transform
    factor = affine._factor().detach()
    q = torch.distributions.MultivariateNormal(affine.shift.detach(), factor @ factor.T)
    p = torch.distributions.MultivariateNormal(mean, covariance)
    expected = torch.distributions.kl_divergence(q, p).item()
    found, error = model.divergence(40_000, seed=1)
    assert 0 < error < 0.05 * expected
    assert abs(found - expected) < 4 * error
    assert (found, error) == model.divergence(40_000, seed=1)
    found, nodes = model.divergence_by_quadrature()
    assert found == pytest.approx(expected, abs=1e-5)
    assert nodes == 512**2, "32 nodes a deviation, after 16, are enough for a Gaussian"


def test_the_divergence_is_zero_where_the_two_are_one():
    model = EnergyFlow(layers=2)
    gaussian(model, torch.zeros(2), torch.eye(2))
    found, error = model.divergence(1000)
    assert abs(found) < 1e-5
    assert error < 1e-6
    assert abs(model.divergence_by_quadrature()[0]) < 1e-9


@pytest.mark.parametrize("flow", ["planar", "radial"])
@pytest.mark.parametrize("energy", ["energy1", "energy4"])
def test_quadrature_and_draws_agree(energy, flow, monkeypatch):
    """On a grid of the base in double precision, and by random draws: two ways to one number."""
    model = disturbed(energy=energy, flow=flow)
    parameters = {name: parameter.clone() for name, parameter in model.named_parameters()}
    monkeypatch.setattr(energy_flow, "SETTLED", 1e-3)  # three digits are enough here, and need fewer nodes
    found, _ = model.divergence_by_quadrature()
    mean, error = model.divergence(100_000)
    assert found > 0.5, "the two should differ"
    assert abs(found - mean) < 4 * error + 1e-3
    assert all(torch.equal(parameters[name], parameter) for name, parameter in model.named_parameters())


def test_quadrature_agrees_with_that_of_the_density():
    """In the base, by the forward flow; and in the plane, where q is computed by the inverse: two integrals."""
    model = disturbed(energy="energy3", flow="planar", layers=2).double()
    z, weights = quadrature(16, 12.0)
    with torch.no_grad():
        log_q = model.log_prob(z)
        assert (weights * log_q.exp()).sum().item() == pytest.approx(1, abs=1e-6)
        expected = (weights * log_q.exp() * (log_q - model.energy.log_prob(z))).sum().item()
    assert model.divergence_by_quadrature()[0] == pytest.approx(expected, abs=1e-4)


def test_quadrature_follows_q_wherever_it_lies():
    mean = torch.tensor([30.0, -7.0])
    model = gaussian(EnergyFlow(layers=1), mean, torch.eye(2))
    with torch.no_grad():
        model.flow.transform.transforms[1].transform.shift.copy_(mean + torch.tensor([1.0, 0.0]))
    assert model.divergence_by_quadrature()[0] == pytest.approx(0.5, abs=1e-4)


def test_a_flow_that_quadrature_cannot_measure_is_refused(monkeypatch):
    model = disturbed(energy="energy4", flow="radial")
    monkeypatch.setattr(energy_flow, "RESOLUTIONS", (1, 2))
    with pytest.raises(ZooError, match=r"does not settle with 2 nodes a standard deviation .*divergence\(\)"):
        model.divergence_by_quadrature()


def test_evaluate_reports_the_divergence_beside_the_cross_entropy(tmp_path):
    model, data = EnergyFlow("energy2", layers=1), Points("energy2", train=1, validation=1, test=50)
    cross, kl = evaluate(model, data=data, limit=20)
    assert (cross.metric.name, cross.kind, cross.n, cross.limit) == ("nats", "exact", 20, True)
    value, nodes = model.divergence_by_quadrature()
    alone = {"n": nodes, "split": None, "dataset": "Points", "limit": False, "protocol": kl.protocol}
    assert kl == Result(METRICS["kl"], "quadrature", value, **alone)
    for stated in ("energy2", "[-8, 8]^2 of the base", "refined until", "0.0001 nats"):
        assert stated in kl.protocol
    results = evaluate(model, data=data)
    newer = [replace(result, value=result.value + 1) for result in results]
    assert merge(results, newer) == newer
    folder = store.save(model, tmp_path / "planar-energy2", dtype="float32", data=data.config, results=results)
    assert evaluate(folder) == results_of(read_config(folder)) == results


@pytest.mark.parametrize("flow", ["planar", "radial"])
def test_it_learns_an_energy(tmp_path, flow):
    model = EnergyFlow("energy1", flow, layers=8, annealing=0.6, lr=0.03, warmup=10)
    data = Points("energy1", train=6400, validation=200, test=10, batch_size=64, eval_batch_size=200)
    model, trainer = fit(tmp_path, model=model, data=data, max_steps=300, gradient_clip_val=5.0)
    found = model.divergence(5000)[0]
    assert 0 < found < math.log(2), "which is left where one of the two modes is fitted alone, and perfectly"
    # The cross entropy of draws of p, which is at least their entropy.
    (result,) = trainer.validate(model, data, verbose=False)
    cross = -model.log_prob(data.val[0]).mean().item()
    assert result["val_nats"] == pytest.approx(cross, abs=1e-3)
    assert cross > -model.energy.log_prob(data.val[0]).mean().item()


# -- the natural gradient ------------------------------------------------------------------------------------


def flat(model: EnergyFlow, value: Tensor) -> Tensor:
    """The gradient of `value` in all parameters of the flow, as one vector."""
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(value, list(model.flow.parameters()))])


@pytest.mark.parametrize("flow", ["planar", "radial"])
def test_scores_are_the_gradients_of_the_log_density_at_fixed_points(flow):
    model = disturbed(flow=flow, layers=3).double()
    torch.manual_seed(1)
    z, log_prob, scores = model.draws_and_scores(5)
    torch.testing.assert_close(log_prob, model.log_prob(z))
    expected = torch.stack([flat(model, model.log_prob(point[None].detach())[0]) for point in z])
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("flow", ["planar", "radial"])
def test_the_gradient_of_the_path_is_the_usual_one_without_the_score(flow):
    model = disturbed(energy="energy3", flow=flow, layers=3).double()
    torch.manual_seed(1)
    z, log_prob, scores = model.draws_and_scores(50)
    path = flat(model, model._excess(z, log_prob, 0.7).mean())
    torch.manual_seed(1)
    usual = flat(model, model._excess(*model.flow.rsample(50), 0.7).mean())
    torch.testing.assert_close(usual, path + scores.mean(0))
    # What is left out is zero in expectation: the mean of many scores is small beside their size.
    _, _, scores = model.draws_and_scores(20_000)
    assert (scores.mean(0).abs() <= 5 * scores.std(0) / math.sqrt(len(scores)) + 1e-12).all()


def test_the_gradient_of_the_path_vanishes_where_the_two_are_one():
    model = EnergyFlow(layers=2).double()
    gaussian(model, torch.zeros(2), torch.eye(2))
    z, log_prob, scores = model.draws_and_scores(20)
    assert flat(model, model._excess(z, log_prob).mean()).abs().max() < 1e-12
    assert scores.mean(0).abs().max() > 0.01, "the usual gradient is this"


@pytest.mark.parametrize("flow", ["planar", "radial"])
def test_it_learns_an_energy_by_the_natural_gradient(tmp_path, flow):
    model = EnergyFlow("energy1", flow, layers=8, annealing=0.6, lr=0.3, warmup=0, natural=True)
    data = Points("energy1", train=6400, validation=200, test=10, batch_size=256)
    model, _ = fit(tmp_path, model=model, data=data, max_steps=100)
    assert 0 < model.divergence(5000)[0] < 0.3


def test_the_inverse_temperature_rises_to_one(tmp_path, monkeypatch):
    seen = []
    original = EnergyFlow._excess

    def spy(self, z, log_prob, temperature=1.0):
        seen.append(temperature)
        return original(self, z, log_prob, temperature)

    monkeypatch.setattr(EnergyFlow, "_excess", spy)
    data = Points(name="energy1", train=64, validation=4, test=4, batch_size=8)
    fit(tmp_path, model=EnergyFlow(layers=1, annealing=0.5), data=data, max_steps=20)
    assert seen[0] == 0.01
    assert seen == sorted(seen)
    assert seen[5] == pytest.approx(0.51)
    assert set(seen[10:]) == {1.0}


@pytest.mark.parametrize("natural", [False, True])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, natural):
    def run(folder, *callbacks, **settings):
        torch.manual_seed(3)
        data = Points(name="energy3", train=64, validation=8, test=4, batch_size=8)
        model = EnergyFlow("energy3", layers=2, natural=natural)
        fit(folder, *callbacks, model=model, data=data, max_steps=13, **settings)
        return last(folder)

    whole = run(tmp_path / "whole")
    half = run(tmp_path / "half", Stop(5))
    assert list(differences(whole, half))
    resumed = run(tmp_path / "resumed", ckpt_path=tmp_path / "half" / "checkpoints" / "last.ckpt")
    assert not list(differences(whole, resumed))


@pytest.mark.parametrize("flow", ["planar", "radial"])
def test_a_saved_model_is_loaded(tmp_path, flow):
    model = disturbed(flow=flow)
    again = store.load(store.save(model, tmp_path / "planar-test", dtype="float32"))
    x = model.sample(8, seed=0)
    assert torch.equal(again.sample(8, seed=0), x)
    assert torch.equal(again.log_prob(x), model.log_prob(x))
    assert dict(again.hparams) == json.loads(json.dumps(dict(model.hparams)))


def test_seeds():
    model = disturbed()
    state = torch.get_rng_state()
    x = model.sample(5, seed=1)
    assert (x.dtype, tuple(x.shape)) == (torch.float32, (5, 2))
    assert torch.equal(x, model.sample(5, seed=1))
    assert not torch.equal(x, model.sample(5, seed=2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.zeros(3, 3), r"shape \(3, 3\); this model takes \(N, 2\)"),
        (torch.zeros(3, 2, dtype=torch.int64), "continuous data is floating point"),
        (torch.full((3, 2), math.nan), "NaN"),
        ([[0.0, 0.0]], "must be a torch tensor"),
    ],
)
def test_bad_data_are_refused(x, sentence):
    with pytest.raises(DataError, match=sentence):
        EnergyFlow(layers=1).log_prob(x)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"energy": "moons"}, "no energy 'moons'"),
        ({"flow": "circular"}, "flow must be planar or radial, not 'circular'"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"annealing": 1.5}, "annealing must be"),
        ({"natural": True, "weight_decay": 0.1}, "no weight decay: weight_decay must be 0, not 0.1"),
    ],
)
def test_bad_arguments_are_refused(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        EnergyFlow(**arguments)


def test_bad_counts_and_other_points_are_refused(tmp_path):
    model = EnergyFlow(layers=1)
    with pytest.raises(DataError, match="n must be at least 2"):
        model.divergence(1)
    with pytest.raises(DataError, match="n must be at least 1"):
        model.sample(0)
    with pytest.raises(DataError, match="are those of moons, the model is to fit energy1"):
        fit(tmp_path, model=model, data=Points("moons", train=64, validation=4, test=4, batch_size=8), max_steps=1)


def test_the_affine_layer_is_a_diffeomorphism():
    check_diffeomorphism(randomize(Affine(3)), points(4, 3), z=points(4, 3))
