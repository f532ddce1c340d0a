"""Speed of loading: our engines beside the loaders in common use, on the same pictures.

    python benchmarks/throughput.py            # under 4 minutes, whatever the machine
    python benchmarks/throughput.py --all      # with the peers that are slow to open: under 10 minutes
    python benchmarks/throughput.py --quick    # under 1 minute
    python benchmarks/throughput.py --record --compare --details

Three groups of measurements: from JPEG (files for the peers, shards for us), from decoded pixels on disk ("raw"),
and from decoded pixels in memory to uint8 batches ("pixels", the resampling alone).
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import record  # noqa: E402
from benchmarks.command import run  # noqa: E402
from benchmarks.face_data import make_data  # noqa: E402
from benchmarks.measure import LoaderProcess, Result, TimeLimit, compare  # noqa: E402
from benchmarks.peers import ENGINES, PEERS, PIXELS  # noqa: E402
from benchmarks.peers.base import Task  # noqa: E402
from benchmarks.throughput_table import draw_table, show_table  # noqa: E402
from hrfr_fast.regimes import regime_named  # noqa: E402

CASES = (
    ("lowres32", "jpeg"), ("lowres144", "jpeg"), ("faces112", "jpeg"), ("highres144", "jpeg"), ("lowres32", "raw"),
    ("lowres144", "raw"),
)  # fmt: skip
"""Regime and encoding: 36 px to both sizes, and the sizes that are not resized. highlow144 is lowres144 and highres144
in one batch, and raw pixels that are only copied tell less: ``--regime`` measures both encodings of any regime."""
QUICK = ("lowres144",)
USUAL_PEERS = ("stock FFCV", "SPDL", "torch+OpenCV", "torch+PIL", "stock DALI")
"""The others are slow to open and were never the best peer, or need what is seldom installed: ``--all``."""
ONCE, ONCE_IN = ("WebDataset", "LitData"), "lowres144"
"""One regime shows where they stand."""
MINUTES, MINUTES_OF_ALL, MINUTES_QUICK = 3.3, 9.0, 0.7
"""Of measuring. Each table has its share of what is left when its loaders are prepared: one that opens slowly is
measured in fewer rounds, and a loader that has not begun when the share is used up is named."""


@dataclass(frozen=True)
class Cell:
    """One table: a task and the loaders that are measured on it."""

    group: str
    task: Task
    loaders: tuple[str, ...]


def cells(
    tasks: dict[str, Task], cases: Sequence[tuple[str, str]], engines: tuple[str, ...], peers: tuple[str, ...]
) -> list[Cell]:
    """All tables, in the order in which they are measured.

    Args:
        tasks: of ``study`` and ``ordinary`` faces, where there are any.
        cases: regime and encoding of each.
    """
    tables = []
    for regime, encoding in cases:
        kind = "ordinary" if regime_named(regime).sources == ("faces",) else "study"
        shown = tuple(name for name in peers if name not in ONCE or regime == ONCE_IN)
        if kind in tasks:
            tables.append(Cell("files", replace(tasks[kind], regime=regime, encoding=encoding), (*engines, *shown)))
    for regime in dict.fromkeys(regime for regime, _ in cases):
        if regime.startswith("lowres"):
            pixels = replace(tasks["study"], regime=regime, encoding="raw", dtype="uint8")
            # FFCV's copy is the upper bound for 32 px, where there is little to compute.
            bounds = tuple(name for name in PIXELS if regime == "lowres32" or name != "FFCV raw copy")
            tables.append(Cell("pixels", pixels, ("resident", *bounds)))
    return tables


def measure(
    tables: list[Cell],
    rounds: int,
    seconds: float,
    log: Path,
    minutes: float,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[Cell, list[Result]]]:  # fmt: skip
    """Each table with its results, measured with one process for each loader; shows the progress."""
    from hrfr_fast.runtime.progress import progress_bar

    end = clock() + 60 * minutes
    names = list(dict.fromkeys(name for cell in tables for name in cell.loaders))
    with ExitStack() as stack, progress_bar() as progress:
        line = progress.add_task("measuring", total=sum(len(cell.loaders) for cell in tables), note="starting")
        processes = {name: stack.enter_context(LoaderProcess(name, log)) for name in names}
        for number, cell in enumerate(tables):
            progress.update(line, note=f"{cell.task.regime}, {cell.group} {cell.task.encoding}")
            limit = TimeLimit(end, len(tables) - number, clock)
            results = list(compare([processes[name] for name in cell.loaders], cell.task, rounds, seconds, limit))
            progress.advance(line, len(results))
            yield cell, results


def show(cell: Cell, results: list[Result], before: dict[tuple[str, ...], float]) -> None:
    """Print one table, fastest first, and which loaders were not measured and why."""
    from hrfr_fast.runtime.terminal import print_rows

    peer, measured = record.best_peer(results), sorted(results, key=lambda r: -r.images_per_second)
    measured = [r for r in measured if not r.problem]
    rows = []
    for r in measured:
        key = record.cell_of({**r.to_json(), "group": cell.group})
        row = [
            f"hrfr-fast {r.loader}" if r.loader in ENGINES else r.loader, f"{r.images_per_second:,.0f}",
            f"{r.slowest_round:,.0f} .. {r.fastest_round:,.0f}",
            f"{r.images_per_second / peer.images_per_second:.2f}" if peer else "",
            f"{r.cpu_seconds_per_1000:.3f}", f"{r.peak_memory_bytes / 2**20:,.0f}", f"{r.first_batch_seconds:.2f}",
        ]  # fmt: skip
        rows.append([*row, f"{before[key]:.2f}" if key in before else "-"] if before else row)
    head = [
        "loader", "images/s", "slowest .. fastest\nround", "times best\npeer", "CPU s per\n1,000 images", "peak\nMiB",
        "seconds to\nfirst batch",
    ]  # fmt: skip
    source = "pixels in memory" if cell.group != "files" else {"jpeg": "JPEG", "raw": "raw pixels"}[cell.task.encoding]
    print_rows(
        [*head, "times last\nrecord"] if before else head, rows,
        title=f"{cell.task.regime}, from {source}, to {cell.task.dtype}",
        bold=[number for number, r in enumerate(measured) if r.loader in ENGINES], right=range(1, 8),
    )  # fmt: skip
    for r in results:
        if r.problem:
            typer.echo(f"  NOT MEASURED: {r.loader}: {r.problem}")


def main(
    data: Annotated[Path | None, typer.Option(help="your own data tree; made and kept in --cache if not given")] = None,
    cache: Annotated[Path, typer.Option(help="where made data and the peers' own formats are kept")] = Path(
        "benchmarks/data"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="one regime from JPEG, fewer rounds: under a minute")] = False,
    every: Annotated[bool, typer.Option("--all", help="all peers, also those that are slow to open")] = False,
    minutes: Annotated[float, typer.Option(help="most minutes of measuring; 0: 3.3, 9 with --all")] = 0.0,
    regime: Annotated[list[str] | None, typer.Option(help="only this regime; may be repeated")] = None,
    engine: Annotated[list[str] | None, typer.Option(help="only this engine; may be repeated")] = None,
    peer: Annotated[list[str] | None, typer.Option(help="only this peer; may be repeated; none for no peer")] = None,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="uint8 | float32 | float16 | bfloat16; auto: float32, float16 on a GPU")
    ] = "auto",
    batch_size: Annotated[int, typer.Option(help="pictures in a batch; 0: 256 on a CPU, 1024 on a GPU")] = 0,
    rounds: Annotated[int, typer.Option(help="rounds of each loader; 0: 3, 2 with --quick")] = 0,
    seconds: Annotated[float, typer.Option(help="least seconds of a round; 0: 0.1")] = 0.0,
    plot: Annotated[Path | None, typer.Option(help="PNG file to draw the table to")] = None,
    details: Annotated[
        bool, typer.Option("--details", help="print CPU time, memory and time to the first batch of each case, too")
    ] = False,
    out: Annotated[Path, typer.Option(help="where the JSON and the history's plot go")] = Path("benchmarks/out"),
    record_it: Annotated[bool, typer.Option("--record", help="append to benchmarks/history.jsonl")] = False,
    compare_it: Annotated[bool, typer.Option("--compare", help="show the ratio to this machine's last record")] = False,
) -> None:
    """Measure images/s, CPU time, memory and time to the first batch, side by side."""
    from hrfr_fast.runtime.device import choose_compute
    from hrfr_fast.runtime.system import cores

    where, faces = choose_compute(device).device.type, make_data(cache, data)
    start = time.perf_counter()
    chosen_dtype = {"cpu": "float32", "cuda": "float16"}[where] if dtype == "auto" else dtype
    tasks = {
        kind: Task(
            str(each.data), str(each.packed), str(cache / "formats"), "lowres144", "jpeg",
            batch_size or (256 if where == "cpu" else 1024), chosen_dtype, where, cores(),
        )
        for kind, each in faces.items()
    }  # fmt: skip
    encodings = ("jpeg",) if quick else ("jpeg", "raw")
    cases = [(name, encoding) for name in regime or QUICK for encoding in encodings] if regime or quick else CASES
    peers = tuple(name for name in (peer or (PEERS if every else USUAL_PEERS)) if name != "none")
    tables = cells(tasks, cases, tuple(engine or ENGINES), peers)
    out.mkdir(parents=True, exist_ok=True)
    rounds, seconds, history = rounds or (2 if quick else 3), seconds or 0.1, record.read()
    last = last_record(history) if compare_it else None
    rows = []
    minutes = minutes or (MINUTES_QUICK if quick else MINUTES_OF_ALL if every else MINUTES)
    for cell, results in measure(tables, rounds, seconds, out / "throughput.log", minutes):
        new = [{**r.to_json(), "group": cell.group} for r in results]
        if details or compare_it:
            show(cell, results, record.ratios({"results": new}, last) if last else {})
        rows += new
    show_table(rows)
    entry = record.record(
        "throughput", rows, batch_size=tasks["study"].batch_size, device=where, rounds=rounds, seconds=seconds
    )  # fmt: skip
    save(entry, out, history if record_it else None, plot)
    typer.echo(f"{time.perf_counter() - start:.0f} s; {out}/throughput.json, throughput.png, throughput.log")


def last_record(history: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The latest record of this kind of machine; where there is none, says so."""
    last = record.last_alike({"benchmark": "throughput", "machine": record.machine()}, history)
    if last is None:
        typer.echo("no earlier record of this kind of machine to compare with")
    return last


def save(entry: dict[str, Any], out: Path, history: list[dict[str, Any]] | None, plot: Path | None) -> None:
    """Write what was measured to ``out``; draw ``plot``; ``history``: the records before, to append it to."""
    (out / "throughput.json").write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
    record.plot(entry, record.read() if history is None else history, out / "throughput.png")
    if plot:
        draw_table(entry["results"], plot, f"{entry['machine']['cores']} cores, {entry['time'][:10]}")
    if history is not None:
        record.append(entry)


if __name__ == "__main__":
    run(main)
