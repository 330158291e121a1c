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
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from zoo.diffusion.kernels import LearnedBetas, reading_costs
from zoo.diffusion.nonequilibrium import Diffusion
from zoo.diffusion.schedules import Cosine, Linear
from zoo.errors import DataError, ZooError

DTYPE = torch.float64
# Exact for polynomials in the noise up to degree 5: costs are of degree 2 where the denoiser is linear.
NODES, WEIGHTS = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(3))
FINE, FINE_WEIGHTS = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(80))


class Told(nn.Module):
    """In the place of the network: E[x | z] and a share, functions of z and of the state's number."""

    def __init__(self, model: Diffusion, mean: Callable, share: Callable) -> None:
        super().__init__()
        self.states, self.mean, self.share = model.states().detach(), mean, share
        self.weight = nn.Parameter(torch.zeros((), dtype=DTYPE))

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None) -> Tensor:
        k = (self.states.to(z) - log_snr[:, None]).abs().argmin(1)
        each = [k.view(-1, *[1] * (z.ndim - 1)), z]
        share = self.share(*each).expand_as(z)
        return torch.cat([self.mean(*each).expand_as(z), 2 * share - 1], 1) + 0 * self.weight


class Chain:
    """What the paper says of a model's chain: betas, alphas, posteriors, and the reverse kernel of a share."""

    def __init__(self, model: Diffusion) -> None:
        alpha2 = model.states().sigmoid()
        self.alpha, self.noise = alpha2.sqrt(), 1 - alpha2
        self.beta = 1 - alpha2 / torch.cat([torch.ones(1, dtype=DTYPE), alpha2[:-1]])
        self.alpha_before = torch.cat([torch.ones(1, dtype=DTYPE), self.alpha[:-1]])
        self.noise_before = torch.cat([torch.zeros(1, dtype=DTYPE), self.noise[:-1]])
        self.least = self.beta * self.noise_before / self.noise

    def posterior(self, k: int, x: Tensor, z: Tensor) -> Tensor:
        """The mean of q(x_{t-1} | x_t, x_0), t = k + 1: (Ho et al. 2020, arXiv 2006.11239, equation 7)."""
        known = self.alpha_before[k] * self.beta[k] / self.noise[k]
        return known * x + (1 - self.beta[k]).sqrt() * self.noise_before[k] / self.noise[k] * z

    def variance(self, k: int, share: Tensor | float) -> Tensor:
        """The reverse kernel's."""
        least = self.least[max(k, 1)]
        return torch.exp(share * self.beta[k].log() + (1 - share) * least.log())

    def share(self, k: int, variance: Tensor) -> Tensor:
        """The share of a reverse kernel with this variance."""
        least = self.least[max(k, 1)]
        return (variance / least).log() / (self.beta[k] / least).log()


def made(steps: int, **arguments) -> Diffusion:
    return Diffusion(**{"shape": [1], "first": 6.0, "prediction": "x", **arguments}, steps=steps).double().eval()


def gaussian(model: Diffusion, variance: float = 0.36, share: float | None = None) -> Diffusion:
    """A model that knows E[x | z] of Gaussian data, and the variance of its steps unless a share is given."""
    chain = Chain(model)
    total = variance * chain.alpha**2 + chain.noise
    told = (chain.alpha_before * chain.beta / chain.noise) ** 2 * variance * chain.noise / total
    shares = torch.stack(
        [
            chain.share(k, told[k] + chain.least[k]) if k == 0 or share is None else told.new_tensor(share)
            for k in range(len(told))
        ]
    )
    model.net = Told(model, lambda k, z: (variance * chain.alpha / total)[k] * z, lambda k, z: shares[k])
    return model


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
    model = Diffusion(shape, levels, steps=7, first=6.0, deviation=1.3 if levels is None else 1.0, **sizes).double()
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
        wide = Diffusion([2], steps=7, first=6.0, deviation=2.6, hidden=8, layers=1).double()
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


def moments(x: Tensor, mean: float, variance: float) -> None:
    """Those of draws (N, 1) within four standard errors."""
    x, n = x.double().flatten(), x.numel()
    assert abs(float(x.mean()) - mean) < 4 * math.sqrt(variance / n)
    assert abs(float(x.var()) / variance - 1) < 4 * math.sqrt(2 / n)


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


