"""Softmax over many classes without a matrix [batch, classes], by GPU kernels: ``class_chunks`` in another execution.

For batch B, C classes and D dimensions a step executes 10 B C D operations: 2 forward, and backward 2 x (2 to compute
the cosines again, 2 for a gradient). What it moves of device memory are the class vectors, in float32 once to make unit
vectors of 16 bits (kept for the backward pass, 2 C D bytes), those in each pass, and their gradient.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from hrfr_fast.model.kernels import head_triton as kernels
from hrfr_fast.model.kernels.launching import launch

LARGEST_EMBEDDING = 512
"""Dimensions that a tile of sums has room for: 64 x 512 in float32 are 128 registers a thread of 8 warps."""
ROWS, CLASSES, DEPTH = 128, 128, 64
"""Of a tile of the forward pass: rows of the batch, classes, dimensions at a time."""
OWN = 64
"""Rows that a program of the backward pass owns."""
BACKWARD_TILES = {(9, 0): (64, 2), (8, 0): (32, 2)}
"""Compute capability -> rows that a program of the backward pass goes through at a time, and tiles of them underway: as
many as fit into a multiprocessor's shared memory (228 and 164 KiB) and whose products need no registers that there are
not, see ``benchmarks/kernel_costs.py``. Other cards have 100 KiB, too few for 512 dimensions."""
PROGRAMS = 132
"""That run at a time, one a multiprocessor, where there is no card to ask: an H100 has so many."""


def computes(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Whether the kernels can be used on ``device``, with products of ``dtype``, for embeddings of ``size`` dimensions.

    On a CPU they are interpreted.
    """
    if device.type != "cuda":
        return size <= LARGEST_EMBEDDING
    known = torch.cuda.get_device_capability(device) in BACKWARD_TILES
    return known and dtype == torch.bfloat16 and size <= LARGEST_EMBEDDING


def other_classes(
    directions: Tensor, weight: Tensor, labels: Tensor, scale: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """As ``class_chunks.other_classes``, where ``computes`` says so."""
    result: tuple[Tensor, Tensor] = _OtherClasses.apply(directions, weight, labels, scale, dtype)
    return result


class _OtherClasses(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, directions: Tensor, weight: Tensor, labels: Tensor, scale: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        (batch, size), classes = directions.shape, len(weight)
        unit = torch.empty(weight.shape, dtype=dtype, device=weight.device)
        lengths = torch.empty(classes, dtype=torch.float32, device=weight.device)
        wide = triton.next_power_of_2(size)
        tall = max(1, 4096 // wide)
        launch(
            kernels.unit_kernel, (triton.cdiv(classes, tall),),
            weight.contiguous(), unit, lengths, classes, D=size, BN=tall, BD=wide, num_warps=4,
        )  # fmt: skip
        rounded, labels = directions.to(dtype).contiguous(), labels.contiguous()
        depth = min(DEPTH, max(16, wide))
        tiles, shares, each = _shares(weight.device, triton.cdiv(batch, ROWS), classes, CLASSES)
        partial = torch.empty((2, shares, batch), dtype=torch.float32, device=weight.device)
        launch(
            kernels.softmax_kernel, (tiles, shares),
            rounded, unit, labels, partial[0], partial[1], batch, classes, scale, each,
            D=size, BM=ROWS, BN=CLASSES, BK=depth, KS=triton.cdiv(size, depth), num_warps=8, num_stages=3,
        )  # fmt: skip
        total, target = partial[0].logsumexp(0), partial[1].sum(0)
        context.save_for_backward(rounded, unit, lengths, labels, total)
        context.scale = scale
        return total, target

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rounded, unit, lengths, labels, total = context.saved_tensors
        given = (labels, total, gradients[0].contiguous(), gradients[1].contiguous(), lengths)
        (batch, size), classes = rounded.shape, len(unit)
        on_cuda = unit.device.type == "cuda"
        other, stages = BACKWARD_TILES[torch.cuda.get_device_capability(unit.device) if on_cuda else (8, 0)]
        halves = 1 if size <= LARGEST_EMBEDDING // 2 else 2
        constants = {
            "D": size, "BM": OWN, "BN": other, "BD": max(16, triton.next_power_of_2(size) // halves),
            "HALVES": halves, "num_warps": 8, "num_stages": stages,
        }  # fmt: skip
        by_directions: Tensor | None = None
        by_weight: Tensor | None = None
        if context.needs_input_grad[0]:
            tiles, shares, each = _shares(unit.device, triton.cdiv(batch, OWN), classes, other)
            parts = torch.empty((shares, batch, size), dtype=torch.float32, device=unit.device)
            launch(
                kernels.gradient_kernel,
                (tiles, shares),
                rounded,
                unit,
                *given,
                parts,
                batch,
                classes,
                context.scale,
                each,
                BY_CLASS=False,
                **constants,
            )
            by_directions = parts.sum(0)
        if context.needs_input_grad[1]:
            by_weight = torch.empty((classes, size), dtype=torch.float32, device=unit.device)
            launch(
                kernels.gradient_kernel, (triton.cdiv(classes, OWN), 1),
                unit, rounded, *given, by_weight, classes, batch, context.scale, triton.cdiv(batch, other),
                BY_CLASS=True, **constants,
            )  # fmt: skip
        return by_directions, by_weight, None, None, None


def _shares(device: torch.device, tiles: int, classes: int, tile: int) -> tuple[int, int, int]:
    """``tiles``, the shares that the classes are divided into for each of them, and the class tiles of a share.

    Together no more programs than run at a time: one more would take as long as all of them. Only where there are more
    ``tiles`` than multiprocessors the classes stay whole, and programs follow one another.
    """
    at_a_time = PROGRAMS if device.type != "cuda" else torch.cuda.get_device_properties(device).multi_processor_count
    class_tiles = triton.cdiv(classes, tile)
    each = triton.cdiv(class_tiles, min(class_tiles, max(1, at_a_time // tiles)))
    return tiles, triton.cdiv(class_tiles, each), each
