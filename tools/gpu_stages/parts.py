"""The stages of each part, the most telling first."""

import shutil
from pathlib import Path

from tools.gpu_stages.runner import ROOT, Stage, is_installed

PARTS = {
    "A": "correctness: a GPU computes what a CPU computes, and failures end in clear messages",
    "B": "rates: every way to execute a step, the engines, and where the time goes",
    "C": "an epoch of lowres32 and of highlow144 over 1,000,000 + 10,000 pictures",
}
SANITIZER = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
PYTEST = (
    "-m", "pytest", "-m", "gpu", "-o", "addopts=", "-v", "-rsfE", "-p", "no:cacheprovider",
    "--continue-on-collection-errors", "-o", "faulthandler_timeout=60",
)  # fmt: skip
KERNEL_TESTS = (
    "model/test_norm_kernels.py", "model/test_stem_kernels.py", "model/test_head_kernels.py",
    "resampling/test_triton_kernels.py", "resampling/test_low_resolution_triton.py",
    "sampling/test_augmentation_triton.py", "sampling/test_degradation_triton.py",
)  # fmt: skip
SANITIZED = (
    "(bf16 and (norm_and_activation or gate_and_sum or against_torch)) or products_of_16_bits"
    " or agrees_with_the_reference or the_kernel_draws"
)
"""Tests of ``KERNEL_TESTS`` whose every access to memory is checked; with checks a kernel takes many times as long."""
TESTERS = 8  # processes of the tests, which compile most of the time, where pytest-xdist is installed
QUICK_STEP = ("--quick", "--device", "cpu", "--width", "8", "--batch-size", "8", "--rounds", "1", "--seconds", "0.02")


def stages(part: str, work: Path, out: Path, dry: bool) -> list[Stage]:
    """Stages of ``part``. ``work``: for data and runs; ``out``: for what is kept; ``dry``: on a CPU, little data."""
    return {"A": _correctness, "B": _rates, "C": _epochs}[part](Maker(work, out, dry))


class Maker:
    """Makes the stages of one call of the check."""

    def __init__(self, work: Path, out: Path, dry: bool) -> None:
        self.work, self.out, self.dry, self.data = work, out, dry, work / "packed"
        self.manifest = self.data / "manifest.json"

    def script(
        self, name: str, module: str, limit: float, *more: str, data: bool = True, beside: bool = False
    ) -> Stage:
        """A file of this folder as a stage; ``data``: whether it needs the packed noise."""
        results = self.out / f"{name.replace(' ', '-')}.jsonl"
        command = (
            "-m", f"tools.gpu_stages.{module}", "--data", str(self.data), "--work", str(self.work / "runs"),
            "--results", str(results), *(("--dry-run",) if self.dry else ()), *more,
        )  # fmt: skip
        return Stage(name, command, limit, needs=(self.manifest,) if data else (), results=results, beside=beside)

    def environment(self) -> Stage:
        return self.script("environment", "environment", 40, data=False)

    def noise(self, scale: str, limit: float) -> Stage:
        return self.script("data", "data", limit, "--scale", "tiny" if self.dry else scale, data=False)


def _correctness(make: Maker) -> list[Stage]:
    kernels = [str(ROOT / "tests" / path) for path in KERNEL_TESTS]
    workers = ("-n", str(TESTERS)) if is_installed("xdist") and not make.dry else ()
    return [
        make.environment(),
        make.noise("small", 30),
        Stage("GPU tests", (*PYTEST, *workers, str(ROOT / "tests")), 260, beside=True),
        make.script("bf16 captured against fp32 eager", "curve", 240, beside=True),
        make.script("every regime", "regimes", 120, beside=True),
        make.script("resumed", "resume", 120, beside=True),
        make.script("head of 52500 classes", "head", 40, beside=True),
        Stage(
            "compute-sanitizer", (*PYTEST, "-k", SANITIZED, *kernels), 200,
            program=(SANITIZER, "--error-exitcode", "86"), needs=(Path(SANITIZER),), beside=True,
        ),
        make.script("failures", "failures", 60),
    ]  # fmt: skip


def _rates(make: Maker) -> list[Stage]:
    bench, kernel = ROOT / "benchmarks", make.out / "resident_kernel.json"
    small = QUICK_STEP if make.dry else ("--rounds", "3", "--seconds", "0.7")
    return [
        make.environment(),
        make.noise("classes", 40),
        make.script("steps at 32 px", "modes", 90, "--regime", "lowres32"),
        make.script("steps at 144 px", "modes", 140, "--regime", "highlow144"),
        make.script("kernels of the step", "kernels", 80, data=False),
        Stage("resident kernel", (str(bench / "resident_kernel.py"), "--json", str(kernel)), 40, results=kernel),
        make.script("feeding", "feeding", 40, data=False),
        Stage(
            "whole runs and an eager step", (
                str(bench / "train_step.py"), "--data", str(make.data), "--out", str(make.out), "--engine", "resident",
                "--engine", "dali", *small,
            ), 150, needs=(make.manifest,), results=make.out / "train_step.json",
        ),
        make.script("profiles", "profiles", 60, "--traces", str(make.out / "traces")),
        make.script("parts and layers", "layers", 40),
    ]  # fmt: skip


def _epochs(make: Maker) -> list[Stage]:
    return [
        make.environment(),
        make.noise("paper", 90),
        make.script("epoch of lowres32", "epoch", 110, "--regime", "lowres32"),
        make.script("epoch of highlow144", "epoch", 330, "--regime", "highlow144"),
    ]
