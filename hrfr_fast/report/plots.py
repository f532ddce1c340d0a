"""The curves of a run as PNG files: loss and rate, accuracy over time, ROC, scores."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hrfr_fast.evaluation.verification import Verification, roc
from hrfr_fast.files import write_bytes
from hrfr_fast.training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito (2008): distinguishable with every kind of colour blindness, on light and dark.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def write_curves(run: Path, verifications: Mapping[str, Verification]) -> list[Path]:
    """Draw everything there is data for into ``run/report``; returns the files."""
    folder = run / "report"
    folder.mkdir(parents=True, exist_ok=True)
    lines = read_metrics(run / "metrics.jsonl")
    drawn = [_loss(folder / "loss.png", [line for line in lines if line["kind"] == "train"])]
    watched = [line for line in lines if line["kind"] == "verification"]
    if watched:
        drawn.append(_accuracy(folder / "accuracy.png", watched))
    if verifications:
        drawn += [_roc(folder / "roc.png", verifications), _scores(folder / "scores.png", verifications)]
    return drawn


@contextmanager
def figure_file(
    path: Path, columns: int = 1, *, rows: int = 1, size: tuple[float, float] | None = None
) -> Iterator[Any]:
    """A figure of ``rows`` times ``columns`` axes, ``size`` inches in all, saved to ``path`` when the block ends."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size or (6.4 * min(columns, 2), 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for one in axes:
        one.grid(alpha=0.3)
        one.spines[["top", "right"]].set_visible(False)
    yield axes
    write_figure(path, figure)


def write_figure(path: Path, drawn: "Figure") -> None:
    """Replace ``path`` by a PNG of a figure atomically; Matplotlib's own writing does not say why it failed."""
    content = io.BytesIO()
    drawn.savefig(content, format="png", dpi=130)
    write_bytes(path, content.getvalue())


def _loss(path: Path, lines: list[dict[str, Any]]) -> Path:
    with figure_file(path, 2) as (left, right):
        epochs = [line["epoch"] for line in lines]
        left.plot(epochs, [line["loss"] for line in lines], color=COLOURS[0])
        left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
        right.plot(epochs, [line["learning_rate"] for line in lines], color=COLOURS[1])
        right.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    return path


def _accuracy(path: Path, lines: list[dict[str, Any]]) -> Path:
    """Development pairs solid; test pairs dotted, for they are only watched."""
    with figure_file(path) as (axes,):
        for colour, name in zip(_cycled(), sorted({line["pairs"] for line in lines}), strict=False):
            mine = [line for line in lines if line["pairs"] == name]
            test = mine[0]["pairs_kind"] == "test"
            axes.plot(
                [line["epoch"] for line in mine],
                [100 * line["accuracy"] for line in mine],
                marker="o", markersize=4, linestyle=":" if test else "-", color=colour,
                label=f"{name} ({'test: watched only' if test else 'development'})",
            )  # fmt: skip
        axes.axhline(50, color="grey", linewidth=0.8)
        axes.set(xlabel="epoch", ylabel="10-fold accuracy (%)")
        axes.legend()
    return path


def _roc(path: Path, verifications: Mapping[str, Verification]) -> Path:
    with figure_file(path) as (axes,):
        for colour, (name, result) in zip(_cycled(), verifications.items(), strict=False):
            far, tar = roc(result.scores, result.same)
            shown = far > 0
            axes.plot(far[shown], tar[shown], color=colour, label=f"{name}: AUC {result.auc:.3f}")
            axes.plot(result.eer, 1 - result.eer, marker="o", color=colour)
        axes.set(xscale="log", xlabel="false accept rate", ylabel="true accept rate", ylim=(0, 1.02))
        axes.legend(loc="lower right")
    return path


def _scores(path: Path, verifications: Mapping[str, Verification]) -> Path:
    name, result = max(verifications.items(), key=lambda item: item[1].pairs)
    with figure_file(path) as (axes,):
        bins = np.linspace(result.scores.min(), result.scores.max(), 60).tolist()
        for kind, colour, label in ((result.same, COLOURS[0], "same person"), (~result.same, COLOURS[1], "different")):
            axes.hist(result.scores[kind], bins, color=colour, alpha=0.6, label=label)
        _mark_threshold(axes, result.threshold)
        axes.set(xlabel=f"cosine similarity, {name}", ylabel="pairs")
        axes.legend()
    return path


def _mark_threshold(axes: "Axes", threshold: float) -> None:
    axes.axvline(threshold, color="black", linewidth=0.8, linestyle="--")


def _cycled() -> list[str]:
    return list(COLOURS) * 5
