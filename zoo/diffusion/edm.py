"""Diffusion with preconditioned networks: Karras, Aittala, Aila, Laine, *Elucidating the Design Space of
Diffusion-Based Generative Models*, 2022, arXiv 2206.00364.

A network gets an input of unit variance and predicts a target of unit variance, between the noise where there is little
of it and the datum where there is much (table 1); so its plain squared error is the weighted loss of equation 8. It
looks at noise of log-normal deviations s, and draws by Heun's method in s, through noise levels that are dense where
images are formed (equation 5).

Departures: the state is variance preserving, z = (x + s noise) / sqrt(1 + s^2), which changes the numbers on the way
and not the data; the network is told the log-SNR -2 log s in the place of log(s) / 4; noise levels of a training batch
are spread evenly over their distribution; images are flipped, and not augmented otherwise; the sampler adds no noise on
its way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from zoo.arguments import real_of
from zoo.batch import Batch
from zoo.diffusion.denoising import Denoising
from zoo.diffusion.predictions import preconditioned
from zoo.diffusion.schedules import Karras
from zoo.errors import DataError
from zoo.nn.draws import Draws
from zoo.results import Metric

ERROR = Metric("error", "mean squared error of the prediction", 4)
EDGE = 1e-6  # of the uniform numbers, beyond which levels are 4.75 deviations away


class EDM(Denoising):
    """A diffusion whose network is preconditioned; it draws, and has no likelihood.

    Args:
        shape: of one datum: (C, H, W) of images, or (D,) of points.
        levels: number of values of a sub-pixel; None for points.
        classes: number of labels to condition on, those of the data; 0 for an unconditional model.
        deviation: standard deviation of the data, of images those in [-1, 1].
        p_mean, p_std: mean and standard deviation of log s in training, s being the noise's deviation beside images in
            [-1, 1], or beside points of deviation 1.
        sigma_min, sigma_max: least and most noise s of the steps in which data are drawn.
        rho: how much denser these steps are where there is little noise.
        sampler: "heun", "dpm2m", "ddim", "ancestral" or "ancestral_beta", where `sample` is not told.
        steps: of the sampler, where `sample` is not told.
        label_dropout: share of the labels that training hides, without which there is no guidance.
        channels, multipliers, blocks, attention, dropout: of the U-Net of images (`zoo.nn.unet.UNet`).
        hidden, layers: of the perceptron of points.
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        hold: share of the steps after it at that rate, before the cosine to zero.
        weight_decay: of the weights, not of the biases.

    Example:
        >>> model = EDM(shape=[3, 32, 32])
        >>> x = model.sample(4, seed=0)                              # uint8 (4, 3, 32, 32): 18 steps, 35 passes
        >>> x = model.sample(4, seed=0, steps=30, sampler="dpm2m")   # 30 passes
    """

    papers = ("edm",)
    prediction = staticmethod(preconditioned)

    def __init__(
        self,
        shape: list[int],
        levels: int | None = 256,
        classes: int = 0,
        deviation: float = 0.5,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        sampler: str = "heun",
        steps: int = 18,
        label_dropout: float = 0.0,
        channels: int = 64,
        multipliers: list[int] = [1, 2, 2],  # noqa: B006  a plain JSON value, never changed
        blocks: int = 3,
        attention: list[int] = [16, 8],  # noqa: B006
        dropout: float = 0.0,
        hidden: int = 256,
        layers: int = 3,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        warmup: int = 500,
        hold: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        real_of(p_std, "p_std")
        if not -20 <= p_mean <= 20:
            raise DataError(f"p_mean must be the mean of log s, from -20 to 20, not {p_mean}.")
        self.noise_schedule = Karras(sigma_min, sigma_max, rho)
        self.set_up(shape, levels, classes)

    def levels(self, uniform: Tensor) -> Tensor:
        """Numbers (N,) uniform on [0, 1) to log-SNRs (N,): -2 log s is normal (table 1, below)."""
        # Rounding may make 1 of the last of the numbers, of which the quantile is infinite.
        quantile = torch.special.ndtri(uniform.clamp(EDGE, 1 - EDGE))
        return -2 * (self.hparams.p_mean + self.hparams.p_std * quantile)

    # -- validation -----------------------------------------------------------------------------------------------

    @property
    def monitor(self) -> Metric:
        """The loss on the validation split, at noise that belongs to each datum."""
        return ERROR

    def loss(self, x: Tensor, *, label: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """(N,) the error of what the network predicts, at a level and noise that are the same each time."""
        x, label = self.check(x), self.check_labels(label, len(x))
        draws = Draws(0, self.check_index(index, len(x)))
        y = self.scaled(x).to(*self._home())
        uniform, noise = draws.uniform().to(y), draws.normal(*self.spec.shape).to(y)
        return self.errors(y, self.levels(uniform), noise, label)

    def conditions(self, batch: Batch) -> dict[str, Any]:
        """The label, of a model with classes; out of training also the index, to which the noise belongs."""
        found = super().conditions(batch)
        return found if self.training or batch.index is None else {**found, "index": batch.index}

    def _evaluation_step(self, split: str, mean: MeanMetric, batch: Batch) -> None:
        mean.update(self.loss(batch.x, **self.conditions(batch)))
        self.log(f"{split}_{ERROR.name}", mean, prog_bar=True, batch_size=batch.size)
