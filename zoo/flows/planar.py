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

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.data.points import EDGE, Energy, quadrature
from zoo.data.spec import DataSpec
from zoo.errors import DataError, ZooError
from zoo.flows.core import Flow, Inverse, Normal, Transform
from zoo.flows.vectors import VectorTransform
from zoo.model import GenerativeModel, Measurement
from zoo.nn.activations import soft_limit
from zoo.optim import NaturalGradient

FLOOR = 1e-3
"""The least slope 1 + w^T u of a planar layer, and the least (alpha + beta) / alpha of a radial one, whose most is 1 /
`FLOOR`."""

DEVIATIONS = 8.0
"""How far the quadrature of KL(q || p) goes in the base, in standard deviations; 1e-15 of q comes from beyond."""
RESOLUTIONS = (16, 32, 64, 128, 256)
"""Its nodes a standard deviation, one after the other until it has settled."""
SETTLED = 1e-4
"""Within what, in nats, KL(q || p) must be what it was with half the nodes."""
CHUNK = 2**18
"""Nodes that are computed at once."""


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


class Affine(Transform):
    """z = L x + m, with a lower triangle L of positive diagonal; the identity at first.

    Args:
        dims: D.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(dims))
        self.log_scale = nn.Parameter(torch.zeros(dims))
        self.lower = nn.Parameter(torch.zeros(dims, dims))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (N, D) to z and the log-determinant, (N,) nats."""
        with torch.autocast(x.device.type, enabled=False):
            return x @ self._factor().T + self.shift, self.log_scale.sum().expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z (N, D) to x and the log-determinant, (N,) nats."""
        with torch.autocast(z.device.type, enabled=False):
            x = torch.linalg.solve_triangular(self._factor(), (z - self.shift).T, upper=False).T
        return x, -self.log_scale.sum().expand(len(z))

    def _factor(self) -> Tensor:
        return self.lower.tril(-1) + self.log_scale.exp().diag()


class EnergyFlow(GenerativeModel):
    """A planar or radial flow q fitted to a density p(z) = exp(-U(z)) / Z of the plane by minimizing KL(q || p).

    A training batch says no more than how many draws of q a step takes; validation and test batches are draws of p, on
    which -log q(z) is measured: the cross entropy, KL(p || q) + H(p), which sees a mode that q has left out.

    Args:
        energy: energy1, energy2, energy3 or energy4 of `zoo.data.Energy`.
        flow: "planar" or "radial".
        layers: number of layers.
        annealing: part of the run in which the inverse temperature rises from 0.01 to 1.
        lr: peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights.
        natural: whether to train by the natural gradient, with an lr of about 0.3, instead of AdamW. Radial layers need
            it: AdamW leaves them some 0.05 nats and more from the energies 3 and 4, the natural gradient about 0.01.

    Example:
        >>> model = EnergyFlow("energy2")
        >>> z = model.sample(4, seed=0)     # float32 (4, 2)
        >>> model.log_prob(z)               # (4,) nats, by the numerical inverse
        >>> model.divergence()              # KL(q || p) and its standard error, nats, by draws of q
        >>> model.divergence_by_quadrature()[0]
    """

    def __init__(
        self,
        energy: str = "energy1",
        flow: str = "planar",
        layers: int = 32,
        annealing: float = 0.25,
        lr: float = 3e-2,
        warmup: int = 200,
        weight_decay: float = 0.0,
        natural: bool = False,
    ) -> None:
        super().__init__()
        if flow not in ("planar", "radial"):
            raise DataError(f"flow must be planar or radial, not {flow!r}.")
        if not 0 <= annealing <= 1:
            raise DataError(f"annealing must be a part of the run, from 0 to 1, not {annealing}.")
        if natural and weight_decay:
            raise DataError(f"The natural gradient knows no weight decay: weight_decay must be 0, not {weight_decay}.")
        self.save_hyperparameters()
        self.spec = DataSpec((2,), None)
        self.energy = Energy(energy)
        cascade = (Planar if flow == "planar" else Radial)(2, layers)
        self.flow = Flow(Normal([2]), [Inverse(cascade), Inverse(Affine(2))])

    def log_prob(self, x: Tensor) -> Tensor:
        """log q(x), exact: floats (N, 2) to (N,) nats; differentiable once."""
        self.spec.check(x)
        return self.flow.log_prob(x)

    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """Draw `n` points, float32 (n, 2), in one pass; the same seed gives the same points."""
        return self.flow.sample(n, seed=seed)

    @torch.no_grad()
    def divergence(self, n: int = 100_000, *, seed: int | None = 0) -> tuple[float, float]:
        """KL(q || p) = E[log q(z) + U(z)] + log Z from `n` draws of q, and its standard error; both in nats."""
        if n < 2:
            raise DataError(f"n must be at least 2, not {n}.")
        excess = self._excess(*self.flow.rsample(n, generator=self.generator(seed)))
        return float(excess.mean()), float(excess.std()) / math.sqrt(n)

    @torch.no_grad()
    def divergence_by_quadrature(self) -> tuple[float, int]:
        """KL(q || p) in nats, and the number of nodes that its quadrature took; in float64.

        It is the integral over the base of q_0(z_0) (log q(z) - log p(z)), z the point to which the flow takes z_0: all
        of q is covered wherever the flow takes it, and where layers press it together nodes lie close as well. The
        nodes cover [-8, 8]^2 with the first of `RESOLUTIONS`, then the next, until the number changes by less than
        `SETTLED`.

        Raises:
            ZooError: the last of `RESOLUTIONS` is too coarse.
        """
        flow, before = copy.deepcopy(self.flow).double(), math.inf
        for resolution in RESOLUTIONS:
            nodes, weights = (values.to(self.device) for values in quadrature(resolution, DEVIATIONS - EDGE))
            found = 0.0
            for start, weight in zip(nodes.split(CHUNK), weights.split(CHUNK), strict=True):
                z, log_det = flow.transform.inverse(start)
                log_base = flow.base.log_prob(start)
                found += float((weight * log_base.exp() * self._excess(z, log_base - log_det)).sum())
            if abs(found - before) < SETTLED:
                return found, len(nodes)
            before = found
        raise ZooError(
            f"KL(q || p) by quadrature does not settle with {resolution} nodes a standard deviation of the base: take "
            f"divergence(), the mean over draws."
        )

    def measurements(self) -> list[Measurement]:
        """KL(q || p), which the flow minimizes, by quadrature."""
        return [Divergence(self)]

    def _excess(self, z: Tensor, log_prob: Tensor, temperature: float = 1.0) -> Tensor:
        """log q(z) - log p(z), with the energy times an inverse temperature."""
        return log_prob + temperature * self.energy(z) + self.energy.log_normalizer()

    # -- training -------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse points of another density than that which is fitted."""
        super().setup(stage)
        name = getattr(self.trainer.datamodule, "name", None)
        if name is not None and name != self.energy.name:
            raise DataError(f"The data are those of {name}, the model is to fit {self.energy.name}: name the same.")

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """The annealed free energy, at last KL(q || p), with as many draws as the batch has points."""
        progress = self.trainer.global_step / self.trainer.estimated_stepping_batches
        annealing = self.hparams.annealing
        temperature = min(1.0, 0.01 + progress / annealing) if annealing else 1.0
        if self.hparams.natural:
            z, log_prob, scores = self.draws_and_scores(len(batch[0]))
            scores = scores.double()  # which autocast leaves alone
            fisher = self.trainer.strategy.reduce(scores.T @ scores / len(scores), reduce_op="mean")
            self.optimizers().optimizer.observe(fisher)
        else:
            z, log_prob = self.flow.rsample(len(batch[0]))
        loss = self._excess(z, log_prob, temperature).mean()
        self.log("train_divergence", loss)
        return loss

    def draws_and_scores(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """`n` draws z (n, 2) of q, log q(z) (n,), and the scores d log q(z) / d theta, (n, P) for P numbers in all.

        The gradient of log q(z) in the parameters is that of the path alone, through z, without the score at fixed z,
        which is zero in expectation (Roeder et al. 2017, *Sticking the Landing*, arXiv 1703.09194): where q = p, every
        draw then has a gradient of zero, and not their mean alone.
        """
        path = Inverse(self.flow.transform)
        start = self.flow.base.sample(n)
        z, log_det = path(start)
        log_prob = (self.flow.base.log_prob(start) - log_det).detach()
        fixed = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.flow.log_prob(fixed).sum(), fixed)

        # Along the path log q changes by the score, and by its slope times the change of z: what is left without the
        # latter is the score. It needs the direction alone that both kinds of layers have in closed form.
        def rest(parameters: dict[str, Tensor], start: Tensor, slope: Tensor) -> Tensor:
            z, log_det = torch.func.functional_call(path, parameters, (start[None],))
            return -log_det[0] - (slope * z[0]).sum()

        parameters = {name: parameter.detach() for name, parameter in path.named_parameters()}
        scores = torch.func.vmap(torch.func.grad(rest), (None, 0, 0))(parameters, start, slope)
        scores = torch.cat([score.flatten(1) for score in scores.values()], 1)
        return z, log_prob + ((z - fixed.detach()) * slope).sum(1), scores

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW or the natural gradient, with a linear warm-up, then a cosine to zero at the last step of the run."""
        if not self.hparams.natural:
            return super().configure_optimizers()
        return self.scheduled(NaturalGradient(self.flow.parameters(), self.hparams.lr))


class Divergence(Measurement):
    """KL(q || p) of a flow to its energy, by quadrature; no data are needed.

    Args:
        model: the flow.
    """

    def __init__(self, model: EnergyFlow) -> None:
        self.model = model

    def compute(self) -> list[dict[str, Any]]:
        """KL(q || p) in nats; n is the number of nodes. Raises as `EnergyFlow.divergence_by_quadrature`."""
        value, nodes = self.model.divergence_by_quadrature()
        protocol = (
            f"{self.model.energy.name}, normalized; Gauss-Legendre quadrature in float64 over [-{DEVIATIONS:g}, "
            f"{DEVIATIONS:g}]^2 of the base, refined until it changes by less than {SETTLED:g} nats"
        )
        result = {"metric": "kl", "kind": "quadrature", "value": value, "n": nodes, "split": None, "limit": False}
        return [{**result, "protocol": protocol}]
