"""Whatever was published keeps loading: a frozen copy of the 52 configurations and recipes, and of a run, as they were.

`configs.json` and `recipes.json` hold them by name. `flow-vae.ckpt` is a run of `flow-vae.yaml` that stopped at its
sixth step, made by the code of then, with the classes, arguments and callbacks of then; the uninterrupted run ended
with the weights in `flow-vae-12.safetensors`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule
from safetensors.torch import load_file
from tiny_runs import last, sealed

from zoo.classes import ABSENT, ARGUMENTS, CLASSES, STATE_KEYS, class_path_of, run_up_to_date, up_to_date
from zoo.hub import building, finding, store
from zoo.hub.config import read_config
from zoo.hub.data import datamodule
from zoo.training import cli as training
from zoo.training.export import export_run
from zoo.training.files import in_todays_names, read_run

HERE = Path(__file__).resolve().parent
CONFIGS = json.loads((HERE / "configs.json").read_text(encoding="utf-8"))
RECIPES = json.loads((HERE / "recipes.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _sealed(monkeypatch):
    with sealed(monkeypatch):
        yield


def test_there_are_as_many_as_were_published():
    assert len(CONFIGS) == len(RECIPES) == 52
    assert sum("latents" in config["init_args"] for config in CONFIGS.values()) == 14


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_is_read_in_the_names_of_today(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]), encoding="utf-8")
    config = read_config(tmp_path)
    cls = building.resolve(config["class_path"])
    building.check_arguments(cls, config["init_args"])
    assert "latents" not in config["init_args"]
    data = datamodule(config["data"])
    assert isinstance(data, LightningDataModule)
    if finding.BUNDLED.joinpath(name).is_dir():
        assert store.load(name).spec == store.load(name, cls=cls).spec


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_read_in_the_names_of_today(name, tmp_path):
    recipe = tmp_path / f"{name}.yaml"
    recipe.write_text(RECIPES[name], encoding="utf-8")
    folder = tmp_path / "current"
    folder.mkdir()
    words = in_todays_names(["fit", "--config", str(recipe), "--model.lr=1"], folder)
    assert (words[:2], words[3:], Path(words[2]).name) == (["fit", "--config"], ["--model.lr=1"], recipe.name)
    current = yaml.safe_load(Path(words[2]).read_text(encoding="utf-8"))
    model, data = current["model"], current["data"]
    building.check_arguments(building.resolve(model["class_path"]), model.get("init_args", {}))
    local = {"batch_size", "eval_batch_size"}  # which a checkpoint may not say, and a recipe does
    given = {key: value for key, value in data.get("init_args", {}).items() if key not in local}
    assert isinstance(datamodule({**data, "init_args": given}), LightningDataModule)
    assert up_to_date(current) == current


@pytest.mark.parametrize("name", ["planar-vae-mnist", "gan-mnist", "darn-mnist"])
def test_the_command_line_takes_an_old_recipe(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("old.yaml").write_text(RECIPES[name], encoding="utf-8")
    precision = torch.get_float32_matmul_precision()
    try:
        with pytest.raises(SystemExit) as stopped:
            training.main(["fit", "--config=old.yaml", "--print_config"])
    finally:
        torch.set_float32_matmul_precision(precision)
    assert stopped.value.code in (0, None)
    printed, old = yaml.safe_load(capsys.readouterr().out)["model"], yaml.safe_load(RECIPES[name])["model"]
    assert printed["class_path"] == CLASSES.get(old["class_path"], old["class_path"])
    assert printed["init_args"]["latent_dim"] == old["init_args"]["latents"]


def test_the_command_line_takes_an_old_class():
    assert in_todays_names(["fit", "--model=zoo.flows.FlowVAE", "--model", "zoo.flows.FlowVAE"], Path()) == [
        *("fit", "--model=zoo.latent.FlowVAE", "--model", "zoo.latent.FlowVAE")
    ]


def test_an_old_run_goes_on_as_it_would_have(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(HERE / "flow-vae.ckpt", "old.ckpt")
    shutil.copy(HERE / "flow-vae.yaml", "old.yaml")
    precision = torch.get_float32_matmul_precision()
    try:
        training.main(["fit", "--config", "old.yaml", "--ckpt_path", "old.ckpt"])
        training.main(["validate", "--config", "old.yaml", "--ckpt_path", "old.ckpt"])
    finally:
        torch.set_float32_matmul_precision(precision)
    ended = last(tmp_path / "runs" / "old")
    assert ended["global_step"] == 12
    expected = load_file(HERE / "flow-vae-12.safetensors")
    assert ended["state_dict"].keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(ended["state_dict"][key], tensor, rtol=1e-5, atol=1e-6)
    # It went on counting, and not anew.
    assert ended["callbacks"]["RunRecord"]["images"] == 12 * 4


def test_an_old_run_is_exported(tmp_path):
    folder = export_run(HERE / "flow-vae.ckpt", "flow-vae-patches", out=tmp_path / "flow-vae-patches", dtype="float32")
    config = read_config(folder)
    assert config["class_path"] == "zoo.latent.FlowVAE"
    assert config["init_args"]["latent_dim"] == 2
    assert config["training"]["steps"] == 6
    state = store.load(folder).state_dict()
    for key, tensor in torch.load(HERE / "flow-vae.ckpt", weights_only=True)["state_dict"].items():
        assert torch.equal(state[key], tensor)


def test_the_table_names_what_there_is():
    for path in [*CLASSES.values(), *ARGUMENTS, *ABSENT]:
        module, _, name = path.rpartition(".")
        found = getattr(__import__(module, fromlist=[name]), name)
        assert class_path_of(found) == path
        signature = found.__init__.__annotations__
        assert {*ARGUMENTS.get(path, {}).values(), *ABSENT.get(path, {})} <= set(signature)
    assert not set(CLASSES) & set(CLASSES.values()), "one step is enough"
    assert set(STATE_KEYS.values()) <= set(vars(__import__("zoo.callbacks", fromlist=["x"])))


def test_states_of_callbacks_keep_their_arguments():
    state = {"callbacks": {"Last": {}, "Record{'a': 1}": {"images": 3}, "LastOfAll": {}}, "hyper_parameters": {}}
    run = run_up_to_date(state)
    assert run["callbacks"] == {"SaveLast": {}, "RunRecord{'a': 1}": {"images": 3}, "LastOfAll": {}}
    assert state["callbacks"].keys() == {"Last", "Record{'a': 1}", "LastOfAll"}, "what was given stays"


def test_a_run_is_read_without_code(tmp_path):
    torch.save({"callbacks": {"Last": shutil.rmtree}}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match="is not a checkpoint that `zoo fit` wrote"):
        read_run(tmp_path / "bad.ckpt")
