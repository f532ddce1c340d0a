#!/usr/bin/env python3
"""Everything that needs a GPU in one call of under nine minutes, the most important first.

    python tools/gpu_check.py --out gpu_check             # on a machine with a GPU; nothing is downloaded
    python tools/gpu_check.py --out gpu_check --dry-run   # the same stages, as far as a CPU goes, on little data

Each stage is a process with its own time limit. One that fails, hangs or is missing never stops the next, and
``summary.json`` is written anew after each, so a call that is cut short leaves what it found. ``log.txt`` holds the
output of all. Needs nothing but Python to start: what is not installed is named in the summary.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

ROOT = Path(__file__).resolve().parent.parent
TIME_LIMIT = 530.0  # seconds for everything
GRACE = 15.0  # seconds between asking a stage to stop and ending it; a training run writes its checkpoint
TAIL = 25  # lines of a stage's output kept in the summary
PACKAGES = {
    "torch": "torch", "triton": "triton", "numpy": "numpy", "cv2": "opencv-python", "numba": "numba", "typer": "typer",
    "rich": "rich", "safetensors": "safetensors", "simplejpeg": "simplejpeg", "PIL": "pillow", "tomli_w": "tomli-w",
    "tensorboard": "tensorboard", "matplotlib": "matplotlib", "scipy": "scipy", "pytest": "pytest",
    "nvidia.dali": "nvidia-dali-cuda120", "ffcv": "ffcv",
}  # fmt: skip
ENVIRONMENT = """
import json, torch
gpu = torch.cuda.is_available()
print(json.dumps({
    "torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
    "gpu": torch.cuda.get_device_name(0) if gpu else None,
    "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1) if gpu else None,
    "capability": torch.cuda.get_device_capability(0) if gpu else None,
}))
"""


@dataclass(frozen=True)
class Stage:
    """One thing to run: ``command`` (Python's arguments), seconds it may take, and a JSON file that it writes."""

    name: str
    command: tuple[str, ...]
    limit: float
    needs: Path | None = None
    """A file or directory without which the stage cannot run."""
    results: Path | None = None
    metrics: Path | None = None
    """metrics.jsonl of a training run, whose last lines go into the summary."""


@dataclass
class Outcome:
    """What came of a stage. ``state``: done, failed, stopped at its limit, missing, or no time left."""

    name: str
    state: str
    seconds: float = 0.0
    exit_code: int | None = None
    tail: str = ""
    results: Any = None


def missing_packages() -> list[str]:
    """Names, as an installer knows them, of what is not importable here."""
    missing = []
    for module, package in PACKAGES.items():
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:  # a parent package is missing
            found = False
        if not found:
            missing.append(package)
    return missing


def stages(work: Path, out: Path, dry: bool) -> list[Stage]:
    """All stages in order of importance. ``work``: for data and runs; ``out``: for what is kept."""
    data = work / "packed"
    quick = ("--quick",) if dry else ()
    device = ("--device", "cpu") if dry else ()
    bench = ROOT / "benchmarks"

    def train(regime: str, limit: float, *more: str) -> Stage:
        run = work / "runs" / regime
        small = ("--steps", "8", "--width", "8", "--batch-size", "8") if dry else ("--epochs", "1", "--compile", "on")
        command = (
            "-m", "hrfr_fast", "train", "--regime", regime, "--data", str(data), "--out", str(run), "--eval-every", "0",
            *small, *device, *more,
        )  # fmt: skip
        return Stage(f"epoch of {regime}", command, limit, data / "manifest.json", metrics=run / "metrics.jsonl")

    step_results, kernel_results = out / "train_step.json", out / "resident_kernel.json"
    return [
        Stage("environment", ("-c", ENVIRONMENT), 60),
        Stage("GPU tests", ("-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-rs", str(ROOT / "tests")), 110),
        Stage("parity", ("-m", "pytest", "-p", "no:cacheprovider", str(ROOT / "tests" / "engines")), 100),
        Stage(
            "resident kernel", (str(bench / "resident_kernel.py"), "--json", str(kernel_results)), 60,
            bench / "resident_kernel.py", kernel_results,
        ),
        # On a GPU our engines in every regime, raw and JPEG; the peers take minutes and tell most on a CPU.
        Stage(
            "throughput", (str(bench / "throughput.py"), *(quick or ("--peer", "none")), *device, "--out", str(out),
            "--cache", str(work / "bench")), 90, bench / "throughput.py", out / "throughput.json",
        ),
        train("lowres32", 90),
        Stage(
            "training step", (str(bench / "train_step.py"), *quick, *device, "--data", str(data), "--out", str(out),
            "--rounds", "2" if dry else "3"), 130, data / "manifest.json", step_results,
        ),
        train("highlow144", 130, "--profile", "2" if dry else "20"),
    ]  # fmt: skip


def synthesis(work: Path, dry: bool) -> list[str]:
    """The command that makes the data, in the background while the tests run."""
    scale = "tiny" if dry else "paper"
    return ["-m", "hrfr_fast", "synth", str(work / "packed"), "--packed", "--scale", scale]


def start(command: "list[str] | tuple[str, ...]", log: BinaryIO) -> subprocess.Popen[bytes]:
    """A process of this Python, in a group of its own, on this checkout."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "160"}
    return subprocess.Popen(
        [sys.executable, *command], stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def finish(process: subprocess.Popen[bytes], seconds: float, grace: float = GRACE) -> bool:
    """Wait that long, then ask the group to stop, then end it. Whether it ended by itself."""
    try:
        process.wait(max(0.0, seconds))
        return True
    except subprocess.TimeoutExpired:
        pass
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(grace)
            break
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    return False


def run(stage: Stage, log: Path, seconds_left: float, grace: float = GRACE) -> Outcome:
    """Run one stage to its end, its limit or the end of all time."""
    limit = min(stage.limit, seconds_left - grace)
    if limit <= 0:
        return Outcome(stage.name, "no time left")
    if stage.needs is not None and not stage.needs.exists():
        return Outcome(stage.name, "missing", tail=f"{stage.needs} does not exist")
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = start(stage.command, output)
        ended = finish(process, limit, grace)
        output.seek(0)
        text = output.read().decode(errors="replace")
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n===== {stage.name}: {' '.join(stage.command)[:400]}\n{text}")
    state = "stopped at its limit" if not ended else "done" if process.returncode == 0 else "failed"
    tail = "\n".join(text.strip().splitlines()[-TAIL:])
    return Outcome(stage.name, state, round(time.monotonic() - began, 1), process.returncode, tail, found(stage))


def found(stage: Stage) -> Any:
    """The numbers that a stage left, even where it was stopped."""
    try:
        if stage.results is not None:
            return json.loads(stage.results.read_text(encoding="utf-8"))
        if stage.metrics is not None:
            return [json.loads(line) for line in stage.metrics.read_text(encoding="utf-8").splitlines()[-8:]]
    except (OSError, json.JSONDecodeError):
        pass
    return None


def write(out: Path, summary: dict[str, Any]) -> None:
    """summary.json, whole at any moment."""
    partial = out / "summary.json.partial"
    partial.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    partial.replace(out / "summary.json")


def check(
    made: list[Stage], out: Path, make_data: Callable[[BinaryIO], subprocess.Popen[bytes]] | None,
    time_limit: float = TIME_LIMIT, grace: float = GRACE,
) -> list[Outcome]:  # fmt: skip
    """Run all stages; data are made beside the first ones and waited for before the first that needs them."""
    out.mkdir(parents=True, exist_ok=True)
    log, began = out / "log.txt", time.monotonic()
    log.write_text("", encoding="utf-8")
    summary: dict[str, Any] = {"missing_packages": missing_packages(), "stages": []}
    write(out, summary)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryFile() as output:
        synthesis = make_data(output) if make_data else None
        for stage in made:
            left = time_limit - (time.monotonic() - began)
            if synthesis is not None and stage.needs is not None and stage.needs.name == "manifest.json":
                finish(synthesis, min(180.0, left / 2), grace)
                outcomes.append(_of_synthesis(synthesis, output, began))
                synthesis = None
                left = time_limit - (time.monotonic() - began)
            outcomes.append(run(stage, log, left, grace))
            last = outcomes[-1]
            print(f"{last.name}: {last.state} ({last.seconds:.0f} s)\n{_indented(last.tail)}", flush=True)
            write(out, summary | {"stages": [asdict(one) for one in outcomes]})
        if synthesis is not None:
            finish(synthesis, 0, grace)
    return outcomes


def _of_synthesis(process: subprocess.Popen[bytes], output: BinaryIO, began: float) -> Outcome:
    output.seek(0)
    tail = "\n".join(output.read().decode(errors="replace").strip().splitlines()[-TAIL:])
    state = "done" if process.returncode == 0 else "failed"
    return Outcome("data", state, round(time.monotonic() - began, 1), process.returncode, tail)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu_check")), help="where results go")
    parser.add_argument("--only", action="append", default=[], help="only stages whose name contains this")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with little data: do the stages work?")
    given = parser.parse_args()
    out = given.out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        made = [
            stage for stage in stages(work, out, given.dry_run)
            if not given.only or any(part in stage.name for part in given.only)
        ]  # fmt: skip
        outcomes = check(made, out, lambda log: start(synthesis(work, given.dry_run), log))
    print("\nmissing packages: " + (", ".join(missing_packages()) or "none"))
    for one in outcomes:
        print(f"{one.name:24} {one.state:22} {one.seconds:6.0f} s")
    print(f"results: {out}/summary.json, log.txt")
    return 0 if all(one.state in ("done", "missing") for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
