"""Traces and tables of where a step's time goes, at both sizes, with our kernels and compiled, captured."""

import gzip
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.build import build
from hrfr_fast.training.trial import Trial
from tools.gpu_stages.modes import BATCHES, BOTH, EAGER, FUSED, Mode
from tools.gpu_stages.report import StageReport, parser_of

STEPS = 5
LARGEST_TRACE = 8 << 20  # bytes, compressed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--traces", type=Path, required=True, help="where traces and tables are kept")
    report = StageReport(parser.parse_args(arguments))
    report.options.traces.mkdir(parents=True, exist_ok=True)
    for mode in (EAGER,) if report.dry else (FUSED, BOTH):
        for regime in BATCHES:
            report.attempt(f"{regime}, {mode}", record, regime, mode)
    return report.exit_code


def record(report: StageReport, regime: str, mode: Mode) -> None:
    """A run just long enough, its table, and its trace where that is not too large."""
    settings = TrainSettings(
        regime=regime, data=str(report.data), out=str(report.work / f"profile-{regime}-{mode}"), device=report.device,
        steps=STEPS + 6, profile=STEPS, batch_size=8 if report.dry else BATCHES[regime][0], eval_every=0,
        width=8 if report.dry else 64, compile=mode.compile, graphs=mode.graphs, fused_kernels=mode.fused,
    )  # fmt: skip
    with Trial(build(settings), show_progress=False) as trial:
        trial.run_through()
    made = trial.setup.run / "profile"
    name = f"{regime}-{mode}".replace("+", "-")
    kept = report.options.traces / f"{name}.json.gz"
    with (made / "trace.json").open("rb") as trace, gzip.open(kept, "wb") as file:
        shutil.copyfileobj(trace, file)
    size = kept.stat().st_size
    if size > LARGEST_TRACE:
        kept.unlink()
    table = (made / "table.txt").read_text(encoding="utf-8")
    kept.with_name(f"{name}.txt").write_text(table, encoding="utf-8")
    report.add(f"{regime}, {mode}", trace_bytes=size, trace_kept=size <= LARGEST_TRACE, table=table.splitlines())


if __name__ == "__main__":
    sys.exit(main())
