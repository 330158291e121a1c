"""Likelihood by the probability flow: exact where it is known in closed form, a bound where levels are decoded."""

from __future__ import annotations

import builtins
import math
from typing import Any

import pytest
import torch
from exact_levels import LOG_PROBABILITIES, VALUES, exact, normals
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from zoo.batch import Batch
from zoo.data import Digits
from zoo.diffusion.decoder import log_decoder
from zoo.diffusion.gaussian import GaussianDiffusion
from zoo.diffusion.predictions import datum
from zoo.diffusion.probability_flow import FlowLikelihood, flow_elbo, flow_log_prob, log_density, mean_and_trace
from zoo.diffusion.schedules import Linear, alpha_sigma, over
from zoo.diffusion.vdm import VDM
from zoo.errors import DataError, ZooError
from zoo.evaluation.measure import evaluate
from zoo.nn.draws import Draws
from zoo.spec import DataSpec

COVARIANCE = torch.tensor([[1.0, 0.6, 0.0], [0.6, 0.5, -0.2], [0.0, -0.2, 0.3]], dtype=torch.float64)
TINY = {"channels": 2, "multipliers": [1, 1], "blocks": 1, "attention": [4]}


@pytest.fixture(autouse=True)
def _solver(request):
    if "absent" not in request.node.name:
        pytest.importorskip("torchdiffeq", reason="the probability flow needs the extra ode")


class ExactGaussian(nn.Module):
    """E[x | z] of a Gaussian, alpha C (alpha^2 C + sigma^2)^-1 z."""

    def __init__(self) -> None:
        super().__init__()
        self.covariance = nn.Parameter(COVARIANCE.clone())

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None) -> Tensor:
        alpha, sigma = (each[:, None, None] for each in alpha_sigma(log_snr))
        total = alpha**2 * self.covariance + sigma**2 * torch.eye(3).to(z)
        return (alpha * self.covariance @ torch.linalg.solve(total, z[..., None]))[..., 0]


class Correlated(GaussianDiffusion):
    """Three components of a Gaussian, measured in units of their own."""

    def __init__(self, unit: float = 1.0, first: float = 3.0, last: float = -2.0) -> None:
        super().__init__()
        self.spec, self.net, self.prediction = DataSpec((3,), None), ExactGaussian(), datum
        self.noise_schedule, self.deviation = Linear(first, last), unit


def closed_form(x: Tensor, unit: float, first: float, last: float) -> Tensor:
    """The flow takes z_0 along the axes of the covariance, where the deviation of q(z) goes from one end's to the
    other's; there it is N(0, 1), whatever q(z_1) is.
    """
    (alpha, sigma), (alpha_last, sigma_last) = (
        alpha_sigma(torch.tensor(each, dtype=torch.float64)) for each in (first, last)
    )
    variances, axes = torch.linalg.eigh(COVARIANCE)
    stretch = ((alpha_last**2 * variances + sigma_last**2) / (alpha**2 * variances + sigma**2)).sqrt()
    z = (alpha * x / unit) @ axes * stretch
    normal = -z.square().sum(1) / 2 - 1.5 * math.log(2 * math.pi)
    return normal + stretch.log().sum() + 3 * (alpha.log() - math.log(unit))


def points(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, dtype=torch.float64, generator=generator) @ torch.linalg.cholesky(COVARIANCE).T


# -- points ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "first", "last"), [(1.0, 3.0, -2.0), (2.5, 6.0, -6.0)])
def test_it_is_exact_for_a_gaussian(unit, first, last):
    model, x = Correlated(unit, first, last).double(), unit * points(7)
    found = flow_log_prob(model, x, tolerance=1e-9)
    torch.testing.assert_close(found, closed_form(x, unit, first, last), rtol=0, atol=1e-6)


