"""Two diffusions that need no training: their denoisers know all of the few data they draw."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.data import Digits, Points
from zoo.diffusion.gaussian import GaussianDiffusion
from zoo.diffusion.predictions import datum
from zoo.diffusion.schedules import Cosine, alpha_sigma
from zoo.spec import DataSpec


class Known(nn.Module):
    """E[x | z] of data that are as likely as each other: their mean, weighted by how near alpha x is to z."""

    def __init__(self, x: Tensor, classes: int, labels: Tensor) -> None:
        super().__init__()
        self.x, self.classes = nn.Parameter(x), classes
        self.register_buffer("labels", labels)

    def forward(self, z: Tensor, log_snr: Tensor, label: Tensor | None) -> Tensor:
        alpha, sigma = (each[:, None] for each in alpha_sigma(log_snr))
        x, z_flat = self.x.flatten(1), z.flatten(1)
        nearness = -(z_flat[:, None] - alpha[:, :, None] * x).square().sum(2) / (2 * sigma**2)
        if label is not None:
            other = (label[:, None] != self.labels) & (label[:, None] < self.classes)
            nearness = nearness.masked_fill(other, -torch.inf)
        return (nearness.softmax(1) @ x).view_as(z)


class KnownPoints(GaussianDiffusion):
    """Points of a roll."""

    def __init__(self, points: int = 100, sampler: str = "ancestral") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec, self.deviation, self.steps, self.sampler = DataSpec((2,), None), 1.4, 12, sampler
        data = Points("swiss_roll", train=points)
        data.setup("fit")
        x = self.scaled(data.train[0][:points])
        self.net, self.prediction = Known(x, 0, torch.zeros(len(x), dtype=torch.int64)), datum
        self.noise_schedule = Cosine(9.0, -9.0)


class KnownDigits(GaussianDiffusion):
    """Digits with their classes."""

    def __init__(self, images: int = 40, classes: int = 10) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec, self.steps = DataSpec((1, 8, 8), 17, classes), 12
        data = Digits()
        data.setup("fit")
        x, labels = data.train[0][:images], data.train[1][:images]
        self.net, self.prediction = Known(self.scaled(x), classes, labels), datum
        self.noise_schedule = Cosine(9.0, -9.0)
        self.label_dropout = 0.1 if classes else 0.0


DATA: dict[type[GaussianDiffusion], dict[str, Any]] = {
    KnownPoints: {"class_path": "zoo.data.Points", "init_args": {"name": "swiss_roll", "train": 100, "test": 300}},
    KnownDigits: {"class_path": "zoo.data.Digits", "init_args": {}},
}
