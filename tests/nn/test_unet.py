"""The networks of diffusions: what they are told enters, what they should not see does not, and layers are formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_runs import sealed
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from zoo.errors import DataError
from zoo.nn import unet
from zoo.nn.unet import Attention, Block, Conditions, Perceptron, UNet, norm, waves, with_waves

SHAPE = (3, 8, 8)
TINY = {"channels": 16, "multipliers": (1, 2), "blocks": 1, "attention": (4,)}
MIB_16 = 2**20 * 16 // 2  # weights of 16 bits


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


def awake(net: nn.Module) -> nn.Module:
    """The network with weights where it starts with zeros, in float64."""
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    return net.double().eval()


def image_net(**settings) -> UNet:
    return awake(UNet(SHAPE, 3, **{**TINY, **settings}))


NETS = {
    "unet": lambda classes: image_net(classes=classes, fourier=(0, 2)),
    "perceptron": lambda classes: awake(Perceptron(2, 3, hidden=16, layers=2, classes=classes)),
}


@pytest.fixture(params=NETS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def state(kind: str, n: int = 3) -> Tensor:
    return torch.randn(n, *(SHAPE if kind == "unet" else (2,)), dtype=torch.float64)


def some_log_snr(n: int = 3) -> Tensor:
    return torch.linspace(-7, 9, n, dtype=torch.float64)


# -- what both are told -------------------------------------------------------------------------------------------


def test_the_noise_enters(kind: str):
    """Each datum by its own log-SNR, and by no other's."""
    net, log_snr = NETS[kind](0), some_log_snr().requires_grad_()
    for i in range(3):
        (slope,) = torch.autograd.grad(net(state(kind), log_snr)[i].square().sum(), log_snr)
        assert slope[i] != 0
        assert slope[[j for j in range(3) if j != i]].eq(0).all()


def test_a_label_enters_and_none_is_the_last(kind: str):
    net, z, log_snr = NETS[kind](4), state(kind, 2), some_log_snr(2)
    outputs = [net(z, log_snr, torch.full((2,), label)) for label in range(5)]
    for i in range(5):
        for j in range(i):
            assert (outputs[i] - outputs[j]).abs().amax() > 1e-3
    assert torch.equal(net(z, log_snr), outputs[4])
    mixed = net(z, log_snr, torch.tensor([1, 4]))
    torch.testing.assert_close(mixed, torch.stack([outputs[1][0], outputs[4][1]]))


def test_every_weight_learns(kind: str):
    """A gradient reaches all of them, of the table each row that is asked for."""
    net = NETS[kind](2)
    net(state(kind), some_log_snr(), torch.tensor([0, 1, 2])).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad.abs().amax() > 0, name
    assert net.conditions.label.weight.grad.ne(0).any(1).all()


def test_no_noise_at_all_and_nothing_but_noise_are_numbers(kind: str):
    net, z = NETS[kind](0), state(kind, 1)
    for sign in (1, -1):
        found = net(z, torch.tensor([sign * math.inf]))
        assert found.isfinite().all()
        assert torch.equal(found, net(z, torch.tensor([sign * unet.BEYOND])))
        assert not torch.equal(found, net(z, torch.tensor([sign * (unet.BEYOND - 1)])))
    assert net(z, torch.tensor([math.nan])).isnan().all(), "a sampler then says in which step"


def test_it_starts_with_zeros(kind: str):
    net = UNet(SHAPE, 6, **TINY) if kind == "unet" else Perceptron(2, 6)
    found = net(state(kind).float(), some_log_snr().float())
    assert found.shape == (3, 6, *(SHAPE[1:] if kind == "unet" else ()))
    assert found.eq(0).all()


def test_a_datum_does_not_see_the_others(kind: str):
    net, z, log_snr, label = NETS[kind](2), state(kind).requires_grad_(), some_log_snr(), torch.tensor([2, 0, 1])
    whole = net(z, log_snr, label)
    (slope,) = torch.autograd.grad(whole[1].square().sum(), z)
    assert slope[1].ne(0).any()
    assert slope[[0, 2]].eq(0).all()
    torch.testing.assert_close(net(z[1:2], log_snr[1:2], label[1:2]), whole[1:2], rtol=1e-10, atol=1e-12)


