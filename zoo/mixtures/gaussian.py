"""Gaussians and mixtures of them, fitted in closed form and by EM: the first rows of the likelihood tables.

One component is the multivariate Gaussian of the images' mean and covariance. Several share its factor, which makes a
pixel out of the ones before it and what is new in it, and differ in the mean and the variance of each new part: the
semi-tied covariances of Gales, *Semi-Tied Covariance Matrices for Hidden Markov Models*, IEEE Transactions on Speech
and Audio Processing 7(3), 1999. A whole covariance takes D (D + 1) / 2 numbers and another component 2 D.

With y a datum plus uniform noise (below), z its scaling to [-1, 1], and C C^T the covariance of z:

    e = C^-1 (z - mean),    p(z) = |det C^-1| sum_k w_k prod_d N(e_d; m_kd, s_kd^2)

The mean of log p(y) over the noise is a lower bound on the log-probability of the levels (`zoo.model.dequantized`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from zoo.batch import as_batch
from zoo.errors import DataError
from zoo.model import GenerativeModel
from zoo.model.dequantized import Dequantized
from zoo.nn.devices import full_precision
from zoo.nn.draws import Draws
from zoo.spec import DataSpec


class GaussianMixture(Dequantized, GenerativeModel):
    """A mixture of Gaussians with semi-tied covariances; with one component, the Gaussian.

    The first epoch of training takes the mean and the covariance of all data, each later one is a step of EM; a
    single Gaussian is done after one epoch.

    Args:
        shape: of one datum, (C, H, W) or (D,).
        levels: number of values of a component.
        components: number of Gaussians, K.

    Example:
        >>> model = GaussianMixture(shape=[1, 8, 8], levels=17)
        >>> model.sample(4, seed=0)  # uint8 (4, 1, 8, 8)
    """

    def __init__(
        self,
        shape: list[int] = [1, 8, 8],  # noqa: B006  a plain JSON value, never changed
        levels: int = 17,
        components: int = 1,
    ) -> None:
        super().__init__()
        if not 2 <= levels <= 256:
            raise DataError(f"levels must be 2..256, not {levels}.")
        if components < 1:
            raise DataError(f"components must be at least 1, not {components}.")
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.spec = DataSpec(tuple(shape), levels)
        dims = self.spec.dims
        self.mean = nn.Parameter(torch.zeros(dims))
        # The lower triangle of C^-1, row by row.
        self.factor = nn.Parameter(torch.eye(dims)[tuple(torch.tril_indices(dims, dims))])
        self.log_weight = nn.Parameter(torch.full((components,), -math.log(components)))
        self.centre = nn.Parameter(torch.zeros(components, dims))
        self.log_scale = nn.Parameter(torch.zeros(components, dims))
        self.sums: dict[str, Tensor] = {}

    # -- density ------------------------------------------------------------------------------------------------

    @property
    def papers(self) -> tuple[str, ...]:
        """That of the shared factor; one Gaussian is nobody's."""
        return ("semi-tied",) if self.hparams.components > 1 else ()

    def log_density(self, y: Tensor) -> Tensor:
        """log p(y) of continuous y in [0, levels), a unit a level: (N, *shape) to (N,) nats."""
        e = self._innovations(y)
        scaled = self.spec.dims * math.log(2 / self.spec.levels)
        # The diagonal ends each row of the triangle.
        diagonal = self.factor[torch.arange(1, self.spec.dims + 1, device=e.device).cumsum(0) - 1]
        return self._joint(e).logsumexp(1) + diagonal.log().sum() + scaled

    def _factor(self) -> Tensor:
        dims = self.spec.dims
        factor = self.factor.new_zeros(dims, dims)
        factor[tuple(torch.tril_indices(dims, dims, device=factor.device))] = self.factor
        return factor

    def _innovations(self, y: Tensor) -> Tensor:
        z = y.flatten(1).to(self.mean.dtype) * (2 / self.spec.levels) - 1
        return (z - self.mean) @ self._factor().T

    def _joint(self, e: Tensor) -> Tensor:
        """log w_k N(e; m_k, s_k^2): (N, D) to (N, K)."""
        precision = (-2 * self.log_scale).exp()
        square = e.square() @ precision.T - 2 * e @ (self.centre * precision).T
        constant = (self.centre.square() * precision).sum(1)
        constant = constant + 2 * self.log_scale.sum(1) + self.spec.dims * math.log(2 * math.pi)
        return self.log_weight - 0.5 * (square + constant)

    # -- sampling -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """Draw `n` data, uint8 (n, *shape); what falls outside the levels is set to the nearest."""
        factor = self._factor()

        def draw(draws: Draws, _: slice) -> Tensor:
            k = draws.choice(self.log_weight.exp()).to(self.device)
            noise = draws.normal(self.spec.dims).to(self.mean)
            e = self.centre[k] + self.log_scale[k].exp() * noise
            z = self.mean + torch.linalg.solve_triangular(factor, e.T, upper=False).T
            return self.to_levels((z + 1) * (self.spec.levels / 2)).view(len(z), *self.spec.shape)

        with full_precision(self.device):
            return self.in_chunks(n, seed, draw)

    # -- fitting ------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """None in truth: nothing is descended. Its steps are those of EM, which the trainer counts."""
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Add a batch to the sums of this epoch; after its last batch, fit."""
        x = self.check(as_batch(batch).x)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            first = self.trainer.current_epoch == 0
            self._add(**(self._moments(x) if first else self._responsibilities(x)))
            if self.trainer.is_last_batch:
                sums = {name: self.trainer.strategy.reduce(value, reduce_op="sum") for name, value in self.sums.items()}
                (self._fit_gaussian if first else self._fit_components)(**sums)
                self.sums = {}
                self.optimizers().step()

    def _add(self, **terms: Tensor) -> None:
        for name, value in terms.items():
            self.sums[name] = self.sums[name].to(value.device) + value if name in self.sums else value

    def _moments(self, x: Tensor) -> dict[str, Tensor]:
        z = ((x.flatten(1).float() + 0.5) * (2 / self.spec.levels) - 1).double()
        return {"count": z.new_tensor(len(z)), "first": z.sum(0), "second": z.T @ z}

    def _responsibilities(self, x: Tensor) -> dict[str, Tensor]:
        e = self._innovations(self.noised(x))
        joint = self._joint(e)
        self.log("train_log_density", joint.logsumexp(1).mean(), on_step=False, on_epoch=True)
        r = joint.softmax(1)
        sums = {"count": r.sum(0), "first": r.T @ e, "second": r.T @ e.square()}
        return {name: value.double() for name, value in sums.items()}

    def _fit_gaussian(self, count: Tensor, first: Tensor, second: Tensor) -> None:
        mean = first / count
        covariance = second / count - mean.outer(mean)
        # The variance of the noise, which the sums were taken without; it also makes every covariance regular.
        covariance.diagonal().add_((2 / self.spec.levels) ** 2 / 12)
        root = torch.linalg.cholesky(covariance)
        identity = torch.eye(len(root), dtype=root.dtype, device=root.device)
        inverse = torch.linalg.solve_triangular(root, identity, upper=False)
        self.mean.copy_(mean)
        self.factor.copy_(inverse[tuple(torch.tril_indices(*inverse.shape, device=inverse.device))])
        if len(self.log_weight) > 1:
            self._scatter()

    def _scatter(self) -> None:
        """Start EM from Gaussians of all sizes around zero, from an eighth of the common one to twice it.

        Images differ most in contrast, and small random means make the components of one size differ.
        """
        components, dims = self.centre.shape
        self.log_scale.copy_(
            torch.linspace(-3, 1, components, device="cpu", dtype=torch.float32)[:, None]
            .mul(math.log(2))
            .expand(-1, dims)
        )
        noise = torch.randn(components, dims, generator=self.generator(0), device="cpu", dtype=torch.float32).to(
            self.centre
        )
        self.centre.copy_(0.1 * noise * self.log_scale.exp())

    def _fit_components(self, count: Tensor, first: Tensor, second: Tensor) -> None:
        # A component that has lost its data stays where it is, with hardly any weight.
        alive = (count > 1)[:, None]
        centre = first / count[:, None].clamp(min=1e-9)
        variance = (second / count[:, None].clamp(min=1e-9) - centre.square()).clamp(min=1e-4)
        self.centre.copy_(torch.where(alive, centre, self.centre))
        self.log_scale.copy_(torch.where(alive, 0.5 * variance.log(), self.log_scale))
        self.log_weight.copy_((count / count.sum()).clamp(min=1e-12).log())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sums of an epoch under way, so that a resumed run fits what the uninterrupted one does."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["sums"] = self.sums

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the sums."""
        super().on_load_checkpoint(checkpoint)
        self.sums = checkpoint["sums"]
