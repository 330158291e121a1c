"""What a constructor may make, by what the weights that came with its arguments hold: counted while it runs."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

MOST_MODULES = 2**14  # they take a second or two, whatever is in them
MOST_CALLS = 2**17


class TooLarge(BaseException):
    """The constructor asks for more than the weights that came with it can fill.

    It is no `Exception`, which a constructor might catch.
    """


@contextmanager
def bounded(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[None]:
    """What is built inside may have so many modules, take so many torch calls and as much memory as weights of these
    names and shapes allow, generously; `TooLarge` interrupts it where it asks for more, before that is made.
    """
    left, thread = min(256 + 16 * len(shapes), MOST_MODULES), threading.get_ident()

    def count(module: nn.Module, name: str, submodule: nn.Module | None) -> None:
        nonlocal left
        if threading.get_ident() == thread:  # other threads may build their own at the same time
            left -= 1
            if left < 0:
                raise TooLarge

    hook = register_module_module_registration_hook(count)
    try:
        with _Counted(sum(map(math.prod, shapes.values())), len(shapes)):
            yield
    finally:
        hook.remove()


class _Counted(TorchFunctionMode):
    """Bounds what a constructor makes, by what its weights hold.

    Every torch call is first made on the meta device, where it costs no memory, to learn the size of its
    result. Building there altogether would be simpler, but masks, schedules and permutations need values.
    """

    def __init__(self, elements: int, tensors: int) -> None:
        super().__init__()
        # Of the zoo's own models, one tensor has at most 2 times as many elements as all weights, all that are made
        # have 15 times as many, and a tensor of the weights takes 24 calls. 2**20 elements are 4 MiB of float32.
        self.largest = 2**20 + 8 * elements
        self.elements = 2**23 + 64 * elements
        self.calls = min(4_000 + 100 * tensors, MOST_CALLS)
        # A network repeats its layers; asking the meta device once for each kind of call makes this cheap.
        self.sizes: dict[Any, int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        size = self._result_size(func, args, kwargs)
        self.calls -= 1
        self.elements -= size
        if size > self.largest or min(self.elements, self.calls) < 0:
            raise TooLarge
        return func(*args, **kwargs)

    def _result_size(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """Elements in the result of a torch call, 0 where the meta device cannot say."""
        key = (func, _signature(args), _signature(tuple(kwargs.items())))
        try:
            if key not in self.sizes:
                self.sizes[key] = _size_on_meta(func, args, kwargs)
            return self.sizes[key]
        except TypeError:  # an argument that cannot be hashed
            return _size_on_meta(func, args, kwargs)


def _signature(value: Any) -> Any:
    """What of an argument decides the size of a result."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    return tuple(map(_signature, value)) if type(value) in (list, tuple) else value


def _size_on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    tensors = 0

    def to_meta(value: Any) -> Any:
        nonlocal tensors
        if isinstance(value, Tensor):
            tensors += 1
            return value.detach().to("meta")
        return type(value)(map(to_meta, value)) if type(value) in (list, tuple) else value

    def count(value: Any) -> int:
        if isinstance(value, Tensor):
            return value.numel()
        return sum(map(count, value)) if type(value) in (list, tuple) else 0

    try:
        shadow_args = tuple(map(to_meta, args))
        # A generator lives on another device, and does not change the size.
        shadow_kwargs = {key: to_meta(value) for key, value in kwargs.items() if key != "generator"}
        if not tensors:
            shadow_kwargs["device"] = "meta"
        return count(func(*shadow_args, **shadow_kwargs))
    except Exception:
        return 0
