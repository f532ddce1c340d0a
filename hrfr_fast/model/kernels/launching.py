"""Launches of Triton kernels, and the compilation of all that a step needs side by side before it is taken.

Triton compiles a variant of a kernel when it is first launched, one after the other: 27 seconds of a first step. Most
of that is spent in LLVM and ptxas, which hold no lock of Python's.
"""

import os
from collections.abc import Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

MOST_THREADS = 16


class Variants:
    """The variants of kernels that were asked for, each compiled once by one of several threads."""

    def __init__(self, pool: ThreadPoolExecutor, device: torch.device) -> None:
        self._pool, self._device = pool, device
        self._asked: dict[Hashable, Future[None]] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def ask(self, kernel: Any, grid: tuple[int, ...], given: tuple[Any, ...], constants: dict[str, Any]) -> None:
        """Have the variant for a launch with these arguments compiled.

        Types stand for tensors, which Triton takes for aligned ones, so that no memory is held until a thread is free.
        """
        if any(isinstance(one, Tensor) and one.data_ptr() % 16 for one in given):
            return  # seldom: a variant of its own, compiled when it is launched
        given = tuple(one.dtype if isinstance(one, Tensor) else one for one in given)
        key = (id(kernel), *map(_kind, given), *sorted(constants.items(), key=str))
        if key not in self._asked:
            self._asked[key] = self._pool.submit(self._compile, kernel, grid, given, constants)

    def _compile(self, kernel: Any, grid: tuple[int, ...], given: tuple[Any, ...], constants: dict[str, Any]) -> None:
        on_cuda = self._device.type == "cuda"
        if on_cuda and self._device.index is not None:
            torch.cuda.set_device(self._device)  # each thread has its own
        compiled = kernel.warmup(*given, grid=grid, **constants)
        if on_cuda:
            _ = compiled.run  # loads it, and compiles what passes the arguments on


_variants: Variants | None = None
"""Set while launches are to compile and not to compute. The backward pass has threads of its own, so it is global."""


def launch(kernel: Any, grid: tuple[int, ...], *given: Any, **constants: Any) -> None:
    """Launch ``kernel`` on ``grid``; inside of ``only_compiled`` have the variant that this takes compiled instead."""
    if _variants is None:
        kernel[grid](*given, **constants)
    else:
        _variants.ask(kernel, grid, given, constants)


@contextmanager
def only_compiled(device: torch.device) -> Iterator[Variants]:
    """Inside, launches compute nothing: what they would write stays as it is. On leaving, their variants are compiled.

    One that cannot be compiled is passed over: its first launch will say why.
    """
    global _variants
    threads = min(MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads, thread_name_prefix="triton") as pool:
        _variants = Variants(pool, device)
        try:
            yield _variants
        finally:
            _variants = None


def compile_side_by_side() -> bool:
    """Whether this Triton was made to be called by several threads at a time (3.5 and newer: its own mode for it)."""
    return find_spec("triton.runtime._async_compile") is not None


def _kind(value: Any) -> Hashable:
    """What Triton distinguishes of an argument: types, and integers that are 1, multiples of 16 or of 64 bits."""
    if isinstance(value, int):
        return value == 1, value % 16 == 0, abs(value) < 1 << 31
    return str(value) if isinstance(value, torch.dtype) else type(value).__name__
