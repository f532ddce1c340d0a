"""The weights of convolutions and linear layers rounded to the autocast type all at once, and their gradients back.

Autocast rounds each weight in a launch of its own, and its backward pass makes each gradient float32 in another: 42
launches of a step of irse18, where a copy of a list of tensors is two or three.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn


@contextmanager
def rounded_weights(layers: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Inside, ``layers`` have the float32 weights that autocast would round already rounded; outside, their own.

    Only layers that are convolutions or linear and nothing more: an adapter needs the weight as it is. Without autocast
    nothing changes. Among several ranks nothing does either: they exchange gradients while the backward pass goes on,
    and here all gradients of weights come at its end.
    """
    plain = [layer for layer in layers if type(layer) in (nn.Conv2d, nn.Linear)]
    plain = [layer for layer in plain if cast(Tensor, layer.weight).dtype == torch.float32]
    kind = "cpu" if device.type == "meta" else device.type  # on the meta device launches are only counted
    if not plain or not torch.is_autocast_enabled(kind) or _several_ranks():
        yield
        return
    own = [cast(Tensor, layer.weight) for layer in plain]
    rounded = _Rounded.apply(torch.get_autocast_dtype(kind), *own)
    try:
        for layer, weight in zip(plain, rounded, strict=True):
            layer._parameters["weight"] = weight  # so torch.func.functional_call does it: the order of names stays
        yield
    finally:
        for layer, weight in zip(plain, own, strict=True):
            layer._parameters["weight"] = cast(nn.Parameter, weight)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        context.set_materialize_grads(False)
        rounded = _copies(list(weights), dtype)
        frozen = [one for one, wanted in zip(rounded, context.needs_input_grad[1:], strict=True) if not wanted]
        context.mark_non_differentiable(*frozen)
        return tuple(rounded)

    @staticmethod
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        there = [gradient for gradient in gradients if gradient is not None]
        wide = iter(_copies(there, torch.float32))
        return None, *(None if gradient is None else next(wide) for gradient in gradients)


def _copies(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    made = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if made:
        torch._foreach_copy_(made, tensors)
    return made


def _several_ranks() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
