"""What the image flows share: their layers, and what holds for NICE, RealNVP and Glow alike."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace

import pytest
import torch
from diffeomorphisms import check_diffeomorphism, randomize
from tiny_runs import FewDigits, fit
from torch import Tensor, nn

from zoo.data import Digits
from zoo.errors import DataError
from zoo.evaluation.measure import evaluate
from zoo.flows.core import Compose, Flow, Normal
from zoo.flows.couplings import (
    AdditiveCoupling,
    AffineCoupling,
    Centre,
    FactorOut,
    Flatten,
    Logit,
    ResidualNet,
    Squeeze,
    squeezed,
)
from zoo.flows.glow import Glow, InvertibleConv
from zoo.flows.images import ImageFlow
from zoo.flows.nice import NICE, Scaling
from zoo.flows.realnvp import RealNVP
from zoo.flows.reconstruction import FAR
from zoo.hub import store
from zoo.nn.draws import Draws
from zoo.results import METRICS, Result, merge

MODELS = [NICE, RealNVP, Glow]


def images(n: int, shape=(1, 4, 4), levels: int = 17) -> Tensor:
    return torch.randint(0, levels, (n, *shape), dtype=torch.uint8)


def tiny(cls: type[ImageFlow], shape=(1, 4, 4), levels: int = 17, **arguments) -> ImageFlow:
    """A model far from its initialization whose draws lie mostly among the levels."""
    usual = {"scales": 2, "channels": 6, "blocks": 1}
    model = cls(list(shape), levels, **{**usual, **arguments})
    for module in list(model.modules()):
        if isinstance(module, ResidualNet):
            randomize(module, 0.1 if cls is NICE else 0.5)
        elif isinstance(module, (InvertibleConv, Scaling)):
            randomize(module, 0.05)
    model.float().eval()
    if cls is Glow:
        model.initialize(images(200, shape, levels))
    elif cls is NICE:  # as wide as the levels
        with torch.no_grad():
            model.net.transform.transforms[-1].log_scale.sub_(1)
    return model


def affine(channels: int, partition: str = "checkerboard", swap: bool = False) -> AffineCoupling:
    return AffineCoupling(ResidualNet(channels // 2, channels, 5, 1), partition, swap)


# -- layers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [Centre(17), Logit(17, 0.05), Logit(17, 0.3)])
def test_ends_are_diffeomorphisms(end):
    y = 17 * torch.rand(3, 1, 2, 2, dtype=torch.float64)
    check_diffeomorphism(end, y, z=torch.randn(3, 1, 2, 2, dtype=torch.float64))


def test_the_ends_of_the_levels_stay_in_the_range_of_the_ends():
    edges = torch.tensor([0.0, 17.0]).view(2, 1, 1, 1)
    assert Centre(17)(edges)[0].flatten().tolist() == [-0.5, 0.5]
    p = Logit(17, 0.05)(edges)[0].flatten().sigmoid()
    torch.testing.assert_close(p, torch.tensor([0.05, 0.95]))


def test_squeezing_orders_the_pixels_of_a_block_by_diagonals():
    x = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6)
    z, log_det = Squeeze()(x)
    assert z.shape == (1, 8, 2, 3)
    for group, (i, j) in enumerate([(0, 0), (1, 1), (0, 1), (1, 0)]):
        assert torch.equal(z[:, 2 * group : 2 * group + 2], x[:, :, i::2, j::2])
    assert log_det.tolist() == [0]
    check_diffeomorphism(Squeeze(), torch.randn(2, 2, 4, 6, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 4, 1), (1, 7, 7)])
def test_odd_sizes_are_not_squeezed(shape):
    with pytest.raises(DataError, match=f"Images of {shape[1]}x{shape[2]} pixels have no blocks of 2x2") as caught:
        squeezed(shape)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("partition", ["checkerboard", "rows", "columns"])
@pytest.mark.parametrize("kind", [AffineCoupling, AdditiveCoupling])
def test_couplings_are_diffeomorphisms(kind, partition, swap):
    net = ResidualNet(2, 4 if kind is AffineCoupling else 2, 5, 1)
    coupling = randomize(kind(net, partition, swap), 1.0)
    x, z = torch.randn(2, 3, 4, 2, 3, dtype=torch.float64)
    check_diffeomorphism(coupling, x, z=z)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("partition", ["checkerboard", "rows", "columns"])
def test_the_masks_of_couplings_are_those_of_pixels(partition, swap):
    squeeze, coupling = Squeeze(), randomize(affine(8, partition, swap), 1.0)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        moved = squeeze.inverse(coupling(squeeze(x)[0])[0])[0] != x
    i, j = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    second = {"checkerboard": (i + j) % 2, "rows": i % 2, "columns": j % 2}[partition] == 1
    assert torch.equal(moved, (second != swap).expand_as(moved))


def test_a_fresh_coupling_is_the_identity():
    x = torch.randn(2, 4, 3, 3)
    for coupling in (affine(4), AdditiveCoupling(ResidualNet(2, 2, 5, 2), "rows", True)):
        z, log_det = coupling(x)
        assert torch.equal(z, x)
        assert log_det.tolist() == [0, 0]


@pytest.mark.parametrize("raw", [-1e4, 1e4])
def test_the_scale_of_a_coupling_is_bounded(raw):
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([torch.full_like(x, raw), torch.zeros_like(x)], 1)

    x = torch.ones(1, 4, 1, 1)
    z, log_det = AffineCoupling(Constant())(x)
    bound = math.copysign(AffineCoupling.BOUND, raw)
    torch.testing.assert_close(z[0, 2:].flatten(), torch.full((2,), math.exp(bound)))
    torch.testing.assert_close(log_det, torch.tensor([2 * bound]))


def test_what_leaves_is_not_touched_and_what_stays_goes_on():
    rest = Compose([randomize(affine(4), 1.0), Flatten((4, 2, 2))])
    factor = FactorOut((8, 2, 2), rest)
    x = torch.randn(3, 8, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        z, log_det = factor(x)
        stay, rest_log_det = rest(x[:, :4])
    assert torch.equal(z, torch.cat([stay, x[:, 4:].flatten(1)], 1))
    assert torch.equal(log_det, rest_log_det)
    check_diffeomorphism(factor, x, z=torch.randn(3, 32, dtype=torch.float64))


@pytest.mark.parametrize("cls", MODELS)
def test_whole_flows_are_diffeomorphisms(cls):
    model = tiny(cls, shape=(2, 4, 4), couplings=2) if cls is not Glow else tiny(cls, shape=(2, 4, 4), steps=2)
    transform = model.double().net.transform
    y = 17 * torch.rand(2, 2, 4, 4, dtype=torch.float64)
    check_diffeomorphism(transform, y, z=torch.randn(2, 32, dtype=torch.float64), tolerance=1e-8)


# -- networks and precision ------------------------------------------------------------------------------------


def test_autocast_rounds_the_blocks_alone():
    net = randomize(ResidualNet(3, 6, 16, 2)).float()
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            low = net(x)
        full = net(x)
        net.blocks = nn.ModuleList()
        with torch.autocast("cpu", torch.bfloat16):
            ends = net(x)
        assert torch.equal(ends, net(x)), "the first and the last layer are in float32"
    assert low.dtype == torch.float32
    assert not torch.equal(low, full)
    torch.testing.assert_close(low, full, rtol=0, atol=0.05)


@pytest.mark.parametrize("cls", MODELS)
def test_autocast_leaves_the_density_in_float32(cls):
    model = tiny(cls)
    x = images(4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = model.elbo(x, samples=8, seed=0)
    assert low.dtype == torch.float32
    # A sum in bfloat16 would be a multiple of 8; the networks', in it, err as much at one draw of noise as at another.
    torch.testing.assert_close(low, model.elbo(x, samples=8, seed=0).detach(), rtol=0, atol=1.0)


@pytest.mark.parametrize("cls", MODELS)
def test_every_parameter_has_a_gradient(cls):
    model = tiny(cls).train()
    model.loss(images(8)).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


# -- density -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", MODELS)
def test_density_and_draws_agree_on_the_probability_of_every_image(cls):
    """P(x) = E_u p(x + u), summed over all images, is the share of continuous draws that lie among the levels."""
    model = tiny(cls, (1, 2, 2), 3, scales=1)
    every = torch.cartesian_prod(*[torch.arange(3)] * 4).view(81, 1, 2, 2)
    with torch.no_grad():
        u = torch.rand(600, 81, 1, 2, 2)
        density = model.log_density((every + u).flatten(0, 1)).exp().view(600, 81).double()
        draws = model.net.sample(30000, seed=0)
    inside = draws[((draws >= 0) & (draws < 3)).flatten(1).all(1)].floor().long().flatten(1)
    share = torch.bincount(inside @ torch.tensor([27, 9, 3, 1]), minlength=81) / len(draws)
    p = density.mean(0)
    assert share.sum() > 0.2
    error = (density.var(0) / 600 + p * (1 - p) / len(draws)).sqrt()
    assert ((p - share).abs() < 5 * error + 2e-4).all()
    assert abs(p.sum() - share.sum()) < 5 * error.norm() < 0.1
    assert (p - p.mean()).abs().max() > 0.01, "a uniform distribution would prove little"


@pytest.mark.parametrize("cls", MODELS)
def test_the_bound_is_below_the_probability(cls):
    model, x = tiny(cls, (1, 2, 2), 3, scales=1), images(4, (1, 2, 2), 3)
    with torch.no_grad():
        log_p = model.log_density((x + torch.rand(4000, *x.shape)).flatten(0, 1)).view(4000, 4)
        bound = torch.stack([model.elbo(x, seed=seed) for seed in range(100)])
    assert (bound.mean(0) < log_p.exp().mean(0).log()).all()
    assert ((bound.mean(0) - log_p.mean(0)).abs() < 5 * bound.std(0) / 10).all()


@pytest.mark.parametrize("cls", MODELS)
def test_the_loss_draws_in_training_and_is_the_same_each_time_outside(cls):
    model, x = tiny(cls), images(3)
    state = torch.get_rng_state()
    first = model.loss(x)
    assert torch.equal(first, model.loss(x))
    torch.testing.assert_close(first, -model.elbo(x, seed=0) / (16 * math.log(2)))
    assert torch.equal(state, torch.get_rng_state())
    model.train()
    drawn = model.loss(x)
    assert not torch.equal(drawn, model.loss(x))
    torch.set_rng_state(state)
    assert torch.equal(drawn, model.loss(x)), "the noise of a batch follows from the state before it"
    binary = cls([1, 4, 4], 2).eval()
    x = images(3, levels=2)
    torch.testing.assert_close(binary.loss(x), -binary.elbo(x, seed=0))


def test_dropout_is_of_training_alone():
    net = randomize(ResidualNet(2, 2, 16, 1, dropout=0.5)).float()
    x = torch.randn(1, 2, 4, 4)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


# -- images to latents and back ------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 8, 16)])
def test_every_value_comes_back(cls, shape):
    model = tiny(cls, shape, 256, channels=16).train()
    levels = torch.arange(256).repeat(math.prod(shape) // 256 + 1)[: math.prod(shape)].view(shape)
    x = torch.stack([levels, levels.flip(2), levels * 0, levels * 0 + 255]).to(torch.uint8)
    x = torch.cat([x, images(16, shape, 256)])
    z = model.encode(x)
    assert (z.dtype, z.shape) == (torch.float32, (20, math.prod(shape)))
    assert torch.equal(model.decode(z), x)
    assert model.training


class Outliers(nn.Module):
    """A shift that float32 cannot undo, of images with a value above a threshold among the kept channels."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, kept: Tensor) -> Tensor:
        return 1e9 * (kept.amax((1, 2, 3), keepdim=True) > self.threshold) + torch.zeros_like(kept)


