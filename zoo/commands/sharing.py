"""The commands that list, export and share checkpoints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.commands.terminal import tell
from zoo.errors import DataError, ZooError, plain

if TYPE_CHECKING:
    from zoo.model import Model


def list_checkpoints(*, json: bool = False, table: str | None = None) -> None:
    """List the checkpoints that go by a plain name, with what they reached.

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


def export(
    run: Path, name: str, *, dtype: str = "float16", width: float | None = None, overwrite: bool = False
) -> None:
    """Make a checkpoint folder from a training run, and print it.

    In a clone of the zoo it is checkpoints/NAME. Elsewhere, or if that is set, NAME in the folder ZOO_CHECKPOINTS, by
    default zoo/checkpoints in the user's data folder. Each command finds it there by its name.

    Args:
        run: the run's folder, or one .ckpt file in it.
        name: FAMILY-DATASET in lower case, for example pixelcnn-digits.
        dtype: of the stored weights; float32 for small models whose numbers 16 bits would change.
        width: of an average which the run's EMA kept beside its own, to be taken in the place of this one.
        overwrite: replace a checkpoint of that name, with its numbers and notes.
    """
    from zoo.hub import card
    from zoo.pictures.samples import draw, has_picture
    from zoo.training.export import export_run

    failed: list[Exception] = []

    def finish(folder: Path, model: Model) -> None:
        """Add the card and the picture, so that no one ever sees the checkpoint without them."""
        card.write(folder, name)
        try:
            if has_picture(model):
                draw(model, folder / card.PICTURE)
                card.write(folder, name)  # now with the picture
        except DataError:  # of a disk that is full
            raise
        except Exception as error:  # a picture that cannot be drawn leaves a whole checkpoint
            failed.append(error)

    tell(export_run(run, name, dtype=dtype, width=width, overwrite=overwrite, finish=finish))
    if failed:
        raise failed[0]


def push(
    name: str,
    *,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
) -> None:
    """Publish a checkpoint as a Hugging Face Hub repository.

    First it lists what is sent: config.json, the weights that this names, the card and pictures. The access token is
    the one of `hf auth login`, or the environment's HF_TOKEN.

    Args:
        name: a name from `zoo list` that is here, or a folder.
        repo_id: the repository NAMESPACE/NAME; it is made if there is none.
        private: make a new repository private.
        revision: branch to push to; by default main.
        message: of the commit.
        dry_run: only list what would be sent.
    """
    from zoo.hub import finding, publishing, store
    from zoo.hub.config import read_config

    folder = finding.to_push(name)
    for file, content in publishing.contents(folder, read_config(folder), repo_id).items():
        said = f"{publishing.size(content):>11,} bytes  {file}"
        print(said, file=sys.stdout if dry_run else sys.stderr)
    if dry_run:
        return
    tell(store.push(name, repo_id, private=private, revision=revision, message=message))


def pull(repo_id: str, *, revision: str | None = None) -> None:
    """Fetch a checkpoint from the Hugging Face Hub and print the folder it lies in.

    Args:
        repo_id: the repository NAMESPACE/NAME.
        revision: branch, tag or commit; by default main.
    """
    from zoo.hub import remote

    tell(remote.pull(repo_id, revision=revision))


def show_card(name: str | None = None, *, write: bool = False, readme: bool = False) -> None:
    """Print a checkpoint's card, made anew from its config.json, or write the cards and tables of all.

    Args:
        name: a name from `zoo list`, a folder, or a Hub repository NAMESPACE/NAME.
        write: write it into the checkpoint's folder instead of printing it.
        readme: write all bundled cards, and the tables in ./README.md and ./docs, anew.
    """
    from zoo.hub import card, finding, places, tables
    from zoo.hub.config import read_config
    from zoo.hub.reading import pictures_in

    if name is None and not readme:
        raise ZooError("Name the checkpoint whose card to make, or give --readme for all cards and tables.")
    if name in places.index() and not write and places.among(finding.folders(), name) is None:
        print(card.render(finding.config_of(name), name), end="")  # the weights need not be fetched for it
    elif name is not None:
        folder = finding.find(name)
        if write:
            finding.check_own(name, folder)
            tell(card.write(folder))
        else:
            shown = folder.resolve().name if finding.is_own(name, folder) else name
            print(card.render(read_config(folder), shown, pictures_in(folder)), end="")
    if readme:
        for path in [*card.write_all(), *tables.write_pages(Path())]:
            tell(path)


def _json(value: Any) -> str:
    return plain(json.dumps(value, indent=2, ensure_ascii=False))  # which writes as JSON what it does not show
