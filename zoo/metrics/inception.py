"""The network of FID, and the images that it takes.

It is that of the original FID, Inception v3 as TensorFlow published it on 2015-12-05, from a local file (or from
torch-fidelity, where that is installed); the resizing is that of TensorFlow 1: bilinear, without antialiasing and
without centres of pixels.

`FrechetInceptionDistance` and `KernelInceptionDistance` of torchmetrics take an `Inception` as their `feature`, for
sums that go on over batches and processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.data.files import data_root
from zoo.errors import DataError

SIZE = 299
FILE = "inception/fid_inception.pt"
SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"


class Inception(nn.Module):
    """The network of FID as a function of images: uint8 (N, 1 or 3, H, W) of 256 levels to features (N, 2048).

    Args:
        root: the folder of data sets; below it `inception/fid_inception.pt`, a TorchScript file that takes
            (image - 128) / 128 at 299x299. By default ZOO_DATA or the user cache.

    Its `identity` is a word that tells the network from others.

    Raises:
        DataError: the file is not there, or is another one.
    """

    num_features = 2048  # for torchmetrics' FID, which else tries an image on the CPU, wherever the network is

    def __init__(self, root: str | Path | None = None) -> None:
        super().__init__()
        path = data_root(root) / FILE
        if path.exists():
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != SHA256:
                raise DataError(f"{path} is damaged, or not the network of FID: remove it and fetch it again.")
            with _of_torchscript():
                self.network, self.resizes = torch.jit.load(path, map_location="cpu").eval(), False
            self.identity = SHA256
        else:
            self.network, self.resizes = _of_torchmetrics(path), True
            self.identity = "torch-fidelity"
        self.requires_grad_(False)
        self._frozen: tuple[torch.device, torch.jit.ScriptModule] | None = None

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
        images = images.expand(-1, 3, -1, -1)
        with torch.autocast(images.device.type, enabled=False):
            if self.resizes:
                return self.network(images)
            enlarged = (resize(images.float(), SIZE) - 128) / 128
            return self._on(images.device)(enlarged.to(memory_format=torch.channels_last)).flatten(1)

    def _on(self, device: torch.device) -> torch.jit.ScriptModule:
        """The network with its normalizations folded into its convolutions, which pins it to a device."""
        if self._frozen is None or self._frozen[0] != device:
            with _of_torchscript():
                self._frozen = device, torch.jit.freeze(self.network)
        return self._frozen[1]


@contextlib.contextmanager
def _of_torchscript() -> Iterator[None]:
    """Without PyTorch's advice to export networks otherwise: the file is what it is, and the reader has not made it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit", FutureWarning)
        yield


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


def _of_torchmetrics(path: Path) -> nn.Module:
    """The same network as torchmetrics has it, which downloads the weights and resizes images likewise."""
    from torchmetrics.image.fid import NoTrainInceptionV3  # slow to import

    try:
        return NoTrainInceptionV3("inception-v3-compat", ["2048"], antialias=False)
    except ModuleNotFoundError:
        raise DataError(
            f"FID needs its network, and there is no {path}: fetch that file, or pip install torch-fidelity, with "
            "which torchmetrics downloads the same weights."
        ) from None
