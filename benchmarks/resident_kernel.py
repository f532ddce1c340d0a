#!/usr/bin/env python
"""Speed of the resident engine's GPU kernels on a CUDA device, beside the memory bandwidth of a copy.

    python benchmarks/resident_kernel.py [--json FILE] [--sweep]

Random pictures of 36 px lie in device memory; batches of 32 and 144 px are made of them in bf16, with the default
augmentation and with every one; and of 144 px, which are degraded on the way, as in views of crossres144 ("degraded")
or by the chain of native low resolution ("native"). Each rate is the median of several replays of a CUDA graph of many
batches, each of other pictures; beside it that of kernels launched from Python, one call for each batch. The ceiling is
a device copy measured in the same run; the least time of a picture is to read its source once and write its output
once.
"""

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    from hrfr_fast.resampling.launcher import Resampler, Tiles

PICTURES = {36: 1 << 18, 144: 1 << 14}  # side of the source -> pictures: 1.0 GB each, which no cache holds
SIDES, BATCHES = (32, 144), (1024, 2048, 4096, 8192)
DEGRADED, DEGRADED_BATCHES = ("degraded", "native"), (128, 1024)
REPEATS, LEAST_FILLS = 7, 4


class Case(NamedTuple):
    """The settings of one measured rate; ``tiles`` None: those that training uses."""

    side: int
    augmentation: str
    batch: int
    tiles: "Tiles | None"

    @property
    def source(self) -> int:
        """Side of the pictures that it is made of."""
        return 144 if self.augmentation in DEGRADED else 36


