"""A variational autoencoder whose posterior is a flow: Rezende & Mohamed, *Variational Inference with Normalizing
Flows*, 2015, arXiv 1505.05770 (planar layers), and Kingma et al., *Improved Variational Inference with Inverse
Autoregressive Flow*, 2016, arXiv 1606.04934 (IAF steps).

The model is p(x) = int p(x|z) N(z; 0, I) dz with a network for the Bernoulli means of p(x|z). A second network gives
for each image a diagonal Gaussian and a context; a flow conditioned on the context carries draws of that Gaussian to
draws of q(z|x), with their density. Both are trained together by the bound E_q[log p(x, z) - log q(z|x)]: the closer q
can come to the true posterior, the less the bound costs.

Departures:

- residual convolutional networks with GELUs on both sides, where Rezende & Mohamed have layers of 400 maxout units;
- the temperature of the bound is not annealed;
- AdamW or Muon with a cosine schedule, averaged weights.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.arguments import count_of
from zoo.errors import DataError
from zoo.flows.core import Compose, Normal, Transform
from zoo.flows.iaf import IAFTransform
from zoo.flows.planar import Planar
from zoo.model import GenerativeModel
from zoo.model.latents import Latents
from zoo.nn.devices import full_precision, precise
from zoo.nn.draws import Draws
from zoo.spec import DataSpec, check_image_shape

POSTERIORS = ("diagonal", "planar", "iaf")


def rows(device: torch.device) -> int:
    """How many latents are decoded at once: on a CPU as many as its caches hold, which is four times as fast."""
    return 128 if device.type == "cpu" else 4096


class ResidualBlock(nn.Module):
    """x + conv(gelu(conv(gelu(x)))), 3x3 each; it begins close to the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return x + self.second(F.gelu(self.first(F.gelu(x))))


def halved(size: int) -> int:
    """Of an image side, after a convolution with stride 2."""
    return (size + 1) // 2


