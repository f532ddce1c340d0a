"""Records of benchmark runs: one JSON object each, their history, ratios to the last one, and a plot."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.measure import Result
from benchmarks.peers import ENGINES
from hrfr_fast.reporting.canvas import saved_figure

ROOT = Path(__file__).resolve().parent.parent
HISTORY = Path(__file__).resolve().parent / "history.jsonl"
PACKAGES = (
    "torch", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "ffcv", "numba", "numpy", "opencv-python", "pillow",
    "simplejpeg", "spdl", "webdataset", "litdata",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """The hardware that decides speed, without anything that identifies the machine."""
    from hrfr_fast.runtime.system import cores

    found = {
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": _gpu(),
    }
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    # Some virtual machines hide the model's name; family and model number still tell one generation from another.
    wanted = {"model name": "", "cpu family": "", "model": ""}
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in wanted and not wanted[key.strip()]:
            wanted[key.strip()] = value.strip()
    name = wanted["model name"] or platform.machine()
    return f"{name} (family {wanted['cpu family']}, model {wanted['model']})" if wanted["model"] else name


def _gpu() -> str:
    try:
        shown = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=20, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return shown.strip().splitlines()[0] if shown.strip() else ""


def versions() -> dict[str, str]:
    """Versions of Python and of every package that is measured or used, where it is installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The measured commit, with ``+changes`` where the tree differs from it; empty outside a checkout."""
    try:
        shown = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+changes"], capture_output=True, text=True,
            encoding="utf-8", errors="replace",
            timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return shown.stdout.strip()


def record(benchmark: str, results: Iterable[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    """The record of a run: what is needed to repeat it and to compare it."""
    return {
        "benchmark": benchmark,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": " ".join(["python", os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "settings": settings,
        "results": list(results),
    }


def append(entry: dict[str, Any], history: Path = HISTORY) -> None:
    """Append ``entry`` to the history."""
    with history.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, sort_keys=True) + "\n")


def read(history: Path = HISTORY) -> list[dict[str, Any]]:
    """All records, oldest first. Raises HrfrError with the number of a damaged line."""
    from hrfr_fast.runtime.errors import HrfrError

    if not history.exists():
        return []
    entries = []
    for number, line in enumerate(history.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise HrfrError(f"{history}: line {number} is not JSON ({error}); mend or remove it") from None
    return entries


def last_alike(entry: dict[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The newest record of the same benchmark on the same kind of machine, or None."""
    for old in reversed(entries):
        if old["benchmark"] == entry["benchmark"] and old["machine"] == entry["machine"]:
            return old
    return None


def cell_of(result: dict[str, Any]) -> tuple[str, ...]:
    """What identifies a measurement from one run to the next."""
    return tuple(str(result.get(key, "")) for key in ("regime", "encoding", "dtype", "group", "contestant"))


def ratios(new: dict[str, Any], old: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """images/s now over images/s then, where both runs measured the same thing."""
    before = {cell_of(r): r.get("images_per_second", 0.0) for r in old["results"]}
    return {
        cell_of(r): r["images_per_second"] / before[cell_of(r)]
        for r in new["results"]
        if r.get("images_per_second") and before.get(cell_of(r))
    }


def best_peer(results: list[Result]) -> Result | None:
    """The fastest loader that is not one of our engines."""
    measured = [r for r in results if r.loader not in ENGINES and not r.problem]
    return max(measured, key=lambda r: r.images_per_second, default=None)


def plot(entry: dict[str, Any], entries: list[dict[str, Any]], path: Path) -> None:
    """Plot images/s of all loaders in this run, and of our engines over the records of this kind of machine."""
    cells = sorted({(r["group"], r["regime"], r["encoding"]) for r in entry["results"]})
    alike = [e for e in entries if e["benchmark"] == entry["benchmark"] and e["machine"] == entry["machine"]]
    with saved_figure(path, (15, 1 + 1.6 * len(cells)), dpi=110) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(2, 1))
        _plot_cells(left, entry, cells)
        _plot_history(right, [*alike, entry])


def _plot_cells(axes: Any, entry: dict[str, Any], cells: list[tuple[str, str, str]]) -> None:
    ticks, names = [], []
    row = 0
    for cell in cells:
        shown = [r for r in entry["results"] if (r["group"], r["regime"], r["encoding"]) == cell]
        shown = sorted((r for r in shown if not r.get("problem")), key=lambda r: r["images_per_second"])
        for result in shown:
            ours = result["contestant"] in ENGINES
            axes.barh(row, result["images_per_second"], color="tab:blue" if ours else "lightgrey")
            axes.text(result["images_per_second"], row, f" {result['images_per_second']:,.0f}", va="center", fontsize=7)
            ticks.append(row)
            names.append(f"{result['contestant']}  ({cell[1]}, {cell[0]} {cell[2]})")
            row += 1
        row += 1
    axes.set_yticks(ticks, names, fontsize=7)
    axes.set_xscale("log")
    axes.set_xlabel("images/s (log scale); blue: hrfr-fast")


def _plot_history(axes: Any, entries: list[dict[str, Any]]) -> None:
    lines: dict[str, list[tuple[int, float]]] = {}
    for number, old in enumerate(entries):
        for result in old["results"]:
            if result["contestant"] in ENGINES and not result.get("problem"):
                name = f"{result['contestant']} {result['regime']} {result['encoding']} {result['dtype']}"
                lines.setdefault(name, []).append((number, result["images_per_second"]))
    for name, points in sorted(lines.items()):
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1, label=name)
    axes.set_yscale("log")
    axes.set_xlabel("record on this kind of machine, this run last")
    axes.set_ylabel("images/s")
    axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
