"""Plots of the analyses: grids of panels, histograms, and values with intervals."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.reporting.canvas import saved_figure
from hrfr_fast.reporting.figures import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HIGH, LOW = COLOURS[:2]
Dot = tuple[float, tuple[float, float] | None]
"""A value and its interval."""


@contextmanager
def figure_grid(
    path: Path, rows: int = 1, columns: int = 1, *, cell: tuple[float, float] = (4.2, 3.4), **subplots: Any
) -> Iterator[Any]:
    """A grid of panels (axes [rows, columns]) of ``cell`` inches each, saved to ``path`` when the block ends."""
    with saved_figure(path, (cell[0] * columns, cell[1] * rows)) as drawn:
        axes = drawn.subplots(rows, columns, squeeze=False, **subplots)
        for panel in axes.flat:
            if panel.name != "3d":
                panel.grid(alpha=0.3)
                panel.spines[["top", "right"]].set_visible(False)
        yield axes


def histograms(axes: "Axes", kinds: Mapping[str, NDArray[np.floating]], edges: NDArray[np.floating]) -> None:
    """Overlaid densities, one for each kind."""
    for colour, (label, values) in zip(COLOURS, kinds.items(), strict=False):
        axes.hist(values, edges.tolist(), density=True, histtype="stepfilled", color=colour, alpha=0.55, label=label)
    axes.set_yticks([])
    axes.set_ylabel("density")


def dots(axes: "Axes", rows: list[str], series: Mapping[str, Sequence[Dot]]) -> None:
    """Values with their intervals: a row for each name, a colour for each series; None draws no interval."""
    step = 0.7 / max(len(series), 1)
    for number, (colour, (label, values)) in enumerate(zip(COLOURS * 5, series.items(), strict=False)):
        rows_y = np.arange(len(rows)) + (number - (len(series) - 1) / 2) * step
        for y, (value, interval) in zip(rows_y, values, strict=True):
            axes.plot(value, y, "o", color=colour, markersize=5)
            if interval:
                axes.plot(interval, [y, y], color=colour, linewidth=2)
        axes.plot([], [], "o-", color=colour, label=label)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)


def legend_below(axes: "Axes", columns: int = 4, title: str | None = None) -> None:
    """The legend of ``axes`` below the whole figure, where it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, title=title)


def percent(rate: float, interval: Sequence[float]) -> Dot:
    """A rate and its interval as percentages."""
    return 100 * rate, (100 * interval[0], 100 * interval[1])
