"""All tests in two processes side by side, each with half of the cores: most tests keep one core busy.

    python tools/run_tests.py                # as `make test` does
    python tools/run_tests.py -- -x -k pack  # what follows -- goes to pytest

A folder stays whole, so that what its tests share is made once. With one core there is one process.
"""

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
FIRST = ("training", "study", "cluster", "model", "benchmarks", "resampling", "sampling")
"""Folders of the first process, which take about as long as all others."""
NOTHING_RUN = 5  # pytest's exit code where no test was chosen


def shares(cores: int) -> list[list[str]]:
    """pytest's arguments that choose the tests of each process."""
    if cores < 2:
        return [["tests"]]
    folders = [f"tests/{name}" for name in FIRST]
    return [folders, ["tests", *(f"--ignore={folder}" for folder in folders)]]


def command(share: list[str], number: int, more: list[str]) -> list[str]:
    """Of one process; caches are not shared, since both would write them."""
    return [sys.executable, "-m", "pytest", "-o", f"cache_dir=.pytest_cache/{number}", *share, *more]


def main(more: list[str], cores: int) -> int:
    """Run all; what the first prints is shown as it comes, the others' after it. The exit code is pytest's."""
    chosen = shares(cores)
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores // len(chosen))))}
    with ExitStack() as stack:
        others: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
        for number, share in list(enumerate(chosen))[1:]:
            printed = stack.enter_context(tempfile.TemporaryFile())
            call = command(share, number, more)
            process = subprocess.Popen(call, cwd=ROOT, env=environment, stdout=printed, stderr=subprocess.STDOUT)
            stack.callback(process.terminate)
            others.append((process, printed))
        codes = [subprocess.run(command(chosen[0], 0, more), cwd=ROOT, env=environment, check=False).returncode]
        codes += [process.wait() for process, _ in others]
        for _, shown in others:
            shown.seek(0)
            sys.stdout.write(shown.read().decode("utf-8", "replace"))
    return exit_code(codes)


def exit_code(codes: list[int]) -> int:
    """0 where all passed; where one process had nothing to run, the others decide."""
    failed = [code for code in codes if code not in (0, NOTHING_RUN)]
    return failed[0] if failed else min(codes)


if __name__ == "__main__":
    given = sys.argv[1:]
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sys.exit(main(given[1:] if given[:1] == ["--"] else given, available))
