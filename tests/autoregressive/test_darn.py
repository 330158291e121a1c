"""DARN: its parts are distributions, its bound is one, and the encoder's gradient is what it promises to be."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from definitions import every_image, some_images
from tiny_runs import Patches, fit, sealed
from torch import Tensor
from torch.autograd.functional import jacobian

from zoo.autoregressive.darn import DARN, bernoulli_log_prob
from zoo.errors import DataError

SHAPE = (1, 2, 3)
# With and without deterministic layers, and with deeper ones.
KINDS = [{}, {"width": 0, "masked": 0}, {"width": 0}, {"masked": 0}, {"layers": 3}]


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


def tiny(shape=SHAPE, **arguments) -> DARN:
    """A model far from its initialization; masked weights are not zero."""
    model = DARN(list(shape), **{"latent_dim": 3, "width": 5, "masked": 2, **arguments})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model.eval()


def every(size: int, dtype=torch.float64) -> Tensor:
    """All 2 ** size binary vectors."""
    return torch.tensor(list(itertools.product([0, 1], repeat=size)), dtype=dtype)


def enumerated(model: DARN, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, h) and log q(h|x) for all h: (2 ** H, N) each."""
    pixels, h = model._pixels(x), every(model.hparams.latent_dim).to(model.net.prior.bias.dtype)
    h = h[:, None].expand(-1, len(x), -1)
    return model.net.log_joint(pixels, h), bernoulli_log_prob(h, model.net.infer(pixels))


def exact_elbo(model: DARN, x: Tensor) -> Tensor:
    """(N,) E_q[log p(x, h) - log q(h|x)], a sum over all h."""
    joint, q = enumerated(model, x)
    return (q.exp() * (joint - q)).sum(0)


# -- the distributions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_prior_and_decoder_sum_to_one(double, kind):
    net = tiny(**kind).double().net
    with torch.no_grad():
        h = every(3)
        prior = bernoulli_log_prob(h, net.prior(h)).exp()
        assert prior.sum().item() == pytest.approx(1, abs=1e-12)
        x = every(6)
        for code in h:
            context = net.read(code).expand(len(x), -1)
            given = bernoulli_log_prob(x, net.decoder(x, context)).exp()
            assert given.sum().item() == pytest.approx(1, abs=1e-12)
            assert given.std() > 1e-3, "a uniform distribution would prove little"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [SHAPE, (2, 1, 2)])
def test_the_marginal_sums_to_one(double, shape, kind):
    model = tiny(shape, **kind).double()
    with torch.no_grad():
        joint, q = enumerated(model, every_image(shape))
    assert joint.exp().sum().item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(q.exp().sum(0), torch.ones(len(q.T), dtype=torch.float64))


@pytest.mark.parametrize(("masked", "layers"), [(0, 1), (1, 1), (3, 1), (1, 2), (3, 3)])
def test_a_unit_depends_on_all_before_it_and_on_nothing_else(masked, layers):
    net = tiny(masked=masked, layers=layers).net
    (h,) = torch.rand(1, 3)
    for part, size, context in [(net.prior, 3, None), (net.decoder, 6, net.read(h).detach())]:
        found = jacobian(lambda v, part=part, context=context: part(v, context), torch.rand(size))
        assert torch.equal(found != 0, torch.ones(size, size, dtype=torch.bool).tril(-1))
    found = jacobian(lambda h: net.decoder(torch.ones(6), net.read(h)), h)
    assert (found != 0).all(), "each pixel depends on the whole code"


# -- the bound -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_elbo_is_log_p_less_the_divergence_of_q_from_the_posterior(double, kind):
    model = tiny(**kind).double()
    x = every_image(SHAPE)
    with torch.no_grad():
        joint, q = enumerated(model, x)
        exact, elbo = joint.logsumexp(0), exact_elbo(model, x)
        divergence = (q.exp() * (q - (joint - exact))).sum(0)
    assert (elbo < exact).all()
    torch.testing.assert_close(elbo, exact - divergence)


def test_estimates_converge_to_the_bounds():
    """The mean over codes: with one sample to the ELBO, with three to a bound between it and log p(x)."""
    model = tiny()
    x = some_images(model, 2)
    many = x.repeat_interleave(20_000, 0)
    with torch.no_grad():
        joint, q = enumerated(model, x)
        triples = torch.cartesian_prod(*[torch.arange(8)] * 3)
        tighter = ((joint - q)[triples].logsumexp(1) - math.log(3)) * q[triples].sum(1).exp()
        for samples, expected in [(1, exact_elbo(model, x)), (3, tighter.sum(0))]:
            draws = model.elbo(many, samples=samples, seed=1).view(2, -1)
            error = draws.std(1) / math.sqrt(draws.shape[1])
            assert ((draws.mean(1) - expected).abs() < 4 * error).all()
        assert (exact_elbo(model, x) < tighter.sum(0)).all()
        assert (tighter.sum(0) < joint.logsumexp(0)).all()
    assert (model.likelihood, model.metric) == ("bound", "nats")
    assert not hasattr(model, "log_prob")


