"""Glow: actnorm started from the data, once and alike in all processes; 1x1 convolutions and singular ones."""

from __future__ import annotations

import copy
import json
import threading

import pytest
import torch
from diffeomorphisms import check_diffeomorphism, randomize
from tiny_runs import FewDigits, Stop, differences, fit, last
from torch import Tensor

from zoo.callbacks.ema import EMA
from zoo.errors import CheckpointError, DataError, ZooError
from zoo.flows.couplings import AffineCoupling, FactorOut
from zoo.flows.glow import ActNorm, Glow, InvertibleConv
from zoo.hub import store


def tiny(shape=(1, 4, 4), levels: int = 17, **arguments) -> Glow:
    usual = {"scales": 2, "steps": 2, "channels": 6, "blocks": 1}
    return Glow(list(shape), levels, **{**usual, **arguments})


def images(n: int, levels: int = 17) -> Tensor:
    """Correlated, of different means and contrasts."""
    noise = 6 + torch.randn(n, 1, 4, 4).cumsum(3) * torch.tensor([0.5, 1, 2, 3])[:, None]
    return noise.round().clamp(0, levels - 1).to(torch.uint8)


# -- actnorm -------------------------------------------------------------------------------------------------


def test_actnorm_is_a_diffeomorphism():
    x, z = torch.randn(2, 3, 4, 2, 3, dtype=torch.float64)
    check_diffeomorphism(randomize(ActNorm(4)), x, z=z)


def test_actnorm_gives_mean_0_and_variance_1():
    layer, x = ActNorm(3), torch.randn(64, 3, 4, 4) * torch.tensor([0.1, 3.0, 1.0])[:, None, None] + 5
    layer.initialize(x, lambda tensor: tensor)
    z = layer(x)[0]
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(z.var((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-4)
    layer.initialize(torch.full((2, 3, 4, 4), 7.0), lambda tensor: tensor)
    assert torch.isfinite(layer(x)[0]).all(), "of channels that do not vary"


def test_after_initialization_every_actnorm_gives_mean_0_and_variance_1():
    model = tiny()
    for coupling in model.modules():
        if isinstance(coupling, AffineCoupling):
            randomize(coupling, 0.5).float()
    x, found = images(256), []
    torch.manual_seed(1)
    model.initialize(x)
    for layer in model.modules():
        if isinstance(layer, ActNorm):
            layer.register_forward_hook(lambda layer, inputs, outputs: found.append(outputs[0]))
    torch.manual_seed(1)
    model.log_density(model.noised(x))
    assert len(found) == 5  # one a step and one at the end
    for z in found:
        torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(z.shape[1]), rtol=0, atol=1e-3)
        torch.testing.assert_close(z.var((0, 2, 3), correction=0), torch.ones(z.shape[1]), rtol=0, atol=1e-3)


def test_processes_start_alike_and_as_one_that_sees_all_data(monkeypatch):
    """Two threads stand for two processes, each with half of the batch."""
    monkeypatch.setattr(Glow, "noised", staticmethod(lambda x: x + 0.5))
    whole = tiny()
    models, x = [copy.deepcopy(whole), copy.deepcopy(whole)], images(64)
    barrier, given = threading.Barrier(2, timeout=60), [torch.empty(0)] * 2

    def run(rank: int) -> None:
        def mean(tensor: Tensor) -> Tensor:
            given[rank] = tensor
            barrier.wait()
            both = (given[0] + given[1]) / 2
            barrier.wait()
            return both

        models[rank].initialize(x[32 * rank : 32 * rank + 32], mean)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole.initialize(x)
    first, second = (model.state_dict() for model in models)
    for name, value in whole.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-4)


