"""Compiles the fused kernels for a compute capability as a launch would, no card needed: prints what each needs.

Run by ``test_kernels_compile.py`` in a process of its own, since the tests' process interprets kernels. The argument is
the architecture's number, 90 or 80.
"""

import json
import sys

import torch
from triton.runtime import driver

from benchmarks.kernel_costs import Card, need
from hrfr_fast.resampling import launcher, native_launcher
from hrfr_fast.resampling.launcher import EpochOrders, Resampler, ResidentSplit, Rows, View
from hrfr_fast.resampling.native_launcher import NativeResampler
from hrfr_fast.settings import AugmentSettings, DegradationSettings

EVERYTHING = AugmentSettings(saturation=0.5, blur=0.5, erase=0.5, degrade=0.6)
CASES = (
    (36, 144, AugmentSettings(), torch.bfloat16, 0, View()),
    (36, 32, EVERYTHING, torch.uint8, 2**63 - 1, View()),
    (144, 144, AugmentSettings(degrade=1.0), torch.bfloat16, 0, View(2, ("linear", "box"))),
)


class Compiled:
    """In place of a kernel: a launch compiles it and records the result."""

    def __init__(self, kernel, found):
        self.kernel, self.found = kernel, found

    def __getitem__(self, grid):
        def launch(*arguments, **options):
            made = need(self.kernel.fn.__name__, self.kernel.warmup(*arguments, grid=grid, **options))
            self.found.append(made._asdict())

        return launch


def resamplers():
    """With each the size and type of what it makes."""
    for size, out_size, settings, dtype, seed, view in CASES:
        source = ResidentSplit(torch.zeros((4, size, size, 3), dtype=torch.uint8), 0)
        yield Resampler(source, out_size, settings, seed, view=view), out_size, dtype
    source = ResidentSplit(torch.zeros((4, 144, 144, 3), dtype=torch.uint8), 0)
    settings = DegradationSettings()
    yield NativeResampler(source, 144, AugmentSettings(), settings, 2**63 - 1, 2), 144, torch.bfloat16


def main():
    driver.set_active(Card(int(sys.argv[1])))
    found = []
    for module in (launcher, native_launcher):
        for name in dir(module):
            if name.endswith("_kernel"):
                setattr(module, name, Compiled(getattr(module, name), found))
    orders = EpochOrders(torch.zeros((1, 4), dtype=torch.int32), torch.zeros(4, dtype=torch.int64))
    for resampler, out_size, dtype in resamplers():
        images, labels = torch.zeros((4, out_size, out_size, 3), dtype=dtype), torch.zeros(4, dtype=torch.int64)
        rows = Rows(2, 3, 1, 2) if resampler.view.number else Rows()
        resampler(images, labels, orders, torch.zeros(1, dtype=torch.int64), 0, rows, 2)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
