"""Continuous flows: a diffeomorphism with the exact trace, and an estimate of it that is unbiased."""

from __future__ import annotations

import builtins
import json
import math

import numpy as np
import pytest
import torch
from diffeomorphisms import check_diffeomorphism, points, randomize
from tiny_runs import Stop, differences, fit, last
from torch.autograd.functional import jacobian

from zoo.callbacks.ema import EMA
from zoo.data.table import Table
from zoo.errors import DataError, ZooError
from zoo.flows.continuous import ContinuousFlow, ContinuousTransform, Field
from zoo.hub import store
from zoo.nn.draws import Draws


@pytest.fixture(autouse=True)
def _solver(request):
    if "absent" not in request.node.name:
        pytest.importorskip("torchdiffeq", reason="continuous flows need the extra ode")


def disturbed(**arguments) -> ContinuousFlow:
    model = ContinuousFlow(**{"hidden": 8, "layers": 2, **arguments})
    randomize(model, 0.7).float()
    model.standardize.fit(torch.randn(50, model.spec.dims) @ torch.randn(model.spec.dims, model.spec.dims) + 3)
    return model.eval()


# -- the field -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context_dims", [0, 2])
def test_the_field_multiplies_by_its_jacobian(context_dims):
    field = randomize(Field(3, 8, 2, context_dims), 1.0)
    x, t, directions = points(4, 3), torch.tensor(0.3, dtype=torch.float64), points(2, 3)[:, None]
    context = points(4, context_dims) if context_dims else None
    f, products = field(x, t, context, directions)
    assert (f.shape, products.shape) == ((4, 3), (2, 4, 3))
    for i in range(4):
        own = None if context is None else context[i : i + 1]
        matrix = jacobian(lambda y, own=own: field(y[None], t, own, directions)[0][0], x[i])
        torch.testing.assert_close(products[:, i], directions[:, 0] @ matrix.T)


# -- the transform -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dims", "context_dims"), [(1, 0), (2, 3), (4, 0)])
def test_it_is_a_diffeomorphism(dims, context_dims):
    transform = randomize(ContinuousTransform(dims, 8, 2, context_dims, tolerance=1e-11), 0.8)
    context = points(2, context_dims) if context_dims else None
    check_diffeomorphism(transform, points(2, dims), context, points(2, dims))