def with_outliers(cls: type[ImageFlow]) -> tuple[ImageFlow, Tensor]:
    """A flow that does not invert some images in float32, and six images of which it is 1 and 4."""
    model, x = tiny(cls, (4, 4, 4)), images(6, (4, 4, 4), 12)
    threshold = model.net.transform.transforms[0](torch.full((1, 1, 1, 1), 14.0))[0].item()
    model.net.transform.transforms.insert(1, AdditiveCoupling(Outliers(threshold)))
    x[[1, 4], 0, 2, 2] = 16
    return model, x


@pytest.mark.parametrize("cls", MODELS)
def test_encode_refuses_what_would_not_come_back_and_says_which(cls):
    model, x = with_outliers(cls)
    with pytest.raises(DataError, match=r"^2 of 6 images \(at 1, 4 of the batch\) do not come back") as caught:
        model.encode(x)
    assert "\n" not in str(caught.value)
    z, rest = model.encode(x, verify=False), [0, 2, 3, 5]
    assert (model.decode(z) != x).flatten(1).any(1).tolist() == [False, True, False, False, True, False]
    torch.testing.assert_close(model.encode(x[rest]), z[rest])
    with pytest.raises(DataError, match=r"20 of 20 images \(at 0, 1, 2, 3, 4, 5, 6, 7 and 12 more of the batch\)"):
        model.encode(x[1].expand(20, -1, -1, -1))


