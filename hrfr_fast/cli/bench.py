"""The command ``bench``: how fast loaders and steps are on the user's own data and machine, and what limits them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hrfr_fast.runtime.terminal import echo

if TYPE_CHECKING:
    from hrfr_fast.benchmarking.result import BenchResult


def bench(
    packed: Annotated[Path | None, typer.Argument(help="directory written by pack (default: packed)")] = None,
    regime: Annotated[
        str | None,
        typer.Option(help="name or .toml file; if not given one that fits what is packed"),
    ] = None,
    width: Annotated[int, typer.Option(help="of the network; 0: 64 on a GPU, 16 on a CPU")] = 0,
    batch_size: Annotated[int, typer.Option(help="samples a step; 0: as many as train takes")] = 0,
    config: Annotated[Path | None, typer.Option(help="TOML file of a run's settings, to measure what it does")] = None,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda")] = "auto",
    seconds: Annotated[float, typer.Option(help="of each measurement; less where all would take over 36 s")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Measure the engines and the training step on your packed faces: what limits a run here, and the fix."""
    from hrfr_fast.benchmarking.measure import bench as measure
    from hrfr_fast.settings import load_settings

    settings = load_settings(config) if config else None
    place = packed or Path(settings.data if settings else "packed")
    result = measure(
        place, regime=regime or "", width=width, batch_size=batch_size, device=device, seconds=seconds,
        settings=settings,
    )  # fmt: skip
    if as_json:
        echo(json.dumps(result.to_json(), indent=2))
    else:
        print_bench(result)


def print_bench(result: "BenchResult") -> None:
    """A row for each engine and for the step, then what they mean."""
    from hrfr_fast.benchmarking.findings import findings, ratio
    from hrfr_fast.runtime.terminal import print_rows

    settings, constant = result.settings, result.constant.images_per_second
    named = [(f"engine {rate.name}" + " (auto)" * (rate.name == result.picked), rate) for rate in result.engines]
    named += [("step, one constant batch", result.constant), (f"step, fed by {result.picked}", result.fed)]
    rows = [
        (
            name, f"{rate.images_per_second:,.0f}", f"{rate.slowest:,.0f} .. {rate.fastest:,.0f}",
            f"{rate.cores_busy:.1f}", ratio(rate.images_per_second / constant),
        )
        for name, rate in named
    ]  # fmt: skip
    print_rows(
        ("", "images/s", "slowest .. fastest\nround", "cores\nbusy", "times the\nconstant batch"), rows,
        title=f"{settings.regime}: {result.size} px, width {settings.model.width}, {result.classes:,} classes, batch"
        f" {settings.sampling.batch_size} on {result.machine.device}, {result.machine.cores} cores",
        bold=(len(rows) - 1,), right=range(1, 5),
    )  # fmt: skip
    for name, reason in result.absent.items():
        echo(f"not measured: engine {name}: {reason}")
    for kind, text in findings(result):
        echo(f"{kind}: {text}")
