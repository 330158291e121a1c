"""The `zoo` command, and `lightning`, which is its training part alone.

Every subcommand is a plain typed function below: its signature is the command line, its docstring the help.
Nothing heavy is imported before a subcommand runs that needs it: `zoo list` and every `--help` are immediate.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, get_args, get_origin

from zoo.commands.completing import complete
from zoo.commands.drawing import figure, sample, trace
from zoo.commands.measuring import distance, evaluate
from zoo.commands.sharing import export, list_checkpoints, pull, push, show_card
from zoo.commands.terminal import elsewhere, plain_warnings, readable, sentence_of
from zoo.commands.verbs import documented
from zoo.errors import ZooError, plain, show

TRAINING = {
    "fit": "train a model from a recipe: zoo fit --config recipes/NAME.yaml",
    "validate": "measure a training run on the validation split",
    "test": "measure a training run on the test split",
    "predict": "compute the loss of each datum: their mean, and with --out all of them",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `zoo` with these arguments (by default the process's) and return its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["--version"]:
        return _run("zoo", _print_version)
    if argv and argv[0] in TRAINING:
        return _run("zoo", lambda: _train(argv))
    return _run("zoo", lambda: _command(argv))


def lightning_main(argv: Sequence[str] | None = None) -> int:
    """Run `lightning fit`, `validate`, `test` or `predict`, which Lightning itself does not install."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in TRAINING:
        return _run("lightning", lambda: _train(argv))
    parser = _Parser(prog="lightning", description="Train and measure the models of the zoo.")
    _add_training(parser.add_subparsers(metavar="COMMAND", required=True))
    parser.parse_args(argv)  # prints the help or the mistake, and exits
    return 2


COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_checkpoints,
    "sample": sample,
    "complete": complete,
    "trace": trace,
    "evaluate": evaluate,
    "distance": distance,
    "figure": figure,
    "export": export,
    "push": push,
    "pull": pull,
    "card": show_card,
}


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints quote a file's name without the escapes in it."""

    def error(self, message: str) -> NoReturn:
        """Print usage and complaint, and exit."""
        super().error(plain(" ".join(message.split())))


# -- from a function to its command line ---------------------------------------------------------------------


def _command(argv: list[str]) -> None:
    """Run a subcommand."""
    arguments = _parsed(argv)
    arguments.pop("function")(**arguments)


def _parsed(argv: list[str]) -> dict[str, Any]:
    """The function of a subcommand, as "function", and its arguments by name."""
    parser, commands = _parser()
    # A command whose options depend on what it is about gets them first: their names, values and help are the model's.
    for name, function in COMMANDS.items():
        if argv[:1] == [name] and hasattr(function, "options"):
            about, rest = _arguments(function, _Parser(f"zoo {name}", add_help=False)).parse_known_args(
                [word for word in argv[1:] if word not in ("-h", "--help")]
            )
            # Where an option of the model comes before the name, its value has been taken for one.
            words = [word for word in (about.name, *rest) if word and not word.startswith("-")]
            from zoo.hub import finding

            about.name = next(filter(finding.may_be_name, words), about.name)
            if about.name is not None and (rest or {"-h", "--help"} & set(argv)):
                options = function.options(about.name, about.revision)
                _add_options(commands[name], options)
                for word in rest:
                    if word.startswith("--"):
                        _check_option(about.name, word.partition("=")[0], commands[name], options)
    return vars(parser.parse_args(argv))


