"""Variational diffusion models: a bound that is one, tight where theory says so; how its schedule learns."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from exact_levels import ENTROPY, LOG_PROBABILITIES, PROBABILITIES, VALUES, exact, log_joint, mean_over, normals, times
from torch import Tensor, nn

from zoo.batch import Batch
from zoo.diffusion.decoder import decode, log_decoder
from zoo.diffusion.samplers import SAMPLERS
from zoo.diffusion.schedules import Cosine, Learned, Linear, alpha_sigma, even_times
from zoo.diffusion.vdm import VDM
from zoo.errors import DataError
from zoo.evaluation.likelihood import Likelihood
from zoo.nn.draws import Draws

TINY = {"channels": 2, "multipliers": [1, 1], "blocks": 1, "attention": []}


def model(**arguments) -> VDM:
    """Of 4x4 images with 5 levels, whose weights all say something, in float64."""
    torch.manual_seed(0)
    made = VDM(**{"shape": [1, 4, 4], "levels": 5, "first": 8.0, "last": -4.0, **TINY, **arguments})
    with torch.no_grad():
        for parameter in made.net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.double().eval()


def images(n: int = 6) -> Tensor:
    return torch.randint(5, (n, 1, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def noise(n: int = 6) -> Tensor:
    return torch.randn(n, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def bent(first: float, last: float) -> Learned:
    """A learned schedule that is far from the straight line, and whose weights all matter."""
    torch.manual_seed(3)
    schedule = Learned(first, last, hidden=6).double()
    with torch.no_grad():
        schedule.outer.copy_(torch.randn(6))
        schedule.inner.add_(2)
    return schedule


# -- the decoder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_snr", [-6.0, 0.0, 5.0, 13.3])
@pytest.mark.parametrize("levels", [2, 5, 256])
def test_the_decoder_is_the_softmax_over_all_levels_and_sums_to_one(levels, log_snr):
    log_snr = torch.tensor(log_snr, dtype=torch.float64)
    alpha, sigma = alpha_sigma(log_snr)
    z = torch.linspace(-1.5, 1.5, 37, dtype=torch.float64)
    x = torch.arange(levels)
    found = log_decoder(x.repeat_interleave(37)[:, None], z.repeat(levels)[:, None], log_snr, levels).view(levels, 37)
    torch.testing.assert_close(found.logsumexp(0), torch.zeros(37, dtype=torch.float64), rtol=0, atol=1e-9)
    values = torch.linspace(-1, 1, levels, dtype=torch.float64)
    logits = -((z - alpha * values[:, None]) / sigma).square() / 2
    torch.testing.assert_close(found, logits.log_softmax(0), rtol=1e-9, atol=1e-9)


def test_the_decoder_of_several_components_is_their_product():
    log_snr, z = torch.tensor(2.0), noise(3).float()
    whole = log_decoder(images(3), z, log_snr, 5)
    parts = log_decoder(images(3).reshape(-1, 1), z.reshape(-1, 1), log_snr, 5)
    torch.testing.assert_close(whole, parts.view(3, -1).sum(1))


@pytest.mark.parametrize("log_snr", [-4.0, 1.0, 13.3])
def test_levels_are_drawn_as_often_as_the_decoder_says(log_snr):
    """The n-th of N even numbers falls to the level where the distribution function passes it."""
    log_snr, levels, n = torch.tensor(log_snr), 9, 20_000
    for place in (-1.2, -0.3, 0.01, 1.0):
        z = torch.full((n, 1), place)
        drawn = decode(z, log_snr, levels, ((torch.arange(n) + 0.5) / n)[:, None])
        assert drawn.dtype == torch.uint8
        assert (drawn[:, 0].int().diff() >= 0).all()
        probabilities = log_decoder(torch.arange(levels)[:, None], z[:levels], log_snr, levels).exp()
        shares = torch.bincount(drawn[:, 0].int(), minlength=levels) / n
        torch.testing.assert_close(shares, probabilities, rtol=0, atol=2 / n + 1e-5)


# -- the bound -------------------------------------------------------------------------------------------------------


def bound(vdm: VDM) -> Tensor:
    """The bound of each level, (levels,) nats, by quadrature over time and both noises."""
    (t, t_weights), (nodes, weights) = times(150), normals()
    grid = torch.tensor(list(product(range(len(VALUES)), range(len(t)), range(len(nodes)))))
    x, noises = (each.view(-1, 1, 1, 1) for each in (grid[:, 0].to(torch.uint8), nodes[grid[:, 2]]))
    with torch.no_grad():
        terms = vdm.terms_at(x, t[grid[:, 1]], noises, noises)
    weight = t_weights[grid[:, 1]] * weights[grid[:, 2]]
    return -(weight * sum(terms)).view(len(VALUES), -1).sum(1)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize(("first", "last", "gap"), [(8.0, -10.0, 1e-4), (1.0, -1.0, None)])
def test_the_bound_of_the_exact_denoiser_is_the_entropy_and_what_the_ends_cost(first, last, gap, prediction):
    """Its chain is the forward process in reverse. So beside the entropy stand KL(q(z_1) || N(0, 1)) of the start and
    the mean of KL(q(x | z_0) || p(x | z_0)), of the decoder that takes all levels for equally likely.
    """
    vdm = exact(first, last, prediction)
    found = bound(vdm)
    assert float(found.exp().sum()) <= 1 + 1e-6, "of a bound below log p, whose probabilities sum to 1"
    ends = torch.tensor([first, last], dtype=torch.float64)

    def start(z: Tensor) -> Tensor:
        return log_joint(z, ends[1]).logsumexp(-1) + z.square() / 2 + math.log(2 * math.pi) / 2

    def decoder(z: Tensor) -> Tensor:
        joint = log_joint(z, ends[0])
        posterior, equally = joint.log_softmax(-1), (joint - LOG_PROBABILITIES).log_softmax(-1)
        return (posterior.exp() * (posterior - equally)).sum(-1)

    cost = mean_over(start, ends[1]) + mean_over(decoder, ends[0])
    assert -float((LOG_PROBABILITIES.exp() * found).sum()) == pytest.approx(ENTROPY + cost, abs=1e-6)
    assert cost < gap if gap else cost > 0.02


def test_a_network_that_is_wrong_costs_the_square_of_its_error():
    """1/2 int |eps_hat - E[eps | z]|^2 dlambda is added: by a constant error of 0.1, 0.005 in each unit of lambda."""
    vdm = exact(3.0, -3.0)
    right = bound(vdm)
    vdm.net.register_forward_hook(lambda net, given, output: output + 0.1)
    wrong = bound(vdm)
    mean = LOG_PROBABILITIES.exp()
    assert float((mean * (right - wrong)).sum()) == pytest.approx(0.005 * 6, abs=1e-6)


class Smooth(nn.Module):
    """Any network that is told the log-SNR, so smooth that a quadrature over time is exact."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None) -> Tensor:
        return torch.tanh(self.conv(z) + torch.sin(log_snr)[:, None, None, None])


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_bound_is_the_same_for_schedules_of_equal_ends(prediction):
    """Whatever the network, if it is told the log-SNR: for each noise the integral over t is one over lambda."""
    vdm, (t, weights), found = model(prediction=prediction), times(300), []
    vdm.net = Smooth().double()
    x, eps = images(1).expand(len(t), 1, 4, 4), noise(1).expand(len(t), 1, 4, 4)
    for schedule in (Linear(8.0, -4.0), Cosine(8.0, -4.0), bent(8.0, -4.0)):
        vdm.noise_schedule = schedule
        with torch.no_grad():
            terms = vdm.terms_at(x, t, eps, eps)
        found.append([float((weights * each).sum()) for each in terms])
    assert found[0][1] > 1
    assert found[1] == pytest.approx(found[0], rel=1e-9)
    assert found[2] == pytest.approx(found[0], rel=1e-9)


