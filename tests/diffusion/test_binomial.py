"""The binomial kernel by enumeration: its posterior is Bayes', the model's probabilities sum to one, and its bound is
below them; factors, known pixels and noisy images against the exact conditional distributions.

Images of three pixels have eight states, so that a chain is a product of eight by eight matrices.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from tiny_runs import fit, sealed
from torch import Tensor, nn

from zoo.data import Digits
from zoo.diffusion import BinomialDiffusion
from zoo.diffusion.binary import flips, log_odds, step_kl, telling_steps
from zoo.errors import DataError, ZooError

SHAPE = (1, 1, 3)
STATES = torch.cartesian_prod(*[torch.tensor([0, 1], dtype=torch.uint8)] * 3).view(8, *SHAPE)
DIFFER = STATES[:, None].ne(STATES).flatten(2)  # (8, 8, 3)
INDEPENDENT = torch.tensor([0.1, 0.6, 0.8], dtype=torch.float64)  # probability of a one
BOUND = 31.8  # chi-square of 7 degrees of freedom is above it once in 20,000 times


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


def product(chances: Tensor) -> Tensor:
    """Probabilities of the eight states where pixels are independent, 1 with these chances: (..., 3) to (..., 8)."""
    bits = STATES.flatten(1).bool()
    return torch.where(bits, chances[..., None, :], 1 - chances[..., None, :]).prod(-1)


def correlated() -> Tensor:
    """Probabilities of the eight states, in which no pixel is independent of another."""
    return torch.tensor([0.28, 0.04, 0.02, 0.11, 0.03, 0.2, 0.07, 0.25], dtype=torch.float64)


class Known(nn.Module):
    """The exact p(x_0 | x_t) of a distribution over the eight states, less what a pixel says of itself."""

    def __init__(self, probabilities: Tensor) -> None:
        super().__init__()
        self.probabilities = nn.Parameter(probabilities)

    def forward(self, z: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        signs, a = z.flatten(1), torch.tanh(noise / 2)[:, None, None]
        own = 2 * STATES.flatten(1).to(z) - 1
        joint = self.probabilities * ((1 + a * signs[:, None] * own) / 2).prod(2)
        ones = joint @ STATES.flatten(1).to(z)
        logits = (ones / (joint.sum(1, keepdim=True) - ones)).log()
        return (logits - noise[:, None] * signs).view(z.shape)


class Guess(nn.Module):
    """Any function of x_t and the noise."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, z: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        hidden = self.first(torch.cat([z.flatten(1), noise[:, None]], 1)).tanh()
        return (2 * self.last(hidden)).view(z.shape)


def model_of(net: nn.Module | None, timesteps: int, **arguments) -> BinomialDiffusion:
    """A model of the eight states with a network, or with its own of random weights, in float64."""
    sizes = {"channels": 4, "multipliers": [1], "blocks": 1, "attention": []}
    torch.manual_seed(3)
    model = BinomialDiffusion(list(SHAPE), timesteps=timesteps, **{"steps": timesteps, **sizes, **arguments})
    for parameter in model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    if net is not None:
        model.net = net
    return model.double().eval()


