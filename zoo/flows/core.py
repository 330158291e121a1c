"""Diffeomorphisms, and the distributions that they make of simple ones.

With z = T(x) and a density q on z, x has the density of the change of variables

    log p(x) = log q(T(x)) + log |det dT/dx|,

and a cascade T = T_K ... T_1 adds up the log-determinants of its parts. A `Transform` computes both directions, each
with its own log-determinant, so that it serves two purposes. As a density (`Flow`), it takes data to the base, and its
inverse draws. As a posterior or a proposal, it takes draws of the base forward: with z_K = T(z_0),

    log q_K(z_K) = log q_0(z_0) - log |det dT/dz_0|    (Rezende & Mohamed 2015, arXiv 1505.05770).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.arguments import count_of, real_of
from zoo.nn.activations import soft_limit
from zoo.nn.draws import Draws, choice


class Transform(nn.Module):
    """A diffeomorphism T of batches (N, ...), maybe another one for each `context` (N, ...) that it is given.

    Both directions return their result and the log-determinant of their own Jacobian, (N,) nats: that of `inverse` at
    T(x) is minus that of `forward` at x.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x to T(x) and log |det dT/dx|, (N,)."""
        raise NotImplementedError

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z to the x with T(x) = z, and log |det dx/dz|, (N,)."""
        raise NotImplementedError

    def draw(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """z to the x with T(x) = z alone; overridden where the log-determinant is what costs."""
        return self.inverse(z, context)[0]


class Compose(Transform):
    """The first transform, then the second, and so on.

    Args:
        transforms: in the order of `forward`; none make the identity.

    Example:
        >>> T = Compose([Inverse(T1), T2])
        >>> z, log_det = T(x)
    """

    def __init__(self, transforms: Iterable[Transform]) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x to T(x) and log |det dT/dx|, (N,)."""
        total = x.new_zeros(len(x))
        for transform in self.transforms:
            x, log_det = transform(x, context)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z to the x with T(x) = z, and log |det dx/dz|, (N,)."""
        total = z.new_zeros(len(z))
        for transform in reversed(self.transforms):
            z, log_det = transform.inverse(z, context)
            total = total + log_det
        return z, total

    def draw(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """z to the x with T(x) = z."""
        for transform in reversed(self.transforms):
            z = transform.draw(z, context)
        return z


class Inverse(Transform):
    """A transform turned around.

    Args:
        transform: whose `inverse` is the new `forward`.
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x to T(x) and log |det dT/dx|, (N,)."""
        return self.transform.inverse(x, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z to the x with T(x) = z, and log |det dx/dz|, (N,)."""
        return self.transform(z, context)


class Base(nn.Module):
    """A simple distribution whose density is known.

    Args:
        shape: of one draw.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        # Tells where draws belong; derived from nothing, so it is not saved.
        self.register_buffer("place", torch.zeros(()), persistent=False)

    def log_prob(self, z: Tensor) -> Tensor:
        """(N, *shape) to (N,) nats."""
        raise NotImplementedError

    def sample(self, n: int, draws: Draws | None = None, temperature: float = 1.0) -> Tensor:
        """`n` draws, (n, *shape), at a `temperature` below one less varied and more likely.

        Their random numbers are those of `draws`, of n data, or else of the global generator.
        """
        raise NotImplementedError


class Independent(Base):
    """Independent components of one distribution."""

    def log_prob(self, z: Tensor) -> Tensor:
        """(N, *shape) to (N,) nats."""
        return self.log_density(z).flatten(1).sum(1)

    def log_density(self, z: Tensor) -> Tensor:
        """Of each component, in nats."""
        raise NotImplementedError

    def draw(self, n: int, draws: Draws | None) -> Tensor:
        """Independent draws (n, *shape) on the CPU, where a seed means the same for every device."""
        raise NotImplementedError

    def sample(self, n: int, draws: Draws | None = None, temperature: float = 1.0) -> Tensor:
        """`n` draws, (n, *shape), scaled by `temperature`."""
        return (self.draw(n, draws) * temperature).to(self.place)


class Normal(Independent):
    """Standard normal components."""

    def log_density(self, z: Tensor) -> Tensor:
        """Of each component, in nats."""
        return -0.5 * (z.square() + math.log(2 * math.pi))

    def draw(self, n: int, draws: Draws | None) -> Tensor:
        """Independent draws on the CPU."""
        return (
            torch.randn(n, *self.shape, device="cpu", dtype=torch.float32)
            if draws is None
            else draws.normal(*self.shape)
        )


class Logistic(Independent):
    """Standard logistic components, the prior of NICE (Dinh et al. 2015, arXiv 1410.8516, section 3.4)."""

    def log_density(self, z: Tensor) -> Tensor:
        """Of each component, in nats: log sigmoid(z) + log sigmoid(-z)."""
        return F.logsigmoid(z) + F.logsigmoid(-z)

    def draw(self, n: int, draws: Draws | None) -> Tensor:
        """Independent draws on the CPU."""
        double = torch.float64
        uniform = (
            torch.rand(n, *self.shape, device="cpu", dtype=double)
            if draws is None
            else draws.uniform(*self.shape, dtype=double)
        )
        # In double precision a draw of exactly zero, which has no logit, does not come in practice; the clamp is sure.
        return torch.logit(uniform.clamp(min=1e-18)).float()


class Mixture(Base):
    """A mixture of K Gaussians with full covariances, learned with the transforms: a base of several modes.

    A diffeomorphism keeps connected what is connected. Over a normal base it must stretch thin bridges between the
    parts of a density that lie apart; over this one it need not. With W_k = L_k^-1 the inverse of a Cholesky factor,

        log q(z) = log sum_k w_k N(W_k (z - m_k); 0, I) |det W_k|.

    Args:
        shape: of one draw, (D,).
        components: K.
    """

    LIMIT = 8.0  # of the logarithm of the diagonal of W; no component becomes a spike in float32

    def __init__(self, shape: Sequence[int], components: int) -> None:
        super().__init__(shape)
        (dims,) = self.shape
        self.logits = nn.Parameter(torch.zeros(components))
        # Spread as the normal base would be, each as wide as its share of the space.
        self.means = nn.Parameter(torch.randn(components, dims))
        self.log_precision = nn.Parameter(torch.full((components, dims), math.log(components) / dims))
        self.lower = nn.Parameter(torch.zeros(components, dims, dims))

    def log_prob(self, z: Tensor) -> Tensor:
        """(N, D) to (N,) nats."""
        with torch.autocast(z.device.type, enabled=False):
            factors, log_diagonal = self._factors()
            # W_k z - W_k m_k, all components in one product.
            white = z @ factors.flatten(0, 1).T - (factors @ self.means[..., None]).flatten()
            square = white.unflatten(1, (len(factors), -1)).square().sum(2)
            each = log_diagonal.sum(1) - 0.5 * (square + self.shape[0] * math.log(2 * math.pi))
            return (self.logits.log_softmax(0) + each).logsumexp(1)

    def sample(self, n: int, draws: Draws | None = None, temperature: float = 1.0) -> Tensor:
        """`n` draws, (n, D), whose deviations from the means of their components are scaled by `temperature`."""
        weights = self.logits.detach().softmax(0)
        if draws is None:
            chosen = choice(weights, torch.rand(n, dtype=torch.float64, device="cpu"))
            white = torch.randn(n, *self.shape, device="cpu", dtype=torch.float32)
        else:
            chosen, white = draws.choice(weights), draws.normal(*self.shape)
        chosen, white = chosen.to(self.place.device), white.to(self.place) * temperature
        with torch.autocast(white.device.type, enabled=False):
            factors, _ = self._factors()
            deviation = torch.linalg.solve_triangular(factors[chosen], white[..., None], upper=False)
            return self.means[chosen] + deviation[..., 0]

    def _factors(self) -> tuple[Tensor, Tensor]:
        """W, (K, D, D), and the logarithm of its diagonal, (K, D)."""
        log_diagonal = soft_limit(self.log_precision, self.LIMIT)
        return self.lower.tril(-1) + log_diagonal.exp().diag_embed(), log_diagonal


class Flow(nn.Module):
    """The distribution of T^-1(z), z drawn from a base.

    Args:
        base: the distribution of z.
        transforms: T, in the order from data to base.

    Example:
        >>> flow = Flow(Normal([2]), [T1, T2])
        >>> flow.log_prob(x)                    # (N,) nats
        >>> flow.sample(4, seed=0)              # (4, 2)
        >>> x, log_prob = flow.rsample(4)       # both differentiable, as a posterior or a proposal needs them
    """

    def __init__(self, base: Base, transforms: Iterable[Transform]) -> None:
        super().__init__()
        self.base, self.transform = base, Compose(transforms)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(x), exact: (N, ...) to (N,) nats."""
        z, log_det = self.transform(x, context)
        return self.base.log_prob(z) + log_det

    @torch.no_grad()
    def sample(
        self, n: int, *, seed: int | None = None, temperature: float = 1.0, context: Tensor | None = None
    ) -> Tensor:
        """Draw `n` data, one for each context where there are contexts (n, ...).

        Args:
            n: number of draws.
            seed: the same seed gives the same draws, the first of them whatever `n` is.
            temperature: factor on the draws of the base; below one, less varied and more likely data.
            context: what the transforms are conditioned on.
        """
        count_of(n)
        return self.draw(Draws(seed, n), temperature, context)

    @torch.no_grad()
    def draw(self, draws: Draws, temperature: float = 1.0, context: Tensor | None = None) -> Tensor:
        """The data of some random numbers, one for each."""
        return self.transform.draw(self._base_draws(len(draws), draws, temperature), context)

    def rsample(
        self,
        n: int,
        *,
        draws: Draws | None = None,
        temperature: float = 1.0,
        context: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`n` draws and their log-density (n,), both differentiable in the parameters (and in the contexts).

        With another `temperature` than one the log-density is still that of the flow.
        """
        z = self._base_draws(n, draws, temperature)
        x, log_det = self.transform.inverse(z, context)
        return x, self.base.log_prob(z) - log_det

    def _base_draws(self, n: int, draws: Draws | None, temperature: float) -> Tensor:
        count_of(n)
        temperature = real_of(temperature, "temperature")
        return self.base.sample(n, draws, temperature)
