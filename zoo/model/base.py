"""What all models share, distributions or not: their data, their training, what is measured of them."""

from __future__ import annotations

import contextlib
import inspect
from abc import ABCMeta
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from zoo.errors import CheckpointError, ZooError
from zoo.model.entry import Entry
from zoo.model.modes import TrainingMode
from zoo.model.optimization import Optimization
from zoo.model.pretrained import Pretrained
from zoo.model.randomness import Randomness
from zoo.nn.devices import generator_of, usual_defaults
from zoo.results import Metric
from zoo.spec import DataSpec

if TYPE_CHECKING:
    from zoo.model.measurement import Measurement


class _Made(ABCMeta):
    """Makes models of float32 weights that can be trained, whatever the caller's defaults are.

    A default dtype of float64 would draw other weights, and in inference mode no gradient would ever reach them. The
    default device stays the caller's: on "meta" a model takes no memory.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        # By name, for `super()` would leave a `__class__` here, and Lightning would look for hyperparameters.
        dtype = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            with torch.inference_mode(False):
                return ABCMeta.__call__(cls, *args, **kwargs)
        finally:
            torch.set_default_dtype(dtype)

    @property
    def __signature__(cls) -> inspect.Signature:
        """The constructor's, which `inspect` would take from `__call__`."""
        _, *parameters = inspect.signature(cls.__init__).parameters.values()
        return inspect.Signature(parameters)