def _check_option(name: str, option: str, parser: argparse.ArgumentParser, own: Mapping[str, Any]) -> None:
    """Refuse what is neither an option of a command nor of its model, nor the beginning of one."""
    known = [each for action in parser._actions for each in action.option_strings if each.startswith("--")]
    if any(each.startswith(option) for each in known):
        return
    if option == "--label":
        raise ZooError(f"{name} is not conditioned on classes: leave out --label.")
    close = difflib.get_close_matches(option, known, 1, 0.75)
    theirs = ", ".join(f"--{each.replace('_', '-')}" for each in own)
    hint = f"did you mean {close[0]}?" if close else f"it may be drawn with {theirs}." if own else "leave it out."
    raise ZooError(f"{name} is not drawn with {option}: {hint}")


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of `zoo`, and those of its subcommands."""
    parser = _Parser(
        prog="zoo", description="Generative models on PyTorch Lightning, with weights.", epilog=_about_lightning()
    )
    parser.add_argument("--version", action="version", version=f"generative-zoo {_version()}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    commands = {}
    for name, function in COMMANDS.items():
        description = inspect.getdoc(function).partition("\n\nArgs:\n")[0]
        commands[name] = subparsers.add_parser(name, help=description.partition("\n")[0], description=description)
        _arguments(function, commands[name]).set_defaults(function=function)
    _add_training(subparsers)
    return parser, commands


def _arguments(function: Callable[..., None], parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Give a parser the arguments of a typed function: positional ones are arguments, keyword-only ones options."""
    helps = documented(function)
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        text = helps[parameter.name].replace("%", "%%")
        kind, default = parameter.annotation, parameter.default
        if get_origin(kind) is types.UnionType:
            kind = next(member for member in get_args(kind) if member is not type(None))
        if parameter.kind is not parameter.KEYWORD_ONLY:
            optional = default is not parameter.empty or not parser.add_help
            parser.add_argument(parameter.name, type=kind, nargs="?" if optional else None, help=text)
            continue
        option = [f"--{parameter.name.replace('_', '-')}"]
        if len(parameter.name) == 1:
            option.insert(0, f"-{parameter.name}")
        if kind is bool:
            parser.add_argument(*option, action="store_true", help=text)
            continue
        settings = {"required": True} if default is parameter.empty else {"default": default}
        if default not in (None, parameter.empty):
            text += f" (default: {default})"
        metavar = parameter.name.upper() if kind is not int else "N"
        parser.add_argument(*option, type=kind, metavar=metavar, help=text, **settings)
    return parser


def _add_options(parser: argparse.ArgumentParser, options: Mapping[str, tuple[type, Any, str]]) -> None:
    """Options of a model, by name: type, default and help; what is not given is left to the model."""
    group = parser.add_argument_group("options of this model")
    for name, (kind, default, text) in options.items():
        settings: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
        if default is not None:
            settings["help"] += f" (default: {default})"
        if kind is bool:
            settings["action"] = argparse.BooleanOptionalAction
        else:
            settings |= {"type": kind, "metavar": "N" if kind is int else name.upper()}
        group.add_argument(f"--{name.replace('_', '-')}", **settings)


def _add_training(subparsers: Any) -> None:
    """List the training subcommands in the help; `main` hands them on before any parsing."""
    for name, text in TRAINING.items():
        subparsers.add_parser(name, help=text)


def _train(argv: list[str]) -> None:
    from zoo.training.cli import main as train

    train(argv)


def _run(program: str, action: Callable[[], None]) -> int:
    """Run a subcommand; what is refused is one sentence on stderr and exit status 1, a mistake in the code a traceback.

    The one place through which every error of a command passes.
    """
    readable()
    with elsewhere() as heard:
        try:
            with plain_warnings(program):
                action()
            sys.stdout.flush()
            failed = heard[0] if heard else None
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:
            # The reader (head, less) has gone; the interpreter's own flush at exit must not complain about it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except Exception as error:
            failed = error
        if failed is None:
            return 0
        said = sentence_of(failed)
        if said is None:
            raise failed
        print(f"{program}: {said}", file=sys.stderr)
        return 1


def _print_version() -> None:
    print(f"generative-zoo {_version()}")
    if about := _about_lightning():
        print(about, file=sys.stderr)


def _about_lightning() -> str | None:
    """What to say where `lightning fit` would not train a model of the zoo."""
    owner = foreign_lightning()
    return owner and f"The command `lightning` is that of {owner} here: `zoo fit` is the twin of our `lightning fit`."


def foreign_lightning() -> str | None:
    """The package whose script the command `lightning` is, where it is not this one's; None where it is."""
    import shutil
    from pathlib import Path

    found = shutil.which("lightning")
    try:
        text = Path(found).read_text(encoding="utf-8", errors="replace")[:4096] if found else "zoo.cli"
    except OSError:
        return None
    if "zoo.cli" in text:
        return None
    from importlib.metadata import entry_points

    owners = [
        each.dist.name
        for each in entry_points(group="console_scripts", name="lightning")
        if each.dist is not None and each.module.partition(".")[0] != "zoo"
    ]
    return owners[0] if owners else show(found)


def _version() -> str:
    import zoo

    return zoo.__version__


if __name__ == "__main__":
    sys.exit(main())
