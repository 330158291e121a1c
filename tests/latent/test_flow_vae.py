"""A bound below the exact value, importance weights whose mean is p(x), and posteriors that bring it closer."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_runs import fit
from torch import Tensor

import zoo
from zoo.data import Digits
from zoo.errors import DataError
from zoo.hub import store
from zoo.latent.flow_vae import FlowVAE

SMALL = {"channels": 2, "blocks": 1, "hidden": 6, "context": 3, "flow_hidden": 8}


@pytest.fixture(autouse=True)
def _seeded(_sealed):
    torch.manual_seed(0)


def tiny(posterior: str) -> FlowVAE:
    """A model of 2x2 images whose latents matter, with posteriors that differ and are not narrower than the true ones.

    Importance weights of a narrow one would have no variance to speak of an error.
    """
    model = FlowVAE(shape=[1, 2, 2], latent_dim=2, posterior=posterior, layers=3, **SMALL)
    with torch.no_grad():
        for part, scale in ((model.net.decoder, 0.5), (model.net.encoder, 0.2), (model.net.flow, 0.2)):
            for parameter in part.parameters():
                parameter.add_(scale * torch.randn_like(parameter))
        model.net.encoder.out.bias[2:4] = 0.8
    return model.eval()


def every_image() -> Tensor:
    return torch.cartesian_prod(*[torch.tensor([0, 1], dtype=torch.uint8)] * 4).view(16, 1, 2, 2)


@torch.no_grad()
def exact(model: FlowVAE, x: Tensor) -> Tensor:
    """log p(x) by quadrature over two latents."""
    line = torch.linspace(-7, 7, 281)
    z = torch.cartesian_prod(line, line)
    logits = model.net.decoder(z).flatten(1).double()
    bits = x.flatten(1).double()
    log_likelihood = (
        bits @ torch.nn.functional.logsigmoid(logits).T + (1 - bits) @ torch.nn.functional.logsigmoid(-logits).T
    )
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z.double()).sum(1)
    return (log_likelihood + prior).logsumexp(1) + 2 * math.log(line[1] - line[0])


def test_the_exact_value_sums_to_one():
    assert exact(tiny("planar"), every_image()).exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("posterior", ["diagonal", "planar", "iaf"])
def test_the_mean_importance_weight_is_the_probability(posterior):
    model, x = tiny(posterior), every_image()[[0, 6, 15]]
    truth = exact(model, x)
    with torch.no_grad():
        found = model.net.infer(x)
        weights = []
        for k in range(20):
            noise = torch.randn(500 * len(x), 2, generator=torch.Generator().manual_seed(k))
            given = [None if part is None else part.repeat(500, 1) for part in found]
            weights.append(model.net.log_weight(x.repeat(500, 1, 1, 1), noise, *given).view(500, 3))
    ratio = (torch.cat(weights).double() - truth).exp()
    error = ratio.std(0) / len(ratio) ** 0.5
    assert float(error.max()) < 0.1, "a check that could fail"
    assert float(((ratio.mean(0) - 1).abs() / error).max()) < 4


@pytest.mark.parametrize("posterior", ["diagonal", "planar", "iaf"])
def test_the_bound_is_below_and_rises_with_the_samples(posterior):
    model, x = tiny(posterior), every_image()
    with torch.no_grad():
        bounds = [model.elbo(x.repeat(16, 1, 1, 1), samples=k, seed=0).view(16, 16).mean(0) for k in (1, 10, 300)]
    gaps = [(exact(model, x) - bound).mean().item() for bound in bounds]
    assert gaps[0] > gaps[1] > gaps[2] > -0.01
    assert gaps[2] < gaps[0] / 4


def test_chunks_of_samples_make_no_difference(monkeypatch):
    model, x = tiny("planar"), every_image()
    with torch.no_grad():
        whole = model.elbo(x, samples=7, seed=3)
        monkeypatch.setattr("zoo.latent.flow_vae.rows", lambda device: 32)
        torch.testing.assert_close(model.elbo(x, samples=7, seed=3), whole)


def test_each_image_has_its_own_posterior():
    model = tiny("planar")
    x = every_image()
    with torch.no_grad():
        alone = torch.cat([model.net(one[None], torch.ones(1, 2)) for one in x])
        torch.testing.assert_close(model.net(x, torch.ones(16, 2)), alone, rtol=1e-4, atol=1e-4)
    assert alone.unique().numel() > 8


def test_samples_follow_the_model():
    model = tiny("iaf")
    x = model.sample(4000, seed=1)
    assert x.dtype == torch.uint8
    assert x.shape == (4000, 1, 2, 2)
    expected = exact(model, every_image()).exp() * 4000
    index = (x.flatten(1).long() * torch.tensor([8, 4, 2, 1])).sum(1)
    counts = torch.bincount(index, minlength=16).double()
    assert float(((counts - expected).square() / expected).sum()) < 44.3  # chi-square, 15 degrees, p = 1e-4
    assert torch.equal(model.sample(5, seed=2), model.sample(5, seed=2))


def test_latents_are_decoded_to_the_most_probable_images():
    model = tiny("planar")
    z = model.latents(200, seed=0)
    assert z.shape == (200, 2)
    x = model.decode(z)
    model.spec.check(x)
    with torch.no_grad():
        means = model.net.decoder(z).sigmoid()
    bits = every_image()[:, None]
    likelihood = torch.where(bits.bool(), means, 1 - means).flatten(2).prod(2)  # of each image, given each latent
    assert torch.equal(x, every_image()[likelihood.argmax(0)])
    assert x.unique(dim=0).shape[0] > 1
    assert torch.equal(model.interpolate(z[:3], z[3:6], 4)[:, 0], x[:3])
    assert torch.equal(model.walk(3, 5, seed=0)[::5], model.decode(model.latents(3, seed=0)))


def test_training_lowers_the_bound_and_weights_round_trip(tmp_path):
    model = FlowVAE(
        shape=[1, 8, 8], latent_dim=4, layers=2, posterior="planar", lr=3e-3, warmup=5, **{**SMALL, "hidden": 32}
    )
    data = Binary(batch_size=64)
    data.setup("fit")
    x = data.val[0]
    before = model.eval().elbo(x, seed=0).mean().item()
    model.train()
    fit(tmp_path, model=model, data=data, max_steps=40)
    after = model.eval().elbo(x, seed=0).mean().item()
    assert after > before + 5
    folder = store.save(model, tmp_path / "vae-digits", dtype="float32")
    again = zoo.load(folder)
    torch.testing.assert_close(again.elbo(x, seed=0), model.elbo(x, seed=0))


class Binary(Digits):
    """Digits of two levels."""

    levels = 2

    def read(self, split):
        images, labels = super().read(split)
        return (images > 8).to(torch.uint8), labels


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"posterior": "cubic"}, "posterior must be one of diagonal, planar, iaf, not 'cubic'"),
        ({"latent_dim": 0}, "latent_dim must be at least 1, not 0"),
        ({"blocks": 0}, "blocks must be at least 1"),
        ({"shape": [28, 28]}, r"shape must be \(C, H, W\)"),
    ],
)
def test_bad_arguments_are_refused(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        FlowVAE(**arguments)


def test_bad_data_and_counts_are_refused():
    model = tiny("diagonal")
    with pytest.raises(DataError, match=r"takes 0\.\.1"):
        model.elbo(torch.full((1, 1, 2, 2), 7, dtype=torch.uint8))
    with pytest.raises(DataError, match="samples must be at least 1"):
        model.elbo(every_image(), samples=0)
    with pytest.raises(DataError, match="n must be at least 1"):
        model.sample(0)
