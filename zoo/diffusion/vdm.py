"""Variational diffusion models: Kingma, Salimans, Poole, Ho, *Variational Diffusion Models*, 2021, arXiv 2107.00630.

Images are carried to noise in continuous time, z_t = alpha x + sigma epsilon, and a network that tells the noise of z_t
is trained by the bound on the likelihood itself,

    -log p(x) <= KL(q(z_1 | x) || N(0, 1)) + 1/2 E[-lambda'(t) |epsilon - epsilon_hat(z_t, lambda(t))|^2]
                 - E[log p(x | z_0)],

the terms of prior, diffusion and reconstruction (sections 3 and 5; t is uniform on [0, 1]). In it the log-SNR
lambda(t) matters by its two ends alone (section 5.1); between them it may be learned to make the estimate less noisy.
Features of a period of one and of two levels show the network what noise below a level does (appendix C).

Departures:

- a U-Net of three levels with attention on the lower ones, where the paper has 32 blocks at full resolution;
- levels are spread over [-1, 1], ends included, and not over the centres of so many bins;
- also a prediction of the velocity (Salimans & Ho 2022, arXiv 2202.00512), with the same bound as its loss;
- AdamW or Muon with a cosine schedule, averaged weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.arguments import count_of
from zoo.diffusion.decoder import decode, log_decoder
from zoo.diffusion.gaussian import GaussianDiffusion
from zoo.diffusion.predictions import prediction_of, target_of
from zoo.diffusion.schedules import Learned, Linear, alpha_sigma, even_times, over
from zoo.diffusion.terms import BoundOfTerms, Terms, prior_cost
from zoo.errors import DataError
from zoo.nn.draws import Draws
from zoo.nn.unet import UNet, octaves
from zoo.spec import DataSpec, check_image_shape

OCTAVES = 10  # periods beyond all 256 levels tell no more than z does


class VDM(BoundOfTerms, GaussianDiffusion):
    """A diffusion of images in continuous time that is trained by its bound.

    Data have levels: the reconstruction is that of a discrete x, and of points there is none.

    Args:
        shape: (C, H, W) of the images.
        levels: number of values of a sub-pixel.
        channels: of the network's first level, at best a multiple of 64.
        multipliers: of the channels, one for each level, each of half the sides.
        blocks: of each level on the way down; one more on the way up.
        attention: heights of the levels with attention.
        dropout: probability of dropping a value inside a block, while training.
        fourier: octaves of Fourier features of z: periods of one level, two, four, ...; 0 for none.
        prediction: what the network tells: "epsilon", as in the paper, or "v".
        noise_schedule: lambda(t): "linear", fixed, or "learned": its ends by the bound, its interior by the variance of
            the estimate.
        first, last: lambda(0) and lambda(1); where the learned ones begin.
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights, not of the biases.

    Example:
        >>> model = VDM(shape=[3, 32, 32])
        >>> x = model.sample(4, seed=0, steps=100)       # uint8 (4, 3, 32, 32)
        >>> model.elbo(x, samples=8, seed=0)             # (4,) nats
        >>> model.terms(x, samples=8, seed=0).diffusion  # (4,) nats
        >>> flow_elbo(model, x, seed=0)                  # (4,) nats, of zoo.diffusion.probability_flow
    """

    papers = ("vdm",)
    protocol = "continuous-time bound"

    def __init__(
        self,
        shape: list[int] = [3, 32, 32],  # noqa: B006  a plain JSON value, never changed
        levels: int = 256,
        channels: int = 64,
        multipliers: list[int] = [1, 2, 2],  # noqa: B006
        blocks: int = 3,
        attention: list[int] = [16, 8],  # noqa: B006
        dropout: float = 0.0,
        fourier: int = 2,
        prediction: str = "epsilon",
        noise_schedule: str = "linear",
        first: float = 13.3,
        last: float = -5.0,
        optimizer: str = "adamw",
        lr: float = 2e-4,
        warmup: int = 100,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__()
        check_image_shape(shape)
        if levels is None or not 2 <= levels <= 256:
            raise DataError(f"levels must be 2..256, not {levels}: the bound is one of discrete values.")
        if prediction not in ("epsilon", "v"):
            raise DataError(f"prediction must be epsilon or v, not {prediction!r}.")
        if noise_schedule not in ("linear", "learned"):
            raise DataError(f"noise_schedule must be linear or learned, not {noise_schedule!r}.")
        if not 0 <= fourier <= OCTAVES:
            raise DataError(f"fourier must be 0..{OCTAVES}, not {fourier}.")
        self.save_hyperparameters()
        self.spec = DataSpec(tuple(shape), levels)
        self.prediction = prediction_of(prediction)
        self.noise_schedule = (Learned if noise_schedule == "learned" else Linear)(first, last)
        sizes = channels, multipliers, blocks, attention, dropout
        self.net = UNet(shape, shape[0], *sizes, fourier=octaves(levels, fourier))

    # -- noise ----------------------------------------------------------------------------------------------------

    def ends(self) -> Tensor:
        """lambda(0) and lambda(1), (2,); those of a fixed one on the CPU, where reading them makes no GPU wait."""
        weight = next(self.noise_schedule.parameters(), torch.empty(0, dtype=torch.float64, device="cpu"))
        return self.noise_schedule.log_snr(torch.tensor([0.0, 1.0], device=weight.device, dtype=weight.dtype))

    def log_snrs(self, steps: int) -> Tensor:
        """Those through which data are drawn in so many steps, (steps + 1,), from lambda(1) to lambda(0)."""
        return self.noise_schedule(torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=self.device)).double()

    def decoded(self, z: Tensor, draws: Draws) -> Tensor:
        """Images drawn from p(x | z_0), uint8 (N, C, H, W)."""
        return decode(z, self.ends()[0], self.spec.levels, draws.uniform(*self.spec.shape).to(z.device))

    # -- bound ----------------------------------------------------------------------------------------------------

    def term_draws(
        self, x: Tensor, *, samples: int = 1, seed: int | None = None, index: Tensor | None = None
    ) -> dict[str, Tensor]:
        """As `BoundOfTerms` has it, of images, uint8 (N, C, H, W), by draws of a time.

        The times of an image are at even distances from a first one that is uniform on [0, 1).
        """
        x, samples = self.check(x), count_of(samples, "samples")
        draws, home = Draws(seed, self.check_index(index, len(x))), self._home()
        t, found = draws.uniform().to(*home), []
        for k in range(samples):
            noise, first_noise = (draws.normal(*self.spec.shape).to(*home) for _ in range(2))
            found.append(self.terms_at(x, (t + k / samples) % 1, noise, first_noise))
        return {name: torch.stack(each) for name, each in zip(Terms._fields, zip(*found, strict=True), strict=True)}

    def terms_at(
        self,
        x: Tensor,
        t: Tensor,
        noise: Tensor,
        first_noise: Tensor,
        rates: tuple[Tensor, Tensor] | None = None,
    ) -> Terms:
        """The terms at times t (N,), with the noise of z_t and that of z_0: (N,) nats each.

        All is float32 but what the network does inside under autocast: there z of 16 bits would be no finer than a
        level.

        Args:
            x: images, uint8 (N, C, H, W).
            t: times in [0, 1].
            noise: of z_t, standard normal, in the shape of x.
            first_noise: of z_0, the same.
            rates: log-SNRs and slopes at these times where they are known, (N,) each.

        Raises:
            DataError: a time is outside [0, 1].
        """
        y, ends = self.scaled(x).to(noise), self.ends()
        log_snr, slope = rates or (self.noise_schedule(t), self.noise_schedule.slope(t))
        alpha, sigma = alpha_sigma(log_snr)
        z = over(alpha, y) * y + over(sigma, y) * noise
        output, coefficients = self.predict(z, log_snr), self.coefficients(log_snr)
        # Both the noise that the network tells and its own target are linear in x: one error is the other's multiple.
        weight = (alpha * coefficients.out / sigma).square()
        error = (output - target_of(y, z, coefficients)).square().flatten(1).sum(1)
        alpha, sigma = alpha_sigma(ends[0])
        reconstruction = -log_decoder(x, alpha * y + sigma * first_noise, ends[0], self.spec.levels)
        return Terms(prior_cost(y, ends[1]), -slope * weight * error / 2, reconstruction)

    # -- training -------------------------------------------------------------------------------------------------

    def loss(self, x: Tensor, *, index: Tensor | None = None) -> Tensor:
        """(N,) the bound's negative, in the unit that `metric` names, of one draw for each image.

        Outside of training the draws are those of a fixed seed. In training the times of a batch are at even distances
        (appendix I.1), each uniform by itself.
        """
        unit = 1.0 if self.metric == "nats" else 1 / (self.spec.dims * math.log(2))
        if not self.training:
            return -unit * self.elbo(x, seed=0, index=index)
        x = self.check(x)
        noise, first_noise = (torch.randn(x.shape, device=x.device, dtype=torch.float32) for _ in range(2))
        t = even_times(len(x), x.device)
        schedule = self.noise_schedule
        if not isinstance(schedule, Learned):
            rates = schedule.log_snr(t), schedule.slope(t)  # without a look at t, for which a GPU would wait
            return unit * sum(self.terms_at(x, t, noise, first_noise, rates))
        return self._loss_and_variance(x, t, noise, first_noise, unit)

    def _loss_and_variance(self, x: Tensor, t: Tensor, noise: Tensor, first_noise: Tensor, unit: float) -> Tensor:
        """The loss (N,), whose gradient is that of the loss everywhere but in the interior of the learned schedule:
        there it is that of the square of its diffusion term (appendix I.2).

        The interior moves the mean of an estimate not at all, and its variance as the mean of its square. The gradient
        of a square is that of what is squared times twice that: so much is put to it where it reaches the interior.
        """
        first, last = self.ends()
        share, pace = self.noise_schedule.share(t)
        rates = first + (last - first) * share, (last - first) * pace
        terms = self.terms_at(x, t, noise, first_noise, rates)
        twice = 2 * unit * terms.diffusion.detach()
        for each in (share, pace):
            if each.requires_grad:
                each.register_hook(lambda gradient: gradient * twice)
        return unit * sum(terms)
