"""What the diffusions by Gaussian noise share: a denoiser made of a network, drawing by any sampler, completing.

A family says what its network predicts, which noise there is when, and what its loss is. From these come the denoiser,
E[x | z] at any log-SNR, and with it all samplers and the probability flow.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from zoo.arguments import count_of, real_of
from zoo.diffusion.forward import ForwardProcess
from zoo.diffusion.predictions import Coefficients, Prediction, datum_of
from zoo.diffusion.probability_flow import FlowLikelihood
from zoo.diffusion.samplers import Denoiser, Normal, passes, sampler_of
from zoo.diffusion.schedules import alpha_sigma, over
from zoo.diffusion.steps import check_steps, finite_state, shown_steps
from zoo.errors import DataError
from zoo.model import Measurement
from zoo.nn.devices import full_precision, precise
from zoo.nn.draws import Draws

Labels = int | str | Sequence[int | str] | Tensor | None


class GaussianDiffusion(ForwardProcess):
    """A model of x in z = alpha x + sigma epsilon at every noise level.

    A family sets these in its constructor, after `save_hyperparameters`.

    Attributes:
        spec: the data.
        net: (N, *shape), log-SNRs (N,) and labels (N,) or None to what `prediction` says, (N, *shape). A label equal to
            the number of classes means that none is known.
        prediction: what the network's output means.
        noise_schedule: the noise of the steps in which data are drawn.
        deviation: of the data as the network sees them; of data without levels also what they are divided by.
        steps: in which data are drawn where nobody says it.
        sampler: by which they are.
        most_steps: that there can be; None for any number.
        label_dropout: share of the labels that training hides, without which there is no guidance.
    """

    net: nn.Module
    prediction: Prediction
    steps: int = 50
    sampler: str = "ancestral"
    most_steps: int | None = None
    label_dropout: float = 0.0

    # -- data -----------------------------------------------------------------------------------------------------

    def decoded(self, z: Tensor, draws: Draws) -> Tensor:
        """Data of the last state that a sampler gives, (N, *shape); where they are drawn of it, by their numbers."""
        return self.unscaled(z)

    # -- denoising ------------------------------------------------------------------------------------------------

    def coefficients(self, log_snr: Tensor) -> Coefficients:
        """Those of the prediction, for data as the network sees them."""
        return self.prediction(log_snr, 1.0 if self.spec.levels is None else self.deviation)

    def predict(self, z: Tensor, log_snr: Tensor, label: Tensor | None = None) -> Tensor:
        """What the network gives for z (N, *shape) at log-SNRs (N,) or (), in float32."""
        scale = over(self.coefficients(log_snr).scale, z)
        return precise(self.net(scale * z, log_snr.expand(len(z)), label))

    def mean(self, z: Tensor, log_snr: Tensor, label: Tensor | None = None) -> Tensor:
        """E[x | z], (N, *shape), of z (N, *shape) at log-SNRs (N,) or (); x and z as the network sees them."""
        return datum_of(self.predict(z, log_snr, label), z, self.coefficients(log_snr))

    def denoiser(self, label: Tensor | None = None, guidance: float = 1.0) -> Denoiser:
        """E[x | z] given labels (N,), as samplers take it.

        Args:
            label: of each datum; a model with classes is given none where they are hidden.
            guidance: w of x + (w - 1) (x - x'), where x' is what the denoiser tells without a label: above 1, more
                typical of the class and less varied (Ho & Salimans 2022, arXiv 2207.12598, equation 6).
        """
        classes = self.spec.classes

        def denoise(z: Tensor, log_snr: Tensor) -> Tensor:
            hidden = torch.full((len(z),), classes, device=self.device) if classes else None
            if guidance == 1.0 or label is None:
                return self.mean(z, log_snr, hidden if label is None else label)
            both = self.mean(torch.cat([z, z]), log_snr, torch.cat([label, hidden]))
            known, unknown = both.chunk(2)
            return unknown + guidance * (known - unknown)

        return denoise

    def log_snrs(self, steps: int) -> Tensor:
        """Those through which data are drawn in so many steps, rising, (steps + 1,): the last has no noise."""
        t = torch.linspace(1, 0, steps, dtype=torch.float64, device=self.device)
        return torch.cat([self.noise_schedule(t), t.new_full((1,), torch.inf)])

    def way(
        self, sampler: str, label: Tensor | None, guidance: float, kept: tuple[Tensor, Tensor] | None
    ) -> Callable[[Tensor, Tensor, Normal], Iterator[Tensor]]:
        """A sampler with its denoiser: from z, log-SNRs and normal numbers to the state after each step.

        Args:
            sampler: its name.
            label, guidance: as of `denoiser`.
            kept: data, and which of their components are known and go along as the forward process has them.
        """
        denoise = self.denoiser(label, guidance)
        if kept is not None:
            denoise = _keeping(denoise, *kept)
        return functools.partial(sampler_of(sampler), denoise)

    # -- drawing --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        seed: int | None = None,
        label: Labels = None,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Draw `n` data, (n, *shape).

        Args:
            n: number of data.
            seed: the same seed gives the same data, the first of them whatever `n` is.
            label: an integer, or n of them, or names of classes; without, a conditional model draws one for each.
            steps: of the sampler: more are slower and closer to the model.
            sampler: ancestral, which draws anew in each step (ancestral_beta with more noise), or one that solves the
                probability-flow equation: ddim, of first order, heun (two passes a step) or dpm2m, of second.
            guidance: of a model with classes, how strongly the label counts: 1 as the model has it.
        """
        n, given = self.spec.count(n), self.check_labels(label, n)
        return self._drawn(n, seed, given, steps, sampler, guidance)

    def way_of_sampling(self, **options: Any) -> str:
        """Steps, sampler and the passes that they take: `18 steps of heun, 35 passes`, of guidance twice as many."""
        steps, sampler = options.pop("steps", None) or self.steps, options.pop("sampler", None) or self.sampler
        count = passes(sampler, self.log_snrs(steps)) * (1 if options.get("guidance") in (None, 1) else 2)
        said = f"{steps:,} steps of {sampler}, {count:,} passes"
        return ", ".join(filter(None, (said, super().way_of_sampling(**options))))

    @torch.no_grad()
    def trace(
        self,
        n: int,
        *,
        frames: int = 8,
        seed: int | None = None,
        label: Labels = None,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """The states on the way of `n` data that `sample` draws with the same arguments, (frames, n, *shape).

        They are at even distances in steps; the first is noise and the last the data. States z are given as data, in
        their unit, or as their nearest levels: the noise at the beginning is about as wide as the data.
        """
        n, given = self.spec.count(n), self.check_labels(label, n)
        frames = count_of(frames, "frames", least=2)
        return self._drawn(n, seed, given, steps, sampler, guidance, frames=frames).movedim(1, 0)

    @torch.no_grad()
    def drift(self, x: Tensor, t: float, *, label: Labels = None) -> Tensor:
        """Where the probability flow carries states of continuous data as noise is taken away, (N, *shape).

        It is dz / d lambda of `zoo.diffusion.samplers`, in the unit of the data.

        Args:
            x: states as `trace` and `diffuse` give them, (N, *shape).
            t: a time in [0, 1].
            label: of each; without, a model with classes tells what it does where none is known.

        Raises:
            DataError: the data have levels, to which a state would have been rounded, or t is outside [0, 1].
        """
        if self.spec.levels is not None:
            raise DataError(f"The drift is that of continuous data, and these have {self.spec.levels} levels.")
        z = self.scaled(self.check(x))
        log_snr = self.noise_schedule(torch.as_tensor(t, dtype=torch.float64, device=z.device)).to(z.dtype)
        with self.sampling_mode(cached=False), full_precision(self.device):
            mean = self.denoiser(self.check_labels(label, len(z)))(z, log_snr)
        alpha, _ = alpha_sigma(log_snr)
        return self.unscaled(alpha * (mean - alpha * z) / 2)

    @torch.no_grad()
    def complete(
        self,
        x: Tensor,
        known: Tensor,
        *,
        seed: int | None = None,
        label: Labels = None,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Draw the unknown components of data, by replacement: on the way, what is known is the datum with noise.

        This is a heuristic, also of a perfect denoiser: what is drawn in a step has seen the known part with as much
        noise as there is in that step, and later steps do not go back (Lugmayr et al. 2022, arXiv 2201.09865). With
        more steps it comes no closer to p(unknown | known): of two standard normal components of correlation 0.8, of
        which one is known to be x, ancestral steps draw the other with mean 0.50 x and variance 0.54 in the limit, not
        0.80 x and 0.36. For a correlation rho the mean is tan(arcsin(rho) / 2) x.

        Args:
            x: data, (N, *shape).
            known: boolean, broadcastable to (N, *shape), True where to keep.
            seed, label, steps, sampler, guidance: as in `sample`.

        Returns:
            (N, *shape), equal to `x` where `known`.
        """
        x, known = self.check_known(x, known)
        given = self.check_labels(label, len(x))
        if not len(x):
            return x.clone()
        drawn = self._drawn(len(x), seed, given, steps, sampler, guidance, kept=(self.scaled(x), known))
        return torch.where(known, x, drawn)

    def _drawn(
        self,
        n: int,
        seed: int | None,
        label: Tensor | None,
        steps: int | None,
        sampler: str | None,
        guidance: float | None,
        kept: tuple[Tensor, Tensor] | None = None,
        frames: int | None = None,
    ) -> Tensor:
        """Data (n, *shape), or with `frames` the states on their way, (n, frames, *shape)."""
        steps = self.check_steps(self.steps if steps is None else steps)
        sampler = self.sampler if sampler is None else sampler
        sampler_of(sampler)
        guidance = self.check_guidance(guidance)
        log_snrs = self.log_snrs(steps)

        def draw(draws: Draws, part: slice) -> Tensor:
            def normal() -> Tensor:
                return draws.normal(*self.spec.shape).to(*self._home())

            given = label[part] if label is not None else self._drawn_labels(draws)
            z, own = normal(), None
            if kept is not None:
                x, known = own = kept[0][part], kept[1][part]
                alpha, sigma = (each.to(z.dtype) for each in alpha_sigma(log_snrs[0]))
                z = torch.where(known, alpha * x + sigma * z, z)
            way = self.way(sampler, given, guidance, own)
            states = self._states(way(z, log_snrs.to(z), normal), steps)
            if frames is None:
                (z,) = deque(states, maxlen=1)  # not all of them at once
                return self.decoded(z, draws)
            chosen, shown = shown_steps(steps, frames), []
            for k, state in enumerate([z, *states]):
                data = self.unscaled(state) if k < steps else self.decoded(state, draws)
                shown += [data] * chosen.count(k)
            return torch.stack(shown, 1)

        with self.sampling_mode(cached=False), full_precision(self.device):
            return self.in_chunks(n, seed, draw)

    def _states(self, states: Iterator[Tensor], steps: int) -> Iterator[Tensor]:
        """The states of a sampler, each looked at, with a progress bar."""
        for k, z in enumerate(tqdm(states, "steps", steps, disable=None, leave=False), 1):
            yield finite_state(z, k, steps)

    def _drawn_labels(self, draws: Draws) -> Tensor | None:
        return draws.integers(self.spec.classes).to(self.device) if self.spec.classes else None

    def measurements(self) -> list[Measurement]:
        """The likelihood by the probability flow, where it is asked for."""
        return [*super().measurements(), FlowLikelihood(self)]

    # -- arguments ------------------------------------------------------------------------------------------------

    def check_steps(self, steps: int) -> int:
        """A number of steps.

        Raises:
            DataError: it is below 1, or above the number that the schedule has.
        """
        return check_steps(steps, self.most_steps)

    def check_guidance(self, guidance: float | None) -> float:
        """The weight of guidance, 1 where none is given.

        Raises:
            DataError: the model has no classes, or never saw data without their labels, or it is no such number.
        """
        if guidance is None:
            return 1.0
        if not self.spec.classes:
            raise DataError("The model is not conditioned on classes, so that nothing guides it: leave out guidance.")
        guidance = real_of(guidance, "guidance", zero=True)
        if guidance != 1 and not self.label_dropout:
            raise DataError("The model never saw data without labels (label_dropout: 0): guidance can only be 1.")
        return guidance

    # -- training -------------------------------------------------------------------------------------------------

    def hide_labels(self, label: Tensor | None) -> Tensor | None:
        """Labels of a training batch, a share of them hidden."""
        if label is None or not self.label_dropout:
            return label
        hidden = torch.rand(label.shape, device=label.device) < self.label_dropout
        return torch.where(hidden, self.spec.classes, label)


def _keeping(denoise: Denoiser, x: Tensor, known: Tensor) -> Denoiser:
    """A denoiser that knows a part of the datum: samplers then carry that part along as the forward process does."""

    def denoise_rest(z: Tensor, log_snr: Tensor) -> Tensor:
        return torch.where(known, x.to(z), denoise(z, log_snr))

    return denoise_rest
