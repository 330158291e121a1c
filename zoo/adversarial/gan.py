"""Generative adversarial networks: a generator that makes a distance small, and a critic that makes it large.

Goodfellow et al. 2014 (arXiv 1406.2661): latents z go through a network G, whose samples have the law Q of G(z), and
there is no density. A second network, the critic, measures how far Q is from the law P of the data; both are trained in
turns, the critic to tell better, the generator to be told apart less. Which distance it is, and so which of the papers,
`distance` says (`zoo.metrics.objectives`), and what holds the critic in the set over which it is a supremum:

    GAN         jensen_shannon                          arXiv 1406.2661; `saturating` for its equation 1
    f-GAN       any other f-divergence                  arXiv 1606.00709
    WGAN        wasserstein, clip 0.01                  arXiv 1701.07875
    WGAN-GP     wasserstein, penalty 10                 arXiv 1704.00028
    Cramer GAN  energy, penalty 10                      arXiv 1705.10743
    MMD-GAN     mmd, penalty 1                          arXiv 1801.01401
    Sinkhorn    sinkhorn, penalty 1                     arXiv 1706.00292
    OT-GAN      mini_batch_energy, penalty 1            arXiv 1803.05573, where it is generator_steps 3
    SNGAN       hinge, critic_norm spectral             arXiv 1802.05957
    BigGAN      the same with classes                   arXiv 1809.11096

Departures: the optimizer is Adam for all; a critic's batches of data and samples are equally large.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torchmetrics import MeanMetric

from zoo.adversarial.dcgan import DCGANCritic, DCGANGenerator
from zoo.adversarial.networks import NORMS, PerceptronCritic, PerceptronGenerator
from zoo.adversarial.resnet import ResNetCritic, ResNetGenerator
from zoo.batch import Batch, as_batch
from zoo.errors import DataError
from zoo.metrics.objectives import distance as distance_of
from zoo.metrics.points import check_positive
from zoo.model import GenerativeModel
from zoo.model.latents import check_latents
from zoo.nn.devices import full_precision
from zoo.spec import DataSpec, check_count, check_image_shape

NETWORKS = ("mlp", "dcgan", "resnet")
CHUNK = 500  # data drawn at once
ALIKE = 1e-4  # samples whose standard deviation is below this are all the same


class GAN(GenerativeModel):
    """A generator and a critic, trained in turns.

    A batch of data trains the critic, and every `critic_steps`-th batch the generator; or every batch trains the
    generator, and every `generator_steps`-th the critic. An optimizer step, as `max_steps` counts them, is one of the
    generator.

    Args:
        shape: of one datum: (C, H, W) of images, or (2,) of points.
        levels: number of values of a sub-pixel; None for continuous data.
        classes: number of labels to condition on, those of the data; 0 for an unconditional model.
        network: "mlp" (2014), "dcgan" (arXiv 1511.06434) or "resnet" (arXiv 1802.05957, with classes 1809.11096).
        latent_dim: components of a latent, of a normal distribution.
        channels: of the generator's hidden images, of "dcgan" those of the largest; hidden units of "mlp".
        critic_channels: the same of the critic; by default those of the generator.
        critic_norm: "batch", "spectral" or "none".
        distance: one of `zoo.metrics.objectives.NAMES`.
        options: arguments of the distance's class, for example {saturating: true} or {epsilon: 0.1}.
        features: numbers that the critic gives, where the distance is one of features.
        clip: the critic's weights are held in [-clip, clip]; 0 for no bound.
        penalty: factor of (slope - 1)^2, the slope being that of the critic's witness between data and samples
            (arXiv 1704.00028, equation 3); 0 for none.
        critic_steps: of the critic for one of the generator.
        generator_steps: of the generator for one of the critic; one of the two numbers must be 1.
        lr: learning rate of the generator.
        critic_lr: of the critic; by default the same.
        beta1, beta2: of Adam.
        decay: whether both learning rates fall linearly to zero over the run.

    Example:
        >>> model = GAN(shape=[1, 8, 8], levels=17, network="dcgan", channels=16)
        >>> x = model.sample(4, seed=0)           # uint8 (4, 1, 8, 8)
        >>> z = model.latents(2, seed=0)          # float32 (2, 128)
        >>> model.decode(z.mean(0, keepdim=True)) # the image halfway, uint8 (1, 1, 8, 8)
    """

    def __init__(
        self,
        shape: list[int],
        levels: int | None = 256,
        classes: int = 0,
        network: str = "dcgan",
        latent_dim: int = 128,
        channels: int = 64,
        critic_channels: int | None = None,
        critic_norm: str = "none",
        distance: str = "jensen_shannon",
        options: dict[str, Any] | None = None,
        features: int = 1,
        clip: float = 0.0,
        penalty: float = 0.0,
        critic_steps: int = 1,
        generator_steps: int = 1,
        lr: float = 2e-4,
        critic_lr: float | None = None,
        beta1: float = 0.5,
        beta2: float = 0.999,
        decay: bool = False,
    ) -> None:
        super().__init__()
        self.distance = distance_of(distance, options)
        counts = {
            "latent_dim": latent_dim,
            "channels": channels,
            "critic_channels": critic_channels,
            "features": features,
        }
        for name, value in {**counts, "critic_steps": critic_steps, "generator_steps": generator_steps}.items():
            if value is not None and value < 1:
                raise DataError(f"{name} must be at least 1, not {value}.")
        for name, value in (("clip", clip), ("penalty", penalty)):
            if not 0 <= value < math.inf:
                raise DataError(f"{name} must be 0 or positive, not {value}.")
        for name, value, known in (("network", network, NETWORKS), ("critic_norm", critic_norm, NORMS)):
            if value not in known:
                raise DataError(f"{name} must be one of {', '.join(known)}, not {value!r}.")
        if min(critic_steps, generator_steps) > 1:
            raise DataError(
                f"Either critic_steps or generator_steps must be 1, not {critic_steps} and {generator_steps}."
            )
        if not self.distance.features and features != 1:
            raise DataError(f"The distance {distance} takes one number of a critic: features must be 1.")
        if self.distance.features and features == 1:
            raise DataError(f"The distance {distance} is one of features: set features to more than 1, such as 256.")
        if classes < 0 or classes == 1:
            raise DataError(f"classes must be 0 or the number of labels, not {classes}.")
        if levels is not None and not 2 <= levels <= 256:
            raise DataError(f"levels must be 2..256, or null for continuous data, not {levels}.")
        if network != "mlp":
            check_image_shape(shape)
            if levels is None:
                raise DataError(f"The network {network} is one of images, which have levels: set network to mlp.")
        if penalty and critic_norm == "batch":
            raise DataError("A penalty on the slope at one image needs critic_norm spectral or none, not batch.")
        # Those of the class itself, which may leave out some of these.
        self.save_hyperparameters(*inspect.signature(type(self)).parameters)
        self.automatic_optimization = False
        self.clip, self.penalty, self.critic_norm = clip, penalty, critic_norm
        self.critic_steps, self.generator_steps = critic_steps, generator_steps
        self.spec = DataSpec(tuple(shape), levels, classes)
        self.net, self.critic = self.networks()
        self._latest: dict[str, Tensor] = {}

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """The generator and the critic that the arguments ask for."""
        given, shape, classes = self.hparams, self.spec.shape, self.spec.classes
        ends = given.critic_channels or given.channels, given.features, given.critic_norm, classes
        if given.network == "mlp":
            bounded = self.spec.levels is not None
            generator = PerceptronGenerator(shape, given.latent_dim, given.channels, classes, bounded)
            return generator, PerceptronCritic(shape, *ends)
        kinds = {"dcgan": (DCGANGenerator, DCGANCritic), "resnet": (ResNetGenerator, ResNetCritic)}
        generator, critic = kinds[given.network]
        return generator(shape, given.latent_dim, given.channels, classes), critic(shape, *ends)

    # -- samples --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        seed: int | None = None,
        label: int | Sequence[int] | Tensor | None = None,
        truncation: float | None = None,
    ) -> Tensor:
        """Draw `n` data: images uint8 (n, C, H, W), points float32 (n, 2).

        Args:
            n: number of data.
            seed: the same seed gives the same data, and leaves the global random state as it was.
            label: an integer, or n of them; without, a conditional model draws one for each.
            truncation: latents beyond this are drawn again (arXiv 1809.11096, section 3.1): the fewer standard
                deviations, the more alike and the more typical the samples.
        """
        check_count(n)
        given = self.spec.labels(label, n, self.device)
        generator = self.generator(seed)
        z = self._latents(n, generator, truncation)
        if given is None and self.spec.classes:
            given = torch.randint(self.spec.classes, (n,), generator=generator)
        return self.decode(z, given)

    def latents(self, n: int, *, seed: int | None = None, truncation: float | None = None) -> Tensor:
        """Draw `n` latents, float32 (n, latent_size); `decode` makes data of them, and `sample` does both."""
        check_count(n)
        return self._latents(n, self.generator(seed), truncation)

    @torch.no_grad()
    def decode(self, z: Tensor, label: int | Sequence[int] | Tensor | None = None) -> Tensor:
        """The data of latents (N, latent_size), of sums of latents too: (N, *shape).

        Args:
            z: latents.
            label: an integer or N of them, which a conditional model needs.
        """
        check_latents(z, self.latent_size)
        labels = self.spec.labels(label, len(z), self.device)
        if labels is None and self.spec.classes:
            raise DataError(f"The model is conditioned on labels: give one of 0..{self.spec.classes - 1}.")
        with self.sampling_mode(cached=False), full_precision(self.device):
            chunks = [z.split(CHUNK), labels.split(CHUNK) if labels is not None else [None] * -(-len(z) // CHUNK)]
            return torch.cat(
                [self.to_data(self.generate(part.to(self.device), y)) for part, y in zip(*chunks, strict=True)]
            )

    def interpolate(
        self, start: Tensor, end: Tensor, steps: int = 8, *, label: int | Sequence[int] | Tensor | None = None
    ) -> Tensor:
        """Data on the way from latents to others: (N, latent_size) twice to (N, steps, *shape).

        The way is the great circle between two directions, with lengths in between (White 2016, arXiv 1609.04468): the
        middle of a straight line would be shorter than latents ever are.
        """
        if steps < 2:
            raise DataError(f"steps must be at least 2, the start and the end, not {steps}.")
        if start.shape != end.shape:
            raise DataError(f"Start and end must be as many latents, not {tuple(start.shape)} and {tuple(end.shape)}.")
        z = slerp(start[:, None], end[:, None], torch.linspace(0, 1, steps, device=start.device)[None, :, None])
        labels = self.spec.labels(label, len(start), self.device)
        labels = None if labels is None else labels.repeat_interleave(steps)
        return self.decode(z.flatten(0, 1), labels).unflatten(0, (len(start), steps))

    def walk(self, n: int = 4, steps: int = 8, *, seed: int | None = None, label: int | None = None) -> Tensor:
        """A round trip over `n` latents drawn at random, `steps` data from each to the next: (n * steps, *shape)."""
        z = self.latents(n, seed=seed)
        return self.interpolate(z, z.roll(-1, 0), steps + 1, label=label)[:, :-1].flatten(0, 1)

    @property
    def latent_size(self) -> int:
        """Components of a latent."""
        return self.hparams.latent_dim

    def _latents(self, n: int, generator: torch.Generator, truncation: float | None) -> Tensor:
        if truncation is None:
            return torch.randn(n, self.latent_size, generator=generator)
        check_positive(truncation=truncation)
        # The inverse of the distribution function between -truncation and truncation, of uniform numbers.
        inside = math.erf(truncation / math.sqrt(2))
        uniform = torch.rand(n, self.latent_size, generator=generator, dtype=torch.float64)
        return (math.sqrt(2) * torch.erfinv(inside * (2 * uniform - 1))).clamp(-truncation, truncation).float()

    # -- what a subclass may see otherwise ------------------------------------------------------------------------

    def to_unit(self, x: Tensor) -> Tensor:
        """Data as the networks see them: levels spread over [-1, 1], points as they are."""
        return x if self.spec.levels is None else x.float() * (2 / (self.spec.levels - 1)) - 1

    def to_data(self, y: Tensor) -> Tensor:
        """What a generator gives as data."""
        if self.spec.levels is None:
            return y
        top = self.spec.levels - 1
        return ((y.float() + 1) * (top / 2)).round().clamp(0, top).to(torch.uint8)

    def generate(self, z: Tensor, label: Tensor | None) -> Tensor:
        """Latents, and labels of a conditional model, to what `to_data` makes data of."""
        return self.net(z, label)

    def imitation(self, original: Any, label: Tensor | None) -> Any:
        """As many samples as there are data, given what `original` makes of those, as the critic sees them."""
        z = torch.randn(len(original), self.latent_size, device=self.device)
        return self.generate(z, label)

    def original(self, real: Tensor) -> Any:
        """The data as the critic sees them."""
        return real

    def other_labels(self, label: Tensor | None) -> Tensor | None:
        """Labels for samples, where data have some."""
        return None if label is None else torch.randint(self.spec.classes, label.shape, device=label.device)

    # -- training -------------------------------------------------------------------------------------------------

    @property
    def compiled(self) -> tuple[str, ...]:
        """What `zoo.callbacks.Compile` compiles: the critic only where no gradient of its gradient is taken."""
        return ("net",) if self.penalty else ("net", "critic")

    def setup(self, stage: str) -> None:
        """Refuse data that the model was not made for, and what manual optimization cannot do."""
        super().setup(stage)
        if stage == "fit" and getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise DataError("float16 would need a gradient scaler for each network: set precision to bf16-mixed or 32.")

    @property
    def captured(self) -> tuple[str, ...]:
        """What `zoo.callbacks.CUDAGraphs` captures: both passes, whose many kernels are short."""
        return "critic_pass", "generator_pass"

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """A step of the critic, of the generator, or of both."""
        batch = as_batch(batch)
        x, label = batch.x, batch.label if self.spec.classes else None
        self.spec.check(x, values=False)
        before = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # batches
        # The generator's optimizer alone is Lightning's, which counts its steps.
        generator, critic = self.optimizers()[0], self.optimizers(use_pl_optimizer=False)[1]
        if before % self.generator_steps == 0:
            self._train_critic(critic, x, label)
        if (before + 1) % self.critic_steps == 0:
            self._train_generator(generator, x, label)
            for scheduler in self.lr_schedulers():
                scheduler.step()
        # Where somebody reads them: logged at each batch, they took a quarter of a small step's time.
        if self.trainer.is_last_batch or (before + 1) % self.trainer.log_every_n_steps == 0:
            self.log_dict(self._latest)

    def _train_critic(self, optimizer: torch.optim.Optimizer, x: Tensor, label: Tensor | None) -> None:
        value, loss = self.critic_pass(x, label)
        self.watch_loss(loss)
        optimizer.step()
        if self.clip:
            with torch.no_grad():
                for parameter in self.critic.parameters():
                    parameter.clamp_(-self.clip, self.clip)
        self._latest["train_distance"] = value

    def _train_generator(self, optimizer: LightningOptimizer, x: Tensor, label: Tensor | None) -> None:
        loss, spread = self.generator_pass(x, label)
        self.watch_loss(loss)
        self.watch(
            spread > ALIKE,
            f"All samples of optimizer step {self.trainer.global_step + 1} are alike, the generator has collapsed: "
            f"lower the learning rates or hold the critic (penalty, critic_norm: spectral), and start again.",
        )
        optimizer.step()
        self._latest["train_generator"] = loss

    def critic_pass(self, x: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """The critic's gradients of a batch, (N, *shape) and labels (N,): the distance and the loss, scalars."""
        original, other = self.original(self.to_unit(x)), self.other_labels(label)
        with torch.no_grad():
            fake = self.imitation(original, other)
        outputs = self._judged(original, fake, label, other)
        with full_precision(self.device):
            value = self.distance.value(*outputs)
        loss = -value
        if self.penalty:
            loss = loss + self.penalty * self.gradient_penalty(original, fake, label, *outputs)
        self.critic.zero_grad()
        self.manual_backward(loss)
        return value.detach(), loss.detach()

    def generator_pass(self, x: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """The generator's gradients of a batch, (N, *shape) and labels (N,): the loss, and by how much samples differ,
        their largest standard deviation as the critic sees them, the least of its views.
        """
        original, other = self.original(self.to_unit(x)), self.other_labels(label)
        self.critic.requires_grad_(False)  # whose gradients would cost as much again
        fake = self.imitation(original, other)
        of_real = None
        if self.distance.paired:
            with torch.no_grad():
                of_real = self.critic(original, label).float()
        of_fake = self.critic(fake, other).float()
        with full_precision(self.device):
            loss = self.distance.generator_loss(of_real, of_fake)
        self.net.zero_grad()
        self.manual_backward(loss)
        self.critic.requires_grad_(True)
        views = [fake] if isinstance(fake, Tensor) else fake
        return loss.detach(), torch.stack([view.detach().float().std(0).amax() for view in views]).amin()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Without a look at the loss, which a recorded pass cannot take; the step looks at it."""
        loss.backward(*args, **kwargs)

    def gradient_penalty(
        self, real: Tensor, fake: Tensor, label: Tensor | None, of_real: Tensor, of_fake: Tensor
    ) -> Tensor:
        """The mean of (|grad f| - 1)^2 on straight lines between data and samples, of the critic's witness f.

        In float32: it is a gradient of a gradient.
        """
        share = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
        between = real.float().lerp(fake.float(), share).requires_grad_()
        with torch.autocast(self.device.type, enabled=False):
            at = self.critic(between, label).float()
            with full_precision(self.device):
                witness = self.distance.witness(at, of_real, of_fake)
            (slope,) = torch.autograd.grad(witness.sum(), between, create_graph=True)
            return (slope.flatten(1).norm(dim=1) - 1).square().mean()

    def _judged(self, real: Any, fake: Any, label: Tensor | None, other: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the critic gives to data and to samples, float32 (N, K) each."""
        if self.critic_norm == "batch":
            return self.critic(real, label).float(), self.critic(fake, other).float()
        # Together, where they are nothing to each other: one pass of twice the size is the faster one.
        labels = None if label is None else torch.cat([label, other])
        if isinstance(real, Tensor):
            both = torch.cat([real, fake.to(real)])
        else:
            both = [torch.cat([part, other_part.to(part)]) for part, other_part in zip(real, fake, strict=True)]
        return self.critic(both, labels).float().chunk(2)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the distance of the validation split, as the critic sees it."""
        self._distance_step("val", self.val_mean, as_batch(batch), batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Log the distance of the test split, as the critic sees it."""
        self._distance_step("test", self.test_mean, as_batch(batch), batch_idx)

    def _distance_step(self, split: str, mean: MeanMetric, batch: Batch, batch_idx: int) -> None:
        label = batch.label if self.spec.classes else None
        original = self.original(self.to_unit(batch.x))
        torch.manual_seed(batch_idx)  # the same samples each time; the noise of training has its seed after this
        outputs = self._judged(original, self.imitation(original, label), label, label)
        with full_precision(self.device):
            mean.update(self.distance.value(*outputs), batch.size)
        self.log(f"{split}_distance", mean, prog_bar=True)

    def configure_optimizers(self) -> list[dict[str, Any]]:
        """Adam for the generator and for the critic; the rates are constant, or fall linearly to zero."""
        given, fused = self.hparams, self.device.type == "cuda"
        rates = (self.net, given.lr), (self.critic, given.critic_lr or given.lr)
        return [
            self.scheduled(torch.optim.Adam(network.parameters(), lr, (given.beta1, given.beta2), fused=fused))
            for network, lr in rates
        ]

    def schedule(self, step: int) -> float:
        """The share of the rates at a step of the generator."""
        if not self.hparams.decay:
            return 1.0
        # Where epochs end the run, batches were counted and not steps.
        steps = self.trainer.max_steps
        total = steps if steps > 0 else self.trainer.estimated_stepping_batches / self.critic_steps
        return max(0.0, 1 - step / total)

    @torch.no_grad()
    def recalibrate_batch_norm(self, batches: int = 4, seed: int = 0) -> None:
        """Measure anew what the generator's batch normalizations divide by, for averaged weights have other activations
        than those from which it was taken in training.

        Args:
            batches: of `CHUNK` latents each.
            seed: of the latents.
        """
        norms = [module for module in self.net.modules() if isinstance(module, nn.BatchNorm2d)]
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        generator = self.generator(seed)
        with self.sampling_mode(cached=False), full_precision(self.device):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum, norm.training = None, True  # the mean over all batches
            for _ in range(batches):
                z, label = self._latents(CHUNK, generator, None), None
                if self.spec.classes:
                    label = torch.randint(self.spec.classes, (CHUNK,), generator=generator).to(self.device)
                self.generate(z.to(self.device), label)
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum, norm.training = momentum, False


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Spherical interpolation over the last axis (arXiv 1609.04468), (..., L): lengths are interpolated linearly."""
    lengths = [z.norm(dim=-1, keepdim=True) for z in (start, end)]
    a, b = (z / length.clamp(min=1e-12) for z, length in zip((start, end), lengths, strict=True))
    angle = (a * b).sum(-1, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    # Where the directions are the same or opposite there is no one great circle: a straight line.
    near = sine < 1e-4
    sine = torch.where(near, 1.0, sine)
    first = torch.where(near, 1 - share, ((1 - share) * angle).sin() / sine)
    second = torch.where(near, share, (share * angle).sin() / sine)
    return (first * a + second * b) * torch.lerp(*lengths, share)
