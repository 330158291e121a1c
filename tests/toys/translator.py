"""A toy of a translator: a map from one image to another, which is no distribution."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.batch import Batch, as_batch
from zoo.data.tensors import TensorData
from zoo.model import Measurement, Model
from zoo.results import Metric, Result
from zoo.spec import DataSpec

SHAPE = (1, 4, 4)
SIMILARITY = Metric("similarity", "similarity", 4, higher_is_better=True)


class Mirrored(TensorData):
    """Pictures, given their negatives."""

    title: ClassVar[str] = "mirrored"

    @property
    def spec(self) -> DataSpec:
        return DataSpec(SHAPE, 256, condition=DataSpec(SHAPE, 256))

    @property
    def protocol(self) -> str:
        return "drawn with a fixed seed"

    def read(self, split: str) -> Batch:
        n = 40 if split == "test" else 120
        images = torch.randint(256, (n, *SHAPE), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)
        return Batch(images, condition=255 - images)


class Translator(Model):
    """A linear map of each pixel."""

    def __init__(self, lr: float = 0.1, warmup: int = 2, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec = DataSpec(SHAPE, 256, condition=DataSpec(SHAPE, 256))
        self.slope, self.shift = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    @property
    def monitor(self) -> Metric:
        return SIMILARITY

    def translate(self, condition: Tensor) -> Tensor:
        """The pictures of conditions, uint8 (N, C, H, W)."""
        condition = self.check(condition, "condition", self.spec.condition)
        return (self(condition) * 255).round().clamp(0, 255).to(torch.uint8)

    def forward(self, condition: Tensor) -> Tensor:
        return condition / 255 * self.slope + self.shift

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        batch = as_batch(batch)
        return (self(batch.condition) - batch.x / 255).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        batch = as_batch(batch)
        distance = (self(batch.condition) - batch.x / 255).abs().mean()
        self.log("val_similarity", 1 - distance, batch_size=batch.size)

    def measurements(self) -> list[Measurement]:
        return [Similarity(self)]


class Similarity(Measurement):
    """One less the mean difference of translations and pictures."""

    metrics = (SIMILARITY,)

    def __init__(self, model: Translator) -> None:
        self.model, self.found = model, []

    def update(self, batch: Batch) -> None:
        made = self.model.translate(batch.condition)
        self.found.append((made.float() - batch.x.float()).abs().flatten(1).mean(1) / 255)

    def compute(self) -> list[Result]:
        each = 1 - torch.cat(self.found)
        error = each.std().item() / len(each) ** 0.5
        return [Result(SIMILARITY, "exact", each.mean().item(), standard_error=error, protocol="mean over pixels")]


def toy(**data: Any) -> tuple[Model, TensorData]:
    return Translator(), Mirrored(**data)


def check(model: Translator) -> None:
    """What is no distribution says so."""
    assert not hasattr(model, "sample")
    assert not hasattr(model, "log_prob")
    assert model.translate(torch.zeros(2, *SHAPE, dtype=torch.uint8)).shape == (2, *SHAPE)


METRICS = {"similarity": "exact"}
