"""The figures of a study: rates with intervals, comparison matrix, curves of each regime and of all together."""

from collections.abc import Iterable, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from hrfr_fast.evaluation.verification import roc
from hrfr_fast.reporting.canvas import attempt
from hrfr_fast.reporting.figures import COLOURS, figure_file
from hrfr_fast.study.judge import read_run_scores
from hrfr_fast.study.plan import APART
from hrfr_fast.training.metrics import read_metrics

CAPTIONS = {
    "accuracy": "Share of test pairs decided rightly, with 95 % intervals: over people (pairs, where nobody knows the "
    "people), and over seeds where there are three or more. Small dots are single seeds. Intervals of two regimes may "
    "overlap and the regimes still differ, since they are judged on the same pairs: the contrasts below decide.",
    "folds": "Accuracy of each of the ten folds, every seed: how much the score depends on which tenth is asked.",
    "matrix": "Row minus column, in points of accuracy. Bold: told from chance, of the five contrasts after Holm's "
    "correction, of all others where the 95 % interval excludes 0; of those one in twenty would be bold by chance.",
    "loss": "Training loss of every regime, first seed. Losses over different sets of identities cannot be compared "
    "with each other; whether each falls and flattens can.",
    "progress": "Accuracy on the test pairs while training, first seed. Watched, never used to choose.",
    "roc": "How many true matches each regime accepts (up) for how many false ones (right), first seed.",
    "resolution": "Accuracy when both faces of every pair are shrunk to so many pixels first, with its 95 % interval "
    "as a band and the other regimes in grey; the first seeds only. Where a line is flat, the model does not need the "
    "detail that is taken away.",
    "cross": "Accuracy on the same pairs with both faces sharp (HR-HR), the second shrunk to 36 px and back (HR-LR), "
    "or both (LR-LR).",
    "identification": "1:N: how often the right person is first, or among the first five, of the gallery of sharp "
    "faces; for sharp probes (HR) and probes shrunk to 36 px and back (LR). The first seed, with 95 % intervals over "
    "people.",
    "dose": "Accuracy against how much high resolution is given: the share of its identities, with which its share of "
    "a batch falls too, and the share of its pictures in every batch. At 0 the run with as many steps and none of it.",
}
STYLES = ("-", "--", ":")


def write_figures(out: Path, results: Mapping[str, Any]) -> dict[str, Path]:
    """Draw all there is data for into ``out/figures``; name -> PNG. ``regime-<label>`` are those of one regime."""
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    trained = {label: entry for label, entry in results["regimes"].items() if entry["stage"] != "sphere"}
    judged = {label: entry for label, entry in trained.items() if "accuracy" in entry}
    base = {label: entry for label, entry in judged.items() if entry["stage"] not in APART}
    wanted: dict[str, tuple[Any, ...]] = {}
    for name, draw, shown in (
        ("accuracy", _accuracy, judged), ("folds", _folds, base), ("loss", _loss, trained),
        ("progress", _progress, trained), ("roc", _roc, base), ("resolution", _resolution, base),
        ("cross", _cross, base), ("identification", _identification, base),
    ):  # fmt: skip
        if shown:
            wanted[name] = (draw, shown, out)
    if results["contrasts"]:
        wanted["matrix"] = (_matrix, list(base), results["contrasts"])
    if results.get("dose"):
        wanted["dose"] = (_dose, results["dose"])
    wanted |= {f"regime-{label}": (_one_regime, entry, out) for label, entry in trained.items()}
    files = {name: folder / f"{name}.png" for name in wanted}
    return {name: files[name] for name, (draw, *data) in wanted.items() if attempt(draw, files[name], *data)}


