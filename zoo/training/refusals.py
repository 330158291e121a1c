"""What a recipe or a command line may say, and the sentence where it says something else.

The parser's own words are a page of usage and the types of all that would have fitted. Here they become one sentence
that names the file, the key and the close one.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser
from torch.nn.modules.module import register_module_module_registration_hook

from zoo.errors import ZooError, close_to, refusing, show
from zoo.files import write_atomically
from zoo.references import Reference
from zoo.training.recipes import show_plain

MODULES = 20_000
REFERENCE = (
    *("metric", "value", "source", "whose", "kind", "samples", "protocol", "decimals", "also", "best"),
    *("unit", "higher_is_better"),
)
CLASS = ("class_path", "init_args", "dict_kwargs")


class Parser(LightningArgumentParser):
    """LightningCLI's parser, whose refusals are a `ZooError`."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Refuse; a parser that is asked whether one of several types fits answers as it did."""
        if not self.exit_on_error:
            super().error(message, ex)
        if found := re.search(r"arguments are required: (.*\bmodel)", message):  # a matter of usage
            self.exit(2, f"zoo: No model is named, as {found[1]}: give --config RECIPE.yaml, --from NAME or --model.\n")
        raise Refused(message, self.arguments) from ex

    def save(self, cfg: Any, path: Any, *, overwrite: bool = False, multifile: bool = False, **how: Any) -> None:
        """Write the configuration as UTF-8, whatever the terminal's encoding is, whole or not at all."""
        write_atomically(Path(path), self.dump(cfg, **how))

    @property
    def arguments(self) -> set[str]:
        """The names of all arguments, with dots; of those of a subcommand where there are some."""
        parsers = [self, *getattr(getattr(self, "_subcommands_action", None), "_name_parser_map", {}).values()]
        return {action.dest for parser in parsers for action in parser._actions}


