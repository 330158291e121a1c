"""MADE: causal in every ordering, normalized, a mixture, and its samples follow the distribution it reports."""

from __future__ import annotations

import copy
import itertools
import json
import math

import numpy as np
import pytest
import torch
from definitions import disturb
from tiny_runs import Stop, differences, fit, last, sealed
from torch import Tensor
from torch.autograd.functional import jacobian

from zoo.autoregressive.made import MADE
from zoo.callbacks.ema import EMA
from zoo.data.table import Table
from zoo.errors import CheckpointError, DataError
from zoo.nn.made import CachedPass, MADENet, OrderedPass, draw_degrees
from zoo.nn.orderings import check_orderings, random_orderings


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


def tiny(shape=(1, 2, 3), hidden=11, masks=3, ordering_seed=1, **arguments) -> MADE:
    return disturb(MADE(list(shape), hidden, masks=masks, ordering_seed=ordering_seed, **arguments), 0.5)


def every_datum(shape) -> Tensor:
    """All 2 ** D data."""
    values = itertools.product(range(2), repeat=math.prod(shape))
    return torch.tensor(list(values), dtype=torch.uint8).view(-1, *shape)


MODELS = [
    {"masks": 1, "ordering_seed": None},
    {"masks": 1, "ordering_seed": None, "direct": True, "layers": 1},
    {"masks": 1, "ordering_seed": None, "ordering": [5, 3, 1, 0, 2, 4]},
    {"masks": 3, "ordering_seed": None},
    {"masks": 3, "ordering_seed": 7, "layers": 3},
    {"masks": 4, "ordering_seed": 2, "direct": True},
    {"masks": 3, "ordering_seed": 2, "hidden": 3},  # fewer units than degrees
    {"masks": 2, "shape": (1,)},
    {"masks": 2, "shape": (2,), "direct": True},
    {"masks": 3, "shape": (5,)},
]


# -- orderings and masks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", MODELS)
def test_orderings_are_permutations_and_masks_are_strict(arguments):
    model = tiny(**arguments)
    orderings, dims = model.net.orderings, model.spec.dims
    assert orderings.dtype == model.net.degrees.dtype == torch.int64
    assert torch.equal(orderings.sort(1).values, torch.arange(dims).expand_as(orderings))
    for k, place in enumerate(orderings):
        *masks, direct = model.net.masks(torch.tensor([k]))
        paths = torch.eye(dims)
        for mask in masks:
            paths = mask[0].float() @ paths
        before = place[None] < place[:, None]
        assert not paths[~before].any(), "a path from a dimension that does not come before"
        assert torch.equal(direct[0], before)


def test_raster_order_is_the_default():
    model = MADE([1, 2, 3], masks=3, hidden=8)
    assert torch.equal(model.net.orderings, torch.arange(6).repeat(3, 1))
    assert not torch.equal(model.net.degrees[0], model.net.degrees[1]), "sets differ in connectivity"


