"""Small training runs: data of a few patches, one call to fit, and checkpoints compared bit for bit."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from torch import Tensor

from zoo.autoregressive import PixelCNN
from zoo.callbacks.run import RunRecord, SaveLast
from zoo.data import Digits
from zoo.data.mnist import _IDX
from zoo.model import GenerativeModel

TRAINING, VALIDATION, TEST = 41, 7, 9
BATCH = 4  # 10 batches an epoch, one image left over


@contextlib.contextmanager
def sealed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Random numbers from a fixed seed; neither they nor that of `seed_everything` outlive a test.

    One thread: several wait for one another, and sum in another order than the processes that tests start.
    """
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


class Patches(_IDX):
    """Random grey patches of 4x4 pixels, binarized anew in every training batch."""

    title = "patches"
    shape = (1, 4, 4)

    def __init__(self, batch_size: int = BATCH, validation: int = VALIDATION, binarized: bool = True) -> None:
        super().__init__(batch_size=batch_size, validation=validation, eval_batch_size=3, binarized=binarized)

    def prepare_data(self) -> None:
        """Nothing to download."""

    def read(self, split: str) -> tuple[Tensor, Tensor]:
        n = TEST if split == "test" else TRAINING + VALIDATION
        generator = torch.Generator().manual_seed(n)
        images = torch.randint(0, 256, (n, *self.shape), generator=generator, dtype=torch.uint8)
        return images, torch.zeros(n, dtype=torch.int64)


class FewDigits(Digits):
    """The digits 0 to 4 alone."""

    def read(self, split: str) -> tuple[Tensor, Tensor]:
        images, labels = super().read(split)
        return images[labels < 5], labels[labels < 5]


class Hold(Callback):
    """Waits to be killed before the optimizer step that the environment's HOLD_AT names, if it names one."""

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if os.environ.get("HOLD_AT") == str(trainer.global_step):
            Path(trainer.default_root_dir, "held").touch()
            time.sleep(600)


class Stop(Callback):
    """Ends a run after an optimizer step, as `--trainer.max_time` does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.should_stop = True


def fit(
    folder: Path,
    *callbacks: Callback,
    model: GenerativeModel | None = None,
    data: LightningDataModule | None = None,
    ckpt_path: Path | None = None,
    seed: int = 5,
    **settings: Any,
) -> tuple[GenerativeModel, Trainer]:
    """Train, by default a PixelCNN with dropout on `Patches` for 25 steps; the last is in `last(folder)`."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    seed_everything(seed, verbose=False)
    model = model or patch_model()
    usual = {"max_epochs": -1, "max_steps": 25, "accelerator": "cpu", "devices": 1, "logger": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            default_root_dir=folder,
            callbacks=[RunRecord(), *callbacks, SaveLast()],
            **{**usual, **quiet, **settings},
        )
        trainer.fit(model, datamodule=data or Patches(), ckpt_path=ckpt_path, weights_only=True)
    return model, trainer


def patch_model(**arguments: Any) -> PixelCNN:
    """A PixelCNN for `Patches`; its weights are those of the seed that was set last."""
    usual = {"channels": 4, "blocks": 1, "dropout": 0.3, "lr": 0.02, "warmup": 3}
    return PixelCNN(shape=[1, 4, 4], levels=2, **{**usual, **arguments})


def last(folder: Path) -> dict[str, Any]:
    """What a run's last.ckpt holds."""
    return read(folder / "checkpoints" / "last.ckpt")


def read(path: Path) -> dict[str, Any]:
    """What a checkpoint file holds."""
    return torch.load(path, weights_only=True)


STATE = (
    "state_dict",
    "current_model_state",
    "averaging_state",
    "optimizer_states",
    "lr_schedulers",
    "global_step",
)


def differences(first: Any, second: Any, where: str = "") -> Iterator[str]:
    """Where the training states of two checkpoints differ in a bit; of whole checkpoints, only in `STATE`."""
    if not where:
        first, second = ({key: one.get(key) for key in STATE} for one in (first, second))
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first.dtype != second.dtype or not torch.equal(first, second):
            yield where
    elif isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        for key in first:
            yield from differences(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)) and len(first) == len(second):
        for i, (one, other) in enumerate(zip(first, second, strict=True)):
            yield from differences(one, other, f"{where}/{i}")
    elif first != second:
        yield f"{where}: {first} and {second}"
