"""Occupancy of the unit sphere by embeddings: metrics for any dimension, tests and a plot for three."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis.embedding_cache import HR, LR36, EmbeddingCache
from hrfr_fast.analysis.finding import CaptionedFigure, Finding
from hrfr_fast.analysis.intervals import p_text
from hrfr_fast.analysis.maps import unit
from hrfr_fast.analysis.models import Model
from hrfr_fast.analysis.pairing import identity_pairs
from hrfr_fast.analysis.uniformity import (
    MOST_FOR_UNIFORMITY,
    alignment,
    centres,
    effective_rank,
    occupancy,
    uniform_points,
    uniformity,
)
from hrfr_fast.format.reader import Split
from hrfr_fast.model.lineage import changed_run_data
from hrfr_fast.regimes import REGIMES
from hrfr_fast.reporting import figures as drawing

KEY = "sphere"
QUESTION = "Do the embeddings fill the sphere?"
SIGNIFICANCE = 0.05
COLLAPSED = -0.05  # uniformity above it: the mean squared distance of two faces is some 0.01 of a possible 4
MOST_PEOPLE = 100  # of those trained on; more cannot be distinguished in a plot


def sphere_statistics(cache: EmbeddingCache, model: Model) -> dict[str, Any]:
    """Uniformity, alignment and effective rank of the faces as they are; tests of occupancy where D is 3."""
    points = cache.embeddings(model).astype(np.float64)
    count, dimensions = points.shape
    pairs = identity_pairs(cache.identities, ordered=False, seed=cache.seed)
    used = min(count, MOST_FOR_UNIFORMITY)
    reference = uniform_points(count, dimensions, cache.seed)
    shuffled = points[np.random.default_rng([cache.seed, 8]).permutation(count)]
    numbers: dict[str, Any] = {
        "dimensions": dimensions,
        "pictures": count,
        "uniformity": uniformity(shuffled),
        "uniformity_of_uniform_points": uniformity(reference[:used]),
        "alignment": alignment(pairs.cosines(points, points)[pairs.same]),
        "effective_rank": effective_rank(points),
        "effective_rank_of_uniform_points": effective_rank(reference),
    }
    if dimensions == 3:
        numbers["occupancy"] = occupancy(centres(points, cache.identities), cache.seed)
        norms = np.linalg.norm(cache.embeddings(model, HR, raw=True), axis=1)
        low_norms = np.linalg.norm(cache.embeddings(model, LR36, raw=True), axis=1)
        numbers["norm"] = {"HR": _spread(norms), "LR36": _spread(low_norms)}
        trained = _trained_on(cache, model)
        if trained:
            directions = centres(unit(_raw(cache, model, trained)), trained.labels)
            numbers["occupancy_trained"] = occupancy(directions, cache.seed) | {"people": trained.identities}
    return numbers


def _trained_on(cache: EmbeddingCache, model: Model) -> Split | None:
    """The faces of the first 100 people that a run was trained on; None where they are not in this data."""
    regime = REGIMES.get(model.metadata.get("regime", ""))
    if regime is None or changed_run_data(model.metadata, cache.packed.manifest):
        return None
    split = cache.packed.splits.get(regime.sources[0])
    if split is None:
        return None
    people = min(model.settings.get("most_identities", 0) or split.identities, MOST_PEOPLE, split.identities)
    return split.first(people)


def _raw(cache: EmbeddingCache, model: Model, split: Split) -> NDArray[np.float32]:
    """f(x) + f(flip x) of all faces of ``split``, [n, D]."""
    from hrfr_fast.evaluation.embedding import embed

    return embed(cache.backbone(model), split, model.input_size, cache.compute, unit=False)


def _spread(values: NDArray[np.floating]) -> dict[str, float]:
    return {"mean": float(values.mean()), "sd": float(values.std())}


def analyse(cache: EmbeddingCache, out: Path) -> Finding:
    """Answer the question for every model; a figure of all metrics, and one of the sphere for each 3-D model."""
    numbers = {model.name: sphere_statistics(cache, model) for model in cache.models}
    figures = [_draw_metrics(cache, numbers, out / f"{KEY}.png")]
    for model in cache.models:
        if numbers[model.name]["dimensions"] == 3:
            figures.append(_draw_sphere(cache, model, numbers[model.name], out / f"{KEY}-{model.name}.png"))
    return Finding(KEY, QUESTION, "\n".join(_sentence(m.label, numbers[m.name]) for m in cache.models), numbers,
                   tuple(figures))  # fmt: skip


def _sentence(name: str, numbers: dict[str, Any]) -> str:
    text = (
        f"{name}: effective rank {numbers['effective_rank']:.1f} of {numbers['dimensions']} dimensions"
        f" ({numbers['effective_rank_of_uniform_points']:.1f} for as many uniform points), uniformity"
        f" {numbers['uniformity']:.2f} ({numbers['uniformity_of_uniform_points']:.2f} if uniform; 0: all in one point)"
    )
    if numbers["uniformity"] > COLLAPSED:
        text += "; all faces lie in nearly one point: training collapsed"
    if "occupancy" not in numbers:
        return text + "."
    text += f"; the directions of people never seen in training {_uniform(numbers['occupancy'])}"
    if "occupancy_trained" in numbers:
        trained = numbers["occupancy_trained"]
        text += f"; those of {trained['people']} people it was trained on {_uniform(trained)}"
    return text + "."


def _uniform(test: dict[str, float]) -> str:
    p = p_text(test["uniform_p"])
    if test["uniform_p"] >= SIGNIFICANCE:
        return f"are not significantly different from uniform ({p})"
    ratio = test["nearest_neighbour_ratio"]
    return f"are not uniform ({p}): nearest neighbours lie at {ratio:.2f} times the distance of uniform points"


def _draw_metrics(cache: EmbeddingCache, numbers: dict[str, Any], path: Path) -> CaptionedFigure:
    from matplotlib.ticker import MaxNLocator

    labels = [model.label for model in cache.models]
    entries = [numbers[model.name] for model in cache.models]
    with drawing.figure_grid(path, 1, 3, cell=(4.6, 1.6 + 0.5 * len(labels)), sharey=True) as axes:
        for panel, (name, reference, text) in zip(
            axes[0],
            (
                ("effective_rank", "effective_rank_of_uniform_points", "effective rank (dimensions)"),
                ("uniformity", "uniformity_of_uniform_points", "uniformity (lower: more even)"),
                ("alignment", None, "alignment: mean squared distance\nof one person's pictures"),
            ),
            strict=True,
        ):
            series: dict[str, Any] = {"this model": [(entry[name], None) for entry in entries]}
            if reference:
                series["uniform points"] = [(entry[reference], None) for entry in entries]
            drawing.dots(panel, labels, series)
            panel.set_xlabel(text)
            panel.xaxis.set_major_locator(MaxNLocator(5))
        axes[0][0].legend(fontsize=8)
    return CaptionedFigure(
        path,
        "How much of the space each model uses. Effective rank counts the directions in use, uniformity says how evenly"
        " faces are spread (beside it, points spread at random), alignment how close pictures of one person lie.",
    )


def _draw_sphere(cache: EmbeddingCache, model: Model, numbers: dict[str, Any], path: Path) -> CaptionedFigure:
    stored = cache.faces.size
    views = ((f"{stored} px", drawing.HIGH, HR), (f"{stored} to 36 px and back", drawing.LOW, LR36))
    trained = _trained_on(cache, model)
    with drawing.figure_grid(path, 1 + bool(trained), 2, cell=(4.6, 4.2), subplot_kw={"projection": "3d"}) as axes:
        directions, lengths = axes[0]
        for label, colour, view in views:
            raw = cache.embeddings(model, view, raw=True)
            directions.scatter(*unit(raw).T, s=6, color=colour, alpha=0.6, linewidths=0, label=label)
            lengths.scatter(*raw.T, s=6, color=colour, alpha=0.6, linewidths=0)
        test, norms = numbers["occupancy"], numbers["norm"]
        directions.set_title(f"{model.label}, unseen people:\nuniform: {p_text(test['uniform_p'])}", fontsize=10)
        directions.legend(fontsize=8, loc="upper left", markerscale=2)
        lengths.set_title(
            f"with their norms\n{norms['HR']['mean']:.1f} at {stored} px, {norms['LR36']['mean']:.1f} at 36 px",
            fontsize=10,
        )
        _globe(directions)
        if trained:
            _draw_trained(axes[1], _raw(cache, model, trained), trained.labels, numbers["occupancy_trained"])
        for panel in axes.flat:
            _tidy(panel)
    return CaptionedFigure(
        path,
        f"The three-dimensional embeddings of {model.name}: as directions on the unit sphere and with their lengths"
        " (of the sum over a face and its mirror image), of people it never saw and, coloured by person, of people it"
        " was trained on. Uniform embeddings use all of the sphere; empty regions are unused.",
    )


def _draw_trained(axes: Any, raw: NDArray[np.floating], people: NDArray[np.int64], test: dict[str, float]) -> None:
    names = np.unique(people)
    colours = [drawing.COLOURS[number % len(drawing.COLOURS)] for number in np.searchsorted(names, people)]
    mean_directions = centres(unit(raw), people)
    axes[0].scatter(*unit(raw).T, s=6, c=colours, alpha=0.6, linewidths=0)
    axes[0].scatter(*(1.02 * mean_directions).T, s=14, color="black", marker="x", linewidths=0.8)
    axes[0].set_title(f"{len(names)} people it was trained on:\nuniform: {p_text(test['uniform_p'])}", fontsize=10)
    axes[1].scatter(*raw.T, s=6, c=colours, alpha=0.6, linewidths=0)
    axes[1].set_title(f"with their norms\nmean {np.linalg.norm(raw, axis=1).mean():.1f}", fontsize=10)
    _globe(axes[0])


def _tidy(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_box_aspect((1, 1, 1))
    axes.grid(False)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=7)
    axes.set(xlabel="axis 1", ylabel="axis 2", zlabel="axis 3")


def _globe(axes: Any) -> None:
    """The unit sphere as a faint grid."""
    around, up = np.mgrid[0 : 2 * np.pi : 25j, 0 : np.pi : 13j]
    axes.plot_wireframe(
        np.cos(around) * np.sin(up), np.sin(around) * np.sin(up), np.cos(up), color="grey", alpha=0.25, linewidth=0.5
    )
