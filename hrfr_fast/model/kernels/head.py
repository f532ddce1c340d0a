"""Softmax over many classes without a matrix [batch, classes], by GPU kernels: ``class_chunks`` in another execution.

For batch B, C classes and D dimensions a step executes 8 B C D operations: 2 forward, and backward 2 to compute the
cosines again and 2 for each gradient. What it moves of device memory are the class vectors, in float32 once to make
unit vectors of 16 bits (kept for the backward pass, 2 C D bytes), those in each pass, and their gradient. The backward
pass goes through the classes in chunks; the gradient by a chunk's cosines, 2 bytes each, is written once and read twice
from the second-level cache, which holds it.
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hrfr_fast.model.kernels import head_triton as kernels
from hrfr_fast.model.kernels.launching import launch


class Tiles(NamedTuple):
    """Tiles of the kernels' products, and what runs them; ``benchmarks/kernel_costs.py`` says whether they fit.

    Powers of 2, none less than ``depth``, and ``classes`` no less than ``rows``.

    As large as sums fit into registers: the larger, the less a product reads of the second-level cache, its bound.
    """

    rows: int = 128
    """Of the batch."""
    classes: int = 256
    """Of a tile of cosines; a tile of the gradient by class vectors has as many classes as others have rows."""
    dimensions: int = 256
    """Of a tile of a gradient, at most."""
    depth: int = 64
    """Of one step of a product's sum."""
    stages: int = 3
    """Steps whose operands are in shared memory, or underway to it."""
    warps: int = 8


WITHOUT_WGMMA = Tiles(classes=128, dimensions=128)
"""Then more registers hold what is multiplied, and fewer sums fit; 66 KiB of shared memory of the 99 there are."""
TILES = {(9, 0): Tiles(stages=4), **dict.fromkeys(((8, 0), (8, 6), (8, 9), (12, 0)), WITHOUT_WGMMA)}
"""Compute capability -> its tiles. All compile without spills; only the first has been on a card."""
CHUNK_BYTES = 34 << 20
"""Of the gradient by the cosines of a chunk: the second-level cache of an H100 has 50 MB, an A100's 40. More only where
less would leave multiprocessors idle, at large batches (``_chunk``): 69 MB at 4,096, 554 MB at 32,768."""
TARGETS = 4
"""Rows of the batch whose targets' cosines a program computes."""
PROGRAMS = 132
"""That run at a time, one a multiprocessor, where there is no card to ask: an H100 has so many."""
LARGEST_EMBEDDING = 4096
"""Dimensions of class vectors, of which a program holds whole ones when it makes them unit vectors."""


