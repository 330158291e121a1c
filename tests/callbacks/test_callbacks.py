"""Averaged weights, compilation, sample grids, the time budget and the record of a run."""

from __future__ import annotations

import functools
import itertools
import math
import re
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image
from tiny_runs import BATCH, Patches, Stop, differences, fit, last, patch_model, read, sealed
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.adversarial import GAN
from zoo.autoregressive import PixelCNN
from zoo.callbacks import speed
from zoo.callbacks.cuda_graphs import CUDAGraphs
from zoo.callbacks.ema import EMA
from zoo.callbacks.pictures import SampleGrid
from zoo.callbacks.run import ProgressBar, SaveLast
from zoo.callbacks.speed import Compile, TimeBudget
from zoo.data import Digits, Points
from zoo.diffusion import EDM
from zoo.errors import DataError
from zoo.flows import MAF
from zoo.model import GenerativeModel, entry
from zoo.nn.replay import WARMUP, Replayed
from zoo.pictures import images as pictures
from zoo.pictures.samples import draw
from zoo.spec import DataSpec


@pytest.fixture(autouse=True)
def _untouched(monkeypatch):
    with sealed(monkeypatch):
        yield


def copy(model: torch.nn.Module) -> dict[str, Tensor]:
    return {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}


class Watch(Callback):
    """Notes the weights after each optimizer step, and those that validation sees."""

    def __init__(self) -> None:
        self.current: dict[int, dict[str, Tensor]] = {}
        self.validated: dict[int, dict[str, Tensor]] = {}
        self.metrics: dict[int, float] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.current[trainer.global_step] = copy(pl_module)

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.validated[trainer.global_step] = copy(pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.metrics[trainer.global_step] = trainer.callback_metrics["val_nats"].item()
        for key, tensor in pl_module.state_dict().items():
            assert torch.equal(tensor, self.current[trainer.global_step][key]), "put back after validation"


# -- EMA -----------------------------------------------------------------------------------------------------


def averages(current: dict[int, dict[str, Tensor]], decay: float) -> dict[int, dict[str, Tensor]]:
    """By hand, in float64: average = d average + (1 - d) weights, with d = min(decay, (1 + t) / (10 + t))."""
    result: dict[int, dict[str, Tensor]] = {}
    for step, weights in current.items():
        t = step - 1
        d = min(decay, (1 + t) / (10 + t)) if t else 0.0
        before = result.get(step - 1, weights)
        result[step] = {key: before[key].double() * d + weights[key].double() * (1 - d) for key in weights}
    return result


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}], ids=["", "accumulated"])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9995])
def test_ema_is_its_recursion(tmp_path, decay, settings):
    watch = Watch()
    model, _ = fit(tmp_path, watch, EMA(decay), max_steps=22, **settings)
    expected = averages(watch.current, decay)
    kept = last(tmp_path)
    assert set(kept["state_dict"]) == set(model.state_dict())
    for key, tensor in expected[22].items():
        for average in (kept["state_dict"][key], model.state_dict()[key]):
            torch.testing.assert_close(average.double(), tensor, rtol=0, atol=1e-6)
        assert torch.equal(kept["current_model_state"][key], watch.current[22][key])
    if decay:
        assert list(differences(kept["state_dict"], kept["current_model_state"], "weights"))


def test_validation_uses_the_average(tmp_path):
    watch, data = Watch(), Patches()
    fit(tmp_path, watch, EMA(0.9), data=data, max_steps=20)
    expected = averages(watch.current, 0.9)
    assert list(watch.metrics) == [10, 20]
    for step, metric in watch.metrics.items():
        for key, tensor in expected[step].items():
            torch.testing.assert_close(watch.validated[step][key].double(), tensor, rtol=0, atol=1e-6)
        model = patch_model().eval()
        model.load_state_dict(watch.validated[step])
        with torch.no_grad():
            assert metric == pytest.approx(-model.log_prob(data.val[0]).mean().item(), rel=1e-6)


def test_an_average_of_one_run_does_not_hold_up_the_next(tmp_path):
    average = EMA(0.9)
    (first, _), (second, _) = (fit(tmp_path / name, average, max_steps=7) for name in "ab")
    torch.testing.assert_close(first.state_dict(), second.state_dict())


