"""Planar and radial flows: Rezende & Mohamed, *Variational Inference with Normalizing Flows*, 2015, arXiv 1505.05770.

Each layer bends space along a plane or around a point, and knows its own log-determinant in O(D):

    planar    f(z) = z + u tanh(w^T z + b)            log |1 + tanh'(w^T z + b) w^T u|        (equations 10 to 12)
    radial    f(z) = z + beta (z - z0) / (alpha + r)  (D - 1) log(1 + beta h) + log(1 + beta h + beta h' r)    (14)

with r = |z - z0| and h = 1 / (alpha + r). A cascade of them takes draws of a Gaussian to draws of a posterior, whose
parameters an inference network gives, or to those of a density that is known up to a factor (section 6.1):
`EnergyFlow` is fitted to such an energy by minimizing KL(q || p).

Departures:

- w^T u > -1 is had as in appendix A.1, with a softplus that is shifted, so that parameters of zero are the identity,
  and kept above `FLOOR`, so that no rounding makes a layer singular;
- beta > -alpha is had by exponentials instead of the softplus of A.2: alpha and (alpha + beta) / alpha, the slope at
  the centre, are those of limited numbers. It trains better, for twice and half the slope are then equally far from 1;
- the inverse, of which the paper does without, is here as well: of a planar layer by Newton's method, of a radial one
  in closed form;
- `EnergyFlow` begins with an affine layer, which is learned with the others; it is trained by AdamW with a cosine
  schedule instead of RMSprop, and the inverse temperature, min(1, 0.01 + t / 10000) at step t of the paper, rises over
  a part of the run;
- or it is trained by the natural gradient (`zoo.optim.NaturalGradient`), without which radial layers stay far from
  the best that they can do.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.flows.vectors import VectorTransform
from zoo.nn.activations import soft_limit

FLOOR = 1e-3
"""The least slope 1 + w^T u of a planar layer, and the least (alpha + beta) / alpha of a radial one, whose most is 1 /
`FLOOR`."""


def positive(x: Tensor) -> Tensor:
    """A softplus that is 1 at 0 and more than `FLOOR` everywhere."""
    return FLOOR + F.softplus(x + math.log(math.expm1(1 - FLOOR)))


class Layers(VectorTransform):
    """K layers of one kind, whose parameters are learned or, amortized, come from a context by one linear layer.

    Args:
        dims: D.
        layers: K.
        context_dims: size of the context; 0 for learned parameters.
        numbers: parameters of a layer.
    """

    def __init__(self, dims: int, layers: int, context_dims: int, numbers: int) -> None:
        super().__init__(dims, context_dims, layers=layers)
        self.layers = layers
        self.raw = nn.Parameter(torch.zeros(layers, numbers))
        self.amortized = nn.Linear(context_dims, layers * numbers, bias=False) if context_dims else None
        if self.amortized is not None:
            nn.init.normal_(self.amortized.weight, std=0.1 / math.sqrt(context_dims))

    def parameters_of(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Numbers of all layers, (K, 1, P) or, with a context (N, C), (K, N, P); checks the shapes of both."""
        self.check(x, context)
        if self.amortized is None:
            return self.raw[:, None]
        with torch.autocast(x.device.type, enabled=False):
            own = self.amortized(context.to(self.raw.dtype))
        return self.raw[:, None] + own.unflatten(1, self.raw.shape).transpose(0, 1)


