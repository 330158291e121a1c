"""Diffusion of binary images: the binomial kernel of Sohl-Dickstein, Weiss, Maheswaranathan, Ganguli, *Deep
Unsupervised Learning using Nonequilibrium Thermodynamics*, 2015, arXiv 1503.03585.

In step t of T each pixel becomes a fair coin with probability beta_t, q(x_t | x_{t-1}) = B(x_{t-1} (1 - beta_t) +
beta_t / 2) (table App.1). The paper's beta_t = 1 / (T - t + 1) takes the same share 1/T of the signal away in each step
(section 2.4.1), and x_T is all coins. A network learns the way back, for each pixel a Bernoulli in each step, so that
the bound on log p(x) is a sum of KL divergences that are analytic.

Departures:

- the paper's network gives the mean of the Bernoulli at t - 1. Here it gives p(x_0 | x_t) of each pixel, over which the
  closed form q(x_{t-1} | x_t, x_0) is averaged (Austin et al. 2021, arXiv 2107.03006, section 3.3). So there is a
  reverse kernel between any two times, and for independent pixels it is exact in any number of steps;
- what x_t says of its own pixel, the log-odds log((1 + a) / (1 - a)) of a = 1 - t/T, is added to the network's logits,
  by Bayes' rule: the network tells what the other pixels say;
- a factor r(x) enters a step as its mean given where the step goes, not as r of that place (`posterior_sample`);
- training looks at one random step of an image, more often at those that tell more (`telling_steps`), and the steps of
  a batch are evenly spread (Kingma et al. 2021, arXiv 2107.00630, appendix I.1);
- a U-Net; AdamW or Muon, averaged weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.arguments import count_of
from zoo.diffusion.binary import BinaryDiffusion, log_odds, step_kl, telling_steps
from zoo.diffusion.schedules import even_times, over
from zoo.diffusion.steps import check_steps
from zoo.diffusion.terms import BoundOfTerms, Terms
from zoo.errors import DataError
from zoo.nn.devices import precise
from zoo.nn.draws import Draws
from zoo.nn.unet import UNet
from zoo.spec import DataSpec, check_image_shape

TOGETHER = {"cpu": 64, "gpu": 1024}  # images that go through the network at once for a bound


class BinomialDiffusion(BoundOfTerms, BinaryDiffusion):
    """Binary images from coins, by a chain of Bernoullis that a U-Net's p(x_0 | x_t) steers.

    Args:
        shape: (C, H, W) of the images; height and width halve between the levels of the network.
        levels: 2, the number of values of a pixel.
        timesteps: T. Training costs the same for each T; a larger one makes the bound tighter, by less and less, for
            pixels are drawn independently within a step.
        channels: of the U-Net's first level, best a multiple of 64.
        multipliers: of the channels, one for each level.
        blocks: residual blocks of a level, on the way down.
        attention: heights of the levels that have attention.
        dropout: probability of dropping a value inside a block while training.
        steps: in which data are drawn, at most T, where `sample` is not told.
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights, not of the biases.

    Example:
        >>> model = BinomialDiffusion(shape=[1, 28, 28])
        >>> x = model.sample(4, seed=0)              # uint8 (4, 1, 28, 28), values 0 and 1
        >>> model.elbo(x, samples=100, seed=0)       # (4,) nats
        >>> model.denoise(x, flipped=0.1, seed=0)    # as if a tenth of the pixels had the wrong value
    """

    papers = ("diffusion", "d3pm")

    def __init__(
        self,
        shape: list[int] = [1, 28, 28],  # noqa: B006  a plain JSON value, never changed
        levels: int = 2,
        timesteps: int = 1000,
        channels: int = 64,
        multipliers: list[int] = [1, 2, 2],  # noqa: B006
        blocks: int = 1,
        attention: list[int] = [7],  # noqa: B006
        dropout: float = 0.0,
        steps: int = 100,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        warmup: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        check_image_shape(shape)
        if levels != 2:
            raise DataError(f"levels must be 2, for the binomial kernel is one of binary images, not {levels}.")
        self.most_steps = count_of(timesteps, "timesteps")
        self.steps = check_steps(steps, self.most_steps)
        self.save_hyperparameters()
        self.spec = DataSpec(tuple(shape), levels)
        self.net = UNet(self.spec.shape, shape[0], channels, multipliers, blocks, attention, dropout)

    @property
    def protocol(self) -> str:
        """What the bound is of."""
        return f"{self.most_steps:,} steps"

    # -- denoising ------------------------------------------------------------------------------------------------

    def logits(self, x: Tensor, t: Tensor) -> Tensor:
        """Those of p(x_0 = 1 | x_t) of each pixel: x_t, bits (N, *shape), and times (N,) or () to (N, *shape).

        The network is told the noise as `log_odds`, where that of Gaussian noise is told a log-SNR: 0 of x_T, where
        the log-SNR log(a^2 / (1 - a^2)) is infinite, and log(2 T - 1) of x_1. Times before that of x_1, which training
        never shows, are told as that of x_1.
        """
        signs = 2 * x.to(self._home()[1]) - 1
        noise = log_odds(t.clamp(min=1 / self.most_steps)).to(signs).expand(len(x))
        told = precise(self.net(signs, noise, None))
        return told + over(log_odds(t).to(told), told) * signs

    # -- the bound ------------------------------------------------------------------------------------------------

    def term_draws(
        self,
        x: Tensor,
        *,
        samples: int = 1,
        seed: int | None = None,
        index: Tensor | None = None,
        steps: int | None = None,
    ) -> dict[str, Tensor]:
        """As `BoundOfTerms` has it, by steps: E KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) each.

        The term of the prior is 0, for x_T is all coins; reconstruction is the step from x_1 to x_0, diffusion all
        others. Steps are evenly spread by what they tell (`telling_steps`); from T `samples` on they are all steps.
        Over data, each draw is without bias.

        Args:
            x, samples, seed, index: as there.
            steps: of the chain whose bound it is, by default T; a chain of fewer, evenly spread, is the model that
                `sample` draws from with as many. Its bound is lower.
        """
        losses, step = self._drawn_losses(x, samples, seed, index, steps)
        first = torch.where(step == 1, losses, 0.0)
        return Terms(torch.zeros_like(losses), losses - first, first)._asdict()

    def loss(self, x: Tensor, *, index: Tensor | None = None) -> Tensor:
        """(N,) nats, the negative bound by one step for each image; outside training steps and noise are always those
        of a fixed seed.
        """
        if not self.training:
            return -self.elbo(x, seed=0, index=index)
        x = self.check(x)
        place = even_times(len(x), x.device)
        uniform = torch.rand(x.shape, device=x.device, dtype=torch.float32)
        step, weight = telling_steps(place, self.most_steps)
        return self._step_losses(x, step, uniform, self.most_steps) * weight.to(uniform)

    def _drawn_losses(
        self, x: Tensor, samples: int, seed: int | None, index: Tensor | None, steps: int | None
    ) -> tuple[Tensor, Tensor]:
        """What each draw says of the bound, (samples, N) in nats, and of which step it is, 1..steps."""
        x, samples = self.check(x), count_of(samples, "samples")
        steps = self.most_steps if steps is None else check_steps(steps, self.most_steps)
        draws = Draws(seed, self.check_index(index, len(x)))
        start = draws.uniform(dtype=torch.float64)
        spread = torch.arange(samples, dtype=torch.float64, device="cpu")[:, None]
        if samples < steps:
            step, weight = telling_steps((start + spread / samples) % 1, steps)
        else:
            step = (start * steps + spread * steps / samples).long() % steps + 1
            weight = torch.full_like(start, steps).expand(step.shape)
        step, weight = step.to(x.device), weight.to(x.device, self._home()[1])
        together = max(1, TOGETHER["cpu" if x.device.type == "cpu" else "gpu"] // max(1, len(x)))
        losses = []
        for some in step.split(together):
            # One call a draw, however many go through the network together: the numbers of an image are the same.
            uniform = torch.cat([draws.uniform(*x.shape[1:]) for _ in some]).to(x.device)
            images = x.repeat(len(some), *[1] * (x.ndim - 1))
            losses.append(self._step_losses(images, some.flatten(), uniform, steps).view(some.shape))
        return torch.cat(losses) * weight, step

    def _step_losses(self, x: Tensor, step: Tensor, uniform: Tensor, steps: int) -> Tensor:
        """The KL divergence of a step, 1..steps, of each image: (N,) nats."""
        t, s = step.double() / steps, (step - 1).double() / steps
        wrong = uniform < over((t / 2).to(uniform), uniform)
        noisy = x.bool() ^ wrong
        logits = self.logits(noisy, t)
        with torch.autocast(x.device.type, enabled=False):
            kl = step_kl(wrong, torch.where(noisy, logits, -logits), t, s)
            return kl.flatten(1).sum(1)
