"""What enters a model is held against its specification: every batch of a trainer, every argument of a verb."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from test_contract import FAMILIES, GREY, made
from tiny_runs import fit, sealed
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.adversarial import GAN, LAPGAN
from zoo.autoregressive import GatedPixelCNN
from zoo.batch import Batch, as_batch
from zoo.data import Digits
from zoo.data.tensors import TensorData
from zoo.errors import DataError, TrainingError, ZooError
from zoo.evaluation.measure import evaluate
from zoo.flows import MAF
from zoo.model import Model, entry

CONTINUOUS = {"flows.ContinuousFlow", "flows.EnergyFlow", "flows.MAF", "adversarial.GAN"}
NARROW = sorted(set(FAMILIES) - CONTINUOUS)  # of levels that bytes go beyond


@pytest.fixture(autouse=True)
def _untouched(monkeypatch):
    with sealed(monkeypatch):
        yield


def model_of(name: str, training: bool = False) -> Model:
    torch.manual_seed(0)
    return made(name)[0].train(training)


def data_of(model: Model, n: int = 3) -> Tensor:
    generator, shape = torch.Generator().manual_seed(1), (n, *model.spec.shape)
    if model.spec.levels is None:
        return torch.randn(shape, generator=generator)
    return torch.randint(model.spec.levels, shape, generator=generator, dtype=torch.uint8)


def verbs(model: Model) -> dict[str, Callable[[Any], Any]]:
    """All that takes data."""
    names = ["log_prob", "bits_per_dim", "negative_log_likelihood", "encode", "order_agnostic", "small", "initialize"]
    found = {name: getattr(model, name) for name in names if hasattr(model, name)}
    if hasattr(model, "elbo"):
        found["elbo"] = lambda x: model.elbo(x, seed=0)
    if hasattr(model, "complete"):
        found["complete"] = lambda x: model.complete(x, torch.tensor([False]), seed=0)
    if model.likelihood:
        found["loss"] = model.loss
    found["taken"] = model.taken
    return found


def refused(call: Callable[[], Any], match: str = ".") -> None:
    with pytest.raises(DataError, match=match) as error:
        call()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


# -- verbs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_values_that_are_no_data_are_refused_by_each_verb_in_training_too(name, training):
    model = model_of(name, training)
    x = data_of(model)
    if model.spec.levels is None:
        wrong, complaint = x.index_fill(0, torch.tensor([1]), torch.nan), "NaN or infinite"
    else:
        wrong, complaint = torch.full_like(x, model.spec.levels), f"values {model.spec.levels}..{model.spec.levels}"
    for verb in verbs(model).values():
        verb(x)
        refused(lambda: verb(wrong), complaint)  # noqa: B023  called here


@pytest.mark.parametrize("name", FAMILIES)
def test_strange_tensors_have_the_values_of_plain_ones_or_are_refused(name):
    model = model_of(name)
    x = data_of(model)
    with torch.inference_mode():
        inferred = x.clone()
    same = {
        "with gaps": torch.stack([x, x], -1)[..., 0],
        "transposed": x.transpose(0, -1).contiguous().transpose(0, -1),
        "of inference mode": inferred,
    }
    other = [x.to_sparse(), x.to("meta"), x.numpy(), x.tolist(), None, "x", x[0], x[..., None], x.to(torch.complex64)]
    other += [torch.nested.nested_tensor(list(x)), torch.quantize_per_tensor(x.float(), 1.0, 0, torch.quint8)]
    if model.spec.levels is None:
        same |= {"float64": x.double(), "with gradient": x.clone().requires_grad_()}
        other += [x.long(), x > 0, x.double() * 1e300, x.to(torch.float8_e4m3fn)]
        rounded = x.to(torch.bfloat16)
    else:
        other += [x.long(), x.to(torch.int8), x.float(), x > 0]
    for key, verb in verbs(model).items():
        for given in other:
            refused(lambda: verb(given))  # noqa: B023  called here
        if key not in ("log_prob", "elbo", "encode", "complete", "small"):
            continue
        plain = verb(x)
        for how, given in same.items():
            found = verb(given)
            assert torch.equal(found, plain), (key, how)
            assert found.dtype == plain.dtype, (key, how)
        assert len(verb(x[:0])) == 0, key
        if model.spec.levels is None:
            assert torch.equal(verb(rounded), verb(rounded.float()))
    if hasattr(model, "initialize"):
        refused(lambda: model.initialize(x[:0]), "x is empty")


@pytest.mark.parametrize("name", [name for name in FAMILIES if hasattr(model_of(name), "complete")])
def test_a_mask_is_boolean_and_says_so(name):
    model = model_of(name)
    x = data_of(model)
    known = torch.zeros_like(x, dtype=torch.bool)
    for wrong in (known.byte(), known.float(), known.numpy(), [True], None, known.to_sparse(), known.to("meta")):
        refused(lambda: model.complete(x, wrong), "known must be a")  # noqa: B023
    refused(
        lambda: model.complete(x, known[:, :, :1, :1].expand(3, 1, 2, 2)[..., :1].expand(3, 1, 2, 3)), "known has shape"
    )
    assert torch.equal(model.complete(x, ~known, seed=0), x)


def test_labels_are_counted_from_zero_and_of_whole_numbers():
    model = GatedPixelCNN(**GREY, classes=10, channels=2, blocks=1)
    x = data_of(model)
    plain = model.log_prob(x, label=torch.tensor([1, 2, 9]))
    for label in ([1, 2, 9], np.array([9, 2, 1])[::-1], torch.tensor([1, 2, 9], dtype=torch.uint8), (1, 2, 9)):
        assert torch.equal(model.log_prob(x, label=label), plain)
    assert torch.equal(model.log_prob(x, label=np.int64(4)), model.log_prob(x, label=[4] * 3))
    wrong = [10, -1, [0, 1, 10], [1, 2], [[1, 2, 3]], 1.0, [0.5, 1, 2], True, "cat", ["a", "b", "c"], 2**70, {1, 2, 3}]
    wrong += [
        torch.tensor([1.0, 2, 3]),
        np.array([1.0, 2, 3]),
        torch.tensor([1, 2, 3]).to_sparse(),
        torch.ones(3).bool(),
    ]
    for label in wrong:
        for train in (True, False):
            model.train(train)
            refused(lambda: model.log_prob(x, label=label), r"0\.\.9|give one integer")  # noqa: B023
            refused(lambda: model.sample(3, label=label), r"0\.\.9|give one integer")  # noqa: B023
    with pytest.raises(DataError, match=r"label is 10; this model takes 0\.\.9: labels are counted from 0"):
        model.sample(1, label=10)
    with pytest.raises(DataError, match="without classes"):
        GatedPixelCNN(**GREY, channels=2, blocks=1).sample(1, label=3)


@pytest.mark.parametrize(
    "name", ["adversarial.GAN", "adversarial.LAPGAN", "latent.FlowVAE", "flows.NICE", "flows.RealNVP"]
)
def test_latents_are_checked_as_data_are(name):
    model = model_of(name)
    size = model.spec.dims if name.startswith("flows") else model.latent_size
    z = torch.randn(3, size)
    plain = model.decode(z)
    assert torch.equal(model.decode(z.double()), plain)
    assert torch.equal(model.decode(z.clone().requires_grad_()), plain)
    nan = z.clone()
    nan[0, 0] = torch.nan
    for wrong in (
        nan,
        z / 0,
        z.long(),
        z[:, 1:],
        z[0],
        z.tolist(),
        None,
        z.to("meta"),
        z.to_sparse(),
        z.double() * 1e300,
    ):
        refused(lambda: model.decode(wrong), "^z ")  # noqa: B023
        if hasattr(model, "interpolate"):
            refused(lambda: model.interpolate(wrong, z), "^start ")  # noqa: B023
            refused(lambda: model.interpolate(z, wrong), "^end ")  # noqa: B023


@pytest.mark.parametrize("name", FAMILIES)
def test_numbers_of_a_draw_are_whole_and_fit_the_memory(name):
    model = model_of(name)
    for n in (0, -1, 2.0, True, "3", None, torch.tensor([1, 2]), 2**62, 2**70):
        refused(lambda: model.sample(n, seed=0), "^n ")  # noqa: B023
    for seed in (-1, 2**64, 1.5, True, "0", torch.tensor([0])):
        refused(lambda: model.sample(2, seed=seed), "^seed must be a whole number")  # noqa: B023
    plain = model.sample(2, seed=3)
    for n, seed in ((np.int64(2), np.uint8(3)), (torch.tensor(2), torch.tensor(3))):
        assert torch.equal(model.sample(n, seed=seed), plain)
    assert len(model.sample(1, seed=2**64 - 1)) == 1
    if hasattr(model, "elbo"):
        x = data_of(model)
        for samples in (0, -1, 2.0, True, None):
            refused(lambda: model.elbo(x, samples=samples, seed=0), "^samples must be")  # noqa: B023
        for seed in (-1, 2**64, 1.5):
            refused(lambda: model.elbo(x, seed=seed), "^seed must be")  # noqa: B023
        for index in ([0, 1, 2], torch.arange(2), torch.arange(3) - 1, torch.arange(3.0)):
            refused(lambda: model.elbo(x, seed=0, index=index), "^index ")  # noqa: B023
    for option in ("temperature", "truncation"):
        for value in (0, -1.0, float("nan"), float("inf"), "1", True):
            with contextlib.suppress(TypeError):  # it has no such option
                refused(lambda: model.sample(2, seed=0, **{option: value}), f"^{option} must be")  # noqa: B023


# -- batches of a trainer ----------------------------------------------------------------------------------------


class Loaders(TensorData):
    """Loaders of data that are not as they say."""

    title = "loaders"

    def __init__(self, model: Model, good: Batch, bad: Batch, where: str) -> None:
        super().__init__(batch_size=4)
        self.shape, self.levels, self.classes = model.spec.shape, model.spec.levels, model.spec.classes
        self.good, self.bad, self.where = good, bad, where

    def read(self, split: str) -> Batch:
        return self.good

    def setup(self, stage: str | None = None) -> None:
        self.train = self.bad if self.where == "training" else self.good
        self.val = self.bad if self.where == "validation" else self.good
        self.test = self.bad


def loaders(model: Model, where: str, value: float | None = None, label: int = 0) -> Loaders:
    """Eight good data, and eight of which the last holds another value, and all of them another label."""
    x = data_of(model, 8)
    bad = x.clone()
    if value is not None:
        bad[-1] = value
    labels = [torch.full((8,), each) if model.spec.classes else None for each in (0, label)]
    return Loaders(model, Batch(x, labels[0]), Batch(bad, labels[1]), where)


@pytest.mark.parametrize("where", ["training", "validation"])
@pytest.mark.parametrize("name", FAMILIES)
def test_values_that_are_no_data_train_no_model(tmp_path, name, where):
    """Whoever brings them: a data module that says of them what is not so, as a stranger's may."""
    model = model_of(name, training=True)
    beyond = torch.nan if model.spec.levels is None else 255
    settings = {"max_epochs": 1, "max_steps": -1}
    with pytest.raises(
        ZooError, match=rf"a {where} batch (has values .*255; this model takes 0|holds NaN)|the training split"
    ):
        fit(tmp_path, model=model, data=loaders(model, where, beyond), **settings)


