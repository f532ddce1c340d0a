"""A run that was stopped and resumed against one that was not: the same losses, as far as the device repeats itself."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.build import build
from hrfr_fast.training.trial import Trial, read_train_lines
from tools.gpu_stages.report import StageReport, stage_report

STEPS, STOP = 12, 6
LARGEST = 0.01  # of the loss; bf16 kernels that add in any order do not repeat to the bit


def main(arguments: Sequence[str] | None = None) -> int:
    report = stage_report(__doc__, arguments)
    for precision in ("fp32",) if report.dry else ("bf16", "fp16"):
        report.attempt(precision, compare, precision)
    return report.exit_code


def compare(report: StageReport, precision: str) -> None:
    """Losses of the steps after STOP, once through and once resumed from the state of a second process's trainer."""
    settings = TrainSettings(
        regime="lowres32", data=str(report.data), device=report.device, precision=precision, steps=STEPS, eval_every=0,
        batch_size=8 if report.dry else 128, width=8 if report.dry else 64, embedding_size=16 if report.dry else 512,
        log_every=1, compile="off", out=str(report.work / f"resume-{precision}-whole"),
    )  # fmt: skip
    with Trial(build(settings), show_progress=False) as trial:
        whole = np.array(trial.run_through())
    resumed = stopped_and_resumed(settings.replaced(out=str(report.work / f"resume-{precision}-cut")))
    difference = float(np.abs(whole - resumed).max() / whole[0])
    report.check(
        f"resumed in {precision}", len(resumed) == STEPS and difference < LARGEST, largest_difference=difference,
        whole=whole.round(5).tolist(), resumed=resumed.round(5).tolist(),
    )  # fmt: skip


def stopped_and_resumed(settings: TrainSettings) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """The loss of every step; STOP of them were taken before the state was written, the rest after it was read."""
    with Trial(build(settings), show_progress=False) as trial:
        trial.start()
        batches = trial.setup.engine.batches(0, STOP * trial.setup.stream.batch_size)
        for batch in batches:
            trial.step(batch)
            trial.log.read()
        trial.save()
    with Trial(build(settings), show_progress=False) as trial:
        trial.state.restore()
        trial.run_through()
        assert Path(trial.setup.run / "checkpoints" / "last.state.pt").exists()
        return np.array([line["loss"] for line in read_train_lines(trial)])


if __name__ == "__main__":
    sys.exit(main())
