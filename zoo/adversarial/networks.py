"""What the generators and critics of adversarial models share: sizes, conditions, heads, and the perceptrons of 2014.

A generator takes latents (N, L), and labels (N,) if it has classes, to data (N, *shape): images in [-1, 1], points as
they are. A critic takes such data, and labels, to (N, K) numbers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from zoo.errors import DataError
from zoo.nn.devices import precise

NORMS = ("batch", "spectral", "none")


def check_sizes(levels: int | None, classes: int, **sizes: int | None) -> None:
    """Refuse levels, numbers of labels, and sizes, each by its name, that no model has.

    Raises:
        DataError: naming the argument.
    """
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise DataError(f"{name} must be at least 1, not {value}.")
    if classes < 0 or classes == 1:
        raise DataError(f"classes must be 0 or the number of labels, not {classes}.")
    if levels is not None and not 2 <= levels <= 256:
        raise DataError(f"levels must be 2..256, or null for continuous data, not {levels}.")


def halvings(shape: tuple[int, ...]) -> int:
    """How often the sides of images can be halved until the shorter one is at most 7.

    Raises:
        DataError: a side is odd on the way.
    """
    _, height, width = shape
    count = max(0, math.ceil(math.log2(min(height, width) / 7)))
    if height % 2**count or width % 2**count:
        raise DataError(
            f"Images of {height} x {width} pixels cannot be halved {count} times: pad or resize them to multiples of "
            f"{2**count}, or take the network mlp."
        )
    return count


def normalized(network: nn.Module, norm: str) -> None:
    """Put spectral normalization on each layer of a critic that is to have it, after its weights were drawn.

    It divides a weight by its largest singular value (Miyato et al. 2018, arXiv 1802.05957).
    """
    if norm == "spectral":
        for layer in list(network.modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
                spectral_norm(layer)
                _make_picklable(layer)


def _make_picklable(layer: nn.Module) -> None:
    # torch gives each such layer a class of its own, made on the spot, and refuses to pickle it.
    type(layer).__reduce__ = _reduced


def _reduced(layer: nn.Module) -> tuple[Any, ...]:
    state = {key: value for key, value in vars(layer).items() if key != "_compiled_call_impl"}
    return _unpickled, (type(layer).__bases__[0], tuple(layer.parametrizations)), state


def _unpickled(cls: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    """A layer without its state, with the class that `torch.nn.utils.parametrize` would give it."""
    layer = cls.__new__(cls)
    parametrize._inject_new_class(layer)
    for name in names:
        parametrize._inject_property(layer, name)
    _make_picklable(layer)
    return layer


class Head(nn.Module):
    """The last layer of a critic: features (N, F) to (N, K) numbers.

    With classes the inner product of the features with a vector of the label is added (the projection of Miyato &
    Koyama 2018, arXiv 1802.05637).

    Args:
        inputs: F.
        outputs: K.
        classes: number of labels, 0 for none.
    """

    def __init__(self, inputs: int, outputs: int, classes: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.label = nn.Embedding(classes, inputs) if classes else None

    def forward(self, h: Tensor, label: Tensor | None = None) -> Tensor:
        """(N, F) and labels (N,) to (N, K), in float32 also under autocast."""
        with torch.autocast(h.device.type, enabled=False):
            h = precise(h)
            value = self.linear(h)
            return value if self.label is None else value + (h * self.label(label)).sum(1, keepdim=True)


class Conditioned(nn.Module):
    """Latents with a learned vector of the label behind them: (N, L) and (N,) to (N, L + size)."""

    def __init__(self, classes: int, size: int = 64) -> None:
        super().__init__()
        self.size = size if classes else 0
        self.label = nn.Embedding(classes, size) if classes else None

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """The latents alone where there are no classes."""
        return z if self.label is None else torch.cat([z, self.label(label)], 1)


class PerceptronGenerator(nn.Module):
    """Two hidden layers, of rectified units as the generators of 2014 had.

    Args:
        shape: of one datum.
        latent_dim: L.
        width: hidden units.
        classes: number of labels, 0 for none.
        bounded: whether the data lie in [-1, 1].
    """

    def __init__(self, shape: tuple[int, ...], latent_dim: int, width: int, classes: int = 0, bounded: bool = True):
        super().__init__()
        self.shape, self.bounded, self.condition = shape, bounded, Conditioned(classes)
        self.layers = nn.Sequential(
            nn.Linear(latent_dim + self.condition.size, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, math.prod(shape)),
        )

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """(N, L) and labels (N,) to (N, *shape)."""
        x = self.layers(self.condition(z, label)).view(len(z), *self.shape)
        return torch.tanh(x) if self.bounded else x


class PerceptronCritic(nn.Module):
    """Two hidden layers, of leaky rectified units in place of the maxout units of 2014.

    Args:
        shape: of one datum.
        width: hidden units.
        outputs: K.
        norm: "spectral" or "none".
        classes: number of labels, 0 for none.
    """

    def __init__(self, shape: tuple[int, ...], width: int, outputs: int = 1, norm: str = "none", classes: int = 0):
        super().__init__()
        if norm == "batch":
            raise DataError("A perceptron's critic has no batch normalization: critic_norm must be spectral or none.")
        self.first, self.second = nn.Linear(math.prod(shape), width), nn.Linear(width, width)
        self.head = Head(width, outputs, classes)
        normalized(self, norm)

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """(N, *shape) and labels (N,) to (N, K)."""
        h = F.leaky_relu(self.first(x.flatten(1)), 0.2)
        return self.head(F.leaky_relu(self.second(h), 0.2), label)
