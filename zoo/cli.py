"""The `zoo` command, and `lightning`, which is its training part alone.

Every subcommand is a plain typed function below: its signature is the command line, its docstring the help.
Nothing heavy is imported before a subcommand runs that needs it: `zoo list` and every `--help` are immediate.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin

from zoo.commands.drawing import complete, figure, sample
from zoo.commands.measuring import distance, evaluate
from zoo.commands.sharing import export, list_checkpoints, pull, push, show_card
from zoo.errors import ZooError

TRAINING = {
    "fit": "train a model from a recipe: zoo fit --config recipes/NAME.yaml",
    "validate": "measure a training run on the validation split",
    "test": "measure a training run on the test split",
    "predict": "compute the loss of each datum",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zoo` with these arguments (by default the process's) and return its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in TRAINING:
        return _run("zoo", lambda: _train(argv))
    arguments = vars(_parser().parse_args(argv))
    function = arguments.pop("function")
    return _run("zoo", lambda: function(**arguments))


def lightning_main(argv: Sequence[str] | None = None) -> int:
    """Run `lightning fit`, `validate`, `test` or `predict`, which Lightning itself does not install."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in TRAINING:
        return _run("lightning", lambda: _train(argv))
    parser = argparse.ArgumentParser(prog="lightning", description="Train and measure the models of the zoo.")
    _add_training(parser.add_subparsers(metavar="COMMAND", required=True))
    parser.parse_args(argv)  # prints the help or the mistake, and exits
    return 2


COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_checkpoints,
    "sample": sample,
    "complete": complete,
    "evaluate": evaluate,
    "distance": distance,
    "figure": figure,
    "export": export,
    "push": push,
    "pull": pull,
    "card": show_card,
}


# -- from a function to its command line ---------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    """The parser of `zoo`."""
    parser = argparse.ArgumentParser(prog="zoo", description="Generative models on PyTorch Lightning, with weights.")
    parser.add_argument("--version", action="version", version=f"generative-zoo {_version()}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, function in COMMANDS.items():
        _add_command(subparsers, name, function)
    _add_training(subparsers)
    return parser


def _add_command(subparsers: Any, name: str, function: Callable[..., None]) -> None:
    """A subcommand of a typed function: positional parameters are arguments, keyword-only ones options."""
    description, _, documented = inspect.getdoc(function).partition("\n\nArgs:\n")
    helps = dict(re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", documented, flags=re.MULTILINE))
    parser = subparsers.add_parser(name, help=description.partition("\n")[0], description=description)
    parser.set_defaults(function=function)
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        text = " ".join(helps[parameter.name].split()).replace("%", "%%")
        kind, default = parameter.annotation, parameter.default
        if get_origin(kind) is types.UnionType:
            kind = next(member for member in get_args(kind) if member is not type(None))
        if parameter.kind is not parameter.KEYWORD_ONLY:
            optional = default is not parameter.empty
            parser.add_argument(parameter.name, type=kind, nargs="?" if optional else None, help=text)
            continue
        option = f"-{parameter.name}" if len(parameter.name) == 1 else f"--{parameter.name.replace('_', '-')}"
        if kind is bool:
            parser.add_argument(option, action="store_true", help=text)
            continue
        settings = {"required": True} if default is parameter.empty else {"default": default}
        if default not in (None, parameter.empty):
            text += f" (default: {default})"
        metavar = parameter.name.upper() if kind is not int else "N"
        parser.add_argument(option, type=kind, metavar=metavar, help=text, **settings)


def _add_training(subparsers: Any) -> None:
    """List the training subcommands in the help; `main` hands them on before any parsing."""
    for name, text in TRAINING.items():
        subparsers.add_parser(name, help=text)


def _train(argv: list[str]) -> None:
    from zoo.training.cli import main as train

    train(argv)


def _run(program: str, action: Callable[[], None]) -> int:
    """Run a subcommand; what the zoo refuses is one sentence on stderr and exit status 1."""
    try:
        action()
        sys.stdout.flush()
    except ZooError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; the interpreter's own flush at exit must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def _version() -> str:
    import zoo

    return zoo.__version__


if __name__ == "__main__":
    sys.exit(main())
