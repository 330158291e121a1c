"""How weights are trained: the optimizer, its schedule, the clipping of gradients."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule

from zoo.arguments import real_of
from zoo.errors import DataError
from zoo.optim import Muon


class Optimization(LightningModule):
    """AdamW or Muon, with a linear warm-up and a cosine to zero at the last step of the run.

    The constructor keeps `lr`, `warmup` and `weight_decay`, and maybe `optimizer` and `hold`, as hyperparameters.
    """

    def check_rates(self) -> None:
        """Refuse hyperparameters that no optimizer takes, before the run.

        Raises:
            DataError: in one sentence, which.
        """
        for name in ("lr", "critic_lr", "weight_decay", "warmup"):
            if isinstance(value := self.hparams.get(name), (int, float)):  # somebody's own may be anything
                real_of(value, name, zero=True)
        for name in ("beta1", "beta2", "hold"):
            if isinstance(value := self.hparams.get(name), (int, float)) and real_of(value, name, zero=True) >= 1:
                raise DataError(f"{name} must be below 1, not {value}.")

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW or Muon, with a linear warm-up, then a cosine to zero at the last step of the run.

        The hyperparameter `optimizer` says which: "adamw", also where there is none, or "muon", which takes the weights
        of convolutions and linear layers, and leaves tables, norms and biases to AdamW (`zoo.optim.Muon`).
        """
        name, decay = self.hparams.get("optimizer", "adamw"), self.hparams.weight_decay
        if name not in ("adamw", "muon"):
            raise DataError(f"optimizer must be adamw or muon, not {name!r}.")
        trained = [p for p in self.parameters() if p.requires_grad]
        # Of the layers of torch.nn only an embedding has a weight that is a table.
        layers = (module for module in self.modules() if not isinstance(module, torch.nn.Embedding))
        weights = {id(getattr(layer, "weight", None)) for layer in layers} if name == "muon" else set()
        groups = [
            {"params": [p for p in trained if p.ndim > 1 and id(p) not in weights], "weight_decay": decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        kind = torch.optim.AdamW
        if name == "muon":
            orthogonal = [p for p in trained if p.ndim > 1 and id(p) in weights]
            groups, kind = [{"params": orthogonal, "weight_decay": decay, "orthogonal": True}, *groups], Muon
        return self.scheduled(kind(groups, lr=self.hparams.lr, betas=(0.9, 0.99), fused=self.device.type == "cuda"))

    def scheduled(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """An optimizer whose rate follows `schedule`, step by step."""
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def schedule(self, step: int) -> float:
        """The share of the learning rate at an optimizer step: a linear warm-up, then a cosine to zero at the last.

        Between the two it stays where it is for the share of the steps that the hyperparameter `hold` says, if any.
        """
        warmup, hold = self.hparams.warmup, self.hparams.get("hold", 0.0)
        if step < warmup:
            return (step + 1) / warmup
        # Read anew each step, for `TimeBudget` sets `max_steps` on the way.
        total = self.trainer.estimated_stepping_batches
        way = min(1.0, (step - warmup) / max(1, total - warmup))
        return 0.5 * (1 + math.cos(math.pi * max(0.0, way - hold) / (1 - hold)))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer says; also for fused optimizers in bfloat16, which Lightning refuses.

        Its reason, gradients scaled for float16, does not hold without a gradient scaler.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is None and gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
