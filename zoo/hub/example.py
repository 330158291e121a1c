"""The example of a card: lines that run as they are pasted, by what config.json says of the model and its data."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

from zoo.errors import plain
from zoo.hub.config import spec_of
from zoo.results import Config, results_of
from zoo.spec import DataSpec

TO_A_DENSITY = ("zoo.flows.EnergyFlow",)  # and not to data
EXTRAS = {"zoo.flows.ContinuousFlow": "ode"}  # what a class needs beside the package itself


def install(config: Config) -> str:
    """The line that installs what the example needs."""
    extra = EXTRAS.get(config["class_path"])
    return f"pip install -e '.[{extra}]'" if extra else "pip install -e ."


def example(config: Config, name: str) -> str:
    """Python that loads a checkpoint by a name, draws from it, shows that, and asks how likely it finds data."""
    spec, data = spec_of(config), _data(config)
    unit = next((each.metric.name for each in results_of(config) if each.metric.name in ("bits_per_dim", "nats")), None)
    measured = unit is not None and data is not None and spec is not None
    lines = ["import torch\n", "import zoo", f"from zoo.data import {data[0]}"] if measured else ["import zoo"]
    lines.append("")
    lines.append(f"model = zoo.load({json.dumps(name, ensure_ascii=False)})")
    if config.get("draws", True):
        lines += _drawn(spec, name)
    else:
        lines.append("help(model)  # what it can do")
    if measured:
        method, said = ("bits_per_dim", "bits/dim") if unit == "bits_per_dim" else ("negative_log_likelihood", "nats")
        lines += [
            "",
            f"data = {data[0]}({data[1]}){_fetched(data[0])}",
            "data.prepare_data()",
            'data.setup("test")',
            f"x = data.test.x[:8]  # {_shape(spec, 8)}",
            "with torch.no_grad():  # else what gradients need is kept, gigabytes for a large model",
            f"    print(model.{method}(x))  # (8,) {said} of test data",
        ]
    return "\n".join(lines)


def recipe_of(config: Config) -> str:
    """The name of its recipe; empty where there is none, or where a stranger's is no plain name."""
    recipe = config.get("recipe") or ""
    return recipe if re.fullmatch(r"[A-Za-z0-9][\w.-]*", recipe, re.ASCII) else ""


def finetuning(config: Config, name: str) -> str:
    """The command that trains it further on files of one's own; empty where there is no recipe, or no files fit."""
    spec, recipe = spec_of(config), recipe_of(config)
    fitted_to_data = not config["class_path"].startswith("zoo.mixtures.") and config["class_path"] not in TO_A_DENSITY
    if spec is None or not recipe or spec.condition or not fitted_to_data:
        return ""
    options = [f"--config recipes/{recipe}.yaml --from {shlex.quote(name)}"]
    levels = f" --data.levels {spec.levels or 'null'}"
    if spec.kind == "image" and spec.shape[0] in (1, 3) and spec.levels and spec.levels <= 256:
        channels, height, width = spec.shape
        size = height if height == width else f'"[{height}, {width}]"'
        options.append(f"--data zoo.data.ImageFolder --data.root pictures --data.size {size}")
        options[-1] += (" --data.channels 1" if channels == 1 else "") + (levels if spec.levels != 256 else "")
    elif spec.kind == "vector":
        options.append(f"--data zoo.data.Table --data.train train.csv --data.test test.csv{levels}")
    else:
        return ""
    options.append("--trainer.default_root_dir runs/mine")
    if spec.classes:
        options[-1] += f"  # pictures has a subfolder for each of {spec.classes} classes"
    return " \\\n    ".join(("lightning fit " + options[0], *options[1:]))


def _drawn(spec: DataSpec | None, name: str) -> list[str]:
    """Lines that sample, and that show what can be seen."""
    picture = spec.picture if spec else None
    n = {"plane": 10_000, "film": 4}.get(picture or "", 16)
    names = spec.class_names if spec else None
    label = f"label={json.dumps(plain(names[0])) if names else 0}, " if spec and spec.classes else ""
    known = "one of model.spec.class_names, or a number" if names else "a number"
    lines = [f"# label: {known} 0..{spec.classes - 1}"] if label else []
    shape = f"  # {_shape(spec, n)}" if spec else ""
    lines.append(f"samples = model.sample({n}, {label}seed=0){shape}")
    if picture == "plane":
        lines.append(f"zoo.show(samples).save({_file(name)})  # in a notebook, zoo.show(samples) is enough")
    elif picture:
        levels = "" if spec.levels == 256 else f", levels={spec.levels}"
        lines.append(f"zoo.show(samples{levels}).save({_file(name)})  # in a notebook, zoo.show(samples) is enough")
    return lines


def _file(name: str) -> str:
    return json.dumps(f"{name.rpartition('/')[2]}.png", ensure_ascii=False)


def _shape(spec: DataSpec, n: int) -> str:
    """`uint8 (4, 3, 32, 32), values 0..255`."""
    sizes = ", ".join(map(str, (n, *spec.shape)))
    if spec.levels is None:
        return f"float32 ({sizes})"
    return f"{'int64' if spec.kind == 'tokens' else 'uint8'} ({sizes}), values 0..{spec.levels - 1}"


def _data(config: Config) -> tuple[str, str] | None:
    """Class and arguments of the data, as Python has them; None where they are not the zoo's, or not plain."""
    data: dict[str, Any] = config.get("data") or {}
    module, _, name = (data.get("class_path") or "").rpartition(".")
    arguments = data.get("init_args") or {}
    simple = all(
        key.isidentifier()
        and (
            value is None
            or isinstance(value, bool | int | float)
            or (isinstance(value, str) and re.fullmatch(r"[\w .-]*", value, re.ASCII))
        )
        for key, value in arguments.items()
    )
    if module != "zoo.data" or not simple:
        return None
    written = {key: f'"{value}"' if isinstance(value, str) else repr(value) for key, value in arguments.items()}
    return name, ", ".join(f"{key}={value}" for key, value in written.items())


def _fetched(name: str) -> str:
    if name == "AnimeFaces":  # which nobody publishes
        return "  # reads it from ZOO_DATA"
    return "  # downloads it, or reads it from ZOO_DATA" if name in ("CIFAR10", "MNIST", "FashionMNIST") else ""
