"""The chain of Gaussian steps of 2015: its bound against exact densities, its draws against exact moments.

Formulas are written here in the paper's beta_t, and in the models in log-SNRs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from exact_chains import DTYPE, Chain, Told, gaussian, made, moments
from tiny_runs import sealed
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from zoo.diffusion.kernels import LearnedBetas, reading_costs
from zoo.diffusion.nonequilibrium import Diffusion
from zoo.diffusion.schedules import Cosine, Linear
from zoo.errors import DataError, ZooError

# Exact for polynomials in the noise up to degree 5: costs are of degree 2 where the denoiser is linear.
NODES, WEIGHTS = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(3))
FINE, FINE_WEIGHTS = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(80))


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


def expected_bound(model: Diffusion, x: Tensor, nodes: Tensor = NODES, weights: Tensor = WEIGHTS) -> Tensor:
    """The bound of data (N, 1), its noise integrated out: (N,) nats."""
    k = torch.arange(0 if model.spec.levels is None else 1, len(model.states()))
    y = model.scaled(x).to(DTYPE)
    ends, places = sum(model.end_costs(x, y)), torch.cartesian_prod(torch.arange(len(x)), k, torch.arange(len(nodes)))
    noise = nodes[places[:, 2]].view(-1, *[1] * (y.ndim - 1))
    costs = model.step_cost(y[places[:, 0]], places[:, 1], noise).view(len(x), len(k), len(nodes))
    return -(ends + costs.sum(1) @ weights / weights.sum()).detach()


# -- the forward process -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", [Linear(9.0, -4.0), Cosine(9.0, -4.0)])
def test_learned_betas_compose_to_the_states(begin):
    """x_t of T kernels one after another, for betas as they begin and for others."""
    schedule = LearnedBetas(begin, 12).double()
    expected = begin.log_snr(torch.linspace(0, 1, 12, dtype=DTYPE))
    torch.testing.assert_close(schedule.states(), expected, rtol=1e-6, atol=1e-6)
    schedule.logits.data.copy_(torch.randn(11))
    mean, variance, found = torch.ones((), dtype=DTYPE), torch.zeros((), dtype=DTYPE), []
    for beta in schedule.betas():
        mean, variance = (1 - beta).sqrt() * mean, (1 - beta) * variance + beta
        found.append(torch.stack([mean, variance]))
    log_snr = schedule(torch.linspace(0, 1, 12, dtype=DTYPE))
    closed = torch.stack([log_snr.sigmoid().sqrt(), (-log_snr).sigmoid()], 1)
    torch.testing.assert_close(torch.stack(found), closed, rtol=1e-9, atol=1e-12)


def test_a_schedule_of_learned_betas_has_its_slope():
    schedule = LearnedBetas(Linear(9.0, -4.0), 12).double()
    schedule.logits.data.copy_(torch.randn(11))
    t = torch.tensor([0.01, 0.33, 0.7, 0.99], dtype=DTYPE)
    slope = (schedule(t + 1e-6) - schedule(t - 1e-6)) / 2e-6
    torch.testing.assert_close(schedule.slope(t), slope, rtol=1e-6, atol=1e-6)
    assert (schedule(torch.linspace(0, 1, 500, dtype=DTYPE)).diff() < 0).all()
    assert float(schedule(torch.zeros((), dtype=DTYPE)).detach()) == pytest.approx(9.0)


def test_posteriors_are_bayes():
    """The kernel to the state before, where x is known, is N(z_s; alpha x, sigma^2) N(z; z_s, beta) normalized."""
    model = made(5)
    chain, x, z = Chain(model), torch.tensor(0.7, dtype=DTYPE), torch.tensor(-0.4, dtype=DTYPE)
    model.net = Told(model, lambda k, z: x.to(z), lambda k, z: torch.zeros_like(z))
    states = model.states()
    for k in range(1, 5):
        mean, log_variance, given = model.kernel(z.view(1, 1), states[k], states[k - 1])
        precision = 1 / chain.noise_before[k] + (1 - chain.beta[k]) / chain.beta[k]
        prior, seen = chain.alpha_before[k] * x / chain.noise_before[k], (1 - chain.beta[k]).sqrt() * z / chain.beta[k]
        torch.testing.assert_close(log_variance.exp().squeeze(), 1 / precision)
        torch.testing.assert_close(chain.posterior(k, mean.squeeze(), z), (prior + seen) / precision)
        assert float(given.detach().abs()) < 1e-12


# -- the bound ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 3, 6, 20])
@pytest.mark.parametrize("learned", [False, True])
def test_of_gaussian_data_the_bound_is_exact(steps, learned):
    """With the best mean and variance of each step, and q(x_T) as the prior, at each T."""
    model = gaussian(made(steps, learned_betas=learned))
    x = torch.tensor([[-1.3], [0.0], [0.4], [2.0]], dtype=DTYPE)
    chain, own = Chain(model), 0.36
    end = Normal(chain.alpha[-1] * x[:, 0], chain.noise[-1].sqrt())
    marginal = Normal(torch.zeros((), dtype=DTYPE), (own * chain.alpha[-1] ** 2 + chain.noise[-1]).sqrt())
    standard = Normal(torch.zeros((), dtype=DTYPE), torch.ones((), dtype=DTYPE))
    bound = expected_bound(model, x) + kl_divergence(end, standard) - kl_divergence(end, marginal)
    torch.testing.assert_close(bound, Normal(0.0, math.sqrt(own)).log_prob(x[:, 0]), rtol=0, atol=1e-6)


def test_with_the_kernels_own_variance_the_gap_falls_as_one_over_t():
    x = torch.tensor([[0.5]], dtype=DTYPE)
    gaps = []
    for steps in (50, 100, 200, 400):
        best, beta = (expected_bound(gaussian(made(steps), share=share), x) for share in (None, 1.0))
        gaps.append(float(best - beta))
    assert gaps[-1] > 1e-4
    for wide, narrow in pairwise(gaps):
        assert wide / narrow == pytest.approx(2.0, abs=0.06)
    assert gaps[-2] / gaps[-1] == pytest.approx(2.0, abs=0.01)


def test_the_posteriors_variance_is_no_better():
    """Also the lower end of the line is off by what falls as 1/T: the learned variance is between the two."""
    x = torch.tensor([[0.5]], dtype=DTYPE)
    bounds = [float(expected_bound(gaussian(made(20), share=share), x)) for share in (0.0, 1.0, None)]
    assert max(bounds[:2]) < bounds[2] - 1e-3


def mixture(model: Diffusion, share: float = 0.6) -> Callable[[Tensor], Tensor]:
    """Let the model know E[x | z] of two Gaussians; their log-density."""
    chain, centres = Chain(model), torch.tensor([-1.2, 0.7], dtype=DTYPE)
    weight, variance = torch.tensor([0.3, 0.7], dtype=DTYPE), 0.09

    def mean(k: Tensor, z: Tensor) -> Tensor:
        alpha, total = chain.alpha[k], variance * chain.alpha[k] ** 2 + chain.noise[k]
        shares = (weight.log() - (z - alpha * centres).square() / (2 * total)).softmax(-1)
        return (shares * (centres + variance * alpha / total * (z - alpha * centres))).sum(-1, keepdim=True)

    model.net = Told(model, mean, lambda k, z: torch.full_like(z, share))
    return lambda x: torch.logsumexp(weight.log() + Normal(centres, math.sqrt(variance)).log_prob(x), -1)


def model_density(model: Diffusion, share: float, grid: Tensor, last: int) -> Tensor:
    """p(x_last) on a grid: N(0, 1) at the end, carried back by the reverse kernels, by the trapezoidal rule."""
    chain, width = Chain(model), float(grid[1] - grid[0])
    p = Normal(0.0, 1.0).log_prob(grid).exp()
    for k in range(len(chain.beta) - 1, last, -1):
        x = model.net.mean(torch.tensor([[k]]), grid[:, None])
        kernel = Normal(chain.posterior(k, x, grid[:, None]), chain.variance(k, share).sqrt())
        p = width * p @ kernel.log_prob(grid).exp()
    return p


def test_the_bound_is_below_the_density_of_the_model_and_of_a_mixture():
    model = made(8, first=4.0)
    log_density, grid = mixture(model), torch.linspace(-7, 7, 2001, dtype=DTYPE)
    log_p = model_density(model, 0.6, grid, -1).log()
    inside = slice(700, 1301, 10)  # from -2.1 to 2.1
    bound = expected_bound(model, grid[inside, None], FINE, FINE_WEIGHTS)
    assert (bound < log_p[inside] - 1e-4).all()
    assert float((log_p.exp().sum() * (grid[1] - grid[0])).log()) == pytest.approx(0, abs=1e-6)
    q = log_density(grid[inside, None]).exp()
    q = q / q.sum()
    # No model is likelier than the data's own density.
    assert float(q @ bound) < float(q @ log_p[inside]) < float(q @ log_density(grid[inside, None]))


def test_of_levels_it_is_below_the_probability_of_each():
    """Of one pixel of five levels: probabilities of the model, which sum to one, by the trapezoidal rule."""
    model = made(6, shape=[1, 1, 1], levels=5, first=3.0, channels=8, multipliers=[1], attention=[], fourier=1)
    values = torch.linspace(-1, 1, 5, dtype=DTYPE)
    chain, grid = Chain(model), torch.linspace(-7, 7, 1501, dtype=DTYPE)
    weight = torch.tensor([0.1, 0.4, 0.2, 0.05, 0.25], dtype=DTYPE)

    def mean(k: Tensor, z: Tensor) -> Tensor:
        alpha, noise = chain.alpha[k][..., None], chain.noise[k][..., None]
        logits = weight.log() - (z[..., None] - alpha * values).square() / (2 * noise)
        return (logits.softmax(-1) * values).sum(-1)

    model.net = Told(model, mean, lambda k, z: torch.full_like(z, 0.4))
    p = model_density(model, 0.4, grid, 0)
    reading = (-(grid[:, None] - chain.alpha[0] * values).square() / (2 * chain.noise[0])).softmax(1)
    probabilities = p @ reading * (grid[1] - grid[0])
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-6)
    x = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1)
    bound = expected_bound(model, x, FINE, FINE_WEIGHTS)
    assert (bound < probabilities.log()).all()
    assert float(weight @ (probabilities.log() - bound)) < 0.5, "a bound that says something"
    # What is drawn is the model's: each level as often.
    counts = torch.bincount(model.sample(20_000, seed=0, steps=6).flatten().long(), minlength=5) / 20_000
    assert ((counts - probabilities).abs() < 4 * (probabilities / 20_000).sqrt()).all()


def test_what_it_costs_to_read_levels_is_exact():
    """Against many draws of the noise, at the edges of the levels and inside."""
    found, noise = reading_costs(2.0, 5, "cpu").double(), torch.randn(200_000, 1, dtype=DTYPE)
    alpha, sigma = math.sqrt(1 / (1 + math.exp(-2))), math.sqrt(1 / (1 + math.exp(2)))
    values = torch.linspace(-1, 1, 5, dtype=DTYPE)
    for x in range(5):
        z = alpha * values[x] + sigma * noise
        drawn = -(-(z - alpha * values).square() / (2 * sigma**2)).log_softmax(1)[:, x]
        assert float((drawn.mean() - found[x]).abs()) < 4 * float(drawn.std()) / math.sqrt(len(noise))
    torch.testing.assert_close(found, found.flip(0))
    assert found[0] < found[2]


def test_it_is_the_papers_bound_where_the_first_step_is_the_papers():
    """Equation 14, with its entropies, over data of unit second moment: p(x_0 | x_1) is then q(x_1 | x_0) reversed."""
    model = made(5)
    chain, x = Chain(model), torch.tensor([[-1.0], [1.0]], dtype=DTYPE)

    def mean(k: Tensor, z: Tensor) -> Tensor:
        return torch.where(k == 0, (1 - chain.beta[0]).sqrt() * z, torch.tanh(z))

    model.net = Told(model, mean, lambda k, z: torch.where(k == 0, 1.0, 0.3) * torch.ones_like(z))
    total = torch.zeros((), dtype=DTYPE)
    for k in range(1, 5):
        z = chain.alpha[k] * x + chain.noise[k].sqrt() * FINE
        known = Normal(chain.posterior(k, x, z), chain.least[k].sqrt())
        learned = Normal(chain.posterior(k, torch.tanh(z), z), chain.variance(k, 0.3).sqrt())
        total += (kl_divergence(known, learned) @ FINE_WEIGHTS / FINE_WEIGHTS.sum()).mean()

    def entropy(variance: Tensor) -> Tensor:
        return (2 * math.pi * math.e * variance).log() / 2

    paper = -total + entropy(chain.noise[-1]) - entropy(chain.beta[0]) - entropy(torch.ones((), dtype=DTYPE))
    torch.testing.assert_close(expected_bound(model, x, FINE, FINE_WEIGHTS).mean(), paper)


# -- its estimates -----------------------------------------------------------------------------------------------


def tiny(levels: int | None, **arguments) -> tuple[Diffusion, Tensor]:
    torch.manual_seed(3)
    shape = [2] if levels is None else [1, 2, 2]
    sizes = {"channels": 8, "multipliers": [1], "attention": [], "hidden": 8, "layers": 1, **arguments}
    model = Diffusion(shape, levels, timesteps=7, first=6.0, deviation=1.3 if levels is None else 1.0, **sizes).double()
    for parameter in model.net.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(1, 2).double() if levels is None else torch.randint(levels, (1, 1, 2, 2), dtype=torch.uint8)
    return model.eval(), x


@pytest.mark.parametrize("levels", [None, 5])
def test_a_few_steps_say_without_bias_what_all_of_them_say(levels):
    model, x = tiny(levels)
    many = x.expand(3000, *x.shape[1:])
    with torch.no_grad():
        whole = model.elbo(many, samples=7, seed=0)
        for samples in (1, 3):
            few = model.elbo(many, samples=samples, seed=1)
            error = math.sqrt(float(few.var() + whole.var()) / len(many))
            assert abs(float(few.mean() - whole.mean())) < 4 * error
            assert few.std() > whole.std(), "fewer steps are noisier"


@pytest.mark.parametrize(("levels", "states"), [(None, 6), (5, 7)])
def test_with_t_steps_each_is_there_once(levels, states, monkeypatch):
    model, x = tiny(levels)
    seen: list[Tensor] = []
    cost = model.step_cost
    monkeypatch.setattr(model, "step_cost", lambda y, k, noise: seen.append(k) or cost(y, k, noise))
    model.elbo(x.expand(9, *x.shape[1:]), samples=states, seed=0)
    between = torch.stack([k for k in seen if k.all()])
    assert (between.sort(0).values == torch.arange(1, states + 1)[:, None]).all()
    assert len(torch.unique(between, dim=1).T) > 1, "each datum begins elsewhere"


@pytest.mark.parametrize("levels", [None, 5])
def test_training_minimizes_the_bound(levels):
    model, x = tiny(levels)
    many = x.expand(3500, *x.shape[1:])
    with torch.no_grad():
        bound = -model.elbo(many, samples=7, seed=0)
        losses = model.train().loss(many)
    unit = 1.0 if levels is None else model.spec.dims * math.log(2)
    error = math.sqrt(float((unit * losses).var() + bound.var()) / len(many))
    assert abs(float(unit * losses.mean() - bound.mean())) < 4 * error


def test_terms_sum_to_the_bound_in_the_unit_of_the_data():
    model, x = tiny(None)
    with torch.no_grad():
        terms = model.terms(x, samples=3, seed=0)
        torch.testing.assert_close(-sum(terms), model.elbo(x, samples=3, seed=0))
        torch.testing.assert_close(model.elbo_draws(x, samples=3, seed=0).mean(0), model.elbo(x, samples=3, seed=0))
        assert min(float(terms.prior), float(terms.diffusion)) > 0
        # Data of twice the deviation have half the density in each component.
        wide = Diffusion([2], timesteps=7, first=6.0, deviation=2.6, hidden=8, layers=1).double()
        wide.load_state_dict(model.state_dict())
        twice = wide.elbo(2 * x, samples=3, seed=0)
        torch.testing.assert_close(twice, model.elbo(x, samples=3, seed=0) - 2 * math.log(2))


def test_the_noise_of_a_datum_is_its_own():
    model, x = tiny(5)
    x = torch.randint(5, (6, 1, 2, 2), dtype=torch.uint8)
    state = torch.get_rng_state()
    with torch.no_grad():
        whole = model.elbo(x, samples=2, seed=4)
        places = torch.tensor([5, 2])
        torch.testing.assert_close(model.elbo(x[places], samples=2, seed=4, index=places), whole[places])
        assert not torch.equal(model.elbo(x, samples=2, seed=5), whole)
    assert torch.equal(state, torch.get_rng_state())


# -- learned betas -----------------------------------------------------------------------------------------------


def test_betas_are_learned_with_the_noise_frozen():
    """The gradient of the sum of all steps in each beta is the difference quotient with the same noise."""
    model, x = tiny(None, learned_betas=True)
    noise = torch.randn(7, 2, dtype=DTYPE)

    def total() -> Tensor:
        y = model.scaled(x)
        return model.step_cost(y.expand(7, 2), torch.arange(7), noise).sum() + sum(model.end_costs(x, y)).sum()

    total().backward()
    logits = model.noise_schedule.logits
    for k in range(6):
        values = []
        for sign in (1, -1):
            logits.data[k] += sign * 1e-5
            values.append(total().item())
            logits.data[k] -= sign * 1e-5
        assert float(logits.grad[k]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-6)
    assert (logits.grad.abs() > 1e-4).all()


def test_learned_betas_lower_the_bound_and_stay_monotone():
    torch.manual_seed(0)
    model = gaussian(made(6, noise_schedule="cosine", learned_betas=True), share=0.0)
    x = torch.tensor([[0.5]], dtype=DTYPE)
    exact = float(expected_bound(model, x))
    optimizer = torch.optim.Adam([model.noise_schedule.logits], lr=0.3)
    for _ in range(30):
        gaussian(model, share=0.0)
        y, noise = model.scaled(x).expand(18, 1), NODES.repeat(6)[:, None]
        cost = model.step_cost(y, torch.arange(6).repeat_interleave(3), noise).view(6, 3) @ WEIGHTS / WEIGHTS.sum()
        loss = cost.sum() + sum(model.end_costs(x, model.scaled(x))).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert (model.states().diff() < 0).all()
    gaussian(model, share=0.0)
    assert float(expected_bound(model, x)) > exact + 1e-3
    assert model.states()[0].item() == 6.0, "the first is fixed"


# -- drawing -----------------------------------------------------------------------------------------------------


def test_the_chain_has_the_datas_moments_however_few_its_steps_are():
    model = gaussian(made(4, last=-12.0))
    moments(model.sample(20_000, seed=0), 0.0, 0.36)
    narrow = model.sample(20_000, seed=0, sampler="ddim")
    assert float(narrow.var()) < 0.8 * 0.36, "which a step without the variance of x has not"
    assert torch.equal(model.sample(3, seed=1), model.sample(5, seed=1)[:3])
    assert not torch.equal(model.sample(3, seed=1), model.sample(3, seed=2))


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpm2m"])
def test_all_samplers_draw_by_its_denoiser(sampler):
    moments(gaussian(made(250, last=-12.0, first=10.0)).sample(2000, seed=0, sampler=sampler, steps=250), 0.0, 0.36)


# -- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"timesteps": 1}, "timesteps must be at least 2, not 1"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"first": -6.0}, "A schedule is monotone, from less noise to more"),
        ({"noise_schedule": "karras"}, "noise_schedule must be one of linear, cosine, not 'karras'"),
        ({"prediction": "score"}, "prediction must be one of epsilon, x, v, preconditioned, not 'score'"),
        ({"shape": [1, 8, 8], "levels": 1}, "levels must be from 2 to 256, or null for points, not 1"),
        ({"shape": [1, 8, 8], "levels": None}, "Data without levels are vectors, of one size, not of shape"),
        ({"shape": [2], "levels": 5}, r"shape must be \(C, H, W\) of positive sizes"),
        ({"deviation": 0.0}, "deviation must be positive and finite, not 0.0"),
        ({"fourier": -1}, "fourier must be at least 0, not -1"),
    ],
)
def test_what_no_chain_is_made_of_is_one_sentence(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        Diffusion(**arguments)


def test_what_cannot_be_asked_of_a_chain_is_one_sentence():
    model = made(5)
    with pytest.raises(DataError, match="steps must be at most 5, those of the schedule, not 6"):
        model.sample(1, steps=6)
    with pytest.raises(DataError, match="steps must be at most 5, those of the schedule, not 6"):
        model.denoise(torch.zeros(1, 1), 0.1, steps=6)
    with pytest.raises(DataError, match=r"sampler must be one of ancestral, .*, not 'euler'"):
        model.sample(1, sampler="euler")
    with pytest.raises(DataError, match="samples must be at least 1, not 0"):
        model.elbo(torch.zeros(1, 1), samples=0)
    with pytest.raises(DataError, match=r"t must be in \[0, 1\], not 1.5"):
        LearnedBetas(Linear(), 5)(torch.tensor(1.5))
    model.net = Told(model, lambda k, z: torch.where(k < 3, torch.nan, z), lambda k, z: torch.zeros_like(z))
    with pytest.raises(ZooError, match="NaN or infinite values in step 3 of 5"):
        model.sample(1)
    with pytest.raises(ZooError, match="NaN or infinite values in step 3 of 5"):
        model.posterior_sample(1, lambda x, v: x.sum(1))
