"""Curves of a study: training loss, accuracy while training, ROC, and accuracy by test resolution."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.evaluation.verification import roc
from hrfr_fast.format.reader import open_packed
from hrfr_fast.reporting.figures import COLOURS, figure_file, legend_beside, roc_axes
from hrfr_fast.settings import load_settings
from hrfr_fast.study.results import MainVerification, RegimeResult
from hrfr_fast.study.score import main_pairs, read_run_scores
from hrfr_fast.training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = ("-", "--", ":")
Regimes = Mapping[str, RegimeResult]


def _line_looks(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A colour and a line style for each label, the same in every figure that shows the same labels."""
    looks = [{"color": colour, "linestyle": style} for style in STYLES for colour in COLOURS]
    return dict(zip(labels, cycle(looks), strict=False))


def loss(path: Path, regimes: Regimes, out: Path) -> bool:
    return _over_steps(path, regimes, out, None, "loss", "training loss", 1.0)


def progress(path: Path, regimes: Regimes, out: Path, pairs: str) -> bool:
    """Accuracy on the pair set ``pairs``."""
    return _over_steps(path, regimes, out, pairs, "accuracy", "accuracy on the test pairs (%)", 100.0)


def _over_steps(
    path: Path, regimes: Regimes, out: Path, pairs: str | None, value: str, label: str, factor: float
) -> bool:
    """Metrics of the first seeds, as ``_metrics`` has them; returns whether there are any."""
    looks, shown = _line_looks(regimes), 0
    with figure_file(path, size=(7.6, 4.4)) as (axes,):
        for name, regime in regimes.items():
            lines = _metrics(out / regime.first_run, pairs)
            shown += len(lines)
            if lines:
                marker = {"marker": ".", "markersize": 5} if pairs else {}
                steps, values = [line["step"] for line in lines], [factor * line[value] for line in lines]
                axes.plot(steps, values, label=name, **marker, **looks[name])
        axes.set(xlabel="optimiser step", ylabel=label)
        legend_beside(axes)
    return shown > 0


def _metrics(run: Path, pairs: str | None = None) -> list[dict[str, Any]]:
    """Lines of the run's metrics.jsonl: of training, or of its verifications on the pair set ``pairs``."""
    lines = read_metrics(run / "metrics.jsonl")
    if pairs is None:
        return [line for line in lines if line["kind"] == "train"]
    return [line for line in lines if line["kind"] == "verification" and line["pairs"] == pairs]


def _roc_curve(axes: Any, run: Path, same: NDArray[np.bool_] | None, **look: Any) -> bool:
    scores = read_run_scores(run)
    if scores is None or same is None or "HR-HR" not in scores.by_view:
        return False
    far, tar = roc(scores.by_view["HR-HR"], same)
    axes.plot(far[far > 0], tar[far > 0], **look)
    return True


def _same(run: Path) -> NDArray[np.bool_] | None:
    """bool [P] of the main pairs, from the packed data that the run names."""
    pairs = main_pairs(open_packed(load_settings(run / "settings.toml").data))
    return None if pairs is None else pairs.same


def roc_curves(path: Path, regimes: Regimes, out: Path) -> bool:
    """Of the first seeds."""
    looks, shown = _line_looks(regimes), False
    same = _same(out / next(iter(regimes.values())).first_run)
    with figure_file(path, size=(7.6, 4.4)) as (axes,):
        for label, regime in regimes.items():
            shown |= _roc_curve(axes, out / regime.first_run, same, label=label, **looks[label])
        roc_axes(axes)
        legend_beside(axes)
    return shown


def of_regime(path: Path, regime: RegimeResult, out: Path, pairs: str | None) -> bool:
    """Loss, accuracy on ``pairs`` while training, and ROC of one regime, every seed."""
    same = _same(out / regime.first_run)
    logged = watched = 0
    with figure_file(path, 3, size=(11.0, 3.3)) as (left, middle, right):
        for colour, (seed, directory) in zip(cycle(COLOURS), regime.runs.items(), strict=False):
            run = out / directory
            trained, verified = _metrics(run), _metrics(run, pairs) if pairs else []
            logged, watched = logged + len(trained), watched + len(verified)
            left.plot(
                [line["step"] for line in trained], [line["loss"] for line in trained], color=colour,
                label=f"seed {seed}",
            )  # fmt: skip
            steps, accuracy = [line["step"] for line in verified], [100 * line["accuracy"] for line in verified]
            middle.plot(steps, accuracy, "o-", color=colour)
            _roc_curve(right, run, same, color=colour)
        left.set(xlabel="optimiser step", ylabel="training loss")
        left.legend(fontsize=8)
        if not logged:
            left.set(xticks=[], yticks=[], xlabel="nothing is trained", ylabel="")
        middle.set(xlabel="optimiser step", ylabel="accuracy on the test pairs (%)")
        if not watched:
            middle.set(xticks=[], yticks=[], xlabel="test pairs were not watched", ylabel="")
        roc_axes(right)
    return True


def by_resolution(path: Path, verified: Mapping[str, MainVerification]) -> bool:
    """A panel for each regime, with its interval as a band: thirteen bands in one panel would hide each other."""
    curves = resolution_curves(verified)
    if not curves:
        return False

    def draw_all(axes: "Axes") -> None:
        for other in curves.values():
            axes.plot(other[0], 100 * other[1], color="silver", linewidth=0.7)

    resolution_panels(path, curves, list(curves), draw_all, "resolution of the test faces in pixels")
    return True


def resolution_curves(verified: Mapping[str, MainVerification]) -> dict[str, NDArray[np.float64]]:
    """Accuracy by test resolution of each label that has it, float64 [4, n]: pixels, accuracy, and its interval."""
    return {
        label: np.array([[point.pixels, point.value, *point.interval] for point in result.by_resolution]).T
        for label, result in verified.items()
        if result.by_resolution
    }


def resolution_panels(
    path: Path, curves: Mapping[str, NDArray[np.float64]], shown: Sequence[str], draw_others: "Callable[[Axes], None]",
    label: str,
) -> None:  # fmt: skip
    """A panel for each of the ``curves`` that are ``shown``, with its interval as a band.

    Args:
        draw_others: draws what each panel compares its curve with.
        label: of the horizontal axis.
    """
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    with figure_file(path, columns, rows=rows, size=(0.8 + 2.7 * columns, 0.5 + 2.1 * rows)) as panels:
        ends = np.concatenate([100 * curve[2:].ravel() for curve in curves.values()])
        for axes, title in zip(panels, shown, strict=False):
            pixels, value, low, high = curves[title]
            draw_others(axes)
            axes.fill_between(pixels, 100 * low, 100 * high, color=COLOURS[0], alpha=0.25, linewidth=0)
            axes.plot(pixels, 100 * value, marker=".", color=COLOURS[0])
            axes.set(xscale="log", title=title, ylim=(ends.min() - 1, ends.max() + 1))
            axes.title.set_size(9)
            axes.tick_params(labelsize=8)
            axes.set_xticks(pixels, [f"{size:g}" for size in pixels])
            axes.minorticks_off()
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        panels[0].figure.supxlabel(label, fontsize=9)
        panels[0].figure.supylabel("10-fold accuracy (%)", fontsize=9)
