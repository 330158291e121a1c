"""A game of two networks: a generator makes a distance small that a critic makes large, in turns.

Goodfellow et al. 2014 (arXiv 1406.2661). What the generator imitates is the family's business: data by what it makes of
latents (`zoo.adversarial`), images by translations of others, the prior of an autoencoder by codes, a target by a
chain's proposals. Here are the turns, the critic's loss with its penalty, both optimizers, and what stops a run.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics import MeanMetric

from zoo.batch import Batch
from zoo.errors import DataError
from zoo.metrics.objectives import Distance
from zoo.model.base import Model
from zoo.nn.devices import full_precision
from zoo.nn.levels import to_unit

ALIKE = 1e-4  # samples whose standard deviation is below this are all the same


class Game(Model):
    """A model whose network `net` is trained against a `critic`.

    A batch of data trains the critic, and every `critic_steps`-th batch the generator; or every batch trains the
    generator, and every `generator_steps`-th the critic. An optimizer step, as `max_steps` counts them, is one of the
    generator.

    A family calls this constructor and sets `spec`, `net`, all that the generator's optimizer trains, and `critic`, of
    what `real` and `fake` give and of labels (N,) or None to numbers (N, K); it keeps `lr`, `beta1`, `beta2` and, where
    it has them, `critic_lr` and `decay` as hyperparameters. One that is a distribution derives from
    `zoo.model.GenerativeModel` as well, after this class. It defines

    - `fake(real, batch)`: what the generator gives, as the critic sees it;

    and, where it differs from what is here,

    - `real(batch)`: what it is to be told from, by default the data, levels spread over [-1, 1];
    - `fake_labels(label)`: the labels that `fake` is given, by default those of the data;
    - `extra_loss(real, fake, batch)`: what the generator makes small as well;
    - `spread(fake)`: by how much samples differ, where not all that the critic sees is drawn;
    - `apart`, `compiled`, `captured`: how networks run.

    All see the whole `zoo.batch.Batch`, its labels only where the model has classes. A translator (pix2pix, arXiv
    1611.07004) joins condition and image in both `real` and `fake`, and has |x - G(condition)| for `extra_loss`. An
    autoencoder (WAE-GAN, arXiv 1711.01558) has draws of the prior for `real`, codes of the data for `fake`, and the
    error of reconstruction for `extra_loss`. What consists of several views is a list of tensors (N, ...), of which the
    critic takes all at once.

    Args:
        distance: what the critic makes large and the generator small.
        critic_steps: of the critic for one of the generator.
        generator_steps: of the generator for one of the critic; one of the two numbers must be 1.
        clip: the critic's weights are held in [-clip, clip]; 0 for no bound.
        penalty: factor of (slope - 1)^2, the slope being that of the critic's witness between data and samples
            (arXiv 1704.00028, equation 3); 0 for none.
    """

    net: nn.Module
    critic: nn.Module
    unused_parameters = True  # a pass is of one of the two networks

    def __init__(
        self,
        distance: Distance,
        *,
        critic_steps: int = 1,
        generator_steps: int = 1,
        clip: float = 0.0,
        penalty: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("critic_steps", critic_steps), ("generator_steps", generator_steps)):
            if value < 1:
                raise DataError(f"{name} must be at least 1, not {value}.")
        if min(critic_steps, generator_steps) > 1:
            raise DataError(
                f"Either critic_steps or generator_steps must be 1, not {critic_steps} and {generator_steps}."
            )
        for name, value in (("clip", clip), ("penalty", penalty)):
            if not 0 <= value < math.inf:
                raise DataError(f"{name} must be 0 or positive, not {value}.")
        self.automatic_optimization = False
        self.distance, self.clip, self.penalty = distance, clip, penalty
        self.critic_steps, self.generator_steps = critic_steps, generator_steps
        # Over items and not over batches, as those of a `GenerativeModel`.
        self.val_mean = MeanMetric(nan_strategy="disable")
        self.test_mean = MeanMetric(nan_strategy="disable")
        self._latest: dict[str, Tensor] = {}

    # -- what a family gives --------------------------------------------------------------------------------------

    def real(self, batch: Batch) -> Any:
        """What samples are to be told from, as the critic sees it: a tensor (N, ...), or a list of them."""
        return to_unit(batch.x, self.spec.levels)

    def fake(self, real: Any, batch: Batch) -> Any:
        """N samples as the critic sees them, in the form of `real`, which is what this batch's `real` gave."""
        raise NotImplementedError(f"{type(self).__name__} does not define fake().")

    def fake_labels(self, label: Tensor | None) -> Tensor | None:
        """The labels that samples are given in training, where data have some, (N,)."""
        return label

    def extra_loss(self, real: Any, fake: Any, batch: Batch) -> Tensor | None:
        """What the generator makes small beside the distance, a scalar; None for nothing."""
        return None

    def spread(self, fake: Any) -> Tensor:
        """By how much samples differ, a scalar: their largest standard deviation, of several views the least."""
        views = [fake] if isinstance(fake, Tensor) else fake
        if len(views[0]) < 2:  # one alone cannot be like others
            return torch.full((), math.inf, device=views[0].device, dtype=torch.float32)
        return torch.stack([view.detach().float().std(0).amax() for view in views]).amin()

    @property
    def apart(self) -> bool:
        """Whether the critic sees data and samples in passes of their own: where it has batch normalization, which
        would take both for one law.
        """
        return any(isinstance(module, _BatchNorm) for module in self.critic.modules())

    @property
    def compiled(self) -> tuple[str, ...]:
        """What `zoo.callbacks.Compile` compiles: the critic only where no gradient of its gradient is taken."""
        return ("net",) if self.penalty else ("net", "critic")

    @property
    def captured(self) -> tuple[str, ...]:
        """What `zoo.callbacks.CUDAGraphs` captures: both passes, whose many kernels are short."""
        return "critic_pass", "generator_pass"

    # -- turns ----------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse data that the model was not made for, and what manual optimization cannot do."""
        super().setup(stage)
        if stage == "fit" and getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise DataError("float16 would need a gradient scaler for each network: set precision to bf16-mixed or 32.")

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """A step of the critic, of the generator, or of both."""
        batch = self._taken(batch)
        self._check_size(batch, "training")
        before = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # batches
        # The generator's optimizer alone is Lightning's, which counts its steps.
        generator, critic = self.optimizers()[0], self.optimizers(use_pl_optimizer=False)[1]
        if before % self.generator_steps == 0:
            self._train_critic(critic, batch)
        if (before + 1) % self.critic_steps == 0:
            self._train_generator(generator, batch)
            for scheduler in self.lr_schedulers():
                scheduler.step()
        # Where somebody reads them: logged at each batch, they took a quarter of a small step's time.
        if self.trainer.is_last_batch or (before + 1) % self.trainer.log_every_n_steps == 0:
            self.log_dict(self._latest)

    def _taken(self, batch: Any) -> Batch:
        """What a loader gives, with all that the model is given."""
        batch = self.taken(batch)
        for name, needed in (("label", self.spec.classes), ("condition", self.spec.condition)):
            if needed and getattr(batch, name) is None:
                raise DataError(f"{type(self).__name__} is given the {name} of each datum, which this batch lacks.")
        return batch

    def _check_size(self, batch: Batch, what: str) -> None:
        """Refuse a batch so small that there is no distance."""
        if batch.size < self.distance.least:
            raise DataError(
                f"A {what} batch of {batch.size} has no distance {type(self.distance).__name__}, which is one between "
                f"pairs: let batches have at least {self.distance.least} items."
            )

    def _train_critic(self, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
        value, loss = self.critic_pass(*batch)
        self.watch_loss(loss)
        optimizer.step()
        if self.clip:
            with torch.no_grad():
                for parameter in self.critic.parameters():
                    parameter.clamp_(-self.clip, self.clip)
        self._latest["train_distance"] = value

    def _train_generator(self, optimizer: LightningOptimizer, batch: Batch) -> None:
        loss, spread = self.generator_pass(*batch)
        self.watch_loss(loss)
        self.watch(
            spread > ALIKE,
            f"All samples of optimizer step {self.trainer.global_step + 1} are alike, the generator has collapsed: "
            f"{self.remedy}, and start again.",
        )
        optimizer.step()
        self._latest["train_generator"] = loss

    @property
    def remedy(self) -> str:
        """Lower rates, and what holds the critic, of what the family takes."""
        norm, holds = self.hparams.get("critic_norm"), []
        if "penalty" in self.hparams and norm != "batch":  # which a penalty does not go with
            holds.append("a larger penalty" if self.penalty else "penalty: 10")
        if norm in ("batch", "none"):
            holds.append("critic_norm: spectral")
        return "lower the learning rates" + (f" or hold the critic ({', '.join(holds)})" if holds else "")

    # -- passes: of the parts of a batch, for only tensors are captured -------------------------------------------

    def critic_pass(
        self, x: Any, label: Tensor | None = None, condition: Any = None, index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The critic's gradients of the parts of a batch: the distance and the loss, scalars."""
        real, asked = self._both(Batch(x, label, condition, index))
        with torch.no_grad():
            fake = self.fake(real, asked)
        outputs = self._judged(real, fake, label, asked.label)
        with full_precision(self.device):
            value = self.distance.value(*outputs)
        loss = -value
        if self.penalty:
            loss = loss + self.penalty * self.gradient_penalty(real, fake, label, *outputs)
        self.critic.zero_grad()
        self.manual_backward(loss)
        return value.detach(), loss.detach()

    def generator_pass(
        self, x: Any, label: Tensor | None = None, condition: Any = None, index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The generator's gradients of the parts of a batch: the loss and the `spread` of samples, scalars."""
        self.critic.requires_grad_(False)  # whose gradients would cost as much again
        try:
            return self._generator_pass(Batch(x, label, condition, index))
        finally:  # also after an interrupt: it is to learn on
            self.critic.requires_grad_(True)

    def _generator_pass(self, batch: Batch) -> tuple[Tensor, Tensor]:
        real, asked = self._both(batch)
        fake = self.fake(real, asked)
        of_real = None
        if self.distance.paired:
            with torch.no_grad():
                of_real = self.critic(real, batch.label).float()
        of_fake = self.critic(fake, asked.label).float()
        with full_precision(self.device):
            loss = self.distance.generator_loss(of_real, of_fake)
        extra = self.extra_loss(real, fake, asked)
        if extra is not None:
            loss = loss + extra
        self.net.zero_grad()
        self.manual_backward(loss)
        # Samples that are alike are as they should be where the data are.
        spread = self.spread(fake)
        return loss.detach(), torch.where(self.spread(real) > ALIKE, spread, math.inf)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Without a look at the loss, which a recorded pass cannot take; the step looks at it."""
        loss.backward(*args, **kwargs)

    def gradient_penalty(self, real: Any, fake: Any, label: Tensor | None, of_real: Tensor, of_fake: Tensor) -> Tensor:
        """The mean of (|grad f| - 1)^2 on straight lines between data and samples, of the critic's witness f.

        In float32: it is a gradient of a gradient. Of several views the gradient is that in all of them.
        """
        pairs = [(real, fake)] if isinstance(real, Tensor) else list(zip(real, fake, strict=True))
        share = torch.rand(len(of_real), device=of_real.device, dtype=torch.float32)
        between = [x.float().lerp(y.float(), share.view(-1, *[1] * (x.ndim - 1))).requires_grad_() for x, y in pairs]
        with torch.autocast(self.device.type, enabled=False):
            at = self.critic(between[0] if isinstance(real, Tensor) else between, label).float()
            with full_precision(self.device):
                witness = self.distance.witness(at, of_real, of_fake)
            slopes = torch.autograd.grad(witness.sum(), between, create_graph=True)
            slope = torch.cat([each.flatten(1) for each in slopes], 1)
            return (slope.norm(dim=1) - 1).square().mean()

    def _both(self, batch: Batch) -> tuple[Any, Batch]:
        """The data as the critic sees them, and the batch as samples are given it."""
        return self.real(batch), batch._replace(label=self.fake_labels(batch.label))

    def _judged(self, real: Any, fake: Any, label: Tensor | None, other: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the critic gives to data and to samples, float32 (N, K) each."""
        if self.apart:
            return self.critic(real, label).float(), self.critic(fake, other).float()
        # Together, where they are nothing to each other: one pass of twice the size is the faster one.
        labels = None if label is None else torch.cat([label, other])
        if isinstance(real, Tensor):
            both = torch.cat([real, fake.to(real)])
        else:
            both = [torch.cat([part, other_part.to(part)]) for part, other_part in zip(real, fake, strict=True)]
        return self.critic(both, labels).float().chunk(2)

    # -- evaluation -----------------------------------------------------------------------------------------------

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the distance of the validation split, as the critic sees it."""
        self._distance_step("val", self.val_mean, self._taken(batch), batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the distance of the test split, as the critic sees it."""
        self._distance_step("test", self.test_mean, self._taken(batch), batch_idx)

    def _distance_step(self, split: str, mean: MeanMetric, batch: Batch, batch_idx: int) -> None:
        if batch_idx and batch.size < self.distance.least:
            return  # what is left over at the end
        self._check_size(batch, {"val": "validation"}.get(split, split))
        torch.manual_seed(batch_idx)  # the same samples each time; the noise of training has its seed after this
        real = self.real(batch)
        outputs = self._judged(real, self.fake(real, batch), batch.label, batch.label)
        with full_precision(self.device):
            # Once for each datum, for torchmetrics forgets weights where it lets NaN be.
            mean.update(self.distance.value(*outputs).expand(batch.size))
        self.log(f"{split}_distance", mean, prog_bar=True)

    # -- optimizers -----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> list[dict[str, Any]]:
        """Adam for the generator and for the critic; the rates are constant, or fall linearly to zero."""
        given, fused = self.hparams, self.device.type == "cuda"
        rates = (self.net, given.lr), (self.critic, given.get("critic_lr") or given.lr)
        return [
            self.scheduled(torch.optim.Adam(network.parameters(), lr, (given.beta1, given.beta2), fused=fused))
            for network, lr in rates
        ]

    def schedule(self, step: int) -> float:
        """The share of the rates at a step of the generator."""
        if not self.hparams.get("decay"):
            return 1.0
        # Where epochs end the run, batches were counted and not steps.
        steps = self.trainer.max_steps
        total = steps if steps > 0 else self.trainer.estimated_stepping_batches / self.critic_steps
        return max(0.0, 1 - step / total)
