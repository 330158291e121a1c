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

Departures: the optimizer is Adam for all; a critic's batches of data and samples are equally large; the transport of
Sinkhorn and OT-GAN is the regularized objective, entropy term included, of which both papers take the cost alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.adversarial.dcgan import DCGANCritic, DCGANGenerator
from zoo.adversarial.networks import NORMS, PerceptronCritic, PerceptronGenerator, check_sizes
from zoo.adversarial.resnet import ResNetCritic, ResNetGenerator
from zoo.batch import Batch
from zoo.errors import DataError
from zoo.metrics.objectives import distance as distance_of
from zoo.model import GenerativeModel
from zoo.model.game import Game
from zoo.model.latents import Latents
from zoo.spec import DataSpec, check_image_shape

NETWORKS = ("mlp", "dcgan", "resnet")
FEATURE_PAPERS = {"energy": "cramer-gan", "mmd": "mmd-gan", "sinkhorn": "sinkhorn-gan", "mini_batch_energy": "ot-gan"}
"""The papers of distances between features; those of all other divergences are one."""


class GAN(Game, Latents, GenerativeModel):
    """A generator of latents and a critic, trained in turns (`zoo.model.game.Game`).

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
        super().__init__(
            distance_of(distance, options),
            critic_steps=critic_steps,
            generator_steps=generator_steps,
            clip=clip,
            penalty=penalty,
        )
        sizes = {"latent_dim": latent_dim, "channels": channels, "critic_channels": critic_channels}
        check_sizes(levels, classes, **sizes, features=features)
        for name, value, known in (("network", network, NETWORKS), ("critic_norm", critic_norm, NORMS)):
            if value not in known:
                raise DataError(f"{name} must be one of {', '.join(known)}, not {value!r}.")
        if not self.distance.features and features != 1:
            raise DataError(f"The distance {distance} takes one number of a critic: features must be 1.")
        if self.distance.features and features == 1:
            raise DataError(f"The distance {distance} is one of features: set features to more than 1, such as 256.")
        if network != "mlp":
            check_image_shape(shape)
            if levels is None:
                raise DataError(f"The network {network} is one of images, which have levels: set network to mlp.")
        if penalty and critic_norm == "batch":
            raise DataError("A penalty on the slope at one image needs critic_norm spectral or none, not batch.")
        self.save_hyperparameters()
        self.spec = DataSpec(tuple(shape), levels, classes)
        self.net, self.critic = self.networks()

    @property
    def papers(self) -> tuple[str, ...]:
        """Which of the papers it is, as the table above has it: the distance says, and what holds the critic."""
        given = self.hparams
        if given.distance == "jensen_shannon":
            return ("dcgan", "gan") if given.network == "dcgan" else ("gan",)
        if given.distance == "wasserstein":
            return ("wgan-gp",) if given.penalty else ("wgan",)
        if given.distance == "hinge":
            return ("biggan", "sngan") if self.spec.classes and given.network == "resnet" else ("sngan",)
        return (FEATURE_PAPERS.get(given.distance, "f-gan"),)

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

    def generate(self, z: Tensor, label: Tensor | None) -> Tensor:
        """Latents (N, latent_dim), and labels of a conditional model, to images in [-1, 1] or points: (N, *shape)."""
        return self.net(z, label)

    def fake(self, real: Tensor, batch: Batch) -> Tensor:
        """As many samples as there are data, (N, *shape)."""
        z = torch.randn(len(real), self.latent_size, device=self.device, dtype=torch.float32)
        return self.generate(z, batch.label)

    def fake_labels(self, label: Tensor | None) -> Tensor | None:
        """Labels drawn for the samples, each as likely as another."""
        return None if label is None else torch.randint(self.spec.classes, label.shape, device=label.device)

    @property
    def apart(self) -> bool:
        """As `critic_norm` says, also of a network so small that no layer of it is normalized."""
        return self.hparams.critic_norm == "batch"
