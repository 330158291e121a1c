"""DDPM: its chain against the paper's, its bound against densities that are known, its loss, and what it refuses."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import FewDigits, fit, sealed
from torch import Tensor, nn

from zoo.data import Points
from zoo.diffusion import DDPM
from zoo.diffusion.ddpm import discretized
from zoo.diffusion.schedules import Linear, alpha_sigma
from zoo.errors import DataError
from zoo.evaluation.measure import evaluate
from zoo.metrics import energy_distance
from zoo.spec import DataSpec

SMALL = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": []}


@pytest.fixture(autouse=True)
def _untouched(monkeypatch):
    with sealed(monkeypatch):
        yield


def points(**arguments: Any) -> DDPM:
    return DDPM(**{"shape": [2], "levels": None, "hidden": 16, "layers": 1, "steps": 2, **arguments})


def digits(**arguments: Any) -> DDPM:
    return DDPM(**{"shape": [1, 8, 8], "levels": 17, "timesteps": 20, "steps": 5, **SMALL, **arguments})


class Told(nn.Module):
    """Gives what a function of z, alpha and sigma says, as a network."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None) -> Tensor:
        alpha, sigma = (each.reshape(-1, *[1] * (z.ndim - 1)) for each in alpha_sigma(log_snr))
        return self.function(z, alpha, sigma)


def gaussian(deviation: float, **arguments: Any) -> DDPM:
    """Of Gaussian points, by default of the plane, with the exact E[x | z] for a network, in float64."""
    model = points(prediction="x", **arguments).double().eval()
    model.net = Told(lambda z, a, s: deviation**2 * a / (deviation**2 * a**2 + s**2) * z)
    # Where the weights were, they tell the dtype.
    model.home = nn.Parameter(torch.zeros((), dtype=torch.float64))
    return model


def log_density(x: Tensor, deviation: float) -> Tensor:
    return -(x / deviation).square().sum(1) / 2 - x.shape[1] * (math.log(deviation) + math.log(2 * math.pi) / 2)


# -- the chain -----------------------------------------------------------------------------------------------------


def test_the_chain_is_the_papers_within_what_is_said():
    """beta_k from 1e-4 to .02 in even steps, and alpha^2 their product (section 4), T = 1000."""
    beta = np.linspace(1e-4, 0.02, 1000)
    alphas = np.cumprod(1 - beta)
    levels = points().log_snr_of(torch.arange(1000))
    own = torch.sigmoid(levels).numpy()
    betas = 1 - own / np.concatenate([[1.0], own[:-1]])
    assert np.abs(betas - beta).max() < 3e-4
    assert float(levels[-1]) == pytest.approx(math.log(alphas[-1] / (1 - alphas[-1])), abs=0.1)
    assert (levels.diff() < 0).all()


@pytest.mark.parametrize("schedule", ["linear_beta", "cosine", "linear"])
def test_all_steps_by_which_data_are_drawn_are_the_bounds(schedule):
    model = points(noise_schedule=schedule, timesteps=40)
    levels = model.log_snr_of(torch.arange(40))
    torch.testing.assert_close(model.log_snrs(40), torch.cat([levels.flip(0), torch.tensor([torch.inf]).double()]))
    dense = points(noise_schedule=schedule, timesteps=40, spacing="karras").log_snrs(40)
    torch.testing.assert_close(dense[[0, -2]], levels[[-1, 0]])
    assert (dense.diff() > 0).all()


