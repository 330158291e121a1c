"""CUDA graphs of whole passes, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

WARMUP = 3  # calls before the capture: what is compiled, chosen or allocated once is so by then


class Replayed:
    """A function that computes gradients, launched as one CUDA graph.

    Where kernels are short, a step takes the time that Python needs to launch them; a graph of all of them takes one
    launch. The first calls run as they are, the next one is recorded, and from then on its kernels run again on other
    values: Python in the function does not. So the function must do the same work each time, read no value on the CPU,
    and set gradients to None before it computes them. What it returns is overwritten by the next call.

    Args:
        function: of tensors, or None in their place; it returns tensors, and leaves gradients.
        parameters: all that may get a gradient.
    """

    def __init__(self, function: Callable[..., Any], parameters: Iterable[torch.nn.Parameter]) -> None:
        self.function, self.parameters = function, list(parameters)
        self.calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *tensors: Tensor | None) -> Any:
        """Run on tensors; on those of other shapes than were recorded as it is."""
        self.calls += 1
        if self.calls <= WARMUP:
            return self._aside(tensors)
        if self._graph is None:
            self._record(tensors)
        elif kinds(tensors) != kinds(self._inputs):
            return self._run(tensors)
        for own, given in zip(self._inputs, tensors, strict=True):
            if own is not None:
                own.copy_(given, non_blocking=True)
        self._graph.replay()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        return self._outputs

    def _run(self, tensors: tuple[Tensor | None, ...]) -> Any:
        # Weights that autocast keeps in 16 bits until the step is over would be those of the recording for ever.
        on, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        with torch.autocast("cuda", dtype, enabled=on, cache_enabled=False):
            return self.function(*tensors)

    def _aside(self, tensors: tuple[Tensor | None, ...]) -> Any:
        # On another stream, as in a recording: libraries and gradients take their memory by stream.
        here, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            outputs = self._run(tensors)
        here.wait_stream(stream)
        return outputs

    def _record(self, tensors: tuple[Tensor | None, ...]) -> None:
        self._inputs = [None if tensor is None else tensor.clone() for tensor in tensors]
        before = [parameter.grad for parameter in self.parameters]
        self._graph = torch.cuda.CUDAGraph()
        # Other threads, which bring the next batch, may go on.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._outputs = self._run(self._inputs)
        pairs = zip(self.parameters, before, strict=True)
        self._gradients = [(p, p.grad) for p, old in pairs if p.grad is not None and p.grad is not old]


def kinds(tensors: Iterable[Tensor | None]) -> list[Any]:
    """Shapes and types."""
    return [None if tensor is None else (tensor.shape, tensor.dtype) for tensor in tensors]
