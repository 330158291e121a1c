"""Recipes and the command line around them: read within bounds, in an order in which what was given by hand wins."""

from __future__ import annotations

import os
import re
import stat
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from zoo.errors import ZooError, close_to, one_line, said_name, show
from zoo.hub.places import PACKAGE
from zoo.hub.places import recipe as recipe_of

# A recipe has some sixty values in two kilobytes.
BYTES = 1 << 18  # of a file
VALUES = 10_000  # keys and values, counted as often as aliases repeat them
LETTERS = 1 << 20  # the same of their letters
DEPTH = 40
CONFIG = "--config", "-c"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def options(argv: list[str], *names: str) -> list[str]:
    """The values of an option, in their order, however often it is given and under whichever of its names."""
    values = []
    for word, value in pairwise([*argv, ""]):
        name, equals, text = word.partition("=")
        if name in names:
            values.append(text if equals else value)
    return values


def in_order(argv: list[str]) -> list[str]:
    """A command line in which recipes come first, then whole groups and classes, then single arguments.

    The parser lets what comes later win. A recipe would otherwise replace the options before it, and a class the
    arguments that it was given before its name. Among their like words keep their order.
    """
    command, words = argv[:1], argv[1:]
    groups: list[list[str]] = []
    for word in words:
        # A negative number is a value; all options are words.
        starts = word.startswith("-") and not re.fullmatch(r"-[\d.].*", word)
        if starts or not groups:
            if word.startswith("-c") and not word.startswith("--") and len(word) > 2:
                word = f"--config={word[2:].removeprefix('=')}"
            groups.append([word])
        else:
            groups[-1].append(word)
    return command + [word for group in sorted(groups, key=_rank) for word in group]


def _rank(group: list[str]) -> int:
    name = group[0].partition("=")[0]
    if name in CONFIG:
        return 0
    parts = name.removesuffix("+").split(".")
    if len(parts) == 1 or (len(parts) == 2 and parts[1] == "class_path"):
        return 1
    return 2 if len(parts) == 2 and parts[1] in ("init_args", "dict_kwargs") else 3


def read_recipes(argv: list[str]) -> dict[str, dict[str, Any]]:
    """The recipes that a command line names, by what it calls them.

    Raises:
        ZooError: one is not there, no recipe, or larger than any needs.
    """
    for name in ("--model", "--data", "--trainer"):  # each may be a file of its own
        for value in options(argv, name):
            if os.path.lexists(value) and not value.isidentifier():
                _loaded(value, _text_of(Path(value)))
    return {path: read_recipe(path) for path in options(argv, *CONFIG) if path}


def read_recipe(path: str) -> dict[str, Any]:
    """The mapping that a recipe holds, or one that is written in its place, in braces.

    Raises:
        ZooError: it is not there, no recipe, or larger than any needs.
    """
    file = recipe_of(path) or Path(path)
    recipe = _loaded(path, path if path.lstrip().startswith("{") else _text_of(file))
    if not isinstance(recipe, dict):
        what = "nothing" if recipe is None else f"{show(recipe, 40)}"
        raise ZooError(f"{said_name(path)} is no recipe, which names a model, data and a trainer: it holds {what}.")
    for value in _strings(recipe):
        # The parser opens what a recipe names as a file of its own: a pipe would be waited for, and a bomb be read.
        other = file.parent / value
        kinds = ".yaml", ".yml", ".json"
        if _exists(other) and not other.is_dir() and (not other.is_file() or other.suffix in kinds):
            _loaded(str(other), _text_of(other))
    return recipe


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a null in it: no name of a file
        return False


def _strings(value: Any) -> list[str]:
    if isinstance(value, (dict, list)):
        return [each for item in (value.values() if isinstance(value, dict) else value) for each in _strings(item)]
    return [value] if isinstance(value, str) and value else []


def _text_of(path: Path) -> str:
    """The text of a recipe's file, which is a plain one of a recipe's size."""
    name = said_name(str(path))
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "no plain file"
            raise ZooError(f"{name} is {what}: give the file of a recipe.")
        if status.st_size > BYTES:
            raise ZooError(f"{name} is no recipe: it has {status.st_size:,} bytes, and a recipe at most {BYTES:,}.")
        with path.open("rb") as file:
            data = file.read(BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ZooError(_missing(path)) from None
    except ZooError:
        raise
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ZooError(f"The recipe {name} cannot be read: {why}.") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ZooError(f"{name} is not UTF-8, from byte {error.start} on: save it as UTF-8.") from None


def _missing(path: Path) -> str:
    """Which recipe is not there, where it was looked for, and which is called so or alike."""
    folder = Path.cwd() / path.parent
    here = sorted(each.name for each in folder.glob("*.y*ml")) if folder.is_dir() else []
    where = f"{'looked for in' if folder.is_dir() else 'nor a folder'} {said_name(str(folder))}"
    hint = "give the path of a recipe, from the current folder."
    if close := close_to(path.name, here):
        hint = f"did you mean {path.parent / close}?"
    # Those of the zoo are found by their names from anywhere.
    elif close := close_to(path.name, (each.name for at in (PACKAGE.parent, PACKAGE) for each in at.glob("recipes/*"))):
        hint = f"did you mean recipes/{close}?"
    return f"There is no recipe {said_name(str(path))}, {where}: {hint}"


def _loaded(path: str, text: str) -> Any:
    """What YAML says, within bounds that are held before anything is built."""
    name = said_name(path)
    try:
        depth = 0
        for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH or count > VALUES:
                raise ZooError(
                    f"{name} is no recipe: it has more than {VALUES:,} values, or nests deeper than {DEPTH}."
                )
        node = yaml.compose(text, Loader=_Loader)
        _Bounds(name).check(node, 0)
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or one_line(error)
        tab = ": YAML is indented by spaces, not by tabs" if mark and "\t" in _line(text, mark.line) else ""
        raise ZooError(f"{name}{where}, is no YAML: {show_plain(problem)}{tab}.") from error
    except (ValueError, OverflowError) as error:
        if isinstance(error, ZooError):
            raise
        raise ZooError(f"{name} holds a value that is none: {show_plain(one_line(error))}.") from error


def show_plain(text: str, limit: int = 160) -> str:
    """Words of another's, for a sentence: as `show`, without quotes."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    text = text.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _line(text: str, number: int) -> str:
    lines = text.splitlines()
    return lines[number] if number < len(lines) else ""


class _Bounds:
    """Counts what a document holds once its aliases are written out, which is what reading it takes."""

    def __init__(self, name: str) -> None:
        self.name, self.values, self.letters = name, 0, 0

    def check(self, node: yaml.Node | None, depth: int) -> None:
        if node is None:
            return
        self.values += 1
        self.letters += len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        if depth > DEPTH or self.values > VALUES or self.letters > LETTERS:
            raise ZooError(f"{self.name} is no recipe: its aliases make more of it than any recipe holds.")
        if isinstance(node, yaml.SequenceNode):
            for each in node.value:
                self.check(each, depth + 1)
        elif isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                # A tuple of two could not be told from what is written so, but no recipe has such a key.
                written = key.value if isinstance(key, yaml.ScalarNode) else None
                if written is None:
                    raise ZooError(f"{self.name}, line {key.start_mark.line + 1}: a key must be a word.")
                if written in seen:
                    line = key.start_mark.line + 1
                    raise ZooError(
                        f"{self.name} says {show(written)} twice in one place, again in line {line}: leave one."
                    )
                seen.add(written)
                self.check(key, depth + 1)
                self.check(value, depth + 1)