def computes(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Whether the kernels can be used on ``device``, with products of ``dtype``, for embeddings of ``size`` dimensions.

    On a CPU they are interpreted.
    """
    if device.type != "cuda":
        return size <= LARGEST_EMBEDDING
    return torch.cuda.get_device_capability(device) in TILES and dtype == torch.bfloat16 and size <= LARGEST_EMBEDDING


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
        (batch, _), classes, tiles = directions.shape, len(weight), tiles_of(weight.device)
        unit, lengths = _unit_vectors(weight, dtype, tiles)
        rounded = _whole_tiles(directions.to(dtype), tiles.rows, unit.shape[1])
        labels = labels.contiguous()
        row_tiles = len(rounded) // tiles.rows
        shares, each = _shares(weight.device, row_tiles, triton.cdiv(classes, tiles.classes))
        partial = torch.empty((shares, batch), dtype=torch.float32, device=weight.device)
        launch(
            kernels.softmax_kernel, (row_tiles, shares),
            rounded, unit, labels, partial, batch, classes, scale, each,
            D=unit.shape[1], BM=tiles.rows, BN=tiles.classes, BK=tiles.depth, **_runs(tiles),
        )  # fmt: skip
        total, target = partial.logsumexp(0), torch.empty(batch, dtype=torch.float32, device=weight.device)
        launch(
            kernels.target_kernel, (triton.cdiv(batch, TARGETS),),
            rounded, unit, labels, target, batch,
            D=unit.shape[1], BM=TARGETS, BD=triton.next_power_of_2(unit.shape[1]), num_warps=4,
        )  # fmt: skip
        context.save_for_backward(rounded, unit, lengths, labels, total)
        context.scale, context.weight_shape = scale, weight.shape
        return total, target

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rounded, unit, lengths, labels, total = context.saved_tensors
        (classes, size), (rows, wide), device = context.weight_shape, rounded.shape, unit.device
        tiles, by_directions, by_weight = tiles_of(device), None, None
        given = (rounded, unit, labels, total, gradients[0].contiguous(), gradients[1].contiguous())
        chunk = _chunk(unit, rows, tiles)
        scratch = torch.empty(rows * chunk, dtype=unit.dtype, device=device)
        along = torch.empty(rows // tiles.rows * chunk, dtype=torch.float32, device=device)
        if context.needs_input_grad[0]:
            by_directions = _DirectionGradient(rounded, chunk, tiles)
        if context.needs_input_grad[1]:
            by_weight = torch.empty((classes, size), dtype=torch.float32, device=device)
        for begin in range(0, len(unit), chunk):
            width = min(chunk, len(unit) - begin)
            launch(
                kernels.cosine_gradient_kernel, (rows // tiles.rows, width // tiles.classes),
                *given, scratch, along, len(labels), classes, context.scale, begin, width,
                D=wide, BM=tiles.rows, BN=tiles.classes // 2, BK=tiles.depth, BY_CLASS=by_weight is not None,
                **_runs(tiles),
            )  # fmt: skip
            if by_directions is not None:
                by_directions.add(scratch, unit, begin, width)
            if by_weight is not None:
                across = _dimensions(tiles, wide)
                launch(
                    kernels.class_gradient_kernel, (wide // across, width // tiles.rows),
                    scratch, rounded, unit, along, lengths, by_weight, rows, rows // tiles.rows, classes, begin, width,
                    SIZE=size, D=wide, BM=tiles.rows, BD=across, BK=tiles.depth, **_runs(tiles),
                )  # fmt: skip
        found = None if by_directions is None else by_directions.parts.sum(0)[: len(labels), :size]
        return found, by_weight, None, None, None


class _DirectionGradient:
    """The gradient by the directions, in parts float32 [shares, rows, D], to which each chunk of classes adds."""

    def __init__(self, rounded: Tensor, chunk: int, tiles: Tiles) -> None:
        (self.rows, self.wide), self.tiles = rounded.shape, tiles
        self.across = _dimensions(tiles, self.wide)
        self.products = self.rows // tiles.rows * (self.wide // self.across)
        self.shares, _ = _shares(rounded.device, self.products, chunk // tiles.depth)
        self.parts = torch.empty((self.shares, *rounded.shape), dtype=torch.float32, device=rounded.device)

    def add(self, by_cosine: Tensor, unit: Tensor, begin: int, width: int) -> None:
        """``by_cosine``: [rows, width], the gradient by the cosines of the classes from ``begin``; they go in order."""
        launch(
            kernels.direction_gradient_kernel, (self.products, self.shares),
            by_cosine, unit, self.parts, self.rows, begin, width,
            triton.cdiv(width // self.tiles.depth, self.shares),
            D=self.wide, BM=self.tiles.rows, BD=self.across, BK=self.tiles.depth, **_runs(self.tiles),
        )  # fmt: skip


def tiles_of(device: torch.device) -> Tiles:
    return TILES[torch.cuda.get_device_capability(device) if device.type == "cuda" else (8, 0)]


def _runs(tiles: Tiles) -> dict[str, int]:
    """The compiler's options."""
    return {"num_warps": tiles.warps, "num_stages": tiles.stages}


def _dimensions(tiles: Tiles, wide: int) -> int:
    """Of a tile of a gradient: the most that divide all of them, ``wide``, which whole steps of a product do."""
    return min(tiles.dimensions, wide & -wide)


def _chunk(unit: Tensor, rows: int, tiles: Tiles) -> int:
    """Classes of a chunk: whole tiles, as many as leave no multiprocessor idle in the product of the class gradient.

    Once that, or as often as CHUNK_BYTES allows.
    """
    together = _at_a_time(unit.device) // (unit.shape[1] // _dimensions(tiles, unit.shape[1])) * tiles.rows
    together = max(1, together // tiles.classes) * tiles.classes
    return min(len(unit), max(1, CHUNK_BYTES // (unit.element_size() * rows * together)) * together)


def _up(number: int, tile: int) -> int:
    """``number``, rounded up to whole tiles."""
    return triton.cdiv(number, tile) * tile


def _unit_vectors(weight: Tensor, dtype: torch.dtype, tiles: Tiles) -> tuple[Tensor, Tensor]:
    """Of class vectors [classes, size]: of length 1, [N, D] in whole tiles, and their lengths float32 [N]."""
    classes, size = weight.shape
    many, wide = _up(classes, tiles.classes), _up(size, tiles.depth)
    unit = torch.empty((many, wide), dtype=dtype, device=weight.device)
    lengths = torch.empty(many, dtype=torch.float32, device=weight.device)
    whole = triton.next_power_of_2(wide)
    tall = min(tiles.classes, max(1, 4096 // whole))
    launch(
        kernels.unit_kernel, (many // tall,),
        weight.contiguous(), unit, lengths, classes, SIZE=size, D=wide, BN=tall, BD=whole, num_warps=4,
    )  # fmt: skip
    return unit, lengths


def _whole_tiles(directions: Tensor, rows: int, wide: int) -> Tensor:
    """[batch, size] as [R, wide], R of whole tiles of ``rows``, filled up with zeros."""
    batch, size = directions.shape
    more, wider = _up(batch, rows) - batch, wide - size
    return functional.pad(directions, (0, wider, 0, more)) if more or wider else directions.contiguous()


def _shares(device: torch.device, products: int, steps: int) -> tuple[int, int]:
    """Into how many shares the ``steps`` of each of ``products`` are divided, and the steps of one.

    Together no more programs than run at a time: one more would take as long as all of them. Only where there are more
    ``products`` than multiprocessors the steps stay together, and programs follow one another.
    """
    each = triton.cdiv(steps, min(steps, max(1, _at_a_time(device) // products)))
    return triton.cdiv(steps, each), each


def _at_a_time(device: torch.device) -> int:
    """Programs that run at a time: each takes a whole multiprocessor's registers."""
    return PROGRAMS if device.type != "cuda" else torch.cuda.get_device_properties(device).multi_processor_count
