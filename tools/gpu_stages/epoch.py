"""An epoch of a regime as in a run, without verification: images a second, waiting time, peak memory."""

import sys
import time
from collections.abc import Sequence

from benchmarks.step_timing import free_memory, peak_bytes
from hrfr_fast.runtime.errors import Interrupted
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.build import build
from hrfr_fast.training.trial import Trial
from tools.gpu_stages.report import StageReport, parser_of


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--regime", required=True)
    report = StageReport(parser.parse_args(arguments))
    train(report, report.options.regime)
    return report.exit_code


def train(report: StageReport, regime: str) -> None:
    """All steps of the epoch, or as many as there was time for; metrics.jsonl in ``work`` has a line every 20."""
    settings = TrainSettings(
        regime=regime, data=str(report.data), out=str(report.work / regime), device=report.device, epochs=1.0,
        batch_size=8 if report.dry else 1024, width=8 if report.dry else 64, eval_every=0, log_every=20,
        compile="off" if report.dry else "on", save_minutes=60.0,
    )  # fmt: skip
    began, stopped = time.perf_counter(), False
    with StopFlag() as stop, Trial(build(settings), show_progress=False) as trial:
        before = free_memory(trial.setup.compute)
        trial.start()
        opened = time.perf_counter() - began
        try:
            trial.loop(stop)
        except Interrupted:
            stopped = True
        speed = trial.timer.whole()
        report.check(
            f"epoch of {regime}", not stopped, steps=trial.state.step, of=trial.setup.total_steps,
            opened_seconds=opened, seconds=time.perf_counter() - began, loss=trial.log.last_loss, limit=speed.limit,
            **speed.to_json(),
            peak_bytes=peak_bytes(trial.setup.compute, before), engine=trial.setup.engine.name,
            compile=trial.state.execution.compile, graphs=trial.state.execution.graphs, on=str(trial.setup.compute),
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
