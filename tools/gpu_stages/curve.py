"""Loss curves from the same weights: bf16, captured, with fused kernels or compiled, against float32 and eager."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.build import build
from hrfr_fast.training.trial import Trial
from tools.gpu_stages.report import StageReport, stage_report

STEPS, SMOOTHED = 20, 5
LARGEST = 0.05  # difference between means of SMOOTHED losses, as a share of the first
Losses = NDArray[np.float64]
WAYS = {"fused kernels": {"fused_kernels": "on", "compile": "off"}, "compiled": {"compile": "on"}}


def main(arguments: Sequence[str] | None = None) -> int:
    report = stage_report(__doc__, arguments)
    plain: dict[str, Losses] = {}
    for way, how in WAYS.items():  # what compiles for longest comes last
        for regime, batch_size in (("lowres32", 256), ("highlow144", 64)):
            report.attempt(f"{regime}, {way}", compare, regime, batch_size, way, how, plain)
    return report.exit_code


def compare(
    report: StageReport, regime: str, batch_size: int, way: str, how: dict[str, str], plain: dict[str, Losses]
) -> None:
    """Both ways to take STEPS steps on the same samples. ``plain``: those in float32, kept by regime."""
    small: dict[str, Any] = {"width": 8, "embedding_size": 16, "batch_size": 8, "steps": SMOOTHED} if report.dry else {}
    common = {
        "regime": regime, "data": str(report.data), "device": report.device, "batch_size": batch_size, "steps": STEPS,
        "eval_every": 0, "log_every": 1, "learning_rate": 0.01, "warmup": 0.2, "head": "cosface", "scale": 16.0,
    } | small  # fmt: skip
    slow = {"precision": "fp32", "compile": "off", "graphs": "off", "fused_kernels": "off"}
    fast = {"precision": "bf16"} | ({"compile": "off", "graphs": "off"} if report.dry else how | {"graphs": "on"})
    if regime not in plain:
        plain[regime] = losses(report.work / f"{regime}-plain", common | slow)
    exact, lean = plain[regime], losses(report.work / f"{regime}-{way}", common | fast)
    means = (exact - lean).reshape(-1, SMOOTHED).mean(1)
    difference = float(np.abs(means).max() / exact[0])
    report.check(
        f"{regime}: bf16, {way} and captured against fp32 eager", difference < LARGEST, largest_difference=difference,
        plain=exact.round(4).tolist(), lean=lean.round(4).tolist(), fell=float(exact[0] - exact[-1]),
    )  # fmt: skip


def losses(run: Path, values: dict[str, Any]) -> Losses:
    """The loss of each step, float64 [steps]."""
    with Trial(build(TrainSettings(out=str(run), **values)), show_progress=False) as trial:
        return np.array(trial.run_through())


if __name__ == "__main__":
    sys.exit(main())
