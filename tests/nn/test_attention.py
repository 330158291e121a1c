"""Causal attention sees its own pixel and those before it, knows where they are, and can be cached."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_runs import sealed
from torch.autograd.functional import jacobian

from zoo.nn.attention import CausalAttention
from zoo.nn.masked import CachedStep

HEIGHT, WIDTH, HEADS, SIZE = 3, 4, 2, 8


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        # Everything that is computed in float32 is computed in float64.
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield


def layer(**settings) -> CausalAttention:
    attention = CausalAttention(5, 6, HEIGHT, WIDTH, heads=HEADS, size=SIZE, **settings).double().eval()
    with torch.no_grad():
        attention.sharpness.copy_(torch.tensor([0.7, 1.9]))
    return attention


def some_input(n: int = 1) -> torch.Tensor:
    return torch.randn(n, 5, HEIGHT, WIDTH, dtype=torch.float64)


def test_a_pixel_sees_itself_and_all_before_it():
    found = (jacobian(layer(), some_input())[0, :, :, :, 0] != 0).any(3).any(0)  # (H, W, H, W)
    places = HEIGHT * WIDTH
    assert torch.equal(found.view(places, places), torch.ones(places, places, dtype=torch.bool).tril())


def test_it_is_the_formula():
    """Softmax of the products of turned, normalized queries and keys, one pixel and one head at a time."""
    attention, x = layer(), some_input(2)
    features = x.flatten(2).mT  # (N, L, in)

    def turned(vector: torch.Tensor, place: int) -> torch.Tensor:
        vector = vector / vector.square().mean().sqrt()
        row, column = divmod(place, WIDTH)
        half = SIZE // 2
        plane = torch.complex(vector[:half], vector[half:])
        frequency = torch.tensor([1.0, 0.01])  # a radian a pixel to a radian in 100
        angle = torch.cat([row * frequency, column * frequency])
        plane = plane * torch.polar(torch.ones_like(plane.real), angle.double())
        return torch.cat([plane.real, plane.imag])

    expected = torch.zeros(2, HEIGHT * WIDTH, HEADS * SIZE, dtype=torch.float64)
    for n, t, head in [(n, t, head) for n in range(2) for t in range(HEIGHT * WIDTH) for head in range(HEADS)]:
        part = slice(head * SIZE, (head + 1) * SIZE)
        query, key, value = (m.weight[part] for m in (attention.query, attention.key, attention.value))
        own = turned(query @ features[n, t], t) * attention.sharpness[head]
        scores = torch.stack([own @ turned(key @ features[n, s], s) for s in range(t + 1)]) / math.sqrt(SIZE)
        expected[n, t, part] = scores.softmax(0) @ (features[n, : t + 1] @ value.T)
    expected = (expected @ attention.out.weight.T).mT.unflatten(2, (HEIGHT, WIDTH))
    # The angles are tables in float32.
    torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-5)


def test_the_scores_depend_on_how_far_apart_two_pixels_are():
    attention = layer()
    query, key = torch.randn(2, 1, 1, HEADS, SIZE, dtype=torch.float64)
    every = HEIGHT * WIDTH
    turned = [attention._turn(x.expand(1, every, -1, -1), slice(None))[0] for x in (query, key)]
    scores = torch.einsum("lhs,mhs->lm", *turned).view(HEIGHT, WIDTH, HEIGHT, WIDTH)
    torch.testing.assert_close(scores[1, 1, 0, 3], scores[2, 0, 1, 2], rtol=0, atol=1e-5)
    assert (scores[1, 1, 0, 3] - scores[1, 1, 0, 2]).abs() > 1e-3
    assert (scores[1, 1, 0, 3] - scores[2, 1, 0, 3]).abs() > 1e-3


def test_a_cached_step_gives_what_the_whole_gives():
    attention, x = layer(), some_input(3)
    step = CachedStep(3, WIDTH)
    with torch.no_grad():
        whole = attention(x)
        for i in range(HEIGHT):
            step.begin_row(i)
            for j in range(WIDTH):
                step.begin_pixel(j)
                torch.testing.assert_close(attention(x[:, :, i, j], step), whole[:, :, i, j], rtol=0, atol=1e-12)
            step.end_row()
    assert step.nbytes == 2 * 3 * HEADS * SIZE * HEIGHT * WIDTH * 8, "keys and values in float64"


def test_the_start_has_the_scale_that_it_says():
    sizes = {"heads": 8, "size": 64, "gain": 0.25}
    attention = CausalAttention(512, 512, 1, 1, **sizes).double()
    x = torch.randn(16, 512, 1, 1, dtype=torch.float64)
    with torch.no_grad():
        assert attention(x).std().item() == pytest.approx(0.25, rel=0.05), "one pixel attends to itself alone"


def test_dropout_is_for_training():
    attention, x = layer(dropout=0.5), some_input()
    assert torch.equal(attention(x), attention(x))
    attention.train()
    assert not torch.equal(attention(x), attention(x))


def test_tables_are_not_stored():
    assert set(layer().state_dict()) == {"query.weight", "key.weight", "value.weight", "out.weight", "sharpness"}


def test_sizes_that_cannot_be_turned_are_refused():
    with pytest.raises(ValueError, match="size must be a multiple of 4, not 6"):
        CausalAttention(4, 4, 2, 2, heads=1, size=6)
