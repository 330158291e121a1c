"""A chain of Gaussian steps whose variances are its own: its draws, those given what is left of data under noise, and
those given a known factor.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from zoo.arguments import real_of
from zoo.diffusion.gaussian import GaussianDiffusion
from zoo.diffusion.samplers import Normal, posterior
from zoo.diffusion.schedules import alpha_sigma
from zoo.errors import DataError
from zoo.nn.devices import full_precision
from zoo.nn.draws import Draws
from zoo.spec import DataSpec

LogFactor = Callable[[Tensor, Tensor], Tensor]
"""Data (N, *shape) and how far off they may be, variances (N, *shape), to log r, (N,)."""


class GaussianChain(GaussianDiffusion):
    """A diffusion that draws by a reverse kernel, which a family defines, and by it from posteriors."""

    def kernel(self, z: Tensor, here: Tensor, there: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The reverse kernel between any two log-SNRs: E[x | z], the log-variance of the state at `there`, and what it
        means for x, the variance of x given z. (N, *shape) each.
        """
        raise NotImplementedError

    def way(
        self,
        sampler: str,
        label: Tensor | None = None,
        guidance: float = 1.0,
        kept: tuple[Tensor, Tensor] | None = None,
    ) -> Callable[[Tensor, Tensor, Normal], Iterator[Tensor]]:
        """As of all Gaussian diffusions; the ancestral one is the chain with its own variances."""
        if sampler != "ancestral":
            return super().way(sampler, label, guidance, kept)
        return functools.partial(self.chain, kept=kept)

    def chain(
        self,
        z: Tensor,
        log_snrs: Tensor,
        normal: Normal,
        kept: tuple[Tensor, Tensor] | None = None,
        log_factor: LogFactor | None = None,
    ) -> Iterator[Tensor]:
        """The states after each step of the kernel, as of a sampler.

        Args:
            z: the first state, (N, *shape).
            log_snrs: rising, one more than steps.
            normal: of standard normal numbers.
            kept: as of `way`.
            log_factor: as of `posterior_sample`.
        """
        for here, there in pairwise(log_snrs):
            push = 0.0
            if log_factor is None:
                x, log_variance, _ = self.kernel(z, here, there)
            else:
                x, log_variance, push = self.perturbed(z, here, there, log_factor)
            deviation = torch.exp(log_variance / 2)
            if kept is not None:  # as the forward process has it, whatever the kernel's variance is
                least = posterior(x, z, here, there)[1] if there.isfinite() else torch.zeros_like(here)
                x, deviation = torch.where(kept[1], kept[0].to(x), x), torch.where(kept[1], least, deviation)
            mean, _ = posterior(x, z, here, there)
            yield (z := mean + deviation.square() * push + deviation * normal())

    @torch.no_grad()
    def denoise(self, y: Tensor, deviation: float, *, seed: int | None = None, steps: int | None = None) -> Tensor:
        """Draw data of which `y` may be what Gaussian noise has left, (N, *shape).

        Divided by sqrt(1 + s^2), with s the noise's deviation beside data as the network sees them, such a y is a state
        of the forward process, at the log-SNR -2 log s: the reverse chain from there draws from p(x | y), by no
        approximation beside the model's own.

        Args:
            y: data with noise, floating point (N, *shape), in the unit of the data: levels from 0 to levels - 1.
            deviation: of the noise, in the same unit.
            seed: as in `sample`.
            steps: of the whole way from noise, of which those with less noise than y has are taken.

        Raises:
            DataError: there is more noise than in the chain's last state.
        """
        y = self.check(y, "y", DataSpec(self.spec.shape, None))
        unit, centre = self._unit()
        log_snrs = self.log_snrs(self.check_steps(self.steps if steps is None else steps))
        log_snr, last = -2 * math.log(real_of(deviation, "deviation") / unit), float(log_snrs[0])
        if log_snr < last:
            most = unit * math.exp(-last / 2)
            raise DataError(f"deviation must be at most {most:g}, as in the chain's last state, not {deviation:g}.")
        # Noise below the first state's is taken for it.
        start = log_snrs.new_tensor([log_snr]).clamp(max=self.noise_schedule.first)
        log_snrs = torch.cat([start, log_snrs[log_snrs > start]])
        state = alpha_sigma(start)[0].to(y) * (y / unit - centre)
        return self._posterior(len(y), seed, log_snrs, None, state) if len(y) else self.unscaled(state)

    def posterior_sample(
        self, n: int, log_factor: LogFactor, *, seed: int | None = None, steps: int | None = None
    ) -> Tensor:
        """Draw from p(x) r(x) / Z for a known factor r, (n, *shape), by perturbed steps (section 2.5).

        The mean of each step is shifted by its covariance times the gradient of log r, as in the paper (table App.1).
        There r acts on the noisy state itself, here on what the state says of the datum. Were it E[r(x) | state], the
        chain would be exact as its steps grow in number. So `log_factor` is given E[x | state] and how far x may be
        from it, to be wider by so much. With a Gaussian factor that adds the two variances, and Gaussian data of
        independent components, draws are exact but for an error that falls as 1 / steps. Else they are an
        approximation, which errs where much noise is left; a factor that does not look at the variance is too strong
        there.

        Args:
            n: number of data.
            log_factor: of data x, (N, *shape) in floating point, in their own unit (levels from 0 to levels - 1), and
                of their variances, (N, *shape), to log r(x), (N,) nats up to a constant, differentiable in x. N is n,
                or less where data are drawn in parts.
            seed, steps: as in `sample`.

        Raises:
            DataError: `log_factor` gives no such thing.
        """
        n = self.spec.count(n)
        # A gradient is needed, whatever the caller's mode is.
        with torch.inference_mode(False), torch.no_grad():
            log_snrs = self.log_snrs(self.check_steps(self.steps if steps is None else steps))
            return self._posterior(n, seed, log_snrs, log_factor)

    def _posterior(
        self, n: int, seed: int | None, log_snrs: Tensor, log_factor: LogFactor | None, start: Tensor | None = None
    ) -> Tensor:
        def draw(draws: Draws, part: slice) -> Tensor:
            def normal() -> Tensor:
                return draws.normal(*self.spec.shape).to(*self._home())

            first = normal() if start is None else start[part]
            chain = self.chain(first, log_snrs.to(first), normal, log_factor=log_factor)
            last = deque(self._states(chain, len(log_snrs) - 1), maxlen=1)
            return self.decoded(last.pop() if last else first, draws)

        with self.sampling_mode(cached=False), full_precision(self.device):
            return self.in_chunks(n, seed, draw)

    def perturbed(self, z: Tensor, here: Tensor, there: Tensor, log_factor: LogFactor) -> tuple[Tensor, Tensor, Tensor]:
        """E[x | z], the step's log-variance, and the gradient of the logarithm of the factor in the state."""
        unit, centre = self._unit()
        with torch.enable_grad():
            z = z.detach().clone().requires_grad_()
            x, log_variance, variance = self.kernel(z, here, there)
            value = log_factor((x + centre) * unit, variance.detach() * unit**2)
            if not isinstance(value, Tensor) or value.shape != (len(z),):
                what = f"{tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise DataError(f"log_factor must give log r of each datum, of shape ({len(z)},), not {what}.")
            if not value.requires_grad:
                raise DataError("log_factor must give what is differentiable in x, and has no gradient.")
            # In the last step the state is the datum.
            (push,) = torch.autograd.grad(value.sum(), x if there.isinf() else z)
        return x.detach(), log_variance.detach(), push

    def _unit(self) -> tuple[float, float]:
        """Of data: x is (y + centre) * unit, where y is what the network sees."""
        return (self.deviation, 0.0) if self.spec.levels is None else ((self.spec.levels - 1) / 2, 1.0)
