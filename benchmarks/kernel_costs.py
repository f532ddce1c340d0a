#!/usr/bin/env python
"""What the step's GPU kernels need, computed without a card: registers, spills, shared memory, bytes moved, launches.

    python benchmarks/kernel_costs.py [--quick]

A step of irse18 is taken on torch's meta device, where nothing is computed; every launch of a kernel is counted, with
the bytes of all tensors that it is given (each is read or written once), and compiled for sm_80 and sm_90 by the
compiler that a launch would use. ``ptxas`` says what the code needs. Convolutions that are not among the kernels, all
but the stem's, count as in ``roofline.py``: input read and output written once. What torch launches beside the kernels
is counted by ``step_launches.py``.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.backends.nvidia.compiler import get_ptxas  # noqa: E402
from triton.runtime import driver  # noqa: E402

from benchmarks.roofline import step_operations  # noqa: E402
from benchmarks.step_launches import by_kind, operations_of_a_step  # noqa: E402
from hrfr_fast.model.backbone import BackboneSettings, build_backbone  # noqa: E402
from hrfr_fast.model.kernels import (  # noqa: E402
    gate_triton,
    head,
    head_triton,
    merge_triton,
    norm_triton,
    stem_triton,
)

ARCHITECTURES = (80, 90)
BATCH, CLASSES, DIMENSIONS = 1024, 52_500, 512
STEM = "stem.0"
"""Place of the convolution that is computed by kernels of our own."""


class Card:
    """The part of Triton's driver that compiling needs. ``architecture``: 90 for sm_90."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return self.architecture  # Triton keeps what it compiled by this number

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


class Need(NamedTuple):
    """What one kernel, compiled for one architecture, needs."""

    name: str
    architecture: int
    registers: int
    """A thread."""
    spilled: int
    """Bytes a thread, stores and loads."""
    shared: int
    """Bytes a program."""
    tensor_cores: str
    """The instruction that multiplies matrices: wgmma, mma or none."""


class Launches:
    """The launches of a kernel: their bytes, and the code of each variant, or of those called ``only``."""

    def __init__(
        self, kernel: Any, moved: list[tuple[str, int]], needs: dict[tuple[Any, ...], Need] | None,
        only: Collection[str] | None,
    ) -> None:  # fmt: skip
        self.kernel, self.moved, self.needs, self.only = kernel, moved, needs, only

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*given: Any, **constants: Any) -> None:
            name = self.kernel.fn.__name__.removesuffix("_kernel")
            self.moved.append((name, sum(one.nbytes for one in given if isinstance(one, torch.Tensor))))
            if self.needs is None:
                return
            key = (name, driver.active.get_current_device(), *sorted(constants.items(), key=str))
            if key in self.needs:
                return
            marks = [f" {word.lower()}" for word, value in constants.items() if value is True and len(word) > 2]
            variant = f"{name} C={constants.get('C', constants.get('D'))}{''.join(marks)}"
            if self.only is None or variant in self.only:
                self.needs[key] = need(variant, self.kernel.warmup(*given, grid=grid, **constants))

        return launch


@contextmanager
def counted(
    needs: dict[tuple[Any, ...], Need] | None, only: Collection[str] | None = None
) -> Iterator[list[tuple[str, int]]]:
    """Inside, kernels are counted, and compiled for the active card where ``needs`` is given, but not run.

    ``only``: names of the variants to compile; None: all.
    """
    moved: list[tuple[str, int]] = []
    kernels = [
        (module, name)
        for module in (norm_triton, merge_triton, gate_triton, head_triton, stem_triton)
        for name in dir(module)
        if name[-7:] == "_kernel"
    ]
    before = [getattr(module, name) for module, name in kernels]
    for (module, name), kernel in zip(kernels, before, strict=True):
        setattr(module, name, Launches(kernel, moved, needs, only))
    try:
        yield moved
    finally:
        for (module, name), kernel in zip(kernels, before, strict=True):
            setattr(module, name, kernel)


def need(name: str, code: Any) -> Need:
    """Read from the compiler's report on ``code``."""
    architecture, ptx = driver.active.get_current_device(), code.asm["ptx"]
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [
            get_ptxas(architecture).path,
            "-v",
            f"-arch=sm_{architecture}{'a' if architecture >= 90 else ''}",
            file.name,
        ]
        report = subprocess.run([*command, "-o", "/dev/null"], capture_output=True, encoding="utf-8", check=True).stderr
    registers = int(re.findall(r"Used (\d+) registers", report)[0])
    spilled = sum(int(number) for number in re.findall(r"(\d+) bytes spill", report))
    cores = "wgmma" if "wgmma" in ptx else "mma" if "mma.sync" in ptx else ""
    return Need(name, architecture, registers, spilled, code.metadata.shared, cores)


