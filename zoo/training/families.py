"""Every family of the zoo, found where it is: no list names the rooms."""

from __future__ import annotations

import importlib
import pkgutil

import zoo
from zoo.classes import class_path_of
from zoo.model import Model


def families() -> dict[str, type[Model]]:
    """The models that the packages of `zoo` export, by the path of each without `zoo.`: "flows.MAF".

    All packages are imported, so that their classes may be named without a path from then on.
    """
    found = {}
    for package in pkgutil.iter_modules(zoo.__path__):
        if not package.ispkg or package.name == "model":  # which exports what families derive from
            continue
        room = importlib.import_module(f"zoo.{package.name}")
        for each in (getattr(room, name) for name in getattr(room, "__all__", ())):
            if isinstance(each, type) and issubclass(each, Model):
                found[class_path_of(each).removeprefix("zoo.")] = each
    return found
