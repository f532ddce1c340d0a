"""One table and one picture of all loaders: a row a loader, a column a case."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.peers import ENGINES
from hrfr_fast.reporting.canvas import saved_figure

SETTINGS = """Peers at their best settings: DataLoaders (OpenCV, PIL) with one forked, persistent worker a core and
2 batches ahead each, the one of OpenCV making a whole batch in one call; stock FFCV with one thread a core, compiled
transforms, the page cache and 3 batches ahead; SPDL and DALI with one thread a core. Peers flip at random; hrfr-fast
does shift, flip and brightness of every picture. Stock FFCV resizes bilinearly and OpenCV shrinks by area: less work
than bicubic."""
BOUND = "FFCV raw copy"
"""No loader but the most that one could reach: it copies pixels and resamples nothing."""


def case_of(result: dict[str, Any]) -> str:
    """The column of a result: what is read, and the regime that it is made into."""
    source = "pixels" if result["group"] == "pixels" else result["encoding"]
    return f"{result['regime']} {source}"


def rates(results: Iterable[dict[str, Any]]) -> tuple[list[str], dict[str, dict[str, float]]]:
    """The cases in the order of measurement, and images a second by loader and case; fastest loaders first."""
    measured = [result for result in results if not result.get("problem") and result["contestant"] != BOUND]
    cases = list(dict.fromkeys(case_of(result) for result in measured))
    table: dict[str, dict[str, float]] = {}
    for result in measured:
        name = f"hrfr-fast {result['contestant']}" if result["contestant"] in ENGINES else result["contestant"]
        table.setdefault(name, {})[case_of(result)] = result["images_per_second"]
    best = {case: max(row.get(case, 0.0) for row in table.values()) for case in cases}

    def closeness(row: dict[str, float]) -> float:
        """Mean share of the best, over the cases that a loader was measured on."""
        return sum(rate / best[case] for case, rate in row.items()) / len(row)

    return cases, dict(sorted(table.items(), key=lambda item: -closeness(item[1])))


def best_loaders(cases: list[str], table: dict[str, dict[str, float]]) -> dict[str, str]:
    """The fastest loader of each case."""
    return {case: max(table, key=lambda name: table[name].get(case, 0.0)) for case in cases}


def show_table(results: list[dict[str, Any]]) -> None:
    """Print the table, the best of each column marked by a star, then the ratio to the best peer and the settings."""
    from hrfr_fast.runtime.terminal import print_rows

    cases, table = rates(results)
    best = best_loaders(cases, table)
    rows = [
        [name, *(f"{row[case]:,.0f}{'*' if best[case] == name else ' '}" if case in row else "-" for case in cases)]
        for name, row in table.items()
    ]
    rows.append(
        ["hrfr-fast / best peer", *(f"{_lead(case, table):.2f} " if _lead(case, table) else "-" for case in cases)]
    )
    print_rows(
        ["images/s (* best)", *(case.replace(" ", "\n") for case in cases)], rows,
        bold=[number for number, row in enumerate(rows) if row[0].startswith("hrfr-fast")],
        right=range(1, 1 + len(cases)),
    )  # fmt: skip
    print(SETTINGS)


def _lead(case: str, table: dict[str, dict[str, float]]) -> float:
    """Our fastest engine over the fastest peer; 0 where one of both is missing."""
    ours = max((row.get(case, 0.0) for name, row in table.items() if name.startswith("hrfr-fast")), default=0.0)
    peers = max((row.get(case, 0.0) for name, row in table.items() if not name.startswith("hrfr-fast")), default=0.0)
    return ours / peers if peers else 0.0


def draw_table(results: list[dict[str, Any]], path: Path, note: str) -> None:
    """The picture of the table: a panel a case, a bar a loader, ours in blue. ``note`` stands below."""
    cases, table = rates(results)
    columns = 4
    lines = -(-len(cases) // columns)
    with saved_figure(path, (3.2 * columns, 2.7 * lines + 0.4), dpi=80) as figure:
        panels = figure.subplots(lines, columns, squeeze=False).flat
        for case, axes in zip(cases, panels, strict=False):
            shown = sorted(((row[case], name) for name, row in table.items() if case in row), reverse=True)
            ours = [name.startswith("hrfr-fast") for _, name in shown]
            axes.barh(range(len(shown)), [rate for rate, _ in shown],
                      color=["tab:blue" if own else "lightgrey" for own in ours])  # fmt: skip
            for place, (rate, name) in enumerate(shown):
                axes.text(0, place, f" {name}  {rate:,.0f}", va="center", fontsize=7)
            axes.set_title(case, fontsize=9)
            axes.set_yticks([])
            axes.invert_yaxis()
            axes.tick_params(axis="x", labelsize=6)
        for axes in list(panels):
            axes.set_axis_off()
        figure.supxlabel(f"images a second; blue: hrfr-fast. {note}", fontsize=8)
