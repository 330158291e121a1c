"""Muon against the singular value decomposition and PyTorch's own, and what is AdamW's; the natural gradient."""

import copy

import pytest
import torch
from torch import Tensor, nn

from zoo.optim import Muon, NaturalGradient, orthogonalize


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 5, 20), (2, 20, 5)])
def test_orthogonalized_matrices_keep_their_directions(shape):
    x = torch.randn(shape)
    y = orthogonalize(x)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    seen = u.mT @ y @ vh.mT  # diagonal where the singular vectors are the same
    torch.testing.assert_close(seen, torch.diag_embed(seen.diagonal(dim1=-2, dim2=-1)), atol=2e-4, rtol=0)
    # The iteration's polynomial raises a singular value within 0.01 of the norm above one half in five steps.
    large = seen.diagonal(dim1=-2, dim2=-1)[s > 0.01 * s.norm(dim=-1, keepdim=True)]
    assert large.min() > 0.5
    assert large.max() < 1.25


def test_zero_gradient_gives_zero():
    assert not orthogonalize(torch.zeros(1, 3, 4)).any()


def conv_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1))


def groups(net: nn.Module, **settings) -> list[dict]:
    weights = [p for p in net.parameters() if p.ndim > 1]
    return [
        {"params": weights, "orthogonal": True, **settings},
        {"params": [p for p in net.parameters() if p.ndim == 1]},
    ]


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        x = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(step))
        loss = net(x).square().sub(1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_equals_pytorchs_muon_and_adamw():
    """Weights as torch.optim.Muon moves them, taken as matrices, and biases as AdamW does."""
    ours, theirs = nn.Linear(6, 9), nn.Linear(6, 9)
    theirs.load_state_dict(ours.state_dict())
    mine = Muon(groups(ours, weight_decay=0.1), lr=0.01)
    muon = torch.optim.Muon([theirs.weight], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([theirs.bias], lr=0.01, betas=(0.9, 0.99), weight_decay=0)
    for _ in range(5):
        x, y = torch.randn(16, 6), torch.randn(16, 9)
        for net, optimizers in ((ours, [mine]), (theirs, [muon, adamw])):
            net.zero_grad()
            (net(x) - y).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
    torch.testing.assert_close(ours.bias, theirs.bias)
    # PyTorch's iterates in bfloat16 on every device: five updates of size 0.002, good to about a hundredth each.
    torch.testing.assert_close(ours.weight, theirs.weight, atol=5e-4, rtol=0)


def test_first_step_has_the_size_of_adamws():
    net = nn.Linear(64, 32)
    before = net.weight.detach().clone()
    optimizer = Muon(groups(net), lr=0.1)
    net.weight.grad, net.bias.grad = torch.randn(32, 64), torch.randn(32)
    optimizer.step()
    rms = (net.weight.detach() - before).square().mean().sqrt()
    assert rms == pytest.approx(0.2 * 0.1, rel=0.2)


def test_weights_of_one_shape_are_stepped_as_if_alone():
    together, alone = conv_net(), conv_net()
    alone.load_state_dict(together.state_dict())
    one = Muon(groups(together), lr=0.02)
    several = [Muon([{"params": [p], "orthogonal": p.ndim > 1}], lr=0.02) for p in alone.parameters()]
    for step in range(3):
        train(together, one, 1, step)
        x = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(step))
        alone.zero_grad()
        alone(x).square().sub(1).square().mean().backward()
        for optimizer in several:
            optimizer.step()
    for a, b in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_layout_in_memory_does_not_matter():
    first, second = conv_net(), conv_net()
    second.load_state_dict(first.state_dict())
    second.to(memory_format=torch.channels_last)
    train(first, Muon(groups(first), lr=0.02), 3)
    train(second, Muon(groups(second), lr=0.02), 3)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_resumed_equals_uninterrupted(layout):
    net = conv_net()
    optimizer = Muon(groups(net, weight_decay=0.1), lr=0.02)
    train(net, optimizer, 2)
    resumed = copy.deepcopy(net).to(memory_format=layout)
    again = Muon(groups(resumed, weight_decay=0.1), lr=0.02)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(net, optimizer, 2, 2)
    train(resumed, again, 2, 2)
    exact = layout == torch.contiguous_format
    for a, b in zip(net.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=0 if exact else 1e-5, rtol=0 if exact else 1e-4)


def test_weights_without_gradient_stay():
    net = conv_net()
    before = copy.deepcopy(net.state_dict())
    Muon(groups(net, weight_decay=0.1), lr=0.1).step()
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_biases_cannot_be_orthogonalized():
    with pytest.raises(ValueError, match="leave biases to AdamW"):
        Muon([{"params": [nn.Parameter(torch.zeros(3))], "orthogonal": True}])


# -- the natural gradient ------------------------------------------------------------------------------------


def quadratic(**arguments) -> tuple[nn.Parameter, NaturalGradient, Tensor, Tensor]:
    parameter = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    parameter.grad = torch.tensor([1.0, -2.0], dtype=torch.float64)
    fisher = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    return parameter, NaturalGradient([parameter], **arguments), fisher, parameter.grad


def test_a_natural_step_is_the_inverse_fisher_matrix_times_the_gradient():
    parameter, optimizer, fisher, gradient = quadratic(lr=0.5, damping=0.1, bound=100.0)
    optimizer.observe(fisher)
    optimizer.step()
    expected = -0.5 * torch.linalg.solve(fisher + 0.1 * torch.eye(2), gradient)
    torch.testing.assert_close(parameter.detach(), expected)
    # The matrix is averaged over steps.
    optimizer.observe(2 * fisher)
    optimizer.step()
    expected = expected - 0.5 * torch.linalg.solve(1.1 * fisher + 0.1 * torch.eye(2), gradient)
    torch.testing.assert_close(parameter.detach(), expected)


def test_a_natural_step_is_no_longer_than_its_bound():
    parameter, optimizer, fisher, _ = quadratic(lr=0.5, damping=0.0, bound=1e-3)
    optimizer.observe(fisher)
    optimizer.step()
    assert (0.5 * parameter @ fisher @ parameter).item() == pytest.approx(0.5 * 1e-3)
