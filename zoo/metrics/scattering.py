"""The scattering transform of images: features without training that a small shift or deformation hardly moves.

Bruna & Mallat (2013), *Invariant scattering convolution networks*, arXiv 1203.1513. With oriented wavelets psi of J
scales and a Gaussian phi of the largest scale, an image x has the coefficients

    x * phi,    |x * psi_1| * phi,    ||x * psi_1| * psi_2| * phi    for scales j_1 < j_2,

whose energy is at most that of x, and whose distance |Phi x - Phi y| is at most |x - y|: together the squared wavelets
and the squared Gaussian are at most one in each frequency, and a modulus brings nothing apart. With `features_of` and
`wasserstein` this makes a Wasserstein distance over features.

The wavelets are Morlet's with the widths of kymatio (Andreux et al. 2020, arXiv 1812.11214). Two things differ from it:
an image is continued by its whole mirror image, and what is smoothed is then averaged over blocks of 2^J pixels, not
taken at every 2^J-th, which keeps both bounds exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from zoo.errors import DataError


class Scattering(nn.Module):
    """Images (N, C, H, W), bytes (divided by 255) or floats, to features (N, F), of each channel by itself.

    F is C (1 + J L + J (J - 1) / 2 L^2) ceil(H / 2^J) ceil(W / 2^J).

    Args:
        height: H.
        width: W.
        scales: J, at least 1.
        angles: L, at least 1.
    """

    def __init__(self, height: int, width: int, scales: int = 3, angles: int = 4) -> None:
        super().__init__()
        if min(scales, angles) < 1 or 2**scales > min(height, width):
            raise DataError(
                f"A scattering transform takes at least one scale and angle, and 2^scales at most the sides of the "
                f"images: not {scales} scales and {angles} angles for {height} x {width}."
            )
        self.shape, self.scales, self.angles = (height, width), scales, angles
        wavelets, gaussian = _filters(2 * height, 2 * width, scales, angles)
        self.register_buffer("wavelets", wavelets.float(), persistent=False)  # (J, L, 2H, 2W), in frequency
        for name, side, response in (("rows", height, gaussian[:, 0]), ("columns", width, gaussian[0])):
            self.register_buffer(name, _smoothed_means(side, 2**scales, response).float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, F)."""
        if images.ndim != 4 or tuple(images.shape[2:]) != self.shape:
            raise DataError(f"Images must be (N, C, {self.shape[0]}, {self.shape[1]}), not {tuple(images.shape)}.")
        x = images if images.is_floating_point() else images.float() / 255
        x = torch.cat([x, x.flip(2)], 2)
        x = torch.cat([x, x.flip(3)], 3)
        features = [self._smoothed(x)]
        spectrum = torch.fft.fft2(x)
        for j, first in enumerate(self.wavelets):
            for wavelet in first:
                u = torch.fft.ifft2(spectrum * wavelet).abs()
                features.append(self._smoothed(u))
                of_u = torch.fft.fft2(u)
                features += [
                    self._smoothed(torch.fft.ifft2(of_u * second).abs())
                    for second in self.wavelets[j + 1 :].flatten(0, 1)
                ]
        return torch.stack(features, 1).flatten(1)

    def _smoothed(self, u: Tensor) -> Tensor:
        """(N, C, 2H, 2W) to (N, C, ceil(H / 2^J), ceil(W / 2^J))."""
        return self.rows @ u @ self.columns.T


def _filters(height: int, width: int, scales: int, angles: int) -> tuple[Tensor, Tensor]:
    """Frequency responses, real: wavelets (J, L, H, W) and the Gaussian (H, W), 1 at frequency zero."""
    gaussian = _bump(height, width, 0.8 * 2 ** (scales - 1))
    gaussian = gaussian / gaussian[0, 0]
    wavelets = []
    for j in range(scales):
        for angle in range(angles):
            width_and_slant = 0.8 * 2**j, angle * math.pi / angles, 4 / angles
            centred = _bump(height, width, *width_and_slant)
            moved = _bump(height, width, *width_and_slant, frequency=0.75 * math.pi / 2**j)
            wavelets.append(moved - moved[0, 0] / centred[0, 0] * centred)  # of mean zero
    bank = torch.stack(wavelets)
    # Of real images a wavelet sees each frequency and its opposite. The largest factor with which all is at most one:
    opposite = bank.flip(1, 2).roll((1, 1), (1, 2))
    energy = 0.5 * (bank.square() + opposite.square()).sum(0)
    seen = energy > 1e-9 * energy.max()
    factor = ((1 - gaussian.square())[seen] / energy[seen]).min().sqrt()
    return (factor * bank).view(scales, angles, height, width), gaussian


def _bump(
    height: int, width: int, sigma: float, angle: float = 0.0, slant: float = 1.0, frequency: float = 0.0
) -> Tensor:
    """The response of a Gaussian of deviation sigma along an angle and sigma / slant across, moved by a frequency."""
    total = torch.zeros(height, width, dtype=torch.float64)
    turns = range(-2, 3)  # in sampled images frequencies repeat
    rows, columns = (2 * math.pi * torch.fft.fftfreq(side, dtype=torch.float64) for side in (height, width))
    for down in turns:
        for right in turns:
            y, x = rows[:, None] + 2 * math.pi * down, columns + 2 * math.pi * right
            along = x * math.cos(angle) + y * math.sin(angle) - frequency
            across = y * math.cos(angle) - x * math.sin(angle)
            total += torch.exp(-0.5 * sigma**2 * (along.square() + (across / slant).square()))
    return total


def _smoothed_means(side: int, block: int, response: Tensor) -> Tensor:
    """What smooths 2 side values by a filter and averages the first half over blocks: (ceil(side / block), 2 side).

    A mean counts the root of its block's size, so that energy does not grow.
    """
    smooth = torch.fft.ifft(response[:, None] * torch.fft.fft(torch.eye(2 * side, dtype=torch.float64), dim=0), dim=0)
    return torch.stack([rows.mean(0) * len(rows) ** 0.5 for rows in smooth.real[:side].split(block)])