def test_latents_that_are_not_finite_are_refused():
    model = NICE(channels=4, blocks=1)
    model.net.transform.transforms[-1].log_scale.data.fill_(100.0)
    with pytest.raises(DataError, match="do not come back"):
        model.encode(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("samples", [1, 3])
def test_a_bound_warns_once_and_counts_what_would_not_come_back(cls, samples):
    model, x = with_outliers(cls)
    for bound in (model.elbo, model.bits_per_dim):
        with pytest.warns(UserWarning, match="2 of 6 images do not come back from their latents") as caught:
            found = bound(x, samples=samples, seed=0)
        assert len(caught) == 1
        assert caught[0].filename == __file__, "the line that asked"
        assert found.shape == (6,)
        assert found.isfinite().all()


@pytest.mark.parametrize("cls", MODELS)
def test_a_bound_warns_of_nothing_else_and_looks_at_no_image_near_the_data(cls, monkeypatch):
    model, x = with_outliers(cls)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.train().loss(x)  # a training step waits for no GPU
        monkeypatch.setattr(model, "encode", None)  # calling it would be a TypeError
        model.eval().elbo(x[[0, 2, 3, 5]], seed=0)


def test_a_bound_does_not_warn_of_the_unlikely_that_comes_back():
    model = tiny(NICE)
    x = images(5)
    model.net.transform.transforms[-1].log_scale.data.add_(12.0)  # one factor for all latents: float32 does not mind
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (model.elbo(x, seed=0) < model.net.base.log_prob(torch.full((5, 16), FAR))).all()
    assert torch.equal(model.decode(model.encode(x)), x)


@pytest.mark.filterwarnings("ignore:.* images do not come back from their latents")  # with the broken inverse below
@pytest.mark.parametrize("cls", MODELS)
def test_evaluate_counts_the_images_that_do_not_come_back(cls, monkeypatch):
    model, data = tiny(cls, (1, 8, 8)), Digits()
    bound, lost = evaluate(model, data=data, limit=150)
    assert (bound.metric.name, bound.kind, bound.n) == ("bits_per_dim", "upper", 150)
    seen = {"n": 150, "split": "test", "dataset": "Digits", "limit": True}
    assert lost == Result(METRICS["not_reconstructed"], "count", 0, protocol=lost.protocol, **seen)
    assert lost.protocol.startswith(f"{data.protocol}; image to latents and back")

    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda z: broken(decode(z)))
    wrong = int((data.test[0][:150] != broken(data.test[0][:150])).flatten(1).any(1).sum())
    assert 0 < wrong < 150
    assert evaluate(model, data=data, limit=150)[1] == replace(lost, value=wrong)
    assert merge([bound, lost], evaluate(model, data=data, limit=150)) == [bound, replace(lost, value=wrong)]


