"""What the flows of vectors share: the checks of sizes, standardization and other affine maps, the model of a flow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.errors import DataError
from zoo.flows.core import Flow, Mixture, Normal, Transform
from zoo.model import GenerativeModel
from zoo.nn.devices import full_precision
from zoo.spec import DataSpec


class VectorTransform(Transform):
    """A transform of vectors (N, D), maybe with contexts (N, context_dims).

    Args:
        dims: D.
        context_dims: size of the context; 0 for none.
        counts: other sizes, which must be positive.
    """

    def __init__(self, dims: int, context_dims: int, **counts: int) -> None:
        super().__init__()
        least = {"dims": 1, **dict.fromkeys(counts, 1), "context_dims": 0}
        for name, value in {"dims": dims, **counts, "context_dims": context_dims}.items():
            if value < least[name]:
                raise DataError(f"{name} must be at least {least[name]}, not {value}.")
        self.dims, self.context_dims = dims, context_dims

    def check(self, x: Tensor, context: Tensor | None) -> None:
        """Refuse vectors and contexts of other shapes."""
        if x.ndim != 2 or x.shape[1] != self.dims:
            raise DataError(f"x has shape {tuple(x.shape)}; this transform takes (N, {self.dims}).")
        if not self.context_dims:
            if context is not None:
                raise DataError("This transform takes no context: make it with context_dims.")
        elif context is None or context.shape != (len(x), self.context_dims):
            given = None if context is None else tuple(context.shape)
            raise DataError(f"context has shape {given}; this transform takes ({len(x)}, {self.context_dims}).")


class Standardize(Transform):
    """z = (x - mean) / scale, with the mean and the standard deviation of data, which are not learned.

    Until `fit` it is the identity.

    Args:
        dims: D.
    """

    mean: Tensor
    scale: Tensor
    fitted: Tensor

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dims))
        self.register_buffer("scale", torch.ones(dims))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take mean and scale from data (N, D).

        Raises:
            DataError: a column is constant.
        """
        x = x.double().cpu()
        mean = x.mean(0)
        scale = (x - mean).square().mean(0).sqrt()
        for column in (scale <= 1e-12 * (1 + mean.abs())).nonzero()[:1, 0].tolist():
            raise DataError(f"Column {column + 1} of the training data is constant and has no density: leave it out.")
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        self.fitted.fill_(True)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (N, D) to z and the log-determinant, (N,) nats."""
        return (x - self.mean) / self.scale, -self.scale.log().sum().expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z (N, D) to x and the log-determinant, (N,) nats."""
        return self.mean + self.scale * z, self.scale.log().sum().expand(len(z))


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


class VectorFlow(GenerativeModel):
    """A flow of continuous vectors to a simple base, after their standardization; families set `flow`.

    The standardization comes from the training split when the first training begins, and is kept with the weights.

    Args:
        shape: of one datum, (D,).
    """

    flow: Flow

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        if len(shape) > 1:
            raise DataError(f"shape must be [D], that of a vector, not {list(shape)}.")
        self.spec = DataSpec(tuple(shape), None)

    def make_flow(self, transforms: list[Transform], components: int = 1) -> Flow:
        """The flow of the standardization, then `transforms`, to normal vectors or to a mixture of them."""
        if components < 1:
            raise DataError(f"components must be at least 1, not {components}.")
        dims = self.spec.dims
        base = Normal([dims]) if components == 1 else Mixture([dims], components)
        return Flow(base, [Standardize(dims), *transforms])

    @property
    def standardize(self) -> Standardize:
        """The first transform of the flow."""
        return self.flow.transform.transforms[0]

    def setup(self, stage: str) -> None:
        """Refuse data that the model was not made for; before the first training, standardize it."""
        super().setup(stage)
        if stage != "fit" or bool(self.standardize.fitted):
            return
        # The whole split and not a rank's part of it, so that all ranks have the same numbers.
        split = getattr(self.trainer.datamodule, "train", None)
        x = split[0] if isinstance(split, tuple) else split
        if not isinstance(x, Tensor):
            raise DataError(
                f"{type(self).__name__} standardizes its data by the training split, which must be in memory: "
                f"train with a data module that has it as its attribute train, such as zoo.data.Table."
            )
        self.spec.check(x, "the training split")
        self.standardize.fit(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), exact: floats (N, D) to (N,) nats."""
        x = self.check(x)
        return self.flow.log_prob(x)

    def sample(self, n: int, *, seed: int | None = None, temperature: float = 1.0) -> Tensor:
        """Draw `n` data, float32 (n, D).

        Args:
            n: number of data.
            seed: the same seed gives the same data, the first of them whatever `n` is.
            temperature: factor on the draws of the base; below one, less varied and more likely data.
        """
        with self.sampling_mode(cached=True), full_precision(self.device):
            return self.in_chunks(n, seed, lambda draws, _: self.flow.draw(draws, temperature))
