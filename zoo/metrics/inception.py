"""Distances of images in the features of the Inception network: FID, KID, precision and recall.

Fréchet Inception distance (Heusel et al. 2017, arXiv 1706.08500): the squared W_2 of two Gaussians with the features'
means and covariances. Kernel Inception distance (Binkowski et al. 2018, arXiv 1801.01401): MMD^2 of a cubic kernel,
unbiased. Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991): which share of one set of features
lies within the balls around the other's that reach to their k-th neighbours.

Such a number means nothing without the network, the resizing, the numbers of images and the reference. The network is
that of the original FID, Inception v3 as TensorFlow published it on 2015-12-05, from a local file (or from
torch-fidelity, where that is installed); the resizing that of TensorFlow 1: bilinear, without antialiasing and without
centres of pixels. FID falls with the number of images, KID does not.

`FrechetInceptionDistance` and `KernelInceptionDistance` of torchmetrics take an `Inception` as their `feature`, for
sums that go on over batches and processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.errors import DataError
from zoo.files import data_root
from zoo.metrics.kernels import Polynomial, mmd
from zoo.metrics.points import by_rows, check_points, pairwise

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


def features_of(batches: Iterable[Tensor], network: nn.Module, device: torch.device | str = "cpu") -> Tensor:
    """The features of batches of images, (N, F).

    Args:
        batches: uint8 (n, C, H, W) each.
        network: an `Inception`, or any module from images to (n, F).
        device: where it is computed, and where the features stay: on a GPU their distances take a moment.
    """
    network = network.to(device)
    features = [network(batch.to(device)).float() for batch in batches]
    if not features:
        raise DataError("There is no image to compute features of.")
    return torch.cat(features)


def frechet_distance(x: Tensor, y: Tensor) -> Tensor:
    """|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)): features (N, D) and (M, D) to a scalar, in float64.

    With Inception's features it is FID (arXiv 1706.08500, equation 6). It is biased upwards, by about D / N: compare
    numbers of as many images only.
    """
    check_points(x, y, least=2)
    x, y = x.double(), y.double()
    return frechet_of_moments(x.mean(0), torch.cov(x.T), y.mean(0), torch.cov(y.T))


def frechet_of_moments(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> Tensor:
    """The squared W_2 of two Gaussians, from means (D,) and covariances (D, D): a scalar."""
    cov_x, cov_y = (torch.atleast_2d(cov) for cov in (cov_x, cov_y))
    # The trace of (C_x C_y)^(1/2) is that of the root of a symmetric matrix with the same eigenvalues.
    values, vectors = torch.linalg.eigh(cov_x)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    both = torch.linalg.eigvalsh(root @ cov_y @ root).clamp(min=0).sqrt().sum()
    return (mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * both


def kernel_distance(
    x: Tensor, y: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The mean over random subsets of unbiased MMD^2 of a cubic kernel, and its standard deviation over them.

    With Inception's features it is KID. Features (N, D) and (M, D) to two scalars.

    Args:
        x: features.
        y: features.
        subsets: number of subsets.
        size: rows of each, drawn without replacement.
        seed: of the subsets; the global random state stays as it was.
    """
    check_points(x, y, least=2)
    if subsets < 1 or not 2 <= size <= min(len(x), len(y)):
        raise DataError(
            f"subsets must be at least 1 and their size 2 to {min(len(x), len(y))}, the number of features, not "
            f"{subsets} and {size}."
        )
    generator, kernel = torch.Generator().manual_seed(seed), Polynomial(3)

    def part(points: Tensor) -> Tensor:
        return points[torch.randperm(len(points), generator=generator)[:size].to(points.device)]

    values = torch.stack([mmd(part(x), part(y), kernel) for _ in range(subsets)])
    return values.mean(), values.std(correction=0)


def precision_recall(real: Tensor, generated: Tensor, *, k: int = 3) -> tuple[Tensor, Tensor]:
    """Which share of the generated lies in the manifold of the real (precision), and the reverse (recall).

    A set's manifold is the union of balls around its features that reach to their k-th neighbour in it (arXiv
    1904.06991, equations 1 and 2). Features (N, D) and (M, D) to two scalars.

    Args:
        real: features.
        generated: features.
        k: neighbours.
    """
    check_points(real, generated, least=2)
    if not 1 <= k < min(len(real), len(generated)):
        raise DataError(f"k must be 1 to {min(len(real), len(generated)) - 1}, fewer than the features, not {k}.")
    return _share_within(generated, real, k), _share_within(real, generated, k)


def _share_within(x: Tensor, manifold: Tensor, k: int) -> Tensor:
    # The nearest of a set to one of its own is that one.
    radii = by_rows(lambda rows, all_: pairwise(rows, all_, 2).kthvalue(k + 1).values, manifold, manifold)
    inside = by_rows(lambda rows, all_: (pairwise(rows, all_, 2) <= radii).any(1), x, manifold)
    return inside.float().mean()


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
