"""SGD and AdamW for margin-softmax training: a warm-up that starts small, then a falling rate."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.training.parameter_groups import RATE_FACTOR, parameter_groups

if TYPE_CHECKING:
    from torch import nn, optim

FUSED_ON = frozenset({"cpu", "cuda", "mps", "xpu"})  # one kernel for all parameters; elsewhere torch's foreach loops


def build_optimizer(
    modules: "Iterable[nn.Module]", *, lr: float, momentum: float = 0.9, weight_decay: float = 5e-4,
    kind: str = "sgd", betas: tuple[float, float] = (0.9, 0.999), layer_decay: float = 1.0,
) -> "optim.Optimizer":  # fmt: skip
    """Fused SGD or AdamW over all trainable parameters, in the groups of ``parameter_groups``.

    On a CPU the fused step gives the same bits whatever the number of threads. On CUDA the learning rate is a tensor
    on the device, which a captured graph reads anew at each replay; change it through ``set_learning_rate``, and do
    not read it back in the loop: that waits for the device.

    Args:
        kind: sgd, with ``momentum``; or adamw (Loshchilov & Hutter, ICLR 2019), with ``betas``.

    Raises:
        UsageError: no trainable parameter.
    """
    import torch

    groups = parameter_groups(modules, weight_decay=weight_decay, layer_decay=layer_decay)
    if not groups:
        raise UsageError("nothing to train: every parameter is frozen")
    parameters = [parameter for group in groups for parameter in group["params"]]
    device = parameters[0].device
    fused = all(p.device.type in FUSED_ON for p in parameters)
    for group in groups:
        rate = lr * group[RATE_FACTOR]
        group["lr"] = torch.tensor(rate, device=device) if device.type == "cuda" else rate
    if kind == "adamw":
        return torch.optim.AdamW(groups, betas=betas, fused=fused, capturable=device.type == "cuda")
    optimizer = torch.optim.SGD(groups, momentum=momentum, fused=fused)
    if momentum:
        for parameter in parameters:
            # v = m * 0 + g is a first step too. SGD's own first step leaves new momenta unwritten where loss scaling
            # skips it, and the first is often skipped.
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def restore_optimizer(optimizer: "optim.Optimizer", state: "dict[str, Any]") -> None:
    """Load a checkpoint's ``state`` into ``optimizer``; how it is executed stays as it was built for its device."""
    how = [{name: group[name] for name in ("fused", "capturable") if name in group} for group in optimizer.param_groups]
    for group, own in zip(state["param_groups"], how, strict=True):
        group.update(own)  # before loading: AdamW's step counters go to where these say
    optimizer.load_state_dict(state)


def set_learning_rate(optimizer: "optim.Optimizer", rate: float) -> None:
    """Use ``rate``, times each group's factor, from the next step on. A tensor is written in place: graphs keep its
    address."""
    import torch

    for group in optimizer.param_groups:
        of_group = rate * group.get(RATE_FACTOR, 1.0)
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(of_group)
        else:
            group["lr"] = of_group


def learning_rate(
    step: int, total_steps: int, *, base: float, warmup_steps: int = 0, schedule: str = "cosine"
) -> float:
    """The rate of step ``step`` (0-based): linear from base / warmup_steps up to base, then down to near 0.

    cosine: base (1 + cos(pi t)) / 2 (Loshchilov & Hutter, ICLR 2017, equation 5); polynomial: base (1 - t)^2;
    t runs from 0 after the warm-up to 1 after the last step, and stays there. Raises UsageError for an unknown
    schedule.
    """
    if schedule not in ("cosine", "polynomial"):
        raise UsageError(f"no schedule is called {schedule!r}; there are cosine, polynomial")
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    if schedule == "cosine":
        return base * 0.5 * (1 + math.cos(math.pi * done))
    return base * (1 - done) ** 2
