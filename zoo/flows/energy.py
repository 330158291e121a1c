"""A flow fitted to a density that is known up to a constant: Rezende & Mohamed 2015, arXiv 1505.05770, section 6.1."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from zoo.batch import Batch, as_batch
from zoo.errors import DataError, ZooError
from zoo.flows.core import Flow, Inverse, Normal
from zoo.flows.planar import Planar, Radial
from zoo.flows.vectors import Affine
from zoo.model import GenerativeModel, Measurement
from zoo.nn.devices import full_precision
from zoo.nn.draws import Draws
from zoo.optim import NaturalGradient
from zoo.results import METRICS, Metric, Result
from zoo.targets.base import target_of
from zoo.targets.energies import EDGE, quadrature

FREE_ENERGY = Metric("free_energy", "nats of free energy", 3)

DEVIATIONS = 8.0
"""How far the quadrature of KL(q || p) goes in the base, in standard deviations; 1e-15 of q comes from beyond."""
RESOLUTIONS = (16, 32, 64, 128, 256)
"""Its nodes a standard deviation, one after the other until it has settled."""
SETTLED = 1e-4
"""Within what, in nats, KL(q || p) must be what it was with half the nodes."""
CHUNK = 2**18
"""Nodes that are computed at once."""
DRAWS = 100_000
"""Draws of q behind a mean over them."""


class EnergyFlow(GenerativeModel):
    """A planar or radial flow q fitted to a target p(z) = exp(-U(z)) / Z by minimizing KL(q || p).

    Where Z is not known, what is minimized is the variational free energy E_q[log q(z) + U(z)] = KL(q || p) - log Z,
    an upper bound on -log Z.

    A training batch says no more than how many draws of q a step takes. Where the target has exact draws, validation
    and test batches are some of them, on which -log q(z) is measured: the cross entropy, KL(p || q) + H(p), which sees
    a mode that q has left out. Where it has none, they say how many draws of q the free energy is measured on.

    Args:
        energy: the target, of vectors: energy1, energy2, energy3 or energy4 of `zoo.targets.Energy`, or class_path and
            init_args of another (`zoo.targets.target_of`).
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

    papers = ("planar",)

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
        if len(self.energy.shape) != 1:
            raise DataError(f"The flow is one of vectors: choose a target of shape [D], not {list(self.energy.shape)}.")
        self.spec, dims = self.energy.spec, self.energy.spec.dims
        cascade = (Planar if flow == "planar" else Radial)(dims, layers)
        self.flow = Flow(Normal([dims]), [Inverse(cascade), Inverse(Affine(dims))])

    @property
    def normalized(self) -> bool:
        """Whether the target's normalizer is known, and so KL(q || p)."""
        return hasattr(self.energy, "log_normalizer")

    @property
    def likelihood(self) -> str | None:
        """ "exact"; None where the target has no exact draws, whose likelihood it could be."""
        return "exact" if hasattr(self.energy, "sample") else None

    @property
    def monitor(self) -> Metric:
        """The cross entropy; without exact draws of the target, the free energy."""
        return super().monitor or FREE_ENERGY

    def log_prob(self, x: Tensor) -> Tensor:
        """log q(x), exact: floats (N, D) to (N,) nats; differentiable once."""
        x = self.check(x)
        return self.flow.log_prob(x)

    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """Draw `n` points, float32 (n, D), in one pass; the same seed gives the same points."""
        with full_precision(self.device):
            return self.in_chunks(n, seed, lambda draws, _: self.flow.draw(draws))

    @torch.no_grad()
    def divergence(self, n: int = DRAWS, *, seed: int | None = 0) -> tuple[float, float]:
        """KL(q || p) = E[log q(z) + U(z)] + log Z from `n` draws of q, and its standard error; both in nats.

        Raises:
            ZooError: Z is not known.
        """
        if not self.normalized:
            raise ZooError(
                f"The normalizer of {self.energy.name} is not known, nor is KL(q || p) then: take free_energy(), an "
                f"upper bound on -log Z."
            )
        return self._mean_excess(n, seed)

    @torch.no_grad()
    def free_energy(self, n: int = DRAWS, *, seed: int | None = 0) -> tuple[float, float]:
        """E[log q(z) + U(z)] from `n` draws of q, and its standard error, in nats: at least -log Z in expectation."""
        value, error = self._mean_excess(n, seed)
        return value - self._log_normalizer(), error

    def _mean_excess(self, n: int, seed: int | None) -> tuple[float, float]:
        if n < 2:
            raise DataError(f"n must be at least 2, not {n}.")
        excess = self._excess(*self.flow.rsample(n, draws=Draws(seed, n)))
        return float(excess.mean()), float(excess.std()) / math.sqrt(n)

    @torch.no_grad()
    def divergence_by_quadrature(self) -> tuple[float, int]:
        """KL(q || p) in nats, and the number of nodes that its quadrature took; in float64.

        It is the integral over the base of q_0(z_0) (log q(z) - log p(z)), z the point to which the flow takes z_0: all
        of q is covered wherever the flow takes it, and where layers press it together nodes lie close as well. The
        nodes cover [-8, 8]^2 with the first of `RESOLUTIONS`, then the next, until the number changes by less than
        `SETTLED`.

        Raises:
            ZooError: the target is not one of the plane whose normalizer is known, or the last of `RESOLUTIONS` is too
                coarse.
        """
        if self.energy.shape != (2,) or not self.normalized:
            raise ZooError(f"{self.energy.name} is no normalized target of the plane, and has no quadrature.")
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
        """KL(q || p), which the flow minimizes, or the free energy."""
        return [Divergence(self)]

    def _excess(self, z: Tensor, log_prob: Tensor, temperature: float = 1.0) -> Tensor:
        """log q(z) - log p(z), with the energy times an inverse temperature; up to log Z, where that is not known."""
        return log_prob - temperature * self.energy.log_density(z) + self._log_normalizer()

    def _log_normalizer(self) -> float:
        return self.energy.log_normalizer() if self.normalized else 0.0

    # -- training -------------------------------------------------------------------------------------------------

    def check_data(self, data: Any, **how: Any) -> None:
        """Refuse points of another density than that which is fitted, where its own would be measured."""
        super().check_data(data, **how)
        name = getattr(data, "name", None)
        if self.likelihood and name is not None and name != self.energy.name:
            raise DataError(f"The data are those of {name}, the model is to fit {self.energy.name}: name the same.")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The annealed free energy, at last KL(q || p) where Z is known, with as many draws as the batch has points."""
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
        self.log("train_divergence" if self.normalized else "train_free_energy", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the cross entropy over the validation split or, of a target without exact draws, the free energy."""
        if self.likelihood:
            super().validation_step(batch, batch_idx)
        else:
            self._log_free_energy("val", self.val_mean, self._placed(batch, batch_idx))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the same over the test split."""
        if self.likelihood:
            super().test_step(batch, batch_idx)
        else:
            self._log_free_energy("test", self.test_mean, self._placed(batch, batch_idx))

    def _log_free_energy(self, split: str, mean: MeanMetric, batch: Batch) -> None:
        excess = self._excess(*self.flow.rsample(batch.size, draws=Draws(0, batch.index)))
        mean.update(excess - self._log_normalizer())
        self.log(f"{split}_{FREE_ENERGY.name}", mean, prog_bar=True, batch_size=batch.size)

    def draws_and_scores(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """`n` draws z (n, D) of q, log q(z) (n,), and the scores d log q(z) / d theta, (n, P) for P numbers in all.

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
    """How far a flow is from its target, by quadrature in the plane, elsewhere by draws; no data are needed.

    Args:
        model: the flow.
    """

    needs_data: ClassVar[bool] = False

    def __init__(self, model: EnergyFlow) -> None:
        self.model = model
        self.metrics = (METRICS["kl"] if model.normalized else FREE_ENERGY,)

    def compute(self) -> list[Result]:
        """KL(q || p) in nats, n the number of nodes or of draws; the free energy where Z is not known.

        Raises as `EnergyFlow.divergence_by_quadrature`.
        """
        model, target, draws = self.model, self.model.energy, "mean over draws of q, seed 0"
        whole = {"n": DRAWS, "split": None, "limit": False}
        if not model.normalized:
            value, error = model.free_energy(DRAWS, seed=0)
            protocol = f"{target.name}; E[log q + U], an upper bound on -log Z; {draws}"
            return [Result(*self.metrics, "upper", value, error, **whole, protocol=protocol)]
        if target.shape != (2,):
            value, error = model.divergence(DRAWS, seed=0)
            protocol = f"{target.name}, normalized; {draws}"
            return [Result(*self.metrics, "estimate", value, error, **whole, protocol=protocol)]
        value, nodes = model.divergence_by_quadrature()
        protocol = (
            f"{target.name}, normalized; Gauss-Legendre quadrature in float64 over [-{DEVIATIONS:g}, "
            f"{DEVIATIONS:g}]^2 of the base, refined until it changes by less than {SETTLED:g} nats"
        )
        return [Result(*self.metrics, "quadrature", value, n=nodes, split=None, limit=False, protocol=protocol)]