def test_a_linear_field_is_the_matrix_exponential():
    transform = ContinuousTransform(3, 8, 2, tolerance=1e-10).double()
    matrix = points(3, 3)

    class Linear(torch.nn.Module):
        def forward(self, x, t, context, directions):
            return x @ matrix.T, (directions @ matrix.T).expand(-1, len(x), -1)

    transform.field = Linear()
    x = points(5, 3)
    z, log_det = transform(x)
    torch.testing.assert_close(z, x @ torch.matrix_exp(matrix).T, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(log_det, matrix.trace().expand(5), rtol=1e-7, atol=1e-7)


def test_hutchinsons_estimate_is_unbiased_and_moves_the_data_as_the_exact_one():
    transform = randomize(ContinuousTransform(3, 8, 2, tolerance=1e-6), 1.0)
    x = points(1, 3).expand(4000, 3)
    with torch.no_grad():
        z, exact = transform(x)
        found, estimates = transform.estimate(x, hutchinson=True, tolerance=1e-6)
        _, same = transform.estimate(x, hutchinson=False, tolerance=1e-6)
    torch.testing.assert_close(found, z, atol=1e-4, rtol=0)
    torch.testing.assert_close(same, exact, atol=1e-4, rtol=0)
    error = estimates.std() / math.sqrt(len(x))
    assert estimates.std() > 0.02, "without variance there would be nothing to show"
    assert (estimates.mean() - exact[0]).abs() < 4 * error


def test_one_wild_datum_does_not_hide_in_a_large_batch():
    """The error of each datum is below the tolerance, also where a mean over the batch would be small."""
    transform = randomize(ContinuousTransform(2, 16, 2, tolerance=1e-4), 1.0)
    wild = torch.tensor([[2.0, -2.0]], dtype=torch.float64)
    with torch.no_grad():
        transform.field.linear[0].weight.mul_(4)
        transform.field.linear[-1].weight.mul_(4)
        calm = torch.full((5000, 2), 1e-3, dtype=torch.float64)
        together = transform(torch.cat([calm, wild]))
        transform.tolerance = 1e-11
        exact = transform(wild)
    torch.testing.assert_close(together[0][-1:], exact[0], atol=1e-2, rtol=0)
    torch.testing.assert_close(together[1][-1:], exact[1], atol=1e-2, rtol=0)


@pytest.mark.parametrize("context_dims", [0, 3])
def test_a_draw_is_the_inverse_without_its_trace(context_dims, monkeypatch):
    transform = randomize(ContinuousTransform(3, 8, 2, context_dims, tolerance=1e-9), 0.8)
    z, context = points(4, 3), points(4, context_dims) if context_dims else None
    with torch.no_grad():
        expected, _ = transform.inverse(z, context)
        monkeypatch.delattr(ContinuousTransform, "_exact")
        torch.testing.assert_close(transform.draw(z, context), expected, atol=1e-7, rtol=0)


def test_it_begins_as_the_identity_and_learns_from_there():
    transform = ContinuousTransform(2, 8, 2)
    x = torch.randn(5, 2)
    z, log_det = transform(x)
    torch.testing.assert_close(z, x)
    torch.testing.assert_close(log_det, torch.zeros(5))
    (z.square().sum() - log_det.sum()).backward()
    assert transform.field.linear[-1].weight.grad.abs().max() > 0


def test_autocast_changes_nothing():
    transform = randomize(ContinuousTransform(2, 8, 2, 3), 0.5).float()
    x, context = torch.randn(5, 2), torch.randn(5, 3)
    with torch.no_grad():
        expected = transform(x, context)
        with torch.autocast("cpu", torch.bfloat16):
            found = transform(x, context)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


# -- the model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hutchinson", [False, True])
def test_a_density_integrates_to_one_however_it_is_trained(hutchinson):
    model = disturbed(hutchinson=hutchinson).double()
    line = torch.linspace(-8, 8, 161, dtype=torch.float64)
    with torch.no_grad():
        x, log_det = model.standardize.inverse(torch.cartesian_prod(line, line))
        total = (model.log_prob(x) + log_det).exp().sum() * (line[1] - line[0]) ** 2
    assert total.item() == pytest.approx(1, abs=2e-3)


def test_log_prob_is_the_same_each_time_also_in_training():
    model = disturbed(hutchinson=True)
    x = model.sample(4, seed=0)
    expected = model.log_prob(x)
    assert torch.equal(model.train().log_prob(x), expected)


def test_seeds():
    model = disturbed()
    state = torch.get_rng_state()
    x = model.sample(5, seed=1)
    assert (x.dtype, tuple(x.shape)) == (torch.float32, (5, 2))
    assert torch.equal(x, model.sample(5, seed=1))
    assert not torch.equal(x, model.sample(5, seed=2))
    assert torch.equal(torch.get_rng_state(), state)
    z, _ = model.flow.transform(x)
    torch.testing.assert_close(z, model.flow.base.sample(5, Draws(1, 5)), atol=1e-3, rtol=0)


def banana(folder) -> Table:
    """Rows (a, a^2 + b), of which a Gaussian knows nothing but the scale."""
    a, b = np.random.RandomState(0).standard_normal((2, 2000))
    np.save(folder / "rows.npy", np.stack([100 + 10 * a, a**2 + 0.3 * b], 1))
    return Table("rows.npy", "rows.npy", levels=None, root=str(folder), batch_size=100, validation=300)


@pytest.mark.parametrize("hutchinson", [False, True])
def test_it_learns_a_table(tmp_path, hutchinson):
    model = ContinuousFlow([2], 16, 2, hutchinson=hutchinson, lr=0.03, warmup=5)
    data = banana(tmp_path)
    model, trainer = fit(tmp_path, model=model, data=data, max_steps=60)
    (result,) = trainer.validate(model, data, verbose=False)
    entropy = math.log(2 * math.pi * math.e) + math.log(10 * 0.3)
    gaussian = math.log(2 * math.pi * math.e) + math.log(10 * math.sqrt(2 + 0.09))
    assert entropy - 0.15 < result["val_nats"] < (entropy + gaussian) / 2


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path):
    def run(folder, *callbacks, **settings):
        torch.manual_seed(3)
        model = ContinuousFlow([2], 8, 1, hutchinson=True, lr=0.02, warmup=3)
        fit(folder, EMA(0.9), *callbacks, model=model, data=banana(tmp_path), max_steps=7, **settings)
        return last(folder)

    whole = run(tmp_path / "whole")
    half = run(tmp_path / "half", Stop(3))
    assert list(differences(whole, half))
    resumed = run(tmp_path / "resumed", ckpt_path=tmp_path / "half" / "checkpoints" / "last.ckpt")
    assert not list(differences(whole, resumed))


