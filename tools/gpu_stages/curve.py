"""Loss curves from the same weights: bf16, compiled and captured, against float32 and eager."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.build import build
from hrfr_fast.training.trial import Trial
from tools.gpu_stages.report import StageReport, stage_report

STEPS, SMOOTHED = 20, 5
LARGEST = 0.05  # difference between means of SMOOTHED losses, as a share of the first


def main(arguments: Sequence[str] | None = None) -> int:
    report = stage_report(__doc__, arguments)
    for regime, batch_size in (("lowres32", 256), ("highlow144", 64)):
        report.attempt(regime, compare, regime, batch_size)
    return report.exit_code


def compare(report: StageReport, regime: str, batch_size: int) -> None:
    """Both ways to take STEPS steps on the same samples."""
    small: dict[str, Any] = {"width": 8, "embedding_size": 16, "batch_size": 8, "steps": SMOOTHED} if report.dry else {}
    common = {
        "regime": regime, "data": str(report.data), "device": report.device, "batch_size": batch_size, "steps": STEPS,
        "eval_every": 0, "log_every": 1, "learning_rate": 0.01, "warmup": 0.2, "head": "cosface", "scale": 16.0,
    } | small  # fmt: skip
    how = {"compile": "off", "graphs": "off"} if report.dry else {"compile": "on", "graphs": "on"}
    plain = losses(report.work / f"{regime}-plain", common | {"precision": "fp32", "compile": "off", "graphs": "off"})
    fast = losses(report.work / f"{regime}-fast", common | {"precision": "bf16"} | how)
    means = (plain - fast).reshape(-1, SMOOTHED).mean(1)
    difference = float(np.abs(means).max() / plain[0])
    report.check(
        f"{regime}: bf16 compiled and captured against fp32 eager", difference < LARGEST, largest_difference=difference,
        plain=plain.round(4).tolist(), lean=fast.round(4).tolist(), fell=float(plain[0] - plain[-1]),
    )  # fmt: skip


def losses(run: Path, values: dict[str, Any]) -> "np.ndarray[Any, Any]":
    """The loss of each step, float64 [steps]."""
    with Trial(build(TrainSettings(out=str(run), **values)), show_progress=False) as trial:
        return np.array(trial.run_through())


if __name__ == "__main__":
    sys.exit(main())
