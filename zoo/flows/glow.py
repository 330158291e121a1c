"""Glow: Kingma & Dhariwal, *Glow: Generative Flow with Invertible 1x1 Convolutions*, 2018, arXiv 1807.03039.

A step of the flow is an affine normalization of each channel (actnorm), an invertible 1x1 convolution, which learns
what RealNVP's fixed permutations of channels only shuffle, and an affine coupling. K such steps make a scale, of L;
after each but the last half of the channels leave for the base, by a learned prior given those that stay.

From the paper: the step and the multi-scale architecture (figure 2); actnorm, started from the data; the 1x1
convolution by its LU decomposition (section 3.2); coupling networks that start at zero; learned priors, as in the
authors' code: of what leaves, an affine coupling given what stays, and of the last scale a mean and a deviation for
each channel, so that the base is standard normal; a temperature for drawing. Departures:

- coupling networks are residual networks of several blocks (`ResidualNet` in `zoo.flows.couplings`), where the paper
  has three layers of 512 channels: fewer steps do, and their networks are deeper;
- so are those of the priors, which the authors have of one layer;
- the log-scale of a coupling goes through a tanh, where the authors have log sigmoid(raw + 2), and all couplings
  together neither stretch nor shrink a value by more than exp(`stretch`);
- AdamW or Muon with a cosine schedule, averaged weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.batch import as_batch
from zoo.errors import CheckpointError, DataError, ZooError
from zoo.flows.core import Compose, Normal, Transform
from zoo.flows.couplings import (
    AffineCoupling,
    Centre,
    FactorOut,
    Flatten,
    ResidualNet,
    Squeeze,
    squeezed,
)
from zoo.flows.images import ImageFlow


class ActNorm(Transform):
    """Each channel shifted and scaled: (x + b) * exp(s) (section 3.1). Starts as the identity until `initialize`.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to the same, and H W times the sum of s, (N,)."""
        z = (x + self.shift[:, None, None]) * self.log_scale.exp()[:, None, None]
        return z, self._log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to the same, and minus H W times the sum of s, (N,)."""
        x = z * (-self.log_scale).exp()[:, None, None] - self.shift[:, None, None]
        return x, -self._log_det(z)

    @torch.no_grad()
    def initialize(self, x: Tensor, mean: Callable[[Tensor], Tensor]) -> None:
        """Give the channels of these data mean 0 and variance 1; `mean` is that of a tensor over all processes."""
        centre = mean(x.mean((0, 2, 3)))
        variance = mean((x - centre[:, None, None]).square().mean((0, 2, 3)))
        self.shift.copy_(-centre)
        # A channel that never varies, as in a black margin, is left narrow: its scale would be infinite.
        self.log_scale.copy_(-0.5 * variance.clamp(min=1e-6).log())

    def _log_det(self, x: Tensor) -> Tensor:
        return (x.shape[2] * x.shape[3] * self.log_scale.sum()).expand(len(x))