class Planar(Layers):
    """K planar layers, f(z) = z + u tanh(w^T z + b) each.

    Both directions are differentiable, the inverse once: its derivatives are those of the implicit function.

    Args:
        dims: D.
        layers: K.
        context_dims: size of the context that gives u, w and b; 0 for learned ones.
    """

    def __init__(self, dims: int, layers: int = 1, context_dims: int = 0) -> None:
        super().__init__(dims, layers, context_dims, 2 * dims + 1)
        with torch.no_grad():
            self.raw[:, :dims].normal_(std=0.1 / math.sqrt(dims))
            self.raw[:, dims : 2 * dims].normal_(std=1 / math.sqrt(dims))
            self.raw[:, 2 * dims].normal_()  # planes through one point alone would be a poor start

    def coefficients(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """u and w, (K, N or 1, D), b and the slope s = w^T u > -1, (K, N or 1), of invertible layers (appendix A.1)."""
        u, w, b = self.parameters_of(x, context).split([self.dims, self.dims, 1], -1)
        along = (u * w).sum(-1, keepdim=True)
        slope = positive(along) - 1
        # `along` and so the change of u vanish with w; the tiny number is for 0 / 0.
        square = w.square().sum(-1, keepdim=True) + torch.finfo(w.dtype).tiny
        u = u + (slope - along) * (w / square)
        return u, w, b[..., 0], slope[..., 0]

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (N, D) to f_K(... f_1(x)) and its log-determinant, (N,) nats."""
        u, w, b, slope = self.coefficients(x, context)
        bent = []
        for k in range(self.layers):
            bent.append(torch.tanh((x * w[k]).sum(1) + b[k]))
            x = torch.addcmul(x, u[k], bent[-1][:, None])
        return x, torch.log1p(slope * (1 - torch.stack(bent).square())).sum(0)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z (N, D) to the x with T(x) = z, exact to rounding, and the log-determinant, (N,) nats."""
        u, w, b, slope = self.coefficients(z, context)
        bent = []
        for k in reversed(range(self.layers)):
            # Along w the layer is a + s tanh(a), and nothing else is unknown.
            a = solve_planar(slope[k].expand(len(z)), (z * w[k]).sum(1) + b[k])
            bent.append(torch.tanh(a))
            z = z - u[k] * bent[-1][:, None]
        bent = torch.stack(bent[::-1])
        return z, -torch.log1p(slope * (1 - bent.square())).sum(0)


def solve_planar(slope: Tensor, value: Tensor) -> Tensor:
    """The a with a + s tanh(a) = c, for slopes s > -1 and values c (N,); differentiable once.

    The function is odd and increasing, and beyond 0 it is concave for positive s, else convex. Newton's method from
    c - s, where the tanh is taken for the 1 that it tends to, then approaches |a| from one side and never leaves it.
    """
    with torch.no_grad():
        s, c = slope, value.abs()
        a = (c - s).clamp(min=0)
        for _ in range(200):  # a multiple of what the least slope needs, so that no input makes this a loop without end
            t = torch.tanh(a)
            error = a + s * t - c
            if bool((error.abs() <= 2 * torch.finfo(a.dtype).eps * (a + (s * t).abs() + c)).all()):
                break
            a = (a - error / (1 + s * (1 - t * t))).clamp(min=0)
        a = torch.copysign(a, value)
        t = torch.tanh(a)
        rate = 1 + slope * (1 - t * t)
    # One more step of Newton's, whose derivatives in s and c are those of the solution.
    return a - (a + slope * t - value) / rate


class Radial(Layers):
    """K radial layers, f(z) = z + beta (z - z0) / (alpha + |z - z0|) each; both directions in closed form.

    Args:
        dims: D.
        layers: K.
        context_dims: size of the context that gives z0, alpha and beta; 0 for learned ones.
    """

    def __init__(self, dims: int, layers: int = 1, context_dims: int = 0) -> None:
        super().__init__(dims, layers, context_dims, dims + 2)
        with torch.no_grad():
            self.raw[:, :dims].normal_()
            self.raw[:, dims + 1].normal_(std=0.1)

    def coefficients(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """z0 (K, N or 1, D), alpha > 0 and alpha + beta > 0 (K, N or 1, 1), of invertible layers."""
        centre, alpha, beta = self.parameters_of(x, context).split([self.dims, 1, 1], -1)
        # A radius of e^-10 or e^10 is as good as none, and its exponential is finite.
        alpha = soft_limit(alpha, 10.0).exp()
        return centre, alpha, alpha * soft_limit(beta, -math.log(FLOOR)).exp()

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (N, D) to f_K(... f_1(x)) and its log-determinant, (N,) nats."""
        centre, alpha, total = self.coefficients(x, context)
        log_det = x.new_zeros(len(x))
        for k in range(self.layers):
            away = x - centre[k]
            r = length(away)
            # 1 + beta h = (r + alpha + beta) / (r + alpha)
            x = centre[k] + away * ((r + total[k]) / (r + alpha[k]))
            log_det = log_det + self._log_det(r, alpha[k], total[k])
        return x, log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z (N, D) to the x with T(x) = z and the log-determinant, (N,) nats."""
        centre, alpha, total = self.coefficients(z, context)
        log_det = z.new_zeros(len(z))
        for k in reversed(range(self.layers)):
            away = z - centre[k]
            far = length(away)
            # r (r + alpha + beta) = far (r + alpha), of whose two roots one is positive; no difference of like numbers.
            half = 0.5 * (far - total[k])
            root = (half.square() + alpha[k] * far).sqrt()
            r = torch.where(half > 0, half + root, alpha[k] * far / (root - half).clamp(min=torch.finfo(z.dtype).tiny))
            z = centre[k] + away * ((r + alpha[k]) / (r + total[k]))
            log_det = log_det - self._log_det(r, alpha[k], total[k])
        return z, log_det

    def _log_det(self, r: Tensor, alpha: Tensor, total: Tensor) -> Tensor:
        """(N,) nats, with 1 + beta h + beta h' r = (r^2 + 2 alpha r + alpha (alpha + beta)) / (r + alpha)^2."""
        across = (self.dims - 1) * (r + total).log() - (self.dims + 1) * (r + alpha).log()
        return (across + (r * (r + 2 * alpha) + alpha * total).log())[:, 0]


def length(x: Tensor) -> Tensor:
    """|x|, (N, D) to (N, 1), with a derivative at 0."""
    return (x.square().sum(1, keepdim=True) + torch.finfo(x.dtype).tiny).sqrt()