def broken(x: Tensor) -> Tensor:
    """One pixel of some of the images is set to zero."""
    x = x.clone()
    x[:, 0, 3, 3] *= x[:, 0, 3, 3] < 8
    return x


@pytest.mark.parametrize("cls", MODELS)
def test_samples_are_data_and_the_seed_decides(cls):
    model = tiny(cls)
    state = torch.get_rng_state()
    x = model.sample(16, seed=3)
    assert (x.dtype, tuple(x.shape)) == (torch.uint8, (16, 1, 4, 4))
    model.spec.check(x)
    assert torch.equal(x, model.sample(16, seed=3))
    assert not torch.equal(x, model.sample(16, seed=4))
    assert not torch.equal(model.sample(16), model.sample(16)), "without a seed each call draws anew"
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, model.train().sample(16, seed=3))
    assert model.training
    x[0] = 0  # they are the caller's


@pytest.mark.parametrize("cls", MODELS)
def test_temperature_scales_the_latents(cls):
    model = tiny(cls)
    z = model.net.base.sample(9, Draws(1, 9))
    assert torch.equal(model.sample(9, seed=1, temperature=0.5), model.decode(0.5 * z))
    assert torch.equal(model.sample(9, seed=1), model.decode(z))
    with pytest.raises(DataError, match="temperature must be positive and finite, not 0"):
        model.sample(2, temperature=0.0)
    for n in (0, -1):
        with pytest.raises(DataError, match=f"n must be at least 1, not {n}"):
            model.sample(n)


