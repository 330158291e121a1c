"""A model's weights as they are stored, and stored weights put back into a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.errors import CheckpointError, show
from zoo.model import Model
from zoo.nn.masked import visible_entries


def fill(model: Model, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy `weights` into `model`; their names, shapes and dtypes must be exactly the model's.

    Of a weight with a mask, a vector of the entries that the mask shows will do; the others are then zero.

    Args:
        model: the model to fill.
        weights: name -> tensor, the whole state dict, as `zoo.hub.folder.load_weights` returns it. Integers may be of
            fewer bits than the model's.
        where: names the checkpoint in errors.

    Raises:
        CheckpointError: naming the first tensors that are missing, unexpected, or of another shape or dtype.
    """
    check_fit(model, {key: tuple(tensor.shape) for key, tensor in weights.items()}, where)
    expected = model.state_dict()
    packed = {}  # a mask may follow from buffers that come first
    for key, tensor in weights.items():
        target = expected[key]
        if tensor.ndim == 1 < target.ndim:
            packed[key] = tensor
        if tensor.dtype != target.dtype and not (
            # Half precision has been widened before; float64 is never rounded behind the reader's back.
            (tensor.dtype == torch.float32 and target.is_floating_point())
            # Integers are stored in as few bits as hold them.
            or (tensor.dtype in (torch.int8, torch.int16, torch.int32) and target.dtype == torch.int64)
        ):
            raise CheckpointError(f"{where}: {show(key)} is {tensor.dtype}; the model's is {target.dtype}.")
    whole = {key: tensor.to(expected[key].dtype) for key, tensor in weights.items() if key not in packed}
    model.load_state_dict(whole, strict=not packed)
    if not packed:
        return
    visible = visible_entries(model)
    for key, tensor in packed.items():
        if key not in visible or len(tensor) != int(visible[key].sum()):
            raise CheckpointError(_misshapen(where, key, tensor.shape, expected[key]))
        packed[key] = torch.zeros_like(expected[key]).masked_scatter_(visible[key], tensor.to(expected[key].dtype))
    model.load_state_dict(packed, strict=False)


def check_fit(model: Model, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Refuse weights of other names or shapes than the model's; a vector may be what a mask shows of a weight.

    Raises:
        CheckpointError: naming the first tensors that are missing, unexpected, or of another shape.
    """
    expected = model.state_dict()
    missing = [key for key in expected if key not in shapes]
    unexpected = [key for key in shapes if key not in expected]
    if missing or unexpected:
        complaints = []
        for what, keys in (("lack", missing), ("have the unexpected", unexpected)):
            if keys:
                more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
                complaints.append(f"{what} {', '.join(map(show, keys[:3]))}{more}")
        raise CheckpointError(f"{where}: the weights {' and '.join(complaints)}, as {type(model).__name__} names them.")
    for key, shape in shapes.items():
        target = expected[key]
        whole = shape == tuple(target.shape)
        if not whole and not (len(shape) == 1 < target.ndim and shape[0] <= target.numel()):
            raise CheckpointError(_misshapen(where, key, shape, target))


def _misshapen(where: str, key: str, shape: Sequence[int], target: Tensor) -> str:
    return f"{where}: {show(key)} has shape {tuple(shape)}; the model's is {tuple(target.shape)}."


def stored(model: Model, dtype: str) -> dict[str, Any]:
    """The state dict on the CPU, parameters rounded to `dtype`, integers as narrow as they fit, each with memory of its
    own. Of a weight with a mask only what the mask shows, as a vector.
    """
    import torch

    from zoo.nn.masked import visible_entries

    visible = visible_entries(model)
    parameters = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    stored = {}
    for key, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            raise CheckpointError(f"{show(key)} of {type(model).__name__} is no tensor and cannot be stored.")
        value = tensor.detach().to("cpu", copy=True).contiguous()
        if value.is_floating_point():
            if not bool(torch.isfinite(value).all()):
                raise CheckpointError(f"{show(key)} of {type(model).__name__} holds NaN or infinite values.")
            if key in parameters:
                value = value.to(getattr(torch, dtype))
                if not bool(torch.isfinite(value).all()):
                    raise CheckpointError(f"{show(key)} overflows {dtype}; save with dtype float32 or bfloat16.")
        elif value.dtype == torch.int64:
            value = _narrowed(value)
        stored[key] = value[visible[key].cpu()] if key in visible else value
    return stored


def _narrowed(values: Tensor) -> Tensor:
    """Integers in the narrowest signed type that holds them: orderings and degrees need no 64 bits each."""
    import torch

    ends = [int(end) for end in values.aminmax()] if values.numel() else [0]
    kinds = (torch.int8, torch.int16, torch.int32, torch.int64)
    return values.to(next(k for k in kinds if all(torch.iinfo(k).min <= end <= torch.iinfo(k).max for end in ends)))


def init_args_of(model: Model) -> dict[str, Any]:
    """The constructor's arguments; Lightning's own entries among the hyperparameters are left out."""
    import inspect

    accepted = inspect.signature(type(model).__init__).parameters
    kept = {key: value for key, value in model.hparams.items() if key in accepted}
    for key, parameter in list(accepted.items())[1:]:
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and parameter.default is parameter.empty and key not in kept:
            remedy = "call self.save_hyperparameters() in its constructor"
            raise CheckpointError(f"{type(model).__name__} has not kept its argument {key}: {remedy}.")
    return kept
