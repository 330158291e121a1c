"""Latents: what a model makes data of, drawn, decoded, and walked between."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.arguments import count_of, real_of
from zoo.errors import DataError
from zoo.nn.devices import full_precision
from zoo.nn.draws import Draws, chunk_size
from zoo.nn.levels import from_unit
from zoo.spec import DataSpec

CALIBRATION = 500  # latents in a batch that batch normalization is measured on


class Latents:
    """Mixin of a `zoo.model.GenerativeModel` that makes data of latents, standard normal and independent; it stands
    before that class.

    A family defines `generate`; `to_data` where its network gives anything but values in [-1, 1]; `latent_size` where
    that is not the hyperparameter `latent_dim`; and `sample` where a datum is more than its latents' decoding.
    """

    spec: DataSpec
    hparams: Any
    device: torch.device
    chunk: int | None
    in_chunks: Callable[..., Tensor]

    @property
    def latent_size(self) -> int:
        """Components of a latent."""
        return self.hparams.latent_dim

    def generate(self, z: Tensor, label: Tensor | None) -> Tensor:
        """Latents (N, latent_size), and labels (N,) of a conditional model, to what `to_data` makes data of."""
        raise NotImplementedError(f"{type(self).__name__} does not define generate().")

    def to_data(self, y: Tensor) -> Tensor:
        """What `generate` gives as data: by default levels of values in [-1, 1], and continuous data as they are."""
        return from_unit(y, self.spec.levels)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        seed: int | None = None,
        label: int | Sequence[int] | Tensor | None = None,
        truncation: float | None = None,
    ) -> Tensor:
        """Draw `n` data: images uint8 (n, C, H, W), points float32 (n, 2).

        Args:
            n: number of data.
            seed: the same seed gives the same data, the first of them whatever `n` is.
            label: an integer, or n of them; without, a conditional model draws one for each.
            truncation: latents beyond this are drawn again (arXiv 1809.11096, section 3.1): the fewer standard
                deviations, the more alike and the more typical the samples.
        """
        n = self.spec.count(n)
        given = self.check_labels(label, n)

        def draw(draws: Draws, part: slice) -> Tensor:
            z = draw_latents(draws, self.latent_size, truncation)
            return self.decode(z, self._drawn_labels(draws) if given is None else given[part])

        return self.in_chunks(n, seed, draw)

    def latents(self, n: int, *, seed: int | None = None, truncation: float | None = None) -> Tensor:
        """Draw `n` latents, float32 (n, latent_size), for `decode`; `truncation` as in `sample`."""
        n = self.spec.count(n)
        return draw_latents(Draws(seed, n), self.latent_size, truncation)

    @torch.no_grad()
    def decode(self, z: Tensor, label: int | Sequence[int] | Tensor | None = None) -> Tensor:
        """The data of latents (N, latent_size), of sums of latents too: (N, *shape).

        Args:
            z: latents.
            label: an integer or N of them, which a conditional model needs.
        """
        z = self.check(z, "z", DataSpec((self.latent_size,), None))
        labels = self.check_labels(label, len(z))
        if labels is None and self.spec.classes:
            raise DataError(f"The model is conditioned on labels: give one of 0..{self.spec.classes - 1}.")
        with self.sampling_mode(cached=False), full_precision(self.device):
            size = self.chunk or chunk_size(self.spec.dims, self.device)
            parts = z.split(size)
            given = [None] * len(parts) if labels is None else labels.split(size)
            return torch.cat([self.to_data(self._generated(*each)) for each in zip(parts, given, strict=True)])

    def interpolate(
        self, start: Tensor, end: Tensor, steps: int = 8, *, label: int | Sequence[int] | Tensor | None = None
    ) -> Tensor:
        """Data on the way from latents to others: (N, latent_size) twice to (N, steps, *shape).

        The way is the great circle between two directions, with lengths in between (White 2016, arXiv 1609.04468): the
        middle of a straight line would be shorter than latents ever are.
        """
        steps, latents = count_of(steps, "steps", least=2), DataSpec((self.latent_size,), None)
        start, end = self.check(start, "start", latents), self.check(end, "end", latents)
        if start.shape != end.shape:
            raise DataError(f"Start and end must be as many latents, not {tuple(start.shape)} and {tuple(end.shape)}.")
        z = slerp(
            start[:, None],
            end[:, None],
            torch.linspace(0, 1, steps, device=start.device, dtype=start.dtype)[None, :, None],
        )
        labels = self.check_labels(label, len(start))
        labels = None if labels is None else labels.repeat_interleave(steps)
        return self.decode(z.flatten(0, 1), labels).unflatten(0, (len(start), steps))

    def walk(self, n: int = 4, steps: int = 8, *, seed: int | None = None, label: int | None = None) -> Tensor:
        """A round trip over `n` latents drawn at random, `steps` data from each to the next: (n * steps, *shape)."""
        z, steps = self.latents(n, seed=seed), count_of(steps, "steps")
        return self.interpolate(z, z.roll(-1, 0), steps + 1, label=label)[:, :-1].flatten(0, 1)

    @torch.no_grad()
    def recalibrate_batch_norm(self, batches: int = 4, seed: int = 0) -> None:
        """Measure anew what the generator's batch normalizations divide by, for averaged weights have other activations
        than those from which it was taken in training. Those that no latent passes through are left as they are.

        Args:
            batches: of `CALIBRATION` latents each.
            seed: of the latents.
        """
        norms = [module for module in self.net.modules() if isinstance(module, nn.BatchNorm2d)]
        if not norms:
            return
        before = [
            (norm.momentum, {key: value.clone() for key, value in norm.named_buffers(recurse=False)}) for norm in norms
        ]
        with self.sampling_mode(cached=False), full_precision(self.device):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum, norm.training = None, True  # the mean over all batches
            for _, draws in Draws(seed, batches * CALIBRATION).chunks(CALIBRATION):
                self._generated(draw_latents(draws, self.latent_size), self._drawn_labels(draws))
            for norm, (momentum, buffers) in zip(norms, before, strict=True):
                norm.momentum, norm.training = momentum, False
                if not norm.num_batches_tracked:
                    norm.load_state_dict(buffers, strict=False)

    def _generated(self, z: Tensor, label: Tensor | None) -> Tensor:
        """What `generate` makes of latents and labels, where its weights are and in their type."""
        z = z.to(self.device, next(self.parameters(), z).dtype)
        return self.generate(z, None if label is None else label.to(self.device))

    def _drawn_labels(self, draws: Draws) -> Tensor | None:
        return draws.integers(self.spec.classes) if self.spec.classes else None


def draw_latents(draws: Draws, size: int, truncation: float | None = None) -> Tensor:
    """Standard normal numbers, float32 (n, size); those beyond `truncation` standard deviations are drawn again."""
    if truncation is None:
        return draws.normal(size)
    truncation = real_of(truncation, "truncation")
    # The inverse of the distribution function between -truncation and truncation, of uniform numbers.
    inside = math.erf(truncation / math.sqrt(2))
    uniform = draws.uniform(size, dtype=torch.float64)
    return (math.sqrt(2) * torch.erfinv(inside * (2 * uniform - 1))).clamp(-truncation, truncation).float()


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Spherical interpolation over the last axis (arXiv 1609.04468), (..., L): lengths are interpolated linearly."""
    lengths = [z.norm(dim=-1, keepdim=True) for z in (start, end)]
    a, b = (z / length.clamp(min=1e-12) for z, length in zip((start, end), lengths, strict=True))
    angle = (a * b).sum(-1, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    # Where the directions are the same or opposite there is no one great circle: a straight line.
    near = sine < 1e-4
    sine = torch.where(near, 1.0, sine)
    first = torch.where(near, 1 - share, ((1 - share) * angle).sin() / sine)
    second = torch.where(near, share, (share * angle).sin() / sine)
    return (first * a + second * b) * torch.lerp(*lengths, share)
