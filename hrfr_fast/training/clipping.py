"""Clipping of gradients inside a fused optimiser's step, which divides them by a number anyway.

``clip_grad_norm_`` reads and writes every gradient once more than the optimiser does. A fused optimiser divides
gradients by its attribute ``grad_scale``, through which torch's GradScaler hands it the loss scale; the factor that
clips goes the same way, and the product of both where there is a loss scale.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, optim
    from torch.amp import GradScaler

TINY = 1e-6  # beside the norm, as in torch.nn.utils.clip_grads_with_norm_


def clips_in_step(optimizer: "optim.Optimizer") -> bool:
    """Whether ``optimizer`` divides by ``grad_scale``: a fused one on CUDA. On a CPU results stay as they were."""
    parameters = optimizer.param_groups[0]["params"]
    return bool(optimizer.param_groups[0].get("fused")) and parameters[0].device.type == "cuda"


def clip_in_step(optimizer: "optim.Optimizer", scaler: "GradScaler", largest: float) -> None:
    """Have the next step scale the gradients so that their norm together is at most ``largest``.

    They are not changed here, and hold the loss scale. The host does not wait. What is not finite stays so, and a step
    is skipped for it exactly where it was skipped without clipping.
    """
    import torch

    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not gradients:
        return
    norm = torch.nn.utils.get_total_norm(gradients)
    if scaler.is_enabled():
        norm = norm / _scale(scaler, norm)
    factor = (largest / (norm + TINY)).clamp(max=1.0)
    optimizer.grad_scale = factor.reciprocal().to(torch.float32)  # type: ignore[attr-defined]


def _scale(scaler: "GradScaler", like: "Tensor") -> "Tensor":
    """The loss scale, on the device of ``like``; it is there once a loss was scaled."""
    scale = scaler._get_scale_async()
    return like.new_ones(()) if scale is None else scale.to(like.device)


def forget(optimizer: "optim.Optimizer") -> None:
    """After the step: nothing is scaled in the next."""
    optimizer.__dict__.pop("grad_scale", None)
