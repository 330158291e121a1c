"""How much noise there is when: the log-signal-to-noise ratio lambda as a decreasing function of a time t in [0, 1].

A Gaussian diffusion mixes a datum x with noise, z_t = alpha x + sigma epsilon, alpha^2 + sigma^2 = 1 (Sohl-Dickstein et
al. 2015, arXiv 1503.03585, in the variance-preserving form of Ho et al. 2020, arXiv 2006.11239). One number says where
on the way it is, lambda = log(alpha^2 / sigma^2) (Kingma et al. 2021, arXiv 2107.00630, equation 3): t = 0 is where
there is the least noise, t = 1 where there is the most. Both ends are finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import DataError, show
from zoo.nn.devices import precise


def alpha_sigma(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma of z = alpha x + sigma epsilon at a log-SNR, which may be infinite: no noise."""
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def over(values: Tensor, x: Tensor) -> Tensor:
    """One number, or one for each datum, (N,), in a shape that goes with data (N, ...)."""
    return values.reshape(-1, *[1] * (x.ndim - 1)) if values.ndim else values


def check_times(t: Tensor) -> Tensor:
    """Times, unless one is outside [0, 1].

    Raises:
        DataError: one is, or is NaN.
    """
    inside = (t >= 0) & (t <= 1)
    if not bool(inside.all()):
        raise DataError(f"t must be in [0, 1], not {float(t[~inside].flatten()[0]):g}.")
    return t


def times_of(t: float | Sequence[float] | Tensor, device: torch.device | str) -> Tensor:
    """Times that somebody gives, one or several, as float64 (T,) on a device.

    Raises:
        DataError: these are no numbers in [0, 1].
    """
    try:
        times = torch.as_tensor(t, dtype=torch.float64, device=device).reshape(-1)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"t must be numbers in [0, 1], not {show(t)}.") from None
    return check_times(times)


def even_times(n: int, device: torch.device | None = None) -> Tensor:
    """n times in [0, 1), (n,), at even distances from a first one that is uniform: each is uniform by itself."""
    start = torch.rand((), device=device, dtype=torch.float32)
    return (start + torch.arange(n, device=device, dtype=torch.float32) / n) % 1


class Schedule(nn.Module):
    """lambda(t), decreasing, and its derivative.

    Attributes:
        first, last: lambda(0) and lambda(1).
    """

    def __init__(self, first: float, last: float) -> None:
        super().__init__()
        if not (math.isfinite(first) and math.isfinite(last) and first > last):
            raise DataError(
                f"A schedule is monotone, from less noise to more: its log-SNR must fall from t = 0 to t = 1, not go "
                f"from {first:g} to {last:g}."
            )
        self.first, self.last = float(first), float(last)

    def forward(self, t: Tensor) -> Tensor:
        """Times in [0, 1] to log-SNRs, in the same shape.

        Raises:
            DataError: a time is outside [0, 1].
        """
        return self.log_snr(check_times(t))

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t)."""
        raise NotImplementedError

    def slope(self, t: Tensor) -> Tensor:
        """d lambda / dt, negative."""
        raise NotImplementedError


class Linear(Schedule):
    """lambda falls at an even pace: the fixed schedule of arXiv 2107.00630, appendix H."""

    def __init__(self, first: float = 13.3, last: float = -5.0) -> None:
        super().__init__(first, last)

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t)."""
        return self.first + (self.last - self.first) * t

    def slope(self, t: Tensor) -> Tensor:
        """d lambda / dt."""
        return torch.full_like(t, self.last - self.first)


class Cosine(Schedule):
    """alpha = cos of an angle that grows at an even pace (Nichol & Dhariwal 2021, arXiv 2102.09672, equation 17).

    The paper shifts the angle at one end by .008 and limits beta at the other; here the angles of both ends are those
    of two log-SNRs (Hoogeboom et al. 2023, arXiv 2301.11093, section 2), by default nearly the paper's.
    """

    def __init__(self, first: float = 9.7, last: float = -13.0) -> None:
        super().__init__(first, last)
        self._start, self._end = (math.atan(math.exp(-0.5 * end)) for end in (self.first, self.last))

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t) = -2 log tan(angle)."""
        return -2 * self._angle(t).tan().log()

    def slope(self, t: Tensor) -> Tensor:
        """d lambda / dt."""
        return -4 * (self._end - self._start) / (2 * self._angle(t)).sin()

    def _angle(self, t: Tensor) -> Tensor:
        return self._start + (self._end - self._start) * t


class LinearBeta(Schedule):
    """beta grows at an even pace over `steps` steps (arXiv 2006.11239, section 4), here as a function of continuous
    time (Song et al. 2021, arXiv 2011.13456, equation 33): t = 0 is after the first step and t = 1 after the last.

    With u = (1 + (steps - 1) t) / steps, log alpha^2 = -steps (beta_1 u + (beta_T - beta_1) u^2 / 2).
    """

    def __init__(self, steps: int = 1000, beta_first: float = 1e-4, beta_last: float = 0.02) -> None:
        if steps < 2 or not 0 < beta_first < beta_last < 1:
            raise DataError(
                f"A schedule is monotone: steps must be at least 2 and 0 < beta_first < beta_last < 1, not {steps}, "
                f"{beta_first:g} and {beta_last:g}."
            )
        self.steps, self.beta_first, self.beta_last = steps, steps * beta_first, steps * beta_last
        ends = (-math.log(math.expm1(self._loss(u))) for u in (1 / steps, 1.0))
        super().__init__(*ends)

    def _loss(self, u: float | Tensor) -> float | Tensor:
        """-log alpha^2 at a share of the steps."""
        return self.beta_first * u + (self.beta_last - self.beta_first) * u * u / 2

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t)."""
        return -torch.log(torch.expm1(self._loss((1 + (self.steps - 1) * t) / self.steps)))

    def slope(self, t: Tensor) -> Tensor:
        """d lambda / dt."""
        u = (1 + (self.steps - 1) * t) / self.steps
        rate = (self.beta_first + (self.beta_last - self.beta_first) * u) * (self.steps - 1) / self.steps
        return rate / torch.expm1(-self._loss(u))


