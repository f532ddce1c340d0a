"""Training steps on a constant batch: eager, captured, compiled, both; at several batch sizes; with peak memory."""

import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.train_step import ENDLESS, constant_batch, free_memory, peak_bytes
from benchmarks.trial import Trial
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.build import build
from tools.gpu_stages.findings import Findings, parser_of

BATCHES = {"lowres32": (1024, 256, 4096), "highlow144": (512, 128, 1024)}
"""The most telling first."""
SECONDS, ROUNDS = 0.5, 3


class Mode(NamedTuple):
    """How a step is executed."""

    compile: str
    graphs: str

    def __str__(self) -> str:
        named = {"compile": self.compile == "on", "graph": self.graphs == "on"}
        return "+".join(name for name, on in named.items() if on) or "eager"


EAGER, GRAPH, COMPILED, BOTH = Mode("off", "off"), Mode("off", "on"), Mode("on", "off"), Mode("on", "on")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--regime", choices=BATCHES, required=True)
    found = Findings(parser.parse_args(arguments))
    for mode, batch_size in cases(found):
        found.attempt(f"{found.options.regime}, {mode}, batch {batch_size}", measure, mode, batch_size)
    return found.exit_code


def cases(found: Findings) -> list[tuple[Mode, int]]:
    """Every mode at the first batch size; then the other sizes, what needs no compilation first."""
    if found.dry:
        return [(EAGER, 8)]
    main_size, *others = BATCHES[found.options.regime]
    first = [(mode, main_size) for mode in (BOTH, GRAPH, EAGER, COMPILED)]
    return first + [(mode, size) for modes in ((GRAPH, EAGER), (BOTH, COMPILED)) for size in others for mode in modes]


def measure(found: Findings, mode: Mode, batch_size: int) -> None:
    """Images a second (median, slowest and fastest round), bytes at the peak, seconds until the first step was done."""
    settings = TrainSettings(
        regime=found.options.regime, data=str(found.data), out=str(found.work / "modes"), device=found.device,
        steps=ENDLESS, batch_size=batch_size, width=8 if found.dry else 64, compile=mode.compile, graphs=mode.graphs,
        engine="resident",
    )  # fmt: skip
    with Trial(build(settings), show_progress=False) as trial:
        trial.start()
        before, began = free_memory(trial.setup.compute), time.perf_counter()
        arm = constant_batch(trial)
        arm.steps(1)
        ready = time.perf_counter() - began
        arm.calibrate(0.02 if found.dry else SECONDS)
        for _ in range(ROUNDS):
            arm.round()
        found.tell(
            f"{settings.regime}, {mode}", batch_size=batch_size, images_per_second=arm.images_per_second,
            slowest=min(arm.rates), fastest=max(arm.rates), peak_bytes=peak_bytes(trial.setup.compute, before),
            seconds_until_ready=ready, milliseconds_a_step=1000 * batch_size / arm.images_per_second,
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
