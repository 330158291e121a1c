"""What DDPM and EDM share: one loss, the mean squared error of what the network predicts, and the networks.

The weight of a noise level follows from the prediction (`zoo.diffusion.predictions`), and how often a level comes from
the family, which turns uniform numbers to log-SNRs. Those of a batch are spread evenly: one in each of N strata.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.arguments import real_of
from zoo.diffusion.forward import data_spec
from zoo.diffusion.gaussian import GaussianDiffusion
from zoo.diffusion.predictions import target_of
from zoo.diffusion.samplers import sampler_of
from zoo.diffusion.schedules import alpha_sigma, over
from zoo.errors import DataError
from zoo.nn.unet import Perceptron, UNet


class Denoising(GaussianDiffusion):
    """A Gaussian diffusion that is trained by the error of its prediction.

    A family sets what `GaussianDiffusion` asks for, and defines `levels`.
    """

    def levels(self, uniform: Tensor) -> Tensor:
        """Numbers (N,) uniform on [0, 1) to the log-SNRs at which training looks, (N,)."""
        raise NotImplementedError

    def network(self) -> nn.Module:
        """The network that the hyperparameters ask for: a U-Net of images, a perceptron of points."""
        given, spec = self.hparams, self.spec
        if spec.kind == "vector":
            return Perceptron(spec.dims, spec.dims, given.hidden, given.layers, spec.classes)
        sizes = given.channels, given.multipliers, given.blocks, given.attention
        return UNet(spec.shape, spec.shape[0], *sizes, given.dropout, spec.classes)

    def set_up(self, shape: Sequence[int], levels: int | None, classes: int) -> None:
        """Check what all families take, and make `spec` and `net` of the hyperparameters.

        Raises:
            DataError: in one sentence, what is wrong.
        """
        given = self.hparams
        self.spec = data_spec(shape, levels, classes)
        if not 0 <= real_of(given.label_dropout, "label_dropout", zero=True) < 1:
            raise DataError(f"label_dropout must be in [0, 1), not {given.label_dropout}.")
        if given.label_dropout and not classes:
            raise DataError("There are no labels to drop where classes is 0: set label_dropout to 0.")
        self.label_dropout, self.deviation = given.label_dropout, real_of(given.deviation, "deviation")
        sampler_of(given.sampler)
        self.sampler, self.steps = given.sampler, self.check_steps(given.steps)
        self.net = self.network()

    @property
    def given(self) -> tuple[str, ...]:
        """The label, of a model with classes."""
        return ("label",) if self.spec.classes else ()

    # -- training -------------------------------------------------------------------------------------------------

    def errors(self, x: Tensor, log_snr: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """The mean squared error of what the network predicts, over the components of each datum.

        Args:
            x: as the network sees data, (N, *shape).
            log_snr: (N,).
            noise: the standard normal numbers in z, (N, *shape).
            label: (N,) or None.

        Returns:
            (N,).
        """
        alpha, sigma = (over(each, x) for each in alpha_sigma(log_snr))
        z = alpha * x + sigma * noise
        target = target_of(x, z, self.coefficients(log_snr))
        return (self.predict(z, log_snr, label) - target).square().flatten(1).mean(1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean error of a batch, at noise levels that are spread evenly over it."""
        batch = self.taken(batch)
        label = self.hide_labels(self.conditions(batch).get("label"))
        x = self.scaled(batch.x)
        strata = torch.arange(batch.size, device=x.device, dtype=torch.float32)
        uniform = (strata + torch.rand(batch.size, device=x.device, dtype=torch.float32)) / batch.size
        loss = self.errors(x, self.levels(uniform), torch.randn_like(x), label).mean()
        self.log("train_error", loss, batch_size=batch.size)
        return loss
