"""From data to noise: data as a network sees them, and the way of a datum through the forward process.

The process mixes more and more noise into a datum, z = alpha x + sigma epsilon (see `zoo.diffusion.schedules`). It
knows no network, and every diffusion by Gaussian noise has the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.arguments import count_of
from zoo.diffusion.schedules import Schedule, alpha_sigma, times_of
from zoo.errors import DataError
from zoo.model import GenerativeModel
from zoo.nn.devices import precise
from zoo.nn.draws import Draws
from zoo.nn.levels import from_unit, to_unit
from zoo.spec import DataSpec, check_image_shape


def data_spec(shape: Sequence[int], levels: int | None, classes: int = 0) -> DataSpec:
    """The specification of images with levels, or of vectors without.

    Raises:
        DataError: it would be of neither.
    """
    if levels is None and len(shape) != 1:
        raise DataError(f"Data without levels are vectors, of one size, not of shape {list(shape)}: give levels.")
    if levels is not None:
        check_image_shape(shape)
        if not 2 <= count_of(levels, "levels") <= 256:
            raise DataError(f"levels must be from 2 to 256, or null for points, not {levels}.")
    return DataSpec(tuple(shape), levels, classes)


class ForwardProcess(GenerativeModel):
    """What `GaussianDiffusion` knows of noise without its network; the attributes are there."""

    spec: DataSpec
    noise_schedule: Schedule
    deviation: float = 1.0

    def scaled(self, x: Tensor) -> Tensor:
        """Data as the network sees them, (N, *shape) in float32: levels in [-1, 1]."""
        return to_unit(x, self.spec.levels) if self.spec.levels is not None else precise(x) / self.deviation

    def unscaled(self, y: Tensor) -> Tensor:
        """Data of what the network sees, (N, *shape): the nearest levels."""
        return from_unit(y, self.spec.levels) if self.spec.levels is not None else y * self.deviation

    @torch.no_grad()
    def diffuse(self, x: Tensor, t: float | Sequence[float] | Tensor, *, seed: int | None = None) -> Tensor:
        """The way of data to noise, (T, N, *shape): states z as data, as `trace` gives them, at T times.

        Each datum goes one way of the process: noise that is in it at a time is in it, smaller, at later ones.

        Args:
            x: data, (N, *shape).
            t: times in [0, 1] in any order, or one; at 0 there is the least noise, and at 1 the most.
            seed: of the noise, which belongs to the datum by its place in x.

        Raises:
            DataError: a time is outside [0, 1].
        """
        x, (device, dtype) = self.check(x), self._home()
        times = times_of(t, device)
        alpha, sigma = (each.to(dtype) for each in alpha_sigma(self.noise_schedule.log_snr(times)))
        shares, order = sigma / alpha, times.argsort().tolist()

        def draw(draws: Draws, part: slice) -> Tensor:
            # Of z / alpha the process is a sum: x and normal numbers, of a variance of (sigma / alpha)^2 by each time.
            y, before = self.scaled(x[part]), shares.new_zeros(())
            states = [y] * len(order)
            for k in order:
                fresh = (shares[k].square() - before.square()).clamp(min=0).sqrt()
                y, before = y + fresh * draws.normal(*self.spec.shape).to(y), shares[k]
                states[k] = self.unscaled(alpha[k] * y)
            return torch.stack(states, 1)

        if not len(x) or not len(times):
            return x.new_empty(len(times), *x.shape)
        return self.in_chunks(len(x), seed, draw).movedim(1, 0)
