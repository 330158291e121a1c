"""Diffusion of bits: the binomial forward process, its kernels in closed form, and drawing by a model of p(x_0 | x_t).

Time is in [0, 1]. At t a pixel is still the datum's with probability a = 1 - t, and else a fair coin, which makes it
differ from x_0 with probability t / 2; between s < t it becomes a coin with probability 1 - a_t / a_s. In T steps of
1/T this is the process of Sohl-Dickstein et al. 2015, arXiv 1503.03585, table App.1, with beta_t = 1 / (T - t + 1).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from zoo.arguments import count_of, real_of
from zoo.diffusion.schedules import over, times_of
from zoo.diffusion.steps import check_steps, finite_state, shown_steps
from zoo.errors import DataError
from zoo.model import GenerativeModel
from zoo.nn.devices import full_precision
from zoo.nn.draws import Draws


def log_odds(t: Tensor) -> Tensor:
    """log((1 + a) / (1 - a)) at times in (0, 1], the log-odds that a pixel is still the datum's: 0 at t = 1."""
    return torch.log((2 - t) / t)


def flips(t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """How likely x_s differs from x_t under q(x_s | x_t, x_0) at times s < t: where x_t = x_0, and where it is not.

    By Bayes' rule (1 - a_s)(1 - a_t / a_s) / (2 (1 + a_t)) and (1 + a_s)(1 - a_t / a_s) / (2 (1 - a_t)), in which no
    small number is a difference of large ones. At s = 0 they are 0 and 1.
    """
    fresh = (t - s) / (1 - s)  # the share of pixels that become coins between s and t
    return fresh * s / (2 * (2 - t)), fresh * (2 - s) / (2 * t)


def step_kl(wrong: Tensor, margin: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) of each pixel in nats, (N, *shape); at s = 0 it is -log p(x_0 | x_t).

    Args:
        wrong: whether x_t differs from x_0, (N, *shape).
        margin: log-odds that it does not, as the network tells, (N, *shape).
        t, s: times (N,), s < t, in float64: neighbours of a thousand differ in their last digits of float32.
    """
    chances = torch.stack(flips(t, s))
    known = torch.stack([chances, chances.log(), (-chances).log1p()]).to(margin.dtype)
    (flip_right, flip_wrong), (log_flip_right, log_flip_wrong), (log_stay_right, log_stay_wrong) = (
        [over(each, margin) for each in row] for row in known
    )
    log_right, log_wrong = F.logsigmoid(margin), F.logsigmoid(-margin)
    # The model's, averaged over x_0: sums of logarithms, in which chances of 1e-7 keep their digits.
    log_flip = torch.logaddexp(log_right + log_flip_right, log_wrong + log_flip_wrong)
    log_stay = torch.logaddexp(log_right + log_stay_right, log_wrong + log_stay_wrong)
    flip = torch.where(wrong, flip_wrong, flip_right)
    return torch.xlogy(flip, flip) + torch.xlogy(1 - flip, 1 - flip) - flip * log_flip - (1 - flip) * log_stay


def telling_steps(place: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Steps 1..S of a chain and their weights, one over their chances, for numbers that are uniform on [0, 1).

    A step is as likely as its share of what x_t loses of a fair bit, log 2 - J(a) nats with J(a) = ((1 + a) log(1 + a)
    + (1 - a) log(1 - a)) / 2. Weighted, all steps then tell as much of an image of coins, and nearly so of others: one
    draw for a digit varies half as much as with steps that are as likely as one another.
    """
    a = torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=place.device)
    lost = 1 - (torch.xlogy(1 + a, 1 + a) + torch.xlogy(1 - a, 1 - a)) / (2 * math.log(2))
    step = torch.searchsorted(lost, place.double(), right=True).clamp(1, steps)
    return step, 1 / (lost[step] - lost[step - 1])


