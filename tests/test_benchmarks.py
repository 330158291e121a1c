"""The benchmarks still run, on tiny models: what they measure is for `make bench` and for GPUs."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from zoo.autoregressive import PixelCNN, PixelRNN

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    """A script of tests/benchmarks as a module, imported under the name that its own processes know."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    monkeypatch.delitem(sys.modules, request.param, raising=False)
    return importlib.import_module(request.param)


@pytest.mark.parametrize("benchmark", ["sampling"], indirect=True)
@pytest.mark.parametrize("levels", [2, 17])
def test_sampling(benchmark: ModuleType, levels: int):
    torch.manual_seed(0)
    model = PixelCNN(shape=[1, 4, 4], levels=levels, channels=4, blocks=1).eval()
    seconds, x = benchmark.time_cached(model, 3, seed=5)
    assert seconds > 0
    assert x.equal(model.sample(3, seed=5, cached=False))
    assert benchmark.disagreements(model, x, seed=5) == 0
    altered = x.clone()
    altered[0, 0, 3, 3] = (x[0, 0, 3, 3] + 1) % levels  # the last value: none after it changes
    assert benchmark.disagreements(model, altered, seed=5) == 1
    assert len(benchmark.time_plain_passes(model, 3, seed=5, passes=4)) == 4


@pytest.mark.parametrize("benchmark", ["scaling"], indirect=True)
def test_scaling(benchmark: ModuleType):
    extra = ["--trainer.accelerator=cpu", "--model.channels=4", "--model.blocks=1", "--data.batch_size=8"]
    result = benchmark.measure(ROOT / "recipes/pixelcnn-digits.yaml", 1, warmup=2, steps=3, extra=extra)
    assert result["images"] == 3 * 8
    assert result["devices"] == 1
    assert result["images_per_second"] == pytest.approx(result["images"] / result["seconds"], rel=0.1)


@pytest.mark.parametrize("benchmark", ["recurrent"], indirect=True)
@pytest.mark.parametrize("layer", ["row", "diagonal"])
def test_recurrent(benchmark: ModuleType, layer: str, monkeypatch: pytest.MonkeyPatch, capsys):
    torch.manual_seed(0)
    model = PixelRNN(shape=[3, 4, 5], levels=4, layer=layer, channels=6, layers=2)
    x = torch.randint(0, 4, (3, 3, 4, 5), dtype=torch.uint8)
    loops = benchmark.with_loops(model)
    assert benchmark.disagreement(model, loops, x, torch.float32) < 1e-5
    with torch.no_grad():
        loops.net.layers[0].scan.states[-1].weight.add_(0.1)
    assert benchmark.disagreement(model, loops, x, torch.float32) > 1e-3, "it can tell"
    small = ["--shape", "3", "4", "5", "--levels", "4", "--channels", "6", "--layers", "1", "--batch", "2"]
    quick = ["--device", "cpu", "--compile", "none", "--warmup", "1", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", ["recurrent.py", "--layer", layer, *small, *quick])
    benchmark.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["layer"] == layer
    assert result["gradient_disagreement"] < 0.05
    assert result["scan_images_per_second"] > 0
