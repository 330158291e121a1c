"""DARN: Gregor, Danihelka, Mnih, Blundell, Wierstra, *Deep AutoRegressive Networks*, 2014, arXiv 1310.8499.

An autoencoder whose code h is a layer of binary stochastic units. The prior p(h) and the decoder p(x|h) are
autoregressive: a unit depends on the units before it in its layer, so p(x, h) = p(h) p(x|h) is exact and is drawn from
by one pass down. The encoder q(h|x), a product of Bernoullis, gives the bound E_q[log p(x, h) - log q(h|x)].

The paper's model of binarized MNIST has 500 stochastic units and logits that are linear in h and in the earlier units
of the layer (`width` 0, `masked` 0); it is trained as `estimator` "half" does, with adaptive weight noise.
Departures, all for faster or better training:

- `width` > 0 puts deterministic layers between x and q, and one between h and p(x|h);
- `masked` > 0 adds to the linear connections inside a layer a path through hidden units, masked as in MADE (Germain
  et al. 2015, arXiv 1502.03509);
- the entropy of q is exact and not sampled;
- AdamW with a cosine schedule, averaged weights, and dropout in place of weight noise.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from zoo.arguments import count_of
from zoo.errors import DataError
from zoo.model import GenerativeModel
from zoo.nn.devices import full_precision, precise
from zoo.nn.draws import Draws
from zoo.spec import DataSpec, check_image_shape

ESTIMATORS = ("half", "disarm")


def bernoulli_log_prob(v: Tensor, logits: Tensor) -> Tensor:
    """log p(v) in nats of independent units: (..., D) and (..., D) to float32 (...)."""
    with torch.autocast(logits.device.type, enabled=False):
        v, logits = precise(v), precise(logits)
        # Linear in v, which cross-entropy would not differentiate.
        return (v * logits - F.softplus(logits)).sum(-1)


class AutoregressiveBernoulli(nn.Module):
    """p(v | c) = prod_d p(v_d | v_<d, c) over binary v.

    logit_d = b_d + (A c)_d + sum_{j<d} L_dj v_j + sum_{m(k)<=d} V_dk gelu(a_k), where the hidden unit k reads the units
    before m(k): a_k = e_k + (U c)_k + sum_{j<m(k)} T_kj v_j. Each place m in 0..D-1 has `masked` hidden units. A deeper
    layer of them adds to a_k a bias and sum_{m(i)<=m(k)} S_ki gelu(a_i).

    Args:
        size: D.
        context: size of c; 0 for none.
        masked: number of hidden units for each place, in each layer; 0 for linear connections alone.
        layers: number of layers of them.
        dropout: of the hidden units.
    """

    def __init__(self, size: int, context: int, masked: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.size, self.masked = size, masked
        self.bias = nn.Parameter(torch.zeros(size))
        self.context = nn.Linear(context, size, bias=False) if context else None
        self.linear = nn.Parameter(torch.zeros(size, size))
        place = torch.arange(size)
        self.register_buffer("before", (place[None] < place[:, None]).float(), persistent=False)
        if masked:
            m = place.repeat_interleave(masked)
            self.hidden = nn.Linear(size, size * masked)  # T and e
            self.deeper = nn.ModuleList(nn.Linear(size * masked, size * masked) for _ in range(layers - 1))  # S
            self.hidden_context = nn.Linear(context, size * masked, bias=False) if context else None
            self.out = nn.Parameter(torch.randn(size, size * masked) / math.sqrt(size * masked))  # V
            self.dropout = nn.Dropout(dropout)
            if layers > 1:
                self.register_buffer("passes", (m[None] <= m[:, None]).float(), persistent=False)
            self.register_buffer("reads", (place[None] < m[:, None]).float(), persistent=False)
            self.register_buffer("feeds", (m[None] <= place[:, None]).float(), persistent=False)

    def visible(self) -> dict[str, Tensor]:
        """As `zoo.nn.masked.visible_entries` asks for it."""
        if not self.masked:
            return {"linear": self.before}
        deeper = {f"deeper.{i}.weight": self.passes for i in range(len(self.deeper))}
        return {"linear": self.before, "hidden.weight": self.reads, "out": self.feeds, **deeper}

    def forward(self, v: Tensor, c: Tensor | None = None) -> Tensor:
        """Units (..., D) and context (..., context) to logits, float32 (..., D)."""
        hidden = None
        if self.masked:
            a = F.linear(v, self.hidden.weight * self.reads, self.hidden.bias)
            a = a if self.hidden_context is None else a + self.hidden_context(c)
            for layer in self.deeper:
                a = a + F.linear(self.dropout(F.gelu(a)), layer.weight * self.passes, layer.bias)
            hidden = precise(self.dropout(F.gelu(a)))
        with torch.autocast(v.device.type, enabled=False):
            logits = F.linear(v.to(self.bias.dtype), self.linear * self.before, self.bias)
            if self.context is not None:
                logits = logits + self.context(c.to(self.bias.dtype))
            return logits if hidden is None else logits + F.linear(hidden, self.out * self.feeds)

    def draw(self, uniform: Tensor, c: Tensor | None = None, *, cached: bool, name: str) -> Tensor:
        """v_d = 1 where the uniform number, (N, D), is below p(v_d = 1 | v_<d, c), one unit after another.

        Cached, a drawn unit is added to all sums that read it, 1 pass of the network in all; else there are D passes.
        """
        v = torch.zeros_like(uniform, dtype=self.bias.dtype)
        steps = tqdm(range(self.size), name, disable=None, leave=False)
        if not cached:
            for d in steps:
                v[:, d] = uniform[:, d] < self(v, c)[:, d].double().sigmoid()
            return v
        logits = self.bias.expand_as(v) if self.context is None else self.bias + self.context(c)
        logits = logits.clone()
        if self.masked:
            a = self.hidden.bias.expand(len(v), -1)
            a = a.clone() if self.hidden_context is None else a + self.hidden_context(c)
            added = [layer.bias.expand_as(a).clone() for layer in self.deeper]
        for d in steps:
            if self.masked:  # the units of place d have read all they read
                group = slice(d * self.masked, (d + 1) * self.masked)
                ready = a[:, group]
                for layer, more in zip(self.deeper, added, strict=True):
                    more[:, group.start :].addmm_(F.gelu(ready), layer.weight[group.start :, group].T)
                    ready = ready + more[:, group]
                logits[:, d:].addmm_(F.gelu(ready), self.out[d:, group].T)
            v[:, d] = uniform[:, d] < logits[:, d].double().sigmoid()
            logits[:, d + 1 :].addr_(v[:, d], self.linear[d + 1 :, d])
            if self.masked:
                a[:, group.stop :].addr_(v[:, d], self.hidden.weight[group.stop :, d])
        return v


class DARNNet(nn.Module):
    """Encoder, prior and decoder. Images are flattened in raster order, colours last."""

    def __init__(self, dims: int, latent_dim: int, width: int, masked: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.encoder = nn.Linear(dims, latent_dim)
        self.context: nn.Module = nn.Identity()
        if width:
            first = [nn.Linear(dims, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width), nn.GELU()]
            self.encoder = nn.Sequential(*first, nn.Dropout(dropout), nn.Linear(width, latent_dim))
            self.context = nn.Sequential(nn.Linear(latent_dim, width), nn.GELU(), nn.Dropout(dropout))
        self.prior = AutoregressiveBernoulli(latent_dim, 0, masked, layers, dropout)
        self.decoder = AutoregressiveBernoulli(dims, width or latent_dim, masked, layers, dropout)

    def forward(self, x: Tensor, uniform: Tensor, through: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (N, D) and uniform numbers (K, N, H) to log p(x, h) (K, N), logits of q (N, H), and h (K, N, H).

        `through` passes the gradient with respect to h on to the logits, as the estimator "half" does.
        """
        logits = self.infer(x)
        h = self.code(logits, uniform)
        if through:
            slope = 0.5 * (h - logits.detach().sigmoid()).abs()
            h = h + slope * (logits - logits.detach())  # the added term is zero
        return self.log_joint(x, h), logits, h

    def infer(self, x: Tensor) -> Tensor:
        """Logits of q(h|x): pixels (N, D) to (N, H)."""
        return precise(self.encoder(x.to(self.prior.bias.dtype)))

    @staticmethod
    def code(logits: Tensor, uniform: Tensor) -> Tensor:
        """h = 1 where the uniform number is below q(h = 1|x): (..., H) and (..., H) to (..., H)."""
        return (uniform < logits.detach().sigmoid()).to(logits.dtype)

    def log_joint(self, x: Tensor, h: Tensor) -> Tensor:
        """log p(x, h) = log p(h) + log p(x|h): pixels (N, D) and codes (..., N, H) to nats (..., N)."""
        x = x.to(h.dtype)
        prior = bernoulli_log_prob(h, self.prior(h))
        # The pixels' connections are the same for all codes of an image, but a copy is simpler than a second path.
        logits = self.decoder(x.expand(*h.shape[:-1], -1), self.read(h))
        return prior + bernoulli_log_prob(x, logits)

    def read(self, h: Tensor) -> Tensor:
        """What the decoder reads of a code: (..., H) to (..., context). A centred h trains better."""
        return self.context(2 * h - 1)


