"""NADE: the paper's sequential equations, in parallel; normalized, causal, and sampled as it says."""

from __future__ import annotations

import json
import math

import pytest
import torch
from definitions import chi_square, every_image, some_images
from tiny_runs import Stop, differences, fit, last, sealed
from torch import Tensor
from torch.autograd.functional import jacobian

from zoo.autoregressive import nade
from zoo.autoregressive.nade import NADE, running_sums
from zoo.callbacks.ema import EMA
from zoo.errors import DataError, ZooError
from zoo.hub import store
from zoo.nn.orderings import check_orderings, random_orderings

SHAPE = (1, 3, 4)
ORDERINGS = [None, 3]
ACTIVATIONS = ["sigmoid", "relu"]


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


def tiny(shape=SHAPE, hidden=7, **arguments) -> NADE:
    """A model far from its initialization."""
    model = NADE(list(shape), hidden=hidden, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.7 * torch.randn_like(parameter))
    return model.eval()


def by_the_paper(model: NADE, image: Tensor) -> Tensor:
    """log p of each pixel (D,), one after the other, by a loop over positions and hidden units' sums."""
    weight, c = model.net.input.weight.T, model.net.input.bias
    readout, b = model.net.output.weight, model.net.output.bias
    act = {"sigmoid": torch.sigmoid, "relu": torch.relu}[model.hparams.activation]
    x, log_p, a = image.flatten().tolist(), torch.empty(model.spec.dims, dtype=weight.dtype), c
    for i in model.net.ordering.tolist():
        logit = b[i] + readout[i] @ act(a)
        log_p[i] = torch.log(torch.sigmoid(logit if x[i] else -logit))  # 1 - p would lose digits
        a = a + x[i] * weight[i]
    return log_p


# -- likelihood ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("ordering_seed", ORDERINGS)
@pytest.mark.parametrize("positions", [1, 5, 12, 56])
def test_the_parallel_evaluation_is_the_papers_recursion(monkeypatch, positions, ordering_seed, activation):
    monkeypatch.setattr(nade, "CHUNK_POSITIONS", positions)
    model = tiny(activation=activation, ordering_seed=ordering_seed).double()
    x = some_images(model, 4)
    with torch.no_grad():
        expected = torch.stack([by_the_paper(model, image) for image in x])
        torch.testing.assert_close(model.net(x).flatten(1), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(model.log_prob(x), expected.sum(1), rtol=0, atol=1e-12)
    assert (model.likelihood, model.metric) == ("exact", "nats")


@pytest.mark.parametrize("positions", [1, 5, 56])
def test_the_gradient_is_that_of_the_recursion(monkeypatch, positions):
    """Also through the chunks that the backward pass computes again."""
    monkeypatch.setattr(nade, "CHUNK_POSITIONS", positions)
    model = tiny(ordering_seed=1).double().train()
    x, parameters = some_images(model, 3), list(model.parameters())
    found = torch.autograd.grad(model.loss(x).sum(), parameters)
    expected = torch.autograd.grad(-sum(by_the_paper(model, image).sum() for image in x), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_running_sums_leave_out_their_own_term():
    x, weight = torch.randn(3, 5), torch.randn(5, 2)
    expected = (x[:, :, None] * weight).cumsum(1) - x[:, :, None] * weight
    torch.testing.assert_close(running_sums(x, weight), expected)


def test_memory_of_a_chunk_is_bounded(monkeypatch):
    monkeypatch.setattr(nade, "CHUNK_ELEMENTS", 1000)
    assert [(k.start, k.stop) for k in nade.chunks(5, 500)] == [(0, 2), (2, 4), (4, 5)]
    assert len(list(nade.chunks(5, 10**6))) == 5, "one position at the least"


@pytest.mark.parametrize("ordering_seed", ORDERINGS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 3), (2, 2, 2), (1, 3, 3)])
def test_probabilities_sum_to_one(shape, ordering_seed):
    model = tiny(shape, ordering_seed=ordering_seed).double()
    with torch.no_grad():
        log_prob = model.log_prob(every_image(shape))
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert log_prob.std() > 0.1, "a uniform distribution would prove little"


