"""What `zoo predict` tells: the loss of each datum in a file, their mean on the terminal."""

from __future__ import annotations

import csv
import errno
import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.files import check_place, unwritable, write_atomically
from zoo.model import GenerativeModel
from zoo.results import METRICS


def check_out(out: str | None) -> None:
    """Refuse a file that could not be written, before anything is computed for it.

    Raises:
        DataError: with the remedy.
    """
    if out is None:
        return
    folder = Path(out).parent
    if not folder.is_dir():
        raise unwritable(out, FileNotFoundError(errno.ENOENT, "there is no such folder"))
    check_place(out)
    if not os.access(folder, os.W_OK):
        raise unwritable(out, PermissionError(errno.EACCES, "permission denied"))


def report(predictions: Sequence[Any], model: GenerativeModel, data: Any, out: str | None) -> str:
    """A line for each set of data: their number, and the mean loss with its standard error. The data go to a file.

    Args:
        predictions: as `Trainer.predict` gives them: (N,) of each batch, or a list of such lists, of several loaders.
        model: which says in what unit.
        data: the data module, which says what it is called.
        out: a CSV file for the loss of each datum, in the order of the data; None for none.
    """
    sets = list(predictions) if predictions and isinstance(predictions[0], list) else [list(predictions)]
    losses = [torch.cat(each).double().cpu() if each else torch.empty(0) for each in sets]
    if out is not None:
        write_atomically(Path(out), _table(losses, model.metric))
    title, kind = getattr(data, "title", None) or type(data).__name__, model.likelihood
    lines = []
    for i, loss in enumerate(losses):
        n, name = len(loss), title if len(losses) == 1 else f"{title}, loader {i}"
        error = f" ± {loss.std() / math.sqrt(n):.4f}" if n > 1 else ""
        mean = f"{loss.mean():.4f}{error} {METRICS[model.metric].unit}" if n else "nothing"
        lines.append(f"{name}: n = {n:,}, {mean}, {'exact' if kind == 'exact' else 'an upper bound'}")
    return "\n".join([*lines, *([out] if out is not None else [])])


def _table(losses: list[Tensor], metric: str) -> str:
    text = io.StringIO()
    writer, several = csv.writer(text, lineterminator="\n"), len(losses) > 1
    writer.writerow([*(["loader"] if several else []), "index", metric])
    for i, loss in enumerate(losses):
        writer.writerows([*([i] if several else []), j, value] for j, value in enumerate(loss.tolist()))
    return text.getvalue()
