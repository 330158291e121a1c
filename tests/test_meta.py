"""A family that was made on the meta device, where it takes no memory, is filled there.

That every family can be made there at all is part of the contract (test_contract.py).
"""

from __future__ import annotations

import pytest
import torch

from zoo.autoregressive import MADE
from zoo.flows import MAF
from zoo.latent import FlowVAE
from zoo.nn.orderings import check_orderings, random_orderings


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (MADE, {"shape": [1, 4, 4], "hidden": 12}),
        (MADE, {"shape": [1, 4, 4], "hidden": 12, "masks": 3, "ordering_seed": 1, "direct": True}),
        (MADE, {"shape": [5], "hidden": 12, "ordering": [4, 0, 3, 1, 2]}),
        (MAF, {"shape": [3], "layers": 3, "hidden": 8}),
        (MAF, {"shape": [3], "layers": 2, "hidden": 8, "components": 2, "ordering_seed": 1}),
        (FlowVAE, {"shape": [1, 8, 8], "latent_dim": 4, "channels": 4, "blocks": 1, "hidden": 8, "flow_hidden": 8}),
    ],
)
def test_weights_that_are_assigned_make_it_a_real_one(cls, arguments):
    torch.manual_seed(0)
    real = cls(**arguments).eval()
    with torch.device("meta"):
        model = cls(**arguments).eval()
    model.load_state_dict(real.state_dict(), assign=True)
    assert not any(parameter.is_meta for parameter in model.parameters())
    x = real.sample(6, seed=0)
    if cls is FlowVAE:
        assert torch.equal(model.elbo(x, samples=3, seed=1), real.elbo(x, samples=3, seed=1))
    else:
        assert torch.equal(model.log_prob(x), real.log_prob(x))


def test_orderings_on_the_meta_device_are_checked_by_their_shape():
    with torch.device("meta"):
        orderings = random_orderings(3, 5, seed=0)
    assert orderings.is_meta
    check_orderings(orderings, 5)
    for wrong in (orderings[:, :4], orderings.float()):
        with pytest.raises(ValueError, match=r"permutation of 0\.\.4"):
            check_orderings(wrong, 5)
