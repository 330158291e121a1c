"""What a stranger's results make `evaluate` do: it ends."""

import pytest
import torch

from zoo.autoregressive import DARN
from zoo.batch import Batch
from zoo.errors import DataError, ZooError
from zoo.evaluation import fidelity
from zoo.evaluation.choice import choose
from zoo.evaluation.likelihood import MOST_SAMPLES, own_samples
from zoo.flows import MAF


def results(*samples: int) -> dict:
    result = {"metric": "nats", "kind": "upper", "value": 1.0, "n": 1, "split": "test", "dataset": "", "protocol": ""}
    return {"results": [result | {"samples": count} for count in samples]}


@pytest.mark.parametrize("samples", [(2**62,), (MOST_SAMPLES + 1,), tuple(range(1, 1001)), (2, 3, 10**9)])
def test_results_of_samples_without_end_are_not_taken_again_unasked(samples):
    model = DARN(shape=[1, 2, 2], latent_dim=2, width=2)
    with pytest.raises(ZooError, match="say how many with samples") as caught:
        choose(model, None, results(*samples))
    assert len(str(caught.value)) < 500
    (found,) = choose(model, [], results(*samples), samples=3)
    assert found.samples == 3


def test_results_of_papers_are_taken_again():
    assert own_samples(results(1, 500, 5000, 5000), "nats") == [1, 500, 5000]
    assert own_samples(results(2**62), "bits_per_dim") == [1]


def test_the_energy_distance_is_not_of_more_points_than_ends(monkeypatch):
    monkeypatch.setattr(fidelity, "POINTS", 25)
    measurement = fidelity.PointFidelity(MAF(shape=[2], layers=1, hidden=2).eval())
    for _ in range(2):
        measurement.update(Batch(torch.randn(10, 2)))
    with pytest.raises(DataError, match="set limit"):
        measurement.update(Batch(torch.randn(10, 2)))
