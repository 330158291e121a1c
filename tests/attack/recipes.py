"""Damaged recipes: mutations of the published ones, as trees, as text and as files, each of which is then trained.

The models are cut to a size that trains in a second, on digits or points. A case raises what `zoo fit` says.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import random
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

import zoo.training.cli  # noqa: F401  (heavy, hence before the first case)
from zoo import cli
from zoo.errors import ZooError

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))
WIDTHS = {"channels", "critic_channels", "small_channels", "hidden", "width", "features"}
DEPTHS = {"blocks", "layers", "small_layers", "steps", "couplings", "masks", "orderings", "mixtures", "scales"}
OPTIONS = [
    "--trainer.fast_dev_run=true",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.strategy=auto",
    "--trainer.num_nodes=1",
    "--trainer.logger=false",
    "--trainer.enable_model_summary=false",
    "--trainer.enable_progress_bar=false",
]
ODD = [
    None, True, False, 0, -1, 3, 1.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64, "", " ", "null",
    "1e-3", "0x10", "zoo", "zoo.data", "zoo.data.Digits", "os.system", "builtins.print", ".", "..", "~", "/", "\x00",
    "\x1b[2J", "é" * 20, "x" * 2000, "last", "best", "https://", "s3://x/y", "${oc.env:HOME}",
    "simplecache::memory://x/y.yaml", [], {}, [[]], [None],
    {"class_path": "zoo.callbacks.EMA"}, {"class_path": 3}, {"init_args": {}}, {"a": {"b": {"c": 1}}}, [1, "a", {}],
    list(range(200)),
]  # fmt: skip


def cases(seed: int, n: int, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """`n` damaged recipes below `folder`: what was done to which, and the training of it.

    What is refused raises a `ZooError` of what the command says; any other error is one that `zoo fit` ends with.
    """
    for i in range(n):
        rng = random.Random(f"{seed} {i}")
        path = rng.choice(RECIPES)
        recipe = small(yaml.safe_load(path.read_text(encoding="utf-8")))
        damage = rng.choice([_tree, _tree, _tree, _tree, _text, _text, _file])
        place = folder / f"case-{i}"
        place.mkdir(parents=True, exist_ok=True)
        said = damage(recipe, place / "damaged.yaml", rng)
        yield f"{path.stem}: {said}", lambda place=place: fit(place / "damaged.yaml", place / "run")


def fit(path: Path, root: Path) -> None:
    """Train by a recipe.

    Raises:
        ZooError: with what the command says, where it refuses.
    """
    err = io.StringIO()
    try:
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            status = cli.main(["fit", f"--config={path}", *OPTIONS, f"--trainer.default_root_dir={root}"])
    except SystemExit as stop:
        status = int(stop.code or 0)
    if status:
        said = err.getvalue()
        raise ZooError(said[said.rfind("zoo: ") :].strip())


def small(recipe: dict[str, Any]) -> dict[str, Any]:
    """The same model of digits or points, so small that it trains in a second."""
    model = recipe["model"]["init_args"]
    for name, value in model.items():
        if isinstance(value, int) and not isinstance(value, bool):
            model[name] = min(value, 8) if name in WIDTHS else min(value, 2) if name in DEPTHS else value
    if len(model.get("shape", [1])) == 3:
        model |= {"shape": [1, 8, 8]}
        if "levels" in model:
            model["levels"] = 17
        recipe["data"] = {"class_path": "zoo.data.Digits", "init_args": {"batch_size": 16}}
    else:
        recipe["data"].setdefault("init_args", {})
        if recipe["data"]["class_path"] == "zoo.data.Points":
            recipe["data"]["init_args"] |= {"train": 200, "test": 50, "validation": 50, "batch_size": 16}
    trainer = recipe.setdefault("trainer", {})
    for name in ("precision", "devices", "benchmark"):
        trainer.pop(name, None)
    slow = {"zoo.callbacks.Compile", "zoo.callbacks.CUDAGraphs"}
    trainer["callbacks"] = [each for each in trainer.get("callbacks", []) if each["class_path"] not in slow]
    return recipe


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a tree with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _misspelt(word: str, rng: random.Random) -> str:
    at = rng.randrange(len(word) + 1)
    return rng.choice([word[:at] + word[at + 1 :], word[:at] + rng.choice(string.ascii_letters + "._ ") + word[at:]])


def _tree(recipe: dict[str, Any], path: Path, rng: random.Random) -> str:
    said = []
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        places = list(_places(recipe))
        if not places:
            break
        container, key = rng.choice(places)
        kind = rng.choice(["drop", "misspell", "odd", "odd", "odd", "move", "wrap", "deepen", "add", "misspell value"])
        if kind == "drop":
            del container[key]
        elif kind == "misspell" and isinstance(container, dict):
            container[_misspelt(str(key), rng)] = container.pop(key)
        elif kind == "misspell value" and isinstance(container[key], str):
            container[key] = _misspelt(container[key], rng)
        elif kind == "move":
            other, at = rng.choice(places)
            with contextlib.suppress(KeyError, IndexError):  # which the first step has taken away
                container[key] = copy.deepcopy(other[at])
        elif kind == "wrap":
            container[key] = [container[key]]
        elif kind == "deepen":
            for _ in range(rng.choice([1, 30, 90])):
                container[key] = {"model": container[key]} if rng.random() < 0.5 else [container[key]]
        elif kind == "add" and isinstance(container, dict):
            name = rng.choice(["weights_only", "ckpt_path", "from", "reference", "seed_everything", "x", "class_path"])
            container[name] = rng.choice(ODD)
        else:
            kind, container[key] = "odd", rng.choice(ODD)
        said.append(f"{kind} {key}")
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return ", ".join(said)


def _text(recipe: dict[str, Any], path: Path, rng: random.Random) -> str:
    data = yaml.safe_dump(recipe, sort_keys=False).encode()
    at = rng.randrange(len(data))
    lines = data.split(b"\n")
    line = rng.randrange(len(lines))
    names = [f"a{i}" for i in range(rng.choice([3, 9, 30]))]
    laughs = "x0: &a0 [y]\n" + "".join(
        f"x{i}: &{name} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i, name in enumerate(names) if i
    )
    damages: dict[str, bytes] = {
        "cut": data[:at],
        "noise": data[:at] + rng.randbytes(rng.choice([1, 4, 64])) + data[at:],
        "flip": data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :],
        "line twice": b"\n".join([*lines[:line], lines[line], *lines[line:]]),
        "line lost": b"\n".join([*lines[:line], *lines[line + 1 :]]),
        "tabs": data.replace(b"  ", b"\t"),
        "CRLF": data.replace(b"\n", b"\r\n"),
        "UTF-16": data.decode().encode("utf-16"),
        "BOM": b"\xef\xbb\xbf" + data,
        "laughs": laughs.encode() + data,
        "loop": data + b"x: &x [*x]\n",
        "brackets": data + b"x: " + b"[" * rng.choice([50, 100_000]),
        "tag": data + b"x: !!python/object/apply:os.system ['true']\n",
        "merge": b"base: &b {trainer: {max_steps: 1}}\n<<: *b\n" + data,
        "documents": data + b"---\n" + data,
        "large": data + b"# " + b"x" * rng.choice([10_000, 10_000_000]),
        "keys": data + b"".join(b"k%d: 1\n" % i for i in range(rng.choice([10, 100_000]))),
        "empty": b"",
        "zeros": bytes(1000),
    }
    kind = rng.choice(sorted(damages))
    path.write_bytes(damages[kind])
    return kind


def _file(recipe: dict[str, Any], path: Path, rng: random.Random) -> str:
    kind = rng.choice(["none", "folder", "pipe", "link to itself", "link to zeros", "part", "part that is a pipe"])
    if kind == "folder":
        path.mkdir(exist_ok=True)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "link to zeros":
        path.symlink_to("/dev/zero")
    elif kind != "none":
        key, part = rng.choice(["model", "data", "trainer"]), path.with_name("part.yaml")
        if kind == "part":
            _tree({"x": recipe[key]}, part, rng)
        else:
            os.mkfifo(part)
        path.write_text(yaml.safe_dump({**recipe, key: part.name}, sort_keys=False), encoding="utf-8")
    return kind
