"""Every regime and control of the study for a few steps, parents first; those with parents take safetensors."""

import sys
import time
from collections.abc import Sequence
from math import isfinite

from hrfr_fast.regimes import CONTROLS, TABLE, in_order, regime_named
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.build import build
from hrfr_fast.training.trial import Trial
from tools.gpu_stages.report import StageReport, stage_report
from tools.gpu_stages.runner import is_installed

STEPS = 30


def main(arguments: Sequence[str] | None = None) -> int:
    report = stage_report(__doc__, arguments)
    weights = is_installed("safetensors")
    for regime in map(regime_named, in_order(regime.name for regime in TABLE + CONTROLS)):
        if regime.parents and not weights:
            report.add(f"{regime.name}: left out", problem="safetensors is not installed, and it has parents")
        elif regime.phases:
            report.attempt(regime.name, train, regime.name, weights)
    return report.exit_code


def train(report: StageReport, regime: str, keep_weights: bool) -> None:
    """STEPS steps with graphs where there are any; the weights stay where regimes that start from them look."""
    settings = TrainSettings(
        regime=regime, data=str(report.data), out=str(report.work / "regimes" / regime), device=report.device,
        steps=6 if report.dry else STEPS, batch_size=8 if report.dry else 64, width=8 if report.dry else 16,
        embedding_size=16 if report.dry else 64, eval_every=0, log_every=2, compile="off",
    )  # fmt: skip
    began = time.perf_counter()
    with Trial(build(settings), show_progress=False) as trial:
        losses = trial.run_through()
        if keep_weights:
            trial.validation.save_weights("last")
        report.check(
            regime, all(map(isfinite, losses)), losses=[round(loss, 4) for loss in losses],
            engine=trial.setup.engine.name, graphs=trial.state.execution.graphs, seconds=time.perf_counter() - began,
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