@pytest.mark.parametrize("ordering_seed", ORDERINGS)
def test_a_pixel_depends_on_all_before_it_and_on_nothing_else(ordering_seed):
    model = tiny(ordering_seed=ordering_seed)
    x = some_images(model, 1).flatten(1).float()
    found = jacobian(model.net.logits, x)[0, :, 0] != 0  # (D, D): logit of i, pixel j
    ordering = model.net.ordering
    before = torch.ones(model.spec.dims, model.spec.dims, dtype=torch.bool).tril(-1)
    assert torch.equal(found[ordering][:, ordering], before)


def test_orderings():
    dims = math.prod(SHAPE)
    assert torch.equal(tiny().net.ordering, torch.arange(dims))
    one, same, other = (tiny(ordering_seed=seed).net.ordering for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.dtype == torch.int64
    check_orderings(random_orderings(5, dims, 0), dims)


def test_sums_stay_in_32_bits_under_autocast():
    model = tiny()
    x = some_images(model, 3)
    with torch.no_grad():
        expected = model.log_prob(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model.log_prob(x), expected)


def test_the_compiled_net_is_the_net():
    model = tiny().train()
    x = some_images(model, 3)
    parameters = list(model.parameters())
    expected = model.net(x), torch.autograd.grad(model.loss(x).sum(), parameters)
    model.net.compile(backend="aot_eager", dynamic=False)
    torch.testing.assert_close(model.net(x), expected[0])
    torch.testing.assert_close(torch.autograd.grad(model.loss(x).sum(), parameters), expected[1])
    model.sample(1, seed=0)


# -- samples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("ordering_seed", ORDERINGS)
@pytest.mark.parametrize("seed", [0, 12345])
def test_cached_and_plain_sampling_draw_the_same(activation, ordering_seed, seed):
    model = tiny((1, 5, 6), activation=activation, ordering_seed=ordering_seed)
    cached = model.sample(20, seed=seed)
    assert torch.equal(cached, model.sample(20, seed=seed, cached=False))
    known = torch.rand(20, 1, 5, 6) < 0.4
    completed = model.complete(cached, known, seed=seed + 1)
    assert torch.equal(completed, model.complete(cached, known, seed=seed + 1, cached=False))
    assert torch.equal(completed[known], cached[known])
    assert not torch.equal(completed, cached)


def test_samples_are_data_and_the_seed_decides():
    model = tiny()
    state, weights = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    x = model.train().sample(6, seed=3)
    assert (x.dtype, tuple(x.shape)) == (torch.uint8, (6, *SHAPE))
    model.spec.check(x)
    assert torch.equal(x, model.sample(6, seed=3))
    assert not torch.equal(x, model.sample(6, seed=4))
    assert not torch.equal(model.sample(6), model.sample(6)), "without a seed each call draws anew"
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(x[:3], x[3:])
    assert model.training
    assert all(torch.equal(v, weights[k]) and v.dtype == weights[k].dtype for k, v in model.state_dict().items())
    x[0] = 0  # the caller's own


@pytest.mark.parametrize("ordering_seed", ORDERINGS)
def test_samples_follow_the_distribution(ordering_seed):
    model = tiny((1, 2, 2), ordering_seed=ordering_seed)
    outcomes = every_image((1, 2, 2))
    with torch.no_grad():
        probabilities = model.log_prob(outcomes).exp()
    draws = model.sample(4000, seed=0)
    # 37.70 is exceeded once in a thousand times with 15 degrees of freedom.
    assert chi_square(draws, outcomes, probabilities) < 37.70
    assert chi_square(draws, outcomes, probabilities.roll(1)) > 37.70, "the test can tell"


@pytest.mark.parametrize("ordering_seed", ORDERINGS)
def test_completions_of_a_prefix_follow_the_conditional_distribution(ordering_seed):
    shape = (1, 2, 2)
    model = tiny(shape, ordering_seed=ordering_seed)
    known = torch.zeros(4, dtype=torch.bool).index_fill(0, model.net.ordering[:2], True).view(shape)
    outcomes = every_image(shape)
    for prefix in outcomes[[0, -1]]:
        possible = outcomes[((outcomes == prefix) | ~known).flatten(1).all(1)]
        with torch.no_grad():
            conditional = model.log_prob(possible).softmax(0)
        assert chi_square(model.complete(prefix.expand(2000, *shape), known, seed=7), possible, conditional) < 16.27


# -- saving and training -------------------------------------------------------------------------------------


def test_the_ordering_is_saved_and_loaded(tmp_path):
    model, other = tiny(ordering_seed=1), tiny(ordering_seed=2)
    x = some_images(model, 3)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.net.ordering, model.net.ordering)
    with torch.no_grad():
        assert torch.equal(other.log_prob(x), model.log_prob(x))
        loaded = store.load(store.save(model, tmp_path / "nade-tiny", dtype="float32"))
        assert torch.equal(loaded.log_prob(x), model.log_prob(x))