def moment(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


@torch.no_grad()
def reverse(model: BinomialDiffusion, t: float, s: float, log_factor: Tensor | None = None) -> Tensor:
    """p(x_s | x_t): (8, 8), a row for each x_t."""
    chances = model.chance_to_flip(STATES, moment(t), moment(s), log_factor).flatten(1)[:, None]
    return torch.where(DIFFER, chances, 1 - chances).prod(2)


def drawn_from(
    model: BinomialDiffusion, steps: int, log_factor: Tensor | None = None, start: Tensor | None = None, t: float = 1.0
) -> Tensor:
    """The probabilities of what a chain ends in, (8,)."""
    found = torch.full((8,), 1 / 8, dtype=torch.float64) if start is None else start
    for now, then in pairwise(torch.linspace(t, 0, steps + 1, dtype=torch.float64).tolist()):
        found = found @ reverse(model, now, then, log_factor)
    return found


def forward(t: float, s: float = 0.0) -> Tensor:
    """q(x_t | x_s): (8, 8), a row for each x_s, by the chance that a pixel became a coin."""
    chance = (t - s) / (1 - s) / 2
    return torch.where(DIFFER, chance, 1 - chance).double().prod(2)


def bound_of(model: BinomialDiffusion, steps: int) -> Tensor:
    """The bound for each of the eight states, (8,), by Bayes' rule and sums over all that there is."""
    total = torch.zeros(8, dtype=torch.float64)
    for k in range(1, steps + 1):
        t, s = k / steps, (k - 1) / steps
        at_t, at_s = forward(t), forward(s)
        posterior = at_s[:, None, :] * forward(t, s).T / at_t[:, :, None]  # of x_s, given x_0 and x_t
        ratio = torch.xlogy(posterior, posterior) - torch.xlogy(posterior, reverse(model, t, s))
        total -= (at_t * ratio.sum(2)).sum(1)
    return total


def chi_square(x: Tensor, expected: Tensor) -> float:
    counts = torch.bincount((x.flatten(1).long() * torch.tensor([4, 2, 1])).sum(1), minlength=8).double()
    assert counts[expected == 0].sum() == 0
    expected, counts = expected[expected > 0] * len(x), counts[expected > 0]
    return float(((counts - expected).square() / expected).sum())


def distance(p: Tensor, q: Tensor) -> float:
    """Total variation."""
    return float((p - q).abs().sum() / 2)


# -- the forward process -----------------------------------------------------------------------------------------


def kernel(beta: float) -> Tensor:
    """The paper's q(x_t | x_{t-1}) = B(x_{t-1} (1 - beta) + beta / 2) of a pixel, a row for each x_{t-1}."""
    one = torch.tensor([0.0, 1.0], dtype=torch.float64) * (1 - beta) + beta / 2
    return torch.stack([1 - one, one], 1)


def composed(s: int, t: int, timesteps: int) -> Tensor:
    found = torch.eye(2, dtype=torch.float64)
    for k in range(s + 1, t + 1):
        found = found @ kernel(1 / (timesteps - k + 1))
    return found


@pytest.mark.parametrize("timesteps", [1, 2, 7])
def test_marginals_are_the_composed_kernels_of_the_paper(timesteps):
    for t in range(timesteps + 1):
        wrong = t / timesteps / 2
        expected = torch.tensor([[1 - wrong, wrong], [wrong, 1 - wrong]], dtype=torch.float64)
        torch.testing.assert_close(composed(0, t, timesteps), expected)
    torch.testing.assert_close(composed(0, timesteps, timesteps), torch.full((2, 2), 0.5, dtype=torch.float64))


def test_the_posterior_is_bayes_rule():
    timesteps = 6
    for t in range(1, timesteps + 1):
        for s in range(t):
            joint = composed(0, s, timesteps)[:, :, None] * composed(s, t, timesteps)[None]  # x_0, x_s, x_t
            posterior = joint / joint.sum(1, keepdim=True)
            found = flips(moment(t / timesteps), moment(s / timesteps))
            for x_t in (0, 1):
                torch.testing.assert_close(found[0], posterior[x_t, 1 - x_t, x_t])
                torch.testing.assert_close(found[1], posterior[1 - x_t, 1 - x_t, x_t])


def test_what_a_pixel_says_of_itself_is_bayes_rule():
    for t in (0.1, 0.5, 1.0):
        assert float(log_odds(moment(t))) == pytest.approx(math.log((1 - t / 2) / (t / 2)), abs=1e-12)


def test_images_diffuse_along_the_chain():
    model = model_of(Guess(), 4)
    x = STATES[:1].expand(20_000, -1, -1, -1)
    late, none, early, full = model.diffuse(x, [0.6, 0.0, 0.2, 1.0], seed=0)
    assert torch.equal(none, x)
    assert chi_square(early, forward(0.2)[0]) < BOUND
    assert chi_square(late, forward(0.6)[0]) < BOUND
    assert chi_square(full, torch.full((8,), 1 / 8).double()) < BOUND
    assert chi_square(early ^ late, forward(0.6, 0.2)[0]) < BOUND, "a later state goes on from an earlier one"
    model.chunk = 7000
    assert torch.equal(model.diffuse(x, 0.6, seed=1)[0], model.diffuse(x, torch.tensor([0.6]), seed=1)[0])
    assert model.diffuse(x, [], seed=1).shape == (0, *x.shape)


# -- the divergence of a step ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.75), (0.5, 0.25), (0.25, 0.0), (1.0, 0.0)])
def test_the_divergence_of_a_step_is_that_of_two_bernoullis(t, s):
    margin = torch.linspace(-5, 5, 9, dtype=torch.float64).view(1, 1, 1, 9)
    right, wrong = flips(moment(t), moment(s))
    model = torch.distributions.Bernoulli(right * margin.sigmoid() + wrong * (-margin).sigmoid())
    for differs, chance in ((False, right), (True, wrong)):
        expected = torch.distributions.kl_divergence(torch.distributions.Bernoulli(chance), model)
        found = step_kl(torch.full_like(margin, differs, dtype=torch.bool), margin, moment(t)[None], moment(s)[None])
        torch.testing.assert_close(found, expected)


def test_float32_keeps_the_bound_of_a_long_chain():
    torch.manual_seed(0)
    step = torch.arange(1, 1001)
    margin, wrong = 8 * torch.randn(1000, 1, 8, 8, dtype=torch.float64), torch.rand(1000, 1, 8, 8) < 0.2
    given = wrong, margin.requires_grad_(), step.double() / 1000, (step - 1).double() / 1000
    exact = step_kl(*given)
    single = step_kl(wrong, margin.detach().float().requires_grad_(), *given[2:])
    assert single.dtype == torch.float32
    assert float(((single - exact).sum().abs() / exact.sum()).detach()) < 1e-6
    assert float((single - exact).detach().abs().max()) < 1e-5
    exact.sum().backward()
    assert margin.grad.isfinite().all(), "the first step, which knows x_0, as well"


def test_no_margin_is_too_large():
    margin = torch.tensor([-1e4, 1e4]).view(2, 1, 1, 1).requires_grad_()
    for step in (1, 2, 1000):
        t, s = (torch.full((2,), each / 1000, dtype=torch.float64) for each in (step, step - 1))
        for wrong in (False, True):
            kl = step_kl(torch.full((2, 1, 1, 1), wrong), margin, t, s)
            assert kl.isfinite().all()
            assert (kl > -1e-6).all()
            assert torch.autograd.grad(kl.sum(), margin)[0].isfinite().all()


# -- the bound ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timesteps", [1, 2, 5])
def test_the_bound_is_below_a_probability_that_sums_to_one(timesteps):
    model = model_of(None, timesteps)
    exact, bound = drawn_from(model, timesteps), bound_of(model, timesteps)
    assert exact.sum().item() == pytest.approx(1, abs=1e-12)
    assert exact.max() > 1.2 * exact.min(), "a model that prefers something"
    assert (bound <= exact.log() + 1e-12).all()
    if timesteps > 1:
        assert (bound < exact.log() - 1e-4).any()


@pytest.mark.parametrize("timesteps", [1, 2, 5])
def test_of_independent_pixels_the_bound_is_exact(timesteps):
    truth = product(INDEPENDENT)
    model = model_of(Known(truth), timesteps)
    torch.testing.assert_close(drawn_from(model, timesteps), truth)
    torch.testing.assert_close(bound_of(model, timesteps), truth.log())


def test_of_other_pixels_its_gap_falls_as_one_over_t():
    truth = correlated()
    gaps = []
    for timesteps in (16, 32, 64):
        bound = bound_of(model_of(Known(truth), timesteps), timesteps)
        gaps.append(float(truth @ (truth.log() - bound)))
    assert gaps[0] > 0.01
    assert gaps[0] / gaps[1] == pytest.approx(2, abs=0.2)
    assert gaps[1] / gaps[2] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(("samples", "steps"), [(1, 6), (2, 6), (4, 6), (6, 6), (9, 6), (2, 3)])
@torch.no_grad()
def test_it_is_estimated_without_bias(samples, steps):
    model = model_of(Guess(), 6)
    x = STATES.repeat(1500, 1, 1, 1)
    draws = model.elbo_draws(x, samples=samples, seed=1, steps=steps)
    assert draws.shape == (samples, len(x))
    expected = bound_of(model, steps)
    for each in (draws.mean(0), draws[0]):
        # Each draw alone is unbiased as well, over data, which have their strata in another order.
        found = each.view(1500, 8)
        error = found.std(0) / 1500**0.5
        assert float(((found.mean(0) - expected).abs() / error).max()) < 4
    torch.testing.assert_close(draws.mean(0), model.elbo(x, samples=samples, seed=1, steps=steps))


@torch.no_grad()
def test_training_looks_at_the_same_bound():
    model = model_of(Guess(), 6).train()
    losses = torch.stack([model.loss(STATES.repeat(25, 1, 1, 1)).view(25, 8).mean(0) for _ in range(200)])
    error = losses.std(0) / 200**0.5
    assert float(((losses.mean(0) + bound_of(model, 6)).abs() / error).max()) < 4


def test_a_step_is_drawn_as_often_as_it_tells_of_a_fair_bit():
    """Of a network that knows nothing, weighted, every step then has the same divergence: log 2 a pixel."""
    steps = 9
    place = torch.arange(20_000, dtype=torch.float64) / 20_000
    step, weight = telling_steps(place, steps)
    assert step.unique().tolist() == [*range(1, steps + 1)]
    assert float(weight.mean()) == pytest.approx(steps, rel=1e-3), "of one over a chance"
    model = model_of(Known(torch.full((8,), 1 / 8, dtype=torch.float64)), steps)
    for k in range(1, steps + 1):
        wrong = torch.tensor([False, True]).view(2, 1, 1, 1)
        noisy = STATES[:1].repeat(2, 1, 1, 1)
        t, s = (torch.full((2,), each / steps, dtype=torch.float64) for each in (k, k - 1))
        logits = model.logits(noisy, t)
        kl = step_kl(wrong, torch.where(noisy.bool(), logits, -logits), t, s).flatten(1)[:, 0].detach()
        expected = float((1 - t[0] / 2) * kl[0] + t[0] / 2 * kl[1])
        assert expected * float(weight[step == k][0]) == pytest.approx(math.log(2), rel=1e-9)


@torch.no_grad()
def test_as_many_samples_as_steps_are_all_steps():
    model = model_of(Guess(), 7)
    found = model._drawn_losses(STATES, 7, 0, None, None)[1]
    assert torch.equal(found.sort(0).values, torch.arange(1, 8)[:, None].expand(7, 8))
    assert found[0].unique().numel() > 1, "each image begins elsewhere"
    twice = model._drawn_losses(STATES, 14, 0, None, None)[1]
    assert torch.equal(twice.sort(0).values, torch.arange(1, 8).repeat_interleave(2)[:, None].expand(14, 8))


@torch.no_grad()
def test_its_terms_are_the_first_step_and_the_others():
    model = model_of(Guess(), 5)
    x = STATES.repeat(2000, 1, 1, 1)
    terms = model.terms(x, samples=5, seed=2)
    assert (terms.prior == 0).all(), "x_T are coins, whatever the image"
    torch.testing.assert_close(-sum(terms), model.elbo(x, samples=5, seed=2))
    at_t = forward(1 / 5)
    expected = -(at_t * reverse(model, 1 / 5, 0.0).T.log()).sum(1)
    found = terms.reconstruction.view(2000, 8)
    assert float(((found.mean(0) - expected).abs() / found.std(0) * 2000**0.5).max()) < 4


@torch.no_grad()
def test_a_chain_of_fewer_steps_is_that_of_a_smaller_t():
    many, few = (model_of(Known(correlated()), timesteps) for timesteps in (12, 4))
    torch.testing.assert_close(many.elbo(STATES, samples=3, seed=0, steps=4), few.elbo(STATES, samples=3, seed=0))
    assert torch.equal(many.sample(50, seed=0, steps=4), few.sample(50, seed=0))
    assert correlated() @ bound_of(many, 4) < correlated() @ bound_of(many, 12)


@torch.no_grad()
def test_its_numbers_belong_to_the_image(monkeypatch):
    model = model_of(Guess(), 6)
    whole = model.elbo(STATES, samples=4, seed=3)
    torch.testing.assert_close(model.elbo(STATES[5:], samples=4, seed=3, index=torch.arange(5, 8)), whole[5:])
    monkeypatch.setattr("zoo.diffusion.binomial.TOGETHER", {"cpu": 1})
    torch.testing.assert_close(model.elbo(STATES, samples=4, seed=3), whole)
    assert not torch.equal(model.elbo(STATES, samples=4, seed=4), whole)
    assert model.elbo(STATES[:0], samples=4).shape == (0,)


# -- drawing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_samples_follow_the_chain(steps):
    model = model_of(Guess(), 4)
    x = model.sample(8000, seed=1, steps=steps)
    assert x.dtype == torch.uint8
    assert x.shape == (8000, *SHAPE)
    assert chi_square(x, drawn_from(model, steps)) < BOUND


def test_the_way_begins_with_coins_and_ends_with_the_images():
    model = model_of(Known(correlated()), 5)
    way = model.trace(4000, frames=6, seed=2)
    assert way.shape == (6, 4000, *SHAPE)
    assert chi_square(way[0], torch.full((8,), 1 / 8).double()) < BOUND
    assert torch.equal(way[-1], model.sample(4000, seed=2))
    halfway = torch.full((8,), 1 / 8).double() @ reverse(model, 1.0, 0.8) @ reverse(model, 0.8, 0.6)
    assert chi_square(way[2], halfway) < BOUND
    assert torch.equal(model.trace(4, frames=9, seed=2, steps=1)[[0, 8]], model.trace(4, frames=2, seed=2, steps=1))


# -- what is known -----------------------------------------------------------------------------------------------


def test_known_pixels_are_kept_and_others_follow_the_chain():
    model = model_of(Known(correlated()), 5)
    known = torch.tensor([True, False, False]).view(SHAPE)
    x = STATES[5:6].repeat(6000, 1, 1, 1)
    drawn = model.complete(x, known, seed=0)
    assert torch.equal(drawn[:, :, :, 0], x[:, :, :, 0])
    factor = torch.where(known, torch.inf, 0.0).double()
    assert chi_square(drawn, drawn_from(model, 5, factor)) < BOUND
    assert torch.equal(model.complete(x, torch.ones(SHAPE, dtype=torch.bool), seed=0), x)
    assert model.complete(x[:0], known).shape == (0, *SHAPE)


def conditional(truth: Tensor, log_factor: Tensor) -> Tensor:
    """p(x) r(x) / Z, (8,)."""
    weights = truth * product(log_factor.flatten().sigmoid())
    return weights / weights.sum()


FACTORS = [torch.tensor([math.inf, 0.0, 0.0]), torch.tensor([1.5, -0.5, 2.0])]


@pytest.mark.parametrize("factor", FACTORS, ids=["certain", "not certain"])
def test_a_factor_is_exact_for_independent_pixels(factor):
    factor, truth = factor.double().view(SHAPE), product(INDEPENDENT)
    for timesteps in (1, 4):
        model = model_of(Known(truth), timesteps)
        torch.testing.assert_close(drawn_from(model, timesteps, factor), conditional(truth, factor))
    assert chi_square(model.posterior_sample(8000, factor, seed=0), conditional(truth, factor)) < BOUND


def with_factors_of(log_factor: Tensor, steps: int) -> Tensor:
    """What the paper's chain ends in where each step's Bernoullis are multiplied by r of the place that they go to."""
    model, found = model_of(Known(correlated()), steps), torch.full((8,), 1 / 8, dtype=torch.float64)
    for t, s in pairwise(torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()):
        weights = reverse(model, t, s) * product(log_factor.flatten().sigmoid())
        found = found @ (weights / weights.sum(1, keepdim=True))
    return found


@pytest.mark.parametrize(("factor", "least", "most"), [(FACTORS[0], 0.08, 0.1), (FACTORS[1], 0.04, 0.06)])
def test_a_factor_is_a_heuristic_for_others(factor, least, most):
    """The distance to p r / Z does not vanish with more steps; without the factor it would be 0.45 and 0.44."""
    factor = factor.double().view(SHAPE)
    exact = conditional(correlated(), factor)
    found = [distance(drawn_from(model_of(Known(correlated()), n), n, factor), exact) for n in (64, 128)]
    assert found[1] == pytest.approx(found[0], rel=0.05)
    assert least < found[1] < most
    assert distance(correlated(), exact) > 0.4
    if factor.isfinite().all():
        assert found[1] < distance(with_factors_of(factor, 128), exact) / 3


def test_noisy_images_are_denoised_by_bayes_rule():
    truth, flipped = correlated(), 0.15
    exact = truth[:, None] * forward(2 * flipped)
    exact = (exact / exact.sum(0)).T  # of x_0, a row for each noisy image
    gaps = []
    for timesteps in (20, 40):
        model = model_of(Known(truth), timesteps)
        found = drawn_from(model, round(0.3 * timesteps), start=torch.eye(8).double(), t=2 * flipped)
        gaps.append(max(distance(*rows) for rows in zip(found, exact, strict=True)))
    assert gaps[1] < 0.6 * gaps[0] < 0.04, "it is exact but for the steps"
    y = STATES[3:4].repeat(6000, 1, 1, 1)
    assert chi_square(model.denoise(y, flipped, seed=0), found[3]) < BOUND
    rough = drawn_from(model, 2, start=torch.eye(8)[3].double(), t=2 * flipped)
    assert chi_square(model.denoise(y, flipped, seed=0, steps=5), rough) < BOUND
    truth = product(INDEPENDENT)
    torch.testing.assert_close(drawn_from(model_of(Known(truth), 10), 3, start=truth @ forward(0.3), t=0.3), truth)
    assert torch.equal(model.denoise(y, 1e-12, seed=0), y)
    assert model.denoise(y[:0], flipped).shape == (0, *SHAPE)


# -- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"levels": 256}, "levels must be 2, for the binomial kernel is one of binary images, not 256"),
        ({"timesteps": 0}, "timesteps must be at least 1, not 0"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"timesteps": 10, "steps": 11}, "steps must be at most 10, those of the schedule, not 11"),
        ({"shape": [28, 28]}, r"shape must be \(C, H, W\)"),
    ],
)
def test_bad_arguments_are_refused(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        BinomialDiffusion(**{"channels": 2, **arguments})


@pytest.mark.parametrize(
    ("verb", "arguments", "sentence"),
    [
        ("sample", {"n": 0}, "n must be at least 1"),
        ("sample", {"n": 1, "steps": 0}, "steps must be at least 1, not 0"),
        ("sample", {"n": 1, "steps": 5}, "steps must be at most 4, those of the schedule, not 5"),
        ("trace", {"n": 1, "frames": 1}, "frames must be at least 2"),
        ("elbo", {"x": STATES, "samples": 0}, "samples must be at least 1"),
        ("elbo", {"x": STATES, "steps": 5}, "steps must be at most 4"),
        ("elbo", {"x": STATES + 1}, r"x has values 1\.\.2; this model takes 0\.\.1"),
        ("complete", {"x": STATES, "known": torch.ones(2, dtype=torch.bool)}, r"known has shape \(2,\)"),
        ("denoise", {"y": STATES, "flipped": 0.0}, "flipped must be positive and at most 0.5, not 0.0"),
        ("denoise", {"y": STATES, "flipped": 0.6}, "flipped must be positive and at most 0.5, not 0.6"),
        ("posterior_sample", {"n": 2, "log_factor": 3.0}, "log_factor must be a tensor .* not float"),
        ("posterior_sample", {"n": 2, "log_factor": torch.zeros(2)}, r"\(2, 1, 1, 3\), not one of shape \(2,\)"),
        ("posterior_sample", {"n": 2, "log_factor": torch.tensor(math.nan)}, "floating point without NaN"),
        ("diffuse", {"x": STATES, "t": [0.5, 1.5]}, r"t must be in \[0, 1\], not 1.5"),
        ("diffuse", {"x": STATES, "t": "soon"}, "t must be numbers"),
    ],
)
def test_bad_input_is_refused(verb, arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        getattr(model_of(Guess(), 4), verb)(**arguments)


def test_a_network_that_gives_nan_is_named_with_its_step():
    class Broken(Known):
        def forward(self, z, noise, label):
            return super().forward(z, noise, label) * (math.nan if float(noise[0]) > 1 else 1.0)

    with pytest.raises(ZooError, match="NaN or infinite values in step 4 of 5"):
        model_of(Broken(correlated()), 5).sample(2, seed=0)


# -- training ----------------------------------------------------------------------------------------------------


class Binary(Digits):
    """Digits of two levels."""

    levels = 2

    def read(self, split):
        images, labels = super().read(split)
        return (images > 8).to(torch.uint8), labels


def test_under_autocast_the_divergences_are_in_float32():
    model, losses = model_of(None, 1000).float().train(), []
    for half in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses.append(model.loss(STATES.repeat(16, 1, 1, 1)))
    assert losses[1].dtype == torch.float32
    assert not torch.equal(*losses), "the network is not"
    # Two digits of the network's logits; the divergences of single steps, some 1e-4 nats, keep theirs.
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0.02)


def test_training_finds_what_pixels_say_of_one_another(tmp_path):
    """The bound begins with that of coins, and ends above the best that a product over pixels can say."""
    sizes = {"channels": 16, "multipliers": [1], "blocks": 1, "attention": []}
    model = BinomialDiffusion([1, 8, 8], **sizes, optimizer="muon", lr=0.02, warmup=5)
    data = Binary(batch_size=32)
    data.setup("fit")
    x, ones = data.val[0][:50], data.train[0].double().mean(0).clamp(0.001, 0.999)
    apart = torch.where(x.bool(), ones, 1 - ones).log().flatten(1).sum(1).mean().item()
    assert model.eval().elbo(x, samples=10, seed=0).mean().item() == pytest.approx(-64 * math.log(2), rel=0.1)
    fit(tmp_path, model=model.train(), data=data, max_steps=60)
    assert model.eval().elbo(x, samples=10, seed=0).mean().item() > apart + 2
