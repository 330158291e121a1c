"""What a model needs to know of its data: their kind, shape and values, their labels, and what they are given."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoo.arguments import count_of
from zoo.errors import DataError, show
from zoo.labels import checked_names, label_of

if TYPE_CHECKING:
    from torch import Tensor

KINDS = {
    "image": "(C, H, W)",
    "vector": "(D,)",
    "tokens": "(T,)",
    "graph": "(F,), the features of a node",
    "video": "(T, C, H, W)",
}
"""The kinds of data, each with the shape of one datum.

Images and video are uint8 with values 0..levels-1, tokens int64, levels being the size of the vocabulary, vectors of
levels uint8 or int64; whatever has no levels is floating point. A batch of graphs is ragged."""

_SIZES = {"image": 3, "vector": 1, "tokens": 1, "graph": 1, "video": 4}


@dataclass(frozen=True)
class DataSpec:
    """Kind, shape and value range of one datum.

    Args:
        shape: of one datum: (C, H, W) for images, (D,) for points and tables, (T,) for token sequences, (T, C, H, W)
            for video; of graphs (F,), the features of a node.
        levels: number of integer values 0..levels-1 a component takes, or None for continuous data.
        classes: number of labels, 0 for unlabelled data.
        kind: one of `KINDS`; by default an image for three sizes, and a vector for one.
        condition: what a datum is given, None for nothing.
        class_names: of each label, where the classes have names. They change nothing of what data are: specifications
            that differ in them alone are equal.

    Raises:
        DataError: there are no such data.
    """

    shape: tuple[int, ...]
    levels: int | None = 256
    classes: int = 0
    kind: str = ""
    condition: DataSpec | None = None
    class_names: tuple[str, ...] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        try:  # JSON and YAML bring lists; a tuple compares and hashes
            object.__setattr__(self, "shape", tuple(self.shape))
        except TypeError:
            raise DataError(f"shape must be a list of sizes, not {show(self.shape)}.") from None
        if not self.shape or not all(_whole(size) and size >= 1 for size in self.shape):
            raise DataError(f"shape must be of positive sizes, not {show(list(self.shape))}.")
        if self.levels is not None and not (_whole(self.levels) and self.levels >= 1):
            raise DataError(f"levels must be a positive number of values, or None, not {show(self.levels)}.")
        if not (_whole(self.classes) and self.classes >= 0):
            raise DataError(f"classes must be 0 or the number of labels, not {show(self.classes)}.")
        if not self.kind:
            if len(self.shape) not in (1, 3):
                raise DataError(
                    f"Data of shape {list(self.shape)} may be of several kinds: say which, kind being one of "
                    f"{', '.join(KINDS)}."
                )
            object.__setattr__(self, "kind", "image" if len(self.shape) == 3 else "vector")
        if self.kind not in KINDS:
            raise DataError(f"kind must be one of {', '.join(KINDS)}, not {show(self.kind)}.")
        if len(self.shape) != _SIZES[self.kind]:
            raise DataError(f"The shape of {self.kind} data is {KINDS[self.kind]}, which {list(self.shape)} is not.")
        if self.kind == "tokens" and self.levels is None:
            raise DataError("Tokens have levels, the size of the vocabulary: say how many.")
        if self.class_names is not None:
            object.__setattr__(self, "class_names", checked_names(self.class_names, self.classes))

    @property
    def dims(self) -> int:
        """Number of components of one datum, the D of bits per dimension.

        Raises:
            DataError: graphs have no such number, for they differ in size.
        """
        if self.kind == "graph":
            raise DataError("Graphs differ in size, so there are no dimensions to divide by: take nats.")
        return math.prod(self.shape)

    @property
    def picture(self) -> str | None:
        """What is seen of such data: a "grid" of images, a "film", a row of frames each, or the "plane"; else None."""
        colours = self.shape[0] if self.kind == "image" else self.shape[1] if self.kind == "video" else 0
        if self.levels is not None and colours in (1, 3):
            return "grid" if self.kind == "image" else "film"
        return "plane" if self.kind == "vector" and self.shape == (2,) and self.levels is None else None

    @property
    def config(self) -> dict[str, Any]:
        """The specification as plain JSON, from which `from_config` makes it again."""
        condition = None if self.condition is None else self.condition.config
        config = {
            "kind": self.kind,
            "shape": list(self.shape),
            "levels": self.levels,
            "classes": self.classes,
            "condition": condition,
        }
        return config if self.class_names is None else {**config, "class_names": list(self.class_names)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DataSpec:
        """The specification that `config` describes.

        Raises:
            DataError: it describes none.
        """
        if not isinstance(config, Mapping) or not isinstance(config.get("shape"), (list, tuple)):
            raise DataError(f"Data are specified by kind, shape, levels, classes and condition, not by {show(config)}.")
        whole = {"levels": config.get("levels"), "classes": config.get("classes", 0)}
        sizes = [*config["shape"], *(value for value in whole.values() if value is not None)]
        if not all(isinstance(size, int) and not isinstance(size, bool) for size in sizes):
            raise DataError(f"shape, levels and classes of data are whole numbers, not {show(dict(config))}.")
        condition, kind = config.get("condition"), config.get("kind", "")
        if not isinstance(kind, str):
            raise DataError(f"kind must be one of {', '.join(KINDS)}, not {show(kind)}.")
        return cls(
            tuple(config["shape"]),
            **whole,
            kind=kind,
            condition=None if condition is None else cls.from_config(condition),
            class_names=config.get("class_names"),
        )

    def count(self, n: Any) -> int:
        """A number of such data to draw, as an `int`.

        Raises:
            DataError: it is no whole number of at least one, or so many have no place in this machine's memory.
        """
        each = 1 if self.kind == "graph" else self.dims
        return count_of(n, size=each * (4 if self.levels is None else 8 if self.kind == "tokens" else 1))

    def fits(
        self,
        other: DataSpec,
        whose: str = "The data module",
        *,
        labels: bool = False,
        arguments: Collection[str] = (),
    ) -> None:
        """Refuse data that are not those a model with this specification takes.

        Args:
            other: the specification of the data.
            whose: whose data they are, in the sentence.
            labels: whether the number of labels counts as well, where the model takes some.
            arguments: those of the model's constructor, of a model that may still be made otherwise.

        Raises:
            DataError: in one sentence, what differs.
        """
        differing = [name for name in ("kind", "shape", "levels") if getattr(self, name) != getattr(other, name)]
        if differing:
            remedy = "choose other data"
            if set(differing) <= set(arguments):  # no shape makes it take another kind
                remedy = f"set {' and '.join(f'model.init_args.{name}' for name in differing)} to the data's"
            raise DataError(f"{whose} gives {other.described}, but the model takes {self.described}: {remedy}.")
        if self.condition is not None:
            if other.condition is None:
                raise DataError(
                    f"{whose} gives data without a condition, but the model is given {self.condition.described}: "
                    f"choose data that have it."
                )
            self.condition.fits(other.condition, f"As a condition, {whose[:1].lower()}{whose[1:]}", labels=labels)
        if labels and self.classes and other.classes != self.classes:
            raise DataError(
                f"{whose} has {other.classes} classes, but the model is conditioned on {self.classes}: set "
                f"model.init_args.classes to the data's, or to 0 for an unconditional model."
            )

    @property
    def described(self) -> str:
        """In words, for sentences: `image data of shape [3, 32, 32] with 256 levels`."""
        values = "continuous values" if self.levels is None else f"{self.levels} levels"
        return f"{self.kind} data of shape {list(self.shape)} with {values}"

    def check(self, x: Any, what: str = "x", *, values: bool = True) -> None:
        """Raise `DataError` unless `x` is a batch (N, *shape) of this data.

        Looking at the values waits for the GPU; `values=False` looks at shape and dtype alone.
        """
        import torch

        if self.kind == "graph":
            if not all(hasattr(x, name) for name in ("__len__", "__getitem__", "to")):
                raise DataError(f"{what} must be a ragged batch, with len, slices and to(), not {type(x).__name__}.")
            return
        if not isinstance(x, torch.Tensor):
            remedy = "" if x is None or isinstance(x, (str, bytes)) else f": make one of it, torch.as_tensor({what})"
            raise DataError(f"{what} must be a torch tensor, not {type(x).__name__}{remedy}.")
        if x.layout != torch.strided or x.is_nested:
            raise DataError(f"{what} is sparse or nested: make it dense, {what}.to_dense().")
        if x.ndim != len(self.shape) + 1 or tuple(x.shape[1:]) != self.shape:
            expected = ", ".join(["N", *map(str, self.shape)])
            raise DataError(f"{what} has shape {tuple(x.shape)}; this model takes ({expected}).")
        if self.levels is None:
            if x.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
                raise DataError(f"{what} has dtype {x.dtype}; continuous data is floating point: make it float32.")
            if values and not x.is_meta and not bool(self.holds(x)):
                raise DataError(f"{what} holds NaN or infinite values.")
            return
        # Tokens may have more than 256 values; images never do.
        dtypes = (torch.uint8,) if self.kind in ("image", "video") else (torch.uint8, torch.int64)
        if x.dtype not in dtypes:
            wanted = " or ".join(str(d) for d in dtypes)
            raise DataError(f"{what} has dtype {x.dtype}; this model takes {wanted} with values 0..{self.levels - 1}.")
        if values and not x.is_meta and not bool(self.holds(x)):
            span = f"{int(x.min())}..{int(x.max())}"
            raise DataError(f"{what} has values {span}; this model takes 0..{self.levels - 1}.")

    def cast(self, x: Tensor, what: str = "x", *, dtype: Any, device: Any, values: bool = True) -> Tensor:
        """A batch that `check` takes as a model computes with it: on its device, continuous data in its dtype.

        Levels keep their dtype. Floats of another dtype are rounded to the model's; `values=False` as in `check`.

        Raises:
            DataError: a value is beyond what the model's dtype holds, or `x` is on the meta device alone.
        """
        import torch

        if self.kind == "graph":
            return x.to(device)
        if x.is_meta and torch.device(device).type != "meta":
            raise DataError(f"{what} is on the meta device, where tensors have no values: make it on another.")
        own = x.to(device) if self.levels is not None else x.to(device, dtype)
        if values and own.dtype != x.dtype and not own.is_meta and not bool(self.holds(own)):
            raise DataError(f"{what} holds values beyond the range of {own.dtype}, in which the model computes.")
        # No gradient goes through what was made in inference mode.
        return own.clone() if own.is_inference() and not torch.is_inference_mode_enabled() else own

    def holds(self, x: Tensor) -> Tensor:
        """Whether all values of a batch of tensors are such data's, a boolean scalar on its device."""
        if self.levels is None:
            return x.isfinite().all()
        if not self.may_hold_others(x):
            return x.new_ones((), dtype=bool)
        below = (x < self.levels).all()
        return below if x.dtype.itemsize == 1 else below & (x >= 0).all()

    def may_hold_others(self, x: Tensor) -> bool:
        """Whether the dtype of `x` has values that are none of such data's."""
        return self.levels is None or x.dtype.itemsize > 1 or self.levels < 256

    def mask(self, x: Tensor, known: Any) -> Tensor:
        """`known`, boolean, in the shape of the data `x`, on their device; refuses what is no such mask."""
        import torch

        if not isinstance(known, torch.Tensor) or known.dtype != torch.bool:
            kind = getattr(known, "dtype", type(known).__name__)
            raise DataError(f"known must be a boolean tensor, not {kind}: make it one, torch.as_tensor(known).bool().")
        if known.layout != torch.strided or known.is_nested or known.is_meta > x.is_meta:
            raise DataError("known must be a dense tensor with values, neither sparse nor on the meta device.")
        try:
            return known.to(x.device).broadcast_to(x.shape)
        except RuntimeError:
            raise DataError(
                f"known has shape {tuple(known.shape)}, which does not broadcast to {tuple(x.shape)}."
            ) from None

    def labels(
        self,
        label: int | str | Sequence[int | str] | Tensor | None,
        n: int,
        device: Any = "cpu",
        values: bool = True,
    ) -> Tensor | None:
        """The labels of `n` data, int64 (n,) on a device, or None where none are given.

        A class may be given by its name, where `class_names` has them. Text that is no name but a number is that label:
        of classes named 1, 2 and 3, as folders may be, "3" is the third, and 2 is.

        Looking at the values of a tensor waits for the GPU; `values=False` looks at shape and dtype alone.

        Raises:
            DataError: the data have no labels, or these are none.
        """
        import torch

        classes = self.classes
        if label is None:
            return None
        if not classes:
            raise DataError("The model was made without classes: leave out the label.")
        span = f"0..{classes - 1}"
        if isinstance(label, str):
            label = label_of(label, self.class_names, classes)
        elif isinstance(label, (list, tuple)):
            label = [label_of(each, self.class_names, classes) if isinstance(each, str) else each for each in label]
        try:
            # NumPy's negative strides are none of torch's.
            label = label.copy() if type(label).__module__ == "numpy" else label
            given = label if isinstance(label, torch.Tensor) else torch.as_tensor(label, device="cpu")
        except (TypeError, ValueError, RuntimeError, OverflowError):
            kind = type(label).__name__
            raise DataError(f"label must be an integer, or {n} integers {span}, not {kind}.") from None
        if given.layout != torch.strided or given.is_nested or given.is_meta > (torch.device(device).type == "meta"):
            raise DataError(f"label must be a dense tensor of integers {span}, neither sparse nor on the meta device.")
        if given.is_floating_point() or given.is_complex() or given.is_quantized or given.dtype == torch.bool:
            raise DataError(f"label must be of integers {span}, not of {given.dtype}.")
        given = given.to(torch.int64)
        if given.shape not in ((), (n,)):
            raise DataError(f"label has shape {tuple(given.shape)}; give one integer, or {n} for {n} data.")
        if values and given.numel() and not given.is_meta:
            least, most = int(given.min()), int(given.max())
            if least < 0 or most >= classes:
                shown = f"{least}..{most}" if given.ndim else str(most)
                raise DataError(f"label is {shown}; this model takes {span}: labels are counted from 0.")
        return given.to(device).expand(n)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_image_shape(shape: Sequence[int]) -> None:
    """Refuse a shape that is not one of images."""
    if len(shape) != 3 or min(shape) < 1:
        raise DataError(f"shape must be (C, H, W) of positive sizes, not {list(shape)}.")