class Karras(Schedule):
    """The noise levels of Karras et al. 2022, arXiv 2206.00364, equation 5: s^(1/rho) grows at an even pace, where
    s = sigma / alpha is the noise's deviation beside data that are not scaled.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        if not (0 < sigma_min < sigma_max < math.inf and 0 < rho < math.inf):
            raise DataError(
                f"A schedule is monotone: 0 < sigma_min < sigma_max and rho > 0, not {sigma_min:g}, {sigma_max:g} and "
                f"{rho:g}."
            )
        self.rho, self._root = rho, (sigma_min ** (1 / rho), sigma_max ** (1 / rho))
        super().__init__(-2 * math.log(sigma_min), -2 * math.log(sigma_max))

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t) = -2 log s."""
        return -2 * self.rho * self._rising(t).log()

    def slope(self, t: Tensor) -> Tensor:
        """d lambda / dt."""
        return -2 * self.rho * (self._root[1] - self._root[0]) / self._rising(t)

    def _rising(self, t: Tensor) -> Tensor:
        return self._root[0] + (self._root[1] - self._root[0]) * t


class Learned(Schedule):
    """A learned schedule, monotone by its weights being positive (arXiv 2107.00630, appendix H), with learned ends.

    -lambda(t) = l1(t) + l3(sigmoid(l2(l1(t)))), three linear layers with positive weights, of which l2 has `hidden`
    units, then moved and scaled so that the ends are two numbers of their own.

    Args:
        first, last: where the ends begin.
        hidden: units.
    """

    def __init__(self, first: float = 13.3, last: float = -5.0, hidden: int = 1024) -> None:
        super().__init__(first, last)
        if hidden < 1:
            raise DataError(f"hidden must be at least 1, not {hidden}.")
        self.ends = nn.Parameter(torch.tensor([self.first, self.last]))
        # Before softplus. At first the straight line: the hidden units begin with little weight.
        self.straight = nn.Parameter(torch.zeros(()))
        self.inner = nn.Parameter(torch.randn(hidden))
        self.bias = nn.Parameter(torch.randn(hidden) * 2)
        self.outer = nn.Parameter(torch.full((hidden,), -math.log(100.0 * hidden)))

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t)."""
        return self.ends[0] + (self.ends[1] - self.ends[0]) * self.share(t)[0]

    def slope(self, t: Tensor) -> Tensor:
        """d lambda / dt."""
        return (self.ends[1] - self.ends[0]) * self.share(t)[1]

    def share(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The share of the way at a time, from 0 to 1, and its derivative."""
        (rise, slope), (start, _), (end, _) = (self._rise(each) for each in (t, t.new_zeros(()), t.new_ones(())))
        return (rise - start) / (end - start), slope / (end - start)

    def _rise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = precise(t, self.inner)
        inner, bias, outer, straight = (each.to(t.dtype) for each in (self.inner, self.bias, self.outer, self.straight))
        inner, outer, straight = F.softplus(inner), F.softplus(outer), F.softplus(straight)
        with torch.autocast(t.device.type, enabled=False):  # products of 16 bits would be no log-SNR
            hidden = torch.sigmoid(inner * t[..., None] + bias)
            return straight * t + hidden @ outer, straight + (hidden * (1 - hidden) * inner) @ outer


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": Linear,
    "cosine": Cosine,
    "linear_beta": LinearBeta,
    "karras": Karras,
    "learned": Learned,
}


def schedule_of(name: str, **settings: float) -> Schedule:
    """The schedule of a name, with the settings that are its own.

    Raises:
        DataError: there is none of that name, or it is not monotone with these settings.
    """
    if not isinstance(name, str) or name not in SCHEDULES:
        raise DataError(f"schedule must be one of {', '.join(SCHEDULES)}, not {name!r}.")
    return SCHEDULES[name](**settings)