def test_the_seed_decides_and_the_global_state_stays():
    model = tiny(latent_dim=20)
    x = some_images(model, 6)
    state = torch.get_rng_state()
    first = model.elbo(x, samples=2, seed=3)
    assert (first.dtype, first.shape) == (torch.float32, (6,))
    assert torch.equal(first, model.elbo(x, samples=2, seed=3))
    assert not torch.equal(first, model.elbo(x, samples=2, seed=4))
    assert not torch.equal(model.elbo(x), model.elbo(x)), "without a seed each call draws anew"
    assert torch.equal(model.loss(x), model.loss(x)), "validation draws the same each time"
    assert torch.equal(model.loss(x), -model.elbo(x, seed=0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_log_probabilities_are_float32(kind):
    model = tiny(**kind)
    x = some_images(model, 64)
    plain = model.elbo(x, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.elbo(x, seed=0).dtype == torch.float32
        joint, q = enumerated(model, x)
        assert (joint.dtype, q.dtype) == (torch.float32, torch.float32)
        model.train()
        assert model.loss(x).dtype == torch.float32
    torch.testing.assert_close(model.eval().elbo(x, seed=0), plain)


# -- the gradient --------------------------------------------------------------------------------------------


def gradient(model: DARN, value: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    return {name: torch.zeros(()) if g is None else g for name, g in zip(names, found, strict=True)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimator", ["half", "disarm"])
def test_the_training_gradient_is_unbiased(estimator, kind):
    """Of "disarm" all of it, of "half" that for the prior and the decoder; and the loss is the bound."""
    model = tiny(estimator=estimator, **kind)
    (x,) = some_images(model, 1)
    elbo = exact_elbo(model, x[None])[0]
    exact = gradient(model, -elbo)
    model.train()
    many, values, grads = x.expand(4000, *SHAPE), [], []
    for _ in range(24):
        loss = model.loss(many).mean()
        values.append(loss.detach())
        grads.append(gradient(model, loss))
    values = torch.stack(values)
    assert (values.mean() + elbo).abs() < 4.5 * values.std() / math.sqrt(24)
    for name, expected in exact.items():
        if estimator == "half" and "encoder" in name:
            continue
        found = torch.stack([g[name] for g in grads])
        # Some 200 numbers, each the mean of 24: five deviations, and room for float32.
        assert ((found.mean(0) - expected).abs() < 5 * found.std(0) / math.sqrt(24) + 1e-5).all(), name


def half_and_exact(model: DARN, f) -> tuple[Tensor, Tensor]:
    """Gradients of E_q[f(h)] for the logits of q: in expectation over "half", a sum over all h, and exact."""
    net, x = model.net, model._pixels(some_images(model, 1))
    net.log_joint = lambda x, h: f(h)
    logits = net.infer(x).detach().requires_grad_()
    net.infer = lambda x: logits
    h = every(model.hparams.latent_dim)[:, None]
    drawn, _, code = net(x, 1 - h, True)
    assert torch.equal(code, h)
    weight = bernoulli_log_prob(h, logits).exp()
    (half,) = torch.autograd.grad((weight.detach() * drawn).sum(), logits)
    (exact,) = torch.autograd.grad((weight * f(h)).sum(), logits)
    return half, exact


def test_half_is_exact_for_what_is_quadratic_in_each_unit(double):
    model = tiny(latent_dim=4).double()
    a, b = torch.randn(4, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    half, exact = half_and_exact(model, lambda h: ((h @ a) * h).sum(-1) + h @ b + h.prod(-1))
    torch.testing.assert_close(half, exact)
    assert exact.abs().min() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_half_is_of_third_order_in_the_influence_of_a_unit(double, kind):
    """Shrink what a unit does to log p(x, h): the gradient shrinks in proportion, its error with the cube."""

    def error(scale: float) -> tuple[float, float]:
        torch.manual_seed(1)
        model = tiny(**kind).double()
        pixels, joint = model._pixels(some_images(model, 1)), model.net.log_joint
        half, exact = half_and_exact(model, lambda h: joint(pixels, 0.5 + scale * (h - 0.5)))
        return (half - exact).norm().item(), exact.norm().item()

    (wide, gradient_wide), (narrow, gradient_narrow) = error(0.02), error(0.01)
    assert gradient_wide / gradient_narrow == pytest.approx(2, rel=0.1)
    assert wide / narrow == pytest.approx(8, rel=0.2)


class Blank(Patches):
    """Patches that are all black or all white: log 2 nats, of which one unit can tell all."""

    def read(self, split: str) -> tuple[Tensor, Tensor]:
        images, labels = super().read(split)
        return (images[:, :, :1, :1] // 128 * 255).expand_as(images).contiguous(), labels


@pytest.mark.parametrize("estimator", ["half", "disarm"])
def test_training_raises_the_bound_and_repeats(tmp_path, estimator):
    def run(name: str) -> float:
        torch.manual_seed(0)
        model = DARN([1, 4, 4], latent_dim=4, width=8, dropout=0.1, estimator=estimator, lr=0.05, warmup=3)
        _, trainer = fit(tmp_path / name, model=model, data=Blank(), max_steps=40)
        return trainer.callback_metrics["val_nats"].item()

    first = run("first")
    assert first == run("again"), "neither training nor validation draws anything that the seed does not decide"
    assert math.log(2) - 0.3 < first < 3 < 16 * math.log(2)


# -- samples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 12345])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 5, 6), (3, 3, 2), (1, 1, 1)])
def test_cached_and_plain_sampling_draw_the_same(shape, kind, seed):
    model = tiny(shape, latent_dim=9, **kind)
    state = torch.get_rng_state()
    x = model.sample(8, seed=seed)
    assert (x.dtype, tuple(x.shape)) == (torch.uint8, (8, *shape))
    model.spec.check(x)
    assert torch.equal(x, model.sample(8, seed=seed, cached=False))
    assert torch.equal(x, model.sample(8, seed=seed))
    assert torch.equal(torch.get_rng_state(), state)
    if math.prod(shape) > 1:
        assert not torch.equal(x, model.sample(8, seed=seed + 1))
        assert not torch.equal(model.sample(8), model.sample(8)), "without a seed each call draws anew"


@pytest.mark.parametrize("training", [True, False])
def test_sampling_neither_trains_nor_drops(training):
    model = tiny(dropout=0.9)
    expected = model.sample(8, seed=0)
    model.train(training)
    assert torch.equal(model.sample(8, seed=0), expected)
    assert all(module.training == training for module in model.modules())
    expected[0] = 0  # an ordinary tensor, the caller's


@pytest.mark.parametrize("shape", [(1, 2, 2), (2, 1, 2)])
def test_samples_follow_the_marginal(shape):
    model = tiny(shape)
    outcomes = every_image(shape)
    with torch.no_grad():
        probabilities = enumerated(model, outcomes)[0].exp().sum(0).double()
    place = 2 ** torch.arange(3, -1, -1)
    counts = torch.bincount((model.sample(4000, seed=0).flatten(1) * place).sum(1), minlength=16)

    def chi_square(p: Tensor) -> float:
        return float(((counts - 4000 * p).square() / (4000 * p)).sum())

    # The value that a chi-square variable with 15 degrees of freedom exceeds once in a thousand times.
    assert chi_square(probabilities) < 37.70
    assert chi_square(probabilities.roll(1)) > 37.70, "the test can tell"


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["elbo", "bits_per_dim", "loss"])
@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.zeros(2, 1, 3, 2, dtype=torch.uint8), r"shape \(2, 1, 3, 2\); this model takes \(N, 1, 2, 3\)"),
        (torch.zeros(1, 2, 3, dtype=torch.uint8), r"shape \(1, 2, 3\)"),
        (torch.zeros(2, *SHAPE), "dtype torch.float32; this model takes torch.uint8 with values 0..1"),
        (torch.full((2, *SHAPE), 2, dtype=torch.uint8), "values 2..2; this model takes 0..1"),
        ([[0]], "must be a torch tensor, not list"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_compute(monkeypatch, method, x, sentence):
    model = tiny()
    monkeypatch.setattr(model.net, "infer", None)  # calling it would be a TypeError
    with pytest.raises(DataError, match=sentence) as caught:
        getattr(model, method)(x)
    assert "\n" not in str(caught.value)


def test_numbers_of_draws_are_positive():
    with pytest.raises(DataError, match="n must be at least 1, not 0"):
        tiny().sample(0)
    with pytest.raises(DataError, match="samples must be at least 1, not 0"):
        tiny().elbo(torch.zeros(1, *SHAPE, dtype=torch.uint8), samples=0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"shape": [8, 8]}, r"shape must be \(C, H, W\) of positive sizes, not \[8, 8\]"),
        ({"levels": 256}, "levels must be 2, for DARN models binary images, not 256"),
        ({"latent_dim": 0}, "latent_dim and layers must be positive, not 0 and 1"),
        ({"layers": 0}, "latent_dim and layers must be positive, not 500 and 0"),
        ({"width": -1}, "width and masked must be at least 0, not -1 and 2"),
        ({"masked": -1}, "width and masked must be at least 0, not 500 and -1"),
        ({"estimator": "arm"}, "estimator must be one of half, disarm, not 'arm'"),
    ],
)
def test_bad_constructor_arguments(arguments, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        DARN(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_are_plain_and_rebuild_the_model(kind):
    model = tiny(dropout=0.25, estimator="disarm", **kind)
    other = DARN(**json.loads(json.dumps(dict(model.hparams))))
    other.load_state_dict(model.state_dict())
    x = some_images(model, 2)
    assert torch.equal(other.eval().elbo(x, seed=0), model.elbo(x, seed=0))
    assert other.spec == model.spec
    assert (model.spec.shape, model.spec.levels) == (SHAPE, 2)