def test_with_ends_far_apart_it_is_the_density_of_the_data():
    model, x = Correlated(first=18.0, last=-18.0).double(), points(7)
    expected = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), COVARIANCE).log_prob(x)
    torch.testing.assert_close(flow_log_prob(model, x, tolerance=1e-9), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("probes", [1, 3])
def test_hutchinsons_estimate_is_unbiased(probes):
    model, n = Correlated().double(), 2000
    x = points(1).expand(n, 3)
    found = flow_log_prob(model, x, probes=probes, seed=0, tolerance=1e-6)
    assert found.std() > 0.1, "without variance there would be nothing to show"
    assert abs(float(found.mean() - closed_form(x[:1], 1.0, 3.0, -2.0))) < 4 * float(found.std()) / math.sqrt(n)
    if probes > 1:
        one = flow_log_prob(model, x, probes=1, seed=0, tolerance=1e-6)
        assert float(found.var() / one.var()) == pytest.approx(1 / probes, rel=0.2)


def test_the_tolerance_bounds_the_error():
    model, x, errors = Correlated().double(), points(7), []
    for tolerance in (1e-3, 1e-5, 1e-7):
        found = flow_log_prob(model, x, tolerance=tolerance)
        errors.append(float((found - closed_form(x, 1.0, 3.0, -2.0)).abs().max()))
        assert errors[-1] < 30 * tolerance, "of three dimensions, in some ten steps"


def test_one_wild_datum_does_not_hide_in_a_large_batch():
    """Between two levels, where the flow parts; with the mean over the batch for a norm it is wrong by more than 1."""
    vdm = exact(5.0, -5.0)
    wild, calm = (torch.full((n, 1, 1, 1), z, dtype=torch.float64) for n, z in ((1, 0.65), (5000, 1 / 3)))
    ends = vdm.noise_schedule(torch.tensor([0.0, 1.0], dtype=torch.float64))
    together = log_density(vdm.denoiser(), torch.cat([calm, wild]), tuple(ends), None, 1e-4)[-1:]
    alone = log_density(vdm.denoiser(), wild, tuple(ends), None, 1e-8)
    torch.testing.assert_close(together, alone, rtol=0, atol=0.05)


# -- the trace -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inference", [False, True])
def test_the_trace_is_that_of_the_jacobian(inference):
    """Also through attention, and where the caller wants no gradients."""
    torch.manual_seed(0)
    vdm = VDM(shape=[1, 4, 4], levels=5, **TINY)
    for parameter in vdm.net.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    vdm, log_snr = vdm.double().eval(), torch.tensor(1.0, dtype=torch.float64)
    z = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    matrices = [jacobian(lambda y: vdm.mean(y.view(1, 1, 4, 4), log_snr).flatten(), each.flatten()) for each in z]
    signs = torch.randint(0, 2, (3, 2, 1, 4, 4)).double() * 2 - 1
    with torch.inference_mode(inference), torch.no_grad():
        x, trace = mean_and_trace(vdm.denoiser(), z, log_snr, None)
        same, estimate = mean_and_trace(vdm.denoiser(), z, log_snr, signs)
        torch.testing.assert_close(x, vdm.mean(z, log_snr))
    assert torch.equal(x, same)
    torch.testing.assert_close(trace, torch.stack([each.trace() for each in matrices]))
    expected = [sum(v.flatten() @ matrix @ v.flatten() for v in signs[:, k]) / 3 for k, matrix in enumerate(matrices)]
    torch.testing.assert_close(estimate, torch.stack(expected))
    assert not x.requires_grad
    assert not trace.requires_grad
    assert all(parameter.grad is None for parameter in vdm.parameters())


# -- levels ----------------------------------------------------------------------------------------------------------


def by_quadrature(vdm: VDM) -> tuple[Tensor, Tensor, Tensor]:
    """The bound, log p(x) and the mean KL(q(z_0 | x) || p(z_0 | x)), each of all levels, in nats."""
    ends = vdm.noise_schedule(torch.tensor([0.0, 1.0], dtype=torch.float64))
    levels, (alpha, sigma) = torch.arange(len(VALUES)), alpha_sigma(ends[0])

    def log_p(z: Tensor) -> Tensor:
        return log_density(vdm.denoiser(), z.reshape(-1, 1, 1, 1), tuple(ends), None, 1e-6).view(z.shape)

    def decoded(z: Tensor) -> Tensor:
        """(levels, *z.shape)."""
        x = levels.repeat_interleave(z.numel())[:, None]
        return log_decoder(x, z.flatten().repeat(len(levels))[:, None], ends[0], len(levels)).view(-1, *z.shape)

    grid = torch.linspace(-1, 1, 401, dtype=torch.float64) * (1 + 8 * sigma)
    log_joint = decoded(grid) + log_p(grid)
    log_evidence = torch.trapezoid(log_joint.exp(), grid).log()
    nodes, weights = normals(60)
    z = alpha * VALUES[:, None] + sigma * nodes
    own = torch.stack([each[k] for k, each in enumerate(decoded(z))])
    log_q = -nodes.square() / 2 - (math.sqrt(2 * math.pi) * sigma).log()
    bound = (weights * (own + log_p(z) - log_q)).sum(1)
    gap = (weights * (log_q - (own + log_p(z) - log_evidence[:, None]))).sum(1)
    return bound, log_evidence, gap


@pytest.mark.parametrize(("first", "last"), [(1.5, -2.0), (5.0, -16.0)])
def test_of_levels_it_is_a_bound_on_what_is_drawn_from_the_flow_and_the_decoder(first, last):
    """The distribution of x drawn from p(x | z_0), z_0 from the flow, is known by quadrature over z_0."""
    bound, log_evidence, gap = by_quadrature(exact(first, last))
    assert float(log_evidence.exp().sum()) == pytest.approx(1, abs=1e-5)
    assert (bound <= log_evidence + 1e-5).all()
    torch.testing.assert_close(log_evidence - bound, gap, rtol=0, atol=1e-5)
    if first == 5.0:
        torch.testing.assert_close(bound, LOG_PROBABILITIES, rtol=0, atol=2e-3)
    else:
        assert gap.min() > 0.005, "a bound, and no more"


@pytest.mark.parametrize("samples", [1, 4])
def test_the_estimate_is_unbiased(samples):
    vdm, n = exact(1.5, -2.0), 600
    expected = by_quadrature(vdm)[0][2]
    found = flow_elbo(vdm, torch.full((n, 1, 1, 1), 2, dtype=torch.uint8), samples=samples, seed=0, tolerance=1e-6)
    assert abs(float(found.mean() - expected)) < 4 * float(found.std()) / math.sqrt(n)


def test_components_that_are_independent_add_up():
    """Of 64 pixels, each as the one that is known; the trace is then the same along all signs."""
    x = torch.randint(4, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = flow_elbo(exact(2.0, -3.0, side=8), x, seed=0, tolerance=1e-6)
    noise = Draws(0, 3).normal(1, 8, 8).double()
    vdm = exact(2.0, -3.0)
    ends = vdm.noise_schedule(torch.tensor([0.0, 1.0], dtype=torch.float64))
    alpha, sigma = alpha_sigma(ends[0])
    z = (alpha * vdm.scaled(x) + sigma * noise).view(-1, 1, 1, 1)
    log_p = log_density(vdm.denoiser(), z, tuple(ends), None, 1e-8) + log_decoder(x.view(z.shape), z, ends[0], 4)
    log_q = -noise.flatten().square() / 2 - (math.sqrt(2 * math.pi) * sigma).log()
    torch.testing.assert_close(found, (log_p - log_q).view(3, -1).sum(1), rtol=0, atol=64e-5)


def test_draws_are_the_datums_own():
    vdm, x = exact(2.0, -3.0, side=4), torch.randint(4, (5, 1, 4, 4), dtype=torch.uint8)
    state = torch.get_rng_state()
    whole = flow_elbo(vdm, x, samples=2, probes=2, seed=0, tolerance=1e-7)
    part = flow_elbo(vdm, x[2:4], samples=2, probes=2, seed=0, tolerance=1e-7, index=torch.tensor([2, 3]))
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(part, whole[2:4], rtol=0, atol=1e-4)
    assert not torch.allclose(flow_elbo(vdm, x, samples=2, seed=1), whole)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(flow_elbo(vdm, x, samples=2, probes=2, seed=0, tolerance=1e-7), whole)
    assert flow_elbo(vdm, x[:0]).shape == (0,)


def test_a_label_chooses_the_density():
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centre = nn.Parameter(torch.tensor([-2.0, 2.0, 0.0]))

        def forward(self, z: Tensor, log_snr: Tensor, label: Tensor) -> Tensor:
            alpha, _ = alpha_sigma(log_snr)
            centre = self.centre[label][:, None]
            return centre + over(alpha, z) * (z - over(alpha, z) * centre)  # of deviation 1

    model = Correlated(first=12.0, last=-24.0)
    model.spec, model.net = DataSpec((1,), None, 2), Shifted()
    model = model.double()
    x, label = torch.tensor([[1.5], [1.5], [-0.5]], dtype=torch.float64), torch.tensor([0, 1, 1])
    for given, centre in ((label, torch.tensor([-2.0, 2.0, 2.0])), (None, torch.zeros(3))):
        expected = torch.distributions.Normal(centre.double(), 1.0).log_prob(x[:, 0])
        torch.testing.assert_close(flow_log_prob(model, x, label=given, tolerance=1e-8), expected, rtol=0, atol=1e-3)


# -- as a number of a checkpoint -------------------------------------------------------------------------------------


def small() -> VDM:
    torch.manual_seed(0)
    return VDM(shape=[1, 8, 8], levels=17, first=6.0, last=-4.0, **TINY).eval()


def test_it_is_measured_where_it_is_asked_for_and_beside_the_bound():
    vdm, settings = small(), {"limit": 3, "device": "cpu", "batch_size": 2}
    usual = [each.metric.name for each in evaluate(vdm, data=Digits(), **settings)]
    assert usual[0] == "bits_per_dim"
    assert not any(name.startswith("flow") for name in usual)
    *_, flow, difference = evaluate(vdm, data=Digits(), metrics="flow_bits_per_dim", **settings)
    assert (flow.metric.name, flow.kind, flow.n, flow.limit) == ("flow_bits_per_dim", "estimate", 3, True)
    assert flow.standard_error > 0
    assert "one draw and one probe; dopri5, tolerance 1e-05" in flow.protocol
    data = Digits()
    data.prepare_data()
    data.setup("test")
    x = next(iter(data.test_dataloader()))[0][:3]
    own, bound = flow_elbo(vdm, x, seed=0), vdm.elbo(x, samples=16, seed=0).detach()
    assert flow.value == pytest.approx(-float(own.mean()) / (64 * math.log(2)), abs=1e-3)
    paired = (bound - own).double() / (64 * math.log(2))
    assert difference.metric.name == "flow_less_bound_bits_per_dim"
    assert difference.value == pytest.approx(float(paired.mean()), abs=1e-3)
    assert difference.standard_error == pytest.approx(float(paired.std()) / math.sqrt(3), abs=1e-3)


def test_the_first_of_many_are_measured():
    measurement, x = FlowLikelihood(small(), n=3, bound_draws=1), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    measurement.begin(None, None)
    for _ in range(3):
        measurement.update(Batch(x))
    flow, difference = measurement.compute()
    assert (flow.n, difference.n) == (3, 3)
    assert flow.protocol.startswith("the first 3; ")
    assert not flow.limit


def test_points_are_measured_by_their_exact_trace_alone():
    measurement = FlowLikelihood(Correlated())
    measurement.begin(None, None)
    measurement.update(Batch(points(5).float()))
    (flow,) = measurement.compute()
    assert flow.metric.name == "flow_nats"
    assert "density, exact trace" in flow.protocol
    assert flow.value == pytest.approx(-float(closed_form(points(5), 1.0, 3.0, -2.0).mean()), abs=1e-3)


# -- refusals --------------------------------------------------------------------------------------------------------


def test_torchdiffeq_absent_is_one_sentence(monkeypatch):
    original = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name == "torchdiffeq":
            raise ImportError(name)
        return original(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ZooError, match=r"pip install generative-zoo\[ode\]") as caught:
        flow_elbo(exact(), torch.zeros(1, 1, 1, 1, dtype=torch.uint8))
    assert "\n" not in str(caught.value)


def test_what_it_is_not_for_is_refused():
    x = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    with pytest.raises(DataError, match="Levels have no density"):
        flow_log_prob(exact(), x)
    with pytest.raises(DataError, match="Data without levels have a density"):
        flow_elbo(Correlated(), torch.zeros(1, 3))
    with pytest.raises(DataError, match="probes must be at least 1, not 0"):
        flow_elbo(exact(), x, probes=0)
    with pytest.raises(DataError, match="tolerance must be positive"):
        flow_elbo(exact(), x, tolerance=0.0)
    with pytest.raises(DataError, match="samples must be at least 1"):
        flow_elbo(exact(), x, samples=0)


def test_a_denoiser_of_nan_ends_in_a_sentence():
    vdm = exact()
    vdm.net.register_forward_hook(lambda net, given, output: output * math.nan)
    with pytest.raises(ZooError) as caught:
        flow_elbo(vdm, torch.zeros(1, 1, 1, 1, dtype=torch.uint8))
    assert "\n" not in str(caught.value)
