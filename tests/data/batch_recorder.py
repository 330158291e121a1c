"""A data set of numbered items and a model that writes down which ones it is given."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torchmetrics import MeanMetric

from zoo.data import ImageData

TRAINING, VALIDATION, TEST = 41, 5, 5


class Numbers(ImageData):
    """Image i is one pixel of value i and has label i."""

    title = "numbers"
    shape = (1, 1, 1)

    def read(self, split: str):
        numbers = torch.arange(TEST if split == "test" else TRAINING + VALIDATION)
        return numbers.to(torch.uint8).view(-1, 1, 1, 1), numbers


class Recorder(LightningModule):
    """Records (epoch, batch index, labels) of each training batch; its weight depends on all of them."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.mean = MeanMetric()
        self.seen: list[list[Any]] = []
        self.fail_at = fail_at

    def training_step(self, batch, batch_idx):
        if len(self.seen) == self.fail_at:
            raise OutOfLuck
        images, labels = batch.x, batch.label
        assert images.flatten().tolist() == labels.tolist()
        assert torch.equal(self.trainer.datamodule.train.x[batch.index], images)
        self.seen.append([self.trainer.current_epoch, batch_idx, labels.tolist()])
        return (torch.sin(self.weight + labels / 7)).mean()

    def validation_step(self, batch, batch_idx):
        # Not self.log(name, value, batch_size=..., sync_dist=True): over ranks with unequally many items,
        # Lightning 2.6 rounds their mean number down to a whole one, and the result is wrong.
        assert torch.equal(self.trainer.datamodule.val.x[batch.index], batch.x)
        self.mean.update(batch.label.float())
        self.log("val", self.mean)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class OutOfLuck(Exception):
    """Raised by a `Recorder` told to fail."""


def fit(
    folder: Path,
    *callbacks: Callback,
    ckpt_path: Path | None = None,
    fail_at: int | None = None,
    batch_size: int = 4,
    **trainer: Any,
) -> tuple[Recorder, Trainer]:
    """Train a `Recorder` on `Numbers`, by default for 3 epochs of 10 batches, and return both."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    settings = {"max_epochs": 3, "accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0} | trainer
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    if not callbacks:
        quiet["enable_checkpointing"] = False
    model = Recorder(fail_at)
    data = Numbers(batch_size=batch_size, validation=VALIDATION, eval_batch_size=2, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(default_root_dir=folder, callbacks=list(callbacks), **quiet, **settings)
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return model, trainer
