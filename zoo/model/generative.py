"""The contract of a model that is a distribution: samples, and for most families a likelihood."""

from __future__ import annotations

import contextlib
import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import MeanMetric

from zoo.errors import CheckpointError, DataError, TrainingError
from zoo.model.measurement import Measurement
from zoo.optim import Muon
from zoo.spec import DataSpec


class GenerativeModel(LightningModule):
    """A distribution over data that can be sampled, and for most families evaluated.

    Public tensors are data: images are uint8 (N, C, H, W) with values 0..levels-1, points and tables float32 (N, D),
    tokens int64 (N, T). A family defines `sample`, and of the two below what it can do, and nothing it cannot:

    - `log_prob(x)`: (N,) nats, only where it is exact;
    - `elbo(x, *, samples=1, seed=None)`: (N,) nats, a lower bound on log p(x).

    A family whose loss is its likelihood or its bound inherits the training and validation steps here; its constructor
    keeps `lr`, `warmup` and `weight_decay` as hyperparameters for the optimizer here.
    """

    spec: DataSpec
    protocol: str = ""  # how its numbers are taken, beside the data's protocol; for the card

    def __init__(self) -> None:
        super().__init__()
        # Over items and not over batches: ranks and last batches may differ in size. NaN shows as NaN.
        self.val_mean = MeanMetric(nan_strategy="disable")
        self.test_mean = MeanMetric(nan_strategy="disable")
        self._watched: deque[tuple[Tensor, torch.cuda.Event | None, str]] = deque()  # not yet looked at

    def sample(self, n: int, *, seed: int | None = None, **conditions: Any) -> Tensor:
        """Draw `n` data, (n, *spec.shape).

        A seed gives the same samples each time and leaves the global random state as it was.
        """
        raise TypeError(f"{type(self).__name__} does not define sample().")

    # -- likelihood -----------------------------------------------------------------------------------------------

    @property
    def likelihood(self) -> str | None:
        """ "exact" where there is `log_prob`, "bound" where there is only `elbo`, None where there is neither."""
        return "exact" if hasattr(self, "log_prob") else "bound" if hasattr(self, "elbo") else None

    @property
    def metric(self) -> str:
        """The unit in which this model's likelihood is reported: "nats" for binary and continuous data, else
        "bits_per_dim".
        """
        return "nats" if self.spec.levels in (2, None) else "bits_per_dim"

    def bits_per_dim(self, x: Tensor, **conditions: Any) -> Tensor:
        """(N,) bits/dim, -log2 p(x) / D: exact or an upper bound, as `likelihood` says.

        Of a bound the conditions are those of `elbo`: `samples=8, seed=0` for more draws than one, always the same.
        """
        return self.negative_log_likelihood(x, **conditions) / (self.spec.dims * math.log(2))

    def negative_log_likelihood(self, x: Tensor, **conditions: Any) -> Tensor:
        """(N,) nats, -log p(x): exact or an upper bound, as `likelihood` says."""
        if self.likelihood is None:
            raise TypeError(f"{type(self).__name__} has no likelihood.")
        return -(self.log_prob if self.likelihood == "exact" else self.elbo)(x, **conditions)

    def measurements(self) -> list[Measurement]:
        """What `zoo.evaluate` measures of this model beside its likelihood; new ones in each call."""
        return []

    # -- training -------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse data that the model was not made for, before any compute: another shape, levels or labels."""
        data = getattr(self._trainer, "datamodule", None)
        spec = getattr(data, "spec", None)
        if spec is not None and (spec.shape, spec.levels) != (self.spec.shape, self.spec.levels):
            raise DataError(
                f"{type(data).__name__} gives data of shape {list(spec.shape)} with {spec.levels} levels, but the "
                f"model takes shape {list(self.spec.shape)} with {self.spec.levels} levels: set "
                f"model.init_args.shape and model.init_args.levels to the data's."
            )
        if stage == "fit" and self.spec.classes and spec is not None and spec.classes != self.spec.classes:
            raise DataError(
                f"{type(data).__name__} has {spec.classes} classes, but the model is conditioned on "
                f"{self.spec.classes}: set model.init_args.classes to the data's, or to 0 for an unconditional model."
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a run's checkpoint whose weights are not this model's."""
        own, given = self.state_dict(), checkpoint["state_dict"]
        for key in {**own, **given}:
            if key not in own or key not in given or own[key].shape != given[key].shape:
                raise CheckpointError(
                    f"The run's checkpoint does not fit the model, first in {key}: give the model the arguments "
                    f"that the run was started with, or start another run."
                )

    def loss(self, x: Tensor, **conditions: Any) -> Tensor:
        """(N,) the number to minimize and to report, in the unit that `metric` names."""
        return (self.negative_log_likelihood if self.metric == "nats" else self.bits_per_dim)(x, **conditions)

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Mean loss of a batch (x, labels)."""
        loss = self.loss(batch[0]).mean()
        self.log(f"train_{self.metric}", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """Log the mean over the validation split."""
        self._evaluation_step("val", self.val_mean, batch)

    def test_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """Log the mean over the test split."""
        self._evaluation_step("test", self.test_mean, batch)

    def _evaluation_step(self, split: str, mean: MeanMetric, batch: tuple[Tensor, ...]) -> None:
        mean.update(self.loss(batch[0]))
        self.log(f"{split}_{self.metric}", mean, prog_bar=True)

    def predict_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """(N,) the loss of each datum of the batch."""
        return self.loss(batch[0])

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
        """The share of the learning rate at an optimizer step: a linear warm-up, then a cosine to zero at the last."""
        warmup = self.hparams.warmup
        if step < warmup:
            return (step + 1) / warmup
        # Read anew each step, for `TimeBudget` sets `max_steps` on the way.
        total = self.trainer.estimated_stepping_batches
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))

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

    # -- what stops a run -----------------------------------------------------------------------------------------

    def on_before_batch_transfer(self, batch: tuple[Tensor, ...], dataloader_idx: int) -> tuple[Tensor, ...]:
        """Refuse NaN in a training batch, while it is on the CPU, where looking at it waits for nothing."""
        if self.training and batch[0].is_floating_point():
            self.spec.check(batch[0], "a training batch", values=batch[0].device.type == "cpu")
        return batch

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Stop where the loss is not finite."""
        self.watch_loss(loss)
        super().backward(loss, *args, **kwargs)

    def watch_loss(self, loss: Tensor) -> None:
        """Stop the run where a loss is not finite."""
        self.watch(
            torch.isfinite(loss.detach()),
            f"The loss of optimizer step {self.trainer.global_step + 1} is not finite: lower the learning rate or clip "
            f"gradients (--trainer.gradient_clip_val 1), and start again or from the run's last checkpoint.",
        )

    def watch(self, good: Tensor, complaint: str) -> None:
        """Stop the run with a `TrainingError` of these words where `good`, a boolean scalar, is false.

        On a CPU at once, before the weights are touched; on a GPU a step or two later, since reading it at once would
        make each step wait. Nothing is saved before it was looked at.
        """
        event = None
        if good.is_cuda:
            good = good.to("cpu", non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._watched.append((good, event, complaint))
        while self._watched and (self._watched[0][1] is None or self._watched[0][1].query()):
            self._look()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save no weights that a loss without a value may have harmed."""
        while self._watched:
            self._look()

    def _look(self) -> None:
        good, event, complaint = self._watched.popleft()
        if event is not None:
            event.synchronize()
        if not good:
            self._watched.clear()
            raise TrainingError(complaint)

    def settle(self) -> None:
        """Compute what is to be computed anew of averaged weights before they are published."""

    @property
    def compiled(self) -> tuple[str, ...]:
        """The attributes that are the model's inner networks, which `zoo.callbacks.Compile` compiles."""
        return ("net",)

    @property
    def captured(self) -> tuple[str, ...]:
        """The methods, of a batch to its gradients, that `zoo.callbacks.CUDAGraphs` captures."""
        return ()

    # -- randomness -----------------------------------------------------------------------------------------------
    # The noise of a training batch (dropout, binarization, flips) is a function of the seed, the rank and the number of
    # batches before it. A run resumed anywhere therefore draws what the uninterrupted one would have drawn, without
    # random states in the checkpoint, which holds those of one rank only.

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

    # -- drawing --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def drawing(self, cached: bool) -> Iterator[None]:
        """Evaluation mode while data are drawn and, for `cached` steps on a CPU, one thread; both are put back after.

        Such steps are small operations, some hundred thousand: a second thread gains little, and where the cores are
        busy it costs ten times as much as the work.
        """
        # One walk through the modules, not the two of `eval` and `train`, which take as long as drawing points does.
        training, threads = [module for module in self.modules() if module.training], torch.get_num_threads()
        for module in training:
            module.training = False
        if cached and self.device.type == "cpu":
            torch.set_num_threads(1)
        try:
            yield
        finally:
            for module in training:
                module.training = True
            torch.set_num_threads(threads)

    @staticmethod
    def check_image_shape(shape: Sequence[int]) -> None:
        """Refuse a shape that is not one of images."""
        if len(shape) != 3 or min(shape) < 1:
            raise DataError(f"shape must be (C, H, W) of positive sizes, not {list(shape)}.")

    @staticmethod
    def check_count(n: int) -> None:
        """Refuse to draw fewer than one."""
        if n < 1:
            raise DataError(f"n must be at least 1, not {n}.")

    @staticmethod
    def check_latents(z: Tensor, size: int) -> None:
        """Refuse what are not latents of so many components, floating point (N, size)."""
        if not isinstance(z, Tensor) or not z.is_floating_point() or z.shape[1:] != (size,):
            given = f"{z.dtype} {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
            raise DataError(f"z must be latents, floating point (N, {size}), not {given}.")

    def check_known(self, x: Tensor, known: Tensor) -> Tensor:
        """`known`, boolean, in the shape of the data `x`; refuses what does not fit."""
        self.spec.check(x)
        if not isinstance(known, Tensor) or known.dtype != torch.bool:
            raise DataError(f"known must be a boolean tensor, not {getattr(known, 'dtype', type(known).__name__)}.")
        try:
            return known.broadcast_to(x.shape)
        except RuntimeError:
            raise DataError(
                f"known has shape {tuple(known.shape)}, which does not broadcast to {tuple(x.shape)}."
            ) from None

    def labels(self, label: int | Sequence[int] | Tensor | None, n: int, values: bool = True) -> Tensor | None:
        """The labels of `n` data, int64 (n,) on the model's device, or None where none are given.

        Looking at the values of a tensor waits for the GPU; `values=False` looks at shape and dtype alone.
        """
        classes = self.spec.classes
        if label is None:
            return None
        if not classes:
            raise DataError("The model was made without classes: leave out the label.")
        try:
            given = torch.as_tensor(label)
        except (TypeError, ValueError, RuntimeError):
            kind = type(label).__name__
            raise DataError(f"label must be an integer, or {n} integers 0..{classes - 1}, not {kind}.") from None
        if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
            raise DataError(f"label must be of integers 0..{classes - 1}, not of {given.dtype}.")
        if given.shape not in ((), (n,)):
            raise DataError(f"label has shape {tuple(given.shape)}; give one integer, or {n} for {n} images.")
        if values and given.numel() and (int(given.min()) < 0 or int(given.max()) >= classes):
            span = f"{int(given.min())}..{int(given.max())}" if given.ndim else f"{int(given)}"
            raise DataError(f"label is {span}; this model takes 0..{classes - 1}.")
        return given.to(self.device, torch.int64).expand(n)

    @staticmethod
    def generator(seed: int | None) -> torch.Generator:
        """A private generator on the CPU, so that a seed means the same on every device."""
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        return generator
