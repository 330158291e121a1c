"""The mode in which a model is trained, and settings of a trainer that it refuses."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback
from tiny_runs import Patches, fit, patch_model, sealed

import zoo
from zoo.adversarial import GAN, LAPGAN
from zoo.data import Digits, Points
from zoo.errors import TrainingError, ZooError
from zoo.mixtures import GaussianMixture


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


class Modes(Callback):
    """Notes in which modes the modules are while a batch is learned; it may break off there."""

    def __init__(self, error: type[BaseException] | None = None) -> None:
        self.seen, self.error = [], error

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.seen.append({name: module.training for name, module in pl_module.named_modules()})
        if self.error:
            raise self.error


def modes(model) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


def test_loaded_weights_are_trained_in_training_mode(tmp_path):
    model, watch = zoo.load("pixelcnn-digits"), Modes()
    assert not any(modes(model).values())
    fit(tmp_path, watch, model=model, data=Digits(), max_steps=2)
    assert all(watch.seen[0].values())
    assert not any(modes(model).values()), "as it came"


def test_a_run_in_evaluation_mode_is_one_in_training_mode(tmp_path):
    weights = []
    for name in ("train", "eval"):
        torch.manual_seed(1)
        model = patch_model()
        fit(tmp_path / name, model=getattr(model, name)(), max_steps=4)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0]), "with the same dropout"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, TrainingError])
def test_the_mode_comes_back_after_an_interrupt(tmp_path, error):
    model, watch = patch_model().eval(), Modes(error)
    with pytest.raises((error, SystemExit)):
        fit(tmp_path, watch, model=model, max_steps=4)
    assert all(watch.seen[0].values())
    assert not any(modes(model).values())


def test_what_was_frozen_stays_frozen(tmp_path):
    model = GAN([2], None, network="mlp", latent_dim=2, channels=4).eval()
    model.net.requires_grad_(False)
    watch = Modes()
    model.configure_optimizers = lambda: torch.optim.SGD(model.critic.parameters(), 0.1)
    model.training_step = lambda *_: None
    fit(
        tmp_path,
        watch,
        model=model,
        data=Points(train=60, test=30, validation=20, batch_size=8),
        max_epochs=1,
        max_steps=-1,
    )
    assert watch.seen[0][""]
    assert watch.seen[0]["critic"]
    assert not any(training for name, training in watch.seen[0].items() if name.split(".")[0] == "net")
    assert not any(modes(model).values())


def test_a_part_that_was_put_aside_by_hand_stays_where_the_model_trains(tmp_path):
    model, watch = patch_model(), Modes()
    model.net.eval()
    fit(tmp_path, watch, model=model, max_steps=2)
    assert watch.seen[0][""]
    assert not watch.seen[0]["net"]
    assert not model.net.training
    assert model.training


def test_a_trainer_that_fits_twice_looks_after_both(tmp_path):
    model, watch = patch_model().eval(), Modes()
    _, trainer = fit(tmp_path, watch, model=model, max_steps=2)
    trainer.fit_loop.epoch_loop.max_steps = 4
    trainer.fit(model, datamodule=Patches())
    assert len(watch.seen) == 4
    assert all(all(seen.values()) for seen in watch.seen)
    assert not any(modes(model).values())


# -- settings ------------------------------------------------------------------------------------------------


def models():
    return {
        "gan": (
            GAN([2], None, network="mlp", latent_dim=2, channels=4),
            Points(train=60, test=30, validation=20, batch_size=8),
        ),
        "mixture": (GaussianMixture([1, 8, 8]), Digits()),
        "pixelcnn": (patch_model(), Patches()),
    }


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "16-true"])
@pytest.mark.parametrize("name", ["gan", "mixture", "pixelcnn"])
def test_a_precision_without_float32_is_refused(tmp_path, name, precision):
    model, data = models()[name]
    with pytest.raises(ZooError, match=f"precision to 32-true or bf16-mixed, not {precision}."):
        fit(tmp_path, model=model, data=data, precision=precision, max_steps=1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gradient_clip_val": 1.0}, "clips no gradients: leave out gradient_clip_val."),
        ({"accumulate_grad_batches": 2}, "leave out accumulate_grad_batches, and make the batches larger."),
    ],
)
@pytest.mark.parametrize("name", ["gan", "mixture"])
def test_what_steps_by_itself_refuses_what_the_trainer_would_do_to_steps(tmp_path, name, settings, said):
    model, data = models()[name]
    with pytest.raises(ZooError, match=said):
        fit(tmp_path, model=model, data=data, **settings)


DCGAN = {"shape": [1, 8, 8], "levels": 17, "network": "dcgan", "channels": 2}


@pytest.mark.parametrize(
    ("model", "advice"),
    [
        (lambda: GAN(**DCGAN), "lower the learning rates or hold the critic (penalty: 10, critic_norm: spectral)"),
        (
            lambda: GAN(**DCGAN, critic_norm="batch"),
            "lower the learning rates or hold the critic (critic_norm: spectral)",
        ),
        (lambda: GAN(**DCGAN, penalty=1.0), "or hold the critic (a larger penalty, critic_norm: spectral)"),
        (lambda: LAPGAN([1, 8, 8], 17, scales=2, channels=2), "lower the learning rates"),
    ],
)
def test_the_advice_of_a_game_is_what_it_takes(tmp_path, model, advice):
    class Lost(Callback):
        def on_train_batch_start(self, trainer, pl_module, *_):
            with torch.no_grad():
                next(pl_module.critic.parameters()).fill_(torch.nan)

    with pytest.raises(TrainingError) as error:
        fit(tmp_path, Lost(), model=model(), data=Digits(), max_steps=2)
    assert advice in str(error.value)
    assert "gradient_clip_val" not in str(error.value)


@pytest.mark.parametrize(("clip", "advice"), [(None, "(--trainer.gradient_clip_val 1)"), (0.5, "to less than 0.5")])
def test_the_advice_of_others_is_to_clip_or_to_clip_more(tmp_path, clip, advice):
    class Lost(Callback):
        def on_train_batch_start(self, trainer, pl_module, *_):
            with torch.no_grad():
                next(pl_module.net.parameters()).fill_(torch.nan)

    with pytest.raises(TrainingError) as error:
        fit(tmp_path, Lost(), model=patch_model(), max_steps=2, gradient_clip_val=clip)
    assert f"lower the learning rate or clip gradients {advice}, and start again" in str(error.value)


def test_a_critic_learns_on_after_an_interrupt(tmp_path):
    model = GAN([2], None, network="mlp", latent_dim=2, channels=4)

    def interrupted(*_):
        raise KeyboardInterrupt

    model.fake = interrupted
    with pytest.raises(KeyboardInterrupt):
        model.generator_pass(torch.zeros(4, 2))
    assert all(parameter.requires_grad for parameter in model.critic.parameters())
