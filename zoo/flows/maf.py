"""MAF: Papamakarios, Pavlakou, Murray, *Masked Autoregressive Flow for Density Estimation*, 2017, arXiv 1705.07057.

A Gaussian autoregressive model p(x_d | x_before d) = N(mu_d, exp(alpha_d)^2) is a flow: it makes x from independent
normal numbers z by x_d = z_d exp(alpha_d) + mu_d (equation 3), and finds them again by

    z_d = (x_d - mu_d) exp(-alpha_d),    log |det dz/dx| = -sum_d alpha_d        (equations 4 and 5),

for all dimensions at once where mu and alpha are the outputs of one MADE (`zoo.autoregressive.made`). Several, each
modelling the z of the one before in another ordering, make a density that no single ordering could. Drawing
takes one step for each dimension of each layer, in which the units of a MADE are computed once.

Departures:

- data are standardized first, and there is no batch normalization between the layers;
- where `components` asks for a base of several Gaussians ("MAF MoG"), it is one mixture of vectors with
  full covariances; the paper's is a MADE, with a mixture for each dimension given those before;
- alpha is limited softly to (-`LIMIT`, `LIMIT`), so that no early step of training overflows;
- the layers have direct connections, dropout if asked for, and are trained by AdamW or Muon on a cosine schedule with
  averaged weights, where the paper stops early.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.errors import DataError
from zoo.flows.vectors import VectorFlow, VectorTransform
from zoo.nn.activations import soft_limit
from zoo.nn.made import MADENet, OrderedPass
from zoo.nn.orderings import random_orderings

LIMIT = 5.0
"""The most that a layer's log-scale can be."""


