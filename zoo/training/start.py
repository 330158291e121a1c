"""The published weights that a run starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from zoo.hub import finding, store
from zoo.hub.config import read_config
from zoo.hub.folder import load_weights


class Pretrained(NamedTuple):
    """The checkpoint to start from: its name, its folder, its config.json and its state dict."""

    name: str
    folder: Path
    config: dict[str, Any]
    weights: dict[str, torch.Tensor]


def pretrained(name: str) -> Pretrained:
    """Find and read published weights."""
    folder = finding.find(name)
    config = read_config(folder)
    path = Path(name).expanduser()
    if path.is_dir() and path.samefile(folder):
        name = folder.resolve().name  # a card says nothing of the folders around it
    if config["class_path"].startswith("zoo."):
        # Refuses what is damaged, hostile or absurdly large before its arguments are used.
        return Pretrained(name, folder, config, store.load(folder).state_dict())
    return Pretrained(name, folder, config, load_weights(folder, config))