def test_the_first_batch_of_a_run_starts_actnorm_and_nothing_else_does(tmp_path, monkeypatch):
    calls = []
    initialize = Glow.initialize
    monkeypatch.setattr(
        Glow, "initialize", lambda self, *given: (calls.append(len(given[0])), initialize(self, *given))
    )
    data = FewDigits(batch_size=16, validation=50)
    model = Glow(channels=4, blocks=1, steps=1)
    assert not model.initialized
    fit(tmp_path / "run", EMA(0.9), model=model, data=data, max_steps=3, num_sanity_val_steps=1)
    assert calls == [16]
    assert model.initialized
    # Weights that are loaded are kept, and trained on.
    folder = store.save(model.eval(), tmp_path / "glow-tiny", dtype="float32")
    loaded = store.load(folder).train()
    assert loaded.initialized
    fit(tmp_path / "more", model=loaded, data=data, max_steps=1)
    assert calls == [16]


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path):
    def run(folder, *callbacks, **settings):
        model = Glow(channels=4, blocks=1, steps=1, dropout=0.3, lr=0.01, warmup=2, optimizer="muon")
        data = FewDigits(batch_size=16, validation=50)
        fit(folder, EMA(0.9), *callbacks, model=model, data=data, max_steps=7, **settings)
        return last(folder)

    torch.manual_seed(3)
    whole = run(tmp_path / "whole")
    torch.manual_seed(3)
    half = run(tmp_path / "half", Stop(3))
    assert list(differences(whole, half))
    torch.manual_seed(4)  # other rotations, all of which must come from the checkpoint
    resumed = run(tmp_path / "resumed", ckpt_path=tmp_path / "half" / "checkpoints" / "last.ckpt")
    assert not list(differences(whole, resumed))
    assert whole["state_dict"]["initialized"]


# -- 1x1 convolutions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_convolutions_are_diffeomorphisms(channels):
    conv = randomize(InvertibleConv(channels), 0.1)
    x, z = torch.randn(2, 3, channels, 2, 1, dtype=torch.float64)
    check_diffeomorphism(conv, x, z=z)


def test_a_convolution_is_the_product_with_its_matrix_and_starts_as_a_rotation():
    conv, x = InvertibleConv(5).double(), torch.randn(2, 5, 3, 2, dtype=torch.float64)
    weight = conv.weight_matrix()
    torch.testing.assert_close(weight @ weight.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-6)
    z, log_det = conv(x)
    torch.testing.assert_close(z, torch.einsum("ij,njhw->nihw", weight, x))
    torch.testing.assert_close(log_det, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-5)
    weight = randomize(conv).weight_matrix()
    torch.testing.assert_close(conv(x)[1], (6 * weight.slogdet()[1]).expand(2))


