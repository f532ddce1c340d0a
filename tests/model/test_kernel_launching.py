"""Compiling what a step launches side by side: nothing is computed meanwhile, each variant is asked for once."""

import threading

import pytest
import torch

pytest.importorskip("triton", reason="Triton exists for Linux only")
from hrfr_fast.model.kernels import launching  # noqa: E402
from hrfr_fast.model.kernels.launching import launch, only_compiled  # noqa: E402

CPU = torch.device("cpu")


class Kernel:
    """Remembers what was launched and compiled; the first two compilations wait for each other."""

    def __init__(self, broken=False):
        self.launched, self.compiled, self.both, self.broken = [], [], threading.Barrier(2, timeout=20), broken

    def __getitem__(self, grid):
        return lambda *given, **constants: self.launched.append((grid, given, constants))

    def warmup(self, *given, grid, **constants):
        self.compiled.append((given, grid, constants))
        if self.broken:
            raise RuntimeError("PassManager::run failed")
        self.both.wait()


def test_variants_are_compiled_once_and_at_the_same_time(monkeypatch):
    monkeypatch.setattr(launching.os, "cpu_count", lambda: 4)
    kernel, maps = Kernel(), torch.zeros(8, dtype=torch.bfloat16)
    launch(kernel, (1,), maps, 5, C=8)
    with only_compiled(CPU) as variants:
        for rows in (32, 48, 33):  # two multiples of 16 are one variant
            launch(kernel, (2,), maps, rows, 0.5, C=8)
        launch(kernel, (2,), maps[1:], 32, 0.5, C=8)  # not aligned
        assert not kernel.compiled, "not while the step runs, in which cuDNN times its algorithms"
    assert len(variants) == 2
    asked = sorted(kernel.compiled, key=str)
    assert asked == [((torch.bfloat16, rows, 0.5), (2,), {"C": 8}) for rows in (32, 33)]
    assert kernel.launched == [((1,), (maps, 5), {"C": 8})]
    launch(kernel, (1,), maps, 32, 0.5, C=8)
    assert len(kernel.launched) == 2, "launched again afterwards"


def test_what_a_kernel_does_not_specialise_makes_no_variants():
    """As Triton keeps them: an integer that is 1 or a multiple of 16 is no other, one of 64 bits is."""
    kernel = Kernel(broken=True)
    kernel.arg_names, kernel.do_not_specialize = ["maps", "rows", "step", "C"], ["rows"]
    with only_compiled(CPU) as variants:
        for rows in (1, 16, 33, 1 << 40):
            launch(kernel, (2,), torch.zeros(8), rows, 3, C=8)
    assert len(variants) == 2
    with only_compiled(CPU) as variants:
        for step in (1, 16, 33, 1 << 40):
            launch(kernel, (2,), torch.zeros(8), 5, step, C=8)
    assert len(variants) == 4


def test_threads_compile_for_the_device_that_is_current_where_it_has_no_number(monkeypatch):
    chosen, loaded, kernel = [], [], Kernel(broken=True)

    class Compiled:
        run = property(loaded.append)

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(kernel, "warmup", lambda *given, **constants: Compiled())
    with only_compiled(torch.device("cuda")):
        launch(kernel, (1,), 3)
    with only_compiled(torch.device("cuda", 1)):
        launch(kernel, (1,), 3)
    assert chosen == [3, 1] and len(loaded) == 2


def test_what_cannot_be_compiled_is_left_to_its_launch():
    kernel = Kernel(broken=True)
    with only_compiled(CPU):
        launch(kernel, (1,), 3)
    assert len(kernel.compiled) == 1 and not kernel.launched
    with pytest.raises(ZeroDivisionError), only_compiled(CPU):
        raise ZeroDivisionError
    launch(kernel, (1,), 3)
    assert len(kernel.launched) == 1
