"""The network of FID against the TorchScript file that it is made of, and its images against their definition."""

from __future__ import annotations

import hashlib
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import save
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from zoo import files
from zoo.errors import DataError
from zoo.metrics import Inception, features_of, frechet_distance, inception, kernel_distance, resize
from zoo.metrics.inception_network import Convolution, InceptionNetwork, Mixed

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*torch.jit:{category}") for category in ("FutureWarning", "DeprecationWarning")
]


def images(n: int, seed: int, low: int = 0) -> Tensor:
    return torch.randint(low, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


# -- the network -------------------------------------------------------------------------------------------------


def test_the_network_is_inception_v3():
    """Sizes before its blocks as in table 1 of arXiv 1512.00567; Keras counts 21,768,352 weights and shifts."""
    with torch.device("meta"):
        network, x = InceptionNetwork(), torch.empty(2, 3, 299, 299)
    before = {}
    for name, module in network.named_children():
        before[name] = tuple(x.shape[1:])
        x = module(x)
    assert before["mixed"] == (192, 35, 35)
    assert before["mixed_3"] == (288, 35, 35)
    assert before["mixed_4"] == before["mixed_8"] == (768, 17, 17)
    assert before["mixed_9"] == (1280, 8, 8)
    assert before["pool_2"] == (2048, 8, 8)
    assert x.shape == (2, 2048)
    assert sum(parameter.numel() for parameter in network.parameters()) == 21_768_352


def test_pools_are_those_of_2015():
    """Means are over what lies in the image, and the last block has a maximum."""
    with torch.device("meta"):
        network = InceptionNetwork()
    pools = [block.tower_2.pool for block in network.children() if hasattr(block, "tower_2")]
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert len(pools) == 9
    for pool in pools[:-1]:
        assert pool(x)[0, 0, 0].tolist() == [2.5, 3, 4, 4.5]
    assert pools[-1](x)[0, 0, 0].tolist() == [5, 6, 7, 7]


# -- its file ----------------------------------------------------------------------------------------------------


class Normalized(nn.Module):
    """A layer of the TorchScript file."""

    def __init__(self, inputs: int, outputs: int, height: int, width: int, stride: int = 1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(outputs + 10 * inputs)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, height, width, generator=generator))
        self.beta, self.mean = (nn.Parameter(torch.randn(outputs, generator=generator)) for _ in range(2))
        self.var = nn.Parameter(torch.rand(outputs, generator=generator) ** 4)  # some are near epsilon
        self.stride = stride
        self.padding = (height // 2, width // 2) if stride == 1 else (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight, None, self.stride, self.padding)
        return F.relu(F.batch_norm(x, self.mean, self.var, None, self.beta, False, 0.1, 0.001))


class Forked(nn.Module):
    """A block of the last two in the TorchScript file, in short."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Normalized(6, 2, 1, 1)
        self.tower_conv = Normalized(6, 3, 1, 1)
        self.tower_mixed_conv = Normalized(3, 4, 1, 3)
        self.tower_mixed_conv_1 = Normalized(3, 5, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        fork = self.tower_conv(x)
        return torch.cat([self.conv(x), self.tower_mixed_conv(fork), self.tower_mixed_conv_1(fork)], 1)


def scripted() -> torch.jit.ScriptModule:
    """In place of the TorchScript file, with layers of every kind that it has names for."""
    tower = nn.Sequential(OrderedDict(conv=Normalized(4, 5, 1, 1), conv_1=Normalized(5, 6, 1, 7)))
    layers = OrderedDict(
        conv=Normalized(3, 4, 3, 3, stride=2),
        mixed_7=nn.Sequential(OrderedDict(tower_1=tower)),
        mixed_10=Forked(),
        pool2=nn.AvgPool2d(149),
        flat=nn.Flatten(),
    )
    net = nn.Sequential(OrderedDict(layers=nn.Sequential(layers)))
    return torch.jit.script(nn.Sequential(OrderedDict(net=net)).requires_grad_(False))


class Small(nn.Sequential):
    """In place of InceptionNetwork."""

    def __init__(self) -> None:
        tower = nn.Sequential(OrderedDict(conv=Convolution(4, 5, (1, 1)), conv_1=Convolution(5, 6, (1, 7))))
        fork = Mixed(conv=Convolution(3, 4, (1, 3)), conv_1=Convolution(3, 5, (3, 1)))
        super().__init__(
            OrderedDict(
                conv=Convolution(3, 4, (3, 3), stride=2),
                mixed_7=Mixed(tower_1=tower),
                mixed_10=Mixed(
                    conv=Convolution(6, 2, (1, 1)),
                    tower=nn.Sequential(OrderedDict(conv=Convolution(6, 3, (1, 1)), mixed=fork)),
                ),
                pool_2=nn.AvgPool2d(149),
                flatten=nn.Flatten(),
            )
        )


NAMES = {  # in InceptionNetwork: in the TorchScript file
    "mixed_10.tower.mixed.conv_1": "mixed_10.tower_mixed_conv_1",
    "mixed_10.tower.mixed.conv": "mixed_10.tower_mixed_conv",
    "mixed_10.tower.conv": "mixed_10.tower_conv",
    "mixed_10.conv": "mixed_10.conv",
    "mixed_7.tower_1.conv_1": "mixed_7.tower_1.conv_1",
    "mixed_7.tower_1.conv": "mixed_7.tower_1.conv",
    "conv": "conv",
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A root with the TorchScript file alone; the digest of the other one is that of the folded weights, by NumPy."""
    source = tmp_path / inception.SOURCE
    source.parent.mkdir()
    network = scripted()
    network.save(source)
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    folded = {}
    for name, official in NAMES.items():
        weight, beta, mean, var = (
            tensors[f"net.layers.{official}.{part}"].astype(np.float64) for part in ("weight", "beta", "mean", "var")
        )
        deviation = np.sqrt(var + 1e-3)
        folded[f"{name}.bias"] = (beta - mean / deviation).astype(np.float32)
        folded[f"{name}.weight"] = (weight / deviation[:, None, None, None]).astype(np.float32)
    monkeypatch.setattr(inception, "InceptionNetwork", Small)
    monkeypatch.setattr(inception, "SOURCE_SHA256", hashlib.sha256(source.read_bytes()).hexdigest())
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(save(folded)).hexdigest())
    return tmp_path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_network_is_that_of_its_file(root):
    x = torch.randn(2, 3, 299, 299, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = Inception(root)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.testing.assert_close(network.network(x), torch.jit.load(root / inception.SOURCE)(x))
    assert not network.train().training
    assert not network.network(x).requires_grad


def test_torchscript_is_read_once(root, monkeypatch):
    x, path = images(2, 0), root / inception.FILE
    expected = Inception(root)(x)
    assert digest(path) == inception.SHA256
    monkeypatch.setattr(torch.jit, "load", lambda *given, **options: pytest.fail("It was read again."))
    assert torch.equal(Inception(root)(x), expected)
    (root / inception.SOURCE).unlink()
    assert torch.equal(Inception(root)(x), expected)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("damage", ["truncated", "empty", "other", "folder"])
def test_what_is_damaged_is_made_again(root, damage):
    x, path = images(2, 0), root / inception.FILE
    expected, data = Inception(root)(x), path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
        (path / "file").touch()
    else:
        path.write_bytes({"truncated": data[:-4], "empty": b"", "other": data[:-1] + bytes([data[-1] ^ 1])}[damage])
    assert torch.equal(Inception(root)(x), expected)
    assert damage == "folder" or digest(path) == inception.SHA256
    assert sorted(path.parent.iterdir()) == [root / inception.SOURCE, path]


def test_without_a_place_to_write_it_is_made_in_memory(root, monkeypatch):
    def refused(**options: object) -> None:
        raise PermissionError("a disk to read only")

    x = images(2, 0)
    with monkeypatch.context() as patched:
        patched.setattr(files.tempfile, "NamedTemporaryFile", refused)
        features = Inception(root)(x)
    assert not (root / inception.FILE).exists()
    assert torch.equal(features, Inception(root)(x))


def test_what_would_not_be_found_again_is_not_written(root, monkeypatch):
    """As where another safetensors would lay the file out in another way."""
    monkeypatch.setattr(inception, "SHA256", "0" * 64)
    assert Inception(root)(images(2, 0)).shape == (2, 11)
    assert not (root / inception.FILE).exists()


def test_a_root_without_the_network_does_not_hide_the_default_one(root, tmp_path, monkeypatch):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    monkeypatch.setenv("ZOO_DATA", str(root))
    assert Inception(pictures).root == Inception(root).root == Inception().root == root
    assert not any(pictures.iterdir())


def test_without_its_file_there_is_no_network(root, monkeypatch):
    monkeypatch.setenv("ZOO_DATA", str(root / "none"))
    path, source = root / inception.FILE, root / inception.SOURCE
    Inception(root)
    path.write_bytes(b"other")
    source.write_bytes(b"other")
    with pytest.raises(DataError, match=rf"^{path} or {source} is damaged, .*: put the official fid_inception.pt in"):
        Inception(root)
    source.unlink()
    with pytest.raises(DataError, match=rf"^{path} is damaged, or not the network of FID: put the official"):
        Inception(root)
    path.unlink()
    with pytest.raises(DataError, match=rf"^FID needs its network, and there is no {source}: put that file there"):
        Inception(root)


# -- its images --------------------------------------------------------------------------------------------------


class Means(nn.Module):
    """In place of the network: the means of the scaled and resized image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean([2, 3])


def test_images_come_scaled_and_resized_and_grey_ones_in_three_colours(root):
    network = Inception(root)
    network.network = Means()
    x = images(3, 0)
    expected = ((resize(x.float(), 299) - 128) / 128).mean([2, 3])
    torch.testing.assert_close(network(x), expected)
    torch.testing.assert_close(network(x[:, :1]), expected[:, :1].expand(-1, 3))


def test_other_images_are_refused(root):
    with pytest.raises(DataError, match=r"Inception takes images uint8 .*, not torch.float32 \(2, 3, 4, 4\)"):
        Inception(root)(torch.zeros(2, 3, 4, 4))


def test_torchmetrics_need_not_try_it_on_an_image(root, monkeypatch):
    """It would try one on the CPU, where a network on a GPU fails."""
    network = Inception(root)
    monkeypatch.setattr(Inception, "forward", lambda *given: pytest.fail("It was tried."))
    assert FrechetInceptionDistance(feature=network).real_features_sum.shape == (2048,)


@pytest.mark.parametrize("shape", [(5, 7), (32, 32), (299, 299), (301, 300)])
def test_resizing_is_linear_between_rows_and_columns(shape: tuple[int, int]):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = resize(image[None, None], 299)[0, 0]

    def value(i: int, j: int) -> float:
        y, x = i * shape[0] / 299, j * shape[1] / 299
        top, left = int(y), int(x)
        bottom, right = min(top + 1, shape[0] - 1), min(left + 1, shape[1] - 1)
        above = image[top, left] * (1 - (x - left)) + image[top, right] * (x - left)
        below = image[bottom, left] * (1 - (x - left)) + image[bottom, right] * (x - left)
        return float(above * (1 - (y - top)) + below * (y - top))

    for i, j in ((0, 0), (298, 298), (150, 17), (3, 290), (100, 100)):
        assert float(result[i, j]) == pytest.approx(value(i, j))


# -- on the real network -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Metric `Kernel:UserWarning")
def test_on_inception_fid_and_kid_are_torchmetrics(real_data):
    """Of few images, whose covariances have mostly zeros for eigenvalues, of which torchmetrics takes complex roots."""
    network = Inception(real_data("inception"))
    real, fake = images(6, 0), images(6, 1, 60)
    fid = FrechetInceptionDistance(feature=network, input_img_size=(3, 8, 8))
    kid = KernelInceptionDistance(feature=network, subsets=1, subset_size=6)
    for theirs in (fid, kid):
        theirs.update(real, real=True)
        theirs.update(fake, real=False)
    x, y = (features_of([part], network) for part in (real, fake))
    assert x.shape == (6, 2048)
    assert float(frechet_distance(x, y)) == pytest.approx(float(fid.compute()), rel=1e-3)
    mean, _ = kernel_distance(x, y, subsets=1, size=6)
    assert float(mean) == pytest.approx(float(kid.compute()[0]), rel=1e-3, abs=2e-6)


@pytest.fixture
def official(real_data) -> Path:
    """The TorchScript file."""
    path = Path(real_data("inception")) / inception.SOURCE
    if not path.exists():
        pytest.skip(f"needs real data: there is no {path}")
    return path


def test_on_inception_features_are_those_of_its_file(official):
    """Rounding alone tells them apart: of features up to 6, by some 1e-5."""
    network, x = Inception(official.parents[1]), images(4, 0)
    theirs = torch.jit.load(official).eval()((resize(x.float(), 299) - 128) / 128)
    assert theirs.shape == (4, 2048)
    torch.testing.assert_close(network(x), theirs, rtol=1e-4, atol=1e-4)


def test_on_inception_the_digest_is_that_of_what_its_file_gives(official):
    assert hashlib.sha256(inception._converted(official.read_bytes())).hexdigest() == inception.SHA256
