"""RealNVP: Dinh, Sohl-Dickstein, Bengio, *Density estimation using Real NVP*, 2017, arXiv 1605.08803.

A cascade of affine couplings, each of which scales and shifts one half of an image by functions of the other half,
takes images to standard normal latents. The halves are checkerboards of pixels, then groups of channels of the
squeezed image (figure 3). After each scale half of the variables leave for the base, so that the others, at half the
resolution, go through more layers (section 3.6).

From the paper: the masks and their order, three couplings of each kind at a scale and four checkerboards at the last;
the multi-scale architecture; the logit of dequantized values (section 4.1); residual coupling networks whose log-scale
goes through a tanh. Departures:

- a checkerboard is a mask of channels of the squeezed image (`zoo.flows.couplings`), and the networks see that: at half
  the resolution, none of whose inputs is masked. The later masks are alternate rows, which are channels there as well;
- no batch normalization, which makes a density depend on a batch: networks have a root-mean-square normalization over
  the channels of a pixel, and the flow has none;
- the tanh is scaled by a constant and not by a learned number; p = alpha + (1 - 2 alpha) y / levels, which treats black
  and white alike, where the paper has 1 - alpha;
- no weight normalization; AdamW or Muon with a cosine schedule, averaged weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from zoo.errors import DataError
from zoo.flows.core import Compose, Normal, Transform
from zoo.flows.couplings import (
    AffineCoupling,
    Coupling,
    FactorOut,
    Flatten,
    Logit,
    ResidualNet,
    Squeeze,
    squeezed,
)
from zoo.flows.images import ImageFlow


class RealNVP(ImageFlow):
    """RealNVP, affine couplings between images and normal latents, at several scales.

    Args:
        shape: (C, H, W) of the images; H and W can be halved `scales` times.
        levels: number of values of a sub-pixel.
        scales: number of scales; the paper's models of CIFAR-10 have 2.
        couplings: of each kind at a scale, checkerboards and rows; the last has one more, checkerboards alone.
        channels: of the coupling networks.
        blocks: residual blocks of each coupling network.
        alpha: distance that the argument of the logit keeps from 0 and 1.
        dropout: probability of dropping an activation inside a block while training.
        activation: "relu" or "gelu".
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights, not of the biases.

    Example:
        >>> model = RealNVP(shape=[1, 8, 8], levels=17)
        >>> x = model.sample(4, seed=0)     # uint8 (4, 1, 8, 8)
        >>> model.elbo(x, seed=0)           # (4,) nats
    """

    papers = ("realnvp",)

    def __init__(
        self,
        shape: list[int] = [1, 8, 8],  # noqa: B006  a plain JSON value, never changed
        levels: int = 17,
        scales: int = 2,
        couplings: int = 3,
        channels: int = 32,
        blocks: int = 2,
        alpha: float = 0.05,
        dropout: float = 0.0,
        activation: str = "gelu",
        optimizer: str = "adamw",
        lr: float = 1e-3,
        warmup: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(shape, levels)
        self.check_network(activation, dropout, scales=scales, couplings=couplings, channels=channels, blocks=blocks)
        if not 0 < alpha < 0.5:
            raise DataError(f"alpha must be in (0, 0.5), not {alpha}.")
        self.save_hyperparameters()
        self.build(Normal([self.spec.dims]), [Logit(levels, alpha), self._scale(self.spec.shape, scales)])

    def _scale(self, shape: Sequence[int], scales: int) -> Transform:
        """From images of this shape to vectors, by that many scales."""
        size = squeezed(shape)
        if scales == 1:
            return Compose([Squeeze(), *self._couplings(size, "checkerboard", extra=1), Flatten(size)])
        couplings = [*self._couplings(size, "checkerboard"), *self._couplings(size, "rows")]
        rest = self._scale((size[0] // 2, *size[1:]), scales - 1)
        return Compose([Squeeze(), *couplings, FactorOut(size, rest)])

    def _couplings(self, shape: Sequence[int], partition: str, extra: int = 0) -> list[Coupling]:
        own, half = self.hparams, shape[0] // 2
        return [
            AffineCoupling(
                ResidualNet(half, 2 * half, own.channels, own.blocks, own.dropout, own.activation),
                partition,
                swap=i % 2 == 1,
            )
            for i in range(own.couplings + extra)
        ]
