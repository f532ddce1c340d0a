"""Speed of packing 36x36 JPEG files: `hrfr-fast pack`, FFCV's DatasetWriter, and reading and decoding alone.

    python benchmarks/pack.py
    python benchmarks/pack.py --record

All three list the same files, use the same number of worker processes and store raw pixels (the third stores nothing:
it is the lower bound of the time). CPU is that of all processes, their start included. Rounds alternate; the files are
in the page cache from the first, untimed round on, in which memory is sampled: the sum over all processes of their
proportional set sizes.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import record  # noqa: E402
from benchmarks.command import run  # noqa: E402
from benchmarks.packers import PACKERS  # noqa: E402

SAMPLE_SECONDS = 0.02
TARGETS = {"FFCV DatasetWriter": ("at least", 2.0), "read and decode": ("at least", 1 / 1.3)}
MEMORY_TARGET = 1 << 30


def one_round(name: str, tree: Path, workers: int, log: Path, measure_memory: bool) -> tuple[int, float, float, int]:
    """Pictures, seconds, CPU seconds and, if asked for, the peak of memory in bytes."""
    with tempfile.TemporaryDirectory(dir=tree.parent) as scratch:
        command = [sys.executable, "-m", "benchmarks.packers", name, tree, Path(scratch) / "out", str(workers), log]
        process = subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8")
        peak = 0
        while process.poll() is None:
            time.sleep(SAMPLE_SECONDS)
            if measure_memory:
                peak = max(peak, _memory(process.pid))
        answer, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{name} failed; see {log}")
        count, seconds, cpu = json.loads(answer)
    return count, seconds, cpu, peak


def _memory(pid: int) -> int:
    import psutil

    total = 0
    try:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            total += process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0  # a process ended during the sampling; the next sample counts
    return total


def make_tree(cache: Path, copies: int) -> Path:
    """A large tree: the made lowres split with every identity hard-linked ``copies`` times."""
    from hrfr_fast.synthetic.data_tree import synthesize

    synthesize(cache / "tree", "bench")
    tree = cache / f"pack-{copies}"
    if (tree / "done").exists():
        return tree
    shutil.rmtree(tree, ignore_errors=True)
    for copy in range(copies):
        for identity in sorted((cache / "tree" / "lowres").iterdir()):
            folder = tree / "lowres" / f"{copy}-{identity.name}"
            folder.mkdir(parents=True)
            for file in identity.iterdir():
                os.link(file, folder / file.name)
    (tree / "done").touch()
    return tree


def missing(name: str) -> str:
    """Why a packer cannot be measured here, or nothing."""
    from importlib.util import find_spec

    return "ffcv is not installed" if name == "FFCV DatasetWriter" and find_spec("ffcv") is None else ""


def compared(
    rates: dict[str, list[float]], used: dict[str, list[float]], memory: dict[str, int]
) -> list[dict[str, Any]]:
    """Print a row for each packer and return what to record of it.

    Args:
        rates, used: faces a second, and CPU seconds a face, of each round by packer.
        memory: peaks in bytes.
    """
    from hrfr_fast.runtime.terminal import print_rows

    ours = rates["hrfr-fast pack"]
    results, rows = [], []
    for name in rates:
        # The rounds of one pass stand next to each other in time, so their ratios are steadier than ratios of medians.
        ratio = median(a / b for a, b in zip(ours, rates[name], strict=True))
        cpu = median(a / b for a, b in zip(used["hrfr-fast pack"], used[name], strict=True))
        target = f"{TARGETS[name][0]} {TARGETS[name][1]:.2f} x" if name in TARGETS else ""
        rows.append([
            name, f"{median(rates[name]):,.0f}", f"{min(rates[name]):,.0f} .. {max(rates[name]):,.0f}",
            f"{ratio:.2f} x", target, f"{1e6 * median(used[name]):.1f}", f"{cpu:.2f} x", f"{memory[name] / 2**20:,.0f}",
        ])  # fmt: skip
        results.append(
            {
                "contestant": name, "group": "pack", "encoding": "raw", "images_per_second": median(rates[name]),
                "ours_over_this": ratio,
                "cpu_seconds_a_face": median(used[name]), "our_cpu_over_this": cpu,
                "peak_memory_bytes": memory[name], "rounds": len(rates[name]),
            }
        )  # fmt: skip
    head = (
        "packer", "faces/s", "slowest .. fastest\nround", "ours is", "target", "CPU us\na face", "ours\ntakes",
        "peak\nMiB",
    )  # fmt: skip
    print_rows(head, rows, title="36x36 JPEG to raw shard", right=range(1, 8))
    return results


def main(
    cache: Annotated[Path, typer.Option(help="where the made pictures are kept")] = Path("benchmarks/data"),
    out: Annotated[Path, typer.Option(help="where the JSON goes")] = Path("benchmarks/out"),
    copies: Annotated[int, typer.Option(help="copies of 10,000 faces")] = 4,
    rounds: Annotated[int, typer.Option(help="timed rounds of each packer")] = 5,
    workers: Annotated[int, typer.Option(help="worker processes; 0: one for each core")] = 0,
    record_it: Annotated[bool, typer.Option("--record", help="append to benchmarks/history.jsonl")] = False,
) -> None:
    """Compare packing speeds and peak memories."""
    from hrfr_fast.runtime.progress import progress_bar
    from hrfr_fast.runtime.system import cores

    workers, cache, out = workers or cores(), cache.resolve(), out.resolve()
    tree = make_tree(cache, copies)
    out.mkdir(parents=True, exist_ok=True)
    names = [name for name in PACKERS if not missing(name)]
    rates: dict[str, list[float]] = {name: [] for name in names}
    used: dict[str, list[float]] = {name: [] for name in names}  # CPU seconds a face
    memory: dict[str, int] = {}
    with progress_bar() as progress:
        line = progress.add_task("packing", total=len(names) * (rounds + 1), note="")
        for number in range(rounds + 1):
            for name in names if number % 2 else names[::-1]:
                progress.update(line, note=name)
                count, seconds, cpu, peak = one_round(name, tree, workers, out / "pack.log", number == 0)
                if number == 0:
                    memory[name] = peak
                else:
                    rates[name].append(count / seconds)
                    used[name].append(cpu / count)
                progress.advance(line)
    results = compared(rates, used, memory)
    for name in PACKERS:
        if missing(name):
            typer.echo(f"  NOT MEASURED: {name}: {missing(name)}")
    entry = record.record("pack", results, faces=copies * 10_000, workers=workers, memory_target=MEMORY_TARGET)
    (out / "pack.json").write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    if record_it:
        record.append(entry)


if __name__ == "__main__":
    run(main)
