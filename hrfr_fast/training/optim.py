"""SGD for margin-softmax training: decay on weights only, a warm-up that starts small, then a falling rate."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hrfr_fast.runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import nn, optim

FUSED_ON = frozenset({"cpu", "cuda", "mps", "xpu"})  # one kernel for all parameters; elsewhere torch's foreach loops


def build_optimizer(
    modules: "Iterable[nn.Module]", *, lr: float, momentum: float = 0.9, weight_decay: float = 5e-4
) -> "optim.SGD":
    """Fused SGD over all trainable parameters, in two groups.

    Tensors of two dimensions and more (convolutions, linear layers, the head's class vectors) decay; vectors
    (BatchNorm, PReLU, biases) do not: pulling a BatchNorm scale to 0 only changes the effective learning rate.

    On a CPU the fused step gives the same bits whatever the number of threads. On CUDA the learning rate is a tensor
    on the device, which a captured graph reads anew at each replay; change it through ``set_learning_rate``, and do
    not read it back in the loop: that waits for the device.

    Raises:
        UsageError: no trainable parameter.
    """
    import torch

    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise UsageError("nothing to train: every parameter is frozen")
    device = parameters[0].device
    fused = all(p.device.type in FUSED_ON for p in parameters)
    rate = torch.tensor(lr, device=device) if device.type == "cuda" else lr
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=momentum, fused=fused)
    if momentum:
        for parameter in parameters:
            # v = m * 0 + g is a first step too. SGD's own first step leaves new momenta unwritten where loss scaling
            # skips it, and the first is often skipped.
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_learning_rate(optimizer: "optim.Optimizer", rate: float) -> None:
    """Use ``rate`` from the next step on. A tensor is written in place: graphs keep its address."""
    import torch

    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


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
