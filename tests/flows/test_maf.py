"""MAF: autoregressive in every layer, normalized, invertible, and its samples follow its density."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from diffeomorphisms import check_diffeomorphism, points, randomize
from lightning.pytorch import Trainer
from tiny_runs import Stop, differences, fit, last
from torch import Tensor
from torch.autograd.functional import jacobian

from zoo.callbacks.ema import EMA
from zoo.data.loader import TensorLoader
from zoo.data.table import Table
from zoo.errors import DataError
from zoo.flows.iaf import IAFTransform
from zoo.flows.maf import LIMIT, MAF, AutoregressiveTransform
from zoo.flows.vectors import Standardize
from zoo.hub import store
from zoo.nn.draws import Draws
from zoo.nn.orderings import random_orderings


def disturbed(**arguments) -> MAF:
    model = MAF(**{"layers": 3, "hidden": 16, **arguments})
    randomize(model, 0.4).float()
    model.standardize.fit(torch.randn(50, model.spec.dims) @ torch.randn(model.spec.dims, model.spec.dims) + 3)
    return model.eval()


# -- the transform -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context_dims", [0, 3])
@pytest.mark.parametrize(("dims", "layers"), [(1, 1), (2, 2), (5, 2)])
def test_it_is_a_diffeomorphism(dims, layers, context_dims):
    ordering = random_orderings(1, dims, 1)[0]
    transform = randomize(AutoregressiveTransform(dims, 16, layers, ordering, context_dims), 0.7)
    context = points(4, context_dims) if context_dims else None
    check_diffeomorphism(transform, points(4, dims), context, points(4, dims))


def by_passes(transform: AutoregressiveTransform, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """The inverse as autograd can follow it: the whole network for each dimension."""
    x = torch.zeros_like(y)
    for place in range(transform.dims):
        value, log_scale = transform.elementwise_inverse(y, transform.net(x, context=context))
        x = torch.where(transform.net.orderings[0] == place, value, x)
    return x, -log_scale.sum(1)


@pytest.mark.parametrize("kind", [AutoregressiveTransform, IAFTransform])
@pytest.mark.parametrize(("dims", "context_dims"), [(1, 2), (2, 0), (5, 3)])
def test_the_inverse_has_the_gradients_of_its_passes(kind, dims, context_dims):
    transform = randomize(kind(dims, hidden=16, layers=2, context_dims=context_dims), 0.7)
    y, context = points(4, dims).requires_grad_(), points(4, context_dims).requires_grad_() if context_dims else None
    inputs = [value for value in (y, context, *transform.parameters()) if value is not None]
    weights, found = (points(4, dims), points(4, 1)[:, 0]), []
    for inverse in (transform.inverse, lambda *given: by_passes(transform, *given)):
        x, log_det = inverse(y, context)
        found.append((x, log_det, *torch.autograd.grad([x, log_det], inputs, weights)))
    for own, expected in zip(*found, strict=True):
        torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("context_dims", [0, 3])
def test_the_inverse_is_one_with_gradients_and_without_and_differentiable(context_dims):
    transform = randomize(AutoregressiveTransform(4, 16, 2, random_orderings(1, 4, 1)[0], context_dims), 0.7)
    y, context = points(3, 4), points(3, context_dims) if context_dims else None
    with torch.no_grad():
        without = transform.inverse(y, context)
    torch.testing.assert_close(transform.inverse(y, context), without)
    inputs = [value.requires_grad_() for value in (y, context) if value is not None]
    assert torch.autograd.gradcheck(transform.inverse, inputs, atol=1e-6)


def test_gradients_reach_what_needs_them():
    transform = randomize(AutoregressiveTransform(3, 8, context_dims=2), 0.7)
    y, context = points(4, 3), points(4, 2)
    expected = torch.autograd.grad(transform.inverse(y.requires_grad_(), context)[0].sum(), y)[0]
    transform.requires_grad_(False)
    torch.testing.assert_close(torch.autograd.grad(transform.inverse(y, context)[0].sum(), y)[0], expected)
    y.requires_grad_(False)
    assert not transform.inverse(y, context)[0].requires_grad
    transform.net.head.requires_grad_(True)
    transform.inverse(y, context)[0].sum().backward()
    assert [name for name, p in transform.named_parameters() if p.grad is not None] == [
        "net.head.weight",
        "net.head.bias",
    ]


def test_the_inverse_is_differentiable_once():
    transform = randomize(AutoregressiveTransform(3, 8), 0.7)
    y = points(4, 3).requires_grad_()
    (first,) = torch.autograd.grad(transform.inverse(y)[0].square().sum(), y, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_the_inverse_drops_nothing():
    transform = randomize(AutoregressiveTransform(3, 16, dropout=0.5), 0.7)
    y, found = points(4, 3).requires_grad_(), []
    for training in (True, False):
        x, log_det = transform.train(training).inverse(y)
        found.append((x, log_det, *torch.autograd.grad(x.sum() + log_det.sum(), y)))
        assert transform.net.training == training
    assert all(map(torch.equal, *found))


def test_masks_follow_the_weights_that_are_loaded():
    transform, other = (randomize(AutoregressiveTransform(4, 8, 2, random_orderings(1, 4, seed)[0])) for seed in (1, 2))
    x = points(3, 4)
    assert not torch.equal(other(x)[0], transform(x)[0])
    other.load_state_dict(transform.state_dict())
    assert torch.equal(other(x)[0], transform(x)[0])
    with torch.no_grad():
        assert torch.equal(other.inverse(x)[0], transform.inverse(x)[0])
    assert not any("mask" in name or "drawn" in name for name in transform.state_dict())


@pytest.mark.parametrize("seed", [0, 1])
def test_an_output_depends_on_what_comes_before_it_and_on_itself(seed):
    ordering = random_orderings(1, 5, seed)[0]
    transform = randomize(AutoregressiveTransform(5, 32, 2, ordering), 0.7)
    found = torch.stack([jacobian(lambda x: transform(x[None])[0][0], x) for x in points(8, 5)])
    assert torch.equal((found != 0).any(0), ordering[None] <= ordering[:, None])


def test_it_is_equation_4():
    transform = randomize(AutoregressiveTransform(3, 16), 0.7)
    x = points(5, 3)
    mu, alpha = transform.net(x).unbind(-1)
    alpha = LIMIT * torch.tanh(alpha / LIMIT)
    z, log_det = transform(x)
    torch.testing.assert_close(z, (x - mu) * torch.exp(-alpha))
    torch.testing.assert_close(log_det, -alpha.sum(1))


def test_extreme_weights_do_not_overflow():
    transform = randomize(AutoregressiveTransform(3, 16), 1.0).float()
    with torch.no_grad():
        transform.net.head.weight.mul_(1e4)
        z, log_det = transform(torch.randn(100, 3))
    assert torch.isfinite(z).all()
    assert log_det.abs().max() <= 3 * LIMIT + 1e-3
    assert log_det.abs().max() > 2 * LIMIT, "the limit has work to do"


def test_every_dimension_depends_on_the_context():
    transform = randomize(AutoregressiveTransform(3, 16, ordering=torch.tensor([1, 2, 0]), context_dims=2), 0.7)
    x = points(1, 3)
    for output in range(2):
        found = jacobian(lambda c, output=output: transform.net(x, context=c)[0, :, output], points(1, 2))
        assert (found != 0).all()


def test_a_context_of_each_datum_changes_its_map_alone():
    transform = randomize(AutoregressiveTransform(3, 16, context_dims=2), 0.7)
    x, context = points(4, 3), points(4, 2)
    other = context.clone()
    other[2] += 1
    changed = (transform(x, context)[0] != transform(x, other)[0]).any(1)
    assert changed.tolist() == [False, False, True, False]


@pytest.mark.parametrize("context_dims", [0, 3])
def test_autocast_leaves_results_in_float32(context_dims):
    transform = randomize(AutoregressiveTransform(3, 16, context_dims=context_dims), 0.3).float()
    x, context = torch.randn(5, 3), torch.randn(5, context_dims) if context_dims else None
    expected = transform(x, context)
    with torch.autocast("cpu", torch.bfloat16):
        found, log_det = transform(x, context)
        with torch.no_grad():
            back, _ = transform.inverse(expected[0], context)
    assert found.dtype == log_det.dtype == back.dtype == torch.float32
    torch.testing.assert_close(found, expected[0], atol=0.1, rtol=0)
    torch.testing.assert_close(back, x, atol=1e-4, rtol=0)


# -- standardization -----------------------------------------------------------------------------------------


def test_standardized_data_have_no_mean_and_unit_scale():
    x = points(200, 3) @ points(3, 3) + 5
    transform = Standardize(3).double()
    transform.fit(x)
    z, _ = transform(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(z.square().mean(0), torch.ones(3, dtype=torch.float64))
    check_diffeomorphism(transform, points(4, 3))


def test_a_column_without_a_density_is_refused():
    x = torch.randn(20, 3)
    x[:, 1] = 7
    with pytest.raises(DataError, match="Column 2 of the training data is constant"):
        Standardize(3).fit(x)


# -- the model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{}, {"ordering_seed": 3}, {"layers": 1, "hidden_layers": 1}, {"components": 3}])
def test_a_density_integrates_to_one(arguments):
    model = disturbed(**arguments).double()
    # In standardized coordinates, of which sinh(line) is fine around the origin and reaches far.
    line = torch.linspace(-5, 5, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        x, log_det = model.standardize.inverse(grid.sinh())
        log_det = log_det + grid.cosh().log().sum(1)
        total = (model.log_prob(x) + log_det).exp().sum() * (line[1] - line[0]) ** 2
    assert total.item() == pytest.approx(1, abs=2e-3)


def test_orderings_are_reversed_or_drawn():
    orders = [t.net.orderings[0].tolist() for t in MAF([4], layers=3).flow.transform.transforms[1:]]
    assert orders == [[0, 1, 2, 3], [3, 2, 1, 0], [0, 1, 2, 3]]
    drawn = [t.net.orderings[0] for t in MAF([4], layers=3, ordering_seed=5).flow.transform.transforms[1:]]
    assert torch.equal(torch.stack(drawn), random_orderings(3, 4, 5))


@pytest.mark.parametrize("components", [1, 3])
def test_samples_follow_the_density(components):
    """They are the draws of the base, carried by the transform whose log-determinant the density has."""
    model = disturbed(components=components)
    x = model.sample(4000, seed=0)
    z, _ = model.flow.transform(x)
    torch.testing.assert_close(z, model.flow.base.sample(4000, Draws(0, 4000)), atol=1e-3, rtol=0)


def test_seeds():
    model = disturbed()
    state = torch.get_rng_state()
    x = model.sample(5, seed=1)
    assert (x.dtype, tuple(x.shape)) == (torch.float32, (5, 2))
    assert torch.equal(x, model.sample(5, seed=1))
    assert not torch.equal(x, model.sample(5, seed=2))
    assert torch.equal(torch.get_rng_state(), state)
    x[0] = 0  # they are the caller's
    with pytest.raises(DataError, match="n must be at least 1"):
        model.sample(0)


def banana(folder) -> Table:
    """Rows (a, a^2 + b), of which a Gaussian knows nothing but the scale; far from zero, to be standardized."""
    a, b = np.random.RandomState(0).standard_normal((2, 3000))
    np.save(folder / "rows.npy", np.stack([100 + 10 * a, 1000 + 20 * (a**2 + 0.3 * b)], 1))
    return Table("rows.npy", "rows.npy", levels=None, root=str(folder), batch_size=100, validation=500)


def test_it_learns_a_table(tmp_path):
    model, data = MAF([2], layers=2, hidden=32, lr=0.02, warmup=10), banana(tmp_path)
    model, trainer = fit(tmp_path, model=model, data=data, max_steps=200)
    (result,) = trainer.validate(model, data, verbose=False)
    entropy = 2 * 0.5 * math.log(2 * math.pi * math.e) + math.log(10 * 20 * 0.3)
    gaussian = 2 * 0.5 * math.log(2 * math.pi * math.e) + math.log(10 * 20 * math.sqrt(2 + 0.09))
    assert entropy - 0.1 < result["val_nats"] < entropy + 0.3
    assert gaussian > entropy + 1
    x = data.train[0]
    torch.testing.assert_close(model.standardize.mean, x.mean(0))
    torch.testing.assert_close(model.standardize.scale, x.std(0, correction=0))


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path):
    def run(folder, *callbacks, **settings):
        torch.manual_seed(3)
        model = MAF([2], layers=2, hidden=8, dropout=0.2, lr=0.02, warmup=3)
        fit(folder, EMA(0.9), *callbacks, model=model, data=banana(tmp_path), max_steps=13, **settings)
        return last(folder)

    whole = run(tmp_path / "whole")
    half = run(tmp_path / "half", Stop(5))
    assert list(differences(whole, half))
    resumed = run(tmp_path / "resumed", ckpt_path=tmp_path / "half" / "checkpoints" / "last.ckpt")
    assert not list(differences(whole, resumed))
    for state in (whole["state_dict"], whole["current_model_state"]):
        fitted = [value for name, value in state.items() if name.endswith("fitted")]
        assert fitted
        assert all(fitted)


def test_further_training_keeps_the_standardization(tmp_path):
    model = disturbed()
    before = model.standardize.scale.clone()
    fit(tmp_path, model=model, data=banana(tmp_path), max_steps=1)
    assert torch.equal(model.standardize.scale, before)


def test_a_saved_model_is_loaded(tmp_path):
    model = disturbed(ordering_seed=2, components=3)
    again = store.load(store.save(model, tmp_path / "maf-test", dtype="float32"))
    x = model.sample(8, seed=0)
    assert torch.equal(again.sample(8, seed=0), x)
    assert torch.equal(again.log_prob(x), model.log_prob(x))
    assert dict(again.hparams) == json.loads(json.dumps(dict(model.hparams)))


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.zeros(3, 3), r"shape \(3, 3\); this model takes \(N, 2\)"),
        (torch.zeros(3, 2, dtype=torch.uint8), "continuous data is floating point"),
        (torch.full((3, 2), math.inf), "NaN or infinite"),
        ([[0.0, 0.0]], "must be a torch tensor"),
    ],
)
def test_bad_data_are_refused(x, sentence):
    with pytest.raises(DataError, match=sentence):
        MAF(layers=1).eval().log_prob(x)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"shape": [0]}, "shape must be of positive sizes"),
        ({"shape": []}, "shape must be of positive sizes"),
        ({"shape": [1, 2]}, r"shape must be \[D\]"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"components": 0}, "components must be at least 1"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"hidden_layers": 0}, "layers must be at least 1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"ordering_seed": -1}, "ordering_seed must be from 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        MAF(**arguments)


def test_bad_shapes_of_a_transform_are_refused():
    for arguments in ({"dims": 0}, {"dims": 2, "context_dims": -1}, {"dims": 3, "ordering": torch.arange(2)}):
        with pytest.raises(DataError, match=f"{list(arguments)[-1]} must be"):
            AutoregressiveTransform(**arguments)
    with pytest.raises(DataError, match=r"shape \(3, 4\); this transform takes \(N, 2\)"):
        AutoregressiveTransform(2)(torch.zeros(3, 4))
    with pytest.raises(DataError, match="takes no context"):
        AutoregressiveTransform(2).inverse(torch.zeros(3, 2), torch.zeros(3, 1))
    for context in (None, torch.zeros(3, 2), torch.zeros(1, 5)):
        with pytest.raises(DataError, match=r"this transform takes \(3, 5\)"):
            AutoregressiveTransform(2, context_dims=5)(torch.zeros(3, 2), context)


def test_training_data_must_be_there_to_be_standardized(tmp_path):
    x = torch.randn(20, 2)
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", max_steps=1, logger=False)
    with pytest.raises(DataError, match="a data module that has it as its attribute train"):
        trainer.fit(MAF(layers=1), TensorLoader(x, torch.zeros(20), batch_size=4))