def take_step(size: int, batch: int = BATCH) -> None:
    """One step's forward and backward pass through irse18, width 64, in bf16 on the meta device."""
    with torch.device("meta"):
        network = build_backbone(BackboneSettings(size)).to(torch.bfloat16)
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d | torch.nn.PReLU):
                layer.float()  # as under autocast
        network.gpu_kernels = True
        images = torch.empty(batch, 3, size, size, dtype=torch.bfloat16)
        network(images.to(memory_format=torch.channels_last)).sum().backward()


def take_head_step(batch: int = BATCH, classes: int = CLASSES, dimensions: int = DIMENSIONS) -> None:
    """The head's forward and backward pass on the meta device."""
    tiles = head.TILES
    major = driver.active.get_current_device() // 10
    head.TILES = {(8, 0): tiles[(major, 0)]}  # what it takes where there is no card
    try:
        with torch.device("meta"):
            directions, weight = torch.empty(batch, dimensions), torch.empty(classes, dimensions)
            labels = torch.empty(batch, dtype=torch.int64)
            found = head.other_classes(
                directions.requires_grad_(), weight.requires_grad_(), labels, 64.0, torch.bfloat16
            )
            (found[0].sum() + found[1].sum()).backward()
    finally:
        head.TILES = tiles


def compiled(architectures: tuple[int, ...], size: int = 32) -> list[Need]:
    """Every variant of every kernel that a step of irse18 with its head launches."""
    needs: dict[tuple[Any, ...], Need] = {}
    for architecture in architectures:
        driver.set_active(Card(architecture))
        with counted(needs):
            take_step(size)
            take_head_step()
    return list(needs.values())


def bytes_an_image(size: int) -> tuple[float, float, float]:
    """Of the kernels; as the roofline counts them, of the other convolutions and the rest; its count for the kernels'
    work."""
    with counted(None) as moved:
        take_step(size)
    operations = step_operations(BackboneSettings(size), 0, BATCH)
    network = [item for item in operations if item.kind != "optimiser"]
    same = sum(item.bytes for item in network if item.kind == "batch norm" or item.place == STEM)
    rest = sum(item.bytes for item in network) - same
    return sum(number for _, number in moved) / BATCH, rest / BATCH, same / BATCH


def launches_of_a_step() -> tuple[dict[str, int], dict[str, int]]:
    """What a step launches by kind, with our kernels and without."""
    with counted(None) as launched:
        beside = by_kind(operations_of_a_step(kernels=True))
    return {"kernels of our own": len(launched)} | beside, by_kind(operations_of_a_step(kernels=False))


def main() -> int:
    """Print the tables; exit code 1 where anything is spilled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="sm_90 alone")
    architectures = ARCHITECTURES[1:] if parser.parse_args().quick else ARCHITECTURES
    found = compiled(architectures)
    print(f"{'kernel':<52} {'sm':>3} {'registers':>9} {'spilled':>8} {'shared':>8}")
    for item in sorted(found):
        print(
            f"{item.name:<52} {item.architecture:>3} {item.registers:>9} {item.spilled:>8} {item.shared:>8}"
            f"  {item.tensor_cores}"
        )
    print("\nMB an image, irse18 width 64, bf16, batch 1,024 (head and optimiser aside)")
    print(f"{'px':>4} {'kernels':>8} {'convolutions':>13} {'sum':>7} {'roofline: same':>16} {'sum':>7}")
    for size in (32, 144):
        ours, rest, same = (number / 1e6 for number in bytes_an_image(size))
        print(f"{size:>4} {ours:>8.2f} {rest:>13.2f} {ours + rest:>7.2f} {same:>16.2f} {same + rest:>7.2f}")
    with_kernels, without = launches_of_a_step()
    print(f"\n{'launches of a step of irse18, at least':<40} {'kernels':>8} {'torch':>8}")
    for kind, number in with_kernels.items():
        print(f"{kind:<40} {number:>8} {without.get(kind, 0):>8}")
    print(f"{'all':<40} {sum(with_kernels.values()):>8} {sum(without.values()):>8}")
    return int(any(item.spilled for item in found))


if __name__ == "__main__":
    sys.exit(main())