def test_a_saved_model_is_loaded(tmp_path):
    model = disturbed(flows=2)
    again = store.load(store.save(model, tmp_path / "continuous-test", dtype="float32"))
    x = model.sample(8, seed=0)
    assert torch.equal(again.sample(8, seed=0), x)
    assert torch.equal(again.log_prob(x), model.log_prob(x))
    assert dict(again.hparams) == json.loads(json.dumps(dict(model.hparams)))


# -- refusals ------------------------------------------------------------------------------------------------


def test_an_absent_solver_is_named_with_the_remedy(monkeypatch):
    original = builtins.__import__

    def refuse(name, *rest, **named):
        if name == "torchdiffeq":
            raise ImportError(name)
        return original(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ZooError, match=r"pip install generative-zoo\[ode\]") as caught:
        ContinuousFlow()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (torch.zeros(3, 3), r"shape \(3, 3\); this model takes \(N, 2\)"),
        (torch.zeros(3, 2, dtype=torch.uint8), "continuous data is floating point"),
        (torch.full((3, 2), math.nan), "NaN or infinite"),
        ([[0.0, 0.0]], "must be a torch tensor"),
    ],
)
def test_bad_data_are_refused(x, sentence):
    with pytest.raises(DataError, match=sentence):
        ContinuousFlow().eval().log_prob(x)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"shape": [0]}, "shape must be of positive sizes"),
        ({"shape": [1, 2]}, r"shape must be \[D\]"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"flows": 0}, "flows must be at least 1"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
        ({"train_tolerance": math.nan}, "train_tolerance must be positive"),
    ],
)
def test_bad_arguments_are_refused(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        ContinuousFlow(**arguments)


def test_bad_shapes_of_a_transform_are_refused():
    for arguments in ({"dims": 0}, {"dims": 2, "context_dims": -1}):
        with pytest.raises(DataError, match=f"{list(arguments)[-1]} must be at least"):
            ContinuousTransform(**arguments)
    with pytest.raises(DataError, match=r"shape \(3, 4\); this transform takes \(N, 2\)"):
        ContinuousTransform(2)(torch.zeros(3, 4))
    with pytest.raises(DataError, match="takes no context"):
        ContinuousTransform(2).inverse(torch.zeros(3, 2), torch.zeros(3, 1))
    for context in (None, torch.zeros(3, 2), torch.zeros(1, 5)):
        with pytest.raises(DataError, match=r"this transform takes \(3, 5\)"):
            ContinuousTransform(2, context_dims=5)(torch.zeros(3, 2), context)


# -- weights that no solver gets through ---------------------------------------------------------------------


def stiff() -> ContinuousFlow:
    """Finite weights, with which all points go round the origin a thousand times in either direction of time."""
    model = ContinuousFlow(hidden=2, layers=1).eval()
    first, last = model.flow.transform.transforms[1].field.linear
    with torch.no_grad():
        first.weight.copy_(1e3 * torch.eye(2))
        last.weight.copy_(3e4 * torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    return model


@pytest.mark.parametrize("ask", ["sample", "log_prob", "training_step"])
def test_a_stiff_flow_ends_in_a_sentence(ask, monkeypatch):
    model, times = stiff(), []
    forward = Field.forward

    def counted(self, x, t, *rest):
        times.append(float(t))
        return forward(self, x, t, *rest)

    monkeypatch.setattr(Field, "forward", counted)
    monkeypatch.setattr("zoo.nn.ode.STEPS", 100)
    x = torch.randn(2, 2)
    with pytest.raises(ZooError, match="too stiff to be solved in 100 steps") as caught:
        model.sample(2, seed=0) if ask == "sample" else getattr(model, ask)(*((x,) if ask == "log_prob" else (x, 0)))
    assert str(caught.value).isprintable()
    assert len(times) <= 6 * 100 + 2


@pytest.mark.parametrize("tolerance", [1e-30, 1e-300])
def test_a_tolerance_that_nothing_meets_ends_in_a_sentence(tolerance, monkeypatch):
    monkeypatch.setattr("zoo.nn.ode.STEPS", 100)
    with pytest.raises(ZooError, match="tolerance is too small"):
        disturbed(tolerance=tolerance).sample(2, seed=0)