class DARN(GenerativeModel):
    """DARN, binary images with one layer of binary stochastic units, and a bound on their likelihood.

    Args:
        shape: (C, H, W) of the images.
        levels: 2, the number of values of a pixel.
        latent_dim: number of stochastic units.
        width: of the deterministic layers, two in the encoder and one in the decoder; 0 for the paper's linear maps.
        masked: masked hidden units for each unit of the prior and for each pixel; 0 for the paper's linear connections.
        layers: number of layers of masked hidden units.
        dropout: probability of dropping a deterministic unit while training.
        estimator: of the encoder's gradient, "half" or "disarm" (see `loss`).
        optimizer: "adamw" or "muon" (see `GenerativeModel.configure_optimizers`).
        lr: its peak learning rate.
        warmup: optimizer steps of linear warm-up.
        weight_decay: of the weights, not of the biases.

    Example:
        >>> model = DARN(shape=[1, 28, 28])
        >>> x = model.sample(4, seed=0)     # uint8 (4, 1, 28, 28), values 0 and 1
        >>> model.elbo(x, seed=0)           # (4,) nats
    """

    papers = ("darn",)

    def __init__(
        self,
        shape: list[int] = [1, 28, 28],  # noqa: B006  a plain JSON value, never changed
        levels: int = 2,
        latent_dim: int = 500,
        width: int = 500,
        masked: int = 2,
        layers: int = 1,
        dropout: float = 0.0,
        estimator: str = "half",
        optimizer: str = "adamw",
        lr: float = 1e-3,
        warmup: int = 100,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        check_image_shape(shape)
        if levels != 2:
            raise DataError(f"levels must be 2, for DARN models binary images, not {levels}.")
        if latent_dim < 1 or layers < 1:
            raise DataError(f"latent_dim and layers must be positive, not {latent_dim} and {layers}.")
        if width < 0 or masked < 0:
            raise DataError(f"width and masked must be at least 0, not {width} and {masked}.")
        if estimator not in ESTIMATORS:
            raise DataError(f"estimator must be one of {', '.join(ESTIMATORS)}, not {estimator!r}.")
        self.save_hyperparameters()
        self.spec = DataSpec(tuple(shape), levels)
        self.net = DARNNet(self.spec.dims, latent_dim, width, masked, layers, dropout)

    def elbo(self, x: Tensor, *, samples: int = 1, seed: int | None = None, index: Tensor | None = None) -> Tensor:
        """A lower bound on log p(x): images uint8 (N, C, H, W) to (N,) nats.

        With one sample it is an unbiased estimate of the bound E_q[log p(x, h) - log q(h|x)]. With K it is the
        importance-weighted log (1/K) sum_k p(x, h_k) / q(h_k|x) (Burda et al. 2016, arXiv 1509.00519), in expectation
        a bound as well, which rises with K to log p(x); a mean of K log-ratios would only be less noisy.

        Args:
            x: images.
            samples: K.
            seed: of the codes; the same seed gives the same bound. The global random state stays as it was.
            index: the places of the images in their split, int64 (N,), to which their codes belong; by default in x.
        """
        x, samples = self.check(x), count_of(samples, "samples")
        draws, x = Draws(seed, self.check_index(index, len(x))), self._pixels(x)
        logits, total = self.net.infer(x), None
        for _ in range(samples):
            h = self.net.code(logits, draws.uniform(logits.shape[1]).to(logits.device))
            log_weight = self.net.log_joint(x, h) - bernoulli_log_prob(h, logits)
            total = log_weight if total is None else torch.logaddexp(total, log_weight)
        return total - math.log(samples)

    def loss(self, x: Tensor, *, index: Tensor | None = None) -> Tensor:
        """(N,) nats, the negative bound: in training, with the gradient below; else of codes from a fixed seed.

        The gradient for p is that of log p(x, h) at a drawn h, and for q's entropy it is exact. Left is that of
        E_q[f(h)], f(h) = log p(x, h), for the logits a of q, where mu = sigmoid(a):

        - "half", the paper's: df/dh_i |h_i - mu_i| / 2. In expectation this is the trapezoidal rule for the difference
          of f between h_i = 1 and 0: exact where f is quadratic in each h_i, and close where one of 500 units moves f
          little. One sample, and each unit has a signal of its own, so it has by far the least noise. (Gu et al. 2016,
          arXiv 1511.05176, name it; Liu et al. 2023, arXiv 2304.08612, find the same rule, ReinMax.)
        - "disarm" (Dong et al. 2020, arXiv 2006.10680): unbiased, from the two values of f at an antithetic pair.
        """
        if not self.training:
            return -self.elbo(x, seed=0, index=index)
        x = self.check(x)
        x = self._pixels(x)
        half = self.hparams.estimator == "half"
        u = torch.rand(1, len(x), self.hparams.latent_dim, device=x.device, dtype=torch.float32)
        f, logits, h = self.net(x, u if half else torch.cat([1 - u, u]), half)
        with torch.autocast(x.device.type, enabled=False):
            entropy = F.softplus(logits) - logits * logits.sigmoid()
            bound = f.mean(0) + entropy.sum(1)
            if not half:
                # (-1)^{h'_i} [h_i != h'_i] is h_i - h'_i.
                weight = 0.5 * (f[0] - f[1])[:, None] * (h[0] - h[1]) * logits.abs().sigmoid()
                bound = bound + (weight.detach() * (logits - logits.detach())).sum(1)  # the added term is zero
        return -bound

    def sample(self, n: int, *, seed: int | None = None, cached: bool = True) -> Tensor:
        """Draw `n` images, uint8 (n, C, H, W): the stochastic units one after another, then the pixels.

        Args:
            n: number of images.
            seed: the same seed gives the same images, the first of them whatever `n` is.
            cached: keep running sums, one pass of the network in all; False runs the whole prior for each unit and the
                whole decoder for each pixel. Both draw the same images.
        """
        latent_dim, (colours, height, width) = self.hparams.latent_dim, self.spec.shape

        def draw(draws: Draws, _: slice) -> Tensor:
            # One uniform number a unit and pixel, drawn before anything else, makes the two ways of sampling agree.
            uniform = draws.uniform(latent_dim + self.spec.dims, dtype=torch.float64).to(self.device)
            h = self.net.prior.draw(uniform[:, :latent_dim], cached=cached, name="units")
            c = self.net.read(h)
            x = self.net.decoder.draw(uniform[:, latent_dim:], c, cached=cached, name="pixels")
            return x.view(-1, height, width, colours).permute(0, 3, 1, 2).contiguous().to(torch.uint8)

        with self.sampling_mode(cached), full_precision(self.device), torch.no_grad():
            return self.in_chunks(n, seed, draw)

    def _pixels(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) in the order of drawing: raster, colours last, (N, D)."""
        return x.permute(0, 2, 3, 1).flatten(1)
