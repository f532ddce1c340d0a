"""Alignment of the low-resolution point cloud with the high-resolution one: does it close the gap between them?

Maps are fitted on half of the identities and evaluated on pairs of the other half: a high-resolution picture against
another picture in low resolution, mapped and renormalised. Coherent Point Drift, like the two controls (translation,
CORAL), uses the two clouds alone; Procrustes and the linear map also use which points are the same picture.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis import cpd, maps
from hrfr_fast.analysis.distances import d_prime_statistic, edges_of, overlap_statistic
from hrfr_fast.analysis.embedding_cache import HR, LR36, EmbeddingCache
from hrfr_fast.analysis.finding import CaptionedFigure, Finding
from hrfr_fast.analysis.intervals import sample_value
from hrfr_fast.analysis.models import Model
from hrfr_fast.analysis.pairing import IdentityPairs, fitting_half, identity_pairs
from hrfr_fast.analysis.resolution_gap import probe
from hrfr_fast.evaluation.bootstrap import paired_difference
from hrfr_fast.evaluation.verification import Verification, verify
from hrfr_fast.reporting import figures as drawing

if TYPE_CHECKING:
    import torch

KEY = "alignment"
QUESTION = "Does aligning the two resolutions' point clouds close the gap between them?"
MOST_FOR_PYCPD = 2000  # points of a cloud, for which its arrays take about 0.5 GB
NONE, CPD, LINEAR = "none", "CPD affine, 32 axes", "linear map"
METHODS = {
    NONE: False,
    "translation (control)": False,
    "CORAL (control)": False,
    "CPD rigid, 3 axes": False,
    "CPD affine, 3 axes": False,
    CPD: False,
    "Procrustes": True,
    LINEAR: True,
}
"""Method -> whether it uses correspondences: which points are the same picture."""


def fit_maps(
    source: NDArray[np.floating],
    target: NDArray[np.floating],
    device: "torch.device | str" = "cpu",
    seed: int = 0,
    methods: Iterable[str] = METHODS,
) -> dict[str, maps.PointMap]:
    """Each method's map from ``source`` (low-resolution views, [n, D]) to ``target`` (the same pictures, [n, D])."""
    subset = np.random.default_rng([seed, 6]).permutation(len(source))[:MOST_FOR_PYCPD]
    drift = partial(maps.coherent_point_drift, source[subset], target[subset])
    fits: dict[str, Callable[[], maps.PointMap]] = {
        NONE: lambda: lambda points: np.asarray(points, np.float64),
        "translation (control)": lambda: maps.translation(source, target),
        "CORAL (control)": lambda: maps.coral(source, target),
        "CPD rigid, 3 axes": lambda: drift(3, partial(cpd.with_pycpd, kind="rigid")),
        "CPD affine, 3 axes": lambda: drift(3, partial(cpd.with_pycpd, kind="affine")),
        CPD: lambda: maps.coherent_point_drift(source, target, 32, partial(cpd.affine, device=device)),
        "Procrustes": lambda: maps.procrustes(source, target),
        LINEAR: lambda: maps.linear(source, target),
    }
    return {method: fits[method]() for method in methods}


def evaluate_map(
    hr: NDArray[np.floating], lr: NDArray[np.floating], mapped: maps.PointMap, pairs: IdentityPairs,
    identities: NDArray[np.int64], seed: int = 0,
) -> tuple[dict[str, Any], Verification]:  # fmt: skip
    """Numbers after mapping ``lr`` to ``hr`` ([N, D], one row a picture), and HR-LR verification on ``pairs``."""
    moved = maps.unit(mapped(lr))
    scores = pairs.cosines(hr, moved)
    result = verify(scores, pairs.same, pairs.identities, seed=seed)
    gap = probe(hr, moved, identities, resamples=0, seed=seed)
    numbers = {
        "accuracy": result.accuracy,
        "accuracy_ci": list(result.accuracy_ci or ()),
        "auc": result.auc,
        "tar_at_far": result.tar_at_far,
        "d_prime": sample_value(d_prime_statistic(scores, pairs.same), len(scores)),
        "overlap": sample_value(overlap_statistic(scores, pairs.same), len(scores)),
        "same_picture_cosine": float(np.einsum("nd,nd->n", hr, moved).mean()),
        "probe_auc": gap.auc,
    }
    return numbers, result


def within_axes(
    reduced: maps.PrincipalAxesMap, hr: NDArray[np.floating], lr: NDArray[np.floating], pairs: IdentityPairs
) -> dict[str, float]:
    """HR-LR AUC before and after the map in the principal axes alone, the coordinates that it works on."""
    high, low = reduced.project(hr), reduced.project(lr)
    before = verify(pairs.cosines(high, low), pairs.same, resamples=0)
    after = verify(pairs.cosines(high, reduced.inner(low)), pairs.same, resamples=0)
    return {"dimensions": float(high.shape[1]), "auc_before": before.auc, "auc_after": after.auc}


