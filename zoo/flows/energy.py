"""A flow fitted to a density that is known up to a constant: Rezende & Mohamed 2015, arXiv 1505.05770, section 6.1."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from zoo.batch import as_batch
from zoo.errors import DataError, ZooError
from zoo.flows.core import Flow, Inverse, Normal, Transform
from zoo.flows.planar import Planar, Radial
from zoo.model import GenerativeModel, Measurement
from zoo.optim import NaturalGradient
from zoo.results import METRICS, Result
from zoo.spec import DataSpec
from zoo.targets.base import Target, target_of
from zoo.targets.energies import EDGE, quadrature

DEVIATIONS = 8.0
"""How far the quadrature of KL(q || p) goes in the base, in standard deviations; 1e-15 of q comes from beyond."""
RESOLUTIONS = (16, 32, 64, 128, 256)
"""Its nodes a standard deviation, one after the other until it has settled."""
SETTLED = 1e-4
"""Within what, in nats, KL(q || p) must be what it was with half the nodes."""
CHUNK = 2**18
"""Nodes that are computed at once."""


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
    """A planar or radial flow q fitted to a density p(z) = exp(-U(z)) / Z, known up to Z, by minimizing KL(q || p).

    A training batch says no more than how many draws of q a step takes; validation and test batches are draws of p, on
    which -log q(z) is measured: the cross entropy, KL(p || q) + H(p), which sees a mode that q has left out.

    Args:
        energy: the target: energy1, energy2, energy3 or energy4 of `zoo.targets.Energy`, or the class_path and
            init_args of a `zoo.targets.Target`.
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
        energy: str | dict[str, Any] = "energy1",
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
        self.energy = target_of(energy)
        self.spec = DataSpec(self.energy.shape, None)
        dims = self.spec.dims
        cascade = (Planar if flow == "planar" else Radial)(dims, layers)
        self.flow = Flow(Normal([dims]), [Inverse(cascade), Inverse(Affine(dims))])

    def log_prob(self, x: Tensor) -> Tensor:
        """log q(x), exact: floats (N, D) to (N,) nats; differentiable once."""
        self.spec.check(x)
        return self.flow.log_prob(x)

    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """Draw `n` points, float32 (n, D), in one pass; the same seed gives the same points."""
        return self.flow.sample(n, seed=seed)

    @torch.no_grad()
    def divergence(self, n: int = 100_000, *, seed: int | None = 0) -> tuple[float, float]:
        """KL(q || p) = E[log q(z) + U(z)] + log Z from `n` draws of q, and its standard error; both in nats.

        Of a target whose normalizer is not known it is the free energy, E[log q(z) + U(z)], an upper bound of -log Z.
        """
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
            ZooError: the last of `RESOLUTIONS` is too coarse, or the target is not one of the plane whose normalizer is
                known.
        """
        if not self._plane:
            raise ZooError("Quadrature is for targets of the plane with a known normalizer: take divergence().")
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
        """KL(q || p), which the flow minimizes, by quadrature; else by draws, or the free energy where Z is unknown."""
        return [Divergence(self) if self._plane else DrawnDivergence(self)]

    @property
    def _plane(self) -> bool:
        return self.spec.dims == 2 and hasattr(self.energy, "log_normalizer")

    def _excess(self, z: Tensor, log_prob: Tensor, temperature: float = 1.0) -> Tensor:
        """log q(z) - log p(z), with the energy times an inverse temperature; without log Z where that is unknown."""
        excess = log_prob - temperature * self.energy.log_density(z)
        return excess + self.energy.log_normalizer() if hasattr(self.energy, "log_normalizer") else excess

    # -- training -------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse points of another density than that which is fitted."""
        super().setup(stage)
        name, own = getattr(self.trainer.datamodule, "name", None), getattr(self.energy, "name", None)
        if own is not None and name not in (None, own):
            raise DataError(f"The data are those of {name}, the model is to fit {own}: name the same.")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The annealed free energy, at last KL(q || p), with as many draws as the batch has points."""
        progress = self.trainer.global_step / self.trainer.estimated_stepping_batches
        annealing = self.hparams.annealing
        temperature = min(1.0, 0.01 + progress / annealing) if annealing else 1.0
        if self.hparams.natural:
            z, log_prob, scores = self.draws_and_scores(as_batch(batch).size)
            scores = scores.double()  # which autocast leaves alone
            fisher = self.trainer.strategy.reduce(scores.T @ scores / len(scores), reduce_op="mean")
            self.optimizers().optimizer.observe(fisher)
        else:
            z, log_prob = self.flow.rsample(as_batch(batch).size)
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

    metrics = (METRICS["kl"],)
    needs_data = False

    def __init__(self, model: EnergyFlow) -> None:
        self.model = model

    def compute(self) -> list[Result]:
        """KL(q || p) in nats; n is the number of nodes. Raises as `EnergyFlow.divergence_by_quadrature`."""
        value, nodes = self.model.divergence_by_quadrature()
        protocol = (
            f"{_title(self.model.energy)}, normalized; Gauss-Legendre quadrature in float64 over [-{DEVIATIONS:g}, "
            f"{DEVIATIONS:g}]^2 of the base, refined until it changes by less than {SETTLED:g} nats"
        )
        return [Result(METRICS["kl"], "quadrature", value, n=nodes, split=None, limit=False, protocol=protocol)]


class DrawnDivergence(Measurement):
    """KL(q || p) of a flow to its target by draws of q or, where the normalizer is unknown, the free energy.

    Args:
        model: the flow.
        n: draws.
        seed: of them.
    """

    needs_data = False

    def __init__(self, model: EnergyFlow, n: int = 100_000, seed: int = 0) -> None:
        self.model, self.n, self.seed = model, n, seed
        self.known = hasattr(model.energy, "log_normalizer")
        self.metrics = (METRICS["kl" if self.known else "free_energy"],)

    def compute(self) -> list[Result]:
        """An estimate in nats with its standard error; the free energy bounds -log Z from above."""
        value, error = self.model.divergence(self.n, seed=self.seed)
        protocol = f"{_title(self.model.energy)}; {self.n:,} draws of the flow"
        kind, own = ("estimate" if self.known else "upper"), {"n": self.n, "split": None, "limit": False}
        return [Result(*self.metrics, kind, value, standard_error=error, protocol=protocol, **own)]


def _title(target: Target) -> str:
    return getattr(target, "name", type(target).__name__)