def test_data_with_noise_are_denoised_exactly():
    """p(x | y) of Gaussian data, from a y whose noise is that of a state of the chain."""
    model = gaussian(made(6, deviation=2.0), variance=0.36)
    deviation = 2 * math.exp(-0.5 * float(model.states()[3]))
    y = torch.full((20_000, 1), 1.1, dtype=DTYPE)
    total = 4 * 0.36 + deviation**2
    moments(model.denoise(y, deviation, seed=0), 4 * 0.36 / total * 1.1, 4 * 0.36 * deviation**2 / total)
    assert (model.denoise(y[:5], 1e-4, seed=0) - y[:5]).abs().max() < 10 * math.exp(-3)
    with pytest.raises(DataError, match=r"deviation must be at most 24\.365, as in the chain's last state, not 25"):
        model.denoise(y[:2], 25.0)
    with pytest.raises(DataError, match="deviation must be positive"):
        model.denoise(y[:2], 0.0)


def test_images_are_denoised_in_their_own_unit():
    model = made(30, shape=[1, 2, 2], levels=5, channels=8, multipliers=[1], attention=[], last=-6.0)
    chain = Chain(model)

    def mean(k: Tensor, z: Tensor) -> Tensor:  # of images that are all 0 or all 4
        return torch.tanh((z * chain.alpha[k] / chain.noise[k]).sum((1, 2, 3), keepdim=True))

    model.net = Told(model, mean, lambda k, z: torch.zeros_like(z))
    x = torch.tensor([0, 4] * 200, dtype=torch.uint8).view(400, 1, 1, 1).expand(400, 1, 2, 2)
    denoised = model.denoise(x + 2.0 * torch.randn(x.shape), 2.0, seed=0)
    # Four pixels with noise of a half of the distance: wrong as often as a normal number is beyond two deviations.
    wrong = float((denoised != x).any(1).any(1).any(1).double().mean())
    assert denoised.dtype == torch.uint8
    assert wrong < 0.12


def perturbed(steps: int, y: float, variance: float, aware: bool = True) -> tuple[Diffusion, float, float]:
    """A chain of Gaussian data of variance 0.36 under a Gaussian factor around y: mean and variance of its draws, by
    carrying them through steps that are linear.
    """
    model = gaussian(made(steps, last=-12.0, first=10.0))
    chain, mean, spread, own = Chain(model), 0.0, 1.0, 0.36
    for k in range(steps - 1, -1, -1):
        alpha, noise = float(chain.alpha[k]), float(chain.noise[k])
        gain, left = own * alpha / (own * alpha**2 + noise), own * noise / (own * alpha**2 + noise)
        back = float(chain.alpha_before[k] * chain.beta[k] / chain.noise[k])
        step = back**2 * left + float(chain.least[k])
        pull = step / (variance + left * aware) * (gain if k else 1.0)
        slope = float((1 - chain.beta[k]).sqrt() * chain.noise_before[k] / chain.noise[k]) + (back - pull) * gain
        mean, spread = slope * mean + pull * y, slope**2 * spread + step
    return model, mean, spread


def test_a_factor_gives_the_posterior_of_gaussian_data_with_an_error_as_one_over_t():
    y, variance = 1.1, 0.2
    exact = 0.36 / (0.36 + variance) * y, 0.36 * variance / (0.36 + variance)
    errors = []
    for steps in (40, 80, 160, 320):
        _, mean, spread = perturbed(steps, y, variance)
        errors.append((abs(mean - exact[0]), abs(spread - exact[1])))
    for wide, narrow in pairwise(errors):
        assert wide[0] / narrow[0] == pytest.approx(2, abs=0.25)
        assert wide[1] / narrow[1] == pytest.approx(2, abs=0.25)
    # A factor that does not look at the variance stays too strong, whatever T is.
    _, mean, _ = perturbed(5000, y, variance, aware=False)
    assert mean > exact[0] + 0.05


@pytest.mark.parametrize("aware", [True, False])
def test_draws_under_a_factor_are_what_its_steps_make_of_them(aware):
    model, mean, spread = perturbed(20, 1.1, 0.2, aware)

    def log_factor(x: Tensor, variance: Tensor) -> Tensor:
        return -((x - 1.1).square() / (2 * (0.2 + variance * aware))).sum(1)

    with torch.inference_mode():
        x = model.posterior_sample(20_000, log_factor, seed=0)
    moments(x, mean, spread)
    torch.testing.assert_close(model.posterior_sample(2, log_factor, seed=0), x[:2].clone())


def test_a_factor_sees_data_in_their_own_unit():
    model, seen = gaussian(made(5, deviation=3.0)), []

    def log_factor(x: Tensor, variance: Tensor) -> Tensor:
        seen.append((float(x.detach().std()), float(variance.mean())))
        return 0 * x.sum(1)

    plain = model.posterior_sample(2000, log_factor, seed=0, steps=5)
    torch.testing.assert_close(plain, model.sample(2000, seed=0, steps=5))
    assert seen[-1][0] == pytest.approx(3 * 0.6, abs=0.1), "the last states are nearly data"
    assert seen[0][1] == pytest.approx(9 * 0.36, abs=0.1), "the first say nothing of them"


