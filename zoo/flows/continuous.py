"""Continuous flows: Chen, Rubanova, Bettencourt, Duvenaud, *Neural Ordinary Differential Equations*, 2018, arXiv
1806.07366, and Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, *FFJORD*, 2019, arXiv 1810.01367.

Data flow to the base along dx/dt = f(x, t), t from 0 to 1, and their log-density along with them: the
log-determinant of the flow is the integral of the trace of the Jacobian,

    log |det dz/dx| = int_0^1 tr(df/dx) dt = int_0^1 sum_d e_d^T (df/dx) e_d dt    (1806.07366, theorem 1)
                    = E int_0^1 epsilon^T (df/dx) epsilon dt,   E[epsilon epsilon^T] = I    (1810.01367, equation 8),

so any network will do for f, and the way back is the same equation in the other direction. The exact trace takes D
products with the Jacobian, the estimate one; training may use the estimate, `log_prob` never does.

Departures: products with the Jacobian go forward through the network with the values, so that an estimate costs about
two passes and needs no gradient of a gradient; gradients of the loss go back through the steps of the solver (Dormand
and Prince's) instead of the adjoint equation, exact for what was computed; in evaluation the error of each datum is
held below the tolerance, where the solver's usual norm is a mean over the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice, pairwise, repeat
from typing import Any

import torch
from torch import Tensor, nn

from zoo.batch import as_batch
from zoo.errors import DataError
from zoo.flows.vectors import VectorFlow, VectorTransform
from zoo.nn.ode import check_tolerance, mean, solver, values_and_log_dets, worst


class Field(nn.Module):
    """The velocity f(x, t), a tanh network whose layers are (W x + b) sigmoid(g(t, context)) + s(t, context).

    These are the "concatsquash" layers of FFJORD. The last begins at zero, and so does the flow, as the identity.

    Args:
        dims: D.
        hidden: units of a hidden layer.
        layers: number of hidden layers.
        context_dims: size of the context; 0 for none.
    """

    def __init__(self, dims: int, hidden: int, layers: int, context_dims: int = 0) -> None:
        super().__init__()

        def sizes() -> Iterator[int]:  # no list as long as an absurd number of layers
            return chain([dims], repeat(hidden, layers), [dims])

        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes()))
        # The gate and the shift of each layer, functions of time and context.
        self.time = nn.ModuleList(nn.Linear(1 + context_dims, 2 * b) for b in islice(sizes(), 1, None))
        with torch.no_grad():
            for parameter in (*self.linear[-1].parameters(), *self.time[-1].parameters()):
                parameter.zero_()

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor | None, directions: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """f (N, D) at x (N, D) and time t (), and its Jacobian times directions (P, N or 1, D), if any, (P, N, D)."""
        condition = t.reshape(1, 1).to(x.dtype)
        if context is not None:
            condition = torch.cat([condition.expand(len(x), 1), context], 1)
        for i, (linear, time) in enumerate(zip(self.linear, self.time, strict=True)):
            if i:
                x = torch.tanh(x)
                directions = None if directions is None else directions * (1 - x.square())
            gate, shift = time(condition).chunk(2, 1)
            gate = torch.sigmoid(gate)
            x = linear(x) * gate + shift
            directions = None if directions is None else (directions @ linear.weight.T) * gate
        return x, None if directions is None else directions.expand(-1, len(x), -1)


class ContinuousTransform(VectorTransform):
    """The flow of a velocity field from time 0 to time 1; the log-determinant is exact but for the solver's error.

    Args:
        dims: D.
        hidden: units of a hidden layer of the velocity.
        layers: number of its hidden layers.
        context_dims: size of the context; 0 for none.
        tolerance: of the solver, absolute and relative, for each datum.

    Raises:
        ZooError: torchdiffeq is not installed.
    """

    def __init__(
        self, dims: int, hidden: int = 64, layers: int = 3, context_dims: int = 0, tolerance: float = 1e-5
    ) -> None:
        super().__init__(dims, context_dims, hidden=hidden, layers=layers)
        self.solver = solver()
        check_tolerance("tolerance", tolerance)
        self.tolerance = tolerance
        self.field = Field(dims, hidden, layers, context_dims)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (N, D) to z and the log-determinant, (N,) nats."""
        return values_and_log_dets(self._integrate(x, context, (0.0, 1.0), self._exact(x), self.tolerance, worst))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z (N, D) to x and the log-determinant, (N,) nats."""
        return values_and_log_dets(self._integrate(z, context, (1.0, 0.0), self._exact(z), self.tolerance, worst))

    def draw(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """z (N, D) to x, without the trace, which takes D products with the Jacobian."""
        return self._integrate(z, context, (1.0, 0.0), None, self.tolerance, worst)

    def estimate(
        self, x: Tensor, context: Tensor | None = None, *, hutchinson: bool, tolerance: float
    ) -> tuple[Tensor, Tensor]:
        """`forward` for training: with the tolerance for the mean of the batch, and optionally Hutchinson's trace.

        The estimate takes one draw of signs for each datum, the same all along the way, so that the solver meets a
        smooth function; it is unbiased.
        """
        directions = torch.randint(0, 2, (1, *x.shape), device=x.device).to(x.dtype) * 2 - 1
        directions = directions if hutchinson else self._exact(x)
        return values_and_log_dets(self._integrate(x, context, (0.0, 1.0), directions, tolerance, mean))

    def _exact(self, x: Tensor) -> Tensor:
        return torch.eye(self.dims, dtype=x.dtype, device=x.device)[:, None]

    def _integrate(
        self,
        x: Tensor,
        context: Tensor | None,
        times: tuple[float, float],
        directions: Tensor | None,
        tolerance: float,
        norm: Any,
    ) -> Tensor:
        """x at the end of the way, (N, D) or, with directions for the trace, the log-determinant beside it."""
        self.check(x, context)
        context = None if context is None else context.to(x.dtype)

        def velocity(t: Tensor, state: Tensor) -> Tensor:
            if directions is None:
                return self.field(state, t, context, None)[0]
            f, products = self.field(state[:, :-1], t, context, directions)
            trace = (products * directions).sum((0, 2))
            return torch.cat([f, trace[:, None]], 1)

        state = x if directions is None else torch.cat([x, x.new_zeros(len(x), 1)], 1)
        if not len(x):  # nothing whose errors a solver could look at
            return state
        times = torch.tensor(times, dtype=x.dtype, device=x.device)
        with torch.autocast(x.device.type, enabled=False):
            return self.solver(
                velocity,
                state,
                times,
                rtol=tolerance,
                atol=tolerance,
                method="dopri5",
                # The last step ends at the end: by default it goes beyond, and an interpolation, whose error is not
                # that which the tolerance holds, comes back.
                options={"norm": norm, "step_t": times[1:]},
            )[-1]


class ContinuousFlow(VectorFlow):
    """A continuous flow for points and tables of continuous numbers; densities with the exact trace.

    A batch is solved as one, so a log-density depends, within the tolerance, on what it was computed with.

    Args:
        shape: of one datum, [D].
        hidden: units of a hidden layer of the velocity.
        layers: number of its hidden layers.
        flows: number of continuous flows after one another, each with a velocity of its own.
        hutchinson: whether training estimates the trace with random signs, one product with the Jacobian for D.
        train_tolerance: of the solver in training, absolute and relative, for the mean of a batch.
        tolerance: of the solver elsewhere, absolute and relative, for each datum.
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights, not of the biases.

    Example:
        >>> model = ContinuousFlow(shape=[2])
        >>> x = model.sample(4, seed=0)     # float32 (4, 2)
        >>> model.log_prob(x)               # (4,) nats

    Raises:
        ZooError: torchdiffeq is not installed.
    """

    papers = ("ffjord", "neural-ode")

    def __init__(
        self,
        shape: list[int] = [2],  # noqa: B006  a plain JSON value, never changed
        hidden: int = 64,
        layers: int = 3,
        flows: int = 1,
        hutchinson: bool = False,
        train_tolerance: float = 1e-3,
        tolerance: float = 1e-5,
        optimizer: str = "adamw",
        lr: float = 2e-3,
        warmup: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(shape)
        if flows < 1:
            raise DataError(f"flows must be at least 1, not {flows}.")
        check_tolerance("train_tolerance", train_tolerance)
        self.save_hyperparameters()
        dims = self.spec.dims
        transforms = [ContinuousTransform(dims, hidden, layers, tolerance=tolerance) for _ in range(flows)]
        self.flow = self.make_flow(transforms)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean of -log p(x), with the looser tolerance, and the estimated trace if that is asked for."""
        x = self.check(as_batch(batch).x)
        hutchinson, tolerance = self.hparams.hutchinson, self.hparams.train_tolerance
        standardize, *transforms = self.flow.transform.transforms
        x, total = standardize(x)
        for transform in transforms:
            x, log_det = transform.estimate(x, hutchinson=hutchinson, tolerance=tolerance)
            total = total + log_det
        loss = -(self.flow.base.log_prob(x) + total).mean()
        self.log("train_nats", loss)
        return loss