class Buffers(PixelCNN):
    """A permutation and a count beside the weights."""

    def __init__(self) -> None:
        super().__init__(shape=[1, 4, 4], levels=2, channels=2, blocks=1)
        self.register_buffer("permutation", torch.tensor([2, 0, 1]))
        self.register_buffer("seen", torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen += 1
        self.permutation.copy_(self.permutation.roll(1))
        return super().training_step(batch, batch_idx)


def test_buffers_are_copied_and_not_averaged(tmp_path):
    model, _ = fit(tmp_path, EMA(0.9), model=Buffers(), max_steps=7)
    state = last(tmp_path)["state_dict"]
    for permutation, seen in (
        (model.permutation, model.seen),
        (state["permutation"], state["seen"]),
    ):
        assert permutation.tolist() == [1, 2, 0]
        assert seen.item() == 7


class NoReading(TorchDispatchMode):
    """Raises where the value of a tensor is asked for, which on a GPU waits for all that comes before."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function is not torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


class Unread(Callback):
    """From the third batch on, no value may be read until the tenth is over."""

    def __init__(self) -> None:
        self.no_reading = NoReading()

    def on_train_start(self, trainer: Any, *_: Any) -> None:
        for optimizer in trainer.optimizers:  # as on a GPU
            for group in optimizer.param_groups:
                group["fused"] = True

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 2:
            self.no_reading.__enter__()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 9:
            self.no_reading.__exit__(None, None, None)

    def on_exception(self, *_: Any) -> None:
        self.no_reading.__exit__(None, None, None)


class NoWait(Callback):
    """From the third batch on, PyTorch raises where anything waits for the GPU."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 2:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 9:
            torch.cuda.set_sync_debug_mode("default")

    def on_exception(self, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")  # what tidies up afterwards may wait


def small_diffusion() -> EDM:
    """With all that training draws: noise levels, noise, hidden labels, dropout."""
    network = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "dropout": 0.1}
    return EDM([1, 8, 8], 17, classes=10, label_dropout=0.1, optimizer="muon", **network)


WITHOUT_WAITING = {
    "adamw": (lambda: patch_model(optimizer="adamw"), Patches, {"gradient_clip_val": 1.0}),
    "muon": (lambda: patch_model(optimizer="muon"), Patches, {"gradient_clip_val": 1.0}),
    "a diffusion": (small_diffusion, Digits, {"gradient_clip_val": 1.0}),
    "two networks": (lambda: GAN([1, 8, 8], 17, channels=4, critic_norm="spectral"), Digits, {}),
}


@pytest.mark.parametrize("name", WITHOUT_WAITING)
def test_a_step_reads_no_value(tmp_path, monkeypatch, name):
    # What looks for NaN takes only copies that have come from a GPU: on a CPU, at once.
    monkeypatch.setattr(GenerativeModel, "watch", lambda self, *_: None)
    monkeypatch.setattr(entry, "_on_gpu", lambda x: isinstance(x, Tensor))
    build, data, settings = WITHOUT_WAITING[name]
    settings = {"log_every_n_steps": 100, "max_steps": 12, **settings}
    for bars in ([], [ProgressBar()]):
        settings["enable_progress_bar"] = bool(bars)
        average = EMA(width=0.1, others=[0.05])
        _, trainer = fit(tmp_path, average, Unread(), *bars, model=build(), data=data(), **settings)
        assert trainer.global_step >= 12
    with pytest.raises(AssertionError), NoReading():
        bool(torch.tensor(1) > 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU can be waited for")
@pytest.mark.parametrize("name", WITHOUT_WAITING)
def test_a_step_waits_for_no_gpu(tmp_path, name):
    build, data, settings = WITHOUT_WAITING[name]
    settings = {"accelerator": "gpu", "precision": "bf16-mixed", "log_every_n_steps": 100, **settings}
    fit(tmp_path / "plain", EMA(0.9), NoWait(), model=build(), data=data(), max_steps=12, **settings)
    if build().captured:
        fit(tmp_path, EMA(0.9), NoWait(), CUDAGraphs(), model=build(), data=data(), max_steps=12, **settings)


@pytest.mark.parametrize("decay", [-0.1, 1, 1.5])
def test_bad_decay(decay):
    with pytest.raises(ValueError, match=rf"decay must be in \[0, 1\), not {decay}"):
        EMA(decay)


# -- Compile -------------------------------------------------------------------------------------------------


class Losses(Callback):
    """Notes each batch's loss."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(outputs["loss"].item())


def undropped() -> PixelCNN:
    """The same weights each time, without dropout, whose masks depend on the layout of memory."""
    torch.manual_seed(1)
    return patch_model(dropout=0.0)


@pytest.fixture
def traced(monkeypatch):
    """torch.compile with a backend that runs the graphs as they are; gives (compilations, runs)."""
    counts = types.SimpleNamespace(compilations=0, runs=0)

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        counts.compilations += 1

        def run(*arguments: Any) -> Any:
            counts.runs += 1
            return graph.forward(*arguments)

        return run

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    yield counts
    torch._dynamo.reset()


def test_compilation_changes_neither_names_nor_losses(tmp_path, traced):
    eager, compiled = Losses(), Losses()
    first, _ = fit(tmp_path / "eager", eager, EMA(0.9), model=undropped(), max_steps=20)
    assert traced.compilations == 0
    second, _ = fit(tmp_path / "compiled", compiled, Compile(), EMA(0.9), model=undropped(), max_steps=20)
    # One shape in training; validation has batches of 3 and 2 images and runs as it is.
    assert (traced.compilations, traced.runs) == (1, 20)
    assert compiled.losses == pytest.approx(eager.losses, rel=1e-5)
    assert list(first.state_dict()) == list(second.state_dict())
    assert list(last(tmp_path / "compiled")["state_dict"]) == list(patch_model().state_dict())
    second.eval().sample(1, seed=0)
    assert traced.compilations == 1, "sampling runs as it is"


def test_a_compiled_run_resumes(tmp_path, traced):
    fit(tmp_path / "whole", Compile(), EMA(0.9), max_steps=20)
    fit(tmp_path / "parts", Compile(), EMA(0.9), Stop(7), max_steps=20)
    path = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    fit(tmp_path / "parts", Compile(), EMA(0.9), max_steps=20, ckpt_path=path)
    assert not list(differences(last(tmp_path / "whole"), last(tmp_path / "parts")))


def test_a_compiler_gets_the_options_of_the_mode_and_others(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda call, **how: asked.append(how) or call)
    fit(tmp_path / "mode", Compile("reduce-overhead"), max_steps=1)
    fit(tmp_path / "both", Compile("reduce-overhead", {"max_autotune": True}), max_steps=1)
    assert asked == [
        {"dynamic": False, "mode": "reduce-overhead"},
        {"dynamic": False, "options": {"triton.cudagraphs": True, "max_autotune": True}},
    ]


class Convolutions(torch.nn.Sequential):
    """Layers with a forward pass of their own: PyTorch 2.11 does not compile that of `Sequential`."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


class Cube(GenerativeModel):
    """A model with weights of 2d and 3d convolutions and of neither, and buffers like them."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"lr": 1e-3, "warmup": 2, "weight_decay": 0.0})
        self.spec = DataSpec((1, 4, 4), 2)
        self.net = Convolutions(
            torch.nn.Conv3d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(1, 2), torch.nn.Conv2d(16, 4, 3)
        )
        self.head = torch.nn.Linear(16, 1)
        self.register_buffer("mask", torch.ones(2, 3, 4, 5))
        self.register_buffer("cube", torch.ones(2, 3, 4, 5, 6))

    def elbo(self, x: Tensor, *, samples: int = 1, seed: int | None = None) -> Tensor:
        cube = x.float()[:, :, None].expand(-1, -1, 4, -1, -1)
        return -self.head(self.net(cube).flatten(1)).square()[:, 0]


def test_convolutions_of_films_have_their_own_layout(tmp_path, traced):
    model = Cube()
    values = copy(model)
    Compile().setup(None, model, "fit")
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    seen = {key: tensor for key, tensor in model.state_dict().items() if tensor.dim() > 3}
    assert set(seen) == {"net.0.weight", "net.3.weight", "mask", "cube"}
    for key, tensor in seen.items():
        assert tensor.is_contiguous(memory_format=formats[tensor.dim()]), key
        assert torch.equal(tensor, values[key])
    fit(tmp_path, Compile(), EMA(0.9), model=model, max_steps=3)
    assert traced.runs == 3


def test_what_has_no_such_convolution_is_laid_out_as_by_to():
    one, other = undropped(), undropped()
    Compile().setup(None, one, "fit")
    other.to(memory_format=torch.channels_last)
    for first, second in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert first.stride() == second.stride()
        assert torch.equal(first, second)


# -- CUDAGraphs ----------------------------------------------------------------------------------------------

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs are those of a GPU")
PASSES = {
    "batch normalization": {"network": "dcgan", "critic_norm": "batch"},
    "penalty": {"network": "dcgan", "distance": "sinkhorn", "features": 4, "penalty": 1.0, "critic_steps": 2},
    "labels": {"network": "resnet", "critic_norm": "spectral", "distance": "hinge", "classes": 10},
}


def two_networks(name: str) -> GAN:
    torch.manual_seed(1)
    return GAN([1, 8, 8], 17, channels=4, **PASSES[name])


@on_a_gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("compiled", [False, True])
def test_captured_passes_train_as_others(tmp_path, compiled, name, precision):
    settings = {"max_steps": 20, "accelerator": "gpu", "precision": precision, "deterministic": "warn"}
    callbacks = [EMA(0.9), *[Compile()] * compiled]
    first, _ = fit(tmp_path / "plain", *callbacks, model=two_networks(name), data=Digits(), **settings)
    callbacks.append(CUDAGraphs())
    second, _ = fit(tmp_path / "graphs", *callbacks, model=two_networks(name), data=Digits(), **settings)
    for (key, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=key)
    assert not {"critic_pass", "generator_pass"} & vars(second).keys(), "the methods are back"


@on_a_gpu
def test_a_capture_sees_other_values_and_takes_other_shapes():
    weight = torch.nn.Parameter(torch.ones(3, device="cuda"))

    def passed(x: Tensor, none: None) -> Tensor:
        weight.grad = None
        loss = (weight * x).sum()
        loss.backward()
        return loss.detach()

    replayed = Replayed(passed, [weight])
    for i in range(WARMUP + 3):
        n = 2 if i == WARMUP + 1 else 5
        x = torch.full((n, 3), float(i), device="cuda")
        with torch.no_grad():
            weight.fill_(i)
        assert replayed(x, None).item() == 3 * n * i * i
        assert weight.grad.tolist() == [n * i] * 3


def test_nothing_is_captured_on_a_cpu(tmp_path):
    seen = []

    class Passes(GAN):
        def critic_pass(self, *parts):
            seen.append(type(self.critic_pass))
            return super().critic_pass(*parts)

    fit(tmp_path, CUDAGraphs(), model=Passes([1, 8, 8], 17, channels=4), data=Digits(), max_steps=2)
    assert seen == [types.MethodType] * 2


def test_a_model_without_passes_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"PixelCNN has no pass that CUDAGraphs captures: take it out") as caught:
        fit(tmp_path, CUDAGraphs(), max_steps=1)
    assert "\n" not in str(caught.value)


# -- SampleGrid ----------------------------------------------------------------------------------------------


def test_a_grid_at_each_validation_from_the_average(tmp_path):
    watch = Watch()
    model, _ = fit(tmp_path, watch, SampleGrid(n=5, seed=3), EMA(0.9), max_steps=20)
    grids = sorted((tmp_path / "samples").iterdir())
    assert [grid.name for grid in grids] == ["step-0000010.png", "step-0000020.png"]
    assert model.training, "it was training, so it is again"
    for step, path in zip((10, 20), grids, strict=True):
        drawn = patch_model()
        drawn.load_state_dict(watch.validated[step])
        expected = pictures.grid(drawn.sample(5, seed=3), 2)
        assert (np.asarray(Image.open(path)) == expected[0].numpy()).all()


def test_grids_at_some_validations_also_after_a_resume(tmp_path):
    fit(tmp_path, SampleGrid(every_n_validations=2), Stop(25), max_steps=45)
    path = tmp_path / "checkpoints" / "last.ckpt"
    fit(tmp_path, SampleGrid(every_n_validations=2), max_steps=45, ckpt_path=path)
    names = [grid.name for grid in sorted((tmp_path / "samples").iterdir())]
    assert names == ["step-0000020.png", "step-0000040.png"]
    fit(tmp_path / "none", SampleGrid(every_n_validations=0), max_steps=20)
    assert not (tmp_path / "none" / "samples").exists()


def test_no_grid_in_the_sanity_check(tmp_path):
    fit(tmp_path, SampleGrid(), max_steps=5, num_sanity_val_steps=2)
    assert not (tmp_path / "samples").exists()


def test_a_model_of_points_leaves_a_figure(tmp_path):
    data = Points("moons", train=64, validation=16, test=16, batch_size=32)
    model, _ = fit(tmp_path, SampleGrid(seed=3), model=MAF(shape=[2], layers=1, hidden=4), data=data, max_steps=2)
    draw(model, tmp_path / "expected.png", seed=3)
    assert (tmp_path / "samples" / "step-0000002.png").read_bytes() == (tmp_path / "expected.png").read_bytes()


# -- Record --------------------------------------------------------------------------------------------------


def record(folder: Path) -> dict[str, Any]:
    return last(folder)["callbacks"]["RunRecord"]


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 3}], ids=["", "accumulated"])
def test_a_record_holds_what_the_card_needs(tmp_path, settings):
    fit(tmp_path, max_steps=12, **settings)
    kept = record(tmp_path)
    batches = last(tmp_path)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"]
    assert kept["images"] == batches * BATCH
    assert kept["images_per_second"] == pytest.approx(kept["images"] / kept["seconds"])
    assert kept["class_path"] == "zoo.autoregressive.PixelCNN"
    own = {"title": "patches", "hub_id": None}
    assert kept["data"] == {"class_path": "tiny_runs.Patches", "init_args": {"binarized": True}, **own}
    assert kept["hardware"].startswith("1 x CPU (")
    assert (kept["precision"], kept["torch"]) == ("32-true", str(torch.__version__))


def test_a_resumed_record_goes_on_counting(tmp_path):
    fit(tmp_path, Stop(13))
    before = record(tmp_path)
    assert before["images"] == 13 * BATCH
    fit(tmp_path, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    after = record(tmp_path)
    assert after["images"] == 25 * BATCH
    assert after["seconds"] > before["seconds"]


def test_a_line_at_each_validation_where_there_is_no_bar(tmp_path, capsys):
    fit(tmp_path, max_steps=20, num_sanity_val_steps=1)
    lines = [line for line in capsys.readouterr().err.splitlines() if "images/s" in line]
    assert len(lines) == 2
    assert all(text in lines[1] for text in ("min", "step 20", "train_nats", "val_nats"))
    fit(tmp_path, max_steps=10, enable_progress_bar=True)
    assert "images/s" not in capsys.readouterr().err


# -- ProgressBar ---------------------------------------------------------------------------------------------


def test_a_bar_shows_what_is_logged_when_it_is_drawn(tmp_path, capsys):
    losses, bar = Losses(), ProgressBar(refresh_rate=4)
    fit(tmp_path, losses, bar, max_steps=10, enable_progress_bar=True)
    drawn = capsys.readouterr().out.replace("\r", "\n").splitlines()
    found = (re.search(r"(\d+)/10 .* train_nats=([\d.]+)\]", line) for line in drawn)
    shown = {int(each[1]): each for each in found if each}  # a line comes twice: the second time with its own numbers
    assert shown.keys() == {4, 8, 10}
    for batches, each in shown.items():
        assert float(each[2]) == pytest.approx(losses.losses[batches - 1], abs=0.05)
    assert "val_nats=" in shown[10][0]


# -- Last ----------------------------------------------------------------------------------------------------


class Files(Callback):
    """Notes which optimizer step last.ckpt holds at the start of each batch."""

    def __init__(self) -> None:
        self.held: dict[int, int | None] = {}

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        path = Path(trainer.default_root_dir, "checkpoints", "last.ckpt")
        self.held[trainer.global_step] = read(path)["global_step"] if path.exists() else None


def test_last_is_the_last_validation_also_when_it_is_not_the_best(tmp_path):
    files, watch = Files(), Watch()
    fit(tmp_path, files, watch, model=patch_model(lr=1.0), max_steps=45)
    assert any(later > earlier for earlier, later in itertools.pairwise(watch.metrics.values()))
    assert list(files.held.values()) == [None] * 10 + [10] * 10 + [20] * 10 + [30] * 10 + [40] * 5
    assert last(tmp_path)["global_step"] == 45


def test_last_at_the_steps_asked_for(tmp_path):
    files = Files()
    fit(tmp_path, files, SaveLast(every_n_steps=4), max_steps=9, accumulate_grad_batches=2)
    assert list(files.held.values()) == [None] * 4 + [4, 5, 5, 5, 8], "5 is the end of the first epoch"


@pytest.mark.parametrize("settings", [{"max_epochs": 2}, {"max_epochs": 2, "check_val_every_n_epoch": 5}])
def test_last_at_the_end_of_the_epochs(tmp_path, settings):
    fit(tmp_path, max_steps=-1, **settings)
    assert last(tmp_path)["global_step"] == 20


def test_no_file_in_a_dry_run(tmp_path):
    fit(tmp_path, fast_dev_run=True)
    assert not (tmp_path / "checkpoints").exists()


# -- TimeBudget ----------------------------------------------------------------------------------------------


class Clock(Callback):
    """Time passes in training only: a second a batch, and a minute in the first for compilation."""

    def __init__(self) -> None:
        self.now = 1e6

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.now += 1 if trainer.global_step else 60

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    return clock


class Rate(Callback):
    """Notes the learning rate of the last step."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rate = optimizer.param_groups[0]["lr"] / pl_module.hparams.lr


def test_a_run_ends_with_its_time_and_its_schedule(tmp_path, clock):
    rate, begin = Rate(), clock.now
    budget = TimeBudget(minutes=3, skip=5, measure=10)
    _, trainer = fit(tmp_path, clock, budget, rate, max_steps=-1)
    assert trainer.global_step == budget.max_steps
    assert clock.now - begin == pytest.approx(180, abs=2)
    assert 0 < rate.rate < (math.pi / trainer.global_step) ** 2, "the last step of a cosine to zero"


@pytest.mark.parametrize("later", [0.25, 4.0])
def test_a_run_that_becomes_faster_or_slower_ends_with_its_time(tmp_path, clock, later):
    class Neighbour(Callback):
        """Other work beside the run, which ends or begins."""

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            clock.now += later - 1 if trainer.global_step >= 60 else 0

    begin = clock.now
    _, trainer = fit(tmp_path, clock, Neighbour(), TimeBudget(minutes=4, skip=5, measure=10), max_steps=-1)
    assert clock.now - begin == pytest.approx(240, rel=0.05)
    assert trainer.global_step == pytest.approx(60 + (180 - 60) / later, rel=0.05)


def test_a_resumed_run_keeps_its_number_of_steps(tmp_path, clock):
    whole = TimeBudget(minutes=3, skip=5, measure=10)
    fit(tmp_path / "whole", clock, whole, max_steps=-1)
    fit(tmp_path / "parts", clock, TimeBudget(3, 5, 10), Stop(40), max_steps=-1)
    clock.now += 1000
    budget = TimeBudget(3, 5, 10)
    path = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    _, trainer = fit(tmp_path / "parts", clock, budget, max_steps=-1, ckpt_path=path)
    assert trainer.global_step == budget.max_steps == whole.max_steps
    assert not list(differences(last(tmp_path / "whole"), last(tmp_path / "parts")))


def test_a_run_resumed_before_the_measurement_measures(tmp_path, clock):
    fit(tmp_path, clock, TimeBudget(3, 5, 10), Stop(8), max_steps=-1)
    path = tmp_path / "checkpoints" / "last.ckpt"
    begin = clock.now
    _, trainer = fit(tmp_path, clock, TimeBudget(3, 5, 10), max_steps=-1, ckpt_path=path)
    assert clock.now - begin == pytest.approx(180, abs=2)
    assert trainer.global_step == pytest.approx(188, abs=2)


def test_a_budget_that_is_spent_ends_the_run(tmp_path, clock):
    _, trainer = fit(tmp_path, clock, TimeBudget(minutes=0.5, skip=2, measure=3), max_steps=-1)
    assert trainer.global_step == 5