class Model(Pretrained, Entry, Optimization, Randomness, metaclass=_Made):
    """A LightningModule of the zoo: it says what data it takes, and its constructor's arguments are plain JSON values.

    One that is no distribution, a translator or an embedding, derives from this and has verbs of its own; a
    distribution derives from `GenerativeModel`. What a model cannot do it does not define. A step takes its batch by
    `taken`, so that a stranger's loader of tensors will do, and every verb its data by `check`.
    """

    spec: DataSpec
    protocol: str = ""  # how its numbers are taken, beside the data's protocol; for the card
    papers: tuple[str, ...] = ()  # keys of `zoo.papers.PAPERS` that a card cites; a property where arguments decide

    page: Callable[[], str | None] | None = None
    """What a notebook shows of a model that was loaded; whoever loads it puts it here."""

    def _repr_html_(self) -> str | None:
        """What a notebook asks for; None, and it shows the layers, of a model that was not loaded."""
        return self.page and self.page()

    def measurements(self) -> list[Measurement]:
        """What `zoo.evaluate` measures of this model beside its likelihood; new ones in each call."""
        return []

    @property
    def monitor(self) -> Metric | None:
        """The metric by which validation tells the best weights, logged as `val_NAME`; None where none does."""
        return None

    # -- the model that it rests on -------------------------------------------------------------------------------

    rests_on: str | None = None
    """Name of the checkpoint that this model is used with: a constructor that takes one keeps it here."""

    def attach(self, load: Callable[[str], Model]) -> None:
        """Be handed the model that this one rests on, by whoever built it; nothing happens where it rests on none.

        Args:
            load: from a checkpoint's name to its model, as `zoo.load`.
        """
        if self.rests_on is not None:
            # In a tuple, where torch does not look: its weights are not this model's, neither saved nor trained.
            self._below = (load(self.rests_on).eval().requires_grad_(False),)

    @property
    def foundation(self) -> Model:
        """The model that this one rests on, in evaluation mode and on the same device.

        Raises:
            ZooError: it has not been attached.
        """
        if not hasattr(self, "_below"):
            name = type(self).__name__
            raise ZooError(f"{name} rests on {self.rests_on}, which it has not been handed: call attach(zoo.load).")
        (model,) = self._below
        if model.device != self.device:
            with torch.inference_mode(False):  # whose weights no gradient could go through
                model.to(self.device)
        return model

    # -- trainer --------------------------------------------------------------------------------------------------

    unused_parameters: bool = False
    """Whether a backward pass leaves some parameters without a gradient, which several processes must know of."""

    def configure_callbacks(self) -> list[Callback]:
        """What every run needs; as the first of all hooks it also looks at the trainer."""
        self.check_trainer(self.trainer)
        self.check_rates()
        return [] if any(isinstance(each, TrainingMode) for each in self.trainer.callbacks) else [TrainingMode()]

    def check_trainer(self, trainer: Trainer) -> None:
        """Refuse settings of a trainer under which the model cannot run.

        Raises:
            ZooError: in one sentence, which, and what to set instead.
        """
        name = type(self).__name__
        if trainer.precision not in ("32-true", "16-mixed", "bf16-mixed"):
            raise ZooError(
                f"{name} computes in float32, of which mixed precision takes a part in 16 bits: set the trainer's "
                f"precision to 32-true or bf16-mixed, not {trainer.precision}."
            )
        for setting in ("accumulate_grad_batches", "check_val_every_n_epoch"):
            value = getattr(trainer, setting)
            if value is not None and value < 1:
                raise ZooError(f"{setting} must be at least 1, not {value}.")
        if self.automatic_optimization:
            return
        if trainer.gradient_clip_val:
            raise ZooError(f"{name} takes its steps by itself, and clips no gradients: leave out gradient_clip_val.")
        if trainer.accumulate_grad_batches != 1:
            raise ZooError(
                f"{name} takes its steps by itself, each of one batch: leave out accumulate_grad_batches, and make the "
                f"batches larger."
            )

    # -- data -----------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse data that the model was not made for, before any compute: of another kind, shape, levels or labels."""
        data = getattr(self._trainer, "datamodule", None)
        self.check_data(data, labels=stage == "fit", arguments=self.hparams)
        if stage == "fit":
            self.adopt_class_names(getattr(data, "spec", None))
        strategy = getattr(self._trainer, "strategy", None)
        if self.unused_parameters and isinstance(strategy, DDPStrategy):
            strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
        alone = not any(parameter.requires_grad for parameter in self.parameters())
        if stage == "fit" and alone and getattr(self._trainer, "world_size", 1) > 1:
            name = type(self).__name__
            raise ZooError(f"{name} has nothing that several processes could train: set trainer.devices to 1.")

    def adopt_class_names(self, spec: DataSpec | None) -> None:
        """Know the classes by the names that `spec` has for them, where it has as many."""
        own = getattr(self, "spec", None)
        if spec is not None and spec.class_names is not None and own is not None and own.classes == spec.classes:
            with contextlib.suppress(AttributeError):  # a property of somebody's model
                self.spec = replace(own, class_names=spec.class_names)

    def check_data(self, data: Any, *, labels: bool = False, arguments: Collection[str] = ()) -> None:
        """Refuse a data module whose data are not the model's.

        Args:
            data: a data module; one that does not say what its data are, as a stranger's, is refused nothing.
            labels: whether the number of labels counts as well, where the model takes some.
            arguments: of the constructor, which the sentence may name as a remedy.

        Raises:
            DataError: in one sentence, what differs.
        """
        spec = getattr(data, "spec", None)
        if spec is not None:
            self.spec.fits(spec, type(data).__name__, labels=labels, arguments=arguments)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a run's checkpoint whose weights are not this model's."""
        own, given = self.state_dict(), checkpoint["state_dict"]
        for key in {**own, **given}:
            if key not in own or key not in given or own[key].shape != given[key].shape:
                raise CheckpointError(
                    f"The run's checkpoint does not fit the model, first in {key}: give the model the arguments "
                    f"that the run was started with, or start another run."
                )

    # -- what callbacks do with it --------------------------------------------------------------------------------

    @property
    def compiled(self) -> tuple[str, ...]:
        """The attributes that are the model's inner networks, which `zoo.callbacks.Compile` compiles."""
        return ("net",) if hasattr(self, "net") else ()

    @property
    def captured(self) -> tuple[str, ...]:
        """The methods, of a batch to its gradients, that `zoo.callbacks.CUDAGraphs` captures."""
        return ()

    # -- drawing --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def sampling_mode(self, cached: bool) -> Iterator[None]:
        """Evaluation mode while data are drawn, without autocast, with torch's usual defaults; for `cached` steps on
        a CPU also one thread. All are put back after.

        Such steps are small operations, some hundred thousand: a second thread gains little, and where the cores are
        busy it costs ten times as much as the work.
        """
        # One walk through the modules, not the two of `eval` and `train`, which take as long as drawing points does.
        training, threads = [module for module in self.modules() if module.training], torch.get_num_threads()
        for module in training:
            module.training = False
        if cached and self.device.type == "cpu":
            torch.set_num_threads(1)
        try:
            with usual_defaults(), torch.autocast(self.device.type, enabled=False):
                yield
        finally:
            for module in training:
                module.training = True
            torch.set_num_threads(threads)

    generator = staticmethod(generator_of)
