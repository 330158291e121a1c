"""The parts of a chain of Gaussian steps: betas that are learned, the line on which a reverse kernel's log-variance
lies, what a step back costs, and what it costs to read levels in the state with the least noise.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.diffusion.decoder import log_decoder
from zoo.diffusion.schedules import Schedule, alpha_sigma

NODES = 801  # of a quadrature over ten deviations of the noise to either side


class LearnedBetas(Schedule):
    """Any beta_2, beta_3, ... between 0 and 1, which are weights; beta_1 is fixed. Between states it interpolates.

    Args:
        begin: the schedule whose betas they are at first.
        states: how many there are.
    """

    def __init__(self, begin: Schedule, states: int) -> None:
        super().__init__(begin.first, begin.last)
        # log(1 - beta) is by how much log alpha^2 falls in a step.
        fall = F.logsigmoid(begin.log_snr(torch.linspace(0, 1, states, dtype=torch.float64))).diff()
        self.logits = nn.Parameter((torch.log(-torch.expm1(fall)) - fall).float())

    def betas(self) -> Tensor:
        """beta_1, beta_2, ..., (states,) in float64."""
        return torch.cat([torch.sigmoid(self._first()), self.logits.double().sigmoid()])

    def states(self) -> Tensor:
        """The log-SNRs of the states, falling, (states,) in float64."""
        log_alpha2 = F.logsigmoid(-self.logits.double()).cumsum(0) + F.logsigmoid(-self._first())
        return torch.cat([-self._first(), log_alpha2 - torch.log(-torch.expm1(log_alpha2))])

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t)."""
        states, k, share = self._place(t)
        return torch.lerp(states[k], states[k + 1], share).to(t.dtype)

    def slope(self, t: Tensor) -> Tensor:
        """d lambda / dt."""
        states, k, _ = self._place(t)
        return ((states[k + 1] - states[k]) * (len(states) - 1)).to(t.dtype)

    def _first(self) -> Tensor:
        """-lambda(0), (1,)."""
        return self.logits.new_full((1,), -self.first, dtype=torch.float64)

    def _place(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states = self.states()
        place = t.double() * (len(states) - 1)
        k = place.floor().clamp(0, len(states) - 2)
        return states, k.long(), place - k


def line(here: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Of steps back from log-SNRs `here` to `there`: the log-share of fresh noise, by which the posterior's variance is
    below that of the state `there`, and how far log beta is above the logarithm of the posterior's variance.
    """
    return torch.log(-torch.expm1(here - there)), F.logsigmoid(-here) - F.logsigmoid(-there)


class Costs(NamedTuple):
    """What the steps back from states cost, in nats a component: half of

        r + own (exp(-r) - 1) + weight (x - x_hat)^2 exp(-r) + rest,

    where r = share * span is by how much the reverse kernel's log-variance is above the lower end of its line.
    """

    span: Tensor
    own: Tensor
    weight: Tensor
    rest: Tensor


def costs_of(states: Tensor) -> Costs:
    """Costs of the steps back from states with these log-SNRs, falling, (states,).

    From all but the first they are KL divergences of Gaussians: with r as above the posterior's variance v and the
    reverse kernel's v exp(r), and the means apart by a multiple of x - x_hat. From the first state, to data, it is
    -log p(x_0 | x_1) less the entropy of q(x_1 | x_0): an estimate then varies less with the step that is drawn.
    """
    log_fresh, span = line(states[1:], states[:-1])
    above, nothing = -log_fresh[:1], torch.zeros_like(log_fresh[:1])
    return Costs(
        torch.cat([above, span]),
        torch.cat([nothing, torch.ones_like(span)]),
        # For the first 1 / v: log sigma^2 is -softplus(lambda).
        torch.exp(torch.cat([above + F.softplus(states[:1]), states[:-1] + log_fresh])),
        torch.cat([-1 - above, torch.zeros_like(span)]),
    )


@functools.lru_cache(maxsize=8)
def reading_costs(log_snr: float, levels: int, device: str) -> Tensor:
    """E[-log p(x | z)] over z of each level x, (levels,) nats in float32, p being `zoo.diffusion.decoder`'s.

    By the trapezoidal rule, which is exact to float32 for so smooth a function of the noise.
    """
    with torch.inference_mode(False), torch.no_grad():
        noise = torch.linspace(-10, 10, NODES, dtype=torch.float64, device="cpu")[:, None]
        density = torch.exp(-noise[:, 0].square() / 2)
        snr = torch.tensor(log_snr, dtype=torch.float64, device="cpu")
        alpha, sigma = alpha_sigma(snr)
        found = torch.empty(levels, dtype=torch.float32, device="cpu")
        for x in range(levels):
            z = alpha * (2 * x / (levels - 1) - 1) + sigma * noise
            log_p = log_decoder(torch.full((NODES, 1), x, device="cpu"), z, snr, levels)
            found[x] = -(density * log_p).sum() / density.sum()
        return found.to(device)
