"""The benchmarks still run, on tiny models: what they measure is for `make bench` and for GPUs."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from zoo.adversarial import GAN, LAPGAN
from zoo.autoregressive import (
    DARN,
    MADE,
    NADE,
    EoNADE,
    GatedPixelCNN,
    MultiScalePixelRNN,
    PixelCNN,
    PixelCNNPP,
    PixelRNN,
)
from zoo.autoregressive.raster import RasterModel
from zoo.flows import MAF
from zoo.hub import store
from zoo.mixtures import Uniform
from zoo.model import GenerativeModel

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    """A script of tests/benchmarks as a module, imported under the name that its own processes know."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    monkeypatch.delitem(sys.modules, request.param, raising=False)
    return importlib.import_module(request.param)


FAMILIES = {
    "pixelcnn": lambda: PixelCNN(shape=[1, 4, 4], levels=17, channels=4, blocks=1),
    "pixelcnn, binary": lambda: PixelCNN(shape=[1, 4, 4], levels=2, channels=4, blocks=1),
    "gated": lambda: GatedPixelCNN(shape=[1, 4, 4], levels=5, channels=4, blocks=2),
    "gated, labels": lambda: GatedPixelCNN(shape=[3, 3, 2], levels=5, classes=3, channels=6, blocks=2),
    "pixelcnnpp": lambda: PixelCNNPP(shape=[3, 3, 2], levels=9, channels=8, blocks=2, heads=1),
    "pixelcnnpp, softmax": lambda: PixelCNNPP(shape=[1, 4, 4], levels=2, channels=8, blocks=2, heads=1, head="softmax"),
    "row": lambda: PixelRNN(shape=[3, 3, 2], levels=5, layer="row", channels=6, layers=2),
    "diagonal": lambda: PixelRNN(shape=[1, 4, 4], levels=2, layer="diagonal", channels=4, layers=2),
    "multi-scale": lambda: MultiScalePixelRNN(
        shape=[1, 4, 4], levels=2, scale=2, channels=4, layers=1, small_channels=4, small_layers=1
    ),
    "nade": lambda: NADE(shape=[1, 4, 4], hidden=8, ordering_seed=1),
    "eonade": lambda: EoNADE(shape=[1, 4, 4], hidden=8, orderings=3),
    "made": lambda: MADE(shape=[1, 4, 4], hidden=8, masks=3, ordering_seed=1),
    "darn": lambda: DARN(shape=[1, 4, 4], latent_dim=5, width=6, layers=2),
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> GenerativeModel:
    """A tiny model of each family that can sample in both ways, with weights that matter."""
    torch.manual_seed(0)
    return FAMILIES[request.param]().eval()


@pytest.mark.parametrize("script", ["sampling"], indirect=True)
def test_sampling_counts_each_pass(script: ModuleType, family: GenerativeModel):
    """As many passes as values, by which the time of one is multiplied; the first interval is left out."""
    assert script.has_both(family)
    assert len(script.time_plain_passes(family, 3, seed=5, passes=4)) == 4
    times = script.time_plain_passes(family, 3, seed=5, passes=1000)
    assert len(times) == family.spec.dims - 2
    assert min(times) > 0
    expected = family.sample(3, seed=5)
    assert family.sample(3, seed=5, cached=False).equal(expected), "the model is as it was"


@pytest.mark.parametrize("script", ["sampling"], indirect=True)
@pytest.mark.parametrize("limit", [0, 1000], ids=["scaled", "in full"])
def test_sampling_compares_the_values(
    script: ModuleType, family: GenerativeModel, limit: float, monkeypatch: pytest.MonkeyPatch
):
    row = script.compare(family, 3, seed=5, passes=4, limit=limit)
    assert row["values_otherwise"] == 0
    whole = limit or (isinstance(family, RasterModel) and hasattr(family.net, "logits"))
    assert row["values"] == family.spec.dims * (3 if whole else 1)
    assert row["plain_passes_timed"] == (None if limit else 4)
    assert row["plain_seconds"] >= 0
    assert (row["cache_bytes"] is not None) == isinstance(family, RasterModel)
    assert script.line("name", row).endswith(f"0 of {row['values']}")

    sample = family.sample

    def altered(n: int, *, cached: bool, **arguments: Any) -> torch.Tensor:
        x = sample(n, cached=cached, **arguments)
        if cached:  # the last value: in raster order none after it changes
            x[0, -1, -1, -1] = (x[0, -1, -1, -1] + 1) % family.spec.levels
        return x

    monkeypatch.setattr(family, "sample", altered)
    row = script.compare(family, 3, seed=5, passes=4, limit=limit)
    assert row["values_otherwise"] == 1, "it can tell"


@pytest.mark.parametrize("script", ["sampling"], indirect=True)
def test_sampling_takes_all_that_sample_both_ways(script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys):
    models = {"one": FAMILIES["made"](), "two": FAMILIES["diagonal"](), "neither": Uniform(shape=[1, 4, 4])}
    monkeypatch.setattr(script.zoo, "names", lambda: list(models), raising=False)
    monkeypatch.setattr(script.zoo, "load", models.get, raising=False)
    monkeypatch.setattr(sys, "argv", ["sampling.py", "-n", "2", "--threads", "1"])
    script.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["name"] for row in result["results"]] == ["one", "two"]
    monkeypatch.setattr(sys, "argv", ["sampling.py", "neither"])
    with pytest.raises(SystemExit):
        script.main()
    assert "neither is a Uniform, which samples in one way only" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["scaling"], indirect=True)