def test_seeds_decide_and_leave_the_global_state():
    state = torch.get_rng_state()
    first, again, other = (random_orderings(4, 9, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({tuple(row.tolist()) for row in first}) == 4
    degrees = draw_degrees(9, 20, 2, 4, 0)
    assert torch.equal(degrees, draw_degrees(9, 20, 2, 4, 0))
    assert not torch.equal(degrees, draw_degrees(9, 20, 2, 4, 1))
    assert torch.equal(torch.get_rng_state(), state)


def test_degrees_are_even_and_no_unit_is_cut_off():
    degrees = draw_degrees(9, 20, 3, 5, 0)
    counts = torch.nn.functional.one_hot(degrees[:, 0]).sum(1)[:, 1:]
    assert counts.shape[1] == 8
    assert counts.min() >= 2
    assert counts.max() <= 3
    few = draw_degrees(9, 3, 3, 50, 0)
    assert (few.min(2).values.diff(dim=1) >= 0).all(), "each unit sees a unit of the layer before"
    assert few.min() >= 1
    assert few.max() <= 8


@pytest.mark.parametrize("arguments", MODELS)
def test_an_output_depends_on_what_comes_before_it_and_on_nothing_else(arguments):
    model = tiny(**arguments)
    for k, place in enumerate(model.net.orderings):
        sets = torch.tensor([k])
        # Any of a few inputs, for at a single one a ReLU may hide what it does elsewhere.
        inputs = torch.randn(8, model.spec.dims)
        found = torch.stack([jacobian(lambda x, s=sets: model.net(x[None, None], s)[0, 0, :, 0], x) for x in inputs])
        found, before = (found != 0).any(0), place[None] < place[:, None]
        assert not found[~before].any()
        if arguments.get("direct"):
            assert torch.equal(found, before)


def test_a_wide_net_uses_all_that_it_may():
    model = tiny((6,), hidden=60)
    for k, place in enumerate(model.net.orderings):
        inputs = torch.randn(8, 6)
        sets = torch.tensor([k])
        found = torch.stack([jacobian(lambda x, s=sets: model.net(x[None, None], s)[0, 0, :, 0], x) for x in inputs])
        assert torch.equal((found != 0).any(0), place[None] < place[:, None])


def test_the_net_gives_several_outputs_a_dimension():
    net = disturb(MADENet(random_orderings(2, 4, 0), 12, 2, outputs=3, direct=True), 0.5)
    x = torch.randn(5, 4)
    assert net(x).shape == (5, 4, 3)
    assert torch.equal(net(x), net(x[None], torch.tensor([0]))[0])
    both = net(torch.stack([x, x]), torch.tensor([1, 0]))
    torch.testing.assert_close(both[1], net(x))
    place = net.orderings[0]
    found = torch.stack([jacobian(lambda v: net(v[None])[0], v) for v in torch.randn(8, 4)])  # (8, 4, 3, 4)
    before = place[None] < place[:, None]
    assert torch.equal((found != 0).any(0), before[:, None].expand(4, 3, 4))


# -- likelihood ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", MODELS)
def test_probabilities_sum_to_one(double, arguments):
    model = tiny(**arguments).double()
    data = every_datum(model.spec.shape)
    with torch.no_grad():
        log_prob = model.log_prob(data)
        each = [model._log_prob(data[None], torch.tensor([k]))[0] for k in range(arguments["masks"])]
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert log_prob.std() > 0.1, "a uniform distribution would prove little"
    for one in each:
        assert one.exp().sum().item() == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(log_prob.exp(), torch.stack(each).exp().mean(0))


@pytest.mark.parametrize("arguments", MODELS)
def test_log_prob_is_the_mixture_of_products_of_conditionals(arguments):
    """Each conditional computed with all that comes later unknown, one dimension after the other."""
    model = tiny(**arguments)
    data = every_datum(model.spec.shape)[::3].flatten(1)
    mixture = torch.zeros(len(data))
    with torch.no_grad():
        for k, place in enumerate(model.net.orderings):
            p = torch.ones(len(data))
            for d in place.argsort():
                seen = torch.where(place < place[d], 2.0 * data - 1, torch.randn(data.shape))
                one = model.net(seen[None], torch.tensor([k]))[0, :, d, 0].sigmoid()
                p *= torch.where(data[:, d] == 1, one, 1 - one)
            mixture += p / arguments["masks"]
        torch.testing.assert_close(model.log_prob(data.view(-1, *model.spec.shape)), mixture.log())
    assert (model.likelihood, model.metric) == ("exact", "nats")


def test_orderings_agree_where_the_dimensions_are_independent():
    """Order-agnostic consistency: with nothing to learn from other dimensions, each ordering has the same p(x)."""
    model = tiny(masks=4)
    with torch.no_grad():
        model.net.head.weight.zero_()
        each = torch.cat([model._log_prob(every_datum((1, 2, 3))[None], k) for k in torch.arange(4).split(1)])
    torch.testing.assert_close(each, each[:1].expand_as(each))


def test_an_ordering_is_a_renaming_of_the_dimensions():
    """The net of ordering pi on x is the raster net, its weights at the ends permuted, on x permuted."""
    model = tiny((5,), masks=1, direct=True)
    raster, place = copy.deepcopy(model), model.net.orderings[0]
    drawn = place.argsort()
    state = {name.removeprefix("net."): value for name, value in model.state_dict().items()}
    state["orderings"] = torch.arange(5)[None]
    state["hidden.0.weight"] = state["hidden.0.weight"][:, drawn]
    state["head.weight"], state["head.bias"] = state["head.weight"][drawn], state["head.bias"][drawn]
    state["direct.weight"] = state["direct.weight"][drawn][:, drawn]
    raster.net.load_state_dict(state)
    with torch.no_grad():
        x = every_datum((5,))
        torch.testing.assert_close(raster.log_prob(x[:, drawn]), model.log_prob(x))


def test_parts_of_a_batch_have_their_own_sets():
    model = tiny(masks=4, direct=True)
    x = every_datum((1, 2, 3))
    sets = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        together = model._log_prob(x.unflatten(0, (4, 16)), sets)
        apart = [model._log_prob(part[None], k)[0] for part, k in zip(x.split(16), sets.split(1), strict=True)]
    torch.testing.assert_close(together, torch.stack(apart))


def test_autocast_leaves_the_log_probabilities_in_float32():
    model = tiny(hidden=32, direct=True)
    x = every_datum((1, 2, 3))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = model.log_prob(x)
    assert low.dtype == torch.float32
    assert low.exp().sum().item() == pytest.approx(1, abs=1e-4), "the hidden layers alone are rounded"
    torch.testing.assert_close(low, model.log_prob(x), atol=0.5, rtol=0)


# -- samples -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize("arguments", MODELS)
def test_cached_and_plain_sampling_draw_the_same(arguments, seed):
    model = tiny(**arguments)
    assert torch.equal(model.sample(9, seed=seed), model.sample(9, seed=seed, cached=False))


@pytest.mark.parametrize("arguments", MODELS)
def test_a_cached_step_gives_the_outputs_of_the_whole(double, arguments):
    model = tiny(**arguments).double()
    net, sets = model.net, torch.arange(arguments["masks"]).flip(0)
    whole_x = torch.randint(0, 2, (len(sets), 4, net.dims)) * 2.0 - 1
    whole_x = whole_x.double()
    drawn, rows, x = net.orderings[sets].argsort(1), torch.arange(len(sets)), torch.zeros_like(whole_x)
    with torch.no_grad():
        whole, steps = net(whole_x, sets), CachedPass(net, sets, 4)
        for t in range(net.dims):
            dims = drawn[:, t]
            torch.testing.assert_close(steps.step(t, x, dims), whole[rows, :, dims], rtol=0, atol=1e-10)
            x[rows, :, dims] = whole_x[rows, :, dims]


def test_a_cached_pass_computes_each_unit_once():
    net = MADENet(random_orderings(3, 7, 0), 20, 2)
    for units in CachedPass(net, torch.arange(3), 1).units:
        for row in units:
            assert row[row < 20].sort().values.tolist() == list(range(20))


@pytest.mark.parametrize("shape", [(1, 3, 2), (4,)])
def test_samples_are_data_and_the_seed_decides(shape):
    model = tiny(shape)
    state = torch.get_rng_state()
    x = model.sample(16, seed=3)
    assert (x.dtype, tuple(x.shape)) == (torch.uint8, (16, *shape))
    model.spec.check(x)
    assert torch.equal(x, model.sample(16, seed=3))
    assert not torch.equal(x, model.sample(16, seed=4))
    assert not torch.equal(model.sample(16), model.sample(16)), "without a seed each call draws anew"
    assert torch.equal(torch.get_rng_state(), state)
    x[0] = 0  # they are the caller's


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cached", [True, False])
def test_sampling_neither_trains_nor_drops(training, cached):
    model = tiny(dropout=0.9)
    expected = model.sample(6, seed=0)
    model.train(training)
    assert torch.equal(model.sample(6, seed=0, cached=cached), expected)
    assert all(module.training == training for module in model.modules())


@pytest.mark.parametrize("arguments", [{"masks": 1, "ordering_seed": None}, {"masks": 3, "direct": True}])
def test_samples_follow_the_distribution(arguments):
    model = tiny((3,), **arguments)
    with torch.no_grad():
        p = model.log_prob(every_datum((3,))).exp().double()
    draws = model.sample(4000, seed=0)
    counts = torch.bincount((draws * torch.tensor([4, 2, 1])).sum(1), minlength=8)

    def chi_square(p: Tensor) -> float:
        return float(((counts - 4000 * p).square() / (4000 * p)).sum())

    # Exceeded once in a thousand times with 7 degrees of freedom.
    assert chi_square(p) < 24.32
    assert chi_square(p.roll(1)) > 24.32, "the test can tell"


@pytest.mark.parametrize(
    ("dims", "hidden", "direct", "context_dims"), [(1, 3, True, 0), (2, 5, False, 2), (7, 4, True, 3)]
)
def test_an_ordered_step_gives_the_outputs_of_the_whole(double, dims, hidden, direct, context_dims):
    """Also where a degree has no unit, as with fewer units than dimensions."""
    net = MADENet(random_orderings(1, dims, 2), hidden, 2, outputs=2, direct=direct, context_dims=context_dims)
    disturb(net, 0.7).double()
    x, context = torch.randn(5, dims).double(), torch.randn(5, context_dims).double() if context_dims else None
    with torch.no_grad():
        whole, steps = net(x, context=context)[:, net.drawn], OrderedPass(net, 5, context)
        for t in range(dims):
            torch.testing.assert_close(steps.step(t, x.T[net.drawn][:t]), whole[:, t].T, rtol=0, atol=1e-12)


# -- weights and arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("masks", [1, 3])
def test_buffers_survive_saving_into_a_model_of_another_seed(masks):
    model, other = (tiny(masks=masks, ordering_seed=seed, direct=True) for seed in (1, 2))
    x = every_datum((1, 2, 3))
    assert not torch.equal(other.net.orderings, model.net.orderings)
    other.log_prob(x)  # no masks may stay behind
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.net.orderings, model.net.orderings)
    assert torch.equal(other.net.degrees, model.net.degrees)
    assert torch.equal(other.log_prob(x), model.log_prob(x))
    assert torch.equal(other.sample(8, seed=0), model.sample(8, seed=0))
    assert {"net.orderings", "net.degrees"} <= set(model.state_dict())


def test_arguments_are_plain_and_rebuild_the_model():
    model = tiny(hidden=9, layers=3, masks=4, direct=True, dropout=0.25, optimizer="muon")
    other = MADE(**json.loads(json.dumps(dict(model.hparams)))).eval()
    assert torch.equal(other.net.orderings, model.net.orderings)
    assert torch.equal(other.net.degrees, model.net.degrees)
    other.load_state_dict(model.state_dict())
    x = every_datum((1, 2, 3))
    assert torch.equal(other.log_prob(x), model.log_prob(x))
    assert other.spec == model.spec
    assert (model.spec.shape, model.spec.levels) == ((1, 2, 3), 2)


# -- training ------------------------------------------------------------------------------------------------


def binary_table(folder) -> Table:
    """Pairs of equal bits, of which a model that sees only single bits knows nothing."""
    bits = np.random.RandomState(0).randint(0, 2, (200, 3))
    np.save(folder / "rows.npy", np.concatenate([bits, bits], 1))
    return Table("rows.npy", "rows.npy", root=str(folder), batch_size=20, validation=40)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_it_learns_a_table(tmp_path, optimizer):
    model = MADE([6], hidden=30, masks=3, ordering_seed=0, parts=2, direct=True, lr=0.05, warmup=5, optimizer=optimizer)
    data = binary_table(tmp_path)
    model, trainer = fit(tmp_path, model=model, data=data, max_steps=80)
    (result,) = trainer.validate(model, data, verbose=False)
    # Three free bits are 3 ln 2 = 2.08 nats; without the pairs it would be twice that.
    assert 3 * math.log(2) - 0.1 < result["val_nats"] < 2.4


def test_a_resumed_run_equals_the_uninterrupted_one_and_buffers_are_not_averaged(tmp_path):
    def run(folder, *callbacks, ordering_seed=0, **settings):
        model = MADE([6], 8, masks=3, ordering_seed=ordering_seed, parts=2, dropout=0.3, lr=0.02, warmup=3)
        fit(folder, EMA(0.9), *callbacks, model=model, data=binary_table(tmp_path), max_steps=13, **settings)
        return last(folder)

    torch.manual_seed(3)
    whole = run(tmp_path / "whole")
    torch.manual_seed(3)
    half = run(tmp_path / "half", Stop(5))
    assert half["global_step"] == 5
    assert list(differences(whole, half))
    # Of another seed, so that all orderings and connectivities must come from the checkpoint.
    checkpoint = tmp_path / "half" / "checkpoints" / "last.ckpt"
    resumed = run(tmp_path / "resumed", ordering_seed=1, ckpt_path=checkpoint)
    assert not list(differences(whole, resumed))
    for state in (whole["state_dict"], whole["current_model_state"]):
        (orderings,) = (value for name, value in state.items() if name.endswith("orderings"))
        assert orderings.dtype == torch.int64
        assert torch.equal(orderings, random_orderings(3, 6, 0))


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.zeros(2, 1, 3, 2, dtype=torch.uint8), r"shape \(2, 1, 3, 2\); this model takes \(N, 1, 2, 3\)"),
        (torch.zeros(2, 6, dtype=torch.uint8), r"shape \(2, 6\)"),
        (torch.zeros(2, 1, 2, 3), "dtype torch.float32; this model takes torch.uint8 with values 0..1"),
        (torch.full((2, 1, 2, 3), 2, dtype=torch.uint8), "values 2..2; this model takes 0..1"),
        ([[0]], "must be a torch tensor, not list"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_compute(monkeypatch, x, sentence):
    model = tiny()
    monkeypatch.setattr(model.net, "forward", None)  # calling it would be a TypeError
    with pytest.raises(DataError, match=sentence) as caught:
        model.log_prob(x)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"shape": []}, r"shape must be of positive sizes, not \[\]"),
        ({"shape": [1, 0, 8]}, r"not \[1, 0, 8\]"),
        ({"hidden": 0}, "hidden must be at least 1, not 0"),
        ({"layers": 0}, "layers must be at least 1, not 0"),
        ({"masks": 0}, "masks must be at least 1, not 0"),
        ({"parts": 0}, "parts must be at least 1, not 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
        ({"ordering_seed": -1}, "ordering_seed must be from 0"),
        ({"shape": [3], "ordering": [0, 1, 1]}, r"ordering must be a permutation of 0..2, each place once"),
        ({"shape": [3], "ordering": [0, 1]}, "must be a permutation of 0..2"),
        ({"shape": [3], "ordering": [1, 2, 3]}, "must be a permutation of 0..2"),
        ({"shape": [3], "ordering": [0, 1, 2], "ordering_seed": 0}, "exclude each other"),
    ],
)
def test_bad_constructor_arguments(arguments, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        MADE(**arguments)
    assert "\n" not in str(caught.value)


def test_bad_orderings_of_a_net_and_of_weights_are_refused():
    for rows in ([[0, 1, 1]], [[0, 1, 3]], [[0.0, 1.0, 2.0]]):
        with pytest.raises(DataError, match=r"permutation of 0\.\.2"):
            check_orderings(torch.tensor(rows), 3)
    with pytest.raises(DataError, match=r"each ordering must be a permutation of 0\.\.2"):
        MADENet(torch.tensor([[0, 0, 2]]), 4, 1)
    model = tiny()
    before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(model.state_dict())
    state["net.orderings"][1, 0] = state["net.orderings"][1, 1]
    with pytest.raises(CheckpointError, match=r"each row of the weights' net.orderings must be a permutation of 0..5"):
        model.load_state_dict(state)
    state = copy.deepcopy(before)
    state["net.degrees"][0, 0, 0] = 6
    with pytest.raises(CheckpointError, match=r"net.degrees must be from 1 to 5"):
        model.load_state_dict(state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("n", [0, -1])
def test_n_is_positive(n):
    with pytest.raises(DataError, match=f"n must be at least 1, not {n}"):
        tiny().sample(n)
