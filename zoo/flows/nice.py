"""NICE: Dinh, Krueger, Bengio, *NICE: Non-linear Independent Components Estimation*, 2015, arXiv 1410.8516.

A cascade of additive couplings, each of which shifts one part of an image by a function of the other, takes images to
independent logistic components. Each layer keeps volumes, so the likelihood is that of the components; a diagonal
scaling at the end (section 3.3) lets some of them vary more than others. The inverse subtracts where the flow added,
and drawing an image costs what evaluating one does.

From the paper: additive couplings, the parts alternating; the diagonal scaling exp(s); the logistic prior (section
3.4); uniform dequantization. Departures:

- the function m of a coupling, which the paper leaves arbitrary, is a residual convolutional network; the paper's, of
  four hidden layers of 2,000 units on flat vectors, have 73 million weights for CIFAR-10;
- the parts are halves of squeezed images (checkerboards, then alternate rows; see `zoo.flows.couplings`) at several
  scales, where the paper takes the odd and the even components;
- there are as many couplings as asked, where the paper has four; images are scaled to [-1/2, 1/2) and not whitened;
- AdamW or Muon with a cosine schedule, averaged weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.flows.core import Logistic, Transform
from zoo.flows.couplings import (
    AdditiveCoupling,
    Centre,
    Flatten,
    ResidualNet,
    Squeeze,
    squeezed,
)
from zoo.flows.images import ImageFlow


class Scaling(Transform):
    """Each component times its own exp(s) (section 3.3).

    Args:
        dims: D.
        start: the value from which all s are learned.
    """

    def __init__(self, dims: int, start: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((dims,), start))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, D) to the same, and the sum of s, (N,)."""
        return x * self.log_scale.exp(), self.log_scale.sum().expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, D) to the same, and minus the sum of s, (N,)."""
        return z * (-self.log_scale).exp(), -self.log_scale.sum().expand(len(z))


class NICE(ImageFlow):
    """NICE, additive couplings between images and logistic components.

    Args:
        shape: (C, H, W) of the images; H and W can be halved `scales` times.
        levels: number of values of a sub-pixel.
        scales: number of times that images are squeezed.
        couplings: at each scale of each kind, checkerboards and rows.
        channels: of the coupling networks.
        blocks: residual blocks of each coupling network.
        dropout: probability of dropping an activation inside a block while training.
        activation: "relu" or "gelu".
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights, not of the biases.

    Example:
        >>> model = NICE(shape=[1, 8, 8], levels=17)
        >>> x = model.sample(4, seed=0)     # uint8 (4, 1, 8, 8)
        >>> model.elbo(x, seed=0)           # (4,) nats
    """

    papers = ("nice",)

    def __init__(
        self,
        shape: list[int] = [1, 8, 8],  # noqa: B006  a plain JSON value, never changed
        levels: int = 17,
        scales: int = 2,
        couplings: int = 2,
        channels: int = 32,
        blocks: int = 2,
        dropout: float = 0.0,
        activation: str = "gelu",
        optimizer: str = "adamw",
        lr: float = 1e-3,
        warmup: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(shape, levels)
        self.check_network(activation, dropout, scales=scales, couplings=couplings, channels=channels, blocks=blocks)
        self.save_hyperparameters()
        transforms: list[Transform] = [Centre(levels)]
        size = self.spec.shape
        for _ in range(scales):
            size, half = squeezed(size), 2 * size[0]
            transforms.append(Squeeze())
            for partition in ("checkerboard", "rows"):
                for i in range(couplings):
                    net = ResidualNet(half, half, channels, blocks, dropout, activation)
                    transforms.append(AdditiveCoupling(net, partition, swap=i % 2 == 1))
        dims = self.spec.dims
        # The logistic's deviation, 1.8, is that of pixels times exp(2), and that of what couplings leave of them times
        # exp(4): all s have a way to go, which for AdamW is long.
        self.build(Logistic([dims]), [*transforms, Flatten(size), Scaling(dims, 3.0)])
