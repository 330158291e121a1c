"""The network of FID on its images; resizing against its definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from zoo.errors import DataError
from zoo.metrics import Inception, features_of, frechet_distance, inception, kernel_distance, resize


def images(n: int, seed: int, low: int = 0) -> Tensor:
    return torch.randint(low, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


# -- the network and its images ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 7), (32, 32), (299, 299), (301, 300)])
def test_resizing_is_linear_between_rows_and_columns(shape: tuple[int, int]):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = resize(image[None, None], 299)[0, 0]

    def value(i: int, j: int) -> float:
        y, x = i * shape[0] / 299, j * shape[1] / 299
        top, left = int(y), int(x)
        bottom, right = min(top + 1, shape[0] - 1), min(left + 1, shape[1] - 1)
        above = image[top, left] * (1 - (x - left)) + image[top, right] * (x - left)
        below = image[bottom, left] * (1 - (x - left)) + image[bottom, right] * (x - left)
        return float(above * (1 - (y - top)) + below * (y - top))

    for i, j in ((0, 0), (298, 298), (150, 17), (3, 290), (100, 100)):
        assert float(result[i, j]) == pytest.approx(value(i, j))


class Scripted(nn.Module):
    """In place of the TorchScript file: the means of the scaled and resized image."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean([2, 3])


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / inception.FILE
    path.parent.mkdir()
    torch.jit.script(Scripted()).save(path)
    monkeypatch.setattr(inception, "SHA256", inception.hashlib.sha256(path.read_bytes()).hexdigest())
    return path


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_images_come_scaled_and_resized_and_grey_ones_in_three_colours(file, tmp_path):
    network = Inception(tmp_path)
    x = images(3, 0)
    expected = ((resize(x.float(), 299) - 128) / 128).mean([2, 3])
    torch.testing.assert_close(network(x), expected)
    torch.testing.assert_close(network(x[:, :1]), expected[:, :1].expand(-1, 3))
    assert not network.train().training
    assert not network(x).requires_grad


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_bad_input_is_named(file, tmp_path):
    network = Inception(tmp_path)
    with pytest.raises(DataError, match=r"Inception takes images uint8 .*, not torch.float32 \(2, 3, 4, 4\)"):
        network(torch.zeros(2, 3, 4, 4))
    file.write_bytes(b"other")
    with pytest.raises(DataError, match="is damaged, or not the network of FID: remove it"):
        Inception(tmp_path)
    file.unlink()
    with pytest.raises(DataError, match=r"FID needs its network, and there is no .*: fetch that file, or pip install"):
        Inception(tmp_path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchmetrics_need_not_try_it_on_an_image(file, tmp_path, monkeypatch):
    """It would try one on the CPU, where a network on a GPU fails."""
    network = Inception(tmp_path)
    monkeypatch.setattr(Inception, "forward", lambda *given: pytest.fail("It was tried."))
    assert FrechetInceptionDistance(feature=network).real_features_sum.shape == (2048,)


# -- on the real network -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Metric `Kernel:UserWarning")
def test_on_inception_fid_and_kid_are_torchmetrics(real_data):
    """Of few images, whose covariances have mostly zeros for eigenvalues, of which torchmetrics takes complex roots."""
    network = Inception(real_data("inception"))
    real, fake = images(6, 0), images(6, 1, 60)
    fid = FrechetInceptionDistance(feature=network, input_img_size=(3, 8, 8))
    kid = KernelInceptionDistance(feature=network, subsets=1, subset_size=6)
    for theirs in (fid, kid):
        theirs.update(real, real=True)
        theirs.update(fake, real=False)
    x, y = (features_of([part], network) for part in (real, fake))
    assert x.shape == (6, 2048)
    assert float(frechet_distance(x, y)) == pytest.approx(float(fid.compute()), rel=1e-3)
    mean, _ = kernel_distance(x, y, subsets=1, size=6)
    assert float(mean) == pytest.approx(float(kid.compute()[0]), rel=1e-3, abs=2e-6)