def evaluate_alignment(
    cache: EmbeddingCache, model: Model
) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]], IdentityPairs]:
    """Numbers by method, the scores of the test pairs by method, and those pairs."""
    hr, lr = cache.embeddings(model, HR), cache.embeddings(model, LR36)
    fitted = fitting_half(cache.identities, cache.seed)
    methods = fit_maps(lr[fitted], hr[fitted], cache.compute.device, cache.seed)
    hr, lr, identities = hr[~fitted], lr[~fitted], cache.identities[~fitted]
    pairs = identity_pairs(identities, ordered=True, seed=cache.seed)
    numbers: dict[str, Any] = {
        "near_identity_control": model.sees_no_detail,
        "identities_fitted_on": len(np.unique(cache.identities[fitted])),
        "identities_judged_on": len(np.unique(identities)),
        "pairs": len(pairs.same),
        "methods": {},
    }
    results: dict[str, Verification] = {}
    for method, mapped in methods.items():
        entry, results[method] = evaluate_map(hr, lr, mapped, pairs, identities, cache.seed)
        entry["correspondences"] = METHODS[method]
        entry["accuracy_gain"] = list(
            paired_difference(
                results[method].correct, results[NONE].correct, pairs.same, pairs.identities, seed=cache.seed
            )
        )
        if isinstance(mapped, maps.PrincipalAxesMap):
            entry["within_axes"] = within_axes(mapped, hr, lr, pairs)
            entry["iterations"] = mapped.inner.iterations
        numbers["methods"][method] = entry
    return numbers, {method: result.scores for method, result in results.items()}, pairs


def analyse(cache: EmbeddingCache, out: Path) -> Finding:
    """Answer the question for every model, with a figure each."""
    numbers: dict[str, Any] = {}
    figures, sentences = [], []
    for model in cache.models:
        numbers[model.name], scores, pairs = evaluate_alignment(cache, model)
        figures.append(_draw(model, numbers[model.name], scores, pairs, out / f"{KEY}-{model.name}.png"))
        sentences.append(_sentence(model, numbers[model.name]["methods"]))
    sentences.append(
        "CPD, translation and CORAL use the two clouds alone; Procrustes and the linear map also use which points are"
        " the same picture, which no user of a low-resolution camera knows."
    )
    return Finding(KEY, QUESTION, "\n".join(sentences), numbers, tuple(figures))


def _sentence(model: Model, methods: dict[str, Any]) -> str:
    before, drifted = methods[NONE], methods[CPD]
    best = max((name for name in methods if name != NONE), key=lambda name: methods[name]["accuracy"])
    control = " (its input shrinks both views alike: a near-identity control)" if model.sees_no_detail else ""
    return (
        f"{model.name}{control}: HR-LR accuracy is {before['accuracy']:.1%} as it is and {drifted['accuracy']:.1%}"
        f" after CPD in 32 axes ({_gain(drifted)}); the best of all seven, found afterwards, is {best} with"
        f" {methods[best]['accuracy']:.1%} ({_gain(methods[best])}). The probe's AUC goes from"
        f" {before['probe_auc']:.3f} to {drifted['probe_auc']:.3f} and {methods[best]['probe_auc']:.3f}."
    )


def _gain(numbers: dict[str, Any]) -> str:
    gain, low, high = (100 * value for value in numbers["accuracy_gain"])
    return f"{gain:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}"


def _draw(
    model: Model, numbers: dict[str, Any], scores: dict[str, NDArray[np.float64]], pairs: IdentityPairs, path: Path
) -> CaptionedFigure:
    edges = edges_of(np.concatenate(list(scores.values())))
    with drawing.figure_grid(path, 3, 3, cell=(4.2, 3.0)) as axes:
        for panel, (method, values) in zip(axes.flat, scores.items(), strict=False):
            drawing.histograms(panel, {"one person": values[pairs.same], "two people": values[~pairs.same]}, edges)
            hint = ", with correspondences" if METHODS[method] else ""
            panel.set_title(f"{method}{hint}: d' {numbers['methods'][method]['d_prime']:.2f}", fontsize=10)
            panel.set_xlabel("cosine similarity, HR against LR")
        axes[0][0].legend(title=model.label, fontsize=8, title_fontsize=8, loc="upper left")
        last, methods = axes[2][2], numbers["methods"]
        accuracies = [drawing.percent(entry["accuracy"], entry["accuracy_ci"]) for entry in methods.values()]
        drawing.dots(last, list(methods), {"": accuracies})
        last.set_xlabel("HR-LR accuracy (%), 95 % interval")
        last.tick_params(axis="y", labelsize=7)
    return CaptionedFigure(
        path,
        f"Pairs of one sharp and one blurred picture through {model.name}, before (none) and after moving the blurred"
        " pictures' embeddings, on people the move was not fitted on. A map that helps moves the two histograms apart.",
    )
