"""IAF: Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling, *Improved Variational Inference with Inverse
Autoregressive Flow*, 2016, arXiv 1606.04934.

An autoregressive network reads the noise and not the data, so that draws of a posterior come in one pass, with their
density. One step gates each dimension of z between itself and a proposal m, as an LSTM does,

    z'_d = sigmoid(s_d) z_d + (1 - sigmoid(s_d)) m_d,   log |det dz'/dz| = sum_d log sigmoid(s_d)   (equations 13, 14),

where m_d and s_d are functions of the z before d and of the context. The gate keeps a chain of steps stable: no
dimension grows by more than its proposal. The density of a given z' takes the inverse, one dimension after the other.

Departures: the network is a MADE with ReLU units, whose first hidden layer and outputs read the context, where the
paper has ELU, and for CIFAR-10 convolutions; the order is reversed from one step to the next by the masks, and z stays
as it is; s is limited softly to (-5, 5), for a gate that closes has no inverse in finite numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.flows.maf import LIMIT, AutoregressiveTransform
from zoo.nn.activations import soft_limit


class IAFTransform(AutoregressiveTransform):
    """One step of inverse autoregressive flow: `forward` takes noise (or the step before) towards the latent.

    Args:
        dims: D.
        context_dims: size of the context, the h of the paper; 0 for none.
        hidden: units of a hidden layer.
        layers: number of hidden layers.
        reverse: whether the last dimension comes first; alternate it in a chain.
        gate: initial value of s, before its limit; the paper takes 1 to 2, so that a step begins near the identity.
        seed: of the connectivity.

    Example:
        >>> steps = Compose(IAFTransform(32, 128, reverse=k % 2 == 1) for k in range(4))
        >>> z, log_det = steps(noise, context)
    """

    def __init__(
        self,
        dims: int,
        context_dims: int = 0,
        hidden: int = 128,
        layers: int = 1,
        reverse: bool = False,
        gate: float = 2.0,
        seed: int = 0,
    ) -> None:
        ordering = torch.arange(max(dims, 0))
        super().__init__(dims, hidden, layers, ordering.flip(0) if reverse else ordering, context_dims, seed=seed)
        with torch.no_grad():
            self.net.head.bias.view(dims, 2)[:, 1] = gate

    def elementwise(self, x: Tensor, outputs: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
        """Each z to its z' and log sigmoid(s) (equation 14), given the network's outputs, m and s along `dim`."""
        m, s = outputs.unbind(dim)
        s = soft_limit(s, LIMIT)
        return torch.lerp(m, x, torch.sigmoid(s)), F.logsigmoid(s)

    def elementwise_inverse(self, y: Tensor, outputs: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
        """Each z' to its z and log sigmoid(s), given the network's outputs."""
        m, s = outputs.unbind(dim)
        s = soft_limit(s, LIMIT)
        return torch.addcmul(m, y - m, 1 + (-s).exp()), F.logsigmoid(s)
