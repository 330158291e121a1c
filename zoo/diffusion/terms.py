"""The bound of a diffusion as the sum of its terms, which a card shows one by one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Terms(NamedTuple):
    """Those of -log p(x) <= prior + diffusion + reconstruction, in nats.

    The prior's is what the state with the most noise still tells of the datum, the reconstruction's what the one with
    the least does not tell; diffusion is all steps in between.
    """

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor


def prior_cost(y: Tensor, log_snr: Tensor) -> Tensor:
    """KL(q(z | x) || N(0, 1)) of z = alpha y + sigma epsilon at one log-SNR () for all: (N, *shape) to (N,) nats."""
    # -log sigma^2 is softplus(lambda), and sigma^2 - 1 is -alpha^2.
    kept, rest = torch.sigmoid(log_snr).to(y), F.softplus(log_snr).to(y)
    return (kept * (y.square() - 1) + rest).flatten(1).sum(1) / 2


class BoundOfTerms:
    """Mixin of a `zoo.model.GenerativeModel` whose bound is an average over steps or times, drawn for each datum.

    A family defines `term_draws`, which also says what else it takes, such as labels.
    """

    def term_draws(
        self, x: Tensor, *, samples: int = 1, seed: int | None = None, index: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The terms by each draw alone, (samples, N) nats each, by the names of `Terms`.

        Args:
            x: data, (N, *shape).
            samples: steps or times for each datum, one or two passes of the network each, spread evenly over it. More
                make the estimate less noisy, and not higher.
            seed: of them and of their noise; the same seed gives the same. The global random state stays as it was.
            index: the places of the data in their split, int64 (N,), to which their numbers belong; by default in x.
        """
        raise NotImplementedError

    def terms(
        self, x: Tensor, *, samples: int = 1, seed: int | None = None, index: Tensor | None = None, **given: Any
    ) -> Terms:
        """The terms of which `elbo` with the same arguments is the negative sum, (N,) nats each."""
        draws = self.term_draws(x, samples=samples, seed=seed, index=index, **given)
        return Terms(**{name: each.mean(0) for name, each in draws.items()})

    def elbo_draws(
        self, x: Tensor, *, samples: int = 1, seed: int | None = None, index: Tensor | None = None, **given: Any
    ) -> Tensor:
        """The bound by each draw alone, (samples, N) nats, whose mean is `elbo`."""
        return -sum(self.term_draws(x, samples=samples, seed=seed, index=index, **given).values())

    def elbo(
        self, x: Tensor, *, samples: int = 1, seed: int | None = None, index: Tensor | None = None, **given: Any
    ) -> Tensor:
        """A lower bound on log p(x): (N, *shape) to (N,) nats, estimated without bias by so many draws.

        Its arguments are those of `term_draws`.
        """
        return self.elbo_draws(x, samples=samples, seed=seed, index=index, **given).mean(0)
