"""Failures that must end in clear messages: a batch too large for the device, a step that cannot be captured."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.step_timing import free_memory
from hrfr_fast.runtime.device import choose_compute
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.build import RunSetup, build
from hrfr_fast.training.trial import Trial
from tools.gpu_stages.report import StageReport, stage_report

MEMORY = 4 << 30  # bytes: enough for pixels, batches and weights, too little for the activations of 1,024 images


class UncapturableObjective(nn.Module):
    """An objective that reads its loss while it is captured, which CUDA does not allow."""

    def __init__(self, objective: Callable[..., Tensor]) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, embeddings: Tensor, labels: Tensor, number: "int | Tensor") -> Tensor:
        loss = self.objective(embeddings, labels, number)
        if loss.is_cuda and torch.cuda.is_current_stream_capturing():
            loss.item()
        return loss


def build_uncapturable(settings: TrainSettings) -> RunSetup:
    """A run whose step cannot be captured."""
    setup = build(settings)
    return replace(setup, objective=UncapturableObjective(setup.objective))


def main(arguments: Sequence[str] | None = None) -> int:
    report = stage_report(__doc__, arguments)
    if report.dry:
        report.add("out of memory: left out", problem="a CPU has no device memory to run out of")
    else:
        for graphs in ("auto", "off"):
            report.attempt("out of memory", out_of_memory, graphs)
    for precision in ("fp32",) if report.dry else ("bf16", "fp16"):
        report.attempt("capture", failed_capture, precision)
    if not report.dry:
        report.attempt("capture on", capture_asked_for)
    return report.exit_code


def settings_of(report: StageReport, name: str, **more: Any) -> TrainSettings:
    """A few steps at 32 px, small in a dry run."""
    small: dict[str, Any] = {"batch_size": 8, "width": 8, "embedding_size": 16} if report.dry else {"batch_size": 128}
    common: dict[str, Any] = {"regime": "lowres32", "steps": 6, "eval_every": 0, "log_every": 1, "compile": "off"}
    return TrainSettings(
        data=str(report.data), out=str(report.work / name), device=report.device, **(common | small | more)
    )


def out_of_memory(report: StageReport, graphs: str) -> None:
    """Too large a batch ends in one message; afterwards the same process trains with a small one."""
    held = free_memory_of(report)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (held + MEMORY) / total))
    said = ""
    try:
        large = settings_of(report, f"memory-{graphs}", regime="highlow144", batch_size=1024, graphs=graphs)
        with Trial(build(large), show_progress=False) as trial:
            trial.run_through()
    except HrfrError as error:
        said = str(error)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    left = free_memory_of(report) - held
    with Trial(build(settings_of(report, f"memory-{graphs}-after", graphs=graphs)), show_progress=False) as trial:
        losses = trial.run_through()
    holds = "does not fit" in said and "--batch-size" in said and bool(np.isfinite(losses).all())
    report.check(f"out of memory, graphs {graphs}", holds, said=said, bytes_left_behind=left, losses_after=losses)


def free_memory_of(report: StageReport) -> int:
    """Bytes in use on the device once all that can be given back was."""
    return free_memory(choose_compute(report.device))


def failed_capture(report: StageReport, precision: str) -> None:
    """With ``auto`` training goes on without a graph, on the default stream, with the losses of eager steps."""
    name = f"capture-{precision}"
    with Trial(build(settings_of(report, name, precision=precision, graphs="off")), show_progress=False) as trial:
        eager = np.array(trial.run_through())
    with Trial(
        build_uncapturable(settings_of(report, f"{name}-failed", precision=precision)), show_progress=False
    ) as trial:
        went_on = np.array(trial.run_through())
        graphs = trial.state.execution.graphs
    stream = report.dry or torch.cuda.current_stream() == torch.cuda.default_stream()
    difference = float(np.abs(eager - went_on).max() / eager[0])
    report.check(
        f"a capture that fails, {precision}", graphs == "off" and stream and difference < 0.01, graphs=graphs,
        on_the_default_stream=stream, eager=eager.round(4).tolist(), went_on=went_on.round(4).tolist(),
    )  # fmt: skip


def capture_asked_for(report: StageReport) -> None:
    """With ``on`` it ends in a message that names the flag."""
    said = ""
    try:
        with Trial(build_uncapturable(settings_of(report, "capture-on", graphs="on")), show_progress=False) as trial:
            trial.run_through()
    except HrfrError as error:
        said = str(error)
    report.check("a capture that fails, --graphs on", "--graphs" in said, said=said)


if __name__ == "__main__":
    sys.exit(main())
