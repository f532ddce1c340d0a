"""safetensors files of tensors that have a row for each class, written by the ranks that hold the rows.

Rank 0 writes the file and gets the rows of the others in pieces, in the order of the classes: it never has more of them
in memory than a piece. A reader takes the rows it needs. The file is as any other safetensors file and says nothing of
ranks.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from hrfr_fast.model.class_shards import ClassShard, rows_of
from hrfr_fast.model.sealed_files import SealedWriter, read_header
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.runtime.files import atomic_write

PIECE = 64 << 20
"""Bytes that are sent and written at a time."""
TYPES = {
    torch.float64: "F64", torch.int64: "I64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write_with_rows(
    path: Path, tensors: Mapping[str, Tensor], rows: Mapping[str, Tensor], shard: ClassShard, metadata: dict[str, str]
) -> None:
    """Write a safetensors file, atomically; to be called by all ranks, and done when rank 0 returns.

    Args:
        tensors: whole ones, of rank 0.
        rows: this rank's rows of others, [n, ...], the same names, types and order on all ranks.
        shard: which rows those are.

    Raises CannotWrite on rank 0.
    """
    if shard.peers.rank:
        for tensor in rows.values():
            for _ in _pieces(tensor, shard):
                pass
        return
    with atomic_write(path) as file:
        writer = _begin(file, tensors, rows, shard.classes, metadata)
        for tensor in rows.values():
            for piece in _pieces(tensor, shard):
                writer.write(_bytes(piece))
        writer.finish()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file of whole tensors, atomically. Raises CannotWrite."""
    with atomic_write(path) as file:
        _begin(file, tensors, {}, 0, metadata).finish()


def read_rows(path: Path, name: str, rows: range) -> Tensor:
    """Rows of the tensor ``name`` of a safetensors file, in host memory.

    Raises HrfrError where they are not there, DamageFound where they are not what was written.
    """
    try:
        with open(path, "rb") as file:
            header = read_header(file, path)
            entry = header.tensors[name]
            dtype = {kind: dtype for dtype, kind in TYPES.items()}[entry["dtype"]]
            count, *shape = entry["shape"]
            if rows.stop > count:
                raise ValueError(f"it has {count:,} rows")
            (begin, end), size = entry["data_offsets"], rows.stop - rows.start
            row = (end - begin) // count
            if not 0 <= begin <= end <= header.size or row != math.prod(shape) * dtype.itemsize:
                raise ValueError("its place in the file does not fit its shape")
            content = header.read(file, begin + rows.start * row, begin + rows.stop * row)
        return torch.frombuffer(content, dtype=dtype).view(size, *shape)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, RuntimeError) as error:
        raise HrfrError(f"{path}: rows {rows.start:,} to {rows.stop:,} of {name} cannot be read: {error}") from None


def _begin(
    file: BinaryIO, tensors: Mapping[str, Tensor], rows: Mapping[str, Tensor], classes: int, metadata: dict[str, str]
) -> SealedWriter:
    """Write the header and the whole ``tensors``; what it returns takes the rows."""
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))  # so all are aligned
    shapes = {name: list(tensor.shape) for name, tensor in ordered.items()}
    shapes |= {name: [classes, *tensor.shape[1:]] for name, tensor in rows.items()}
    entries: dict[str, object] = {}
    end = 0
    for name, tensor in {**ordered, **rows}.items():
        begin, end = end, end + torch.Size(shapes[name]).numel() * tensor.element_size()
        entries[name] = {"dtype": TYPES[tensor.dtype], "shape": shapes[name], "data_offsets": [begin, end]}
    writer = SealedWriter(file, entries, metadata, end)
    for tensor in ordered.values():
        writer.write(_bytes(tensor))
    return writer


def _pieces(own: Tensor, shard: ClassShard) -> Iterator[Tensor]:
    """On rank 0 the rows of all ranks, piece after piece; on others their own, each once rank 0 has it."""
    peers, row = shard.peers, max(1, own[:1].numel() * own.element_size())
    for rank in range(peers.count):
        count, size = len(rows_of(rank, peers.count, shard.classes)), max(1, PIECE // row)
        for begin in range(0, count, size):
            end = min(begin + size, count)
            if rank == peers.rank:
                piece = own[begin:end].detach().cpu().contiguous()
            elif peers.rank == 0:
                piece = torch.empty((end - begin, *own.shape[1:]), dtype=own.dtype)
            else:
                continue
            if rank:
                peers.to_first(piece, rank)
            yield piece


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
