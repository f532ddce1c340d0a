"""Time to the first batch of a million faces, each time in a fresh process.

    python benchmarks/first_batch.py                      # 1,000,000 + 10,000 pictures of noise: 4 GB below --scratch
    python benchmarks/first_batch.py --scale small        # 40,000 pictures

A process imports what `hrfr-fast train` imports, opens packed data (in the page cache) and takes the first batch of 128
pictures of 32 px with shift, flip and brightness, checksums compared. Printed are wall and CPU seconds: of the imports
(torch, numba), and of all after them. Rounds alternate among engines; each process is the whole of its round.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.command import run  # noqa: E402

TARGET = 0.4
BATCH = 128


def one_process(shards: Path, engine: str) -> None:
    """In a process of its own: print [wall, CPU] seconds of the imports, and of what comes after them, as JSON."""
    from hrfr_fast.runtime.garbage import collect_seldom

    began = _clocks()
    collect_seldom()
    import numba  # noqa: F401

    import hrfr_fast.training.trainer  # noqa: F401
    from benchmarks.peers.base import Task
    from benchmarks.peers.ours import Engine

    imported = _clocks()
    task = Task("", str(shards.parent), "", "lowres32", shards.name, BATCH)  # which looks for packed/encoding
    next(Engine(engine).batches(task))
    done = _clocks()
    print(json.dumps([_between(began, imported), _between(imported, done)]))


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _between(began: tuple[float, float], ended: tuple[float, float]) -> list[float]:
    return [last - first for first, last in zip(began, ended, strict=True)]


def measured(shards: Path, engine: str) -> list[list[float]]:
    """What :func:`one_process` prints, in a fresh process."""
    command = [sys.executable, __file__, "--shards", str(shards), "--engine", engine, "--child"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, check=True)
    seconds: list[list[float]] = json.loads(done.stdout)
    return seconds


def main(
    scale: Annotated[str, typer.Option(help="of the noise: tiny | small | paper")] = "paper",
    engine: Annotated[list[str] | None, typer.Option(help="resident and dali if not given; may be repeated")] = None,
    rounds: Annotated[int, typer.Option(help="processes of each engine, after one that is not counted")] = 5,
    scratch: Annotated[Path | None, typer.Option(help="where the noise is written")] = None,
    shards: Annotated[Path | None, typer.Option(help="packed data that is there, in place of noise")] = None,
    child: Annotated[bool, typer.Option("--child", hidden=True)] = False,
) -> None:
    """Measure the time to the first batch of a million faces."""
    engines = engine or ["resident", "dali"]
    if child and shards:
        return one_process(shards, engines[0])
    with tempfile.TemporaryDirectory(prefix="hrfr-first-batch-", dir=scratch) as folder:
        data = shards or _noise(Path(folder) / "packed", scale)
        found = {name: [measured(data, name) for _ in range(1 + rounds)][1:] for name in engines}
    for name, processes in found.items():
        wall, cpu = (median(after[clock] for _, after in processes) for clock in (0, 1))
        imports = median(before[1] for before, _ in processes)
        verdict = "reached" if wall <= TARGET else "not reached"
        typer.echo(
            f"{name}: first batch after {wall:.2f} s ({cpu:.2f} s of CPU), beside {imports:.2f} s of CPU for imports;"
            f" target {TARGET} s: {verdict}"
        )


def _noise(folder: Path, scale: str) -> Path:
    from benchmarks.made_shards import write_noise

    write_noise(folder, scale)
    return folder


if __name__ == "__main__":
    run(main)
