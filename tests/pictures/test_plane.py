"""Pictures of the plane: every point in its pixel, y upwards, and the same file each time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import ZooError
from zoo.flows.core import Flow, Normal, Transform
from zoo.model import GenerativeModel
from zoo.pictures import plane
from zoo.pictures.samples import draw
from zoo.spec import DataSpec
from zoo.targets import Energy

BLACK, LIGHT = [0, 0, 4], [252, 253, 191]  # the ends of magma


def brightness(panel: Tensor) -> Tensor:
    """(H, W): the sum of the colours, which grows along magma but for its last steps in red."""
    return panel.double().sum(0)


def normal(x: Tensor, mean: tuple[float, float] = (0.0, 0.0), deviation: float = 1.0) -> Tensor:
    """(N, 2) to (N,) nats, up to a constant."""
    return -0.5 * ((x - torch.tensor(mean)) / deviation).square().sum(1)


# -- colours ------------------------------------------------------------------------------------------------------


def test_equal_steps_of_magma_are_about_equally_lighter():
    colours = plane.magma(np.linspace(0, 1, 256))
    assert (colours[0].tolist(), colours[-1].tolist()) == (BLACK, LIGHT)
    encoded = colours / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    # CIE 1976 L*, from 0 for black to 100 for white.
    light = np.where(luminance > (6 / 29) ** 3, 116 * np.cbrt(luminance) - 16, luminance * (29 / 3) ** 3)
    # The map is uniform by a more recent model of vision; by L* no step is twice or half as large as another should be.
    steps = np.diff(light[::17]) / ((light[-1] - light[0]) / 15)
    assert 0.5 < steps.min() < steps.max() < 2


def test_the_colour_of_a_place_is_its_direction():
    angle = 2 * np.pi * np.arange(6) / 6
    ring = plane._colour_of_place(np.stack([np.cos(angle), np.sin(angle)], -1)).astype(int)
    apart = np.abs(ring[:, None] - ring).sum(-1)
    assert apart[~np.eye(6, dtype=bool)].min() > 60
    middle = plane._colour_of_place(np.zeros(2)).astype(int)
    assert middle.min() > 230
    assert np.ptp(middle) <= 1
    # There is no jump anywhere: of places four times as near, the colours are nearer too.
    jumps = []
    for n in (101, 401):
        x = np.linspace(-1, 1, n)
        square = plane._colour_of_place(np.stack(np.meshgrid(x, x), -1)).astype(int)
        jumps.append(max(np.abs(np.diff(square, axis=axis)).max() for axis in (0, 1)))
    assert jumps[1] < jumps[0] / 2


# -- density ------------------------------------------------------------------------------------------------------


def test_a_normal_is_brightest_in_the_middle_and_round():
    panel = plane.density(normal, size=65)
    assert (panel.dtype, panel.shape) == (torch.uint8, (3, 65, 65))
    assert panel[:, 32, 32].tolist() == LIGHT
    heat = brightness(panel)
    assert (heat[32, 32:].diff() <= 0).all()
    assert torch.equal(panel, panel.flip(1))
    assert torch.equal(panel, panel.flip(2))
    assert torch.equal(panel, panel.mT)
    # Half the peak is at a distance of sqrt(2 log 2).
    half = 32 + round(math.sqrt(2 * math.log(2)) * 65 / 8)
    distance = np.abs(panel[:, 32, half].numpy() - plane.magma(np.array(0.5)).astype(int)).max()
    assert distance < 25


def test_a_density_lies_where_it_is_with_y_upwards():
    # In a picture of 80 pixels, (2.05, 1.05) is the middle of column 60 and of row 29: one tenth a pixel.
    panel = plane.density(lambda x: normal(x, (2.05, 1.05), 0.1), size=80)
    assert panel[:, 29, 60].tolist() == LIGHT
    heat = brightness(panel)
    assert torch.equal(heat[29, 50:60], heat[29, 61:71].flip(0))
    assert torch.equal(heat[19:29, 60], heat[30:40, 60].flip(0))
    assert heat[:20].max() == heat[:, :50].max() == 4


def test_a_uniform_density_fills_its_pixels():
    def log_prob(x: Tensor) -> Tensor:
        inside = (x[:, 0] > 1) & (x[:, 0] < 2) & (x[:, 1] > -3) & (x[:, 1] < -1)
        return torch.where(inside, 0.0, -math.inf)

    panel = plane.density(log_prob, extent=4, size=16)
    light = (panel == torch.tensor(LIGHT)[:, None, None]).all(0)
    assert light.nonzero().tolist() == [[row, column] for row in range(10, 14) for column in (10, 11)]
    assert (panel[:, ~light] == torch.tensor(BLACK)[:, None]).all()
    assert torch.equal(panel, plane.density(lambda x: log_prob(x) + 1000, size=16))
    smaller = plane.density(log_prob, extent=2, size=16)
    assert (smaller[:, 12:, 12:] == torch.tensor(LIGHT)[:, None, None]).all()


def test_a_needle_does_not_darken_the_rest():
    def needle(x: Tensor) -> Tensor:
        # Five times the peak in the one pixel at (0.05, 0.05), of a picture whose sum is 200 pi: 0.8 % of the mass.
        return torch.where((x - 0.05).norm(dim=1) < 0.01, math.log(5), normal(x))

    plain, other = (plane.density(log_prob, size=80).int() for log_prob in (normal, needle))
    assert other[:, 39, 40].tolist() == LIGHT
    assert (plain - other).abs().max() <= 6


def test_no_density_is_black():
    panel = plane.density(lambda x: torch.full((len(x),), -math.inf), size=8)
    assert (panel == torch.tensor(BLACK)[:, None, None]).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_density_that_is_none_is_refused(value):
    def log_prob(x: Tensor) -> Tensor:
        return torch.where((x > 0).all(1), value, 0.0)

    with pytest.raises(ZooError, match=rf"log-density at \(0\.5, 3\.5\) is {value}, which cannot be drawn"):
        plane.density(log_prob, size=8)


# -- samples ------------------------------------------------------------------------------------------------------


def test_a_point_lies_in_its_pixel_with_y_upwards():
    panel = plane.scatter(torch.tensor([[2.05, 1.05]]), size=80)
    heat = brightness(panel)
    assert divmod(int(heat.argmax()), 80) == (29, 60)
    # A round, soft dot of a few pixels.
    assert torch.equal(heat[29, 55:60], heat[29, 61:66].flip(0))
    assert torch.equal(heat[24:35, 60], heat[29, 55:66])
    assert 5 <= int((heat > 4).sum()) < 60
    for corner, place in (((-4, 4), (0, 0)), ((4, 4), (0, 79)), ((-4, -4), (79, 0)), ((4, -4), (79, 79))):
        near = torch.tensor([corner], dtype=torch.float32) * 0.99
        assert divmod(int(brightness(plane.scatter(near, size=80)).argmax()), 80) == place


def test_a_point_between_pixels_is_antialiased():
    heat = brightness(plane.scatter(torch.tensor([[0.0, 0.0]]), size=80))  # where four pixels meet
    assert len(heat[39:41, 39:41].unique()) == 1
    assert heat[39, 39] == heat.max()
    assert torch.equal(heat, heat.flip(0))
    assert torch.equal(heat, heat.flip(1))


def test_more_points_are_lighter_and_their_order_does_not_matter():
    point = torch.tensor([[2.05, 1.05]])
    one, three, many = (brightness(plane.scatter(point.repeat(n, 1), size=80))[29, 60] for n in (1, 3, 100))
    assert 100 < one < three < many
    points = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plane.scatter(points), plane.scatter(points.flip(0)))


def test_points_outside_are_left_out():
    outside = torch.tensor([[5.0, 0], [0, -4.1], [math.nan, 0], [math.inf, 0], [1e30, 1e30]])
    panel = plane.scatter(outside, size=20)
    assert (panel == torch.tensor(BLACK)[:, None, None]).all()
    assert torch.equal(panel, plane.scatter(torch.zeros(0, 2), size=20))


# -- grids --------------------------------------------------------------------------------------------------------


def lines_of(panel: Tensor) -> tuple[list[int], list[int]]:
    """Rows and columns that are bright all the way through the middle fifth of the picture."""
    heat = brightness(panel)
    size = len(heat)
    inside = slice(4 * size // 10, 6 * size // 10)
    rows, columns = heat[:, inside].min(1)[0], heat[inside].min(0)[0]
    return (rows > 150).nonzero().flatten().tolist(), (columns > 150).nonzero().flatten().tolist()


def test_the_grid_of_the_identity_is_regular():
    panel = plane.transported_grid(lambda z: z, size=80, reach=2.0, lines=3)
    # Lines at -2, 0 and 2 lie on the borders of pixels 19 and 20, 39 and 40, 59 and 60.
    assert lines_of(panel) == ([19, 20, 39, 40, 59, 60],) * 2
    heat = brightness(panel)
    assert heat[:18].max() == heat[:, :18].max() == heat[62:].max() == heat[:, 62:].max() == 4
    assert heat[24:36, 24:36].max() == 4


def test_the_grid_goes_where_the_map_takes_it_with_y_upwards():
    shifted = plane.transported_grid(lambda z: z + torch.tensor([-1.0, 1.0]), size=80, reach=2.0, lines=3)
    assert lines_of(shifted) == ([9, 10, 29, 30, 49, 50], [9, 10, 29, 30, 49, 50])
    # Colours belong to places before the map: turned by half a turn, they turn with the grid.
    plain, turned = (plane.transported_grid(lambda z, s=s: s * z, size=80, reach=2.0, lines=3) for s in (1, -1))
    # In cells of ten pixels, with the lines in their middles, a quarter of a pixel does not matter.
    coarse = [F.avg_pool2d(panel[:, 5:75, 5:75].float(), 10) for panel in (plain, turned, turned.flip(1, 2))]
    assert (coarse[0] - coarse[2]).abs().max() < (coarse[0] - coarse[1]).abs().max() / 10


def test_what_comes_from_the_middle_lies_above():
    # All lines along y fall on one, and those along x into points of it.
    panel = plane.transported_grid(lambda z: z * torch.tensor([0.0, 1.0]), size=81, reach=2.0, lines=3)
    assert panel[:, 40, 40].min() > 200
    assert brightness(panel)[:, :39].max() == 4


def test_slanted_lines_are_antialiased():
    def turn(z: Tensor) -> Tensor:
        return z @ torch.tensor([[0.9553, 0.2955], [-0.2955, 0.9553]])

    heat = brightness(plane.transported_grid(turn, size=80, reach=2.0, lines=3))
    assert ((heat > 40) & (heat < 200)).sum() > 100


def test_lines_end_where_the_map_is_not_finite():
    for hole in (math.nan, math.inf):
        panel = plane.transported_grid(lambda z, hole=hole: torch.where(z[:, :1] > 0.1, hole, z), size=80)
        assert brightness(panel)[:, 44:].max() == 4
        assert brightness(panel)[:, :38].max() > 300


def test_lines_may_go_far_outside():
    # All but the lines through the origin leave the picture at once.
    panel = plane.transported_grid(lambda z: 1e30 * z, size=80, lines=3)
    assert lines_of(panel) == ([39, 40], [39, 40])


# -- arrows -------------------------------------------------------------------------------------------------------


def test_an_arrow_points_where_the_field_does_and_is_widest_at_its_tip():
    """One arrow in the middle: its pixels lie along the field, and more of them ahead of the middle than behind."""
    for x, y in ((1.0, 0.0), (0.0, 1.0), (-0.6, 0.8)):
        panel = plane.arrows(lambda start, way=(x, y): torch.tensor([way]).expand_as(start), size=101, across=1)
        light = brightness(panel) - brightness(panel).min()
        row, column = torch.meshgrid(torch.arange(101) - 50, torch.arange(101) - 50, indexing="ij")
        ahead, aside = x * column - y * row, y * column + x * row  # rows go down
        assert float((light * aside).sum() / light.sum()) == pytest.approx(0, abs=0.3)
        assert aside[light > 300].abs().max() <= 4
        assert ahead[light > 100].max() == pytest.approx(0.45 * 101, abs=2)
        assert ahead[light > 100].min() == pytest.approx(-0.45 * 101, abs=2)
        wide = (light > 300) & (aside.abs() > 1)
        assert wide[ahead > 0].sum() > 4 * wide[ahead < 0].sum()


def test_each_place_has_its_arrow_and_strong_ones_are_long_and_light():
    def field(start: Tensor) -> Tensor:
        strength = torch.where(start[:, 0] > 0, 4.0, 1.0)  # four times as strong on the right
        strength = torch.where((start > 0).all(1), torch.nan, strength)
        return torch.stack([strength, torch.zeros(len(start))], 1)

    light = brightness(plane.arrows(field, size=200, across=2))
    cells = light.view(2, 100, 2, 100).transpose(1, 2)
    assert cells[0, 1].max() == 4, "none where there is no number"
    widths = [int((cells[1, k] > 100).any(0).sum()) for k in (0, 1)]
    assert widths[1] == pytest.approx(90, abs=4)
    assert widths[0] == pytest.approx(widths[1] / 2, abs=4), "of the root of a quarter"
    assert cells[1, 0].max() < cells[1, 1].max()


def test_arrows_lie_on_a_darker_panel():
    behind = torch.full((3, 40, 40), 200, dtype=torch.uint8)
    panel = plane.arrows(torch.zeros_like, size=40, behind=behind)
    assert (panel == 110).all(), "a field that is nowhere has no arrow"
    with pytest.raises(ZooError, match=r"A panel of 41 x 41 pixels is drawn on, not \(3, 40, 40\)"):
        plane.arrows(torch.zeros_like, size=41, behind=behind)
    with pytest.raises(ZooError, match="at least 1 arrow in a row, not 0"):
        plane.arrows(torch.zeros_like, across=0)


# -- files --------------------------------------------------------------------------------------------------------


class Shift(Transform):
    """x - (1, 1/2)."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """To the base."""
        return x - torch.tensor([1.0, 0.5]), x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """To the data."""
        return z + torch.tensor([1.0, 0.5]), z.new_zeros(len(z))


class Samples(GenerativeModel):
    """A normal that can only be sampled."""

    def __init__(self, shape: tuple[int, ...] = (2,)) -> None:
        super().__init__()
        self.spec = DataSpec(shape, None)
        self.distribution = Flow(Normal(shape), [Shift()])

    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """`n` points."""
        return self.distribution.sample(n, seed=seed)


class Density(Samples):
    """A normal with a density, which must be asked for in evaluation mode and without a graph."""

    def log_prob(self, x: Tensor) -> Tensor:
        """(N,) nats."""
        assert not self.training
        assert not torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        return self.distribution.log_prob(x)


class Whole(Density):
    """A normal whose flow is known."""

    @property
    def flow(self) -> Flow:
        """The flow."""
        return self.distribution


def test_a_model_is_drawn_with_what_it_has(tmp_path):
    pixels = {}
    for cls, panels in ((Samples, 1), (Density, 2), (Whole, 3)):
        path = draw(cls().train(), tmp_path / f"{cls.__name__}.png", n=500)
        pixels[cls] = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
        # Two pixels of white around all.
        assert pixels[cls].shape == (3, 320 + 4, 320 * panels + 6 * (panels - 1) + 4)
    inside = pixels[Whole][:, 2:-2, 2:-2]
    assert (inside[:, :, 320:326] == 255).all()
    assert (inside[:, :, 646:652] == 255).all()
    model = Whole().eval()
    with torch.no_grad():
        expected = [plane.density(model.log_prob), plane.scatter(model.sample(500, seed=0))]
    for shift, same in ((torch.tensor([1.0, 0.5]), True), (torch.tensor([-1.0, -0.5]), False)):
        grid = plane.transported_grid(lambda z, shift=shift: z + shift)
        assert (plane.save([*expected, grid], tmp_path / "again.png").read_bytes() == path.read_bytes()) == same


def test_equal_models_make_equal_files_and_nothing_else_changes(tmp_path):
    model = Whole().train()
    state = torch.random.get_rng_state()
    one = draw(model, tmp_path / "one.png", n=500)
    with torch.autocast("cpu", torch.bfloat16):
        two = draw(model, tmp_path / "two.png", n=500)
    three = draw(model, tmp_path / "three.png", n=500, seed=1)
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes() != three.read_bytes()
    assert model.training
    assert torch.equal(state, torch.random.get_rng_state())


def test_panels_stand_side_by_side_in_their_order(tmp_path):
    energy = Energy("energy1")
    panels = [plane.density(energy.log_prob, size=32), plane.scatter(energy.sample(50, seed=0), size=32)]
    file = Image.open(plane.save(panels, tmp_path / "two.png"))
    assert file.mode == "P"  # 256 colours are enough for a drawing, and its file is small
    image = np.array(file.convert("RGB"))
    assert image.shape == (36, 2 * 32 + 6 + 4, 3)
    assert (image[2:34, 2:34] == panels[0].permute(1, 2, 0).numpy()).all()
    assert (image[2:34, 40:72] == panels[1].permute(1, 2, 0).numpy()).all()
    assert (image[:, 34:40] == 255).all()


# -- refusals -----------------------------------------------------------------------------------------------------


def test_bad_arguments(tmp_path):
    for panel in (lambda **a: plane.density(normal, **a), lambda **a: plane.scatter(torch.zeros(1, 2), **a)):
        with pytest.raises(ZooError, match="extent must be a positive number, not 0"):
            panel(extent=0)
        with pytest.raises(ZooError, match="extent must be a positive number, not nan"):
            panel(extent=math.nan)
        with pytest.raises(ZooError, match="size must be at least 1 pixel, not 0"):
            panel(size=0)
    with pytest.raises(ZooError, match=r"Points to draw have shape \(N, 2\), not \(3, 1\)"):
        plane.scatter(torch.zeros(3, 1))
    with pytest.raises(ZooError, match=r"Points to draw have shape \(N, 2\), not \(\d+, 1\)"):
        plane.transported_grid(lambda z: z[:, :1])
    with pytest.raises(ZooError, match="at least 2 lines of 1 step, not 1 of 400"):
        plane.transported_grid(lambda z: z, lines=1)
    with pytest.raises(ZooError, match=r"of one height; these are \[\(3, 4, 4\), \(3, 5, 5\)\]"):
        plane.save([torch.zeros(3, 4, 4), torch.zeros(3, 5, 5)], tmp_path / "x.png")
    with pytest.raises(ZooError, match=r"of one height; these are \[\]"):
        plane.save([], tmp_path / "x.png")
    with pytest.raises(ZooError, match="written as PNG"):
        draw(Whole(), tmp_path / "x.jpg")
    with pytest.raises(
        ZooError, match=r"Samples gives vector data of shape \[3\] with continuous values, of which there is no picture"
    ):
        draw(Samples((3,)), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