def test_convolutions_are_not_rounded_under_autocast():
    conv, x = InvertibleConv(4), torch.randn(2, 4, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        z, _ = conv(x)
        again, _ = conv.inverse(z)
    assert torch.equal(z, conv(x)[0])
    torch.testing.assert_close(again, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("value", "sentence"), [(-200.0, "its weight is singular"), (float("nan"), "are not finite")])
def test_a_singular_weight_is_refused_when_it_is_inverted_and_when_it_is_loaded(value, sentence):
    model = tiny()
    good = copy.deepcopy(model.state_dict())
    (conv, *_) = (module for module in model.modules() if isinstance(module, InvertibleConv))
    with torch.no_grad():
        conv.factors.view(4, 4)[1, 1] = value
    for draw in (lambda: model.sample(2, seed=0), lambda: model.decode(torch.zeros(1, 16))):
        with pytest.raises(ZooError, match=f"1x1 convolution cannot be inverted, for .*{sentence}") as caught:
            draw()
        assert "\n" not in str(caught.value)
    other = tiny()
    other.load_state_dict(good)
    with pytest.raises(CheckpointError, match=f"1x1 convolution net.*cannot be inverted, for .*{sentence}"):
        other.load_state_dict(model.state_dict())
    assert all(torch.equal(value, good[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("sign", torch.tensor([1.0, 0.0, 1.0, -1.0]), "sign must be of 1 and -1"),
        ("permutation", torch.tensor([0, 1, 1, 3]), r"permutation must be one of 0\.\.3"),
        ("permutation", torch.tensor([0, 1, 2, 4]), r"permutation must be one of 0\.\.3"),
    ],
)
def test_buffers_that_make_a_weight_singular_are_refused(name, value, sentence):
    conv = InvertibleConv(4)
    with pytest.raises(CheckpointError, match=sentence):
        conv.load_state_dict({**conv.state_dict(), name: value})


# -- the model -----------------------------------------------------------------------------------------------


def test_scales_steps_and_priors():
    model = Glow([3, 16, 16], 256, scales=3, steps=2, channels=4, blocks=1)
    kinds = [type(m) for m in model.net.modules() if isinstance(m, (ActNorm, InvertibleConv, AffineCoupling))]
    step = [ActNorm, InvertibleConv, AffineCoupling]
    assert kinds == [*step, *step, AffineCoupling, *step, *step, AffineCoupling, *step, *step, ActNorm]
    assert [m.shape for m in model.net.modules() if isinstance(m, FactorOut)] == [(6, 8, 8), (12, 4, 4)]


def test_the_prior_of_what_leaves_reads_what_stays():
    """Latents that leave are standard normal given those that stay: their mean and deviation have been taken out."""
    model = tiny(steps=1)
    (factor,) = (m for m in model.net.modules() if isinstance(m, FactorOut))
    scale = model.net.transform.transforms[1].transforms
    prior = scale[list(scale).index(factor) - 1]
    randomize(prior, 0.5).float()
    x = torch.randn(3, 4, 2, 2)
    z, log_det = prior(x)
    assert torch.equal(z[:, :2], x[:, :2])
    raw, shift = prior.net(x[:, :2]).chunk(2, 1)
    log_scale = prior.bound * torch.tanh(raw / prior.bound)
    normal = torch.distributions.Normal(-shift * (-log_scale).exp(), (-log_scale).exp())
    expected = normal.log_prob(x[:, 2:]).flatten(1).sum(1)
    base = torch.distributions.Normal(0, 1).log_prob(z[:, 2:]).flatten(1).sum(1)
    torch.testing.assert_close(base + log_det, expected)


def saturated(model: Glow) -> Glow:
    """Every coupling stretches as far as it may, whatever it reads."""
    for module in model.modules():
        if isinstance(module, AffineCoupling):
            with torch.no_grad():
                module.net.last.bias[: len(module.net.last.bias) // 2] = 1e4
    return model.eval()


@pytest.mark.parametrize(
    ("scales", "steps", "stretch", "each"), [(2, 3, 4.0, 4 / 7), (3, 2, 0.8, 0.1), (1, 1, 9.0, 2.0), (2, 3, None, 2.0)]
)
def test_couplings_together_stretch_no_more_than_asked(scales, steps, stretch, each):
    model, found = saturated(Glow([1, 16, 16], scales=scales, steps=steps, channels=4, blocks=1, stretch=stretch)), []
    for module in model.modules():
        if isinstance(module, AffineCoupling):
            module.register_forward_hook(lambda layer, inputs, outputs: found.append((inputs[0], outputs[1])))
    model.encode(torch.zeros(2, 1, 16, 16, dtype=torch.uint8), verify=False)
    # Half of what a coupling sees is moved: twice the mean of the log-scales is that of those.
    log_scales = [2 * log_det[0].item() / x[0].numel() for x, log_det in found]
    assert log_scales == pytest.approx([each] * (scales * steps + scales - 1), rel=1e-5)
    assert stretch is None or sum(log_scales) <= stretch * (1 + 1e-5)


def test_with_a_limit_noise_comes_back_and_without_it_does_not():
    torch.manual_seed(0)
    limited = Glow(channels=4, blocks=1, steps=8)
    free = Glow(channels=4, blocks=1, steps=8, stretch=None)
    free.load_state_dict(limited.state_dict())
    x = torch.randint(0, 17, (20, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(saturated(limited).decode(limited.encode(x)), x)
    with pytest.raises(DataError, match=r"20 of 20 images .* do not come back"):
        saturated(free).encode(x)


@pytest.mark.parametrize("stretch", [0.0, -1.0, float("inf"), float("nan")])
def test_a_stretch_that_is_none_is_refused(stretch):
    with pytest.raises(DataError, match="stretch must be positive, or None for no limit, not"):
        Glow(stretch=stretch)


def test_steps_below_one_are_refused():
    with pytest.raises(ZooError, match="steps must be at least 1, not 0"):
        Glow(steps=0)


def test_a_configuration_without_a_stretch_was_published_before_there_was_one(tmp_path):
    torch.manual_seed(0)
    model = Glow(channels=4, blocks=1, stretch=None)
    for module in model.modules():
        if isinstance(module, AffineCoupling):
            randomize(module, 2.0).float()
    folder = store.save(model.eval(), tmp_path / "glow-tiny", dtype="float32")
    config = json.loads((folder / "config.json").read_text())
    assert config["init_args"].pop("stretch", 0) is None
    (folder / "config.json").write_text(json.dumps(config))
    x = torch.randint(0, 17, (8, 1, 8, 8), dtype=torch.uint8)
    loaded = store.load(folder)
    assert loaded.hparams.stretch is None
    assert torch.equal(loaded.elbo(x, seed=0), model.elbo(x, seed=0))
    config["init_args"]["stretch"] = 4.0
    (folder / "config.json").write_text(json.dumps(config))
    assert not torch.equal(store.load(folder).elbo(x, seed=0), model.elbo(x, seed=0))