def test_the_priors_term_is_the_divergence_of_two_gaussians():
    vdm, x = model(last=-1.0), images()
    alpha, sigma = alpha_sigma(torch.tensor(-1.0, dtype=torch.float64))
    marginal = torch.distributions.Normal(alpha * (x.double() / 2 - 1), sigma)
    expected = torch.distributions.kl_divergence(marginal, torch.distributions.Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(vdm.terms(x, seed=0).prior, expected)


def test_the_terms_sum_to_the_bound():
    vdm, x = model(), images()
    terms = vdm.terms(x, samples=3, seed=4)
    assert all(each.shape == (6,) for each in terms)
    torch.testing.assert_close(-sum(terms), vdm.elbo(x, samples=3, seed=4))
    draws = vdm.elbo_draws(x, samples=3, seed=4)
    assert draws.shape == (3, 6)
    torch.testing.assert_close(draws.mean(0), vdm.elbo(x, samples=3, seed=4))
    torch.testing.assert_close(draws[0], vdm.elbo(x, seed=4)), "more draws go on from the first"


def test_random_numbers_are_the_datums_own():
    vdm, x = model(), images()
    whole = vdm.elbo(x, samples=2, seed=0)
    state = torch.get_rng_state()
    torch.testing.assert_close(vdm.elbo(x[2:4], samples=2, seed=0, index=torch.tensor([2, 3])), whole[2:4])
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(vdm.elbo(x, samples=2, seed=1), whole)
    (
        torch.testing.assert_close(vdm.loss(x) * 16 * math.log(2), -vdm.elbo(x, seed=0)),
        "outside training, always the same",
    )


# -- times -----------------------------------------------------------------------------------------------------------


def test_times_of_a_batch_are_even_and_each_is_uniform():
    t = torch.stack([even_times(4) for _ in range(3000)]).double()
    assert ((t >= 0) & (t < 1)).all()
    gaps = t.sort(1).values.diff(dim=1)
    torch.testing.assert_close(gaps, torch.full_like(gaps, 0.25), rtol=0, atol=1e-6)
    assert (t.mean(0) - 0.5).abs().max() < 4 / math.sqrt(12 * 3000)
    assert (t.square().mean(0) - 1 / 3).abs().max() < 4 * math.sqrt(4 / 45 / 3000)


def test_an_estimate_is_unbiased_and_even_times_make_it_less_noisy():
    """Of one image many times over, each with numbers of its own, against quadrature; 8 draws at independent times
    would have an eighth of the variance of one.
    """
    vdm, n = exact(side=8), 1000
    expected = 64 * float(bound(exact())[1])
    x = torch.ones(n, 1, 8, 8, dtype=torch.uint8)
    with torch.no_grad():
        one, eight = (vdm.elbo(x, samples=samples, seed=0) for samples in (1, 8))
    for found in (one, eight):
        assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / math.sqrt(n)
    assert eight.var() < 0.5 * one.var() / 8


def test_even_times_make_the_loss_of_a_batch_less_noisy():
    vdm, repeats, n = exact(side=8), 200, 8
    x = torch.ones(n * repeats, 1, 8, 8, dtype=torch.uint8)
    t = torch.cat([even_times(n) for _ in range(repeats)]).double()
    with torch.no_grad():
        even, independent = (
            sum(vdm.terms_at(x, each, *torch.randn(2, *x.shape, dtype=torch.float64))).view(repeats, n).mean(1)
            for each in (t, torch.rand(n * repeats, dtype=torch.float64))
        )
    assert abs(float(even.mean() - independent.mean())) < 4 * float(even.std() + independent.std()) / math.sqrt(repeats)
    assert even.var() < 0.5 * independent.var()


# -- the learned schedule --------------------------------------------------------------------------------------------


def slope_of(function, parameter: Tensor, where: int, h: float = 1e-5) -> float:
    """The derivative of a function without arguments in one entry of a parameter, by central differences."""
    entry = parameter.data.view(-1)[where : where + 1]
    values = []
    for step in (h, -2 * h):
        entry += step
        values.append(float(function()))
    entry += h
    return (values[0] - values[1]) / (2 * h)


def test_the_ends_learn_by_the_bound_and_the_interior_by_the_square_of_its_diffusion_term():
    vdm, x, t = model(noise_schedule="learned"), images(), torch.linspace(0.05, 0.9, 6, dtype=torch.float64)
    vdm.noise_schedule, unit = bent(8.0, -4.0), 1 / (16 * math.log(2))
    eps, first_eps = noise(), noise().flip(0)
    vdm._loss_and_variance(x, t, eps, first_eps, unit).mean().backward()

    def terms():
        with torch.no_grad():
            return vdm.terms_at(x, t, eps, first_eps)

    def loss() -> Tensor:
        return unit * sum(terms()).mean()

    def square() -> Tensor:
        return (unit * terms().diffusion).square().mean()

    schedule = vdm.noise_schedule
    for where in (0, 1):
        assert float(schedule.ends.grad[where]) == pytest.approx(slope_of(loss, schedule.ends, where), rel=1e-5)
    for name in ("straight", "inner", "bias", "outer"):
        parameter = getattr(schedule, name)
        expected = [slope_of(square, parameter, k) for k in range(parameter.numel())]
        assert parameter.grad.flatten().tolist() == pytest.approx(expected, rel=1e-4, abs=1e-8), name
        assert max(map(abs, expected)) > 1e-4, name
    weight = vdm.net.last.weight
    for where in (0, 5, 17):
        assert float(weight.grad.view(-1)[where]) == pytest.approx(slope_of(loss, weight, where), rel=1e-4, abs=1e-8)


def test_the_interior_moves_the_variance_and_not_the_mean():
    """Trained by itself, on the exact denoiser, it makes the estimate less noisy, and leaves the bound where it is."""
    torch.manual_seed(0)
    vdm = exact(8.0, -8.0, side=8)
    vdm.noise_schedule = Learned(8.0, -8.0, hidden=64).double()
    vdm.noise_schedule.ends.requires_grad_(False)
    x = torch.randint(4, (500, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    def spread() -> tuple[float, float]:
        with torch.no_grad():
            found = vdm.terms(x, seed=0).diffusion
        return float(found.mean()), float(found.std())

    before = spread()
    parameters = [p for p in vdm.noise_schedule.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    for _ in range(300):
        eps = torch.randn(2, 64, 1, 8, 8, dtype=torch.float64)
        optimizer.zero_grad()
        vdm._loss_and_variance(x[:64], even_times(64).double(), *eps, 1.0).mean().backward()
        optimizer.step()
    after = spread()
    assert after[1] < 0.8 * before[1]
    assert after[0] == pytest.approx(before[0], abs=4 * (before[1] + after[1]) / math.sqrt(len(x)))


@pytest.mark.parametrize("schedule", ["linear", "learned"])
def test_training_lowers_the_bound(schedule):
    torch.manual_seed(0)
    vdm = VDM(shape=[1, 4, 4], levels=5, noise_schedule=schedule, first=8.0, **TINY)
    x = images(1).expand(64, 1, 4, 4)
    before = float(vdm.eval().loss(x).detach().mean())
    optimizer = torch.optim.Adam(vdm.train().parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        vdm.loss(x).mean().backward()
        optimizer.step()
    assert float(vdm.eval().loss(x).detach().mean()) < 0.7 * before
    if schedule == "learned":
        assert all(parameter.grad.abs().sum() > 0 for parameter in vdm.noise_schedule.parameters())


# -- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["linear", "learned"])
def test_all_but_the_inside_of_the_network_is_float32_under_autocast(schedule):
    vdm = VDM(shape=[1, 4, 4], levels=256, noise_schedule=schedule, **TINY).eval()
    net, seen = vdm.net, []

    class Watching(nn.Module):
        def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None) -> Tensor:
            seen.append((z, log_snr))
            return net(z, log_snr, label)

    vdm.net, x = Watching(), images()
    exact_terms = vdm.terms(x, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        terms = vdm.terms(x, seed=0)
        training = vdm.train().loss(x)
    assert training.dtype == torch.float32
    assert all(each.dtype == torch.float32 for each in terms)
    (z, log_snr), (z_half, log_snr_half), *_ = seen
    assert torch.equal(z, z_half)
    assert torch.equal(log_snr, log_snr_half)
    assert torch.equal(terms.prior, exact_terms.prior)
    assert torch.equal(terms.reconstruction, exact_terms.reconstruction)


def test_float32_tells_what_float64_does_where_noise_is_far_below_a_level():
    """At the first log-SNR of the paper the noise is a sixth of a level."""
    vdm = model(levels=256, first=13.3, last=-5.0)
    x, t = images() * 50, torch.zeros(6, dtype=torch.float64)
    with torch.no_grad():
        exact_terms = vdm.terms_at(x, t, noise(), noise())
        terms = vdm.float().terms_at(x, t.float(), noise().float(), noise().float())
    for found, expected in zip(terms, exact_terms, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


# -- drawing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_have_the_datas_probabilities(sampler):
    vdm, n = exact(), 8000
    found = torch.bincount(vdm.sample(n, seed=0, steps=100, sampler=sampler).flatten().int(), minlength=4) / n
    expected = torch.tensor(PROBABILITIES)
    assert ((found - expected).abs() < 4 * (expected * (1 - expected) / n).sqrt() + 2e-3).all()


def test_the_chain_ends_at_the_bounds_first_log_snr_and_what_it_draws_is_the_decoders():
    vdm = exact(1.0, -6.0)
    assert vdm.log_snrs(4).tolist() == pytest.approx([-6.0, -4.25, -2.5, -0.75, 1.0])
    z = torch.zeros(5000, 1, 1, 1, dtype=torch.float64)
    drawn = vdm.decoded(z, Draws(0, 5000)).flatten().int()
    expected = log_decoder(torch.arange(4)[:, None], z[:4, 0, 0], torch.tensor(1.0), 4).exp()
    shares = torch.bincount(drawn, minlength=4) / 5000
    assert ((shares - expected).abs() < 4 * (expected * (1 - expected) / 5000).sqrt()).all()
    assert torch.equal(vdm.trace(9, frames=3, seed=2, steps=5)[-1], vdm.sample(9, seed=2, steps=5))


def test_a_learned_schedule_draws_through_its_own_ends():
    vdm = model(noise_schedule="learned").float()
    with torch.no_grad():
        vdm.noise_schedule.ends.copy_(torch.tensor([7.0, -3.0]))
    assert vdm.log_snrs(3)[[0, -1]].tolist() == pytest.approx([-3.0, 7.0])
    assert vdm.sample(2, seed=0, steps=3).shape == (2, 1, 4, 4)
    x, known = images(), torch.zeros(1, 4, 4, dtype=torch.bool)
    known[:, 1] = True
    assert torch.equal(vdm.complete(x, known, seed=0, steps=3)[:, :, 1], x[:, :, 1])


# -- the card --------------------------------------------------------------------------------------------------------


def test_the_likelihood_says_its_terms():
    vdm, x = model(), images()
    likelihood = Likelihood(vdm, samples=2)
    likelihood.update(Batch(x[:4]))
    likelihood.update(Batch(x[4:]))
    whole, *terms = likelihood.compute()
    assert whole.kind == "upper"
    assert whole.value == pytest.approx(float(-vdm.elbo(x, samples=2, seed=0).detach().mean()) / (16 * math.log(2)))
    assert [each.metric.name for each in terms] == ["prior", "diffusion", "reconstruction"]
    assert {each.metric.unit for each in terms} == {f"bits/dim of the {each.metric.name}" for each in terms}
    assert sum(each.value for each in terms) == pytest.approx(whole.value)
    assert whole.spread is not None
    assert whole.protocol == "continuous-time bound, 2 draws"


def test_binary_images_are_measured_in_nats():
    vdm = VDM(shape=[1, 4, 4], levels=2, first=6.0, **TINY).eval()
    x = images() % 2
    assert vdm.metric == "nats"
    torch.testing.assert_close(vdm.loss(x), -vdm.elbo(x, seed=0))


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"levels": None}, "levels must be 2..256, not None: the bound is one of discrete values"),
        ({"levels": 1}, "levels must be 2..256, not 1"),
        ({"prediction": "x"}, "prediction must be epsilon or v, not 'x'"),
        ({"noise_schedule": "cosine"}, "noise_schedule must be linear or learned, not 'cosine'"),
        ({"first": -6.0}, "A schedule is monotone"),
        ({"noise_schedule": "learned", "last": 14.0}, "A schedule is monotone"),
        ({"fourier": -1}, "fourier must be 0..10, not -1"),
        ({"fourier": 10**9}, "fourier must be 0..10, not 1000000000"),
        ({"shape": [2]}, "shape"),
    ],
)
def test_bad_arguments_are_refused(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        VDM(**{**TINY, **arguments})


def test_times_outside_are_refused():
    with pytest.raises(DataError, match=r"t must be in \[0, 1\], not 1.5"):
        model().terms_at(images(1), torch.tensor([1.5]), noise(1), noise(1))