@pytest.mark.parametrize("cls", MODELS)
def test_what_does_not_fit_is_refused_before_any_compute(cls, monkeypatch):
    model = tiny(cls)
    monkeypatch.setattr(Flow, "log_prob", None)  # calling it would be a TypeError
    for x, sentence in (
        (torch.zeros(2, 1, 4, 2, dtype=torch.uint8), r"shape \(2, 1, 4, 2\); this model takes \(N, 1, 4, 4\)"),
        (torch.zeros(2, 1, 4, 4), "dtype torch.float32; this model takes torch.uint8"),
        (torch.full((2, 1, 4, 4), 17, dtype=torch.uint8), r"values 17..17; this model takes 0..16"),
    ):
        for function in (model.elbo, model.encode, model.loss):
            with pytest.raises(DataError, match=sentence):
                function(x)
    for z in (torch.zeros(2, 15), torch.zeros(2, 16, dtype=torch.int64), [[0.0] * 16], torch.zeros(2, 1, 4, 4)):
        with pytest.raises(DataError, match=r"^z (has|must be)"):
            model.decode(z)


# -- arguments and weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"shape": [8, 8]}, r"shape must be \(C, H, W\) of positive sizes, not \[8, 8\]"),
        ({"shape": [1, 0, 8]}, r"not \[1, 0, 8\]"),
        ({"shape": [1, 6, 8]}, "Images of 3x4 pixels have no blocks of 2x2 to squeeze: choose fewer scales"),
        ({"scales": 4}, "Images of 1x1 pixels have no blocks of 2x2"),
        ({"levels": 1}, "levels must be 2..256, not 1"),
        ({"levels": 257}, "levels must be 2..256, not 257"),
        ({"scales": 0}, "scales must be at least 1, not 0"),
        ({"channels": 0}, "channels must be at least 1, not 0"),
        ({"blocks": 0}, "blocks must be at least 1, not 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
        ({"activation": "tanh"}, "activation must be one of relu, gelu, not 'tanh'"),
    ],
)
def test_bad_arguments_are_refused(cls, arguments, sentence):
    with pytest.raises(DataError, match=sentence) as caught:
        cls(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cls", MODELS)
def test_arguments_and_weights_survive_a_file(cls, tmp_path):
    model = tiny(cls, (3, 4, 4), 256, activation="relu", dropout=0.1, optimizer="muon")
    json.dumps(dict(model.hparams))
    loaded = store.load(store.save(model, tmp_path / "flow-tiny", dtype="float32"))
    x = images(3, (3, 4, 4), 256)
    assert type(loaded) is cls
    assert loaded.spec == model.spec
    assert torch.equal(loaded.elbo(x, seed=0), model.elbo(x, seed=0))
    assert torch.equal(loaded.sample(4, seed=0), model.sample(4, seed=0))
    half = store.load(store.save(model, tmp_path / "flow-half", dtype="float16"))
    assert torch.equal(half.decode(half.encode(x)), x), "rounded weights are a flow as well"


@pytest.mark.parametrize("cls", MODELS)
def test_muon_takes_the_convolutions_alone(cls):
    model = cls(optimizer="muon", weight_decay=0.1)
    optimizer = model.configure_optimizers()["optimizer"]
    orthogonal, decayed, plain = (group["params"] for group in optimizer.param_groups)
    convolutions = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert {id(p) for p in orthogonal} == {id(p) for p in convolutions}
    assert not decayed, "nothing but convolutions decays"
    assert len(plain) == len(list(model.parameters())) - len(convolutions)


# -- training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "optimizer"), [(NICE, "muon"), (RealNVP, "adamw"), (Glow, "muon")])
def test_it_learns_digits(cls, optimizer, tmp_path):
    data = FewDigits(batch_size=32, validation=100)
    fewer = {"steps": 2} if cls is Glow else {"couplings": 1}
    model = cls(channels=8, blocks=1, lr=0.01, warmup=5, optimizer=optimizer, **fewer)
    data.setup("fit")
    with torch.no_grad():
        before = model.eval().loss(data.val[0]).mean()
        fit(tmp_path, model=model.train(), data=data, max_steps=30)
        after = model.eval().loss(data.val[0]).mean()
    assert after < before - 0.5


def test_a_flow_called_is_its_density():
    model = tiny(RealNVP)
    y = 17 * torch.rand(3, 1, 4, 4)
    assert torch.equal(model.net(y), model.net.log_prob(y))
    assert torch.equal(model.net(y), model.log_density(y))
    z, log_det = model.net.transform(y)
    torch.testing.assert_close(model.log_density(y), Normal([16]).log_prob(z) + log_det)