@pytest.mark.parametrize("schedule", ["linear_beta", "cosine", "linear"])
@pytest.mark.parametrize("prediction", ["epsilon", "v", "x"])
def test_training_sees_the_forward_marginals_and_the_target_of_the_prediction(prediction, schedule):
    """z at a step has mean alpha x and deviation sigma, and a network that gives the target has no error."""
    model = points(prediction=prediction, noise_schedule=schedule, timesteps=10)
    x = torch.tensor([[0.7, -0.4]]).expand(40_000, 2)
    noise, seen = torch.randn_like(x), []
    log_snr = model.levels(torch.full((len(x),), 0.55))  # the sixth of ten
    assert float(log_snr[0]) == pytest.approx(float(model.log_snr_of(torch.tensor(5))), abs=1e-4)

    def told(z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        seen.append((z, alpha[0, 0], sigma[0, 0]))
        return {"epsilon": noise, "v": alpha * noise - sigma * x, "x": x}[prediction]

    model.net = Told(told)
    errors = model.errors(x, log_snr, noise)
    assert errors.shape == (len(x),)
    assert errors.max() < 1e-6
    (z, alpha, sigma), *_ = seen
    assert float(alpha**2 + sigma**2) == pytest.approx(1)
    assert (z.mean(0) - alpha * x[0]).abs().max() < 4 * sigma / math.sqrt(len(x))
    assert (z.std(0) / sigma - 1).abs().max() < 4 / math.sqrt(2 * len(x))


def test_steps_are_as_likely_as_one_another():
    model = points(timesteps=8)
    uniform = (torch.arange(800) + torch.rand(800)) / 800
    levels = model.levels(uniform).double()
    for k in range(8):
        near = (levels - model.log_snr_of(torch.tensor(k))).abs() < 1e-3
        assert int(near.sum()) == 100
    assert model.levels(torch.tensor([0.0, 1.0])).isfinite().all(), "rounding may bring a 1"


def test_images_are_told_within_their_range_and_points_where_they_are():
    """An untrained network tells no noise: x = z / alpha, far out where there is little of x in z."""
    z, log_snr = torch.tensor([-0.3, 0.0, 0.4]).view(3, 1, 1, 1).expand(3, 1, 8, 8), torch.tensor(-6.0)
    with torch.no_grad():
        assert digits().mean(z, log_snr).unique().tolist() == [-1, 0, 1]
        torch.testing.assert_close(points().mean(z[:, 0, 0, :2], log_snr), z[:, 0, 0, :2] / alpha_sigma(log_snr)[0])


# -- the bound -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 10, 50])
def test_the_bound_of_normal_data_is_their_density(steps):
    """With E[x | z] of x ~ N(0, 1) and the variance beta the chain is exact, for any T (section 3.2): each estimate of
    the bound is unbiased for log p(x), up to q(z_T | x), which is not quite normal."""
    model = gaussian(1.0, variance="beta", timesteps=steps)
    x = torch.tensor([[0.3, -1.2]], dtype=torch.float64).expand(20_000, 2)
    with torch.no_grad():
        found = model.elbo(x, samples=steps, seed=0)
    exact = float(log_density(x[:1], 1.0))
    assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / math.sqrt(len(x))
    assert float(found.std()) > 0


def expected_cost(model: DDPM, deviation: float) -> float:
    """The mean of -elbo over Gaussian data of one component, exactly: all terms are quadratic in x and the noise, of
    which three nodes have the moments."""
    nodes, weights = torch.tensor([[-(3**0.5), 0.0, 3**0.5], [1 / 6, 2 / 3, 1 / 6]], dtype=torch.float64)
    x, noise = (each.reshape(-1, 1) for each in torch.meshgrid(deviation * nodes, nodes, indexing="ij"))
    weight = (weights[:, None] * weights).flatten()
    costs = [model._prior(x), model._reconstruction(x, noise, None)]
    for k in range(model.most_steps - 1):
        costs.append(model._divergence(x, torch.full((9,), float(k)), noise, None))
    return float((weight * sum(costs)).sum())


def entropy(deviation: float) -> float:
    return math.log(deviation) + math.log(2 * math.pi * math.e) / 2


@pytest.mark.parametrize("steps", [2, 7, 100])
@pytest.mark.parametrize("schedule", ["linear_beta", "cosine", "linear"])
def test_the_bound_of_normal_data_is_their_density_in_any_number_of_steps(schedule, steps):
    """By the variance beta, the best one for them, the reverse chain is that of Bayes (section 3.2)."""
    model = gaussian(1.0, shape=[1], variance="beta", timesteps=steps, noise_schedule=schedule)
    assert expected_cost(model, 1.0) == pytest.approx(entropy(1.0), abs=1e-9)


@pytest.mark.parametrize(("variance", "deviation"), [("posterior", 0.5), ("beta", 0.5), ("posterior", 1.0)])
def test_the_bound_is_below_the_density_by_a_gap_that_falls_as_one_over_the_steps(variance, deviation):
    """On average over data, of whose density's logarithm the negative mean is the entropy.

    With many steps the decoder and the prior hardly count: the log-SNR goes from 13.3 to -5.
    """
    gaps = []
    for steps in (50, 100, 200, 400):
        model = gaussian(deviation, shape=[1], variance=variance, timesteps=steps, noise_schedule="linear")
        gaps.append(expected_cost(model, deviation) - entropy(deviation))
    assert min(gaps) > 0
    for more, less in pairwise(gaps):
        assert more / less == pytest.approx(2, rel=0.15)


def test_data_are_divided_by_their_deviation_and_the_bound_is_theirs():
    """The same points, in another unit: log p(c x) = log p(x) - D log c."""
    x = torch.randn(7, 2, dtype=torch.float64)
    plain, scaled = gaussian(1.0, timesteps=12), gaussian(1.0, timesteps=12)
    scaled.deviation = 3.0
    bound = plain.elbo(x, samples=12, seed=0) - 2 * math.log(3)
    torch.testing.assert_close(scaled.elbo(3 * x, samples=12, seed=0), bound)
    torch.testing.assert_close(scaled.sample(4, seed=0), 3 * plain.sample(4, seed=0))


class Toy(DDPM):
    """One pixel of three levels, black more often than grey and white, with the exact E[x | z]."""

    chances = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{"shape": [1, 8, 8], "levels": 3, "prediction": "x", "steps": 2, **SMALL, **arguments})
        self.spec = DataSpec((1, 1, 1), 3)
        self.net = Told(self.told)
        self.home = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def told(self, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        values = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
        apart = z[..., None] - alpha[..., None] * values
        chance = (self.chances.log() - apart.square() / (2 * sigma[..., None] ** 2)).softmax(-1)
        return (chance * values).sum(-1)


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_the_bound_is_below_the_probability_of_each_level_that_the_chain_gives(variance):
    """P(x) by carrying the density of z through the chain on a grid, for a decoder that is not the best one."""
    steps = 6
    model = Toy(timesteps=steps, variance=variance, decoder=0.8)
    model.chain = Linear(5.0, -5.0)
    levels = model.log_snr_of(torch.arange(steps))
    z = torch.linspace(-7, 7, 1501, dtype=torch.float64)
    width = float(z[1] - z[0])
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)

    def told(k: int) -> Tensor:
        return model.mean(z[:, None, None, None], levels[k].expand(len(z)))[:, 0, 0, 0]

    for k in reversed(range(1, steps)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = (tuple(map(float, alpha_sigma(levels[j]))) for j in (k, k - 1))
        ratio = alpha_t / alpha_s
        rate = 1 - ratio**2
        mean = ratio * sigma_s**2 / sigma_t**2 * z + alpha_s * rate / sigma_t**2 * told(k)
        spread = math.sqrt(rate if variance == "beta" else rate * sigma_s**2 / sigma_t**2)
        kernel = torch.exp(-((z[None] - mean[:, None]) / spread).square() / 2) / (spread * math.sqrt(2 * math.pi))
        density = width * density @ kernel
    assert float(density.sum()) * width == pytest.approx(1, abs=1e-6)
    spread, total = 0.8 * alpha_sigma(levels[0])[1], 0.0
    for level in range(3):
        x = torch.full((5000, 1, 1, 1), level, dtype=torch.uint8)
        value = torch.full_like(z, level - 1.0)
        decoded = discretized(value, told(0), spread, 3).exp()
        exact = float((density * decoded).sum()) * width
        with torch.no_grad():
            bound = model.elbo(x, samples=steps, seed=level)
        error = float(bound.std()) / math.sqrt(len(x))
        assert float(bound.mean()) < math.log(exact) + 4 * error
        total += exact
    assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_the_decoders_probabilities_sum_to_one(levels):
    """Over all levels, also far from the mean, in tails and where an interval is much wider than the deviation."""
    values = torch.linspace(-1, 1, levels, dtype=torch.float64)
    for mean in (-1.0, -0.3, 0.0, 0.71, 1.0, 3.0):
        for deviation in (0.003, 0.1, 2.0):
            logs = discretized(values, torch.tensor(mean).double(), torch.tensor(deviation).double(), levels)
            assert float(logs.logsumexp(0)) == pytest.approx(0, abs=1e-9)
            single = discretized(values.float(), torch.tensor(mean), torch.tensor(deviation), levels)
            assert not single.isnan().any()
            likely = logs > -20
            torch.testing.assert_close(single.double()[likely], logs[likely], rtol=1e-3, atol=1e-3)


def test_the_decoder_is_equation_13():
    """The normal distribution's mass between half a level below and above; ends reach to infinity."""
    values = torch.linspace(-1, 1, 5, dtype=torch.float64)
    mass = lambda x: 0.5 * (1 + math.erf((x - 0.2) / 0.3 / math.sqrt(2)))  # noqa: E731
    inner = [mass(v + 0.25) - mass(v - 0.25) for v in values[1:-1].tolist()]
    expected = torch.tensor([mass(-0.75), *inner, 1 - mass(0.75)], dtype=torch.float64).log()
    found = discretized(values, torch.tensor(0.2).double(), torch.tensor(0.3).double(), 5)
    torch.testing.assert_close(found, expected)


def test_a_few_steps_estimate_the_bound_of_all_without_bias():
    """Means over many draws agree within the standard error of their difference, for any number of steps."""
    model = gaussian(0.5, timesteps=30)
    x = torch.tensor([[0.4, -0.1]], dtype=torch.float64).expand(20_000, 2)
    with torch.no_grad():
        whole = model.elbo(x, samples=29, seed=0)
        for samples in (1, 4, 7):
            few = model.elbo(x, samples=samples, seed=samples)
            error = math.sqrt(float(whole.var() + few.var()) / len(x))
            assert abs(float(few.mean() - whole.mean())) < 4 * error
        assert torch.equal(model.elbo(x[:50], samples=400, seed=0), model.elbo(x[:50], samples=29, seed=0))


def test_all_steps_are_each_step_once():
    model, seen = gaussian(0.5, timesteps=9), []
    divergence = model._divergence
    model._divergence = lambda y, step, *rest: seen.append(step) or divergence(y, step, *rest)
    model.elbo(torch.zeros(5, 2, dtype=torch.float64), samples=8, seed=0)
    assert torch.equal(torch.stack(seen).sort(0).values, torch.arange(8.0).double()[:, None].expand(8, 5))


def test_the_terms_are_the_bounds():
    model = digits(dropout=0.0).eval()
    x = torch.randint(17, (6, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        bound = model.elbo(x, samples=3, seed=2)
        terms = model.terms(x, samples=3, seed=2)
        draws = model.elbo_draws(x, samples=3, seed=2)
    torch.testing.assert_close(-sum(terms), bound)
    torch.testing.assert_close(draws.mean(0), bound)
    assert draws.shape == (3, 6)
    assert terms.prior.min() >= 0
    assert terms.diffusion.min() >= 0
    assert terms.reconstruction.min() >= 0, "the decoder gives probabilities"


def test_the_prior_is_the_divergence_of_two_normal_distributions():
    model = points(timesteps=5, noise_schedule="linear", deviation=1.0)
    x = torch.randn(4, 2)
    alpha, sigma = (each.float() for each in alpha_sigma(model.log_snr_of(torch.tensor(4))))
    last, normal = torch.distributions.Normal(alpha * x, sigma), torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(last, normal).sum(1)
    torch.testing.assert_close(model.terms(x, seed=0).prior, expected, rtol=1e-3, atol=1e-6)


def test_a_seed_means_the_same_bound_and_nothing_else():
    model = points(timesteps=20).eval()
    x, state = torch.randn(5, 2), torch.get_rng_state()
    with torch.no_grad():
        one = model.elbo(x, samples=2, seed=3)
        assert torch.equal(one, model.elbo(x, samples=2, seed=3))
        assert not torch.equal(one, model.elbo(x, samples=2, seed=4))
        assert torch.equal(torch.get_rng_state(), state)
        index = torch.tensor([4, 2])
        torch.testing.assert_close(model.elbo(x[index], samples=2, seed=3, index=index), one[index])


# -- training, drawing, measuring ----------------------------------------------------------------------------------


def test_it_learns(tmp_path):
    """Two moons: samples come closer to them than a Gaussian of their mean and covariance, and the bound rises."""
    how = {"noise_schedule": "linear", "prediction": "v", "timesteps": 50, "steps": 20, "deviation": 1.5}
    model = points(hidden=64, layers=2, optimizer="muon", lr=1e-2, warmup=20, **how)
    data = Points("moons", train=20_000, validation=2000, test=10, batch_size=500)
    data.setup("fit")
    x = data.val.x
    before = float(model.loss(x).detach().mean())
    _, trainer = fit(tmp_path, model=model, data=data, max_steps=200, check_val_every_n_epoch=5)
    assert float(trainer.callback_metrics["val_nats"]) < before
    x = x.double()
    normal = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
    drawn = model.eval().sample(2000, seed=0).double()
    assert energy_distance(drawn, x) < energy_distance(normal.sample((2000,)), x) / 2


def test_labels_count_and_guidance_counts_them_more(tmp_path):
    model = points(classes=2, label_dropout=0.2, timesteps=20, steps=10, sampler="ddim")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    draws = [model.sample(8, seed=0, label=1, guidance=w) for w in (None, 1.0, 2.0)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    x = torch.randn(3, 2)
    one, other = (model.elbo(x, seed=0, label=torch.full((3,), k)) for k in (0, 1))
    assert not torch.equal(one, other)
    with pytest.raises(DataError, match="give the label of each datum"):
        model.elbo(x)


def test_what_is_measured_says_how(monkeypatch):
    """The bound with its draws, each term with its share, and samples with their steps, sampler and passes."""
    from zoo import metrics

    class Pixels(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0].float().flatten(1) / 255

    monkeypatch.setattr(metrics, "Inception", lambda root: Pixels())
    model, data = digits().eval(), FewDigits(batch_size=20, validation=20)

    def measured(**how: Any) -> dict[str, Any]:
        found = evaluate(model, data=data, limit=20, metrics=["fid"], device="cpu", **how)
        return {each.metric.name: each for each in found}

    found = measured(samples=19)
    assert "20 steps, variance posterior, decoder 1, 19 draws" in found["bits_per_dim"].protocol
    assert not found["bits_per_dim"].importance_weighted, "more draws of the bound are less noisy, and not tighter"
    terms = [found[name] for name in ("prior", "diffusion", "reconstruction")]
    assert [each.metric.unit for each in terms][1] == "bits/dim of the diffusion"
    total, error = found["bits_per_dim"], sum(each.standard_error**2 for each in terms) ** 0.5
    assert sum(each.value for each in terms) == pytest.approx(total.value, abs=4 * (error + total.standard_error))
    assert found["fid"].protocol.endswith("5 steps of dpm2m, 5 passes")
    other = measured(options={"steps": 3, "sampler": "heun"}, n=10)
    assert other.keys() == {"fid", "kid", "precision", "recall"}, "samples alone"
    assert other["fid"].protocol.count("; 10 against 20 images; ") == 1
    assert other["fid"].protocol.endswith("3 steps of heun, 5 passes")
    assert other["fid"].value != found["fid"].value
    assert found["fid"].of != other["fid"].of, "a card keeps both"


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"timesteps": 1}, "timesteps must be at least 2, not 1"),
        ({"timesteps": 20, "steps": 21}, "steps must be at most 20, those of the schedule, not 21"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"prediction": "preconditioned"}, "prediction must be one of epsilon, v, x, not 'preconditioned'"),
        ({"noise_schedule": "karras"}, "noise_schedule must be one of linear_beta, cosine, linear, not 'karras'"),
        ({"variance": "learned"}, "variance must be one of posterior, beta, not 'learned'"),
        ({"spacing": "quadratic"}, "spacing must be one of even, karras, not 'quadratic'"),
        ({"sampler": "euler"}, "sampler must be one of ancestral"),
        ({"levels": 300}, "levels must be from 2 to 256, or null for points, not 300"),
        ({"levels": 1}, "levels must be from 2 to 256"),
        ({"levels": None}, r"Data without levels are vectors, of one size, not of shape \[1, 8, 8\]: give levels"),
        ({"shape": [2]}, "shape"),
        ({"label_dropout": 0.1}, "There are no labels to drop where classes is 0"),
        ({"classes": 3, "label_dropout": 1.0}, r"label_dropout must be in \[0, 1\), not 1.0"),
        ({"deviation": 0.0}, "deviation must be positive"),
        ({"decoder": 0.0}, "decoder must be positive"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        digits(**arguments)


def test_what_cannot_be_asked_is_one_sentence():
    model = digits()
    x = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    for steps, sentence in ((0, "at least 1"), (21, "at most 20, those of the schedule, not 21")):
        with pytest.raises(DataError, match=f"steps must be {sentence}"):
            model.sample(1, steps=steps)
    with pytest.raises(DataError, match="not conditioned on classes, so that nothing guides it"):
        model.sample(1, guidance=2.0)
    with pytest.raises(DataError, match="known has shape"):
        model.complete(x, torch.ones(3, 3, dtype=torch.bool))
    for t in (-0.1, 1.1, math.nan):
        with pytest.raises(DataError, match=r"t must be in \[0, 1\]"):
            model.noise_schedule(torch.tensor([0.5, t]))
    with pytest.raises(DataError, match="samples must be at least 1"):
        model.elbo(x, samples=0)