class InvertibleConv(Transform):
    """A 1x1 convolution z = W x at each pixel, W = P L (U + diag(sign exp(s))) (section 3.2).

    P is a fixed permutation, L has ones on its diagonal and U zeros, and log |det W| is the sum of s. It starts as a
    random rotation.

    Args:
        channels: C.
    """

    permutation: Tensor
    sign: Tensor

    LARGEST = 40.0  # of |s|; beyond it W is singular in float32

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))[0]
        p, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        # W = P L U: row i of W is row permutation[i] of L U. Not trained, and saved.
        self.register_buffer("permutation", p.argmax(1))
        self.register_buffer("sign", diagonal.sign().float())
        # L below the diagonal, U above it and s on it, as LAPACK packs them. As a vector it does not decay: a matrix
        # would be drawn to a permutation.
        factors = lower.tril(-1) + upper.triu(1) + diagonal.abs().log().diag()
        self.factors = nn.Parameter(factors.float().flatten())

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to the same, and H W times the sum of s, (N,)."""
        with torch.autocast(x.device.type, enabled=False):
            z = F.linear(x.permute(0, 2, 3, 1), self.weight_matrix()).permute(0, 3, 1, 2)
        return z, self._log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to the same, and minus H W times the sum of s, (N,); a `ZooError` where W is singular."""
        lower, upper = self._triangles(self.factors.double())
        problem = self._problem(self.factors)
        if problem:
            raise ZooError(f"A 1x1 convolution cannot be inverted, {problem}: load or train other weights.")
        with torch.autocast(z.device.type, enabled=False):
            identity = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
            left = torch.linalg.solve_triangular(lower, identity, upper=False, unitriangular=True)
            inverse = torch.linalg.solve_triangular(upper, left, upper=True)[:, self.permutation]
            x = F.linear(z.permute(0, 2, 3, 1), inverse.to(z.dtype)).permute(0, 3, 1, 2)
        return x, -self._log_det(z)

    def weight_matrix(self) -> Tensor:
        """W, (C, C)."""
        lower, upper = self._triangles(self.factors)
        return (lower @ upper)[self.permutation]

    def _triangles(self, factors: Tensor) -> tuple[Tensor, Tensor]:
        packed = factors.view(len(self.sign), -1)
        diagonal = self.sign.to(packed) * packed.diagonal().exp()
        ones = torch.ones_like(diagonal).diag()
        return packed.tril(-1) + ones, packed.triu(1) + diagonal.diag()

    def _log_det(self, x: Tensor) -> Tensor:
        scales = self.factors.view(len(self.sign), -1).diagonal()
        return (x.shape[2] * x.shape[3] * scales.sum()).expand(len(x))

    def _problem(self, factors: Tensor) -> str | None:
        """What makes W singular, if it is."""
        if not bool(torch.isfinite(factors).all()):
            return "for its factors are not finite"
        scales = factors.view(len(self.sign), -1).diagonal()
        if bool((scales.abs() > self.LARGEST).any()):
            worst = scales[scales.abs().argmax()].item()
            return f"for its weight is singular (a factor of its determinant is exp({worst:.0f}))"
        return None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        factors, sign, order = (state_dict.get(prefix + name) for name in ("factors", "sign", "permutation"))
        if factors is not None and factors.shape == self.factors.shape:
            problem = self._problem(factors)
            if problem:
                raise CheckpointError(f"the 1x1 convolution {prefix[:-1]} cannot be inverted, {problem}.")
        if sign is not None and not bool((sign.abs() == 1).all()):
            raise CheckpointError(f"the weights' {prefix}sign must be of 1 and -1: with others W is singular.")
        if order is not None and not torch.equal(order.sort().values, torch.arange(len(order), device=order.device)):
            raise CheckpointError(f"the weights' {prefix}permutation must be one of 0..{len(order) - 1}.")
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Glow(ImageFlow):
    """Glow, steps of actnorm, 1x1 convolutions and affine couplings at several scales.

    Before its first training batch the actnorm layers take that batch (of all processes) to mean 0 and variance 1; a
    run that goes on, or that begins with given weights, keeps what they are.

    Args:
        shape: (C, H, W) of the images; H and W can be halved `scales` times.
        levels: number of values of a sub-pixel.
        scales: L, number of scales.
        steps: K, number of steps at a scale.
        channels: of the coupling networks.
        blocks: residual blocks of each coupling network.
        dropout: probability of dropping an activation inside a block while training.
        activation: "relu" or "gelu".
        stretch: how far, in nats, all couplings together may stretch or shrink a value: of n on its way each has a
            log-scale within stretch / n, and within 2. None leaves each the whole 2; far from their data such flows
            are not invertible in float32 (`zoo.flows.reconstruction`).
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights of the coupling networks.

    Example:
        >>> model = Glow(shape=[1, 8, 8], levels=17)
        >>> x = model.sample(4, seed=0, temperature=0.7)    # uint8 (4, 1, 8, 8)
        >>> model.elbo(x, seed=0)                           # (4,) nats
    """

    papers = ("glow",)

    initialized: Tensor

    def __init__(
        self,
        shape: list[int] = [1, 8, 8],  # noqa: B006  a plain JSON value, never changed
        levels: int = 17,
        scales: int = 2,
        steps: int = 4,
        channels: int = 32,
        blocks: int = 2,
        dropout: float = 0.0,
        activation: str = "gelu",
        stretch: float | None = 4.0,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        warmup: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(shape, levels)
        self.check_network(activation, dropout, scales=scales, steps=steps, channels=channels, blocks=blocks)
        if stretch is not None and not 0 < stretch < math.inf:
            raise DataError(f"stretch must be positive, or None for no limit, not {stretch}.")
        self.save_hyperparameters()
        self.register_buffer("initialized", torch.tensor(False))
        self._ready = False  # what `initialized` says, where reading it waits for no GPU
        self.build(Normal([self.spec.dims]), [Centre(levels), self._scale(self.spec.shape, scales)])

    def _scale(self, shape: Sequence[int], scales: int) -> Transform:
        """From images of this shape to vectors, by that many scales."""
        size = squeezed(shape)
        channels = size[0]
        steps = [
            Compose([ActNorm(channels), InvertibleConv(channels), self._coupling(channels)])
            for _ in range(self.hparams.steps)
        ]
        if scales == 1:
            return Compose([Squeeze(), *steps, ActNorm(channels), Flatten(size)])
        rest = self._scale((channels // 2, *size[1:]), scales - 1)
        return Compose([Squeeze(), *steps, self._coupling(channels), FactorOut(size, rest)])

    def _coupling(self, channels: int) -> AffineCoupling:
        own = self.hparams
        net = ResidualNet(channels // 2, channels, own.channels, own.blocks, own.dropout, own.activation)
        if own.stretch is None:
            return AffineCoupling(net)
        # Actnorm and 1x1 convolutions have no limit, and need none: they stretch every image alike, and what they
        # stretch of the data couplings must shrink, or latents would not be standard normal. Without limits they do so
        # in each step; and where images are far from the data, couplings stretch instead of shrinking.
        couplings = own.scales * own.steps + own.scales - 1  # on the way through all scales, priors among them
        return AffineCoupling(net, bound=min(AffineCoupling.BOUND, own.stretch / couplings))

    # -- actnorm from the data ----------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Look whether the weights are of a run or a checkpoint."""
        super().on_train_start()
        self._ready = bool(self.initialized)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Before the first batch of a fresh model: actnorm from that batch, alike in all processes."""
        super().on_train_batch_start(batch, batch_idx)
        if not self._ready:
            self.initialize(as_batch(batch).x, lambda tensor: self.trainer.strategy.reduce(tensor, reduce_op="mean"))

    @torch.no_grad()
    def initialize(self, x: Tensor, mean: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        """Take the input of every actnorm to mean 0 and variance 1 in each channel, one layer after the other.

        Args:
            x: images, uint8 (N, C, H, W).
            mean: the mean of a tensor over all processes, each with as many images.
        """
        x = self.check(x)
        if not len(x):
            raise DataError("x is empty: a mean and a variance take one image at least.")
        layers = [module for module in self.modules() if isinstance(module, ActNorm)]
        hooks = [
            layer.register_forward_pre_hook(lambda layer, inputs: layer.initialize(inputs[0], mean)) for layer in layers
        ]
        try:
            self.net.log_prob(self.noised(x))  # not `net` itself, which may be compiled
        finally:
            for hook in hooks:
                hook.remove()
        self._ready = True
        self.initialized.fill_(True)
