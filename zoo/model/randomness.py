"""Random numbers: the noise of training, which a resumed run draws again."""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning.pytorch import LightningModule


class Randomness(LightningModule):
    """The noise of a training batch (dropout, binarization, flips) as a function of the seed, the rank and the number
    of batches before it.

    A run resumed anywhere therefore draws what the uninterrupted one would have drawn, without random states in the
    checkpoint, which holds those of one rank only.
    """

    def on_train_start(self) -> None:
        """Seed the noise of the first batch."""
        self._seed_batch(self.trainer.fit_loop.epoch_loop.batch_progress.total.processed)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Seed the noise of the next batch."""
        self._seed_batch(self.trainer.fit_loop.epoch_loop.batch_progress.total.processed)

    def on_validation_end(self) -> None:
        """Seed the noise of the next batch again: validation may have drawn some."""
        if self.trainer.state.fn == "fit":
            self._seed_batch(self.trainer.fit_loop.epoch_loop.batch_progress.total.processed)

    def _seed_batch(self, batches: int) -> None:
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        # Three large odd constants spread (seed, rank, batches) over 63 bits, so that no two runs share a stream.
        mixed = (seed + 1) * 0x9E3779B97F4A7C15 + self.global_rank * 0xC2B2AE3D27D4EB4F + batches * 0x165667B19E3779F9
        mixed %= 2**63
        # Not `torch.manual_seed`, which looks for every kind of device there is.
        torch.default_generator.manual_seed(mixed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(mixed)
