"""Finite weights whose draws are not: a sentence, and no NaN that is taken for a datum."""

import pytest
import torch

from zoo.adversarial import GAN
from zoo.errors import ZooError
from zoo.flows import MAF, EnergyFlow

MODELS = [
    lambda: MAF(shape=[2], layers=2, hidden=4),
    lambda: MAF(shape=[2], layers=2, hidden=4, components=3),
    lambda: EnergyFlow(energy="energy1", layers=2),
    lambda: GAN(shape=[2], levels=None, network="mlp", latent_dim=2, channels=4),
]


@pytest.mark.parametrize("make", MODELS)
def test_draws_that_are_not_finite_are_refused(make):
    model = make().eval()
    assert model.sample(3, seed=0).isfinite().all()
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 3e38)
    with pytest.raises(ZooError, match="What the model draws is NaN or infinite"):
        model.sample(3, seed=0)
