"""Curves of one training run as PNG files: loss and learning rate, accuracy over time, ROC, scores."""

from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from hrfr_fast.evaluation.verification import Verification, roc
from hrfr_fast.reporting.canvas import attempt
from hrfr_fast.reporting.figures import COLOURS, figure_file, roc_axes
from hrfr_fast.training.metrics import read_metrics


def write_curves(run: Path, verifications: Mapping[str, Verification]) -> list[Path]:
    """Draw all there is data for into ``run/report``; returns the files. What cannot be drawn is left out."""
    folder = run / "report"
    folder.mkdir(parents=True, exist_ok=True)
    lines = read_metrics(run / "metrics.jsonl")
    trained, watched = ([line for line in lines if line["kind"] == kind] for kind in ("train", "verification"))
    wanted: dict[str, tuple[Callable[..., Path], object]] = {"loss.png": (_loss, trained)} if trained else {}
    if watched:
        wanted["accuracy.png"] = (_accuracy, watched)
    if verifications:
        wanted |= {"roc.png": (_roc, verifications), "scores.png": (_scores, verifications)}
    return [folder / name for name, (draw, data) in wanted.items() if attempt(draw, folder / name, data)]


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
        for colour, name in zip(cycle(COLOURS), sorted({line["pairs"] for line in lines}), strict=False):
            shown = [line for line in lines if line["pairs"] == name]
            kind = shown[0]["pairs_kind"]
            axes.plot(
                [line["epoch"] for line in shown],
                [100 * line["accuracy"] for line in shown],
                marker="o", markersize=4, linestyle="-" if kind == "development" else ":", color=colour,
                label=f"{name} ({kind})" if kind == "development" else f"{name} ({kind}: watched only)",
            )  # fmt: skip
        axes.axhline(50, color="grey", linewidth=0.8)
        axes.set(xlabel="epoch", ylabel="10-fold accuracy (%)")
        axes.legend()
    return path


def _roc(path: Path, verifications: Mapping[str, Verification]) -> Path:
    with figure_file(path) as (axes,):
        for colour, (name, result) in zip(cycle(COLOURS), verifications.items(), strict=False):
            far, tar = roc(result.scores, result.same)
            shown = far > 0
            axes.plot(far[shown], tar[shown], color=colour, label=f"{name}: AUC {result.auc:.3f}")
            axes.plot(result.eer, 1 - result.eer, marker="o", color=colour)
        roc_axes(axes)
        axes.legend(loc="lower right")
    return path


def _scores(path: Path, verifications: Mapping[str, Verification]) -> Path:
    name, result = max(verifications.items(), key=lambda item: item[1].pairs)
    with figure_file(path) as (axes,):
        bins = np.linspace(result.scores.min(), result.scores.max(), 60).tolist()
        for kind, colour, label in ((result.same, COLOURS[0], "same person"), (~result.same, COLOURS[1], "different")):
            axes.hist(result.scores[kind], bins, color=colour, alpha=0.6, label=label)
        axes.axvline(result.threshold, color="black", linewidth=0.8, linestyle="--")
        axes.set(xlabel=f"cosine similarity, {name}", ylabel="pairs")
        axes.legend()
    return path
