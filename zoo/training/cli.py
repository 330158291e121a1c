"""`zoo fit`, `validate`, `test` and `predict` (and the same after `lightning`): LightningCLI with the zoo's defaults.

A run lives in one folder, `runs/RECIPE` unless `--trainer.default_root_dir` names another: `checkpoints/` with
`last.ckpt` (from which `--ckpt_path last` resumes) and the best by validation, `logs/` with the curves and the
configuration, `samples/`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.callbacks import ProgressBar as AnyBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.model_helpers import is_overridden

from zoo.arguments import seed_of
from zoo.callbacks.ema import EMA
from zoo.callbacks.run import ProgressBar, RunRecord, SaveBest, SaveLast
from zoo.classes import ABSENT, class_path_of, up_to_date
from zoo.errors import CheckpointError, ZooError, warn
from zoo.files import FULL
from zoo.hub import building, packing, store
from zoo.model import Model
from zoo.training import predictions
from zoo.training.families import families
from zoo.training.files import AtomicCheckpointIO, in_todays_names, read_run
from zoo.training.recipes import in_order, options, read_recipes
from zoo.training.refusals import Parser, Refused, bounded, check_recipe, check_reference, said_of
from zoo.training.start import Pretrained, pretrained
from zoo.training.trust import check_class, check_trust, local_alone, plain

families()  # which imports them, and the data sets: they may then be named without a path


class ZooCLI(LightningCLI):
    """LightningCLI that knows recipes, run folders and published weights."""

    def __init__(
        self,
        start: Pretrained | None,
        *,
        argv: list[str],
        recipes: dict[str, Any],
        names_data: bool,
        about: str | None,
        **kwargs: Any,
    ) -> None:
        self.start, self.argv, self.recipes = start, argv, recipes
        self.about = about  # the class of data that the recipe's reference is about, where it is the recipe's
        self.names_data = names_data  # whether the command line or a recipe says which data
        super().__init__(args=argv, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The zoo's own arguments, and the default data set."""
        parser.add_argument(
            "--from",
            type=str | None,
            default=None,
            help="Name, folder or repository of published weights to start from.",
        )
        parser.add_argument(
            "--reference",
            type=dict | None,
            default=None,
            help="What it is held against: metric, value, source; and maybe whose (paper, reported, other, target), "
            "kind, samples, protocol, decimals, also, best.",
        )
        # Only where no other data is named: the arguments of a default class would pass to the class that replaces it.
        if not options(self.argv, "--data") and not any("data" in recipe for recipe in self.recipes.values()):
            parser.set_defaults({"data": {"class_path": "zoo.data.Digits"}})
        # The class of a checkpoint from elsewhere is not imported unasked: a recipe must name it.
        if self.start and self.start.config["class_path"].startswith("zoo."):
            config = self.start.config
            parser.set_defaults({"model": {"class_path": config["class_path"], "init_args": config["init_args"]}})

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument("--out", type=str | None, default=None, help="CSV file for the loss of each datum.")
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; the run's folder follows from the recipe's name, and the run's checkpoints from its folder."""
        if known := self._subcommand_parsers.get(args[0] if args else ""):
            for path, recipe in self.recipes.items():
                check_recipe(path, recipe, known.arguments)
        # Not LightningCLI's own, which warns of arguments passed beside the process's: these are those, in order.
        try:
            self.config = parser.parse_args(args)
        except Refused as error:
            raise error.of(self.recipes, self.argv) from error
        config = self.config[self.config.subcommand]
        files = [str(path) for path in config.config or [] if path]
        self.recipe = Path(files[-1]).stem if files else None
        if config.trainer.default_root_dir is None:
            config.trainer.default_root_dir = str(Path("runs", self.recipe or "unnamed"))
        self.save_config_kwargs = {"overwrite": True}
        if not sys.stderr.isatty() and config.trainer.enable_progress_bar is None:
            config.trainer.enable_progress_bar = False  # `RunRecord` writes lines instead
        if config.weights_only is None:
            config.weights_only = True  # a run's checkpoint is tensors and plain values, and no code
        if config["from"] and not self.start:
            self.start = pretrained(config["from"])
        if self.config.subcommand == "predict":
            predictions.check_out(config.out)
            config.return_predictions = True
            if config.trainer.devices == "auto":
                config.trainer.devices = 1
        check_reference(config.reference and up_to_date({"reference": dict(config.reference)})["reference"])
        check_trust(config, self.argv)
        self._find_checkpoint(config)

    def _parse_ckpt_path(self) -> None:
        """LightningCLI's: the model's arguments are those in the run's file; in the names of today."""
        command = self.config.get("subcommand")
        path = command and self.config[command].get("ckpt_path")
        if not path or not Path(path).is_file():
            return
        state = read_run(Path(path), code=self.config[command].weights_only is False)
        record = next((kept for key, kept in state["callbacks"].items() if key.startswith("RunRecord")), {})
        arguments = state["hyper_parameters"]
        # A run without the command line keeps the arguments alone.
        cls = arguments.pop("_class_path", None) or record.get("class_path")
        arguments = {name: value for name, value in arguments.items() if not name.startswith("_")}
        if cls and arguments:
            check_class(cls, self.config[command].get("model"), path)
            model = {"class_path": cls, "dict_kwargs": arguments}
            self.config = self.parser.parse_object({command: {"model": model}}, self.config)

    def _find_checkpoint(self, config: Any) -> None:
        """Give up where there are no weights to measure, or not those that were named."""
        root = Path(config.trainer.default_root_dir)
        if self.config.subcommand != "fit":
            if config.ckpt_path is None and not self.start:
                raise CheckpointError(
                    f"Say which weights: --ckpt_path last (or best) for the run in {root}, "
                    "--ckpt_path FILE.ckpt, or --from NAME."
                )
            if config.ckpt_path in ("last", "best"):
                # As a file, it brings the arguments of the model that was trained.
                config.ckpt_path = str(root / "checkpoints" / f"{config.ckpt_path}.ckpt")
        path = config.ckpt_path
        special = path in (None, "last", "best", "hpc") or path.startswith("registry") or "://" in path
        if not special and not (path and Path(path).exists()):
            raise CheckpointError(f"There is no checkpoint {path}: give a run's .ckpt file.")
        # A strategy may keep a checkpoint as a folder.
        if not special and not (Path(path).is_file() or Path(path).is_dir()):
            raise CheckpointError(f"{path} is no plain file: give a run's .ckpt file.")

    def _set_seed(self) -> None:
        """Refuse a seed that NumPy has not, which Lightning would end in a traceback with."""
        seed = self._get(self.config, "seed_everything")
        if not isinstance(seed, bool):
            seed_of(seed, "seed_everything", bits=32)
        super()._set_seed()

    def before_instantiate_classes(self) -> None:
        """Find the last checkpoint of a run, which `SaveLast` wrote: Lightning looks for those of `ModelCheckpoint`.

        Not sooner: where the options name a file, LightningCLI replaces the model's arguments by those in it.
        """
        config = self.config[self.config.subcommand]
        last = Path(config.trainer.default_root_dir, "checkpoints", "last.ckpt")
        if config.ckpt_path == "last" and last.exists():
            config.ckpt_path = str(plain(last))
            # A run that began before its class had an argument goes on with what it had in the argument's place.
            arguments = read_run(last, code=config.weights_only is False)["hyper_parameters"]
            for name in ABSENT.get(config.model.class_path, {}):
                if name in arguments:
                    config.model.init_args[name] = arguments[name]
        elif config.ckpt_path == "best":
            best = last.with_name("best.ckpt")
            if not best.exists():
                raise CheckpointError(f"There is no checkpoint {best}: leave out --ckpt_path, and start the run.")
            config.ckpt_path = str(plain(best))
        elif config.ckpt_path == "last":
            config.ckpt_path = None
            warn(f"There is no {last} to go on from: the run starts from its beginning.")

    def instantiate_classes(self) -> None:
        """Instantiate; what a constructor refuses is its own sentence, without the parser's words around it."""
        try:
            with bounded():
                super().instantiate_classes()
        except ZooError:
            raise
        except ValueError as error:
            cause = error.__cause__
            if isinstance(cause, OSError | MemoryError) or "memory" in str(cause):
                raise cause from error
            said = str(error.__cause__ or error)
            raise ZooError(said_of(said, "", ()) if "\n" in said else said) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Checkpoints, curves and the record of the run come with every run; a recipe may add to them."""
        config = self._get(self.config_init, "trainer")
        root = Path(config["default_root_dir"])
        # `EMA` puts the weights back after the others have seen the average.
        callbacks = sorted(_several(config["callbacks"]), key=lambda callback: isinstance(callback, EMA))
        if config["enable_checkpointing"] is not False:
            callbacks += self._checkpoints(root, callbacks)
        reference = self._get(self.config_init, "reference")
        if self.about and self.about != type(self._get(self.config_init, "data")).__name__:
            reference = None  # a recipe's number is one of its own data
        # `RunRecord` precedes the callback that saves, so that what is saved counts the batch that was just seen.
        start = self.start and {
            "name": self.start.name,
            "sha256": dict(self.start.config["weights"]["sha256"]),
            "training": self.start.config.get("training"),
        }
        reference = up_to_date({"reference": dict(reference)})["reference"] if reference else None
        callbacks = [RunRecord(self.recipe, reference, start), *callbacks]
        if config["enable_progress_bar"] is not False and not any(isinstance(each, AnyBar) for each in callbacks):
            callbacks.append(ProgressBar())
        logger = config["logger"]
        if logger in (None, True) and not config["fast_dev_run"]:
            logger = [CSVLogger(root, "logs")]
            if importlib.util.find_spec("tensorboard"):
                logger.append(TensorBoardLogger(root, "logs", version=logger[0].version, default_hp_metric=False))
        if logger:
            callbacks.append(LearningRateMonitor("step"))
        plugins = _several(config["plugins"])
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        own = {"callbacks": callbacks, "logger": logger, "plugins": plugins}
        return super().instantiate_trainer(**{**kwargs, **own})

    def _checkpoints(self, root: Path, callbacks: list[Any]) -> list[Any]:
        """The callbacks that save, but for those that the recipe has itself, which get the run's folder."""
        folder = os.path.realpath(root / "checkpoints")
        saving = [callback for callback in callbacks if isinstance(callback, ModelCheckpoint)]
        for callback in saving:
            # By default a folder below logs/ that each start counts on, where a resume would not find it.
            callback.dirpath = callback.dirpath or folder
        best = []
        # Without a number of a validation none tells which weights are the best.
        if self.model.monitor:
            number = {"monitor": f"val_{self.model.monitor.name}", "mode": self.model.monitor.mode}
            kind = SaveBest if saving else ModelCheckpoint
            if not any(each.filename == "best" and each.monitor for each in saving):
                best = [kind(folder, "best", **number, enable_version_counter=False)]
        last = any(isinstance(callback, SaveLast) for callback in callbacks)
        return best + ([] if last else [SaveLast()])

    def after_instantiate_classes(self) -> None:
        """Hand the model what it rests on; start from published weights, where `--from` names some."""
        self.model.attach(store.load)
        self._check_verb()
        self._check_export()
        if self.start:
            try:
                packing.fill(self.model, self.start.weights, str(self.start.folder))
            except CheckpointError as error:
                raise CheckpointError(
                    f"{str(error).rstrip('.')}: leave the model out of the recipe, or give it the "
                    f"checkpoint's arguments."
                ) from error

    def _check_export(self) -> None:
        """Say before the training, and not after it, that no checkpoint can be made of what it trains."""
        if class_path_of(type(self.model)).startswith("zoo."):
            try:
                own = {name: value for name, value in self.model.hparams.items() if not name.startswith("_")}
                building.check_arguments(type(self.model), own)
            except CheckpointError as error:
                warn(f"This run can be trained and resumed, but `zoo export` will refuse it. {error}")

    def _check_verb(self) -> None:
        """Refuse to measure, or to compute a loss of each datum, by what the model does not have."""
        command, name = self.config.subcommand, type(self.model).__name__
        step = {"validate": "validation_step", "test": "test_step"}.get(command)
        if step and not is_overridden(step, self.model):
            raise ZooError(f"{name} defines no {step}: export the run, and measure it with `zoo evaluate`.")
        if command == "predict" and not getattr(self.model, "likelihood", None):
            raise ZooError(f"{name} has no likelihood, which `predict` computes of each datum: use its own methods.")
        if command == "predict" and self.trainer.world_size > 1:
            raise ZooError("Several processes would each predict a part: set trainer.devices to 1.")

    def _run_subcommand(self, subcommand: str) -> None:
        """LightningCLI's; a full disk is said with the run's folder, where what writes, as curves, names no file."""
        try:
            super()._run_subcommand(subcommand)
        except OSError as error:
            if error.errno in FULL and error.filename is None:
                error.filename = self.trainer.default_root_dir
            raise

    def after_predict(self) -> None:
        """Tell what came of it."""
        found = self.trainer.predict_loop.predictions
        print(predictions.report(found, self.model, self.datamodule, self.config.predict.out))


