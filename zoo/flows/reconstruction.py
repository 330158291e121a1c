"""Whether images come back from their latents in float32.

An inverse that is exact in theory is not in float32: a value of magnitude m is rounded by some m 2^-24, and the next
layer passes that on to its neighbours. Where layer after layer stretches what lies far from the data, the detail of an
image is rounded away before the inverse sees it (Behrmann et al., *Understanding and Mitigating Exploding Inverses in
Invertible Neural Networks*, 2021, arXiv 2006.09347). Its log-density is still right to some digits.

What is asked here is always the same question: is `decode(encode(x))` x?
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from zoo.batch import Batch
from zoo.errors import DataError, warn
from zoo.model import Measurement
from zoo.results import METRICS, Result

# Latents of data have a magnitude near 1. An image that is more likely than one whose latents all are FAR has, over a
# normal base, none beyond FAR sqrt(D), 900 of a CIFAR-10 image, which float32 rounds by 5e-5. It is not looked at any
# further; the least of the images that do not come back are some hundred times less likely.
FAR = 16.0


class Invertible(Protocol):
    """What is asked: a model of images with latents, as `zoo.flows.images.ImageFlow` is."""

    def encode(self, x: Tensor, *, verify: bool = True) -> Tensor:
        """Images uint8 (N, C, H, W) to latents (N, D)."""

    def decode(self, z: Tensor) -> Tensor:
        """Latents (N, D) to images uint8 (N, C, H, W)."""


def lost(model: Invertible, x: Tensor, z: Tensor) -> Tensor:
    """Which images x, uint8 (N, C, H, W), do not come back in every value from their latents z: boolean (N,)."""
    return (model.decode(z.nan_to_num(0, 0, 0)) != x).flatten(1).any(1) | ~z.isfinite().all(1)


def refuse_lost(model: Invertible, x: Tensor, z: Tensor) -> None:
    """Refuse images that do not come back from their latents z: a `DataError` that says which of the batch."""
    where = lost(model, x, z).nonzero().flatten().tolist()
    if where:
        some = ", ".join(map(str, where[:8])) + (f" and {len(where) - 8} more" if len(where) > 8 else "")
        raise DataError(
            f"{len(where)} of {len(x)} images (at {some} of the batch) do not come back from their latents, for they "
            f"lie so far from this flow's data that it stretches them beyond what float32 inverts: leave them out, or "
            f"pass verify=False for latents all the same."
        )


def warn_of_lost(model: Invertible, x: Tensor, draws: Tensor, far: float) -> None:
    """Warn where images of these log-densities do not come back from their latents.

    It costs nothing for images that are anywhere near the data; only those that are not (see `FAR`) go through the flow
    and back.

    Args:
        model: the flow.
        x: images, uint8 (N, C, H, W).
        draws: their log-densities, (draws, N) nats.
        far: the log-density of latents that all are `FAR`, in nats.
    """
    suspects = (draws.detach() < far).any(0)
    if not bool(suspects.any()):
        return
    x = x[suspects]
    count = int(lost(model, x, model.encode(x, verify=False)).sum())
    if count:
        warn(
            f"{count} of {len(suspects)} images do not come back from their latents, for they lie so far from the data "
            f"of this {type(model).__name__} that it stretches them beyond what float32 inverts; their "
            f"log-densities are those of images that it cannot draw."
        )


class Reconstruction(Measurement):
    """How many images do not come back from their latents in every value, of which an inverse in theory leaves none.

    Args:
        model: a flow of images.
    """

    metrics = (METRICS["not_reconstructed"],)

    def __init__(self, model: Invertible) -> None:
        self.model, self.count = model, 0

    def update(self, batch: Batch) -> None:
        """Images uint8 (N, C, H, W), there and back."""
        self.count += int(lost(self.model, batch.x, self.model.encode(batch.x, verify=False)).sum())

    def compute(self) -> list[Result]:
        """A count, 0 for a flow that is invertible in float32."""
        protocol = "image to latents and back in float32, compared in every value"
        return [Result(METRICS["not_reconstructed"], "count", self.count, protocol=protocol)]