class Refused(ZooError):
    """What the parser refuses; `where` is the key that it is about, "" where it is about none."""

    def __init__(self, message: str, known: Iterable[str]) -> None:
        self.where = ".init_args.".join(re.findall(r'[Pp]arser key "([^"]+)"', message))
        self._short = self.where.replace(".init_args.", ".")
        super().__init__(said_of(message, self.where, known))

    def of(self, recipes: dict[str, dict[str, Any]], argv: list[str]) -> ZooError:
        """The same, with the recipe that says it, where no option does."""
        given = {word.partition("=")[0].lstrip("-").replace(".init_args.", ".") for word in argv}
        if str(self).startswith("There is no option"):  # keys of recipes have been looked at before
            return self
        if {self.where, f"{self.where}.class_path", f"{self.where}+"} & given or self._short in given:
            return self
        for path, recipe in reversed(recipes.items()):
            value: Any = recipe
            for part in self.where.split("."):
                value = value.get(part, self) if isinstance(value, dict) else self
            if self.where and value is not self:
                return ZooError(f"{path}: {self}")
        return self


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Refuse a model of more layers than any needs, while it is built: a digit too many would fill the memory.

    Raises:
        ZooError: in the constructor.
    """
    count = itertools.count(1)

    def counted(*_: Any) -> None:
        if next(count) > MODULES:
            raise ZooError(f"The model would have more than {MODULES:,} layers: look for a number that is too large.")

    handle = register_module_module_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()


def check_recipe(path: str, recipe: dict[str, Any], known: Iterable[str]) -> None:
    """Refuse a recipe that says what nobody reads.

    Args:
        path: as the command line has it.
        recipe: what it holds.
        known: the names of all arguments of the command, with dots.

    Raises:
        ZooError: naming the file, the key and the close one.
    """
    known = {name for name in known if name not in ("help", "config", "print_config")}
    tops = {name.partition(".")[0] for name in known}
    groups = {top: {name.partition(".")[2] for name in known if name.startswith(f"{top}.")} for top in tops}
    for key, value in recipe.items():
        if key not in tops:
            raise _unknown(path, key, tops)
        if isinstance(value, dict) and groups[key] and "class_path" not in value and key not in ("model", "data"):
            for name in value:
                if name not in groups[key]:
                    raise _unknown(path, f"{key}.{name}", (f"{key}.{each}" for each in groups[key]))
        elif key in ("model", "data") and isinstance(value, dict):
            for name in value:
                if name not in CLASS:
                    raise _unknown(path, f"{key}.{name}", [*(f"{key}.{each}" for each in CLASS)])
    for where, value in _classes(recipe, ""):
        _check_class(path, where, value)


def check_reference(reference: Mapping[str, Any] | None) -> None:
    """Refuse a number to be held against that is none, before the training: `zoo export` would refuse the run.

    Raises:
        ZooError: naming the key.
    """
    if not reference:
        return
    for key in reference:
        if key not in REFERENCE:
            raise _unknown("The reference", f"reference.{key}", (f"reference.{each}" for each in REFERENCE))
    for key in ("metric", "value", "source"):
        if reference.get(key) is None:
            raise ZooError(f"The reference has no {key}: say reference.{key}, or leave the reference out.")
    if isinstance(reference["value"], bool) or not isinstance(reference["value"], (int, float)):
        raise ZooError(f"reference.value must be a number, not {show(reference['value'])}.")
    with refusing("The reference is none", ZooError):
        Reference.from_config(reference)


def _unknown(path: str, key: str, known: Iterable[str]) -> ZooError:
    known = sorted(known)
    close = close_to(key, known)
    hint = f"did you mean {close}?" if close else f"known are {', '.join(known[:12])}."
    return ZooError(f"{path} has the unknown key {show_plain(key, 80)}: {hint[:300]}")


def _classes(value: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """All that names a class, and where."""
    if isinstance(value, dict):
        if "class_path" in value:
            yield where, value
        for key, item in value.items():
            yield from _classes(item, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _classes(item, f"{where}[{i}]")


def _check_class(path: str, where: str, value: dict[str, Any]) -> None:
    name, arguments = value["class_path"], value.get("init_args")
    if not isinstance(name, str):
        raise ZooError(f"{path}: {where}.class_path must be the path of a class, not {show(name)}.")
    for key in value:
        if key not in CLASS:
            raise _unknown(path, f"{where}.{key}", [f"{where}.{each}" for each in CLASS])
    if arguments is not None and not isinstance(arguments, dict):
        raise ZooError(f"{path}: {where}.init_args must name arguments, not be {show(arguments)}.")
    if "." not in name:
        return  # which the parser knows by its name alone, or refuses
    cls = class_of(name)
    if cls is None:
        raise ZooError(f"{path}: {where}.class_path: {no_class(name)}")
    parameters = inspect.signature(cls).parameters if isinstance(cls, type) else {}
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return
    for key in arguments or {}:
        if parameters and key not in parameters:
            inside = f"{where}.init_args."
            raise _unknown(path, f"{inside}{key}", (f"{inside}{each}" for each in parameters))


def class_of(path: str) -> Any | None:
    """What a dotted path names, None for nothing; importing it is what a recipe asks for."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        if error.name and not module.startswith(error.name):
            raise ZooError(f"{module}, which a recipe names, needs the package {error.name}: install it.") from error
        return None
    except (ValueError, TypeError):  # an empty part
        return None


def no_class(path: str) -> str:
    """The sentence about a class that is not there, with the close one."""
    from zoo.training.families import families

    known = [f"zoo.{name}" for name in families()]
    for room in ("zoo.data", "zoo.callbacks", "zoo.targets"):
        known += [f"{room}.{name}" for name in importlib.import_module(room).__all__]
    by_name = {name.rpartition(".")[2]: name for name in known}
    close = close_to(path, known) or by_name.get(close_to(path.rpartition(".")[2], by_name) or "")
    hint = f"did you mean {close}?" if close else "give MODULE.CLASS, of a package that is installed."
    return f"there is no class {show_plain(path, 100)}: {hint}"