def main(argv: list[str] | None = None) -> None:
    """Run `fit`, `validate`, `test` or `predict` with the arguments of LightningCLI.

    Raises:
        ZooError: bad data, a model that does not fit it, or weights that do not fit the model.
    """
    given = in_order(sys.argv[1:] if argv is None else argv)
    with tempfile.TemporaryDirectory(prefix="zoo-recipes-") as folder:
        try:
            _run(in_todays_names(given, Path(folder)))
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):  # which Lightning turns into a failure
                raise stop.__context__ from None
            raise


def _run(argv: list[str]) -> None:
    name = next(reversed(options(argv, "--from")), None)
    # Float32 products in TF32 where the hardware has it; the published numbers are computed in full float32.
    torch.set_float32_matmul_precision("high")
    recipes = read_recipes(argv)
    local_alone()
    ZooCLI(
        pretrained(name) if name else None,
        argv=argv,
        recipes=recipes,
        names_data=bool(options(argv, "--data")) or any(map(_names_data, recipes.values())),
        about=None if any(word.startswith("--reference") for word in argv) else _about(list(recipes.values())),
        model_class=Model,
        datamodule_class=LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_class=Parser,
        parser_kwargs={"prog": "zoo"},
    )
    # Gloo's threads may still hold tensors: freed while the interpreter ends, they abort a run that went well. Only
    # here, not after an error: where other ranks still wait for this one, leaving the group would hang.
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _several(given: Any) -> list[Any]:
    """What a trainer takes as one or as a list of them, as a new list."""
    return list(given) if isinstance(given, list) else [] if given is None else [given]


def _about(recipes: list[Any]) -> str | None:
    """The name of the class of data of the last recipe with a reference; None where it does not say."""
    last = next((each for each in reversed(recipes) if isinstance(each, dict) and each.get("reference")), {})
    data = last.get("data")
    path = data.get("class_path") if isinstance(data, dict) else data
    return path.rpartition(".")[2] if isinstance(path, str) else None


def _names_data(recipe: Any) -> bool:
    return isinstance(recipe, dict) and "data" in recipe