@pytest.mark.parametrize("name", ["autoregressive.NADE", "adversarial.LAPGAN"])
def test_nor_are_they_tested_or_predicted(tmp_path, name):
    model = model_of(name, training=True)
    data = loaders(model, "test", 255)
    model, trainer = fit(tmp_path, model=model, data=data, max_epochs=1, max_steps=-1)
    with pytest.raises(DataError, match=r"a test batch has values .*255"):
        trainer.test(model, datamodule=data, verbose=False)
    if model.likelihood:
        with pytest.raises(DataError, match=r"a batch has values .*255"):
            trainer.predict(model, datamodule=data)
        with pytest.raises(DataError, match=r"x has values .*255"):
            evaluate(model, data=DataLoader(data.bad.x, 4), device="cpu")


@pytest.mark.parametrize("label", [10, -1])
@pytest.mark.parametrize("where", ["training", "validation"])
def test_labels_that_a_model_has_not_train_none(tmp_path, where, label):
    for model in (
        GatedPixelCNN(**GREY, classes=10, channels=2, blocks=1),
        LAPGAN(**GREY, classes=10, scales=2, channels=2),
    ):
        with pytest.raises(DataError, match=r"label is .*; this model takes 0\.\.9"):
            fit(tmp_path, model=model, data=loaders(model, where, label=label), max_epochs=1, max_steps=-1)


