"""Denoising diffusion: Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, 2020, arXiv 2006.11239.

T steps add Gaussian noise to a datum until nothing is left of it; a chain of as many Gaussian steps, whose means a
network gives, goes back. The network is trained to tell the noise by its plain squared error, which weighs the terms of
the bound so that samples look best (equation 14), and the bound on log p(x) is what the chain is worth as a model.

The same network draws by any sampler in fewer steps (`zoo.diffusion.samplers`). It may predict the velocity (Salimans &
Ho 2022, arXiv 2202.00512) or the datum in the place of the noise, see the cosine schedule (Nichol & Dhariwal 2021,
arXiv 2102.09672), and be guided without a classifier (Ho & Salimans 2022, arXiv 2207.12598).

Departures: noise levels are those of the schedule's continuous form at T even times, beta within .0003 of the paper's,
and the network is told the log-SNR in the place of the step's number; steps of a training batch are spread evenly over
all; the decoder has a variance of its own, for the posterior's is 0 at the last step, where the paper's code takes that
of the step before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.arguments import count_of, real_of
from zoo.diffusion.denoising import Denoising
from zoo.diffusion.predictions import prediction_of
from zoo.diffusion.schedules import Karras, Schedule, alpha_sigma, over, schedule_of
from zoo.diffusion.terms import BoundOfTerms, Terms, prior_cost
from zoo.errors import DataError
from zoo.nn.draws import Draws

CHOICES = {
    "prediction": ("epsilon", "v", "x"),
    "noise_schedule": ("linear_beta", "cosine", "linear"),
    "variance": ("posterior", "beta"),
    "spacing": ("even", "karras"),
}
VALIDATION = 8  # steps of the bound that validation looks at, for each datum


class DDPM(BoundOfTerms, Denoising):
    """A chain of T Gaussian steps from noise to data, with a bound on log p(x).

    Args:
        shape: of one datum: (C, H, W) of images, or (D,) of points.
        levels: number of values of a sub-pixel; None for points.
        classes: number of labels to condition on, those of the data; 0 for an unconditional model.
        prediction: "epsilon", the noise, "v" or "x".
        noise_schedule: "linear_beta", "cosine" or "linear", in the log-SNR.
        timesteps: T.
        variance: of the reverse steps in the bound: "posterior", that of q(z_s | z_t, x), or "beta", the larger one of
            q(z_t | z_s).
        decoder: deviation of x given z_1 in the bound, as a share of that of the noise in z_1: 1 for smooth data, less
            for images, of whose noise there a network tells a part (the paper's code has 0.74).
        spacing: of the steps in which data are drawn: "even" in time, of which T are the bound's, or "karras", dense
            where images are formed (arXiv 2206.00364, equation 5).
        deviation: of points, by which they are divided.
        sampler: "dpm2m", "heun", "ddim", "ancestral" (the paper's) or "ancestral_beta", where `sample` is not told.
        steps: of the sampler, at most T, where `sample` is not told.
        label_dropout: share of the labels that training hides, without which there is no guidance.
        channels, multipliers, blocks, attention, dropout: of the U-Net of images (`zoo.nn.unet.UNet`).
        hidden, layers: of the perceptron of points.
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        hold: share of the steps after it at that rate, before the cosine to zero.
        weight_decay: of the weights, not of the biases.

    Example:
        >>> model = DDPM(shape=[3, 32, 32])
        >>> x = model.sample(4, seed=0)                                      # uint8 (4, 3, 32, 32), in 50 steps
        >>> x = model.sample(4, seed=0, steps=1000, sampler="ancestral")     # as in the paper
        >>> model.elbo(x, samples=1000, seed=0)                              # (4,) nats, all steps of the bound
    """

    papers = ("ddpm",)

    def __init__(
        self,
        shape: list[int],
        levels: int | None = 256,
        classes: int = 0,
        prediction: str = "epsilon",
        noise_schedule: str = "linear_beta",
        timesteps: int = 1000,
        variance: str = "posterior",
        decoder: float = 1.0,
        spacing: str = "even",
        deviation: float = 1.0,
        sampler: str = "dpm2m",
        steps: int = 50,
        label_dropout: float = 0.0,
        channels: int = 64,
        multipliers: list[int] = [1, 2, 2],  # noqa: B006  a plain JSON value, never changed
        blocks: int = 3,
        attention: list[int] = [16, 8],  # noqa: B006
        dropout: float = 0.0,
        hidden: int = 256,
        layers: int = 3,
        optimizer: str = "adamw",
        lr: float = 2e-4,
        warmup: int = 500,
        hold: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        for name, known in CHOICES.items():
            if self.hparams[name] not in known:
                raise DataError(f"{name} must be one of {', '.join(known)}, not {self.hparams[name]!r}.")
        real_of(decoder, "decoder")
        self.most_steps = count_of(timesteps, "timesteps", least=2)
        self.prediction = prediction_of(prediction)
        self.chain: Schedule = schedule_of(noise_schedule)
        self.noise_schedule = self.chain
        if spacing == "karras":
            self.noise_schedule = Karras(math.exp(-self.chain.first / 2), math.exp(-self.chain.last / 2))
        self.set_up(shape, levels, classes)

    @property
    def protocol(self) -> str:
        """Which bound it is."""
        return f"{self.most_steps:,} steps, variance {self.hparams.variance}, decoder {self.hparams.decoder:g}"

    def levels(self, uniform: Tensor) -> Tensor:
        """Numbers (N,) uniform on [0, 1) to the log-SNRs of steps that are as likely as one another, (N,)."""
        # Rounding may make 1 of the last of the numbers.
        step = (uniform * self.most_steps).floor().clamp(max=self.most_steps - 1)
        return self.chain.log_snr(step / (self.most_steps - 1))

    def mean(self, z: Tensor, log_snr: Tensor, label: Tensor | None = None) -> Tensor:
        """E[x | z], of images within [-1, 1] as in the paper's code: no term of the bound is larger by that."""
        x = super().mean(z, log_snr, label)
        return x if self.spec.levels is None else x.clamp(-1, 1)

    # -- the bound ------------------------------------------------------------------------------------------------

    def term_draws(
        self,
        x: Tensor,
        *,
        samples: int = 1,
        seed: int | None = None,
        label: Tensor | None = None,
        index: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """As `BoundOfTerms` has it (equation 5), by steps of the chain; prior and reconstruction are the same by all.

        Each step is drawn as often as the log-SNR falls in it, for the first few cost as much as hundreds of the last,
        and weighted by that. From T - 1 `samples` on they are all steps, each with one draw of its noise. A model with
        classes needs the label of each datum.
        """
        x, samples = self.check(x), min(count_of(samples, "samples"), self.most_steps - 1)
        label = self.check_labels(label, len(x))
        if self.spec.classes and label is None:
            raise DataError("The bound is that of a conditional model: give the label of each datum.")
        draws = Draws(seed, self.check_index(index, len(x)))
        y = self.scaled(x).to(*self._home())
        first, diffusion = draws.uniform(dtype=torch.float64), []
        reconstruction = self._reconstruction(y, draws.normal(*self.spec.shape).to(y), label)
        steps, chances = self.most_steps - 1, self._chances()
        if samples == steps:
            chances = torch.full_like(chances, 1 / steps)
        cumulative = chances.cumsum(0)
        for k in range(samples):
            # Evenly spread over the steps from a place of the datum's own.
            if samples == steps:
                step = ((first * steps).long() + k) % steps
            else:
                share = (first + k / samples) % 1.0
                step = torch.searchsorted(cumulative, share, right=True).clamp(max=steps - 1)
            noise = draws.normal(*self.spec.shape).to(y)
            diffusion.append(self._divergence(y, step, noise, label) / chances[step].to(y))
        prior, reconstruction = (each.expand(samples, -1) for each in (self._prior(y), reconstruction))
        return Terms(prior, torch.stack(diffusion), reconstruction)._asdict()

    def _chances(self) -> Tensor:
        """How likely each step 0..T-2 is to be looked at, (T - 1,) in float64 on the CPU."""
        log_snr = self.log_snr_of(torch.arange(self.most_steps, device="cpu")).cpu()
        return log_snr.diff() / (log_snr[-1] - log_snr[0])

    def log_snr_of(self, step: Tensor) -> Tensor:
        """The log-SNRs of the chain's levels 0..T-1, from the least noise to the most, float64."""
        return self.chain.log_snr(step.to(self.device, torch.float64) / (self.most_steps - 1))

    def _prior(self, y: Tensor) -> Tensor:
        """KL(q(z_T | x) || N(0, 1)), (N,) nats."""
        return prior_cost(y, self.log_snr_of(torch.tensor(self.most_steps - 1, device=y.device)))

    def _divergence(self, y: Tensor, step: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        """KL(q(z_s | z_t, x) || p(z_s | z_t)), (N,) nats, where s is level `step` (N,) and t the next one."""
        there, here = self.log_snr_of(step), self.log_snr_of(step + 1)
        x = self._denoised(y, here, noise, label)
        fresh = -torch.expm1(here - there)
        # The squared distance of the two means is (alpha_s fresh)^2 |x - E[x|z]|^2; the posterior's variance is
        # sigma_s^2 fresh, and beta sigma_t^2 fresh.
        scale, apart = torch.sigmoid(there) * fresh, torch.zeros_like(fresh)
        if self.hparams.variance == "posterior":
            weight = scale / torch.sigmoid(-there) / 2
        else:
            ratio = torch.sigmoid(-there) / torch.sigmoid(-here)
            weight, apart = scale / torch.sigmoid(-here) / 2, (ratio - 1 - ratio.log()) / 2
        return weight.to(y) * (x - y).square().flatten(1).sum(1) + self.spec.dims * apart.to(y)

    def _reconstruction(self, y: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        """-log p(x | z_1), (N,) nats: of levels by the discretized decoder (equation 13), of points by the density."""
        log_snr = self.log_snr_of(y.new_zeros(len(y)))
        x = self._denoised(y, log_snr, noise, label)
        deviation = over(self.hparams.decoder * torch.sigmoid(-log_snr).sqrt().to(y), y)
        if self.spec.levels is not None:
            return -discretized(y, x, deviation, self.spec.levels).flatten(1).sum(1)
        # Of the points themselves, and not of what they are divided by it.
        constant = deviation.log() + math.log(2 * math.pi) / 2 + math.log(self.deviation)
        return (((y - x) / deviation).square() / 2 + constant).flatten(1).sum(1)

    def _denoised(self, y: Tensor, log_snr: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        """E[x | z] of z = alpha x + sigma noise at log-SNRs (N,)."""
        alpha, sigma = (over(each.to(y), y) for each in alpha_sigma(log_snr))
        return self.mean(alpha * y + sigma * noise, log_snr.to(y), label)

    def loss(self, x: Tensor, *, label: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """(N,) the bound's negative, in the unit that `metric` names, by a few steps that are the same each time."""
        bound = -self.elbo(x, samples=VALIDATION, seed=0, label=label, index=index)
        return bound if self.metric == "nats" else bound / (self.spec.dims * math.log(2))


def discretized(x: Tensor, mean: Tensor, deviation: Tensor, levels: int) -> Tensor:
    """log of the mass that a normal distribution has in the interval around a level, nats, in the shape of x.

    The intervals of the levels, spread over [-1, 1], are 2 / (levels - 1) wide; those at both ends reach to infinity
    (arXiv 2006.11239, equation 13).
    """
    half = 1 / (levels - 1)
    below = torch.where(x < -1 + half, -math.inf, (x - half - mean) / deviation)
    above = torch.where(x > 1 - half, math.inf, (x + half - mean) / deviation)
    # By the tail on whose side the interval lies: there the logarithms are exact.
    flip = below + above > 0
    low, high = torch.where(flip, -above, below), torch.where(flip, -below, above)
    low, high = (torch.special.log_ndtr(each) for each in (low, high))
    return high + torch.log(-torch.expm1(low - high))
