"""EoNADE: an unbiased loss over all orderings, an exact ensemble of a few, and samples that follow it."""

from __future__ import annotations

import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch
from definitions import chi_square, every_image, some_images
from tiny_runs import Patches, Stop, differences, fit, last, sealed
from torch import Tensor
from torch.autograd.functional import jacobian

from zoo import evaluate
from zoo.autoregressive import nade
from zoo.autoregressive.eonade import EoNADE, _known_first
from zoo.callbacks.ema import EMA
from zoo.errors import DataError
from zoo.hub import store
from zoo.nn.orderings import check_orderings, random_orderings

SHAPE = (1, 3, 4)


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


def tiny(shape=SHAPE, hidden=7, layers=2, orderings=3, **arguments) -> EoNADE:
    """A model far from its initialization."""
    model = EoNADE(list(shape), hidden=hidden, layers=layers, orderings=orderings, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.7 * torch.randn_like(parameter))
    return model.eval()


def every_ordering(dims: int) -> Tensor:
    return torch.tensor(list(itertools.permutations(range(dims))))


def by_the_paper(model: EoNADE, image: Tensor, ordering: Tensor) -> Tensor:
    """log p(x | o): for each d, the network on the masked image concatenated with the mask."""
    net, x = model.net, image.flatten().double()
    mask, total = torch.zeros_like(x), 0.0
    first = torch.cat([net.values.weight, net.mask.weight], 1)
    for i in ordering.tolist():
        h = torch.relu(first @ torch.cat([x * mask, mask]) + net.values.bias)
        for layer in net.hidden:
            h = torch.relu(layer.weight @ h + layer.bias)
        logit = net.output.weight[i] @ h + net.output.bias[i]
        total = total + torch.log(torch.sigmoid(logit if x[i] else -logit))  # 1 - p would lose digits
        mask[i] = 1
    return total


# -- likelihood ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("positions", [1, 5, 56])
def test_log_prob_is_the_mixture_over_the_orderings(monkeypatch, positions, layers):
    monkeypatch.setattr(nade, "CHUNK_POSITIONS", positions)
    model = tiny(layers=layers).double()
    x = some_images(model, 4)
    with torch.no_grad():
        each = torch.stack([torch.stack([by_the_paper(model, image, o) for image in x]) for o in model.orderings])
        for ordering, expected in zip(model.orderings, each, strict=True):
            torch.testing.assert_close(model.log_prob_under(x, ordering), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(model.log_prob(x), each.exp().mean(0).log(), rtol=0, atol=1e-12)
    assert (model.likelihood, model.metric) == ("exact", "nats")


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 3), (2, 2, 2)])
def test_probabilities_sum_to_one(shape, layers):
    model = tiny(shape, layers=layers).double()
    x = every_image(shape)
    with torch.no_grad():
        log_prob = model.log_prob(x)
        for ordering in model.orderings:
            assert model.log_prob_under(x, ordering).exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert log_prob.std() > 0.1, "a uniform distribution would prove little"


def test_a_pixel_depends_on_the_known_ones_and_on_nothing_else():
    """In the sense of each ordering: all pixels before it, and none other."""
    # Wide, for a rectifier hides a dependence at any one image.
    model = tiny(hidden=64)
    x = some_images(model, 1).flatten(1).float()
    before = torch.ones(model.spec.dims, model.spec.dims, dtype=torch.bool).tril(-1)
    for ordering in model.orderings:
        for d, i in enumerate(ordering):
            known = torch.zeros_like(x, dtype=torch.bool)
            known[0, ordering[:d]] = True
            found = jacobian(lambda x, known=known: model.net.logits(x, known)[0], x)[i, 0] != 0
            assert torch.equal(found[ordering], before[d])


def test_exact_sums_stay_in_32_bits_under_autocast():
    model = tiny()
    x = some_images(model, 3)
    with torch.no_grad():
        expected = model.log_prob(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model.log_prob(x), expected)
            assert model.order_agnostic(x).dtype == torch.float32


