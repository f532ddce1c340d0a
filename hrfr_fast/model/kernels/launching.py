"""Launches of Triton kernels, and the compilation of all that a step needs side by side before it is taken.

Triton compiles a variant of a kernel when it is first launched, one after the other: 27 seconds of a first step. Most
of that is spent in LLVM and ptxas, which hold no lock of Python's.
"""

import os
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

MOST_THREADS = 16


class Variants:
    """The variants of kernels that were asked for, each once."""

    def __init__(self) -> None:
        self._asked: dict[Hashable, tuple[Any, tuple[int, ...], tuple[Any, ...], dict[str, Any]]] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def ask(self, kernel: Any, grid: tuple[int, ...], given: tuple[Any, ...], constants: dict[str, Any]) -> None:
        """Remember the variant for a launch with these arguments.

        Types stand for tensors, which Triton takes for aligned ones, so that no memory is held.
        """
        if any(isinstance(one, Tensor) and one.data_ptr() % 16 for one in given):
            return  # seldom: a variant of its own, compiled when it is launched
        given = tuple(one.dtype if isinstance(one, Tensor) else one for one in given)
        names, general = getattr(kernel, "arg_names", ()), getattr(kernel, "do_not_specialize", ())
        kinds = (_kind(one, name in general) for one, name in zip_longest(given, names[: len(given)]))
        key = (id(kernel), *kinds, *sorted(constants.items(), key=str))
        self._asked.setdefault(key, (kernel, grid, given, constants))

    def compile(self, device: torch.device) -> None:
        """Compile all of them, by several threads, for ``device``; without a number: for the current one."""
        number = None
        if device.type == "cuda":
            number = torch.cuda.current_device() if device.index is None else device.index
            with suppress(Exception):
                from triton.runtime import driver

                driver.active.get_current_target()  # made here once, not by each thread
                for kernel, *_ in self._asked.values():
                    _ = kernel.device_caches[number]  # of two that threads make at once one is lost, with its variants
        threads = min(MOST_THREADS, os.cpu_count() or 1)
        with ThreadPoolExecutor(threads, thread_name_prefix="triton") as pool:
            for one in self._asked.values():
                pool.submit(_compile, number, *one)


def _compile(
    number: int | None, kernel: Any, grid: tuple[int, ...], given: tuple[Any, ...], constants: dict[str, Any]
) -> None:
    """For the CUDA device ``number``; None: for another kind of device."""
    if number is not None:
        torch.cuda.set_device(number)  # a thread begins with the first one
    compiled = kernel.warmup(*given, grid=grid, **constants)
    if number is not None:
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

    Not before: cuDNN times each of its algorithms once, in the first step, and threads that want the same cores would
    make it choose others. One that cannot be compiled is passed over: its first launch will say why.
    """
    global _variants
    _variants = variants = Variants()
    try:
        yield variants
    finally:
        _variants = None
    variants.compile(device)


def compile_side_by_side() -> bool:
    """Whether this Triton was made to be called by several threads at a time (3.5 and newer: its own mode for it)."""
    return find_spec("triton.runtime._async_compile") is not None


def _kind(value: Any, general: bool) -> Hashable:
    """What Triton distinguishes of an argument: types, and integers of more than 32 bits; of those that it specialises,
    as it does unless ``general``, also which are 1 and which multiples of 16."""
    if isinstance(value, int):
        return (not general and value == 1), (not general and value % 16 == 0), abs(value) < 1 << 31
    return str(value) if isinstance(value, torch.dtype) else type(value).__name__
