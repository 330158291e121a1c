"""The commands that list, export and share checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo.errors import ZooError


def list_checkpoints(*, json: bool = False, table: str | None = None) -> None:
    """List the bundled checkpoints with what they reached.

    Args:
        json: print their config.json instead of a table, as one JSON object by name.
        table: a data set, for example cifar10: the papers' numbers on it beside ours, the worst first.
    """
    from zoo.hub import tables

    configs = tables.bundled()
    if json:
        print(_json(configs))
        return
    rows = tables.likelihoods(configs, table) if table else tables.table(configs)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def export(run: Path, name: str, *, dtype: str = "float16", overwrite: bool = False) -> None:
    """Make a checkpoint folder, checkpoints/NAME, from a training run.

    Args:
        run: the run's folder, or one .ckpt file in it.
        name: FAMILY-DATASET in lower case, for example pixelcnn-digits.
        dtype: of the stored weights; float32 for small models whose numbers 16 bits would change.
        overwrite: replace a checkpoint of that name, with its numbers and notes.
    """
    from zoo.hub import card, store
    from zoo.pictures.samples import draw, has_picture
    from zoo.training.export import export_run

    folder = export_run(run, name, dtype=dtype, overwrite=overwrite)
    card.write(folder)  # first, so that a picture that cannot be drawn leaves a whole checkpoint
    picture = folder / "samples.png"
    if not picture.exists():
        model = store.load(folder)
        if has_picture(model):
            draw(model, picture)
            card.write(folder)  # now with the picture
    print(folder)


def push(
    name: str, *, repo_id: str, private: bool = False, revision: str | None = None, message: str | None = None
) -> None:
    """Publish a checkpoint as a Hugging Face Hub repository.

    The access token is the one of `hf auth login`, or the environment's HF_TOKEN.

    Args:
        name: a name from `zoo list`, or a folder.
        repo_id: the repository NAMESPACE/NAME; it is made if there is none.
        private: make a new repository private.
        revision: branch to push to; by default main.
        message: of the commit.
    """
    from zoo.hub import store

    print(store.push(name, repo_id, private=private, revision=revision, message=message))


def pull(repo_id: str, *, revision: str | None = None) -> None:
    """Fetch a checkpoint from the Hugging Face Hub and print the folder it lies in.

    Args:
        repo_id: the repository NAMESPACE/NAME.
        revision: branch, tag or commit; by default main.
    """
    from zoo.hub import remote

    print(remote.pull(repo_id, revision=revision))


def show_card(name: str | None = None, *, write: bool = False, readme: bool = False) -> None:
    """Print a checkpoint's card, made anew from its config.json, or write the cards and tables of all.

    Args:
        name: a name from `zoo list`, a folder, or a Hub repository NAMESPACE/NAME.
        write: write it into the checkpoint's folder instead of printing it.
        readme: write all bundled cards, and the tables in ./README.md and ./docs, anew.
    """
    from zoo.hub import card, store, tables
    from zoo.hub.config import read_config

    if name is None and not readme:
        raise ZooError("Name the checkpoint whose card to make, or give --readme for all cards and tables.")
    if name is not None:
        folder = store.find(name)
        if write:
            store.check_own(name, folder)
            print(card.write(folder))
        else:
            shown = folder.resolve().name if store.is_own(name, folder) else name
            print(card.render(read_config(folder), shown, (folder / card.PICTURE).is_file()), end="")
    if readme:
        for path in [*card.write_all(), *tables.write_pages(Path())]:
            print(path)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