def test_orderings():
    dims = math.prod(SHAPE)
    one, same, other = (tiny(ordering_seed=seed, orderings=4).orderings for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert (one.dtype, tuple(one.shape)) == (torch.int64, (4, dims))
    check_orderings(one, dims)
    assert len(one.unique(dim=0)) == 4


# -- the loss ------------------------------------------------------------------------------------------------


def test_the_loss_is_an_unbiased_estimate_of_the_mean_over_all_orderings(monkeypatch):
    """Its mean over every ordering and position, each put in the place of the random draws, is that mean."""
    shape, dims = (1, 2, 2), 4
    model = tiny(shape).double()
    x, orderings = every_image(shape), every_ordering(dims)
    with torch.no_grad():
        exact = -torch.stack([model.log_prob_under(x, o) for o in orderings]).mean(0)
        estimates = []
        for ordering, d in itertools.product(orderings, range(dims)):

            def rand(*size, ordering=ordering, d=d, **_):
                # One number decides d (the images' offsets stay below 1 / D), the others sort into the ordering.
                return torch.tensor([d / dims]) if len(size) == 1 else ordering.argsort().expand(size)

            monkeypatch.setattr(torch, "rand", rand)
            # One image a call: in a batch the positions are spread.
            estimates.append(torch.cat([model.order_agnostic(image[None]) for image in x]))
    torch.testing.assert_close(torch.stack(estimates).mean(0), exact, rtol=0, atol=1e-10)
    assert torch.stack(estimates).std(0).min() > 0.1, "the draws matter"


def test_the_draws_of_the_loss_are_uniform():
    """So many draws that the mean is off by five standard errors once in a million times."""
    model = tiny((1, 2, 2))
    image, n = torch.tensor([[[[0, 1], [1, 1]]]], dtype=torch.uint8), 20_000
    with torch.no_grad():
        exact = -torch.stack([model.log_prob_under(image, o) for o in every_ordering(4)]).mean()
        estimates = model.order_agnostic(image.expand(n, -1, -1, -1))
    # Positions are spread, which only lowers the true error.
    assert abs(estimates.mean() - exact) < 5 * estimates.std() / math.sqrt(n)


def test_each_image_of_a_batch_has_any_number_of_known_pixels(monkeypatch):
    model, seen = tiny(), []
    forward = model.net.forward
    monkeypatch.setattr(model.net, "forward", lambda x, known: seen.append(known.flatten(1)) or forward(x, known))
    x = some_images(model, 6)
    with torch.no_grad():
        for _ in range(400):
            model.order_agnostic(x)
    counts = torch.stack([known.sum(1) for known in seen])  # (400, 6)
    for column in counts.T:
        # 31.26 is exceeded once in a thousand times with 11 degrees of freedom.
        expected = 400 / 12
        assert ((torch.bincount(column, minlength=12) - expected).square() / expected).sum() < 31.26
    assert (counts.sort(1).values.diff() >= 1).all(), "six images, twelve positions: all different"
    frequency = torch.cat(seen).float().mean(0)
    assert (frequency - 5.5 / 12).abs().max() < 0.05, "no pixel is preferred"


def test_the_global_seed_decides_the_training_loss_and_leaves_the_validation_loss():
    model = tiny()
    x = some_images(model, 5)
    with torch.no_grad():
        torch.manual_seed(1)
        one = model.train().loss(x)
        other = model.loss(x)
        torch.manual_seed(1)
        assert torch.equal(model.loss(x), one)
        assert not torch.equal(other, one)
        state = torch.get_rng_state()
        draws = [model.order_agnostic(x, draws=4, seed=3) for _ in range(2)]
        assert torch.equal(*draws)
        assert torch.equal(torch.get_rng_state(), state)


def test_validation_estimates_and_test_is_exact(monkeypatch):
    model = tiny().eval()
    monkeypatch.setattr(model, "log", lambda *_, **__: None)
    x = some_images(model, 5)
    with torch.no_grad():
        exact = -model.log_prob(x)
        assert torch.equal(model.loss(x), exact)
        model.test_step((x,), 0)
        assert model.test_mean.compute().item() == pytest.approx(exact.mean().item(), rel=1e-6)
        monkeypatch.setattr(model, "log_prob", None)
        for _ in range(2):
            model.val_mean.reset()
            model.validation_step((x,), 0)
            value = model.val_mean.compute()
    assert value.isfinite()
    monkeypatch.undo()
    data = Patches()
    model = tiny((1, 4, 4))
    (result,) = evaluate(model, data=data)
    assert (result.kind, result.metric.name) == ("exact", "nats")
    with torch.no_grad():
        assert result.value == pytest.approx(-model.log_prob(data.test[0]).mean().item(), rel=1e-6)


def test_the_compiled_net_is_the_net():
    model = tiny().train()
    x, known = some_images(model, 3), torch.rand(3, *SHAPE) < 0.5
    expected = model.net(x, known)
    model.net.compile(backend="aot_eager", dynamic=False)
    torch.testing.assert_close(model.net(x, known), expected)
    model.sample(1, seed=0)


# -- samples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 12345])
def test_cached_and_plain_sampling_draw_the_same(layers, seed):
    model = tiny((1, 5, 6), layers=layers)
    cached = model.sample(20, seed=seed)
    assert torch.equal(cached, model.sample(20, seed=seed, cached=False))
    known = torch.rand(20, 1, 5, 6) < 0.4
    completed = model.complete(cached, known, seed=seed + 1)
    assert torch.equal(completed, model.complete(cached, known, seed=seed + 1, cached=False))
    assert torch.equal(completed[known], cached[known])
    assert not torch.equal(completed, cached)


def test_samples_are_data_and_the_seed_decides():
    model = tiny()
    state = torch.get_rng_state()
    x = model.train().sample(6, seed=3)
    assert (x.dtype, tuple(x.shape)) == (torch.uint8, (6, *SHAPE))
    model.spec.check(x)
    assert torch.equal(x, model.sample(6, seed=3))
    assert not torch.equal(x, model.sample(6, seed=4))
    assert not torch.equal(model.sample(6), model.sample(6)), "without a seed each call draws anew"
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(x[:3], x[3:])
    assert model.training
    assert all(p.dtype == torch.float32 for p in model.parameters())
    x[0] = 0  # the caller's own


def test_samples_follow_the_mixture():
    model = tiny((1, 2, 2))
    outcomes = every_image((1, 2, 2))
    with torch.no_grad():
        probabilities = model.log_prob(outcomes).exp()
        alone = model.log_prob_under(outcomes, model.orderings[0]).exp()
    draws = model.sample(20_000, seed=0)
    # 37.70 is exceeded once in a thousand times with 15 degrees of freedom.
    assert chi_square(draws, outcomes, probabilities) < 37.70
    assert chi_square(draws, outcomes, alone) > 37.70, "the test can tell the mixture from one ordering"


@pytest.mark.parametrize("known", [[0, 3], [1, 2]])
def test_completions_follow_the_conditional_distribution_of_any_known_pixels(known):
    shape = (1, 2, 2)
    model = tiny(shape)
    mask = torch.zeros(4, dtype=torch.bool).index_fill(0, torch.tensor(known), True)
    outcomes = every_image(shape)
    mask_image = mask.view(shape)
    possible = outcomes[((outcomes == outcomes[-1]) | ~mask_image).flatten(1).all(1)]
    orders = _known_first(model.orderings, mask.expand(3, -1))
    with torch.no_grad():
        each = [model.log_prob_under(possible, ordering).softmax(0) for ordering in orders]
    draws = model.complete(outcomes[-1].expand(4000, *shape), mask_image, seed=7)
    assert chi_square(draws, possible, torch.stack(each).mean(0)) < 16.27  # 3 degrees of freedom


def test_known_pixels_come_first_and_the_order_stays():
    ordering = torch.tensor([[3, 1, 0, 2], [0, 1, 2, 3]])
    known = torch.tensor([[True, False, False, True], [False, False, False, False]])
    assert _known_first(ordering, known).tolist() == [[3, 0, 1, 2], [0, 1, 2, 3]]


# -- saving and training -------------------------------------------------------------------------------------


def test_the_orderings_are_saved_and_loaded(tmp_path):
    model, other = tiny(ordering_seed=1), tiny(ordering_seed=2)
    x = some_images(model, 3)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.orderings, model.orderings)
    with torch.no_grad():
        assert torch.equal(other.log_prob(x), model.log_prob(x))
        loaded = store.load(store.save(model, tmp_path / "eonade-tiny", dtype="float32"))
        assert torch.equal(loaded.log_prob(x), model.log_prob(x))