class BinaryDiffusion(GenerativeModel):
    """Binary data whose pixels are drawn together, step by step, from p(x_0 | x_t) of each.

    A family sets these in its constructor, and defines `logits`.

    Attributes:
        most_steps: T, number of steps of the chain that it is trained for.
        steps: in which data are drawn where nobody says it.
    """

    most_steps: int
    steps: int

    # -- one step -------------------------------------------------------------------------------------------------

    def logits(self, x: Tensor, t: Tensor) -> Tensor:
        """Those of p(x_0 = 1 | x_t) of each pixel: x_t, bits (N, *shape), and times (N,) or () to (N, *shape)."""
        raise NotImplementedError

    def chance_to_flip(self, x: Tensor, t: Tensor, s: Tensor, log_factor: Tensor | None = None) -> Tensor:
        """How likely each pixel differs from x_t at a time s < t, under p(x_s | x_t): (N, *shape).

        Args:
            x: bits x_t, (N, *shape).
            t, s: times in [0, 1], () in float64.
            log_factor: as in `posterior_sample`, broadcastable to (N, *shape).
        """
        logits = self.logits(x, t)
        if log_factor is not None:
            logits = logits + log_factor
        flip_right, flip_wrong = (each.to(logits) for each in flips(t, s))
        margin = torch.where(x.bool(), logits, -logits)
        return flip_right * margin.sigmoid() + flip_wrong * (-margin).sigmoid()

    # -- drawing --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None, steps: int | None = None) -> Tensor:
        """Draw `n` images, uint8 (n, C, H, W).

        Args:
            n: number of images.
            seed: the same seed gives the same images, the first of them whatever `n` is.
            steps: 1..T, evenly spread over the way: more are slower and closer to the data (`elbo` says how much).
        """
        return self._drawn(self.spec.count(n), seed, steps)

    @torch.no_grad()
    def trace(self, n: int, *, frames: int = 8, seed: int | None = None, steps: int | None = None) -> Tensor:
        """The states on the way of `n` images that `sample` draws with the same arguments, (frames, n, C, H, W).

        They are at even distances in steps; the first is of coins and the last the images.
        """
        frames = count_of(frames, "frames", least=2)
        return self._drawn(self.spec.count(n), seed, steps, frames=frames).movedim(1, 0)

    @torch.no_grad()
    def complete(self, x: Tensor, known: Tensor, *, seed: int | None = None, steps: int | None = None) -> Tensor:
        """Draw the unknown pixels of images, by replacement: on the way, what is known is the datum with noise.

        This is a heuristic, also of a perfect network: what is drawn in a step has seen the known part with as much
        noise as there is in that step, and later steps do not go back (Lugmayr et al. 2022, arXiv 2201.09865). With
        more steps it comes no closer to p(unknown | known), but for independent pixels, where it is exact.

        Args:
            x: images, (N, C, H, W).
            known: boolean, broadcastable to (N, C, H, W), True where to keep.
            seed, steps: as in `sample`.

        Returns:
            (N, C, H, W), equal to `x` where `known`.
        """
        x, known = self.check_known(x, known)
        certain = torch.where(x.bool(), torch.inf, -torch.inf)
        return self._drawn(len(x), seed, steps, torch.where(known, certain, 0.0)) if len(x) else x.clone()

    @torch.no_grad()
    def posterior_sample(
        self, n: int, log_factor: Tensor, *, seed: int | None = None, steps: int | None = None
    ) -> Tensor:
        """Draw from p(x) r(x) / Z for a known factor that is a product over pixels, uint8 (n, C, H, W).

        As in the paper (section 2.5, table App.1) the Bernoulli of each pixel is multiplied by a factor and normalized
        again. The paper's is r(x_s) itself in a step to x_s, or a power of it that grows towards the data. Here it is
        the mean of r(x_0) given x_s and x_t, as it is known of the one pixel. So it is exact for independent pixels,
        and else a heuristic that more steps do not mend: other pixels see the factor with the noise of the step.
        `complete` is the same with a factor that is certain.

        Args:
            n: number of images.
            log_factor: log r(1) - log r(0) of each pixel, broadcastable to (n, C, H, W); infinite where it is certain.
            seed, steps: as in `sample`.

        Raises:
            DataError: the factor is no such tensor.
        """
        n = self.spec.count(n)
        return self._drawn(n, seed, steps, self._factor(log_factor, n))

    @torch.no_grad()
    def denoise(self, y: Tensor, flipped: float, *, seed: int | None = None, steps: int | None = None) -> Tensor:
        """Draw images of which `y` may be what is left after each pixel has changed its value with a known probability.

        Such a y is a state of the forward process, at t = 2 `flipped`: the reverse process from there draws from
        p(x | y), by no approximation beside the model's own.

        Args:
            y: noisy images, uint8 (N, C, H, W).
            flipped: probability that a pixel's value is the wrong one, above 0 and at most 1/2.
            seed: as in `sample`.
            steps: of the whole way from coins; the rest of it that is left takes its share.
        """
        y, t = self.check(y), 2 * real_of(flipped, "flipped", most=0.5)
        return self._drawn(len(y), seed, steps, start=(y, t)) if len(y) else y.clone()

    @torch.no_grad()
    def diffuse(self, x: Tensor, t: float | Sequence[float] | Tensor, *, seed: int | None = None) -> Tensor:
        """The way of images to coins, (T, N, C, H, W): the states x_t at T times.

        Args:
            x: images, (N, C, H, W).
            t: times in [0, 1] in any order, or one: t = 0 is the image, and t = 1 are coins.
            seed: of the noise, which belongs to the image by its place in x.

        Raises:
            DataError: a time is outside [0, 1].
        """
        x, times = self.check(x), times_of(t, "cpu")

        def draw(draws: Draws, part: slice) -> Tensor:
            state, before, states = x[part].bool(), 0.0, {}
            for k in times.argsort().tolist():
                now = float(times[k])
                # A pixel becomes a coin with probability 1 - (1 - now) / (1 - before).
                chance = (now - before) / (1 - before) / 2 if now > before else 0.0
                state = state ^ (draws.uniform(*self.spec.shape).to(x.device) < chance)
                states[k], before = state.to(torch.uint8), now
            return torch.stack([states[k] for k in range(len(times))], 1)

        if not len(x) or not len(times):
            return x.new_empty(len(times), *x.shape)
        return self.in_chunks(len(x), seed, draw).movedim(1, 0)

    def _drawn(
        self,
        n: int,
        seed: int | None,
        steps: int | None,
        log_factor: Tensor | None = None,
        start: tuple[Tensor, float] | None = None,
        frames: int | None = None,
    ) -> Tensor:
        """Images (n, C, H, W), or with `frames` the states on their way, (n, frames, C, H, W)."""
        steps = check_steps(self.steps if steps is None else steps, self.most_steps)
        noisy, begin = start or (None, 1.0)
        steps = max(1, math.ceil(steps * begin - 1e-9))
        times = torch.linspace(begin, 0, steps + 1, dtype=torch.float64, device=self.device)
        kept = [] if frames is None else shown_steps(steps, frames)

        def draw(draws: Draws, part: slice) -> Tensor:
            def uniform() -> Tensor:  # in float64, where chances of 1e-7 keep their size
                return draws.uniform(*self.spec.shape, dtype=torch.float64).to(self.device)

            x = uniform() < 0.5 if noisy is None else noisy[part].bool()
            factor = None if log_factor is None else log_factor[part]
            states = [x] * kept.count(0)
            way = tqdm(pairwise(times), "steps", steps, disable=None, leave=False)
            for k, (t, s) in enumerate(way, 1):
                x = x ^ (uniform() < finite_state(self.chance_to_flip(x, t, s, factor), k, steps))
                states += [x] * kept.count(k)
            return (torch.stack(states, 1) if frames else x).to(torch.uint8)

        with self.sampling_mode(cached=False), full_precision(self.device):
            return self.in_chunks(n, seed, draw)

    def _factor(self, log_factor: Tensor, n: int) -> Tensor:
        """A factor's log-odds, in the shape of n images."""
        shape, what = (n, *self.spec.shape), type(log_factor).__name__
        if isinstance(log_factor, Tensor) and log_factor.is_floating_point():
            with contextlib.suppress(RuntimeError):
                factor = log_factor.to(*self._home()).broadcast_to(shape)
                if not bool(factor.isnan().any()):
                    return factor
            what = f"one of shape {tuple(log_factor.shape)}"
        raise DataError(
            f"log_factor must be a tensor of log r(1) - log r(0), floating point without NaN, that broadcasts to "
            f"{shape}, not {what}."
        )
