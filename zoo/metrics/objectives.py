"""The distances that adversarial models minimize, all of one formula.

    D(P, Q) = sup over (f_P, f_Q) in S of E_P f_P - E_Q f_Q,

P the law of the data and Q that of the samples: the set S decides the distance.

    f-divergence     f_P = T, f_Q = f*(T) for any T         Nowozin et al. 2016, arXiv 1606.00709 (f-GAN); with
                                                            Jensen-Shannon's f the GAN of Goodfellow et al. 2014
    hinge            f_P = min(h, 1), f_Q = max(h, -1)      Lim & Ye 2017, arXiv 1705.02894; total variation
    Wasserstein      f_P = f_Q of slope at most 1           Arjovsky et al. 2017, arXiv 1701.07875 (WGAN)
    MMD              f_P = f_Q in the unit ball of a        Li et al. 2017, arXiv 1705.08584; Binkowski et al. 2018,
                     kernel's Hilbert space                 arXiv 1801.01401 (MMD-GAN)
    energy           the same, of the kernel of minus       Bellemare et al. 2017, arXiv 1705.10743 (Cramer GAN)
                     the distance
    Sinkhorn         f_P(x) - f_Q(y) <= c(x, y), softly     Genevay et al. 2017, arXiv 1706.00292
    transport        the same, between mini-batches         Salimans et al. 2018, arXiv 1803.05573 (OT-GAN; here
                                                            with the entropy term, see `MiniBatchEnergy`)

In the first three the critic, a network, is h itself. In the others the best pair is known in closed form for points,
and the critic gives features, points that it learns to place so that the distance is large.

A distance sees nothing but what a critic gives to a batch of data and to one of samples, (N, K) and (M, K) in float32:
K = 1 number each, or K features. What holds a critic within S, its slope or its weights, is the model's business
(`zoo.adversarial.GAN`), for which `witness` says what f is.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import DataError
from zoo.metrics import DIVERGENCES, RationalQuadratic
from zoo.metrics.entropic import at_once, half_step, potentials, transports
from zoo.metrics.points import check_positive, pairwise


class Distance:
    """One set S."""

    features = False  # whether a critic gives features, and not one number
    paired = False  # whether what the generator minimizes depends on the data too
    least = 1  # items of a batch that has such a distance

    def value(self, real: Tensor, fake: Tensor) -> Tensor:
        """E_P f_P - E_Q f_Q, which the critic makes large: (N, K) and (M, K) to a scalar."""
        raise NotImplementedError

    def generator_loss(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """What the generator makes small, by default the distance itself; `real` may be None unless `paired`."""
        return self.value(real, fake)

    def witness(self, at: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        """f where the critic gives `at`, (L, K) to (L,): the function whose slope a gradient penalty holds."""
        return at[:, 0]


class Divergence(Distance):
    """An f-divergence by its variational bound (`zoo.metrics.FDivergence.bound`), in nats.

    Args:
        name: of `zoo.metrics.DIVERGENCES`.
        saturating: whether the generator minimizes the bound itself. It hardly moves as long as the critic tells all
            samples from data; otherwise it maximizes E_Q T instead (arXiv 1606.00709, section 3.2), which has the same
            fixed point: for Jensen-Shannon it is Goodfellow's non-saturating loss, -log of the probability that the
            critic gives to a sample to be real.
    """

    def __init__(self, name: str, saturating: bool = False) -> None:
        self.divergence, self.saturating = DIVERGENCES[name], saturating

    def value(self, real: Tensor, fake: Tensor) -> Tensor:
        """E_P T - E_Q f*(T), below the divergence."""
        return self.divergence.bound(real, fake)

    def generator_loss(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """-E_Q f*(T), or -E_Q T."""
        return -(self.divergence.activated if self.saturating else self.divergence.activation)(fake).mean()


class Hinge(Distance):
    """E_P min(h, 1) - E_Q max(h, -1), at most twice the total variation (arXiv 1705.02894)."""

    def value(self, real: Tensor, fake: Tensor) -> Tensor:
        """At most 2; nothing is gained by telling data from samples with more than a margin of 1."""
        return real.clamp(max=1).mean() - fake.clamp(min=-1).mean()

    def generator_loss(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """-E_Q h, without the margin."""
        return -fake.mean()


class Wasserstein(Distance):
    """E_P h - E_Q h: W_1 where h is the best function of slope at most 1 (Kantorovich and Rubinstein)."""

    def value(self, real: Tensor, fake: Tensor) -> Tensor:
        """In the unit in which slopes are at most 1."""
        return real.mean() - fake.mean()

    def generator_loss(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """-E_Q h."""
        return -fake.mean()


class Energy(Distance):
    """The energy distance of features, 2 E|X - Y| - E|X - X'| - E|Y - Y'|, unbiased.

    The paper's critic, E|h(x) - h(Y)| - |h(x) - h(0)|, stands with the origin for the second sample of the data; here
    all pairs of the batch are used instead, as in the distance itself.
    """

    features = paired = True
    least = 2

    def value(self, real: Tensor, fake: Tensor) -> Tensor:
        """In the unit of the features."""
        return discrepancy(_minus_distance, real, fake)

    def witness(self, at: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        """E|h(x) - h(Y)| - E|h(x) - h(X)|."""
        return powers(at, fake, 1).mean(1) - powers(at, real, 1).mean(1)


class MMD(Distance):
    """MMD^2 of features with a sum of rational-quadratic kernels, unbiased.

    Args:
        exponents: of the kernels; those of arXiv 1801.01401 (section 2.1).
    """

    features = paired = True
    least = 2

    def __init__(self, exponents: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0, 5.0)) -> None:
        self.kernel = RationalQuadratic(exponents)

    def value(self, real: Tensor, fake: Tensor) -> Tensor:
        """It may be negative, since no point is paired with itself."""
        return discrepancy(self.kernel, real, fake)

    def witness(self, at: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        """E k(x, X) - E k(x, Y)."""
        return self.kernel(at, real).mean(1) - self.kernel(at, fake).mean(1)


class Sinkhorn(Distance):
    """The Sinkhorn divergence of features, OT(P, Q) - OT(P, P) / 2 - OT(Q, Q) / 2.

    As `zoo.metrics.sinkhorn`, entropy terms included, but with a fixed number of iterations, none of which waits for
    the GPU; in arXiv 1706.00292 OT is the cost of the regularized coupling alone.

    Where a point may be coupled with itself, the last two terms of a batch are too small, and two batches of one law
    differ by what grows with the features: a critic then learns to enlarge that. Without such pairs this is gone, as
    from the unbiased energy distance, whose half it is for a large epsilon and p = 1.

    Args:
        p: the cost is the Euclidean distance to this power.
        epsilon: of the entropy, in the unit of the cost. With 30 a GAN on CIFAR-10 was seen to swing, and its samples
            lost their variety.
        iterations: of the potentials.
        self_pairs: whether a point of a batch may be coupled with itself, as in arXiv 1706.00292.
    """

    features = paired = True

    def __init__(self, p: float = 2.0, epsilon: float = 0.1, iterations: int = 20, self_pairs: bool = True) -> None:
        check_positive(epsilon=epsilon, iterations=iterations, p=p)
        self.p, self.epsilon, self.iterations, self.self_pairs = p, epsilon, iterations, self_pairs
        self.least = 1 if self_pairs else 2

    def value(self, real: Tensor, fake: Tensor) -> Tensor:
        """In the unit of the cost."""
        if not self.self_pairs and min(len(real), len(fake)) < 2:
            raise DataError(f"Without self_pairs a batch must have two items, not {min(len(real), len(fake))}.")
        costs = [powers(real, fake, self.p), self._own(real), self._own(fake)]
        cross, *own = transports(costs, self.epsilon, self.iterations)
        if not self.self_pairs:  # the entropy is then relative to n (n - 1) pairs
            own = [each + self.epsilon * math.log1p(-1 / len(x)) for each, x in zip(own, (real, fake), strict=True)]
        return cross - 0.5 * sum(own)

    def witness(self, at: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        """f(x), the potential of the coupling with the samples, less that of the coupling of the data with itself."""
        with torch.no_grad():
            costs = [powers(real, fake, self.p), self._own(real)]
            of_fake, of_real = at_once(lambda cost: potentials(cost, self.epsilon, self.iterations)[1], costs)
        to_fake = half_step(powers(at, fake, self.p), of_fake, self.epsilon)
        return to_fake - half_step(powers(at, real, self.p), of_real, self.epsilon)

    def _own(self, x: Tensor) -> Tensor:
        cost = powers(x, x, self.p)
        if self.self_pairs:
            return cost
        return cost.masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), math.inf)


class MiniBatchEnergy(Distance):
    """The energy distance of mini-batches, W_c(X, Y) between two of them being the distance (arXiv 1803.05573).

    With X, X' two batches of data and Y, Y' two of samples, halves of what is given, it is

        D^2 = 2 E W_c(X, Y) - E W_c(X, X') - E W_c(Y, Y'),

    unbiased in the batches, with the cost c = scale (1 - cos(h(x), h(y))).

    W_c is the regularized objective, entropy term included, the minimum over couplings M of E_M c + scale epsilon
    KL(M || P x Q) (`zoo.metrics.entropic.transport`). The paper's is the cost E_M c alone, of the coupling that costs
    least among those of at least some entropy. For one coupling both have the same gradient in the costs, M, through
    which the paper sends none either. The values differ by the KL terms, of which cancels what is the same in all.

    The paper's batches have 8,000 items and its critic no penalty. With batches of 64 the distance was then seen to end
    at zero, on CIFAR-10, while samples were far from the data: such a critic tells nothing apart. A penalty on the
    slope of the witness asks it to.

    Args:
        epsilon: of the entropy, in the unit of 1 - cos. With 0.1 and a penalty, batches of 64 and the scale 60, GANs on
            CIFAR-10 lost their variety; with 1 one did not.
        iterations: of the potentials.
        scale: of the cost. A slope of 1, which a penalty asks for, leads past the 2 that 1 - cos has room for long
            before it has crossed from one image to another; with a scale as large as images are apart, it does not.
    """

    features = paired = True
    least = 2

    def __init__(self, epsilon: float = 0.01, iterations: int = 50, scale: float = 1.0) -> None:
        check_positive(epsilon=epsilon, iterations=iterations, scale=scale)
        self.epsilon, self.iterations, self.scale = epsilon, iterations, scale

    def value(self, real: Tensor, fake: Tensor) -> Tensor:
        """Between about 0 and twice the scale; twice the mean of the four W_c(X, Y), less the two others."""
        (x, x2), (y, y2) = self._halves(real, fake)
        pairs = (x, x2), (y, y2), *((a, b) for a in (x, x2) for b in (y, y2))
        within, within2, *across = transports([_apart(a, b) for a, b in pairs], self.epsilon, self.iterations)
        return self.scale * (0.5 * sum(across) - within - within2)

    def witness(self, at: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        """f(x), the mean potential of the couplings of data with samples, less that of those of data with data."""
        at = F.normalize(at, dim=1)
        (x, x2), (y, y2) = self._halves(real, fake)
        pairs = (x, y), (x, y2), (x2, y), (x2, y2), (x, x2), (x2, x)
        with torch.no_grad():
            costs = [_apart(a, b) for a, b in pairs]
            ends = at_once(lambda cost: potentials(cost, self.epsilon, self.iterations)[1], costs)
        f = [half_step(_apart(at, b), end, self.epsilon) for (_, b), end in zip(pairs, ends, strict=True)]
        return self.scale * (sum(f[:4]) / 4 - sum(f[4:]) / 2)

    @staticmethod
    def _halves(real: Tensor, fake: Tensor) -> list[tuple[Tensor, ...]]:
        """Both batches as directions, each in two."""
        if min(len(real), len(fake)) < 2:
            raise DataError(f"The batches must have two halves each, not {len(real)} and {len(fake)} items.")
        return [F.normalize(batch, dim=1).chunk(2) for batch in (real, fake)]


# -- of a batch, without a look at its values, which would make each step wait for the GPU ------------------------


def discrepancy(kernel: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """MMD^2 as `zoo.metrics.mmd` has it, unbiased: (N, K) and (M, K) to a scalar."""
    within = 0.0
    for points in (x, y):
        products, n = kernel(points, points), len(points)
        within = within + (products.sum() - products.diagonal().sum()) / (n * (n - 1))
    return within - 2 * kernel(x, y).mean()


def powers(x: Tensor, y: Tensor, p: float) -> Tensor:
    """|x_i - y_j|^p as `zoo.metrics.points.pairwise` has it, but twice differentiable: (N, K) and (M, K) to (N, M)."""
    squares = pairwise(x, y, 2)
    return squares if p == 2 else squares.clamp(min=1e-12).pow(p / 2)


def _minus_distance(x: Tensor, y: Tensor) -> Tensor:
    return -powers(x, y, 1)


def _apart(x: Tensor, y: Tensor) -> Tensor:
    """1 - cos between directions, vectors of length 1: (N, K) and (M, K) to (N, M)."""
    return 1 - x @ y.T


# -- by name -----------------------------------------------------------------------------------------------------

DISTANCES: dict[str, type[Distance]] = {
    "hinge": Hinge,
    "wasserstein": Wasserstein,
    "energy": Energy,
    "mmd": MMD,
    "sinkhorn": Sinkhorn,
    "mini_batch_energy": MiniBatchEnergy,
}
NAMES = (*DIVERGENCES, *DISTANCES)


def distance(name: str, options: Mapping[str, Any] | None = None) -> Distance:
    """A distance by its name, one of `NAMES`, with the arguments that its class takes.

    Raises:
        DataError: there is no such distance, or it takes no such argument.
    """
    if name not in NAMES:
        raise DataError(f"distance must be one of {', '.join(NAMES)}, not {name!r}.")
    given, fixed = dict(options or {}), {"name": name} if name in DIVERGENCES else {}
    kind = Divergence if fixed else DISTANCES[name]
    taken = inspect.signature(kind).parameters.keys() - {"name"}
    for key in given:
        if key not in taken:
            raise DataError(f"The distance {name} takes {', '.join(sorted(taken)) or 'no options'}, not {key!r}.")
    return kind(**fixed, **given)