def test_a_batch_in_training_is_looked_at_once_and_another_tensor_again():
    model, looked = model_of("autoregressive.NADE", training=True), []
    x = data_of(model)
    model.on_validation_batch_start(x, 0)
    check = type(model.spec).holds
    spy = copy.deepcopy(model.spec)
    object.__setattr__(spy, "holds", lambda x: looked.append(x) or check(model.spec, x))
    model.spec = spy
    model.log_prob(x)
    assert not looked
    model.log_prob(x.clone())
    assert len(looked) == 1
    assert pickle.loads(pickle.dumps(made("autoregressive.NADE")[0]))._entered == ()
    assert copy.deepcopy(model)._entered == ()


def test_points_of_any_precision_train(tmp_path):
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
        for model in (MAF([2], layers=1, hidden=4), GAN([2], None, network="mlp", latent_dim=2, channels=4)):
            data = loaders(model, "nowhere")
            data.good = data.bad = Batch(x)
            fit(tmp_path, model=model, data=data, max_epochs=1, max_steps=-1)
            assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
            (result, *_) = evaluate(model, data=DataLoader(x, 8), device="cpu")
            assert np.isfinite(result.value)


def test_parts_of_a_batch_are_of_one_length():
    x = torch.zeros(3, 1, 4, 4)
    for parts in ({"label": torch.zeros(2).long()}, {"condition": x[:2]}, {"index": torch.arange(4)}):
        for batch in (Batch(x, **parts), {"x": x, **parts}):
            refused(lambda: as_batch(batch), "3 data")  # noqa: B023