def said_of(message: str, where: str, known: Iterable[str]) -> str:
    """The parser's refusal as one sentence.

    Args:
        message: the parser's.
        where: the key that it is about.
        known: the names of all arguments, with dots.
    """
    about = f"{where}: " if where else ""
    if found := re.search(r"[Oo]ption '([^']+)' is not accepted|not accept option '([^']+)'", message):
        option = found[1] or found[2]
        cls = re.search(r"class_path '([^']+)'", message)
        return _no_option(f"{where}.{option}" if where else option, known, cls and cls[1])
    if found := re.search(r"NestedArg\(key='class_path', val='([^']*)'\)", message):
        if class_of(found[1]) is None:
            return f"{about}{no_class(found[1])}"
        return f"{about}{show_plain(found[1], 100)} is no class of that kind: give the path of one that is."
    if found := re.search(r"[Uu]nrecognized arguments?: (\S+)", message):
        if not found[1].startswith("-"):
            return f"{show_plain(found[1], 80)} is no option: those begin with --, and recipes stand after --config."
        return _no_option(found[1].lstrip("-").partition("=")[0], known, None)
    if found := re.search(r"class_path '([^']+)':\s+(?:module|No module|Unexpected import)", message):
        return f"{about}{no_class(found[1])}"
    if found := re.search(
        r"Expected a dot import path string: (.+)|Not a valid subclass of \w+.*Given value: (.+)", message, re.S
    ):
        name = (found[1] or found[2]).splitlines()[0].strip()
        if re.fullmatch(r"[\w.]+", name) and not name[0].isdigit():
            return f"{about}{no_class(name)}"
        return f"{about}name a class, as class_path: and its arguments, as init_args:, not {show_plain(name)}."
    if found := re.search(r"Expected an? (.+?)\.? Got value: (.*)", message, re.S):
        return f"{where or 'A value'} must be {_kind(found[1])}, not {_value(found[2])}."
    if found := re.search(r"Given value: (.*)", message, re.S):
        kinds = re.search(r"Subtypes: \[(.*)\]", message)
        wanted = f"must be {_kind(kinds[1])}, not" if kinds else "cannot be"
        return f"{where or 'A value'} {wanted} {_value(found[1])}."
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    text = lines[-1 if where else 0] if lines else "the arguments do not fit"
    return f"{about}{show_plain(text.rstrip('.'), 240)}."


def _no_option(option: str, known: Iterable[str], cls: str | None) -> str:
    names, prefix = list(known), ""
    top = option.partition(".")[0]
    if cls and cls.rpartition(".")[2] in ("Model", "LightningDataModule"):  # of which nothing more is known
        return f"No class is named whose argument {show_plain(option, 80)} would be: add {top}.class_path."
    if cls and isinstance(found := class_of(cls), type):
        prefix = option.rpartition(".")[0] + "."
        names = [prefix + name for name in inspect.signature(found).parameters]
    close = close_to(option, names)
    who = f" of {cls}" if cls else ""
    hint = f"did you mean --{close}?" if close else "see --help for what there is."
    return f"There is no option --{show_plain(option, 80)}{who}: {hint}"


def _kind(text: str) -> str:
    """Types as people name them."""
    if choices := re.findall(r"'([\w.-]+)'", text) if "Literal" in text else ():
        return f"one of {', '.join(dict.fromkeys(choices))}"[:160]
    names = re.findall(r"<class '([\w.]+)'>|([\w.\[\], ]+)", text)
    kinds = [re.sub(r"(?:[a-z_]+\.)+", "", a or b).strip(" ,") for a, b in names]
    kinds = ["null" if kind == "NoneType" else kind for kind in kinds if kind]
    return " or ".join(dict.fromkeys(kinds))[:160] or "of another type"


def _value(text: str) -> str:
    text = text.strip().splitlines()[0] if text.strip() else ""
    try:
        return show(ast.literal_eval(text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return show(text)
