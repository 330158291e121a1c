"""Features of a reference are computed once, and never taken from a file that has others."""

import pytest
import torch
from interrupted import refused, refused_beyond
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zoo.evaluation.fidelity import features_of_reference


class Counting(nn.Module):
    """In place of Inception: the pixels, times a number; counts the images that it sees."""

    def __init__(self, factor: float = 1.0, identity: str | None = "pixels") -> None:
        super().__init__()
        self.factor, self.seen = factor, 0
        if identity:
            self.identity = identity

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return x.float().flatten(1) * self.factor


@pytest.fixture
def images():
    return torch.randint(256, (30, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def seen(network, images, root):
    """The features, which must be those of the network, and the number of images that it took."""
    before = network.seen
    found = features_of_reference(images, network, "cpu", root)
    assert torch.equal(found, images.float().flatten(1) * network.factor)
    return network.seen - before


def test_a_reference_goes_through_the_network_once(tmp_path, images):
    network = Counting()
    assert seen(network, images, tmp_path) >= 30
    assert seen(network, images, tmp_path) <= 5
    assert seen(Counting(), images, tmp_path) <= 5
    # Other images, as many others of a batch, and another network are others.
    other = images.clone()
    other[-1, -1, -1, -1] ^= 1
    assert seen(network, other, tmp_path) >= 30
    assert seen(network, images[:20], tmp_path) >= 20
    assert seen(network, images.view(30, 1, 2, 8), tmp_path) >= 30
    assert seen(Counting(2.0, "double"), images, tmp_path) >= 30
    assert seen(network, images, tmp_path) <= 5
    assert len(list((tmp_path / "inception" / "features").iterdir())) == 5


def test_they_are_kept_beside_the_network_and_not_among_somebodys_pictures(tmp_path, images):
    network = Counting()
    network.root = tmp_path / "home"
    assert seen(network, images, tmp_path / "pictures") >= 30
    assert seen(network, images, tmp_path / "others") <= 5
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_network_without_a_name_keeps_nothing(tmp_path, images):
    assert seen(Counting(identity=None), images, tmp_path) == 30
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "empty", "shape", "dtype", "values", "nan", "name", "folder"])
def test_what_is_damaged_is_computed_anew(tmp_path, images, damage):
    network = Counting()
    seen(network, images, tmp_path)
    (path,) = (tmp_path / "inception" / "features").iterdir()
    features = load_file(path)["features"]
    last = features.clone()
    last[-1, 0] = torch.nan
    stored = {
        "shape": {"features": features[:-1].clone()},
        "dtype": {"features": features.double()},
        "values": {"features": features + 1},
        "nan": {"features": last},
        "name": {"others": features},
    }
    if damage in stored:
        save_file(stored[damage], path)
    elif damage == "folder":
        path.unlink()
        path.mkdir()
        (path / "file").touch()
    else:
        path.write_bytes(path.read_bytes()[:-4] if damage == "truncated" else b"")
    assert seen(network, images, tmp_path) >= 30
    assert seen(network, images, tmp_path) <= 5 or damage == "folder"
    assert list((tmp_path / "inception" / "features").iterdir()) == [path]


def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path, images):
    (tmp_path / "inception").write_text("a file where the folder would be")
    network = Counting()
    assert seen(network, images, tmp_path) >= 30
    assert seen(network, images, tmp_path) >= 30


def test_a_disk_that_is_full_only_costs_time(tmp_path, images):
    def found():
        assert torch.equal(features_of_reference(images, Counting(), "cpu", tmp_path), images.float().flatten(1))

    assert refused_beyond(found, 100) is None
    assert refused(found, 1) is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [refused(found, step) for step in range(2, 7)] == [None] * 5
