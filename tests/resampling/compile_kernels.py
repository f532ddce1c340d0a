"""Compiles the fused kernels for compute capability 9.0 as a launch would, no card needed: prints what each needs.

Run by ``test_kernels_compile.py`` in a process of its own, since the tests' process interprets kernels.
"""

import json

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from hrfr_fast.resampling import launcher
from hrfr_fast.resampling.launcher import EpochOrders, Resampler, ResidentSplit, Rows, View
from hrfr_fast.settings import AugmentSettings

EVERYTHING = AugmentSettings(saturation=0.5, blur=0.5, erase=0.5, degrade=0.6)
CASES = (
    (144, AugmentSettings(), torch.bfloat16, 0, View()),
    (32, EVERYTHING, torch.uint8, 2**63 - 1, View()),
    (144, AugmentSettings(degrade=1.0), torch.bfloat16, 0, View(2, ("linear", "box"))),
)


class Hopper:
    """The part of Triton's driver that compiling needs."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=None):
        return 0


class Compiled:
    """In place of a kernel: a launch compiles it and records the result."""

    def __init__(self, kernel, found):
        self.kernel, self.found = kernel, found

    def __getitem__(self, grid):
        def launch(*arguments, **options):
            result = self.kernel.warmup(*arguments, grid=grid, **options)
            wgmma = "wgmma" in result.asm["ptx"]
            self.found.append({"name": self.kernel.fn.__name__, "shared": result.metadata.shared, "wgmma": wgmma})

        return launch


def main():
    driver.set_active(Hopper())
    found = []
    launcher.resample_kernel, launcher.compose_kernel = (
        Compiled(kernel, found) for kernel in (launcher.resample_kernel, launcher.compose_kernel)
    )
    pixels = torch.zeros((4, 36, 36, 3), dtype=torch.uint8)
    orders = EpochOrders(torch.zeros((1, 4), dtype=torch.int32), torch.zeros(4, dtype=torch.int64))
    for out_size, settings, dtype, seed, view in CASES:
        images, labels = torch.zeros((4, out_size, out_size, 3), dtype=dtype), torch.zeros(4, dtype=torch.int64)
        resampler = Resampler(ResidentSplit(pixels, 0), out_size, settings, seed, view=view)
        rows = Rows(2, 3, 1, 2) if view.number else Rows()
        resampler(images, labels, orders, torch.zeros(1, dtype=torch.int64), 0, rows, 2)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
