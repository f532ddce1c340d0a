"""Plot helpers: figures as PNG files, white, in colours that every eye tells apart."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.reporting.canvas import saved_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito (2008): distinguishable with every kind of colour blindness, on light and dark.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
HIGH, LOW = COLOURS[:2]
Dot = tuple[float, tuple[float, float] | None]
"""A value and its interval."""


@contextmanager
def figure(
    path: Path, rows: int = 1, columns: int = 1, *, cell: tuple[float, float] = (4.2, 3.4), **subplots: Any
) -> Iterator[Any]:
    """An array of axes [rows, columns], ``cell`` inches each, saved to ``path`` when the block ends."""
    with saved_figure(path, (cell[0] * columns, cell[1] * rows)) as drawn:
        panels = drawn.subplots(rows, columns, squeeze=False, **subplots)
        flat = [axes for axes in panels.flat if axes.name != "3d"]
        for axes in flat:
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        yield panels
        for axes in flat:
            _mark_single_points(axes)


@contextmanager
def figure_file(
    path: Path, columns: int = 1, *, rows: int = 1, size: tuple[float, float] | None = None
) -> Iterator[Any]:
    """A flat array of ``rows`` times ``columns`` axes, ``size`` inches in all, saved when the block ends."""
    width, height = size or (6.4 * min(columns, 2), 4.0)
    with figure(path, rows, columns, cell=(width / columns, height / rows)) as panels:
        yield panels.ravel()


def _mark_single_points(axes: "Axes") -> None:
    """A curve of one point has no line to be seen: it gets a marker."""
    for line in axes.get_lines():
        if np.size(line.get_xdata()) == 1 and line.get_marker() in ("", "None", None):
            line.set_marker("o")


def roc_axes(axes: "Axes") -> None:
    """Labels and limits of an ROC curve."""
    axes.set(xscale="log", xlabel="false accept rate", ylabel="true accept rate", ylim=(0, 1.02))


def histograms(axes: "Axes", kinds: Mapping[str, NDArray[np.floating]], edges: NDArray[np.floating]) -> None:
    """Overlaid histograms, one for each kind."""
    for colour, (label, values) in zip(COLOURS, kinds.items(), strict=False):
        axes.hist(values, edges.tolist(), density=True, histtype="stepfilled", color=colour, alpha=0.55, label=label)
    axes.set_yticks([])
    axes.set_ylabel("density")


def dots(axes: "Axes", rows: list[str], series: Mapping[str, Sequence[Dot]]) -> None:
    """Values with their intervals, a row for each name, a colour for each series; None draws no interval."""
    height = 0.7 / max(len(series), 1)
    for number, (colour, (label, values)) in enumerate(zip(COLOURS * 5, series.items(), strict=False)):
        places = np.arange(len(rows)) + (number - (len(series) - 1) / 2) * height
        for place, (value, span) in zip(places, values, strict=True):
            axes.plot(value, place, "o", color=colour, markersize=5)
            if span:
                axes.plot(span, [place, place], color=colour, linewidth=2)
        axes.plot([], [], "o-", color=colour, label=label)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)


def legend_below(axes: "Axes", columns: int = 4, title: str | None = None) -> None:
    """The legend of ``axes`` under the whole figure, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    axes.figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, title=title)


def legend_above(axes: "Axes") -> None:
    """The legend of ``axes`` above the whole figure."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if len(labels) > 3 else 3
    axes.figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=8, frameon=False)


def legend_beside(axes: "Axes") -> None:
    """The legend of ``axes`` to their right, where there is anything to explain."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, handlelength=3.5, loc="center left", bbox_to_anchor=(1.0, 0.5))


def percent(rate: float, span: Sequence[float]) -> Dot:
    """A rate and its interval as percentages."""
    return 100 * rate, (100 * span[0], 100 * span[1])