def main() -> int:
    """Measure every case and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write everything measured there")
    parser.add_argument("--sweep", action="store_true", help="also try other tile shapes (a minute more)")
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("resident_kernel: no CUDA device here, so nothing was measured")
        return 0
    try:
        import triton
    except ImportError:
        print("resident_kernel: Triton is not installed, so there are no kernels to measure (pip install triton)")
        return 0
    device = torch.device("cuda")
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "command": " ".join(sys.argv),
        "copy_bytes_per_second": copy_rate(device),
        "order_of_a_million_seconds": order_time(device),
        "cases": [],
    }
    print(f"{found['device']}: copies {found['copy_bytes_per_second'] / 1e12:.2f} TB/s read and written; the order of")
    print(f"1,000,000 records takes {1e3 * found['order_of_a_million_seconds']:.1f} ms, once an epoch")
    print(
        f"{'px':>4} {'augmentation':<12} {'batch':>6} {'images/s':>13} {'from Python':>13} {'of the floor':>12}  tiles"
    )
    bench = Bench(device, found["copy_bytes_per_second"])
    for case in cases(options.sweep):
        result = bench.measure(case)
        found["cases"].append(result)
        print(
            f"{case.side:>4} {case.augmentation:<12} {case.batch:>6} {result['images_per_second']:>13,.0f} "
            f"{result['images_per_second_launched']:>13,.0f} {result['share_of_floor']:>12.1%}  "
            + " ".join(str(number) for number in result["tiles"].values()),
            flush=True,
        )
        if options.json:  # saved as it goes
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump(found, file, indent=1)
    return 0


def cases(sweep: bool) -> Iterator[Case]:
    """Every output side, augmentation and batch size; with ``sweep`` other tile shapes too."""
    for side in SIDES:
        for augmentation in ("default", "everything"):
            for batch in BATCHES:
                yield Case(side, augmentation, batch, None)
    for augmentation in DEGRADED:
        for batch in DEGRADED_BATCHES:
            yield Case(144, augmentation, batch, None)
    if sweep:
        from hrfr_fast.resampling.launcher import Tiles

        shapes = {
            32: [
                (32, 128, 64, 64, 1, 168), (32, 128, 64, 32, 1, 255), (32, 64, 64, 64, 2, 168),
                (32, 128, 64, 64, 1, 128, 8),
            ],
            144: [
                (64, 128, 32, 64, 1, 168), (64, 128, 32, 64, 4, 168), (64, 128, 32, 64, 2, 255),
                (64, 64, 32, 64, 4, 168), (64, 128, 32, 64, 2, 128, 8), (32, 128, 32, 64, 4, 168),
            ],
        }  # fmt: skip
        for side in SIDES:
            for shape in shapes[side]:
                yield Case(side, "default", 4096, Tiles(*shape))


class Bench:
    """The pictures and their order on the device, on which one case after the other is measured."""

    def __init__(self, device: "torch.device", copy_bytes_per_second: float) -> None:
        import torch

        from hrfr_fast.resampling.launcher import EpochOrders, ResidentSplit
        from hrfr_fast.sampling.sampler import Sampler
        from hrfr_fast.sampling.sampler_torch import epoch_records

        self.device, self.copy_rate = device, copy_bytes_per_second
        self.sources: dict[int, ResidentSplit] = {}
        self.orders: dict[int, EpochOrders] = {}
        for side, count in PICTURES.items():
            pixels = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, device=device)
            records = torch.stack([epoch_records(Sampler(0, count), epoch, device) for epoch in range(2)])
            self.sources[side] = ResidentSplit(pixels, 0)
            self.orders[side] = EpochOrders(records, torch.randint(0, 50_000, (count,), device=device))

    def resampler(self, case: Case) -> "Resampler":
        """What makes the batches of ``case``."""
        from hrfr_fast.resampling.launcher import Resampler, View
        from hrfr_fast.resampling.native_launcher import NativeResampler
        from hrfr_fast.settings import AugmentSettings, DegradationSettings

        source, settings, view = self.sources[case.source], AugmentSettings(), View()
        if case.augmentation == "native":
            return NativeResampler(source, case.side, settings, DegradationSettings(), 0, 2)
        if case.augmentation == "everything":
            settings = settings.replaced(
                zoom=0.1, contrast=0.2, saturation=0.3, grey=0.1, blur=0.3, erase=0.3, degrade=0.5
            )
        if case.augmentation == "degraded":
            settings, view = settings.replaced(degrade=1.0, degrade_min=28, degrade_max=44), View(2, ("linear", "box"))
        return Resampler(source, case.side, settings, 0, case.tiles, view)

    def measure(self, case: Case) -> dict[str, Any]:
        import torch

        side, batch, orders = case.side, case.batch, self.orders[case.source]
        resampler = self.resampler(case)
        images = torch.full((batch, side, side, 3), torch.nan, dtype=torch.bfloat16, device=self.device)
        labels = torch.full((batch,), -1, dtype=torch.int64, device=self.device)
        counter = torch.zeros(1, dtype=torch.int64, device=self.device)
        fills = max(LEAST_FILLS, 32_768 // batch)

        def many() -> None:
            for _ in range(fills):
                resampler(images, labels, orders, counter, 0)
                counter.add_(batch)

        many()  # compiles
        torch.cuda.synchronize()
        if not bool(torch.isfinite(images).all()) or int(labels.min()) < 0:
            raise RuntimeError(f"{case}: part of the batch was not written")
        launched = seconds(many, counter)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            many()
        replayed = seconds(graph.replay, counter)
        floor = (case.source * case.source * 3 + 2 * side * side * 3) / self.copy_rate
        rate = fills * batch / replayed
        return {
            "source": case.source, "side": side, "augmentation": case.augmentation, "batch": batch, "dtype": "bfloat16",
            "tiles": resampler.tiles._asdict(), "images_per_second": rate,
            "images_per_second_launched": fills * batch / launched, "share_of_floor": rate * floor,
        }  # fmt: skip


def seconds(work: Callable[[], object], counter: "torch.Tensor") -> float:
    """Median time on the device of ``work``, started anew at sample 0 each time."""
    import torch

    times = []
    for _ in range(REPEATS):
        counter.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def copy_rate(device: "torch.device") -> float:
    """Bytes a second, read and written, of a 1 GiB copy on the device."""
    import torch

    source = torch.randint(0, 256, (1 << 30,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.numel() / seconds(lambda: target.copy_(source), torch.zeros(1, device=device))


def order_time(device: "torch.device") -> float:
    """Seconds to make the order of one epoch over a million records."""
    import torch

    from hrfr_fast.sampling.sampler import Sampler
    from hrfr_fast.sampling.sampler_torch import epoch_records

    order = Sampler(0, 1_000_000)
    epoch_records(order, 0, device)
    return seconds(lambda: epoch_records(order, 1, device), torch.zeros(1, device=device))


if __name__ == "__main__":
    sys.exit(main())
