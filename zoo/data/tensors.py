"""What all data sets in memory share: splits, loaders that resume, and what a configuration says of them."""

from __future__ import annotations

from typing import Any, ClassVar

from lightning import LightningDataModule

from zoo.batch import Batch, as_batch
from zoo.classes import class_path_of
from zoo.data.loader import TensorLoader
from zoo.errors import DataError
from zoo.files import data_root
from zoo.spec import DataSpec


class TensorData(LightningDataModule):
    """Data in memory, of any kind; a data set is one class that derives from this, in one file.

    What a data set gives, as attributes of its class, or of an instance where they depend on its arguments:

    - `shape`, `levels`, `classes`, `kind`, `condition`, `class_names`: what `DataSpec` takes. `levels` is None, for
      continuous numbers, unless it says otherwise; `classes` 0, for no labels; `kind` what the shape implies;
      `condition` and `class_names` None.
    - `read(split)`: all data of an official split.
    - `splits`: which these are, "train" and "test" unless it says otherwise. With "validation" among them that is the
      validation split; without, it is the last `validation` items of "train".
    - `essential`: the arguments that say which data this is, each kept as an attribute of its name; none otherwise.
      They are part of a checkpoint, so no folder and no batch size is among them.
    - `title`: as people write it, by default the name of the class; `hub_id`: its data set on the Hugging Face Hub,
      None for none.
    - `protocol`, where it has to say how values were made; `prepare_data`, to fetch files; `on_after_batch_transfer`,
      to draw something anew in each training batch.

    What it gets:

    - `train`, `val`, `test`, after `setup`: a `Batch` each, whose index is None; label and condition are None where
      there are none.
    - loaders, of a `Batch` with its index: whole training batches in a new random order each epoch, and all validation
      and test data in their order, each item once on any number of processes; a run resumes with the very batch that
      was next, and page-locked memory where there is a GPU.
    - `spec`, `config` (for the checkpoint), and `root`, the folder of all data sets.

    Within `zoo.data` a class needs to be in no list: `--data zoo.data.FILE.CLASS` and config.json find it.

    Args:
        root: folder of the data sets; default $ZOO_DATA, else `zoo/data` in the user's cache folder.
        batch_size: items in a training batch of one device.
        validation: number of training items, the last ones, held out for validation; default a tenth.
        eval_batch_size: most items in a validation or test batch; default `batch_size`.
        seed: of the order in which training items come; each epoch has its own.
        download: whether to fetch from the official source what is absent.

    Example:
        >>> class Pairs(TensorData):
        ...     title, kind, shape, levels = "pairs of letters", "tokens", (2,), 26
        ...
        ...     def read(self, split):
        ...         return torch.cartesian_prod(torch.arange(26), torch.arange(26))
    """

    title: str | None = None
    hub_id: str | None = None
    shape: tuple[int, ...]
    levels: int | None = None
    classes: int = 0
    kind: str = ""
    condition: DataSpec | None = None
    class_names: tuple[str, ...] | None = None
    splits: tuple[str, ...] = ("train", "test")
    essential: ClassVar[tuple[str, ...]] = ()

    train: Batch
    val: Batch
    test: Batch

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        validation: int | None = None,
        eval_batch_size: int | None = None,
        seed: int = 0,
        download: bool = True,
    ) -> None:
        super().__init__()
        self.root = data_root(root)
        self.batch_size = batch_size
        self.validation = validation
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.seed = seed
        self.download = download

    @property
    def spec(self) -> DataSpec:
        """What the data are, as the model sees them.

        Raises:
            DataError: there are no such data.
        """
        if not hasattr(self, "shape"):
            raise DataError(f"{type(self).__name__} does not say what its data are: give it a shape.")
        names = self.class_names if self.classes else None
        return DataSpec(self.shape, self.levels, self.classes, self.kind, self.condition, names)

    @property
    def protocol(self) -> str:
        """Which values there are and how they were made, in a phrase for the model card."""
        return "continuous" if self.levels is None else f"{self.levels} levels"

    @property
    def config(self) -> dict[str, Any]:
        """`class_path` and those `init_args` that say which data this is: no paths, no batch sizes."""
        arguments = {name: getattr(self, name) for name in self.essential}
        return {"class_path": class_path_of(type(self)), "init_args": arguments}

    # -- splits ---------------------------------------------------------------------------------------------------

    def read(self, split: str) -> Any:
        """Read an official split, one of `splits`, "train" with what is held out of it, and check its files.

        Returns:
            The data as `zoo.batch.as_batch` takes them: a tensor (N, *shape), or of graphs a ragged batch, alone; with
            labels, (data, labels); or a `Batch`, for data with a condition. Slices of a ragged batch, an index tensor
            in its brackets and `to(device)` make one again.

        Raises:
            DataError: a file is absent or damaged.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define read().")

    def setup(self, stage: str | None = None) -> None:
        """Read what the stage needs into memory; a second call does nothing.

        Raises:
            DataError: a file is absent or damaged, or `validation` leaves nothing to train on.
        """
        if stage in (None, "fit", "validate") and not hasattr(self, "train"):
            train = self._read("train")
            if "validation" in self.splits:
                self.train, self.val = train, self._read("validation")
            else:
                held = self._held_out(train.size)
                self.train, self.val = train.first(train.size - held), train.last(held)
        if stage in (None, "test", "predict") and not hasattr(self, "test"):
            self.test = self._read("test")

    def _held_out(self, n: int) -> int:
        held = max(1, n // 10) if self.validation is None else self.validation
        if not 0 < held < n:
            raise DataError(
                f"{self.title or type(self).__name__} has {n:,} training items, of which {held:,} cannot be held out "
                f"for validation: choose from 1 to {n - 1:,}."
            )
        return held

    def _read(self, split: str) -> Batch:
        # Places are counted from where a split begins, by its loader.
        return as_batch(self.read(split))._replace(index=None)

    # -- loaders --------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> TensorLoader:
        """Whole batches of `train`, in a new random order each epoch."""
        trainer = self.trainer
        return TensorLoader(
            *self.train[:3],
            batch_size=self.batch_size,
            # Overfitting on purpose (--trainer.overfit_batches) means the same few batches in every epoch.
            shuffle=not (trainer and trainer.overfit_batches),
            seed=self.seed,
            drop_last=True,
            pin=self._on_gpu(),
            position=self._position if trainer else None,
        )

    def val_dataloader(self) -> TensorLoader:
        """All of `val` in its order, each item once."""
        return TensorLoader(*self.val[:3], batch_size=self.eval_batch_size, pin=self._on_gpu())

    def test_dataloader(self) -> TensorLoader:
        """All of `test` in its order, each item once."""
        return TensorLoader(*self.test[:3], batch_size=self.eval_batch_size, pin=self._on_gpu())

    def predict_dataloader(self) -> TensorLoader:
        """The same as `test_dataloader`."""
        return self.test_dataloader()

    def _position(self) -> tuple[int, int]:
        """Return the epoch and the index of the batch that the trainer is about to ask for.

        Lightning does restore a loader's own state, but not from a checkpoint at the end of an epoch, and not
        with the right batch from one taken when a step failed. Its counters, which `training_step` gets as
        `batch_idx`, are right in all cases; `set_epoch` is not: with `max_steps`, a resume at the end of an
        epoch skips a number.
        """
        return self.trainer.current_epoch, self.trainer.fit_loop.batch_idx + 1

    def _on_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _training(self) -> bool:
        return self.trainer is not None and self.trainer.training
