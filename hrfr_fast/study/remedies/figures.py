"""Figures of remedies: changes against the base, accuracy by test resolution, calibration, and the probe."""

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrfr_fast.reporting.figures import COLOURS, dots, figure_file, legend_above
from hrfr_fast.study.curves import resolution_curves, resolution_panels
from hrfr_fast.study.remedies.results import Calibration, RemediesResult
from hrfr_fast.study.results import MainVerification, StudyResults
from hrfr_fast.study.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CAPTIONS = {
    "remedies": "What each remedy changes, with paired 95 % intervals over people, and over seeds where there are "
    "three or more. Left of 0 a probe of the true resolution gets worse, right of 0 accuracy rises: both are good. The "
    "last panel shows development people, whom the choice has seen.",
    "remedies-probe": "Probe: how well a classifier guesses the true resolution from an embedding: 0.5 is chance. On a "
    "degradation that no model here was trained on, over all seeds. Bars are 95 % intervals, as above.",
    "remedies-resolution": "Accuracy when both faces of every pair are shrunk to so many pixels first; each remedy "
    "with its 95 % interval as a band, the base dashed.",
    "remedies-calibration": "False accept rate at each test resolution, with one threshold whose FAR over all "
    "resolutions together is at most 1e-2 (dotted). A calibrated model is a flat line.",
}


def wanted(results: StudyResults) -> dict[str, tuple[Any, ...]]:
    """Name -> what draws it, and with what; empty for a study of regimes."""
    result = results.remedies
    if result is None:
        return {}
    labels = [result.base, *(row.label for row in result.judged)]
    verified = {label: one for label, one in results.verified().items() if label in labels}
    probes = {label: found for label, found in (results.remedy.probe_auc if results.remedy else {}).items()}
    return {
        "remedies": (_changes, result),
        "remedies-probe": (_probes, {label: probes[label] for label in labels if label in probes}),
        "remedies-resolution": (_by_resolution, verified, result.base),
        "remedies-calibration": (_calibration, result.calibration.get("all", {}), result.base),
    }


def _changes(path: Path, result: RemediesResult) -> bool:
    """A panel for each quantity, a row for each remedy."""
    labels = [row.label for row in result.judged]
    names = [name for name in result.judged[0].against[result.base] if "LR36" not in name and name != "effective rank"]
    panels: dict[str, list[Summary | None]] = {
        name: [row.against[result.base].get(name) for row in result.judged] for name in names
    }
    panels["native LR accuracy (development)"] = [row.native for row in result.judged]
    with figure_file(path, len(panels), size=(2.2 + 2.2 * len(panels), 1.4 + 0.34 * len(labels))) as axes:
        for number, (panel, (name, changes)) in enumerate(zip(axes, panels.items(), strict=True)):
            scale = 1 if name.startswith("probe") else 100
            known = [(row, change) for row, change in enumerate(changes) if change is not None]
            for row, change in known:
                panel.plot([scale * end for end in change.interval], [row, row], color=COLOURS[0], linewidth=2)
                panel.plot(scale * change.value, row, "o", color=COLOURS[0], markersize=5)
            panel.axvline(0, color="grey", linewidth=0.8)
            panel.set_yticks(range(len(labels)), labels if number == 0 else [""] * len(labels))
            panel.set_ylim(len(labels) - 0.5, -0.5)
            panel.set_xlabel(f"{name}\n({'AUC' if scale == 1 else 'points'})", fontsize=8)
            panel.tick_params(labelsize=8)
    return True


def _probes(path: Path, probes: Mapping[str, Mapping[str, Summary]]) -> bool:
    kinds = [kind for kind in next(iter(probes.values())) if "LR36" not in kind]
    with figure_file(path, size=(6.4, 1.2 + 0.4 * len(probes))) as (axes,):
        series = {
            kind: [(found[kind].value, found[kind].interval) for found in probes.values() if kind in found]
            for kind in kinds
        }
        dots(axes, list(probes), series)
        axes.axvline(0.5, color="grey", linewidth=0.8)
        legend_above(axes)
        axes.set_xlabel("AUC of the probe of true resolution")
    return True


def _by_resolution(path: Path, verified: Mapping[str, MainVerification], base: str) -> bool:
    curves = resolution_curves(verified)
    others = [label for label in curves if label != base]
    if base not in curves or not others:
        return False

    def draw_base(axes: "Axes") -> None:
        axes.plot(curves[base][0], 100 * curves[base][1], "--", color=COLOURS[1])

    resolution_panels(path, curves, others, draw_base, f"resolution of the test faces in pixels; dashed: {base}")
    return True


def _calibration(path: Path, found: Mapping[str, Calibration], base: str) -> bool:
    if base not in found:
        return False
    with figure_file(path, size=(6.4, 4.2)) as (axes,):
        looks = [(colour, style) for style in ("-", ":") for colour in COLOURS]
        for (label, one), (colour, style) in zip(found.items(), cycle(looks), strict=False):
            rows = [row for row in one.rows if row.view.isdecimal()]
            look = {"color": "black", "linestyle": "--"} if label == base else {"color": colour, "linestyle": style}
            axes.plot([int(row.view) for row in rows], [100 * row.far.value for row in rows], marker=".", label=label,
                      **look)  # fmt: skip
        pixels = [int(row.view) for row in found[base].rows if row.view.isdecimal()]
        axes.axhline(1.0, color="grey", linestyle=":", linewidth=1)
        axes.set(xscale="log", xlabel="resolution of the test faces in pixels", ylabel="false accept rate (%)")
        axes.set_xticks(pixels, [str(size) for size in pixels])
        axes.minorticks_off()
        legend_above(axes)
    return True
