"""A checkpoint's numbers: they must be what the definition says, computed in plain float32."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

import zoo.data
from zoo.autoregressive import DARN, PixelCNN
from zoo.data import Digits
from zoo.errors import CheckpointError, DataError, ZooError
from zoo.evaluation.choice import choose
from zoo.evaluation.measure import evaluate
from zoo.flows import EnergyFlow
from zoo.hub import card, store
from zoo.hub.config import read_config
from zoo.mixtures import GaussianMixture
from zoo.model import GenerativeModel, Measurement
from zoo.nn.draws import Draws
from zoo.results import METRICS, Metric, Result, merge, results_of
from zoo.spec import DataSpec

DIGITS = {"class_path": "zoo.data.Digits", "init_args": {}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of an untrained PixelCNN whose likelihood differs between images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PixelCNN(shape=[1, 8, 8], levels=17, channels=4, blocks=1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return zoo.save(model, tmp_path_factory.mktemp("runs") / "pixelcnn-digits", data=DIGITS)


@pytest.fixture(scope="module")
def losses(folder):
    """Bits/dim of every test image, from the definition, in float64."""
    data = Digits()
    data.setup("test")
    with torch.no_grad():
        log_prob = zoo.load(folder).log_prob(data.test[0])
    return -log_prob.double().numpy() / (64 * math.log(2))


class Coin(GenerativeModel):
    """Each component is independent and uniform over the levels; it notes how it was asked."""

    def __init__(self, shape=(1, 2, 2), levels=2):
        super().__init__()
        self.spec = DataSpec(shape, levels)
        self.weight = torch.nn.Parameter(torch.eye(3))
        self.seen = []

    def log_prob(self, x):
        """-D log levels, in nats."""
        self.seen.append(
            {
                "training": self.training,
                "gradients": torch.is_grad_enabled(),
                "autocast": torch.is_autocast_enabled("cpu"),
                "tf32": torch.backends.cudnn.allow_tf32 or torch.get_float32_matmul_precision() != "highest",
                "product": (self.weight @ self.weight).dtype,
                "n": len(x),
            }
        )
        return torch.full((len(x),), -self.spec.dims * math.log(self.spec.levels))


class Bound(GenerativeModel):
    """A noisy lower bound."""

    def __init__(self):
        super().__init__()
        self.spec = DataSpec((1, 2, 2), 2)

    def elbo(self, x, *, samples=1, seed=None):
        """A random number for each datum, below log 1."""
        return -torch.rand(len(x), generator=self.generator(seed))


class Images(LightningDataModule):
    """250 test images of two levels, in batches of 100."""

    spec = DataSpec((1, 2, 2), 2)
    protocol = "two levels"

    def __init__(self, n=250):
        super().__init__()
        self.images = torch.zeros(n, 1, 2, 2, dtype=torch.uint8)

    def test_dataloader(self):
        return [(batch, torch.zeros(len(batch))) for batch in self.images.split(100)] if len(self.images) else []


def test_the_number_is_the_mean_of_the_definition(folder, losses):
    (result,) = evaluate(folder, device="cpu")
    assert result.value == pytest.approx(losses.mean(), rel=1e-6)
    assert result.standard_error == pytest.approx(np.std(losses, ddof=1) / math.sqrt(360), rel=1e-4)
    assert np.std(losses) > 0.01, "the images must differ for this to test anything"
    described = {k: v for k, v in result.config.items() if k not in ("value", "standard_error")}
    assert described == {
        "unit": "bits/dim",
        "decimals": 3,
        "higher_is_better": False,
        "metric": "bits_per_dim",
        "kind": "exact",
        "n": 360,
        "split": "test",
        "dataset": "Digits",
        "protocol": Digits().protocol,
        "limit": False,
    }


def test_twice_the_same_and_whatever_the_batch_size(folder):
    whole = evaluate(folder, device="cpu")
    assert evaluate(folder, device="cpu") == whole
    assert evaluate(folder, device="cpu", batch_size=77)[0].value == pytest.approx(whole[0].value, rel=1e-6)


@pytest.mark.parametrize("limit", [1, 2, 99, 100, 101])
def test_limit_takes_the_first_images(folder, losses, limit):
    (result,) = evaluate(folder, device="cpu", limit=limit, batch_size=50)
    assert (result.n, result.limit) == (limit, True)
    assert result.value == pytest.approx(losses[:limit].mean(), rel=1e-6)
    if limit == 1:
        assert result.standard_error is None
    else:
        error = np.std(losses[:limit], ddof=1) / math.sqrt(limit)
        assert result.standard_error == pytest.approx(error, rel=1e-3)


def test_a_limit_that_cuts_nothing_off_is_the_whole_split():
    model, data = Coin(), Images()
    assert evaluate(model, data=data, limit=250) == evaluate(model, data=data)
    assert evaluate(model, data=data, limit=1000)[0].limit is False
    model.seen.clear()
    assert evaluate(model, data=data, limit=200)[0].limit is True
    assert [seen["n"] for seen in model.seen] == [100, 100], "no empty batch"


def test_binary_images_are_in_nats_and_others_in_bits_per_dim(monkeypatch):
    (nats,) = evaluate(Coin(), data=Images())
    assert (nats.metric.name, nats.value) == ("nats", pytest.approx(4 * math.log(2)))
    monkeypatch.setattr(Images, "spec", DataSpec((1, 2, 2), 16))
    (bits,) = evaluate(Coin(levels=16), data=Images())
    assert (bits.metric.name, bits.value) == ("bits_per_dim", pytest.approx(4.0))
    assert bits.standard_error == pytest.approx(0, abs=1e-9)


def test_a_bound_is_called_one_and_repeats():
    (result,) = evaluate(Bound(), data=Images(), seed=3)
    assert result.kind == "upper"
    assert evaluate(Bound(), data=Images(), seed=3) == [result]
    assert evaluate(Bound(), data=Images(), seed=4) != [result]


def test_a_bound_of_more_samples_says_so_and_a_checkpoint_repeats_its_own(tmp_path):
    model = DARN(shape=[1, 2, 2], latent_dim=3, width=4)
    (one,) = evaluate(model, data=Images())
    (many,) = evaluate(model, data=Images(), samples=20)
    assert (one.samples, many.samples) == (1, 20)
    assert many.protocol == "; ".join(filter(None, (Images().protocol, model.protocol, "20 samples an image")))
    x = torch.cat([batch[0] for batch in Images().test_dataloader()])
    expected = model.elbo(x, samples=20, seed=0)
    assert many.value == pytest.approx(-expected.mean().item(), rel=1e-6)
    folder = store.save(model, tmp_path / "darn-images", dtype="float32", results=[one, many])
    assert evaluate(folder, data=Images()) == [one, many]
    assert evaluate(folder, data=Images(), samples=20) == [many]
    with pytest.raises(ZooError, match="samples must be at least 1, not 0"):
        evaluate(model, data=Images(), samples=0)
    with pytest.raises(ZooError, match="has an exact likelihood, which takes no samples"):
        evaluate(Coin(), data=Images(), samples=2)


def test_the_spread_is_that_of_the_mean_over_the_data_from_draw_to_draw(tmp_path, monkeypatch):
    data = Images()
    data.images = torch.randint(0, 17, data.images.shape, dtype=torch.uint8)
    monkeypatch.setattr(Images, "spec", DataSpec((1, 2, 2), 17))
    model = GaussianMixture(shape=[1, 2, 2], levels=17)
    (one,), (many,) = evaluate(model, data=data, seed=3), evaluate(model, data=data, seed=3, samples=8)

    x, losses = data.images, torch.zeros(8, 250, dtype=torch.float64)
    draws = Draws(3, 250)  # the noise of an image follows from its place in the split
    for k in range(8):
        with torch.no_grad():
            losses[k] = -model.log_density(x + draws.uniform(1, 2, 2)).double()
    losses /= 4 * math.log(2)
    means = losses.mean(1)
    assert many.config == {
        "unit": "bits/dim",
        "decimals": 3,
        "higher_is_better": False,
        "metric": "bits_per_dim",
        "kind": "upper",
        "value": pytest.approx(means.mean().item(), rel=1e-6),
        "standard_error": pytest.approx(losses.mean(0).std().item() / math.sqrt(250), rel=1e-6),
        "n": 250,
        "split": "test",
        "dataset": "Images",
        "protocol": "two levels; uniform dequantization, 8 draws",
        "limit": False,
        "samples": 8,
        "spread": pytest.approx(means.std().item(), rel=1e-4),
    }
    assert many.spread > 1e-4, "the draws must differ for this to test anything"
    assert one.value == pytest.approx(means[0].item(), rel=1e-6)
    assert (one.samples, one.spread) == (1, None)
    assert one.protocol == "two levels; uniform dequantization, one draw"

    again = evaluate(model, data=data, seed=4, samples=8)
    assert merge([one, many], again) == [one, *again]
    folder = store.save(model, tmp_path / "gaussian-images", dtype="float32", results=[one, many])
    assert evaluate(folder, data=data, seed=3) == [one, many]


TOTAL = Metric("total", "in all", 0, higher_is_better=True)
PARAMETERS = Metric("parameters", "parameters", 0)


class Total(Measurement):
    """The sum of all values, in one pass."""

    metrics = (TOTAL,)

    def __init__(self):
        self.batches = []

    def update(self, batch):
        self.batches.append(batch.x)

    def compute(self):
        value = int(torch.cat(self.batches).sum())
        return [Result(TOTAL, "exact", value, protocol="of all values")]


class Parameters(Measurement):
    """A number that needs no data."""

    metrics = (PARAMETERS,)
    needs_data = False

    def compute(self):
        return [Result(PARAMETERS, "exact", 9, split=None, n=1)]


def test_a_model_says_what_else_is_measured():
    class Summed(Coin):
        def measurements(self):
            return [Total(), Parameters()]

    data = Images()
    data.images += torch.arange(250, dtype=torch.uint8)[:, None, None, None] % 2
    (alone,) = evaluate(Coin(), data=data, limit=150)
    likelihood, total, parameters = evaluate(Summed(), data=data, limit=150)
    assert likelihood == alone
    seen = {key: getattr(alone, key) for key in ("n", "split", "dataset", "limit")}
    assert total == Result(TOTAL, "exact", 4 * 75, protocol="two levels; of all values", **seen)
    assert (parameters.split, parameters.n, parameters.protocol) == (None, 1, "")
    assert list(total.config) == list(alone.config), "one order in every config.json"


def test_a_model_may_be_measured_without_a_likelihood():
    class Sampler(GenerativeModel):
        spec = Images.spec

        def measurements(self):
            return [Total()]

    (total,) = evaluate(Sampler(), data=Images())
    assert (total.metric, total.n) == (TOTAL, 250)


def test_what_needs_no_data_is_measured_without():
    class Alone(GenerativeModel):
        spec = Images.spec

        def measurements(self):
            return [Total(), Parameters()]

    (parameters,) = evaluate(Alone())
    assert parameters == Result(PARAMETERS, "exact", 9, split=None, n=1, dataset="", limit=False)


class Asked(Total):
    """One that takes long."""

    asked = True


@pytest.mark.parametrize("known", [False, True])
def test_what_waits_to_be_asked_for_is_measured_where_it_is_or_was(known):
    class Summed(Coin):
        def measurements(self):
            return [Asked(), Parameters()]

    names = lambda measurements: [each.metrics[0].name for each in measurements]  # noqa: E731
    config = {"results": [Result(TOTAL, "exact", 3).config]} if known else {}
    asked = [TOTAL.name] if known else []
    assert names(choose(Summed(), Images(), config)) == ["nats", PARAMETERS.name, *asked]
    assert names(choose(Summed(), Images(), names=[TOTAL.name])) == ["nats", PARAMETERS.name, TOTAL.name]
    assert TOTAL.name in names(choose(Summed(), Images(), names=["all"]))
    assert TOTAL.name not in names(choose(Summed(), None, names=["all"])), "it needs data"


def test_terms_stand_beside_the_bound_that_is_their_sum():
    class Bound(GenerativeModel):
        spec, protocol = Images.spec, "bound"

        def elbo(self, x, *, samples=1, seed=None, index=None):
            return self.elbo_draws(x, samples=samples, seed=seed, index=index).mean(0)

        def elbo_draws(self, x, **how):
            return -sum(self.term_draws(x, **how).values())

        def term_draws(self, x, *, samples=1, seed=None, index=None):
            draw = torch.arange(1.0, samples + 1)[:, None]
            return {"prior": torch.full((samples, len(x)), 0.5), "rest": draw * index}

    whole, prior, rest = evaluate(Bound(), data=Images(4), samples=3)
    assert (whole.kind, whole.value, whole.protocol) == ("upper", 3.5, "two levels; bound, 3 draws")
    assert (prior.kind, prior.value, prior.spread, prior.standard_error) == ("estimate", 0.5, None, 0.0)
    assert (rest.metric.name, rest.metric.unit, rest.value, rest.spread) == ("rest", "nats of the rest", 3.0, 1.5)
    assert rest.protocol == "two levels; term of the bound; bound, 3 draws"


def test_a_term_that_no_draw_changes_has_no_spread():
    class Constant(GenerativeModel):
        spec, protocol = Images.spec, "bound"

        def term_draws(self, x, *, samples=1, seed=None, index=None):
            nats = torch.rand(50, generator=torch.Generator().manual_seed(0))
            return {"prior": nats[index].expand(samples, -1)}

        def elbo_draws(self, x, **how):
            return -self.term_draws(x, **how)["prior"]

        def elbo(self, x, *, samples=1, seed=None, index=None):
            return self.elbo_draws(x, samples=samples, seed=seed, index=index).mean(0)

    # Of five numbers alike the mean may be another one, by rounding.
    assert [each.spread for each in evaluate(Constant(), data=Images(50), samples=5)] == [None, None]


def test_arithmetic_is_plain_float32_and_settings_come_back():
    model = Coin().train()
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            evaluate(model, data=Images())
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before[1])
    assert torch.backends.cudnn.allow_tf32 == before[0]
    assert model.training
    for seen in model.seen:
        n = seen.pop("n")
        assert n > 0
        assert seen == {
            "training": False,
            "gradients": False,
            "autocast": False,
            "tf32": False,
            "product": torch.float32,
        }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_likelihood_that_is_not_finite_is_refused(value):
    class Broken(Coin):
        def log_prob(self, x):
            result = super().log_prob(x)
            result[7] = value
            return result

    with pytest.raises(ZooError, match=r"image 7 is -?(nan|inf)"):
        evaluate(Broken(), data=Images())


def test_a_model_with_nothing_to_measure_is_refused():
    class Words(GenerativeModel):
        spec = DataSpec((2,), 5, kind="tokens")

    data = Images()
    data.spec = Words.spec
    with pytest.raises(ZooError, match="neither log_prob nor elbo"):
        evaluate(Words(), data=data)
    for how in ({"n": 5}, {"options": {"steps": 3}}):
        with pytest.raises(ZooError, match="No samples of Words are measured: leave out how they are drawn"):
            evaluate(Words(), data=data, **how)


def test_samples_of_a_bound_are_refused_where_samples_alone_are_measured():
    with pytest.raises(ZooError, match="these alone are measured: leave out samples, the draws behind a bound"):
        evaluate(Coin(), data=Images(), n=5, samples=3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"limit": 0}, "limit must be at least 1"),
        ({"limit": -5}, "limit must be at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"split": "train"}, "no split 'train'"),
        ({"device": "cuda:99"}, "no device 'cuda:99'"),
        ({"device": "nonsense"}, "no device 'nonsense'"),
        ({"data": {"class_path": "os.system"}}, "class of zoo.data, not 'os.system'"),
        ({"data": {"class_path": "zoo.database.X"}}, "class of zoo.data"),
        ({"data": {"class_path": "zoo.data.Imagined"}}, "no data module 'zoo.data.Imagined'"),
        ({"data": {"class_path": "zoo.data.imagined.X"}}, "no data module"),
        ({"data": {"class_path": "zoo.data.images.os"}}, "no data module"),
        ({"data": {"class_path": "zoo.data.DataSpec"}}, "no data module"),
        ({"data": {**DIGITS, "init_args": {"root": "/"}}}, "may not set root"),
        ({"data": {**DIGITS, "init_args": {"colour": True}}}, "takes no argument 'colour'"),
        ({"data": Images()}, "Images gives image data"),
    ],
)
def test_what_cannot_be_measured_is_refused(folder, arguments, sentence):
    with pytest.raises(ZooError, match=sentence):
        evaluate(folder, **{"device": "cpu", **arguments})


def test_a_model_or_a_checkpoint_without_data_needs_some(tmp_path):
    with pytest.raises(ZooError, match="names no data set"):
        evaluate(Coin())
    with pytest.raises(DataError, match="is empty"):
        evaluate(Coin(), data=Images(0))
    with pytest.raises(CheckpointError):
        evaluate(tmp_path / "absent")


class Alone(Measurement):
    """A number of the model alone: without data, without a count."""

    metrics = (Metric("lipschitz", "slope", 2),)
    needs_data = False

    def compute(self):
        return [Result(self.metrics[0], "upper", 1.5)]


def test_a_number_that_needs_no_data_is_of_no_split(tmp_path):
    model = Coin()
    model.measurements = lambda: [Alone()]
    likelihood, alone = evaluate(model, data=Images(), limit=4)
    assert (likelihood.n, likelihood.split, likelihood.limit) == (4, "test", True)
    assert (alone.n, alone.split, alone.limit, alone.protocol) == (None, None, False, "")
    (alone,) = evaluate(model)
    assert (alone.n, alone.split, alone.dataset) == (None, None, "")
    folder = zoo.save(PixelCNN(shape=[1, 4, 4], levels=2, channels=2, blocks=1), tmp_path / "a", results=[alone])
    assert results_of(read_config(folder)) == [alone]
    assert "| slope | ≤ 1.50 | upper | - | - | - | - |" in card.render(read_config(folder))


def test_a_strangers_data_module_and_loader_will_do(folder):
    own = Digits()
    own.setup("test")
    (expected,) = evaluate(folder, device="cpu")

    class Plain(LightningDataModule):
        """Says nothing of its data."""

        def test_dataloader(self):
            return DataLoader(TensorDataset(own.test[0]), 32)

    (found,) = evaluate(folder, data=Plain(), device="cpu")
    assert (found.n, found.dataset) == (expected.n, "Plain")
    assert found.value == pytest.approx(expected.value, rel=1e-5)
    (found,) = evaluate(folder, data=DataLoader(own.test[0], 32), device="cpu")
    assert (found.n, found.dataset) == (expected.n, "Tensor")
    assert found.value == pytest.approx(expected.value, rel=1e-5)
    with pytest.raises(DataError, match="a DataLoader has one alone: give a data module"):
        evaluate(folder, data=DataLoader(own.test[0], 32), metrics="fid", device="cpu")


def test_a_flow_is_not_measured_on_points_of_another_target():
    with pytest.raises(DataError, match="The data are those of energy1, the model is to fit energy2"):
        evaluate(EnergyFlow("energy2", layers=1), data=zoo.data.Points("energy1", train=9, validation=9, test=9))


def test_validation_split(folder):
    (result,) = evaluate(folder, split="validation", device="cpu")
    data = Digits()
    data.setup("validate")
    assert (result.split, result.n) == ("validation", len(data.val[0]))
    direct = zoo.load(folder).bits_per_dim(data.val[0]).mean().item()
    assert result.value == pytest.approx(direct, rel=1e-6)


def test_binarized_mnist(real_data):
    data = zoo.data.MNIST(root=real_data("MNIST/raw"), binarized=True)
    config = {"class_path": "zoo.data.MNIST", "init_args": {"binarized": True}}
    model = PixelCNN(shape=[1, 28, 28], levels=2, channels=4, blocks=1)
    (result,) = evaluate(model, data=config, root=data.root, limit=20)
    data.setup("test")
    with torch.no_grad():
        direct = -model.log_prob(data.test[0][:20]).mean().item()
    assert (result.metric.name, result.value) == ("nats", pytest.approx(direct, rel=1e-6))
    assert (result.dataset, result.protocol, result.limit) == ("MNIST", data.protocol, True)


def test_merging_replaces_the_same_measurement_only():
    first = Result(METRICS["nats"], "exact", 2, n=9, split="test", dataset="MNIST", protocol="a")
    other, newer = replace(first, metric=METRICS["fid"]), replace(first, value=1)
    elsewhere = replace(first, protocol="b")
    assert merge([first, other], [newer, elsewhere]) == [newer, other, elsewhere]
    assert merge([], [newer]) == [newer]