def test_weights_whose_ordering_is_none_are_refused():
    model = tiny(ordering_seed=1)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    weights["net.ordering"][0] = weights["net.ordering"][1]
    with pytest.raises(DataError, match=r"An ordering must be a permutation of 0..11 in int64") as caught:
        model.load_state_dict(weights)
    assert "\n" not in str(caught.value)


def test_a_run_keeps_the_ordering_and_resumes_exactly(tmp_path):
    def run(folder, *callbacks, **settings):
        torch.manual_seed(0)
        model = NADE([1, 4, 4], hidden=5, ordering_seed=4, warmup=2)
        return fit(folder, EMA(decay=0.9), *callbacks, model=model, max_steps=14, **settings)[0]

    whole = run(tmp_path / "whole")
    assert torch.equal(whole.net.ordering, random_orderings(1, 16, 4)[0])
    assert torch.equal(last(tmp_path / "whole")["state_dict"]["net.ordering"], whole.net.ordering)
    run(tmp_path / "parts", Stop(7))
    run(tmp_path / "parts", ckpt_path=tmp_path / "parts" / "checkpoints" / "last.ckpt")
    assert not list(differences(last(tmp_path / "whole"), last(tmp_path / "parts")))


def test_arguments_are_plain_and_rebuild_the_model():
    model = tiny((2, 2, 3), hidden=5, activation="relu", ordering_seed=9)
    other = NADE(**json.loads(json.dumps(dict(model.hparams))))
    assert torch.equal(other.net.ordering, model.net.ordering)
    other.load_state_dict(model.state_dict())
    x = some_images(model, 2)
    assert torch.equal(other.eval().log_prob(x), model.log_prob(x))
    assert other.spec == model.spec


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["log_prob", "bits_per_dim", "complete"])
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
    monkeypatch.setattr(model.net, "forward", None)  # calling it would be a TypeError
    arguments = [torch.ones(SHAPE, dtype=torch.bool)] if method == "complete" else []
    with pytest.raises(DataError, match=sentence) as caught:
        getattr(model, method)(x, *arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        (torch.ones(SHAPE), "known must be a boolean tensor, not torch.float32"),
        ([True], "known must be a boolean tensor, not list"),
        (torch.ones(4, 3, dtype=torch.bool), r"known has shape \(4, 3\), which does not broadcast"),
    ],
)
def test_a_bad_mask_is_refused(known, sentence):
    model = tiny()
    with pytest.raises(DataError, match=sentence):
        model.complete(some_images(model, 2), known)


@pytest.mark.parametrize(
    "orderings",
    [
        torch.tensor([0, 1, 1]),
        torch.tensor([1, 2, 3]),
        torch.tensor([[0, 1, 2], [0, 0, 2]]),
        torch.tensor([0, 1]),
        torch.tensor([0.0, 1.0, 2.0]),
        [0, 1, 2],
    ],
)
def test_what_is_no_permutation_is_refused(orderings):
    with pytest.raises(DataError, match=r"An ordering must be a permutation of 0..2 in int64") as caught:
        check_orderings(orderings, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"shape": [8, 8]}, r"shape must be \(C, H, W\) of positive sizes, not \[8, 8\]"),
        ({"shape": [1, 0, 8]}, r"not \[1, 0, 8\]"),
        ({"levels": 256}, "NADE models binary images: levels must be 2, not 256"),
        ({"hidden": 0}, "hidden must be at least 1, not 0"),
        ({"activation": "tanh"}, "activation must be one of sigmoid, relu, not 'tanh'"),
    ],
)
def test_bad_constructor_arguments(arguments, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        NADE(**arguments)
    assert "\n" not in str(caught.value)


def test_n_is_positive():
    with pytest.raises(ZooError, match="n must be at least 1, not 0"):
        tiny().sample(0)