class AutoregressiveTransform(VectorTransform):
    """y_d = x_d exp(l_d) + t_d, where l_d and t_d are functions of the x before d: one pass of a MADE, by equation 4.

    The inverse goes one dimension after the other and computes each unit of the network once. It is differentiable
    once, its gradients taking D products with the Jacobian.

    Args:
        dims: D.
        hidden: units of a hidden layer.
        layers: number of hidden layers.
        ordering: place 0..D-1 of each dimension; None for the order in which they are.
        context_dims: size of the context; 0 for none.
        dropout: probability of dropping a hidden activation while training.
        seed: of the connectivity.
    """

    def __init__(
        self,
        dims: int,
        hidden: int = 64,
        layers: int = 2,
        ordering: Tensor | None = None,
        context_dims: int = 0,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(dims, context_dims, hidden=hidden, layers=layers)
        if not 0 <= dropout < 1:
            raise DataError(f"dropout must be in [0, 1), not {dropout}.")
        orderings = torch.arange(dims)[None] if ordering is None else ordering[None]
        if orderings.shape[1:] != (dims,):
            raise DataError(f"ordering must be a permutation of 0..{dims - 1}, not of shape {tuple(ordering.shape)}.")
        self.net = MADENet(
            orderings, hidden, layers, 2, seed=seed, direct=True, dropout=dropout, context_dims=context_dims
        )

    def elementwise(self, x: Tensor, outputs: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
        """Each x to its y and l (equation 4), given the network's outputs, mu and alpha along `dim`."""
        mu, alpha = outputs.unbind(dim)
        log_scale = -soft_limit(alpha, LIMIT)
        return (x - mu) * log_scale.exp(), log_scale

    def elementwise_inverse(self, y: Tensor, outputs: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
        """Each y to its x (equation 3) and l, given the network's outputs."""
        mu, alpha = outputs.unbind(dim)
        alpha = soft_limit(alpha, LIMIT)
        return torch.addcmul(mu, y, alpha.exp()), -alpha

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (N, D) to y and the log-determinant, (N,) nats."""
        context = self._checked(x, context)
        y, log_scale = self.elementwise(x, self.net(x, context=context))
        return y, log_scale.sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y (N, D) to x and the log-determinant, (N,) nats."""
        context = self._checked(z, context)
        if torch.is_grad_enabled():
            return _Inverse.apply(self, z, context, *self.parameters())
        return self._inverse(z, context)

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """`inverse` without gradients."""
        y = y.T[self.net.drawn]
        x, log_scales = torch.empty_like(y), torch.empty_like(y)
        with torch.autocast(y.device.type, enabled=False):
            steps = OrderedPass(self.net, y.shape[1], context)
            for t in range(self.dims):
                x[t], log_scales[t] = self.elementwise_inverse(y[t], steps.step(t, x[:t]), 0)
        return x[self.net.orderings[0]].T, -log_scales.sum(0)

    def _checked(self, x: Tensor, context: Tensor | None) -> Tensor | None:
        """The context in the precision of x; refuses shapes that do not fit."""
        self.check(x, context)
        return None if context is None else context.to(x.dtype)


class _Inverse(torch.autograd.Function):
    """The inverse of an `AutoregressiveTransform`, and its gradients as those of the implicit function y = T(x).

    Where J is the Jacobian of T, a gradient g of x is one of v of y, J^T v = g, and one of -v of T(x), for what else T
    depends on. J is a triangle in the order of the dimensions, so v is found from the last to the first.
    """

    @staticmethod
    def forward(
        ctx: Any, transform: AutoregressiveTransform, y: Tensor, context: Tensor | None, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, log_det = transform._inverse(y, context)
        ctx.transform = transform
        ctx.save_for_backward(x, context, *parameters)
        return x, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_log_det: Tensor) -> tuple[Tensor | None, ...]:
        transform, net, (x, context, *parameters) = ctx.transform, ctx.transform.net, ctx.saved_tensors
        training, net.training = net.training, False  # `_inverse` drops no activation either
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            x = x.detach().requires_grad_()
            context = None if context is None else context.detach().requires_grad_()
            y, log_scale = transform.elementwise(x, net(x, context=context))
        net.training = training

        def products(inputs: list[Tensor]) -> tuple[Tensor, ...]:
            # The log-determinant of the inverse is minus the sum of all log-scales.
            return torch.autograd.grad([y, log_scale], inputs, [-v, -grad_log_det[:, None].expand_as(v)], True)

        v, scale = torch.zeros_like(x), log_scale.detach().exp()
        last, *others = net.drawn.flip(0).split(1)
        v[:, last] = grad[:, last] / scale[:, last]
        for d in others:
            v[:, d] = (grad + products([x])[0])[:, d] / scale[:, d]
        needed = ctx.needs_input_grad[2:]
        inputs = [i for i, need in zip((context, *parameters), needed, strict=True) if need]
        found = iter(products(inputs) if inputs else ())
        return None, v, *[next(found) if need else None for need in needed]


class MAF(VectorFlow):
    """A masked autoregressive flow, for points and tables of continuous numbers; densities in one pass.

    Args:
        shape: of one datum, [D].
        layers: number of MADEs.
        hidden: units of a hidden layer of each.
        hidden_layers: hidden layers of each.
        components: Gaussians of the base; 1 for a standard normal one.
        ordering_seed: each MADE has a random ordering, drawn with this seed; None to begin with the order of the
            dimensions and reverse it from one MADE to the next, as in the paper.
        dropout: probability of dropping a hidden activation while training.
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights, not of the biases.

    Example:
        >>> model = MAF(shape=[2])
        >>> x = model.sample(4, seed=0)     # float32 (4, 2)
        >>> model.log_prob(x)               # (4,) nats
    """

    papers = ("maf",)

    def __init__(
        self,
        shape: list[int] = [2],  # noqa: B006  a plain JSON value, never changed
        layers: int = 5,
        hidden: int = 64,
        hidden_layers: int = 2,
        components: int = 1,
        ordering_seed: int | None = None,
        dropout: float = 0.0,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        warmup: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(shape)
        if layers < 1:
            raise DataError(f"layers must be at least 1, not {layers}.")
        if ordering_seed is not None and not 0 <= ordering_seed < 2**32:
            raise DataError(f"ordering_seed must be from 0 to 2**32 - 1, not {ordering_seed}.")
        self.save_hyperparameters()
        dims = self.spec.dims
        if ordering_seed is None:
            raster = torch.arange(dims)
            orderings = [raster.flip(0) if k % 2 else raster for k in range(layers)]
        else:
            orderings = list(random_orderings(layers, dims, ordering_seed))
        self.flow = self.make_flow(
            [
                AutoregressiveTransform(dims, hidden, hidden_layers, ordering, dropout=dropout, seed=k)
                for k, ordering in enumerate(orderings)
            ],
            components,
        )