def test_it_is_the_same_in_both_precisions(kind: str):
    net, z, log_snr, label = NETS[kind](2), state(kind), some_log_snr(), torch.tensor([2, 0, 1])
    fine = net(z, log_snr, label)
    coarse = net.float()(z.float(), log_snr.float(), label)
    assert (fine.dtype, coarse.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(coarse.double(), fine, rtol=1e-4, atol=1e-5)
    # Arguments of the other precision are taken, too.
    torch.testing.assert_close(net(z, log_snr, label), coarse)


@pytest.mark.slow
def test_it_compiles_as_one_graph(kind: str):
    """One with labels and one without, however often they take turns."""
    net, counter = NETS[kind](2).float(), CompileCounter()
    arguments = state(kind).float(), some_log_snr().float()
    label = torch.tensor([2, 0, 1])
    expected = net(*arguments), net(*arguments, label)
    torch._dynamo.reset()
    compiled = torch.compile(net, backend=counter, fullgraph=True, dynamic=False)
    for _ in range(3):
        torch.testing.assert_close(compiled(*arguments), expected[0])
        torch.testing.assert_close(compiled(*arguments, label), expected[1])
    assert counter.frame_count == 2
    with torch.autocast("cpu", torch.bfloat16):
        assert compiled(*arguments, label).dtype == torch.float32


def test_a_net_of_the_meta_device_is_filled(kind: str):
    real = NETS[kind](2)
    with torch.device("meta"):
        net = UNet(SHAPE, 3, **TINY, classes=2, fourier=(0, 2)) if kind == "unet" else Perceptron(2, 3, 16, 2, 2)
    net.load_state_dict(real.state_dict(), assign=True)
    arguments = state(kind), some_log_snr(), torch.tensor([2, 0, 1])
    assert torch.equal(net.eval()(*arguments), real(*arguments))


# -- features -----------------------------------------------------------------------------------------------------


def test_waves_are_their_formula():
    """Of frequencies in geometric progression; the slowest tells all log-SNRs apart."""
    log_snr = torch.linspace(-unet.BEYOND, unet.BEYOND, 41, dtype=torch.float64)
    found = waves(log_snr, 8)
    ratio = (8.0 / (math.pi / 40)) ** (1 / 3)
    for k in range(4):
        circle = torch.exp(1j * log_snr * (math.pi / 40) * ratio**k)
        torch.testing.assert_close(torch.complex(found[:, 4 + k], found[:, k]), circle)
    assert (found[1:, 0] > found[:-1, 0]).all()


def test_fourier_features_are_their_formula():
    z = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    found = with_waves(z, (7, 1)).unflatten(1, (5, 3))
    assert torch.equal(found[:, 0], z)
    for i, n in ((1, 7), (3, 1)):
        circle = torch.exp(1j * math.pi * 2**n * z)
        torch.testing.assert_close(torch.complex(found[:, i + 1], found[:, i]), circle)
    assert torch.equal(with_waves(z, ()), z)


def test_fourier_features_tell_neighbouring_levels_apart():
    """By VDM's exponents a step of one level of 256 is half a turn, and a whole one."""
    step = torch.full((1, 1), 2 / 256, dtype=torch.float64)
    expected = torch.tensor([0, -1, 0, 1], dtype=torch.float64)
    torch.testing.assert_close(with_waves(step, (7, 8))[0, 1:], expected)


# -- layers -------------------------------------------------------------------------------------------------------


def by_hand(x: Tensor, group: int) -> Tensor:
    """Each group of channels of each image with mean 0 and variance 1."""
    parts = [part - part.mean((1, 2, 3), keepdim=True) for part in x.split(group, 1)]
    return torch.cat([part / (part.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt() for part in parts], 1)


@pytest.mark.parametrize(("channels", "group"), [(64, 16), (48, 16), (24, 8), (10, 2), (3, 1)])
def test_norms_have_groups_of_16_channels(channels: int, group: int):
    x = 3 * torch.randn(2, channels, 4, 4, dtype=torch.float64) + 1
    torch.testing.assert_close(norm(channels).double()(x), by_hand(x, group))


def test_attention_is_its_formula():
    attention = awake(Attention(128))
    with torch.no_grad():
        attention.sharpness.copy_(torch.tensor([0.7, 1.9]))
    x = torch.randn(2, 128, 2, 3, dtype=torch.float64)
    places = attention.norm(x).flatten(2).mT  # (N, L, C)
    heads = []
    for head in range(2):
        part = slice(64 * head, 64 * head + 64)
        query, key, value = (
            places @ layer.weight[part].T for layer in (attention.query, attention.key, attention.value)
        )
        query, key = (each / each.square().mean(-1, keepdim=True).sqrt() for each in (query, key))
        scores = attention.sharpness[head] * torch.einsum("nlc,nmc->nlm", query, key) / 8
        heads.append(scores.softmax(-1) @ value)
    out = torch.cat(heads, 2) @ attention.out.weight.T
    torch.testing.assert_close(attention(x), x + out.mT.view_as(x), rtol=1e-4, atol=1e-5)


def test_attention_knows_no_places():
    """Places in another order give the same in that order."""
    attention, x = awake(Attention(16)), torch.randn(2, 16, 3, 4, dtype=torch.float64)
    order = torch.randperm(12)

    def mixed(x: Tensor) -> Tensor:
        return x.flatten(2)[:, :, order].view_as(x)

    torch.testing.assert_close(attention(mixed(x)), mixed(attention(x)))


def test_a_block_is_its_formula():
    block, x = awake(Block(32, 16, 0.0, attend=False)), torch.randn(2, 32, 4, 4, dtype=torch.float64)
    told = torch.randn(2, 32, 1, 1, dtype=torch.float64)
    h = F.conv2d(F.silu(block.norm1(x)), block.conv1.weight, padding=1)
    h = by_hand(h, 16) * (1 + told[:, :16]) + told[:, 16:]
    h = F.conv2d(F.silu(h), block.conv2.weight, padding=1)
    expected = h + torch.einsum("oi,nihw->nohw", block.skip.weight[:, :, 0, 0], x)
    torch.testing.assert_close(block(x, told), expected)


def test_blocks_are_told_by_their_own_layers():
    net, e = image_net(), torch.randn(2, unet.CONDITIONS, dtype=torch.float64)
    told = net._told(e)
    blocks = [module for module in net.modules() if isinstance(module, Block)]
    assert set(told) == set(blocks)
    assert len(blocks) == 2 * 1 + 2 + 2 * 2
    for block in blocks:
        torch.testing.assert_close(told[block][:, :, 0, 0], block.condition(e))


def test_layers_start_with_the_variance_of_what_comes_in():
    x = torch.randn(400, 32, 3, 3)
    for layer in (nn.Conv2d(32, 64, 3), nn.Conv2d(32, 64, 1)):
        assert unet.preserving(layer)(x).var().item() == pytest.approx(1, rel=0.05)
    half = unet.preserving(nn.Linear(288, 64), gain=0.5)
    assert half(x.flatten(1)).std().item() == pytest.approx(0.5, rel=0.05)


def test_conditions_are_sums():
    """Noise and label are added before the last activation, which can be undone where it grows."""
    conditions = awake(Conditions(3, size=8))
    with torch.no_grad():
        conditions.last.bias += 20  # where silu is the identity but for 1e-7
    log_snr = some_log_snr(3)
    of_label = [conditions(log_snr, torch.full((3,), label)) for label in range(4)]
    table = conditions.label.weight
    torch.testing.assert_close(of_label[1] - of_label[3], (table[1] - table[3]).expand(3, 8), atol=1e-5, rtol=0)


# -- the U-Net ----------------------------------------------------------------------------------------------------


def test_mirrored_kernels_see_mirrored_images():
    """Of one level: where sides are halved, an even side has no middle."""
    net, z = image_net(multipliers=(1,), attention=(8,), fourier=(1,)), state("unet")
    mirrored = image_net(multipliers=(1,), attention=(8,), fourier=(1,))
    weights = {name: w.flip(3) if w.ndim == 4 else w for name, w in net.state_dict().items()}
    mirrored.load_state_dict(weights)
    torch.testing.assert_close(mirrored(z.flip(3), some_log_snr()), net(z, some_log_snr()).flip(3))
    assert not torch.allclose(net(z.flip(3), some_log_snr()), net(z, some_log_snr()).flip(3))


@pytest.mark.parametrize(
    ("shape", "multipliers"),
    [((1, 28, 28), (1, 2, 2)), ((3, 16, 8), (1, 1, 2, 2)), ((1, 5, 7), (2,)), ((3, 64, 64), (1, 1, 1, 1))],
)
def test_sizes_that_can_be_halved(shape: tuple[int, ...], multipliers: tuple[int, ...]):
    """Every place of the first image is reached by every other: through the middle."""
    net = awake(UNet(shape, 2, channels=4, multipliers=multipliers, blocks=1, attention=())).float()
    z = torch.randn(1, *shape, requires_grad=True)
    found = net(z, torch.zeros(1))
    assert found.shape == (1, 2, *shape[1:])
    (slope,) = torch.autograd.grad(found[0, 0, 0, 0], z)
    assert slope[0, :, -1, -1].ne(0).all()


def test_attention_is_where_it_is_said():
    """In all blocks of the levels of these heights, and in the first block of the middle."""
    with torch.device("meta"):
        net = UNet((3, 32, 32), 3, blocks=2, attention=(16, 5))
    found = {name for name, module in net.named_modules() if isinstance(module, Attention)}
    assert found == {f"{way}.1.{i}.attention" for way, n in (("down", 2), ("up", 3)) for i in range(n)} | {
        "middle.0.attention"
    }
    assert net.down[1][0].attention.heads == 2, "128 channels in heads of 64"


def test_under_autocast_the_stream_has_16_bits_and_the_ends_do_not():
    net, dtypes = image_net(classes=2, fourier=(1,)).float(), {}

    def note(name: str):
        def hook(_: nn.Module, arguments: tuple, found: Tensor) -> None:
            dtypes[name] = found.dtype

        return hook

    for name, module in net.named_modules():
        if isinstance(module, (nn.Conv2d, Block, Attention, Conditions)):
            module.register_forward_hook(note(name))
    z, log_snr = state("unet").float(), some_log_snr().float()
    with torch.autocast("cpu", torch.bfloat16):
        found = net(z, log_snr)
    fine = {name for name, dtype in dtypes.items() if dtype == torch.float32}
    assert fine == {"first", "last", "conditions"}
    assert {dtypes[name] for name in set(dtypes) - fine} == {torch.bfloat16}
    exact = net(z, log_snr)
    assert found.dtype == torch.float32
    assert (found - exact).norm() < 0.05 * exact.norm()


def test_points_keep_their_bits_under_autocast():
    net = NETS["perceptron"](0).float()
    arguments = state("perceptron").float(), some_log_snr().float()
    with torch.autocast("cpu", torch.bfloat16):
        found = net(*arguments)
    assert torch.equal(found, net(*arguments))


def test_dropout_is_for_training():
    net, z, log_snr = image_net(dropout=0.5), state("unet"), some_log_snr()
    assert torch.equal(net(z, log_snr), net(z, log_snr))
    net.train()
    assert not torch.equal(net(z, log_snr), net(z, log_snr))


def weights(**settings) -> int:
    with torch.device("meta"):
        net = UNet((3, 32, 32), 3, **settings)
    return sum(parameter.numel() for parameter in net.parameters())


def test_sizes_of_the_networks_that_are_trained():
    assert 8.3e6 <= weights() <= 9.6e6
    wide = {"channels": 128, "multipliers": (1, 1, 1), "blocks": 2, "classes": 10, "fourier": (7, 8)}
    assert weights(**wide) <= MIB_16 - 2**15, "beside the header of the file"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"shape": (3, 30, 32)}, "multiples of 4, not 30x32: give fewer multipliers"),
        ({"shape": (3, 32, 30)}, "multiples of 4, not 32x30: give fewer multipliers"),
        ({"shape": (32, 32)}, r"shape must be \(C, H, W\)"),
        ({"multipliers": ()}, "the number of multipliers must be at least 1, not 0"),
        ({"multipliers": (1, 0)}, "a multiplier must be at least 1, not 0"),
        ({"blocks": 0}, "blocks must be at least 1, not 0"),
        ({"channels": 2.5}, "channels must be a whole number"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
    ],
)
def test_what_is_no_network_is_refused(settings: dict, sentence: str):
    with pytest.raises(DataError, match=sentence):
        UNet(**{"shape": (3, 32, 32), "out_channels": 3, **settings})


def test_what_is_no_perceptron_is_refused():
    with pytest.raises(DataError, match="layers must be at least 1, not 0"):
        Perceptron(2, 2, layers=0)
