"""The curves of a run as PNG files: loss and rate, accuracy over time, ROC, scores."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hrfr_fast.reporting.canvas import saved_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito (2008): distinguishable with every kind of colour blindness, on light and dark.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


@contextmanager
def figure_file(
    path: Path, columns: int = 1, *, rows: int = 1, size: tuple[float, float] | None = None
) -> Iterator[Any]:
    """A figure of ``rows`` times ``columns`` axes, ``size`` inches in all, saved to ``path`` when the block ends."""
    with saved_figure(path, size or (6.4 * min(columns, 2), 4.0)) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for one in axes:
            one.grid(alpha=0.3)
            one.spines[["top", "right"]].set_visible(False)
        yield axes
        for one in axes:
            _mark_single_points(one)


def _mark_single_points(axes: "Axes") -> None:
    """A curve of one point has no line to be seen: it gets a marker."""
    for line in axes.get_lines():
        if np.size(line.get_xdata()) == 1 and line.get_marker() in ("", "None", None):
            line.set_marker("o")
