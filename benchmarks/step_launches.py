"""What a training step launches on a GPU, counted without one: operations of torch and kernels of our own, by kind.

The step of ``train`` (irse18 with ArcFace, bf16 autocast, clipping and SGD) is taken on a CPU, narrow and on small
pictures: the number of launches depends on neither. Views and empty tensors launch nothing and are not counted; a
convolution's gradients by input and by weights are two. An operation that is several launches on a GPU (a logsumexp,
a product that is summed in parts) counts once, so the number is the least there can be.
"""

from collections import Counter
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hrfr_fast.engines.base import Batch
from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.heads import build_head
from hrfr_fast.runtime.device import Compute
from hrfr_fast.training import step
from hrfr_fast.training.fused_kernels import switch_gpu_kernels
from hrfr_fast.training.optim import build_optimizer

IMAGES, CLASSES, DIMENSIONS = 512, 500, 16
"""So many images that each is one group of rows, as in every batch of this size and more."""
KINDS = {
    "convolutions": ("convolution", "convolution_backward"),
    "matrix products": ("mm", "addmm"),
    "casts": ("_to_copy", "_foreach_copy_"),
    "copies and fills": ("clone", "copy_", "zero_", "zeros", "zeros_like", "ones_like", "scalar_tensor", "full"),
    "sums and norms": ("sum", "mean", "logsumexp", "linalg_vector_norm", "_foreach_norm"),
    "torch's BatchNorm": ("native_batch_norm", "native_batch_norm_backward"),
    "optimiser": ("_fused_sgd_",),
}
OTHER = "small operations on each value"
NOTHING = ("empty", "new_empty", "profiler", "detach")
"""How the names of operations begin that launch nothing and are no views for torch."""


class Operations(TorchDispatchMode):
    """Counts the operations executed inside, by their names without variants."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operation: Any, types: Any, given: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        result = operation(*given, **(named or {}))
        space, name = operation._schema.name.split("::")
        if not operation.is_view and not (name.startswith(NOTHING) or space.startswith(NOTHING)):
            self.found[name] += sum(one is not None for one in result) if name == "convolution_backward" else 1
        return result


def operations_of_a_step(*, kernels: bool) -> Counter[str]:
    """Operations of torch in one step, by name; with ``kernels``, whose launches do nothing here, those beside them."""
    compute = Compute(torch.device("cpu"), torch.bfloat16, scaled=False)
    network = compute.place(build_backbone(BackboneSettings(16, 8, DIMENSIONS)))
    head = build_head("arcface", DIMENSIONS, CLASSES)
    head.matmul_dtype = torch.bfloat16
    if kernels:
        switch_gpu_kernels([network, head], on=True)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    images = torch.zeros(IMAGES, 3, 16, 16, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    batch = Batch(images, torch.arange(IMAGES) % CLASSES, 0)
    with patch.object(step, "clips_in_step", lambda optimizer: True):  # as on a GPU
        taken = step.TrainStep(
            network, head, build_optimizer([network, head], lr=0.1), scaler, compute, clip_gradient=5.0
        )
        with Operations() as operations:
            taken(batch, 0)
    return operations.found


def by_kind(operations: Counter[str]) -> dict[str, int]:
    """The same counts by kind, in the order of ``KINDS``, then ``OTHER``."""
    kinds = {kind: sum(operations[name] for name in names) for kind, names in KINDS.items()}
    return kinds | {OTHER: operations.total() - sum(kinds.values())}