class Encoder(nn.Module):
    """Images to `outputs` numbers: three resolutions of residual blocks, and a hidden layer."""

    def __init__(self, shape: tuple[int, ...], channels: int, blocks: int, hidden: int, outputs: int) -> None:
        super().__init__()
        colours, height, width = shape
        wide = 2 * channels
        self.body = nn.Sequential(
            nn.Conv2d(colours, channels, 3, padding=1),
            *(ResidualBlock(channels) for _ in range(blocks)),
            nn.Conv2d(channels, wide, 3, stride=2, padding=1),
            *(ResidualBlock(wide) for _ in range(blocks)),
            nn.Conv2d(wide, wide, 3, stride=2, padding=1),
            *(ResidualBlock(wide) for _ in range(blocks)),
        )
        self.hidden = nn.Linear(wide * halved(halved(height)) * halved(halved(width)), hidden)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Floats (N, C, H, W) to (N, outputs)."""
        return self.out(F.gelu(self.hidden(F.gelu(self.body(x)).flatten(1))))


class Decoder(nn.Module):
    """Latents to logits: the encoder's layers in reverse."""

    def __init__(self, shape: tuple[int, ...], channels: int, blocks: int, hidden: int, latent_dim: int) -> None:
        super().__init__()
        colours, *full = shape
        half = [halved(side) for side in full]
        quarter = [halved(side) for side in half]
        wide = 2 * channels
        self.hidden = nn.Linear(latent_dim, hidden)
        self.spread = nn.Linear(hidden, wide * math.prod(quarter))
        self.body = nn.Sequential(
            nn.Unflatten(1, (wide, *quarter)),
            *(ResidualBlock(wide) for _ in range(blocks)),
            nn.Upsample(tuple(half)),
            nn.Conv2d(wide, wide, 3, padding=1),
            *(ResidualBlock(wide) for _ in range(blocks)),
            nn.Upsample(tuple(full)),
            nn.Conv2d(wide, channels, 3, padding=1),
            *(ResidualBlock(channels) for _ in range(blocks)),
            nn.GELU(),
        )
        self.out = nn.Conv2d(channels, colours, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Latents (N, L) to logits (N, C, H, W)."""
        return self.out(self.body(self.spread(F.gelu(self.hidden(z)))))


class FlowVAENet(nn.Module):
    """Both networks and the flow between them."""

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_dim: int,
        posterior: str,
        layers: int,
        flow_hidden: int,
        context: int,
        channels: int,
        blocks: int,
        hidden: int,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        context = 0 if posterior == "diagonal" else context
        self.encoder = Encoder(shape, channels, blocks, hidden, 2 * latent_dim + context)
        self.decoder = Decoder(shape, channels, blocks, hidden, latent_dim)
        self.prior = Normal([latent_dim])
        self.flow = Compose(self._transforms(latent_dim, posterior, layers, flow_hidden, context))

    @staticmethod
    def _transforms(latent_dim: int, posterior: str, layers: int, hidden: int, context: int) -> list[Transform]:
        if posterior == "planar":
            return [Planar(latent_dim, layers, context)]
        if posterior == "iaf":
            steps = ({"reverse": k % 2 == 1, "seed": k} for k in range(layers))
            return [IAFTransform(latent_dim, context, hidden, layers=2, **step) for step in steps]
        return []

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """log p(x, z) - log q(z|x) in nats, (N,), of the z that images (N, C, H, W) and noise (N, L) give."""
        return self.log_weight(x, noise, *self.infer(x))

    def infer(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images to the mean and log-deviation (N, L) of the Gaussian, and the context (N, context) of the flow."""
        ends = [self.latent_dim, 2 * self.latent_dim]
        found = precise(self.encoder(2.0 * precise(x, self.encoder.out.bias) - 1.0))
        mean, log_scale, context = found.tensor_split(ends, 1)
        # An exponential far outside this range is of no use, and may be no number.
        return mean, log_scale.clamp(-7.0, 7.0), context if context.shape[1] else None

    def log_weight(self, x: Tensor, noise: Tensor, mean: Tensor, log_scale: Tensor, context: Tensor | None) -> Tensor:
        """log p(x, z) - log q(z|x) in nats, (N,), given what `infer` found."""
        with torch.autocast(x.device.type, enabled=False):
            start = mean + log_scale.exp() * noise
            log_q = self.prior.log_prob(noise) - log_scale.sum(1)
        z, log_det = self.flow(start, context)
        logits = self.decoder(z)
        with torch.autocast(x.device.type, enabled=False):
            log_likelihood = -F.binary_cross_entropy_with_logits(precise(logits), precise(x, logits), reduction="none")
            return log_likelihood.flatten(1).sum(1) + self.prior.log_prob(precise(z)) - (log_q - precise(log_det))


class FlowVAE(Latents, GenerativeModel):
    """A variational autoencoder of binary images whose posterior is a flow.

    Args:
        shape: (C, H, W) of the images.
        latent_dim: L, dimensions of z.
        posterior: "planar" layers, "iaf" steps, or "diagonal" for the Gaussian alone.
        layers: number of planar layers or IAF steps.
        flow_hidden: units of the two hidden layers of each IAF step.
        context: size of what the encoder tells the flow.
        channels: of the convolutions at full resolution; twice as many below.
        blocks: residual blocks at each of the three resolutions, on both sides.
        hidden: units of the fully connected layer on both sides.
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights, not of the biases.

    Example:
        >>> model = FlowVAE(shape=[1, 28, 28], posterior="iaf")
        >>> x = model.sample(4, seed=0)         # uint8 (4, 1, 28, 28)
        >>> model.elbo(x, samples=500)          # (4,) nats
        >>> model.walk(n=4, steps=8, seed=0)    # a round trip over 4 latents, uint8 (32, 1, 28, 28)
    """

    def __init__(
        self,
        shape: list[int] = [1, 28, 28],  # noqa: B006  a plain JSON value, never changed
        latent_dim: int = 32,
        posterior: str = "iaf",
        layers: int = 4,
        flow_hidden: int = 256,
        context: int = 128,
        channels: int = 32,
        blocks: int = 2,
        hidden: int = 400,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        warmup: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        check_image_shape(shape)
        sizes = {"latent_dim": latent_dim, "layers": layers, "flow_hidden": flow_hidden, "context": context}
        for name, value in {**sizes, "channels": channels, "blocks": blocks, "hidden": hidden}.items():
            if value < 1:
                raise DataError(f"{name} must be at least 1, not {value}.")
        if posterior not in POSTERIORS:
            raise DataError(f"posterior must be one of {', '.join(POSTERIORS)}, not {posterior!r}.")
        self.save_hyperparameters()
        self.spec = DataSpec(tuple(shape), 2)
        self.net = FlowVAENet(
            self.spec.shape, latent_dim, posterior, layers, flow_hidden, context, channels, blocks, hidden
        )

    @property
    def papers(self) -> tuple[str, ...]:
        """That of the posterior."""
        return ("iaf",) if self.hparams.posterior == "iaf" else ("planar",)

    def elbo(self, x: Tensor, *, samples: int = 1, seed: int | None = None, index: Tensor | None = None) -> Tensor:
        """A lower bound on log p(x): images uint8 (N, C, H, W) to (N,) nats.

        With one sample it is an unbiased estimate of E_q[log p(x, z) - log q(z|x)]. With K it is the
        importance-weighted log (1/K) sum_k p(x, z_k) / q(z_k|x) (Burda et al. 2016, arXiv 1509.00519), in expectation
        a bound as well, which rises with K to log p(x).

        Args:
            x: images.
            samples: K.
            seed: of the latents; the same seed gives the same bound. The global random state stays as it was.
            index: the places of the images in their split, int64 (N,), to which their latents belong; by default in x.
        """
        x, samples = self.check(x), count_of(samples, "samples")
        draws, size = Draws(seed, self.check_index(index, len(x))), self.hparams.latent_dim
        found = self.net.infer(x)
        total = found[0].new_full((len(x),), -math.inf)
        together = max(1, rows(x.device) // max(1, len(x)))
        for k in range(0, samples, together):
            count = min(samples - k, together)
            # One call a draw, however many go through the network together: the numbers of an image are the same.
            noise = torch.cat([draws.normal(size) for _ in range(count)]).to(total)
            images, *given = (
                None if part is None else part.repeat(count, *[1] * (part.ndim - 1)) for part in (x, *found)
            )
            log_weight = self.net.log_weight(images, noise, *given)
            total = torch.logaddexp(total, log_weight.unflatten(0, (count, -1)).logsumexp(0))
        return total - math.log(samples)

    def loss(self, x: Tensor, *, index: Tensor | None = None) -> Tensor:
        """(N,) nats, the negative bound of one draw; outside training the draws are those of a fixed seed."""
        if not self.training:
            return -self.elbo(x, seed=0, index=index)
        x = self.check(x)
        noise = torch.randn(len(x), self.hparams.latent_dim, device=x.device, dtype=torch.float32)
        return -self.net(x, noise)

    @torch.no_grad()
    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """Draw `n` images, uint8 (n, C, H, W); the same seed gives the same ones."""

        def draw(draws: Draws, _: slice) -> Tensor:
            z = self.net.prior.sample(len(draws), draws)
            means = self.generate(z, None).sigmoid()
            return (draws.uniform(*self.spec.shape).to(means.device) < means).to(torch.uint8)

        with self.sampling_mode(cached=False), full_precision(self.device):
            return self.in_chunks(n, seed, draw)

    def generate(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Latents (N, L) to the logits (N, C, H, W) of p(x|z)."""
        return torch.cat([self.net.decoder(part) for part in z.split(rows(self.device))])

    def to_data(self, y: Tensor) -> Tensor:
        """The most probable images, of which `decode` and `walk` are made; `sample` draws from p(x|z)."""
        return (y > 0).to(torch.uint8)
