"""Trying a step out without taking it: everything that a step changes is put back, at the same addresses."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn, optim
    from torch.amp import GradScaler


@contextmanager
def unchanged(
    modules: "Iterable[nn.Module]", optimizer: "optim.Optimizer", scaler: "GradScaler", device: "torch.device"
) -> Iterator[None]:
    """On leaving, weights, buffers, momenta, loss scale and generators hold what they held on entering.

    That holds after a step that failed half-way, too: the scaler has then not yet finished with the optimiser.

    Tensors are written in place, since a captured graph keeps addresses. What the optimiser made in between (the
    momenta of a first step) becomes zero: the next step then gives v = 0.9 * 0 + g, as a first step does.
    """
    import torch

    optimised = (p for group in optimizer.param_groups for p in group["params"])
    owned = (tensor for module in modules for tensor in chain(module.parameters(), module.buffers()))
    tensors = list({id(tensor): tensor for tensor in chain(optimised, owned)}.values())
    values = [tensor.detach().clone() for tensor in tensors]
    momenta = {id(tensor): tensor.clone() for tensor in _momenta(optimizer)}
    scaler.scale(torch.zeros((), device=device))  # it makes its tensors when it is first used
    scale = scaler.state_dict()
    random = torch.get_rng_state()
    random_cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
            for momentum in _momenta(optimizer):
                before = momenta.get(id(momentum))
                momentum.zero_() if before is None else momentum.copy_(before)
        optimizer.zero_grad(set_to_none=True)
        _between_steps(optimizer, scaler, scale)
        torch.set_rng_state(random)
        if random_cuda is not None:
            torch.cuda.set_rng_state(random_cuda, device)


def _between_steps(optimizer: "optim.Optimizer", scaler: "GradScaler", scale: dict[str, Any]) -> None:
    """The loss scale ``scale``, and nothing known of a step that was begun."""
    for name in ("grad_scale", "found_inf"):  # lent to a fused optimiser for the time of its step
        optimizer.__dict__.pop(name, None)
    if not scale:  # disabled
        return
    scaler.update(scale["scale"])  # forgets which optimisers are unscaled already
    scaler.load_state_dict(scale)


def _momenta(optimizer: "optim.Optimizer") -> "Iterator[Tensor]":
    import torch

    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))
