"""Likelihood by the probability flow: Song et al., *Score-Based Generative Modeling through Stochastic Differential
Equations*, 2021, arXiv 2011.13456, section 4.3, for any Gaussian diffusion of the zoo.

What a diffusion carries to noise by chance, an ordinary differential equation carries there without, with the same
marginals; in the log-SNR lambda, with the denoiser's mean E[x | z],

    dz / d lambda = f(z, lambda) = alpha (E[x | z] - alpha z) / 2,
    log p(z_0) = log N(z_1; 0, 1) + int_{lambda_0}^{lambda_1} tr(df/dz) d lambda,

z_0 at the least noise of the schedule and z_1 at the most. The trace is Hutchinson's estimate, E[v^T (df/dz) v] with
signs v, or exact by as many products as there are components. Both say the density of what the samplers `ddim`, `heun`
and `dpm2m` draw in the limit of many steps, from N(0, 1); it is another model than the ancestral chain's.

Of points p(x) follows from p(z_0) at z_0 = alpha_0 x, without noise: the density of z_0 / alpha_0, exact but for the
solver's error where the trace is exact. Levels have no density. Of them there is the bound

    log p(x) >= E_q(z_0 | x)[log p(x | z_0) + log p(z_0) - log q(z_0 | x)],

in which the decoder p(x | z_0) is that of `zoo.diffusion.decoder`. It is estimated: by draws of z_0, by probes, both
without bias, and by a solver whose error may go either way.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from zoo.arguments import count_of
from zoo.batch import Batch
from zoo.diffusion.decoder import log_decoder
from zoo.diffusion.samplers import Denoiser
from zoo.diffusion.schedules import alpha_sigma
from zoo.errors import DataError
from zoo.model import Measurement
from zoo.nn.draws import Draws
from zoo.nn.ode import check_tolerance, solver, values_and_log_dets, worst
from zoo.results import METRICS, Metric, Result

if TYPE_CHECKING:
    from zoo.diffusion.gaussian import GaussianDiffusion

IMAGES, BOUND_DRAWS = 1000, 16  # images that are measured, and draws of the bound beside them: some minutes on a GPU


def flow_log_prob(
    model: GaussianDiffusion,
    x: Tensor,
    *,
    label: Tensor | None = None,
    probes: int | None = None,
    tolerance: float = 1e-5,
    seed: int | None = None,
    index: Tensor | None = None,
) -> Tensor:
    """log p(x) of points and tables by the probability flow: floats (N, D) to (N,) nats.

    A batch is solved as one, so a log-density depends, within the tolerance, on what it was computed with.

    Args:
        model: of data without levels.
        x: data.
        label: int64 (N,), of a model with classes; without, the density is that of the model without labels.
        probes: signs for an estimate of the trace; None for the exact trace, of D products.
        tolerance: of the solver, absolute and relative, for each datum.
        seed, index: to which the signs of each datum belong.

    Raises:
        DataError: the data have levels.
        ZooError: torchdiffeq is not installed, or the equation is too stiff.
    """
    if model.spec.levels is not None:
        raise DataError("Levels have no density: flow_elbo has a bound on their probability.")
    x, label = model.check(x), model.check_labels(label, len(x))
    first, last = _ends(model)
    alpha, _ = alpha_sigma(first)
    signs = None if probes is None else _signs(Draws(seed, model.check_index(index, len(x))), x, probes)
    found = log_density(model.denoiser(label), alpha * model.scaled(x).to(x), (first, last), signs, tolerance)
    return found + model.spec.dims * (float(alpha.log()) - math.log(model.deviation))


def flow_elbo(
    model: GaussianDiffusion,
    x: Tensor,
    *,
    label: Tensor | None = None,
    samples: int = 1,
    probes: int = 1,
    tolerance: float = 1e-5,
    seed: int | None = None,
    index: Tensor | None = None,
) -> Tensor:
    """A lower bound on log p(x) of levels by the probability flow, estimated: (N, *shape) to (N,) nats.

    Args:
        model: of data with levels.
        x: data.
        label: int64 (N,), of a model with classes; without, the bound is that of the model without labels.
        samples: draws of z_0 for each datum, which make the estimate less noisy, and not higher.
        probes: signs for the trace at each of these.
        tolerance: of the solver, absolute and relative, for each datum.
        seed: of the draws; the same seed gives the same bound. The global random state stays as it was.
        index: the places of the data in their split, int64 (N,), to which their draws belong; by default in x.

    Raises:
        DataError: the data have no levels.
        ZooError: torchdiffeq is not installed, or the equation is too stiff.
    """
    levels = model.spec.levels
    if levels is None:
        raise DataError("Data without levels have a density: flow_log_prob tells it.")
    x, label, samples = model.check(x), model.check_labels(label, len(x)), count_of(samples, "samples")
    draws, (device, dtype) = Draws(seed, model.check_index(index, len(x))), model._home()
    first, last = _ends(model)
    y, (alpha, sigma), total = model.scaled(x).to(device, dtype), alpha_sigma(first), 0.0
    for _ in range(samples):
        noise = draws.normal(*model.spec.shape).to(y)
        z = alpha * y + sigma * noise
        log_q = -noise.square().flatten(1).sum(1) / 2 - model.spec.dims * math.log(math.sqrt(2 * math.pi) * sigma)
        log_p = log_density(model.denoiser(label), z, (first, last), _signs(draws, y, probes), tolerance)
        total = total + log_decoder(x, z, first, levels) + log_p - log_q
    return total / samples


def log_density(
    denoise: Denoiser, z: Tensor, log_snrs: tuple[Tensor, Tensor], signs: Tensor | None, tolerance: float
) -> Tensor:
    """log p(z) of states at the first log-SNR, whose flow ends as N(0, 1) at the last: (N, *shape) to (N,) nats.

    Args:
        denoise: E[x | z] at a log-SNR, as samplers take it.
        z: states.
        log_snrs: two numbers, ().
        signs: of each datum, (P, N, *shape), along which the trace is estimated; None for the exact trace.
        tolerance: of the solver, absolute and relative: of the root mean square of a datum's components, and of its
            log-density in a dimension, each datum by itself.
    """
    solve = solver()
    check_tolerance("tolerance", tolerance)
    if not len(z):
        return z.new_zeros(0)
    shape, dims = z.shape, z[0].numel()

    def velocity(log_snr: Tensor, state: Tensor) -> Tensor:
        y, (alpha, _) = state[:, :-1].reshape(shape), alpha_sigma(log_snr)
        x, trace = mean_and_trace(denoise, y, log_snr, signs)
        divergence = alpha * (trace / dims - alpha) / 2  # in a dimension, of the order of one
        return torch.cat([(alpha * (x - alpha * y) / 2).flatten(1), divergence[:, None]], 1)

    def norm(state: Tensor) -> Tensor:
        """Of the errors; by itself that of the log-density, which would not count among the many of z."""
        return torch.maximum(worst(state[:, :-1]), worst(state[:, -1:]))

    times = torch.stack([each.to(z) for each in log_snrs])
    state = torch.cat([z.flatten(1), z.new_zeros(len(z), 1)], 1)
    options = {"norm": norm, "step_t": times[1:]}  # the last step ends at the end, and not beyond it
    with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
        state = solve(velocity, state, times, rtol=tolerance, atol=tolerance, method="dopri5", options=options)[-1]
    last, change = values_and_log_dets(state)
    return -last.square().sum(1) / 2 + dims * (change - math.log(2 * math.pi) / 2)


def mean_and_trace(denoise: Denoiser, z: Tensor, log_snr: Tensor, signs: Tensor | None) -> tuple[Tensor, Tensor]:
    """E[x | z], (N, *shape), and the trace of its Jacobian in z, (N,): along signs (P, N, *shape) an estimate."""
    exact = signs is None
    directions = torch.eye(z[0].numel()).to(z).view(-1, 1, *z.shape[1:]).expand(-1, *z.shape) if exact else signs
    # Backwards, for attention has no forward derivatives; also where the caller wants no gradients at all.
    with torch.inference_mode(False), torch.enable_grad():
        z = z.detach().clone().requires_grad_()
        x = denoise(z, log_snr.clone())
        trace = x.new_zeros(len(x))
        for k, direction in enumerate(directions):
            (product,) = torch.autograd.grad(x, z, direction.clone(), retain_graph=k + 1 < len(directions))
            trace = trace + (product * direction).flatten(1).sum(1)
    return x.detach(), (trace if exact else trace / len(directions)).detach()


def _signs(draws: Draws, like: Tensor, probes: int) -> Tensor:
    """-1 and 1, each as often, (P, N, *shape)."""
    shape = like.shape[1:]
    return torch.stack([draws.integers(2, *shape) * 2 - 1 for _ in range(count_of(probes, "probes"))]).to(like)


def _ends(model: GaussianDiffusion) -> tuple[Tensor, Tensor]:
    """The least and the most noisy log-SNR of a model, () each."""
    device, dtype = model._home()
    first, last = model.noise_schedule(torch.tensor([0.0, 1.0], dtype=dtype, device=device)).detach()
    return first, last


class FlowLikelihood(Measurement):
    """The likelihood by the probability flow, and by how much it differs from the model's bound on the same data.

    Args:
        model: a Gaussian diffusion.
        n: of the first data of the split that are measured.
        samples: draws of z_0 for each, of data with levels.
        probes: signs for the trace; of data without levels it is exact.
        tolerance: of the solver.
        bound_draws: draws of the bound for each of them.
        seed: of all draws.
    """

    asked: ClassVar[bool] = True

    def __init__(
        self,
        model: GaussianDiffusion,
        n: int = IMAGES,
        samples: int = 1,
        probes: int = 1,
        tolerance: float = 1e-5,
        bound_draws: int = BOUND_DRAWS,
        seed: int = 0,
    ) -> None:
        self.model, self.n, self.samples, self.probes = model, n, samples, probes
        self.tolerance, self.bound_draws, self.seed = tolerance, bound_draws, seed
        self.metrics = tuple(METRICS[f"{name}_{model.metric}"] for name in ("flow", "flow_less_bound"))
        if model.likelihood != "bound":
            self.metrics = self.metrics[:1]
        self.seen, self.more = 0, False
        self.found: list[Tensor] = []
        self.bounds: list[Tensor] = []

    def begin(self, data: LightningDataModule, limit: int | None) -> None:
        """Note whether fewer are seen than are to be."""
        self.limited = limit is not None and limit < self.n

    def update(self, batch: Batch) -> None:
        """Log-likelihoods of a batch, as long as data are wanted."""
        index = torch.arange(self.seen, self.seen + batch.size, device="cpu") if batch.index is None else batch.index
        batch = batch._replace(index=index)
        self.more = self.more or self.seen + batch.size > self.n
        batch = batch.first(self.n - self.seen)
        if not batch.size:
            return
        model, given = self.model, {"seed": self.seed, "index": batch.index}
        own = {"label": batch.label} if model.spec.classes else {}
        own |= {"tolerance": self.tolerance, **given}
        if model.spec.levels is None:
            found = flow_log_prob(model, batch.x, **own)
        else:
            found = flow_elbo(model, batch.x, samples=self.samples, probes=self.probes, **own)
        self.found.append(found.double().cpu())
        if len(self.metrics) > 1:
            given = model.conditions(batch) | given
            self.bounds.append(model.elbo(batch.x, samples=self.bound_draws, **given).double().cpu())
        self.seen += batch.size

    def compute(self) -> list[Result]:
        """Its mean, and that of the difference, which is negative where the flow finds the data likelier."""
        levels = self.model.spec.levels
        draws = f"{self.samples:,} draws" if self.samples > 1 else "one draw"
        probes = f"{self.probes:,} probes" if self.probes > 1 else "one probe"
        how = f"a bound, estimated by {draws} and {probes}" if levels is not None else "density, exact trace"
        which = f"the first {self.seen:,}; " if self.more else ""
        protocol = f"{which}probability flow, {how}; dopri5, tolerance {self.tolerance:g}"
        flow = torch.cat(self.found)
        results = [self._mean(self.metrics[0], -flow, protocol)]
        if self.bounds:
            paired = f"{protocol}; less the model's bound by {self.bound_draws:,} draws, in pairs"
            results.append(self._mean(self.metrics[1], torch.cat(self.bounds) - flow, paired))
        return results

    def _mean(self, metric: Metric, losses: Tensor, protocol: str) -> Result:
        """The result of losses (n,) in nats."""
        if self.model.metric != "nats":
            losses = losses / (self.model.spec.dims * math.log(2))
        error = losses.std().item() / math.sqrt(len(losses)) if len(losses) > 1 else None
        own = {"n": self.seen, "limit": self.limited, "samples": self.samples}
        return Result(metric, "estimate", losses.mean().item(), error, protocol=protocol, **own)