# -- few data, and such as are all the same ----------------------------------------------------------------------


def gan(distance: str = "jensen_shannon", **options: Any) -> GAN:
    features = 1 if distance == "jensen_shannon" else 2
    return GAN(**GREY, network="mlp", latent_dim=2, channels=4, distance=distance, features=features, options=options)


def test_a_batch_of_one_is_no_collapse(tmp_path):
    for model in (gan(), LAPGAN(**GREY, scales=2, latent_dim=2, channels=2)):
        _, trainer = fit(
            tmp_path, model=model, data=Digits(batch_size=1, validation=3), max_steps=3, val_check_interval=3
        )
        assert trainer.callback_metrics["val_distance"].isfinite()


def test_nor_are_samples_like_data_that_are_all_the_same(tmp_path):
    model = LAPGAN(**GREY, scales=2, latent_dim=2, channels=2)
    data = loaders(model, "nowhere")
    data.good = Batch(torch.zeros_like(data.good.x))
    fit(tmp_path, model=model, data=data, max_steps=3)
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter.zero_()
    data.good = Batch(data_of(model, 8))
    with pytest.raises(TrainingError, match="collapsed"):
        fit(tmp_path, model=model, data=data, max_steps=3)


@pytest.mark.parametrize("distance", ["energy", "mmd", "mini_batch_energy"])
def test_a_distance_of_pairs_says_that_it_needs_two(tmp_path, distance):
    with pytest.raises(DataError, match=r"A training batch of 1 has no distance .* at least 2 items"):
        fit(tmp_path, model=gan(distance), data=Digits(batch_size=1), max_steps=1)
    with pytest.raises(DataError, match="A validation batch of 1 has no distance"):
        fit(
            tmp_path,
            model=gan(distance),
            data=Digits(batch_size=4, eval_batch_size=1),
            max_steps=1,
            val_check_interval=1,
        )
    model = gan(distance)
    data = loaders(model, "nowhere")
    data.val_dataloader = lambda: DataLoader(data.good.x[:5], 4)  # which leaves one over
    _, trainer = fit(tmp_path, model=model, data=data, max_steps=2, val_check_interval=2)
    assert trainer.callback_metrics["val_distance"].isfinite()


@pytest.mark.parametrize("name", FAMILIES)
def test_one_datum_has_no_standard_error(name):
    model = model_of(name)
    if not model.likelihood:
        return
    for result in evaluate(model, data=DataLoader(data_of(model, 1), 1), device="cpu"):
        assert np.isfinite(result.value)
        assert result.standard_error is None or result.n != 1


# -- states of the process ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    yield
    torch.set_default_device(None)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


