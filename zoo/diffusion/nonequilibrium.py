"""Diffusion by Gaussian noise in T steps: Sohl-Dickstein, Weiss, Maheswaranathan, Ganguli, *Deep Unsupervised Learning
using Nonequilibrium Thermodynamics*, 2015, arXiv 1503.03585.

Step t of T mixes in noise, q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t), until only noise is left. The way
back is a chain of Gaussians whose mean and diagonal covariance a network learns, and the bound on log p(x) needs no
sampling but that of x_t: with the Gaussian q(x_{t-1} | x_t, x_0) each step costs a KL divergence in closed form,

    -log p(x_0) <= sum_{t>1} E KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))
                   + KL(q(x_T | x_0) || N(0, 1)) - E log p(x_0 | x_1)      (equations 13 and 14, for one datum).

The last two are the paper's entropies: it takes the first step back to undo the first step as if the data were noise
already, p(x_0 | x_1) = q(x_1 | x_0) pi(x_0) / pi(x_1) (appendix, "edge effect"), and for data of unit variance there
remain H_q(X_T | X_0) - H_q(X_1 | X_0) - H_p(X_T).

Departures:

- the first step back of continuous data is learned as all others are: the paper's, N(sqrt(1 - beta_1) x_1, beta_1), is
  one of those that can be learned, so that the bound is no worse. Of data with levels it is the paper's, where all
  levels equally likely take the place of pi: p(x | z) is proportional to q(z | x), a probability and no density
  (`zoo.diffusion.decoder`). What it costs is known exactly, and it is no step: z_0, with the least noise, is counted
  as x_0;
- the network tells the noise in x_t, or another of the `zoo.diffusion.predictions`, and not the mean's distance from
  x_t, and the logarithm of the variance as a point on the line through those of the posterior's variance, the best one
  if x_0 were known, and of beta_t, the best one if x_0 were noise (Nichol & Dhariwal 2021, arXiv 2102.09672, equation
  15). It may lie outside of the two. In the first step, which has no such posterior, that of the second stands in;
- beta_t is learned with the noise of x_t frozen and beta_1 is fixed, as in the paper; but each datum of a batch is
  trained on one step, those of a batch being at even distances (Kingma et al. 2021, arXiv 2107.00630, appendix I.1);
- a known factor r(x) acts on what a state says of the datum and not on the state (`posterior_sample`), and data with
  Gaussian noise, which are states, are denoised without one (`denoise`);
- a U-Net, AdamW or Muon, averaged weights.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.arguments import count_of, real_of
from zoo.diffusion.chain import GaussianChain
from zoo.diffusion.decoder import decode
from zoo.diffusion.forward import data_spec
from zoo.diffusion.kernels import LearnedBetas, costs_of, line, reading_costs
from zoo.diffusion.predictions import datum_of, prediction_of
from zoo.diffusion.schedules import Cosine, Linear, alpha_sigma, even_times, over
from zoo.diffusion.terms import BoundOfTerms, Terms, prior_cost
from zoo.errors import DataError
from zoo.nn.draws import Draws
from zoo.nn.unet import Perceptron, UNet, octaves

SCHEDULES = {"linear": Linear, "cosine": Cosine}


class Diffusion(BoundOfTerms, GaussianChain):
    """A chain of T Gaussian steps from noise to data, whose means and variances are learned by the paper's bound.

    Args:
        shape: of one datum: (C, H, W) of images, or [D] of points.
        levels: number of values of a component, None for continuous data.
        timesteps: T, of the chain. Training costs the same for each; the bound is tighter with more, by less and less.
        noise_schedule: "linear" in the log-SNR or "cosine", from which learned betas begin.
        first, last: log-SNR of the state with the least noise, and with the most.
        learned_betas: whether the noise of each step but the first is learned.
        prediction: what the network tells beside the variances: "epsilon", "x", "v" or "preconditioned".
        deviation: standard deviation of the data, by which continuous ones are divided.
        steps: in which data are drawn where `sample` is not told, or T if that is less. The bound is that of all T.
        channels: of the network's first level, at best a multiple of 64; of images, as all to `fourier`.
        multipliers: of the channels, one for each level, each of half the sides.
        blocks: of each level on the way down; one more on the way up.
        attention: heights of the levels with attention.
        dropout: probability of dropping a value inside a block, while training.
        fourier: octaves of Fourier features of the state: periods of one level, two, four, ...; 0 for none.
        hidden: units of a layer of the network; of points.
        layers: its hidden layers.
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights, not of the biases.

    Example:
        >>> model = Diffusion(shape=[2], timesteps=100, first=8.0)
        >>> x = model.sample(4, seed=0)                       # float32 (4, 2)
        >>> model.elbo(x, samples=100, seed=0)                # (4,) nats
        >>> model.denoise(x, 0.5, seed=0)                     # as if they had noise of deviation 0.5
        >>> right = lambda x, variance: torch.special.log_ndtr(x[:, 0] / (0.1 + variance[:, 0]).sqrt())
        >>> model.posterior_sample(4, right, seed=0)          # on the right half of the plane, most likely
    """

    papers = ("diffusion",)

    def __init__(
        self,
        shape: list[int] = [2],  # noqa: B006  a plain JSON value, never changed
        levels: int | None = None,
        timesteps: int = 100,
        noise_schedule: str = "linear",
        first: float = 13.3,
        last: float = -5.0,
        learned_betas: bool = False,
        prediction: str = "epsilon",
        deviation: float = 1.0,
        steps: int = 100,
        channels: int = 64,
        multipliers: list[int] = [1, 2, 2],  # noqa: B006
        blocks: int = 1,
        attention: list[int] = [16, 8],  # noqa: B006
        dropout: float = 0.0,
        fourier: int = 2,
        hidden: int = 128,
        layers: int = 3,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        warmup: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        if noise_schedule not in SCHEDULES:
            raise DataError(f"noise_schedule must be one of {', '.join(SCHEDULES)}, not {noise_schedule!r}.")
        self.most_steps = count_of(timesteps, "timesteps", least=2, size=64)
        self.steps = min(count_of(steps, "steps"), timesteps)
        self.deviation = real_of(deviation, "deviation")
        count_of(fourier, "fourier", least=0)
        self.save_hyperparameters()
        self.spec = data_spec(shape, levels)
        self.prediction = prediction_of(prediction)
        self.noise_schedule = SCHEDULES[noise_schedule](first, last)
        if learned_betas:
            self.noise_schedule = LearnedBetas(self.noise_schedule, self._states_of(timesteps))
        outputs = 2 * shape[0]  # what is told of a component, and its variance
        if self.spec.kind == "image":
            sizes = channels, multipliers, blocks, attention, dropout
            self.net = UNet(shape, outputs, *sizes, fourier=octaves(levels, fourier))
        else:
            self.net = Perceptron(*shape, outputs, hidden, layers)

    @property
    def protocol(self) -> str:
        """What the bound is of."""
        return f"the chain of {self.most_steps:,} steps"

    # -- noise ----------------------------------------------------------------------------------------------------

    def _states_of(self, steps: int) -> int:
        """States of so many steps, but for data, to which continuous ones take a step."""
        return steps if self.spec.levels is None else steps + 1

    def states(self) -> Tensor:
        """Log-SNRs of the chain's states, falling, in float64: (T,), and of data with levels (T + 1,)."""
        t = torch.linspace(0, 1, self._states_of(self.most_steps), dtype=torch.float64, device=self.device)
        return self.noise_schedule.log_snr(t)

    def log_snrs(self, steps: int) -> Tensor:
        """Those through which data are drawn in so many steps, rising, (steps + 1,): the last has no noise, or that in
        which levels are read.
        """
        if self.spec.levels is None:
            return super().log_snrs(steps)
        return self.noise_schedule(torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=self.device))

    def decoded(self, z: Tensor, draws: Draws) -> Tensor:
        """Data of the last state, (N, *shape): levels are drawn given the state."""
        if self.spec.levels is None:
            return self.unscaled(z)
        first = torch.tensor(self.noise_schedule.first, dtype=torch.float64, device="cpu")
        return decode(z, first, self.spec.levels, draws.uniform(*self.spec.shape).to(z.device))

    # -- the reverse kernel ---------------------------------------------------------------------------------------

    def predict(self, z: Tensor, log_snr: Tensor, label: Tensor | None = None) -> Tensor:
        """What the network tells of the datum, (N, *shape), without the variances."""
        return super().predict(z, log_snr, label).chunk(2, 1)[0]

    def told(self, z: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """E[x | z] and the share of the way from the lower log-variance to the upper: (N, *shape) each."""
        output, share = super().predict(z, log_snr).chunk(2, 1)
        return datum_of(output, z, self.coefficients(log_snr)), (share + 1) / 2

    def kernel(self, z: Tensor, here: Tensor, there: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The reverse kernel between any two log-SNRs: E[x | z], the log-variance of the state at `there`, and what it
        means for x, the variance of x given z. (N, *shape) each.
        """
        x, share = self.told(z, here)
        if there.isinf():
            log_fresh, _ = line(*self.states()[[1, 0]])
            log_variance = F.logsigmoid(-here) + (1 - share) * log_fresh.to(z)
            return x, log_variance, log_variance.exp()
        log_fresh, span = line(here, there)
        # Of a step's variance so much comes from that of x.
        given = torch.expm1(share * span).clamp(min=0) * torch.exp(-there - log_fresh)
        return x, F.logsigmoid(-there) + log_fresh + share * span, given

    # -- the bound ------------------------------------------------------------------------------------------------

    def step_cost(self, y: Tensor, k: Tensor, noise: Tensor) -> Tensor:
        """What the step back from state k costs: (N,) nats. Of data with levels there is none from the first.

        Args:
            y: data as the network sees them, (N, *shape).
            k: the state, (N,), from 0, which has the least noise.
            noise: in the state, standard normal, (N, *shape).
        """
        states = self.states()
        log_snr = states[k].to(noise)
        span, own, weight, rest = (over(each[k].to(noise), y) for each in costs_of(states))
        alpha, sigma = (over(each, y) for each in alpha_sigma(log_snr))
        x, share = self.told(alpha * y + sigma * noise, log_snr)
        r = share * span
        cost = r + own * torch.expm1(-r) + weight * (x - y).square() * torch.exp(-r) + rest
        return cost.flatten(1).sum(1) / 2

    def end_costs(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """KL(q(x_T | x_0) || N(0, 1)); and the entropy of q(x_1 | x_0), or what it costs to read levels in the state
        with the least noise: (N,) nats each, exactly.

        Args:
            x: data, (N, *shape).
            y: data as the network sees them.
        """
        prior, first = prior_cost(y, self.states()[-1]), self.noise_schedule.first
        if self.spec.levels is not None:
            return prior, reading_costs(first, self.spec.levels, str(y.device)).to(y)[x.long()].flatten(1).sum(1)
        entropy = (math.log(2 * math.pi) + 1 - math.log1p(math.exp(first))) / 2
        return prior, y.new_full((len(y),), self.spec.dims * (entropy + math.log(self.deviation)))

    def term_draws(
        self, x: Tensor, *, samples: int = 1, seed: int | None = None, index: Tensor | None = None
    ) -> dict[str, Tensor]:
        """As `BoundOfTerms` has it, by steps of the chain, which are weighted by how many there are.

        The two ends are exact, but for the noise of the first step of continuous data, which is their reconstruction.
        From T `samples` on each step is there, and only its noise is random.
        """
        x, samples = self.check(x), count_of(samples, "samples")
        draws, y = Draws(seed, self.check_index(index, len(x))), self.scaled(x)
        between, found = self._states_of(self.most_steps) - 1, []
        prior, reconstruction = self.end_costs(x, y)
        start = draws.uniform(dtype=torch.float64) * between

        def normal() -> Tensor:
            return draws.normal(*self.spec.shape).to(y)

        for j in range(samples):
            k = ((start + j * between / samples).long() % between + 1).to(y.device)
            diffusion = between * self.step_cost(y, k, normal())
            first = self.step_cost(y, torch.zeros_like(k), normal()) if self.spec.levels is None else 0.0
            found.append((prior, diffusion, reconstruction + first))
        return {name: torch.stack(each) for name, each in zip(Terms._fields, zip(*found, strict=True), strict=True)}

    def loss(self, x: Tensor, *, index: Tensor | None = None) -> Tensor:
        """(N,) the bound's negative, in the unit that `metric` names, by one step for each datum.

        Outside of training steps and noise are those of a fixed seed. In training the steps of a batch are at even
        distances, and the first step of continuous data is one of them.
        """
        unit = 1.0 if self.metric == "nats" else 1 / (self.spec.dims * math.log(2))
        if not self.training:
            return -unit * self.elbo(x, seed=0, index=index)
        x = self.check(x)
        y, steps = self.scaled(x), self.most_steps
        k = (even_times(len(y), y.device) * steps).long().clamp(max=steps - 1) + self._states_of(steps) - steps
        noise = torch.randn(y.shape, device=y.device, dtype=torch.float32).to(y)
        return unit * (steps * self.step_cost(y, k, noise) + sum(self.end_costs(x, y)))
