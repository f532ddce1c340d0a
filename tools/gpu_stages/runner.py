"""Runner of stages, one after the other or side by side, each in a process of its own with a time limit.

``summary.json`` is written anew after each stage, its output goes straight to ``logs/``, and its results are lines of
JSON that it appends as it goes, so a call that is cut short anywhere leaves what it found.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
GRACE = 10.0  # seconds between asking a stage to stop and ending it
TAIL = 25  # lines of a stage's output kept in the summary
PACKAGE_OF = {
    "cv2": "opencv-python-headless", "PIL": "pillow", "sklearn": "scikit-learn", "tomli_w": "tomli-w",
    "bcolz": "bcolz-zipline", "nvidia.dali": "nvidia-dali-cuda130",
}  # fmt: skip


RUNNING: set["subprocess.Popen[bytes]"] = set()


@dataclass(frozen=True)
class Stage:
    """One command to run and its time limit."""

    name: str
    command: tuple[str, ...]
    """Arguments of this Python."""
    limit: float
    """Seconds."""
    program: tuple[str, ...] = ()
    """A program that runs Python, with its own arguments; empty: none."""
    needs: tuple[Path, ...] = ()
    """Files without which it cannot run."""
    results: Path | None = None
    """A file of JSON, or of JSON lines, that it writes."""
    beside: bool = False
    """Whether it may run beside other such stages: it times nothing and leaves the device's memory to others."""

    @property
    def file_name(self) -> str:
        return re.sub(r"\W+", "-", self.name)


@dataclass
class StageResult:
    """The result of a stage. ``state``: done, failed, stopped at its limit, left out, or no time left."""

    name: str
    state: str
    seconds: float = 0.0
    exit_code: int | None = None
    tail: str = ""
    results: list[Any] = field(default_factory=list)


def is_installed(module: str) -> bool:
    """Whether ``module`` can be found, which a part of a missing package cannot."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def missing(modules: tuple[str, ...]) -> list[str]:
    """Names, as an installer knows them, of those that are not installed."""
    return [PACKAGE_OF.get(module, module) for module in modules if not is_installed(module)]


def start(stage: Stage, log: Path) -> subprocess.Popen[bytes]:
    """The stage's process, in a group of its own, on this checkout, with its output going to ``log``."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "160"}
    environment["PYTHONFAULTHANDLER"] = "1"
    command = [*stage.program, sys.executable, *stage.command]
    with log.open("wb") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, cwd=ROOT,
        )  # fmt: skip


def finish(process: subprocess.Popen[bytes], seconds: float, grace: float) -> bool:
    """Wait ``seconds``, then terminate the process group, then kill it. Returns whether it ended by itself."""
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


def stop_all(grace: float) -> None:
    """End the processes of all stages that run."""
    for process in tuple(RUNNING):
        finish(process, 0, grace)


def run(stage: Stage, out: Path, seconds_left: float, grace: float = GRACE) -> StageResult:
    """Run one stage to its end, or to its limit or that of the whole call."""
    absent = [f"{path} does not exist" for path in stage.needs if not path.exists()]
    if absent:
        return StageResult(stage.name, "left out", tail="; ".join(absent))
    limit = min(stage.limit, seconds_left - grace)
    if limit <= 0:
        return StageResult(stage.name, "no time left")
    log = out / "logs" / f"{stage.file_name}.txt"
    began = time.monotonic()
    process = start(stage, log)
    RUNNING.add(process)
    ended = finish(process, limit, grace)
    RUNNING.discard(process)
    state = "stopped at its limit" if not ended else "done" if process.returncode == 0 else "failed"
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-TAIL:])
    return StageResult(
        stage.name, state, round(time.monotonic() - began, 1), process.returncode, tail, read_results(stage)
    )


def read_results(stage: Stage) -> list[Any]:
    """The results of a stage, even of one that was stopped: every whole line of JSON, or the file's one object."""
    if stage.results is None or not stage.results.exists():
        return []
    text = stage.results.read_text(encoding="utf-8", errors="replace")
    try:
        return [json.loads(text)]
    except json.JSONDecodeError:
        pass
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def check(
    stages: list[Stage], out: Path, time_limit: float, grace: float = GRACE, at_once: int = 1, **about: Any
) -> list[StageResult]:
    """Run all stages in order, up to ``at_once`` neighbours that may run ``beside`` each other at the same time.

    ``about`` goes into the summary beside their results.
    """
    (out / "logs").mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + time_limit
    results: list[StageResult] = []
    _write(out, about, results)
    for beside, group in groupby(stages, key=lambda stage: stage.beside):
        pool = ThreadPoolExecutor(at_once if beside else 1)
        try:
            running = [pool.submit(lambda stage: run(stage, out, ends - time.monotonic(), grace), one) for one in group]
            for done in as_completed(running) if beside else running:
                results.append(done.result())
                _say(results[-1])
                _write(out, about, results)
        except BaseException:  # on Ctrl-C or when the call is cut short no stage must go on alone
            pool.shutdown(wait=False, cancel_futures=True)
            stop_all(grace)
            raise
        pool.shutdown()
    return results


def _say(result: StageResult) -> None:
    indented = "\n".join(f"    {line}" for line in result.tail.splitlines())
    print(f"{result.name}: {result.state} ({result.seconds:.0f} s)\n{indented}", flush=True)


def _write(out: Path, about: dict[str, Any], results: list[StageResult]) -> None:
    """Write summary.json, by way of another file so that it is whole at any moment."""
    temporary = out / "summary.json.partial"
    summary = about | {"stages": [asdict(result) for result in results]}
    temporary.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    temporary.replace(out / "summary.json")