STATES = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "device": lambda: default_device("meta"),  # where nothing has a value
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "deterministic": deterministic,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def outcomes(model: Model, x: Tensor, state: str) -> dict[str, Tensor]:
    """What a model says of data and draws, by a seed; in training too, by that of the process."""
    found = {"sample": model.sample(3, seed=0)}
    if state != "autocast":  # with which likelihoods are asked for in fewer bits
        if hasattr(model, "log_prob"):
            found["log_prob"] = model.log_prob(x)
        if hasattr(model, "elbo"):
            found["elbo"] = model.elbo(x, seed=0, samples=2)
        if model.likelihood:
            torch.manual_seed(3)
            found["training"] = model.train().loss(x)
            model.eval()
    if hasattr(model, "encode"):
        found["encode"] = model.encode(x, verify=False)
    if hasattr(model, "latents"):
        found |= {"latents": model.latents(2, seed=0, truncation=0.5), "walk": model.walk(2, 2, seed=0)}
    if hasattr(model, "complete"):
        found["complete"] = model.complete(x, torch.zeros_like(x, dtype=torch.bool), seed=0)
    return {key: value.detach() for key, value in found.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_state_of_the_process_changes_nothing(name):
    model = model_of(name)
    x = data_of(model)
    weights, expected = model.state_dict(), outcomes(model, x, "")
    for state, entered in STATES.items():
        with entered():
            again = model if state == "device" else model_of(name)
            for key, weight in again.state_dict().items():
                assert weight.dtype == weights[key].dtype, (state, key)
                assert torch.equal(weight, weights[key]), (state, key)
            found = outcomes(again, x, state)
        for key, value in found.items():
            assert (value.dtype, value.device) == (expected[key].dtype, expected[key].device), (state, key)
            assert torch.equal(value, expected[key]), (state, key)
        assert all(parameter.requires_grad and not parameter.is_inference() for parameter in again.parameters())


# -- on a GPU ----------------------------------------------------------------------------------------------------

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="only on a GPU are values seen later")


@pytest.mark.parametrize(
    "name", ["autoregressive.NADE", "mixtures.GaussianMixture", "adversarial.LAPGAN", "adversarial.GAN"]
)
def test_what_is_seen_later_stops_the_run(tmp_path, monkeypatch, name):
    monkeypatch.setattr(entry, "_on_gpu", lambda x: isinstance(x, Tensor))
    model = model_of(name, training=True)
    beyond = torch.nan if model.spec.levels is None else 255
    with pytest.raises(TrainingError, match=r"The batch of optimizer step \d+ holds (NaN|values beyond 0\.\.\d+)"):
        fit(tmp_path, model=model, data=loaders(model, "training", beyond), max_epochs=2, max_steps=-1)


@pytest.mark.parametrize("label", [10, -1])
def test_labels_that_are_seen_later_too(tmp_path, monkeypatch, label):
    monkeypatch.setattr(entry, "_on_gpu", lambda x: isinstance(x, Tensor))
    model = GatedPixelCNN(**GREY, classes=10, channels=2, blocks=1)
    with pytest.raises(TrainingError, match=r"holds labels beyond 0\.\.9"):
        fit(tmp_path, model=model, data=loaders(model, "training", label=label), max_epochs=2, max_steps=-1)


@GPU
@pytest.mark.parametrize("name", FAMILIES)
def test_on_a_gpu_wrong_values_stop_the_run_and_not_the_gpu(tmp_path, name):
    """Values and labels are indices into tables there: beyond them, a GPU would do no more work for this process."""
    model = model_of(name, training=True)
    beyond = torch.nan if model.spec.levels is None else 255
    gpu = {"accelerator": "gpu", "max_epochs": 2, "max_steps": -1}
    data = loaders(model, "training", beyond)
    with pytest.raises(ZooError, match=r"The batch of optimizer step \d+ holds|the training split"):
        fit(tmp_path, model=model, data=data, **gpu)
    torch.cuda.synchronize()
    assert torch.ones(2, device="cuda").sum() == 2


@GPU
@pytest.mark.parametrize("label", [10, -1])
def test_on_a_gpu_wrong_labels_too(tmp_path, label):
    for model in (
        GatedPixelCNN(**GREY, classes=10, channels=2, blocks=1),
        LAPGAN(**GREY, classes=10, scales=2, channels=2),
    ):
        data = loaders(model, "training", label=label)
        with pytest.raises(TrainingError, match=r"holds labels beyond 0\.\.9"):
            fit(tmp_path, model=model, data=data, accelerator="gpu", max_epochs=2, max_steps=-1)
        torch.cuda.synchronize()


@GPU
@pytest.mark.parametrize("name", FAMILIES)
def test_data_come_to_the_gpu_where_the_model_is(name):
    model = model_of(name).cuda()
    x = data_of(model)
    for key, verb in verbs(model).items():
        if key in ("log_prob", "elbo", "encode", "small", "complete"):
            found = verb(x)
            assert found.device == model.device
            assert torch.equal(found, verb(x.cuda()))
