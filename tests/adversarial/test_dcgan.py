"""The convolutional networks of DCGAN, of each size of image."""

from __future__ import annotations

import pytest
import torch

from zoo.adversarial.dcgan import DCGANCritic, DCGANGenerator


def test_the_generator_of_64_pixels_is_that_of_the_papers_figure():
    with torch.device("meta"):
        generator = DCGANGenerator((3, 64, 64), 100, 128)
    assert generator.start == (1024, 4, 4)
    assert generator.first.weight.shape == (1024 * 4 * 4, 100)
    widths = [(layer.in_channels, layer.out_channels) for layer in generator.layers]
    assert widths == [(1024, 512), (512, 256), (256, 128), (128, 3)]


@pytest.mark.parametrize(
    ("size", "sides", "widths"),
    [(28, [7, 14, 28], [6, 3]), (32, [4, 8, 16, 32], [12, 6, 3]), (64, [4, 8, 16, 32, 64], [24, 12, 6, 3])],
)
def test_each_layer_doubles_the_sides_and_the_critic_goes_the_same_way_back(size, sides, widths):
    generator, critic = DCGANGenerator((3, size, size), 5, 3), DCGANCritic((3, size, size), 3)
    seen = {"generator": [], "critic": []}
    for name, network in (("generator", generator), ("critic", critic)):
        for layer in network.layers:
            layer.register_forward_hook(lambda _, inputs, out, into=seen[name]: into.append((*inputs[0].shape[1:3],)))
    x = generator(torch.randn(2, 5))
    assert x.shape == (2, 3, size, size)
    assert critic(x).shape == (2, 1)
    assert seen["generator"] == list(zip(widths, sides[:-1], strict=True))
    assert seen["critic"] == list(zip([3, *widths[:0:-1]], sides[:0:-1], strict=True))
    assert critic.head.linear.in_features == widths[0] * sides[0] ** 2
