"""Gaussian mixtures: the density against PyTorch's, the fit against sample moments, EM's ascent, sampling."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import fit, sealed
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from zoo.data import ImageData
from zoo.errors import DataError, ZooError
from zoo.evaluation.measure import evaluate
from zoo.mixtures import GaussianMixture, Uniform

SHAPE, LEVELS = (1, 2, 3), 16


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


class Correlated(ImageData):
    """Images of correlated pixels, of two contrasts."""

    title, shape, levels = "correlated", SHAPE, LEVELS

    def __init__(self, n: int = 603, validation: int = 3) -> None:
        super().__init__(batch_size=100, validation=validation)
        self.n = n

    def prepare_data(self) -> None:
        """Nothing to download."""

    def read(self, split: str) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(self.n, 6, generator=generator)
        noise[: self.n // 2] *= 3  # shuffled by the loader
        images = (8 + noise.cumsum(1) * 0.7).round().clamp(0, LEVELS - 1)
        return images.to(torch.uint8).view(-1, *SHAPE), torch.zeros(self.n, dtype=torch.int64)


def far(components: int = 3) -> GaussianMixture:
    """A model far from its initialization."""
    model = GaussianMixture(list(SHAPE), LEVELS, components)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.factor.copy_(model._factor().diagonal_scatter(1 + torch.rand(6))[tuple(torch.tril_indices(6, 6))])
        model.log_weight.copy_(model.log_weight.log_softmax(0))
    return model.eval()


def reference(model: GaussianMixture) -> MixtureSameFamily:
    """The same density by torch.distributions, of z = 2 y / levels - 1."""
    root = model._factor().double().inverse()
    means = model.mean + model.centre.double() @ root.T
    factors = root * model.log_scale.double().exp()[:, None, :]
    return MixtureSameFamily(
        Categorical(logits=model.log_weight.double()), MultivariateNormal(means, scale_tril=factors)
    )


def images(n: int) -> Tensor:
    return torch.randint(0, LEVELS, (n, *SHAPE), dtype=torch.uint8)


def test_density_equals_pytorchs():
    model = far()
    y = LEVELS * torch.rand(20, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        expected = reference(model).log_prob(2 * y.flatten(1) / LEVELS - 1) + 6 * math.log(2 / LEVELS)
        torch.testing.assert_close(model.log_density(y).double(), expected, atol=1e-3, rtol=1e-5)


def test_density_integrates_to_one():
    model = GaussianMixture([1, 1, 1], 4, 3)
    with torch.no_grad():
        for parameter in (model.mean, model.centre, model.log_scale):
            parameter.add_(0.2 * torch.randn_like(parameter))
        y = torch.linspace(-40, 44, 40001, dtype=torch.float64)
        total = torch.trapezoid(model.log_density(y.view(-1, 1, 1, 1)).double().exp(), y)
    assert total.item() == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_elbo_is_below_the_probability_of_the_level_and_above_nothing():
    """One dimension, by quadrature: log of the mean of p(x + u) over u, and the mean of log p(x + u)."""
    model = GaussianMixture([1, 1, 1], 4, 2)
    with torch.no_grad():
        model.log_scale.sub_(2)
        model.centre.add_(0.5 * torch.randn_like(model.centre))
        x = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1)
        u = (torch.arange(4000) + 0.5) / 4000
        log_p = model.log_density((x + u[:, None, None, None, None]).flatten(0, 1)).view(4000, 4)
        exact = log_p.exp().mean(0).log()
        bound = model.elbo(x, samples=20000, seed=0)
    torch.testing.assert_close(bound, log_p.mean(0), atol=0.1, rtol=0)
    assert (bound < exact).all()


def test_the_noise_is_the_seeds():
    model, x = far(), images(5)
    state = torch.get_rng_state()
    first = model.elbo(x, seed=3)
    assert torch.equal(first, model.elbo(x, seed=3))
    assert not torch.equal(first, model.elbo(x, seed=4))
    assert torch.equal(state, torch.get_rng_state())
    both = torch.stack([first, model.elbo(x, samples=2, seed=3)])
    assert not torch.equal(both[0], both[1])


def test_one_epoch_fits_the_mean_and_the_covariance(tmp_path):
    model, _ = fit(tmp_path, data=Correlated(), model=GaussianMixture(list(SHAPE), LEVELS), max_epochs=1)
    x = Correlated().read("train")[0][:600].flatten(1).double()
    z = (x + 0.5) * 2 / LEVELS - 1
    covariance = z.T.cov(correction=0) + torch.eye(6) * (2 / LEVELS) ** 2 / 12
    torch.testing.assert_close(model.mean.detach().double(), z.mean(0), atol=1e-5, rtol=0)
    found = reference(model).component_distribution.covariance_matrix[0]
    torch.testing.assert_close(found.detach(), covariance, atol=1e-4, rtol=1e-3)


def test_each_epoch_of_em_raises_the_likelihood(tmp_path):
    data = Correlated()
    x = data.read("train")[0]
    y = x + torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for epochs in (1, 2, 3, 6, 12):
        run = tmp_path / str(epochs)
        model, _ = fit(run, data=Correlated(), model=GaussianMixture(list(SHAPE), LEVELS, 3), max_epochs=epochs)
        found.append(model.log_density(y).mean().item())
    # The noise is drawn anew in each epoch, which may cost a little near the end.
    assert all(later > earlier - 0.01 for earlier, later in pairwise(found[1:]))
    single, _ = fit(tmp_path / "one", data=Correlated(), model=GaussianMixture(list(SHAPE), LEVELS), max_epochs=1)
    assert found[-1] > single.log_density(y).mean().item() + 0.1
    assert model.log_weight.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_samples_are_data_and_the_seed_decides():
    model = far()
    state = torch.get_rng_state()
    x = model.sample(50, seed=1)
    assert (x.dtype, x.shape) == (torch.uint8, (50, *SHAPE))
    assert x.max() < LEVELS
    assert torch.equal(x, model.sample(50, seed=1))
    assert not torch.equal(x, model.sample(50, seed=2))
    assert torch.equal(state, torch.get_rng_state())


def test_samples_follow_the_distribution():
    model = far()
    with torch.no_grad():  # narrow, so that hardly any sample is outside the levels
        model.mean.zero_()
        model.log_scale.sub_(2)
        model.centre.mul_(0.3)
    n = 20000
    z = (model.sample(n, seed=0).flatten(1).double() + 0.5) * 2 / LEVELS - 1
    expected = reference(model)
    deviation = expected.variance.sqrt().clamp(min=2 / LEVELS)
    assert ((z.mean(0) - expected.mean).abs() < 5 * deviation / n**0.5 + 0.02).all()
    # Rounding to levels adds the variance of its own uniform error.
    torch.testing.assert_close(z.var(0), expected.variance + (2 / LEVELS) ** 2 / 12, atol=0, rtol=0.08)


def test_constant_images_have_the_variance_of_the_noise(tmp_path):
    class Flat(Correlated):
        def read(self, split):
            images, labels = super().read(split)
            return torch.zeros_like(images), labels

    model, _ = fit(tmp_path, data=Flat(), model=GaussianMixture(list(SHAPE), LEVELS), max_epochs=1)
    covariance = reference(model).component_distribution.covariance_matrix[0].detach()
    torch.testing.assert_close(covariance, torch.eye(6).double() * (2 / LEVELS) ** 2 / 12, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"shape": []}, r"shape must be of positive sizes, not \[\]"),
        ({"shape": [1, 0, 2]}, r"not \[1, 0, 2\]"),
        ({"levels": 257}, "levels must be 2..256, not 257"),
        ({"components": 0}, "components must be at least 1, not 0"),
    ],
)
def test_bad_constructor_arguments(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        GaussianMixture(**arguments)


@pytest.mark.parametrize("x", [torch.zeros(2, 1, 3, 2, dtype=torch.uint8), torch.zeros(2, *SHAPE)])
def test_what_does_not_fit_is_refused(x):
    with pytest.raises(DataError, match="this model takes"):
        far().elbo(x)


def test_arguments_are_plain_and_rebuild_the_model():
    model = far()
    other = GaussianMixture(**json.loads(json.dumps(dict(model.hparams))))
    other.load_state_dict(model.state_dict())
    x = images(3)
    assert torch.equal(other.elbo(x, seed=0), model.elbo(x, seed=0))
    assert model.likelihood == "bound"


def test_its_numbers_say_how_they_were_taken():
    (result,) = evaluate(far(), data=Correlated(), limit=10, device="cpu")
    assert result.protocol == f"{Correlated().protocol}; uniform dequantization, one draw"
    assert result.kind == "upper"


def test_what_has_no_weights_is_fitted_by_one_process():
    model = Uniform([1, 2, 2], 4)
    model._trainer = SimpleNamespace(datamodule=None, world_size=2)
    with pytest.raises(ZooError, match="Uniform has nothing that several processes could train"):
        model.setup("fit")
    model._trainer.world_size = 1
    model.setup("fit")


@pytest.mark.parametrize("value", [-1e30, 1e30])
def test_weights_of_no_component_are_refused_as_such(value):
    """exp(-1e30) is zero, of which nothing can be drawn, and exp(1e30) is infinite."""
    model = GaussianMixture(shape=[1, 2, 2], levels=4, components=2)
    torch.nn.init.constant_(model.log_weight, value)
    with pytest.raises(ZooError, match=r"damaged"):
        model.sample(2, seed=0)
