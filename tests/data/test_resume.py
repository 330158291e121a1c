"""A run resumed from any checkpoint sees the very batches that the uninterrupted run sees."""

import os

import pytest
import torch
from batch_recorder import OutOfLuck, fit
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint

# 41 training items in batches of 4: 10 batches an epoch, one item left over.
SETTINGS = {
    "epochs": {},
    "steps": {"max_epochs": -1, "max_steps": 28},
    "accumulation": {"accumulate_grad_batches": 3},
    "validation inside an epoch": {"val_check_interval": 4},
    "accumulation and validation": {"accumulate_grad_batches": 2, "val_check_interval": 4},
    "validation across epochs": {"check_val_every_n_epoch": None, "val_check_interval": 7},
    "no validation": {"limit_val_batches": 0},
    "short epochs": {"limit_train_batches": 6},
    "short epochs, steps": {"limit_train_batches": 6, "max_epochs": -1, "max_steps": 20},
    "reloading": {"reload_dataloaders_every_n_epochs": 1},
    "sanity check": {"num_sanity_val_steps": 2},
}
WHEN = {
    "after steps": {"every_n_train_steps": 1},
    "after validation": {"every_n_epochs": 1},
    "after epochs": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("when", WHEN.values(), ids=WHEN)
def test_resumed_run_equals_uninterrupted_run(tmp_path, settings, when):
    saving = ModelCheckpoint(tmp_path, filename="{epoch}-{step}", save_top_k=-1, **when)
    whole, trainer = fit(tmp_path, saving, **settings)
    checkpoints = sorted(tmp_path.glob("*.ckpt"), key=os.path.getmtime)
    assert len(checkpoints) >= 3
    # The middle of the first epoch, both sides of its end, the middle of the second, and the end.
    step = len(checkpoints) // 6 or 1
    for checkpoint in {*checkpoints[::step], *checkpoints[8:12], checkpoints[-1]}:
        loops = torch.load(checkpoint, weights_only=False)["loops"]["fit_loop"]
        done = loops["epoch_loop.batch_progress"]["total"]["processed"]
        rest, resumed = fit(tmp_path, ckpt_path=checkpoint, **settings)
        assert rest.seen == whole.seen[done:], checkpoint.name
        assert resumed.global_step == trainer.global_step
        assert rest.weight.item() == whole.weight.item()


def test_validation_between_two_accumulated_batches(tmp_path):
    # Lightning does not store half-accumulated gradients, so weights differ; the batches do not.
    settings = {"accumulate_grad_batches": 3, "val_check_interval": 5}
    whole, _ = fit(tmp_path, ModelCheckpoint(tmp_path, save_top_k=-1, filename="{step}"), **settings)
    for checkpoint in tmp_path.glob("*.ckpt"):
        loops = torch.load(checkpoint, weights_only=False)["loops"]["fit_loop"]
        done = loops["epoch_loop.batch_progress"]["total"]["processed"]
        rest, _ = fit(tmp_path, ckpt_path=checkpoint, **settings)
        assert rest.seen == whole.seen[done:], checkpoint.name


@pytest.mark.parametrize("settings", [{}, {"max_epochs": -1, "max_steps": 28}], ids=["epochs", "steps"])
@pytest.mark.parametrize("fail_at", [0, 3, 9, 10, 11])
def test_resume_after_a_failed_step_repeats_its_batch(tmp_path, fail_at, settings):
    whole, _ = fit(tmp_path, **settings)
    with pytest.raises(OutOfLuck):
        fit(tmp_path, OnExceptionCheckpoint(tmp_path), fail_at=fail_at, **settings)
    rest, _ = fit(tmp_path, ckpt_path=tmp_path / "on_exception.ckpt", **settings)
    assert rest.seen == whole.seen[fail_at:]
    assert rest.weight.item() == whole.weight.item()


def test_epochs_have_different_orders_unless_overfitting(tmp_path):
    def epochs(**settings):
        seen = fit(tmp_path, **settings)[0].seen
        return [[labels for epoch, _, labels in seen if epoch == e] for e in range(3)]

    first, second, third = epochs()
    assert first != second != third != first
    first, second, third = epochs(overfit_batches=2)
    assert first == second == third == [[0, 1, 2, 3], [4, 5, 6, 7]]
