"""Figures of a study: rates with intervals, and the matrix of comparisons; curves are in ``curves.py``."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hrfr_fast.reporting.canvas import attempt
from hrfr_fast.reporting.figures import COLOURS, dots, figure_file, legend_above, percent
from hrfr_fast.study import curves
from hrfr_fast.study.remedies import figures as remedies_figures
from hrfr_fast.study.results import ContrastResult, DoseResult, MainVerification, RegimeResult, StudyResults

CAPTIONS = {
    "accuracy": "Share of test pairs decided correctly, with 95 % intervals: over people (pairs, where the people are "
    "not known), and over seeds where there are three or more. Small dots are single seeds. Intervals of two regimes "
    "may overlap and the regimes still differ, since they are compared on the same pairs: the contrasts below decide.",
    "folds": "Accuracy of each of the ten folds, every seed: how much it depends on which tenth is tested.",
    "matrix": "Row minus column, in points of accuracy. Bold: significant, for the five contrasts after Holm's "
    "correction, for all others where the 95 % interval excludes 0; of those one in twenty would be bold by chance.",
    "loss": "Training loss of every regime, first seed. Losses over different sets of identities cannot be compared "
    "with each other; whether each falls and flattens can.",
    "progress": "Accuracy on the test pairs while training, first seed. Watched, never used to choose.",
    "roc": "True accept rate of each regime (up) against its false accept rate (right), first seed.",
    "resolution": "Accuracy when both faces of every pair are shrunk to so many pixels first, with its 95 % interval "
    "as a band and the other regimes in grey; the first seeds only. Where a line is flat, the model does not need the "
    "detail that is taken away.",
    "cross": "Accuracy on the same pairs with both faces sharp (HR-HR), the second shrunk to 36 px and back (HR-LR), "
    "or both (LR-LR). Bars are 95 % intervals, as in the first figure.",
    "identification": "1:N: how often the right person is first, or among the first five, of the gallery of sharp "
    "faces; for sharp probes (HR) and probes shrunk to 36 px and back (LR). The first seed, with 95 % intervals over "
    "people.",
    "dose": "Accuracy against how much high resolution is given: the share of its identities, with which its share of "
    "a batch falls too, and the share of its images in every batch. At 0 the run with as many steps and none of it. "
    "Bars are 95 % intervals, as in the first figure.",
}
STAGES = ("regime", "control", "dose", "remedy")
"""Each has a colour in the figure of accuracies."""


def write_figures(out: Path, results: StudyResults) -> dict[str, Path]:
    """Draw all there is data for into ``out/figures``; name -> PNG. ``regime-<label>`` are those of one regime."""
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    trained = {label: regime for label, regime in results.regimes.items() if regime.stage != "sphere"}
    verified = {label: result for label, result in results.verified().items() if label in trained}
    base = results.verified(apart=False)
    base_regimes = {label: trained[label] for label in base}
    pairs = results.data.pairs.name if results.data.pairs else None
    wanted: dict[str, tuple[Any, ...]] = {
        "accuracy": (_accuracy, verified, trained), "folds": (_folds, base),
        "matrix": (_matrix, results.contrasts, list(base)),
        "loss": (curves.loss, trained, out), "progress": (curves.progress, trained if pairs else {}, out, pairs),
        "roc": (curves.roc_curves, base_regimes, out), "resolution": (curves.by_resolution, base),
        "cross": (_cross, base), "identification": (_identification, base), "dose": (_dose, results.dose),
    }  # fmt: skip
    wanted = {name: (draw, *data) for name, (draw, *data) in wanted.items() if data[0]}
    wanted |= {f"regime-{label}": (curves.of_regime, regime, out, pairs) for label, regime in trained.items()}
    wanted |= remedies_figures.wanted(results)
    files = {name: folder / f"{name}.png" for name in wanted}
    return {name: files[name] for name, (draw, *data) in wanted.items() if attempt(draw, files[name], *data)}


def _rows(axes: Any, labels: Iterable[str]) -> None:
    """A row for each label, from the top."""
    names = list(labels)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)


def _accuracy(path: Path, verified: Mapping[str, MainVerification], regimes: Mapping[str, RegimeResult]) -> bool:
    with figure_file(path, size=(6.4, 1.1 + 0.34 * len(verified))) as (axes,):
        for row, (label, result) in enumerate(verified.items()):
            colour = COLOURS[STAGES.index(regimes[label].stage)]
            axes.plot([100 * end for end in result.accuracy.interval], [row, row], color=colour, linewidth=2)
            axes.plot(100 * result.accuracy.value, row, "o", color=colour)
            seeds = [100 * value for value in result.accuracy.by_seed.values()]
            axes.plot(seeds, [row + 0.25] * len(seeds), ".", color=colour, markersize=4, alpha=0.7)
        _rows(axes, verified)
        for stage, colour in zip(STAGES, COLOURS, strict=False):
            if any(regimes[label].stage == stage for label in verified):
                axes.plot([], [], "o-", color=colour, label=stage)
        legend_above(axes)
        axes.set_xlabel("10-fold accuracy (%)")
    return True


def _folds(path: Path, verified: Mapping[str, MainVerification]) -> bool:
    with figure_file(path, size=(6.4, 1.1 + 0.34 * len(verified))) as (axes,):
        for row, result in enumerate(verified.values()):
            values = [100 * accuracy for folds in result.folds.values() for accuracy in folds]
            axes.plot(values, row + np.linspace(-0.25, 0.25, len(values)), ".", color=COLOURS[0], alpha=0.6)
            axes.plot([np.median(values)] * 2, [row - 0.35, row + 0.35], color=COLOURS[1])
        _rows(axes, verified)
        axes.set_xlabel("accuracy of each fold (%); the line is the median")
    return True


def _matrix(path: Path, contrasts: Sequence[ContrastResult], labels: list[str]) -> bool:
    size = len(labels)
    values, significant = np.full((size, size), np.nan), np.zeros((size, size), bool)
    for contrast in contrasts:
        i, j = labels.index(contrast.a), labels.index(contrast.b)
        values[i, j], values[j, i] = 100 * contrast.difference, -100 * contrast.difference
        significant[i, j] = significant[j, i] = contrast.significant
    with figure_file(path, size=(2.2 + 0.6 * size, 1.9 + 0.45 * size)) as (axes,):
        most = max(1.0, float(np.nanmax(np.abs(values), initial=0)))
        axes.imshow(values, cmap="PuOr", vmin=-1.6 * most, vmax=1.6 * most, aspect="auto")
        for i, j in np.argwhere(~np.eye(size, dtype=bool)):
            axes.text(j, i, f"{round(values[i, j], 1) + 0.0:+.1f}", ha="center", va="center", fontsize=8,
                      fontweight="bold" if significant[i, j] else "normal")  # fmt: skip
        axes.set_xticks(range(size), labels, rotation=45, ha="right", fontsize=8)
        axes.set_yticks(range(size), labels, fontsize=8)
        axes.grid(False)
        axes.set_title("row minus column, points", fontsize=10)
    return True


def _cross(path: Path, verified: Mapping[str, MainVerification]) -> bool:
    views = {view: None for result in verified.values() for view in result.cross_resolution}
    accuracies = {view: [result.cross_resolution[view] for result in verified.values()] for view in views}
    with figure_file(path, size=(6.4, 1.1 + 0.42 * len(verified))) as (axes,):
        series = {view: [percent(rate.value, rate.interval) for rate in rates] for view, rates in accuracies.items()}
        dots(axes, list(verified), series)
        legend_above(axes)
        axes.set_xlabel("10-fold accuracy (%)")
    return True


def _identification(path: Path, verified: Mapping[str, MainVerification]) -> bool:
    known = {label: result.identification for label, result in verified.items() if result.identification}
    if not known:
        return False
    with figure_file(path, size=(6.4, 1.1 + 0.46 * len(known))) as (axes,):
        series = {
            f"rank {rank}, {view} probes": [percent(*found.of(view).rate(rank)) for found in known.values()]
            for rank in (1, 5)
            for view in ("HR", "LR")
        }
        dots(axes, list(known), series)
        legend_above(axes)
        axes.set_xlabel("probes identified (%)")
    return True


def _dose(path: Path, doses: Sequence[DoseResult]) -> bool:
    kinds = list(dict.fromkeys(dose.kind for dose in doses))
    names = {"highres_identities": "highres identities used (%)", "highres_share": "highres images in a batch (%)"}
    with figure_file(path, len(kinds)) as panels:
        for axes, kind in zip(panels, kinds, strict=True):
            for colour, regime in zip(COLOURS, dict.fromkeys(dose.regime for dose in doses), strict=False):
                shown = [dose for dose in doses if dose.kind == kind and dose.regime == regime]
                if shown:
                    value = np.array([100 * dose.value for dose in shown])
                    error = np.abs(100 * np.array([dose.interval for dose in shown]).T - value)
                    axes.errorbar([100 * dose.dose for dose in shown], value, error, fmt="o-", color=colour,
                                  capsize=3, label=regime)  # fmt: skip
            axes.set(xlabel=names[kind], ylabel="10-fold accuracy (%)")
            axes.legend(fontsize=8)
    return True