def test_weights_whose_orderings_are_none_are_refused():
    model = tiny()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    weights["orderings"][1, 0] = 12
    with pytest.raises(DataError, match=r"An ordering must be a permutation of 0..11 in int64") as caught:
        model.load_state_dict(weights)
    assert "\n" not in str(caught.value)


def test_a_run_keeps_the_orderings_and_resumes_exactly(tmp_path):
    def run(folder, *callbacks, **settings):
        torch.manual_seed(0)
        model = EoNADE([1, 4, 4], hidden=5, orderings=2, ordering_seed=4, warmup=2)
        return fit(folder, EMA(decay=0.9), *callbacks, model=model, max_steps=14, **settings)

    whole, trainer = run(tmp_path / "whole")
    assert {"train_nats", "val_nats"} <= set(trainer.callback_metrics)
    assert torch.equal(whole.orderings, random_orderings(2, 16, 4))
    assert torch.equal(last(tmp_path / "whole")["state_dict"]["orderings"], whole.orderings)
    run(tmp_path / "parts", Stop(7))
    run(tmp_path / "parts", ckpt_path=tmp_path / "parts" / "checkpoints" / "last.ckpt")
    assert not list(differences(last(tmp_path / "whole"), last(tmp_path / "parts")))


def test_arguments_are_plain_and_rebuild_the_model():
    model = tiny((2, 2, 3), hidden=5, layers=3, orderings=2, ordering_seed=9)
    other = EoNADE(**json.loads(json.dumps(dict(model.hparams))))
    assert torch.equal(other.orderings, model.orderings)
    other.load_state_dict(model.state_dict())
    x = some_images(model, 2)
    assert torch.equal(other.eval().log_prob(x), model.log_prob(x))
    assert other.spec == model.spec


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["log_prob", "bits_per_dim", "order_agnostic", "log_prob_under", "complete"])
@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.zeros(2, 1, 4, 3, dtype=torch.uint8), r"shape \(2, 1, 4, 3\); this model takes \(N, 1, 3, 4\)"),
        (torch.zeros(2, *SHAPE), "dtype torch.float32; this model takes torch.uint8 with values 0..1"),
        (torch.full((2, *SHAPE), 2, dtype=torch.uint8), "values 2..2; this model takes 0..1"),
        ([[0]], "must be a torch tensor, not list"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_compute(monkeypatch, method, x, sentence):
    model = tiny()
    broken = SimpleNamespace(forward=None, log_prob=None)  # calling either would be a TypeError
    monkeypatch.setattr(model.net, "forward", broken.forward)
    monkeypatch.setattr(model.net, "log_prob", broken.log_prob)
    more = {"complete": [torch.ones(SHAPE, dtype=torch.bool)], "log_prob_under": [torch.arange(12)]}
    with pytest.raises(DataError, match=sentence) as caught:
        getattr(model, method)(x, *more.get(method, []))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ordering", "sentence"),
    [
        (torch.zeros(12, dtype=torch.int64), "An ordering must be a permutation of 0..11 in int64, which this one"),
        (torch.arange(11), r"which this one \(torch.int64 \(11,\)\) is not"),
        (torch.arange(12).float(), r"which this one \(torch.float32 \(12,\)\) is not"),
        (torch.arange(12)[None], r"An ordering has shape \(12,\), not \(1, 12\)"),
        (list(range(12)), "which this one .* is not"),
    ],
)
def test_what_is_no_permutation_is_refused(ordering, sentence):
    model = tiny()
    with pytest.raises(DataError, match=sentence) as caught:
        model.log_prob_under(some_images(model, 2), ordering)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"shape": [8, 8]}, r"shape must be \(C, H, W\) of positive sizes, not \[8, 8\]"),
        ({"levels": 256}, "EoNADE models binary images: levels must be 2, not 256"),
        ({"hidden": 0}, "hidden must be at least 1, not 0"),
        ({"layers": 0}, "layers must be at least 1, not 0"),
        ({"orderings": 0}, "orderings must be at least 1, not 0"),
    ],
)
def test_bad_constructor_arguments(arguments, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        EoNADE(**arguments)
    assert "\n" not in str(caught.value)


def test_numbers_of_draws_and_samples_are_positive():
    model = tiny()
    with pytest.raises(DataError, match="n must be at least 1, not 0"):
        model.sample(0)
    with pytest.raises(DataError, match="draws must be at least 1, not 0"):
        model.order_agnostic(some_images(model, 1), draws=0)