def test_scaling(script: ModuleType):
    extra = ["--trainer.accelerator=cpu", "--model.channels=4", "--model.blocks=1", "--data.batch_size=8"]
    result = script.measure(ROOT / "recipes/pixelcnn-digits.yaml", 1, warmup=2, steps=3, extra=extra)
    assert result["images"] == 3 * 8
    assert result["devices"] == 1
    assert result["images_per_second"] == pytest.approx(result["images"] / result["seconds"], rel=0.1)


@pytest.mark.parametrize("script", ["recurrent"], indirect=True)
@pytest.mark.parametrize("layer", ["row", "diagonal"])
def test_recurrent(script: ModuleType, layer: str, monkeypatch: pytest.MonkeyPatch, capsys):
    torch.manual_seed(0)
    model = PixelRNN(shape=[3, 4, 5], levels=4, layer=layer, channels=6, layers=2)
    x = torch.randint(0, 4, (3, 3, 4, 5), dtype=torch.uint8)
    loops = script.with_loops(model)
    assert script.disagreement(model, loops, x, torch.float32) < 1e-5
    with torch.no_grad():
        loops.net.layers[0].scan.states[-1].weight.add_(0.1)
    assert script.disagreement(model, loops, x, torch.float32) > 1e-3, "it can tell"
    small = ["--shape", "3", "4", "5", "--levels", "4", "--channels", "6", "--layers", "1", "--batch", "2"]
    quick = ["--device", "cpu", "--compile", "none", "--warmup", "1", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", ["recurrent.py", "--layer", layer, *small, *quick])
    script.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["layer"] == layer
    assert result["gradient_disagreement"] < 0.05
    assert result["scan_images_per_second"] > 0


# Of each layer its weights, stored ones only. A weight is in one product forward and two backward, for its own gradient
# and for its input's; not so the first layer, which reads the image.
ENDS, FIRST = 8 * 8 + 8 * 1, 8 * (4 * 7)  # hidden and head; rows of the 7x7 kernel at and above the centre
EXPAND = 4 * 8


@pytest.mark.parametrize("script", ["training"], indirect=True)
@pytest.mark.parametrize(
    ("build", "layers", "states"),
    [
        (lambda **a: PixelCNN(blocks=1, **a), 8 * 4 + 4 * 4 * (2 * 3), 0),
        # 4 rows of 5 cells; the last product of the gradient, with respect to the states before row 0, is not made.
        (lambda **a: PixelRNN(layer="row", layers=1, **a), 8 * 16 * 2, 16 * (3 * 4) * 5 * (4 + 4 + 3)),
        # 8 diagonals of 4 cells, in both directions.
        (lambda **a: PixelRNN(layer="diagonal", layers=1, **a), 8 * 32, 2 * 16 * (2 * 4) * 4 * (8 + 8 + 7)),
    ],
    ids=["pixelcnn", "row", "diagonal"],
)
def test_training_flops(script: ModuleType, build: Callable[..., GenerativeModel], layers: int, states: int):
    model = build(shape=[1, 4, 5], levels=2, channels=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = 2 * (20 * (3 * (layers + EXPAND + ENDS) + 2 * FIRST) + states)
    assert script.flops(model) == expected
    assert script.flops(model, images=5) == expected
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("script", ["training"], indirect=True)
def test_training_flops_of_attention(script: ModuleType):
    """Of L pixels, and channels h: products with keys and with values, L * L * h, masked or not; 4 more backward."""
    arguments = {"shape": [1, 4, 5], "levels": 4, "channels": 8, "blocks": 1, "heads": 2}
    with_attention = script.flops(PixelCNNPP(attention_every=1, **arguments))
    without = script.flops(PixelCNNPP(attention_every=0, **arguments))
    # Queries, keys, values and what leaves them, from and to a stream of 2h; the layer that reads the pixel before.
    assert with_attention - without == 2 * (3 * 2 * 20 * 20 * 8 + 3 * 20 * 4 * 8 * 16 + 2 * 20 * 16)


@pytest.mark.parametrize("script", ["training"], indirect=True)
def test_training_flops_of_every_family(script: ModuleType, family: GenerativeModel):
    """Each weight is in a product forward and in one or two backward: no family has parts that are not counted."""
    weights = sum(parameter.numel() for parameter in family.parameters() if parameter.ndim > 1)
    assert script.flops(family) > 4 * weights


@pytest.mark.parametrize("script", ["training"], indirect=True)
def test_training_share(script: ModuleType):
    assert script.share("NVIDIA H200", 98.9e12) == pytest.approx(0.1)
    assert script.share("NVIDIA H200 NVL", 98.9e12) is None, "another device"
    assert script.share("CPU", 1e9) is None


@pytest.mark.parametrize("script", ["training"], indirect=True)
def test_training(script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys):
    recipe = str(ROOT / "recipes/pixelcnn-digits.yaml")
    tiny = ["--model.channels=4", "--model.blocks=1", "--data.batch_size=8", "--model.optimizer=muon"]
    quick = ["--warmup", "1", "--steps", "2", "--trainer.accelerator", "cpu"]
    monkeypatch.setattr(sys, "argv", ["training.py", recipe, *quick, *tiny])
    script.main()
    table, last = capsys.readouterr().out.splitlines()[1:]
    (result,) = json.loads(last)["results"]
    assert result["recipe"] == "pixelcnn-digits"
    assert result["images"] == 2 * 8
    assert result["flops_per_image"] == script.flops(PixelCNN(channels=4, blocks=1))
    assert result["share_of_bf16_peak"] is None
    assert table.endswith(" -")


@pytest.mark.parametrize("script", ["training"], indirect=True)
def test_training_leaves_adversarial_models_to_their_own_benchmark(script: ModuleType, tmp_path: Path):
    counter = script.FlopCounter(str(tmp_path / "flops.json"))
    with pytest.raises(SystemExit, match=r"GAN trains two networks in turns: time it with adversarial\.py"):
        counter.setup(None, GAN([1, 8, 8], 17, channels=4), "fit")


ADVERSARIAL = {
    "gan": lambda **a: GAN([1, 8, 8], 17, network="mlp", channels=4, **a),
    "clipped": lambda **a: GAN([1, 8, 8], 17, network="mlp", channels=4, distance="wasserstein", clip=0.01, **a),
    "penalty": lambda **a: GAN([1, 8, 8], 17, channels=4, distance="wasserstein", penalty=10.0, **a),
    "features, labels": lambda **a: GAN([1, 8, 8], 17, classes=10, channels=4, distance="mmd", features=3, **a),
    "lapgan": lambda **a: LAPGAN([1, 8, 8], 17, scales=2, channels=4, **a),
}


@pytest.mark.parametrize("script", ["kernels"], indirect=True)
def test_kernels(script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys):
    tiny = ["--model.channels=4", "--model.blocks=1", "--data.batch_size=16", "--trainer.accelerator=cpu"]
    steps = ["--warmup=2", "--steps=3", "--top=4"]
    monkeypatch.setattr("sys.argv", ["kernels.py", str(ROOT / "recipes" / "pixelcnn-digits.yaml"), *steps, *tiny])
    script.main()
    first, *rows = capsys.readouterr().out.splitlines()
    assert first.startswith("pixelcnn-digits on CPU: ")
    times = [float(row.split()[0]) for row in rows]
    assert len(times) == 4
    assert times == sorted(times, reverse=True)
    assert any("convolution" in row for row in rows)


@pytest.mark.parametrize("script", ["adversarial"], indirect=True)
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_plain_loop_takes_the_steps_of_ours(script: ModuleType, name: str):
    model = ADVERSARIAL[name](critic_steps=2, lr=1e-3)
    loop = script.PlainLoop(model)
    loop.model.load_state_dict(model.state_dict())
    x, label = torch.randint(17, (6, 1, 8, 8), dtype=torch.uint8), torch.randint(10, (6,))
    model.manual_backward = lambda loss: loss.backward()
    torch.manual_seed(0)
    model.critic_pass(x, label if model.spec.classes else None)
    torch.manual_seed(0)
    assert not loop.batch(x, label)
    ours, plain = (
        torch.cat([p.grad.flatten() for p in network.parameters()]) for network in (model.critic, loop.model.critic)
    )
    # Not to rounding: a spectral norm is iterated at each of the plain loop's two passes, and once in ours.
    assert torch.cosine_similarity(ours, plain, dim=0) > 0.99
    torch.testing.assert_close(ours.norm(), plain.norm(), rtol=0.1, atol=0.0)
    before = [parameter.clone() for parameter in loop.model.net.parameters()]
    assert loop.batch(x, label), "every second batch trains the generator"
    assert not all(map(torch.equal, before, loop.model.net.parameters()))


@pytest.mark.parametrize("script", ["adversarial"], indirect=True)
def test_adversarial(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    recipe = tmp_path / "lapgan-cifar10.yaml"
    arguments = {"shape": [1, 8, 8], "levels": 17, "scales": 2, "channels": 4, "critic_steps": 2}
    content = {
        "model": {"class_path": "zoo.adversarial.LAPGAN", "init_args": arguments},
        "data": {"class_path": "zoo.data.CIFAR10", "init_args": {"batch_size": 64, "flip": True}},
    }
    recipe.write_text(json.dumps(content))
    quick = ["--warmup", "1", "--steps", "2", "--rounds", "3", "--batch", "4", "--trainer.accelerator", "cpu"]
    monkeypatch.setattr(sys, "argv", ["adversarial.py", "--recipe", str(recipe), *quick])
    script.main()
    (result,) = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert (result["recipe"], result["batch"], result["hardware"]) == ("lapgan-cifar10", 4, "CPU")
    assert len(result["ours"]) == len(result["plain"]) == 3
    ratios = [ours / plain for ours, plain in zip(result["ours"], result["plain"], strict=True)]
    assert result["ratio"] == pytest.approx(sorted(ratios)[1], abs=0.01)
    recipe.write_text((ROOT / "recipes/pixelcnn-digits.yaml").read_text())
    with pytest.raises(SystemExit, match=r"no adversarial model: time it with training\.py"):
        script.main()


@pytest.mark.parametrize("script", ["flows"], indirect=True)
def test_flows_are_compared_in_rounds(script: ModuleType, monkeypatch: pytest.MonkeyPatch):
    clock, calls = iter(range(10**6)), []
    monkeypatch.setattr(script.time, "process_time", lambda: now[0] + 1e-9 * next(clock))
    now = [0.0]

    def work(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            calls.append(name)
            now[0] += seconds * (1 + len(calls) % 3)  # a machine that others use

        return run

    found = script.compare({"slow": work("slow", 3.0), "fast": work("fast", 1.0)}, rounds=30, seconds=0.1)
    assert calls.count("slow") == calls.count("fast") == 30 + 3, "one to warm up, two to know how long it takes"
    assert found["slow"][1] == 1
    assert found["slow"][0] == pytest.approx(6, rel=0.6)
    assert 0.1 < found["fast"][1] <= 1


@pytest.mark.parametrize("script", ["flows"], indirect=True)
def test_a_step_of_flows_leaves_the_weights(script: ModuleType):
    model = script.zoo_maf(3, direct=False)
    before, x = [parameter.clone() for parameter in model.parameters()], torch.randn(5, 3)
    work = script.step(model, lambda: -model.log_prob(x).mean())
    work()
    work()
    assert all(map(torch.equal, model.parameters(), before))
    assert all(parameter.grad is not None for parameter in model.parameters())
    more = script.parameters(script.zoo_maf(3, direct=True)) - script.parameters(model)
    assert more == script.LAYERS * 2 * 3**2
    forward, inverse = script.inverse(3, 5)[0]["density"].values()
    assert forward()[0].shape == inverse()[0].shape == (5, 3)


@pytest.mark.parametrize("script", ["flows"], indirect=True)
def test_flows_say_what_to_install(script: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    monkeypatch.setattr(sys, "argv", ["flows.py"])
    with pytest.raises(SystemExit, match="pip install zuko normflows"):
        script.main()


@pytest.mark.parametrize("script", ["flows"], indirect=True)
def test_flows(script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys):
    for library in ("zuko", "normflows"):
        pytest.importorskip(library, reason="the benchmark of flows alone needs it")
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["flows.py", "--batch", "4", "--rounds", "1", "--seconds", "0"])
    try:
        script.main()
    finally:
        torch.set_num_threads(threads)
    results = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert {row["name"] for row in results} == set(script.NAMES)
    assert {row["contender"] for row in results} >= {"zoo", "zoo, direct", "zuko", "normflows", "inverse"}
    assert all(row["milliseconds"] > 0 and row["ratio"] > 0 for row in results)
    monkeypatch.setattr(sys, "argv", ["flows.py", "glow"])
    with pytest.raises(SystemExit):
        script.main()
    assert "glow is none of maf-2" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["mixtures"], indirect=True)
def test_mixtures_are_chosen_by_validation_and_measured_on_the_test_split(script: ModuleType, tmp_path: Path):
    generator = torch.Generator().manual_seed(0)

    def rows(n: int) -> np.ndarray:
        which = torch.randint(0, 2, (n, 1), generator=generator)
        return (100 + 5 * which + torch.randn(n, 2, generator=generator, dtype=torch.float64)).numpy()

    data = {"train": rows(2000), "val": rows(500), "test": rows(1000)}
    lines: list[str] = []
    found, nats = script.choose(data, [1, 2], starts=2, report=lines.append)
    assert len(lines) == 2
    assert found["components"] == 2
    # Two Gaussians of unit variance that hardly overlap: the entropy of the choice, and that of a Gaussian.
    assert found["nats"] == pytest.approx(math.log(2) + math.log(2 * math.pi * math.e), abs=5 * found["standard_error"])
    assert found["nats"] == pytest.approx(nats.mean())
    assert found["standard_error"] == pytest.approx(nats.std(ddof=1) / math.sqrt(1000))

    model = MAF(shape=[2], layers=1, hidden=4)
    model.standardize.fit(torch.from_numpy(data["train"]))
    folder = store.save(model, tmp_path / "maf-test", dtype="float32")
    own = -store.load(folder).log_prob(torch.from_numpy(data["test"]).float()).detach().double().numpy()
    gain = script.gain(str(folder), data["test"], own + 0.25)
    assert gain == pytest.approx({"gain": 0.25, "gain_error": 0.0}, abs=1e-9)


@pytest.mark.parametrize("script", ["mixtures"], indirect=True)
def test_mixtures_of_a_recipe(script: ModuleType, tmp_path: Path, capsys):
    recipe = tmp_path / "maf-small.yaml"
    arguments = {"name": "moons", "train": 300, "validation": 50, "test": 50, "batch_size": 10}
    recipe.write_text(json.dumps({"data": {"class_path": "zoo.data.Points", "init_args": arguments}}))
    (result,) = script.main([str(recipe), "--components", "1", "4"])
    assert result["recipe"] == "maf-small"
    assert result["components"] == 4
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    with pytest.raises(SystemExit, match="give fewer components"):
        script.main([str(recipe), "--components", "301"])


@pytest.mark.parametrize("script", ["transport"], indirect=True)
def test_transport(script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(sys, "argv", ["transport.py", "zoo", "--n", "60", "--rounds", "1"])
    script.main()
    value, gradient = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert [value["work"], gradient["work"]] == ["value", "gradient"]
    for row in (value, gradient):
        assert (row["n"], row["contender"], row["ratio"]) == (60, "zoo", 1)
        assert row["error"] < 1e-4
    assert gradient["gradient_error"] < 1e-2
    monkeypatch.setitem(sys.modules, "geomloss", None)
    monkeypatch.setattr(sys, "argv", ["transport.py"])
    with pytest.raises(SystemExit, match="pip install pot geomloss"):
        script.main()


@pytest.mark.parametrize("script", ["transport"], indirect=True)
def test_transport_compares_the_same_divergence(script: ModuleType):
    """Scaled to one unit, all are near the reference: an error of it would be of the order of one."""
    for library in ("ot", "geomloss"):
        pytest.importorskip(library, reason="the benchmark of transport compares with it")
    expected, slope = script.reference(60)
    for name in script.NAMES:
        found = script.measure(name, 60, True)
        assert found["value"] == pytest.approx(expected, rel=0.02)
        assert float((torch.tensor(found["gradient"]).double() - slope).norm() / slope.norm()) < 0.1


@pytest.mark.parametrize("script", ["features"], indirect=True)
def test_features(script: ModuleType):
    """Both make the same statistics of the same images."""

    class Network(torch.nn.Module):
        num_features = 6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.float().flatten(1)[:, :6]

    generator, cpu = torch.Generator().manual_seed(0), torch.device("cpu")
    batches = list(torch.randint(0, 256, (24, 3, 4, 4), generator=generator, dtype=torch.uint8).split(8))
    ours = script.statistics(batches, Network(), cpu)
    for own, theirs in zip(ours, script.of_torchmetrics(batches, Network(), cpu), strict=True):
        torch.testing.assert_close(theirs, own)
    rows = script.compare(batches, Network(), cpu, rounds=2)
    assert [row["contender"] for row in rows] == ["zoo", "torchmetrics", "resize"]
    assert rows[0]["ratio"] == 1
    assert all(row["images_per_second"] > 0 for row in rows)


@pytest.mark.parametrize("script", ["diffusion"], indirect=True)
def test_a_diffusion_is_held_against_networks_of_its_size(script: ModuleType, monkeypatch: pytest.MonkeyPatch):
    layers = [lambda n=n: torch.nn.Linear(n, 1, bias=False) for n in (94, 104, 101)]
    assert script.parameters(script.matched(layers, 100)) == 104, "the first that is close enough"
    with pytest.raises(SystemExit, match="within 5% of 50 parameters: give another --net"):
        script.matched(layers, 50)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setattr(sys, "argv", ["diffusion.py", "sample"])
    with pytest.raises(SystemExit, match="pip install diffusers denoising-diffusion-pytorch"):
        script.main()
    assert set(script.contenders(script.SETTINGS, flash=False, alone=True)) == {"zoo"}


@pytest.mark.parametrize("script", ["diffusion"], indirect=True)
def test_diffusions_are_compared_in_rounds(script: ModuleType, monkeypatch: pytest.MonkeyPatch):
    now, calls = [0.0], []
    monkeypatch.setattr(script.time, "process_time", lambda: now[0])
    monkeypatch.setattr(script.time, "perf_counter", lambda: 2 * now[0])

    def work(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            calls.append(name)
            now[0] += seconds

        return run

    times = script.in_rounds({"zoo": work("zoo", 2.0), "other": work("other", 3.0)}, rounds=4, repeats=5, warmup=1)
    assert calls.count("zoo") == calls.count("other") == 4 * 5 + 1
    assert times["zoo"].processor == pytest.approx([2.0] * 4)
    assert times["other"].wall == pytest.approx([6.0] * 4)
    assert script.ratio(times["other"].wall, times["zoo"].wall) == pytest.approx(1.5)


class Convolution(torch.nn.Conv2d):
    """One layer in the place of a U-Net."""

    def __init__(self) -> None:
        super().__init__(1, 1, 3, padding=1)

    def forward(self, z: torch.Tensor, log_snr: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(z)


@pytest.mark.parametrize("script", ["diffusion"], indirect=True)
def test_diffusions_are_measured(script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys):
    """FLOPs are those of a convolution and of its weights' gradient."""
    net = '{"shape": [1, 8, 8], "channels": 1, "multipliers": [1], "blocks": 1, "attention": []}'

    def results(*arguments: str) -> list[dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["diffusion.py", *arguments, "--net", net, "--rounds", "1"])
        script.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])["results"]

    monkeypatch.setattr(script, "contenders", lambda *_, **__: {"zoo": Convolution(), "other": Convolution()})
    threads = torch.get_num_threads()
    try:
        trained = results("train", "--compile", "none", "--batch", "3", "--repeats", "1")
        drawn = results("sample", "--n", "2", "--steps", "3", "--threads", "1")
        (taken,) = results("memory", "--chunk", "2")
    finally:
        torch.set_num_threads(threads)
    assert [row["contender"] for row in trained] == [row["contender"] for row in drawn] == ["zoo", "other"]
    for row in trained:
        assert (row["parameters"], row["batch"], row["flops_per_image"]) == (10, 3, 2 * 2 * 9 * 64)
        assert row["images_per_second"] > 0
    for row in drawn:
        assert (row["n"], row["steps"]) == (2, 3)
        assert row["processor_seconds"] > 0
    assert trained[0]["ratio"] == drawn[0]["ratio"] == 1
    assert taken["growth"] < 10


@pytest.mark.parametrize("script", ["diffusion"], indirect=True)
def test_a_diffusion_against_diffusers(script: ModuleType):
    for library in ("diffusers", "denoising_diffusion_pytorch"):
        pytest.importorskip(library, reason="the benchmark of diffusions compares with it")
    settings = {**script.SETTINGS, "shape": (3, 16, 16), "multipliers": (1, 1), "blocks": 2}
    nets = script.contenders(settings, flash=False)
    assert set(nets) == {"zoo", "diffusers", "denoising-diffusion-pytorch"}
    count = script.parameters(nets["zoo"])
    z, log_snr = torch.randn(2, 3, 16, 16), torch.tensor([-3.0, 5.0])
    for net in nets.values():
        assert script.parameters(net) == pytest.approx(count, rel=0.05)
        assert net(z, log_snr).shape == z.shape


TOY = """
from zoo.diffusion.gaussian import GaussianDiffusion
from zoo.nn.unet import UNet


class Toy(GaussianDiffusion):
    def __init__(self, shape, channels=32, multipliers=[1, 2], blocks=1):
        super().__init__()
        self.save_hyperparameters()
        self.net = UNet(shape, 3, channels, multipliers, blocks, fourier=(7,))
"""


@pytest.mark.parametrize("script", ["diffusion"], indirect=True)
def test_the_network_of_a_recipe(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "toy_diffusion.py").write_text(TOY)
    recipe = tmp_path / "toy.yaml"
    arguments = {"shape": [3, 16, 16], "channels": 64}
    recipe.write_text(json.dumps({"model": {"class_path": "toy_diffusion.Toy", "init_args": arguments}}))
    assert script.settings_of(recipe) == {
        "shape": [3, 16, 16],
        "channels": 64,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention": (16, 8),
        "fourier": (7,),
    }
    recipe.write_text((ROOT / "recipes/pixelcnn-digits.yaml").read_text())
    with pytest.raises(SystemExit, match=r"trains no U-Net: time it with training\.py"):
        script.settings_of(recipe)