def _looks(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A colour and a line style for each label, the same in every figure that shows the same labels."""
    styles = [{"color": colour, "linestyle": style} for style in STYLES for colour in COLOURS]
    return dict(zip(labels, cycle(styles), strict=False))


def _accuracy(path: Path, regimes: Mapping[str, Any], out: Path) -> bool:
    with figure_file(path, size=(6.4, 1.1 + 0.34 * len(regimes))) as (axes,):
        for place, entry in enumerate(regimes.values()):
            one = entry["accuracy"]
            colour = COLOURS[("regime", "control", "dose").index(entry["stage"])]
            axes.plot([100 * end for end in one["interval"]], [place, place], color=colour, linewidth=2)
            axes.plot(100 * one["value"], place, "o", color=colour)
            seeds = [100 * value for value in one["by_seed"].values()]
            axes.plot(seeds, [place + 0.25] * len(seeds), ".", color=colour, markersize=4, alpha=0.7)
        axes.set_yticks(range(len(regimes)), regimes)
        axes.set_ylim(len(regimes) - 0.4, -0.6)
        for stage, colour in zip(("regime", "control", "dose"), COLOURS, strict=False):
            if any(entry["stage"] == stage for entry in regimes.values()):
                axes.plot([], [], "o-", color=colour, label=stage)
        _legend_above(axes)
        axes.set_xlabel("10-fold accuracy (%)")
    return True


def _folds(path: Path, regimes: Mapping[str, Any], out: Path) -> bool:
    with figure_file(path, size=(6.4, 1.1 + 0.34 * len(regimes))) as (axes,):
        for place, entry in enumerate(regimes.values()):
            values = [100 * v for folds in entry["folds"].values() for v in folds]
            scatter = place + np.linspace(-0.25, 0.25, len(values))
            axes.plot(values, scatter, ".", color=COLOURS[0], alpha=0.6)
            axes.plot([np.median(values)] * 2, [place - 0.35, place + 0.35], color=COLOURS[1])
        axes.set_yticks(range(len(regimes)), regimes)
        axes.set_ylim(len(regimes) - 0.4, -0.6)
        axes.set_xlabel("accuracy of each fold (%); the line is the median")
    return True


def _matrix(path: Path, labels: list[str], contrasts: list[dict[str, Any]]) -> Path:
    size = len(labels)
    values, sure = np.full((size, size), np.nan), np.zeros((size, size), bool)
    for one in contrasts:
        i, j = labels.index(one["a"]), labels.index(one["b"])
        values[i, j], values[j, i] = 100 * one["difference"], -100 * one["difference"]
        sure[i, j] = sure[j, i] = one["verdict"] == "likely real"
    with figure_file(path, size=(2.2 + 0.6 * size, 1.9 + 0.45 * size)) as (axes,):
        most = max(1.0, float(np.nanmax(np.abs(values), initial=0)))
        axes.imshow(values, cmap="PuOr", vmin=-1.6 * most, vmax=1.6 * most, aspect="auto")
        for i in range(size):
            for j in range(size):
                if i != j:
                    axes.text(j, i, f"{round(values[i, j], 1) + 0.0:+.1f}", ha="center", va="center", fontsize=8,
                              fontweight="bold" if sure[i, j] else "normal")  # fmt: skip
        axes.set_xticks(range(size), labels, rotation=45, ha="right", fontsize=8)
        axes.set_yticks(range(size), labels, fontsize=8)
        axes.grid(False)
        axes.set_title("row minus column, points", fontsize=10)
    return path


def _loss(path: Path, regimes: Mapping[str, Any], out: Path) -> bool:
    return _over_steps(path, regimes, out, "train", "loss", "training loss", 1.0)


def _progress(path: Path, regimes: Mapping[str, Any], out: Path) -> bool:
    return _over_steps(path, regimes, out, "verification", "accuracy", "accuracy on the test pairs (%)", 100.0)


def _over_steps(
    path: Path, regimes: Mapping[str, Any], out: Path, kind: str, value: str, label: str, factor: float
) -> bool:
    looks, shown = _looks(regimes), 0
    with figure_file(path, size=(7.6, 4.4)) as (axes,):
        for name, entry in regimes.items():
            lines = _lines(entry, out, kind)
            shown += len(lines)
            if lines:
                marker = {"marker": ".", "markersize": 5} if kind == "verification" else {}
                steps, values = [line["step"] for line in lines], [factor * line[value] for line in lines]
                axes.plot(steps, values, label=name, **marker, **looks[name])
        axes.set(xlabel="optimiser step", ylabel=label)
        _legend_beside(axes)
    return shown > 0


def _lines(entry: Mapping[str, Any], out: Path, kind: str, seed: str | None = None) -> list[dict[str, Any]]:
    """Metrics lines of one run, of the first seed if none is named; verifications of the largest test set only."""
    run = out / entry["runs"][seed or next(iter(entry["runs"]))]
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == kind]
    if kind == "verification":
        tests = {line["pairs"] for line in lines if line["pairs_kind"] == "test"}
        main = max(tests, key=lambda name: entry["other_pairs"].get(name, {}).get("pairs", 0), default=None)
        lines = [line for line in lines if line["pairs"] == main]
    return lines


def _legend_above(axes: Any) -> None:
    columns = 2 if len(axes.get_legend_handles_labels()[0]) > 3 else 3
    axes.figure.legend(fontsize=8, ncols=columns, loc="outside upper center", frameon=False)


def _legend_beside(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, handlelength=3.5, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _curve(axes: Any, entry: Mapping[str, Any], out: Path, seed: str, same: Any, **look: Any) -> bool:
    judged = read_run_scores(out / entry["runs"][seed])
    if judged is None or same is None or "HR-HR" not in judged.by_view:
        return False
    far, tar = roc(judged.by_view["HR-HR"], same)
    axes.plot(far[far > 0], tar[far > 0], **look)
    return True


def _same(entry: Mapping[str, Any], out: Path) -> Any:
    """bool [P] of the main pairs, from the packed data that the run names."""
    from hrfr_fast.format.reader import open_packed
    from hrfr_fast.settings import load_settings
    from hrfr_fast.study.judge import main_pairs

    run = out / next(iter(entry["runs"].values()))
    pairs = main_pairs(open_packed(load_settings(run / "settings.toml").data))
    return None if pairs is None else pairs.same


def _roc(path: Path, regimes: Mapping[str, Any], out: Path) -> bool:
    looks, shown = _looks(regimes), False
    same = _same(next(iter(regimes.values())), out)
    with figure_file(path, size=(7.6, 4.4)) as (axes,):
        for label, entry in regimes.items():
            shown |= _curve(axes, entry, out, next(iter(entry["runs"])), same, label=label, **looks[label])
        axes.set(xscale="log", xlabel="false accept rate", ylabel="true accept rate", ylim=(0, 1.02))
        _legend_beside(axes)
    return shown


def _one_regime(path: Path, entry: Mapping[str, Any], out: Path) -> Path:
    """Loss, accuracy on the way and ROC of one regime, every seed."""
    same = _same(entry, out)
    logged = 0
    with figure_file(path, 3, size=(11.0, 3.3)) as (left, middle, right):
        for colour, seed in zip(cycle(COLOURS), entry["runs"], strict=False):
            train, watched = _lines(entry, out, "train", seed), _lines(entry, out, "verification", seed)
            logged += len(train)
            left.plot([x["step"] for x in train], [x["loss"] for x in train], color=colour, label=f"seed {seed}")
            middle.plot([x["step"] for x in watched], [100 * x["accuracy"] for x in watched], "o-", color=colour)
            _curve(right, entry, out, seed, same, color=colour)
        left.set(xlabel="optimiser step", ylabel="training loss")
        left.legend(fontsize=8)
        if not logged:
            left.set(xticks=[], yticks=[], xlabel="nothing is trained", ylabel="")
        middle.set(xlabel="optimiser step", ylabel="accuracy on the test pairs (%)")
        right.set(xscale="log", xlabel="false accept rate", ylabel="true accept rate", ylim=(0, 1.02))
    return path


def _resolution(path: Path, regimes: Mapping[str, Any], out: Path) -> bool:
    """A panel a regime, with its interval as a band: thirteen bands in one panel would hide each other."""
    curves = {
        label: np.array([[row["pixels"], row["value"], *row["interval"]] for row in entry["by_resolution"]]).T
        for label, entry in regimes.items()
        if entry["by_resolution"]
    }
    if not curves:
        return False
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    with figure_file(path, columns, rows=rows, size=(0.8 + 2.6 * columns, 0.5 + 2.0 * rows)) as panels:
        ends = np.concatenate([100 * curve[2:].ravel() for curve in curves.values()])
        for axes, (label, (pixels, value, low, high)) in zip(panels, curves.items(), strict=False):
            for other in curves.values():
                axes.plot(other[0], 100 * other[1], color="silver", linewidth=0.7)
            axes.fill_between(pixels, 100 * low, 100 * high, color=COLOURS[0], alpha=0.25, linewidth=0)
            axes.plot(pixels, 100 * value, marker=".", color=COLOURS[0])
            axes.set(xscale="log", title=label, ylim=(ends.min() - 1, ends.max() + 1))
            axes.title.set_size(9)
            axes.tick_params(labelsize=8)
            axes.set_xticks(pixels, [f"{p:g}" for p in pixels])
            axes.minorticks_off()
        for axes in panels[len(curves) :]:
            axes.set_visible(False)
        panels[0].figure.supxlabel("side of the test faces in pixels", fontsize=9)
        panels[0].figure.supylabel("10-fold accuracy (%)", fontsize=9)
    return True


def _dots(axes: Any, labels: list[str], series: Mapping[str, list[tuple[float, list[float]]]]) -> None:
    """Rates with intervals in percent, one row a label, one colour a series."""
    for number, (colour, (name, values)) in enumerate(zip(COLOURS, series.items(), strict=False)):
        for place, (value, interval) in enumerate(values):
            at = place + 0.22 * (number - (len(series) - 1) / 2)
            axes.plot([100 * end for end in interval], [at, at], color=colour, linewidth=1.5)
            axes.plot(100 * value, at, "o", color=colour, markersize=4)
        axes.plot([], [], "o-", color=colour, label=name)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    _legend_above(axes)


def _cross(path: Path, regimes: Mapping[str, Any], out: Path) -> bool:
    with figure_file(path, size=(6.4, 1.1 + 0.42 * len(regimes))) as (axes,):
        views = {view: None for entry in regimes.values() for view in entry["cross_resolution"]}
        series = {
            view: [(entry["cross_resolution"][view]["value"], entry["cross_resolution"][view]["interval"])
                   for entry in regimes.values()]
            for view in views
        }  # fmt: skip
        _dots(axes, list(regimes), series)
        axes.set_xlabel("10-fold accuracy (%)")
    return True


def _identification(path: Path, regimes: Mapping[str, Any], out: Path) -> bool:
    known = {label: entry["identification"] for label, entry in regimes.items() if entry["identification"]}
    if not known:
        return False
    with figure_file(path, size=(6.4, 1.1 + 0.46 * len(known))) as (axes,):
        series = {
            f"rank {rank}, {view} probes": [(one[view][f"rank{rank}"], one[view][f"rank{rank}_ci"])
                                            for one in known.values()]
            for rank in (1, 5) for view in ("HR", "LR")
        }  # fmt: skip
        _dots(axes, list(known), series)
        axes.set_xlabel("probes identified (%)")
    return True


def _dose(path: Path, rows: list[dict[str, Any]]) -> Path:
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    names = {"highres_identities": "highres identities used (%)", "highres_share": "highres pictures in a batch (%)"}
    with figure_file(path, len(kinds)) as every:
        for axes, kind in zip(every, kinds, strict=True):
            for colour, regime in zip(COLOURS, dict.fromkeys(row["regime"] for row in rows), strict=False):
                mine = [row for row in rows if row["kind"] == kind and row["regime"] == regime]
                if mine:
                    value = np.array([100 * row["value"] for row in mine])
                    ends = np.array([[100 * end for end in row["interval"]] for row in mine]).T
                    error = np.abs(ends - value)
                    axes.errorbar([100 * row["dose"] for row in mine], value, error, fmt="o-", color=colour,
                                  capsize=3, label=regime)  # fmt: skip
            axes.set(xlabel=names[kind], ylabel="10-fold accuracy (%)")
            axes.legend(fontsize=8)
    return path
