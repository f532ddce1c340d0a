"""Training steps on a constant batch: every way to execute them, at several batch sizes, with their peak memory."""

import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.step_timing import free_memory, peak_bytes
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.build import build
from hrfr_fast.training.timed_steps import ENDLESS, constant_batch
from hrfr_fast.training.trial import Trial
from tools.gpu_stages.report import StageReport, parser_of

BATCHES = {"lowres32": (1024, 4096, 256), "highlow144": (1024, 512, 128)}
"""The most telling first."""
SECONDS, ROUNDS = 0.5, 3


class Mode(NamedTuple):
    """How a step is executed."""

    compile: str
    graphs: str
    fused: str = "off"

    def __str__(self) -> str:
        named = {"fused": self.fused == "on", "compile": self.compile == "on", "graph": self.graphs == "on"}
        return "+".join(name for name, on in named.items() if on) or "eager"


EAGER, GRAPH, COMPILED, BOTH = Mode("off", "off"), Mode("off", "on"), Mode("on", "off"), Mode("on", "on")
FUSED = Mode("off", "on", "on")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--regime", choices=BATCHES, required=True)
    report = StageReport(parser.parse_args(arguments))
    for mode, batch_size in cases(report):
        report.attempt(f"{report.options.regime}, {mode}, batch {batch_size}", measure, mode, batch_size)
    return report.exit_code


def cases(report: StageReport) -> list[tuple[Mode, int]]:
    """What needs no compilation, at the first batch size, then at the others; then what does, which takes minutes."""
    if report.dry:
        return [(EAGER, 8)]
    main_size, *others = BATCHES[report.options.regime]
    first = [(mode, main_size) for mode in (FUSED, GRAPH, EAGER)]
    first += [(mode, size) for size in others for mode in (FUSED, GRAPH)]
    return first + [(mode, size) for size in (main_size, *others) for mode in (BOTH, COMPILED)]


def measure(report: StageReport, mode: Mode, batch_size: int) -> None:
    """Images a second (median, slowest and fastest round), bytes at the peak, seconds until the first step was done."""
    settings = TrainSettings(
        regime=report.options.regime, data=str(report.data), out=str(report.work / "modes"), device=report.device,
        steps=ENDLESS, batch_size=batch_size, width=8 if report.dry else 64, compile=mode.compile, graphs=mode.graphs,
        fused_kernels=mode.fused, engine="resident",
    )  # fmt: skip
    with Trial(build(settings), show_progress=False) as trial:
        trial.start()
        before, began = free_memory(trial.setup.compute), time.perf_counter()
        timed = constant_batch(trial)
        timed.steps(1)
        ready = time.perf_counter() - began
        timed.calibrate(0.02 if report.dry else SECONDS)
        for _ in range(ROUNDS):
            timed.round()
        report.add(
            f"{settings.regime}, {mode}", batch_size=batch_size, images_per_second=timed.images_per_second,
            slowest=min(timed.rates), fastest=max(timed.rates), peak_bytes=peak_bytes(trial.setup.compute, before),
            seconds_until_ready=ready, milliseconds_a_step=1000 * batch_size / timed.images_per_second,
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
