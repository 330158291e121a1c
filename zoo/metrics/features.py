"""Distances of images in the features of a network: the Fréchet and the kernel distance, precision and recall.

Fréchet Inception distance (Heusel et al. 2017, arXiv 1706.08500): the squared W_2 of two Gaussians with the features'
means and covariances. Kernel Inception distance (Binkowski et al. 2018, arXiv 1801.01401): MMD^2 of a cubic kernel,
unbiased. Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991): which share of one set of features
lies within the balls around the other's that reach to their k-th neighbours.

Such a number means nothing without the network (that of these names is `zoo.metrics.Inception`), the resizing, the
numbers of images and the reference. FID falls with the number of images, KID does not. FID has the squared unit of the
features; to the cubic kernel of KID both their unit and their origin count, and it takes a network's features as they
come. Precision and recall are shares, the same in every unit.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from zoo.errors import DataError
from zoo.metrics.kernels import Polynomial, mmd
from zoo.metrics.points import by_rows, check_points, pairwise, prepared
from zoo.nn.devices import full_precision, generator_of


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

    With Inception's features it is FID (arXiv 1706.08500, equation 6), in their squared unit. It is biased upwards, by
    about D / N: compare numbers of as many images only. The covariance of no more than D features is singular.
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
    generator, kernel = generator_of(seed), Polynomial(3)

    def part(points: Tensor) -> Tensor:
        return points[torch.randperm(len(points), generator=generator, device="cpu")[:size].to(points.device)]

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
    # Squares by products lose what is small beside the whole: the neighbours within clusters that are far apart.
    real, generated = (features.double() for features in prepared(real, generated, least=2))
    if not 1 <= k < min(len(real), len(generated)):
        raise DataError(f"k must be 1 to {min(len(real), len(generated)) - 1}, fewer than the features, not {k}.")
    with full_precision(real.device):
        return _share_within(generated, real, k), _share_within(real, generated, k)


def _share_within(x: Tensor, manifold: Tensor, k: int) -> Tensor:
    # The nearest of a set to one of its own is that one.
    radii = by_rows(lambda rows, all_: pairwise(rows, all_, 2).kthvalue(k + 1).values, manifold, manifold)
    inside = by_rows(lambda rows, all_: (pairwise(rows, all_, 2) <= radii).any(1), x, manifold)
    return inside.float().mean()