@pytest.mark.parametrize(
    "log_factor", [lambda x, v: x, lambda x, v: x.sum(1).detach(), lambda x, v: 3.0, lambda x, v: x.sum()]
)
def test_what_is_no_factor_is_one_sentence(log_factor):
    with pytest.raises(DataError, match="log_factor must give log r of each datum, differentiable in x"):
        gaussian(made(5)).posterior_sample(3, log_factor)


# -- inpainting --------------------------------------------------------------------------------------------------


def replaced(rho: float, steps: int, first: float = 12.0, last: float = -12.0) -> tuple[float, float]:
    """Mean and variance of the second of two standard normal components, of correlation rho, of which the first is
    known to be 1, drawn by replacement with the exact E[x | z]: moments carried through linear steps.
    """
    log_snr = np.concatenate([np.linspace(last, first, steps), [np.inf]])
    alpha, noise = np.sqrt(1 / (1 + np.exp(-log_snr))), 1 / (1 + np.exp(log_snr))
    own = np.array([[1, rho], [rho, 1]])
    mean, spread, known = np.array([alpha[0], 0.0]), np.diag([noise[0], 1.0]), np.array([1.0, 0.0])
    for k in range(steps):
        gain = alpha[k] * own @ np.linalg.inv(alpha[k] ** 2 * own + noise[k] * np.eye(2))
        gain[0] = 0  # of the known component E[x | z] is replaced
        fresh = -np.expm1(log_snr[k] - log_snr[k + 1])
        step = alpha[k + 1] * ((1 - fresh) / alpha[k] * np.eye(2) + fresh * gain)
        mean, spread = (
            step @ mean + alpha[k + 1] * fresh * known,
            step @ spread @ step.T + noise[k + 1] * fresh * np.eye(2),
        )
    return float(mean[1]), float(spread[1, 1])


@pytest.mark.parametrize("rho", [0.5, 0.8, 0.95])
def test_inpainting_by_replacement_is_not_the_conditional(rho):
    """The exact one is N(rho, 1 - rho^2): what is drawn has a mean of tan(arcsin(rho) / 2), in the limit of many steps,
    and a larger variance. The numbers stand in the docstring of `complete`.
    """
    mean, variance = replaced(rho, 20_000)
    assert mean == pytest.approx(math.tan(math.asin(rho) / 2), abs=1e-3)
    assert mean < 0.85 * rho
    assert variance > 1.1 * (1 - rho**2)
    if rho == 0.8:
        assert (round(mean, 2), round(variance, 2)) == (0.5, 0.54)


def test_completions_have_the_moments_of_replacement():
    model = made(25, shape=[2], first=12.0, last=-12.0)
    chain, own = Chain(model), torch.tensor([[1, 0.8], [0.8, 1]], dtype=DTYPE)

    def mean(k: Tensor, z: Tensor) -> Tensor:
        i = int(k[0])
        inverse = torch.linalg.inv(chain.alpha[i] ** 2 * own + chain.noise[i] * torch.eye(2, dtype=DTYPE))
        return chain.alpha[i] * z @ (own @ inverse)

    # The least variance, and a last step without noise: as the recursion has it.
    model.net = Told(model, mean, lambda k, z: torch.where(k == 0, -50.0, 0.0) * torch.ones_like(z))
    x = model.complete(torch.ones(20_000, 2), torch.tensor([True, False]), seed=0)
    assert (x[:, 0] == 1).all()
    moments(x[:, 1], *replaced(0.8, 25))


def test_what_is_known_goes_along_as_the_forward_process_has_it_whatever_the_variance_is():
    model, seen = made(6, shape=[2]), []

    def mean(k: Tensor, z: Tensor) -> Tensor:
        seen.append((int(k[0]), z[:, 0]))
        return 0.5 * z

    model.net = Told(model, mean, lambda k, z: torch.full_like(z, 2.0))
    model.complete(torch.full((4000, 2), 0.7), torch.tensor([True, False]), seed=0)
    chain = Chain(model)
    assert len(seen) == 6
    for k, z in seen:
        moments(z - 0.7 * chain.alpha[k], 0.0, float(chain.noise[k]))


# -- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"steps": 1}, "steps must be at least 2, not 1"),
        ({"first": -6.0}, "A schedule is monotone, from less noise to more"),
        ({"noise_schedule": "karras"}, "noise_schedule must be one of linear, cosine, not 'karras'"),
        ({"prediction": "score"}, "prediction must be one of epsilon, x, v, preconditioned, not 'score'"),
        ({"levels": 1}, "levels must be 2..256, or none for continuous data, not 1"),
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
