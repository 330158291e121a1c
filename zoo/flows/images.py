"""The model that flows of images share: dequantized images to latents of a base, and back.

What is done on the way is a family's own (`zoo.flows.nice`, `realnvp`, `glow`), of the layers in
`zoo.flows.couplings`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.flows.core import Base, Flow, Transform
from zoo.flows.reconstruction import FAR, Reconstruction, refuse_lost, warn_of_lost
from zoo.model import GenerativeModel, Measurement
from zoo.model.dequantized import Dequantized
from zoo.nn.activations import ACTIVATIONS
from zoo.nn.devices import full_precision, precise
from zoo.spec import DataSpec, check_image_shape


class ImageDensity(Flow):
    """A flow that, called, gives its log-density: continuous images (N, C, H, W) to (N,) nats."""

    def forward(self, y: Tensor) -> Tensor:
        """log p(y), in nats."""
        return self.log_prob(precise(y, self.base.place))


class ImageFlow(Dequantized, GenerativeModel):
    """A model whose `net` is a flow of dequantized images, from levels to vectors of its base.

    Args:
        shape: (C, H, W) of the images.
        levels: number of values of a sub-pixel.
    """

    net: ImageDensity

    def __init__(self, shape: list[int], levels: int) -> None:
        super().__init__()
        check_image_shape(shape)
        if not 2 <= levels <= 256:
            raise DataError(f"levels must be 2..256, not {levels}.")
        self.spec = DataSpec(tuple(shape), levels)

    @staticmethod
    def check_network(activation: str, dropout: float, **counts: int) -> None:
        """Refuse the arguments of a `ResidualNet` that make none, and counts below one."""
        for name, value in counts.items():
            if value < 1:
                raise DataError(f"{name} must be at least 1, not {value}.")
        if activation not in ACTIVATIONS:
            raise DataError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}.")
        if not 0 <= dropout < 1:
            raise DataError(f"dropout must be in [0, 1), not {dropout}.")

    def build(self, base: Base, transforms: Iterable[Transform]) -> None:
        """Make `net` of a base of vectors and of the transforms, from levels to them."""
        self.net = ImageDensity(base, transforms)

    # -- density ------------------------------------------------------------------------------------------------

    def log_density(self, y: Tensor) -> Tensor:
        """log p(y) of continuous y in [0, levels), a unit a level: (N, C, H, W) to (N,) nats.

        What training steps call: nothing here waits for a GPU. `elbo` warns of what lies beyond float32.
        """
        return self.net(y)

    def elbo_draws(
        self, x: Tensor, *, samples: int = 1, seed: int | None = None, index: Tensor | None = None
    ) -> Tensor:
        """log p(x + u) of each of `samples` draws of uniform noise: (N, C, H, W) to (samples, N) nats.

        It warns, as `elbo` and `bits_per_dim` do, where images lie so far from the data that they do not come back
        from their latents in float32.
        """
        draws = super().elbo_draws(x, samples=samples, seed=seed, index=index)
        far = self.net.base.log_prob(draws.new_full((1, self.spec.dims), FAR))
        warn_of_lost(self, x, draws, far)
        return draws

    # -- images to latents and back -----------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, x: Tensor, *, verify: bool = True) -> Tensor:
        """The latents of images, each value in the centre of its level: uint8 (N, C, H, W) to (N, D).

        Far from its data a flow may stretch an image beyond what float32 inverts. Such latents are no code of it, and
        are refused: a `DataError` says which of the batch.

        Args:
            x: images.
            verify: whether to decode the latents and see; without, it takes half the time and refuses none.
        """
        x = self.check(x)
        # What was rounded on the way forward would not come back.
        with self.sampling_mode(cached=False), full_precision(self.device):
            z = self.net.transform(precise(x, self.net.base.place) + 0.5)[0]
        if verify:
            refuse_lost(self, x, z)
        return z

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """The images of latents (N, D): uint8 (N, C, H, W). Those of `encode(x)` are x itself."""
        z = self.check(z, "z", DataSpec((self.spec.dims,), None))
        with self.sampling_mode(cached=False), full_precision(self.device):
            return self.to_levels(self.net.transform.inverse(z)[0])

    def measurements(self) -> list[Measurement]:
        """The images that do not come back from their latents."""
        return [Reconstruction(self)]

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None, temperature: float = 1.0) -> Tensor:
        """Draw `n` images, uint8 (n, C, H, W).

        Args:
            n: number of images.
            seed: the same seed gives the same images, the first of them whatever `n` is.
            temperature: factor on the latents; below one, less varied and more likely images.
        """
        with self.sampling_mode(cached=False), full_precision(self.device):
            return self.in_chunks(n, seed, lambda draws, _: self.to_levels(self.net.draw(draws, temperature)))
