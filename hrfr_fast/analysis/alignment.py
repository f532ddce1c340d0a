"""Does moving the low-resolution cloud onto the high-resolution one close the gap?

Maps are fitted on half of the identities, and judged on pairs of the other half: a high-resolution picture against
another picture in low resolution, mapped and renormalised. Coherent Point Drift, like the two controls (translation,
CORAL), sees two clouds; Procrustes and the linear map are also shown which points are the same picture.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis import cpd, maps
from hrfr_fast.analysis.distances import d_prime_of, edges_of, overlap_of
from hrfr_fast.analysis.finding import Figure, Finding
from hrfr_fast.analysis.intervals import at_once
from hrfr_fast.analysis.pairing import Pairs, halves, identity_pairs
from hrfr_fast.analysis.resolution_gap import probe
from hrfr_fast.analysis.spaces import HR, LR36, Model, Spaces
from hrfr_fast.evaluation.bootstrap import paired_difference
from hrfr_fast.evaluation.verification import Verification, verify
from hrfr_fast.reporting import figures as drawing

if TYPE_CHECKING:
    import torch

KEY = "alignment"
QUESTION = "Does aligning the two resolutions' point clouds close the gap between them?"
MOST_FOR_PYCPD = 2000  # points a cloud: its arrays then take some 0.5 GB
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
"""Method -> whether it is shown which points are the same picture."""


def fit(
    source: NDArray[np.floating],
    target: NDArray[np.floating],
    device: "torch.device | str" = "cpu",
    seed: int = 0,
    methods: Iterable[str] = METHODS,
) -> dict[str, maps.Map]:
    """Each method's map from ``source`` (low-resolution views, [n, D]) to ``target`` (the same pictures, [n, D])."""
    fewer = np.random.default_rng([seed, 6]).permutation(len(source))[:MOST_FOR_PYCPD]
    some = partial(maps.drift, source[fewer], target[fewer])
    fits: dict[str, Callable[[], maps.Map]] = {
        NONE: lambda: lambda points: np.asarray(points, np.float64),
        "translation (control)": lambda: maps.translation(source, target),
        "CORAL (control)": lambda: maps.coral(source, target),
        "CPD rigid, 3 axes": lambda: some(3, partial(cpd.with_pycpd, kind="rigid")),
        "CPD affine, 3 axes": lambda: some(3, partial(cpd.with_pycpd, kind="affine")),
        CPD: lambda: maps.drift(source, target, 32, partial(cpd.affine, device=device)),
        "Procrustes": lambda: maps.procrustes(source, target),
        LINEAR: lambda: maps.linear(source, target),
    }
    return {method: fits[method]() for method in methods}


def judge(
    hr: NDArray[np.floating], lr: NDArray[np.floating], mapped: maps.Map, pairs: Pairs, identities: NDArray[np.int64],
    seed: int = 0,
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
        "d_prime": at_once(d_prime_of(scores, pairs.same), len(scores)),
        "overlap": at_once(overlap_of(scores, pairs.same), len(scores)),
        "same_picture_cosine": float(np.einsum("nd,nd->n", hr, moved).mean()),
        "probe_auc": gap.auc,
    }
    return numbers, result


def within_axes(
    reduced: maps.Reduced, hr: NDArray[np.floating], lr: NDArray[np.floating], pairs: Pairs
) -> dict[str, float]:
    """HR-LR AUC before and after, seen in the principal axes alone: what the drift itself works on."""
    high, low = reduced.project(hr), reduced.project(lr)
    before = verify(pairs.cosines(high, low), pairs.same, resamples=0)
    after = verify(pairs.cosines(high, reduced.inner(low)), pairs.same, resamples=0)
    return {"dimensions": float(high.shape[1]), "auc_before": before.auc, "auc_after": after.auc}


def measure(spaces: Spaces, model: Model) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]], Pairs]:
    """Numbers by method, the scores of the test pairs by method, and those pairs."""
    hr, lr = spaces.embeddings(model, HR), spaces.embeddings(model, LR36)
    fitted = halves(spaces.identities, spaces.seed)
    methods = fit(lr[fitted], hr[fitted], spaces.compute.device, spaces.seed)
    hr, lr, identities = hr[~fitted], lr[~fitted], spaces.identities[~fitted]
    pairs = identity_pairs(identities, ordered=True, seed=spaces.seed)
    numbers: dict[str, Any] = {
        "near_identity_control": model.sees_no_detail,
        "identities_fitted_on": len(np.unique(spaces.identities[fitted])),
        "identities_judged_on": len(np.unique(identities)),
        "pairs": len(pairs.same),
        "methods": {},
    }
    results: dict[str, Verification] = {}
    for method, mapped in methods.items():
        mine, results[method] = judge(hr, lr, mapped, pairs, identities, spaces.seed)
        mine["correspondences"] = METHODS[method]
        mine["accuracy_gain"] = list(
            paired_difference(
                results[method].correct, results[NONE].correct, pairs.same, pairs.identities, seed=spaces.seed
            )
        )
        if isinstance(mapped, maps.Reduced):
            mine["within_axes"] = within_axes(mapped, hr, lr, pairs)
            mine["iterations"] = mapped.inner.iterations
        numbers["methods"][method] = mine
    return numbers, {method: result.scores for method, result in results.items()}, pairs


def analyse(spaces: Spaces, out: Path) -> Finding:
    """Answer the question for every model, with a figure each."""
    numbers: dict[str, Any] = {}
    figures, sentences = [], []
    for model in spaces.models:
        numbers[model.name], scores, pairs = measure(spaces, model)
        figures.append(_draw(model, numbers[model.name], scores, pairs, out / f"{KEY}-{model.name}.png"))
        sentences.append(_sentence(model, numbers[model.name]["methods"]))
    sentences.append(
        "CPD, translation and CORAL see two clouds; Procrustes and the linear map are also shown which points are the"
        " same picture, which no user of a low-resolution camera knows."
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
    model: Model, numbers: dict[str, Any], scores: dict[str, NDArray[np.float64]], pairs: Pairs, path: Path
) -> Figure:
    edges = edges_of(np.concatenate(list(scores.values())))
    with drawing.figure(path, 3, 3, cell=(4.2, 3.0)) as axes:
        for one, (method, values) in zip(axes.flat, scores.items(), strict=False):
            drawing.histograms(one, {"one person": values[pairs.same], "two people": values[~pairs.same]}, edges)
            hint = ", knows the pairs" if METHODS[method] else ""
            one.set_title(f"{method}{hint}: d' {numbers['methods'][method]['d_prime']:.2f}", fontsize=10)
            one.set_xlabel("cosine similarity, HR against LR")
        axes[0][0].legend(title=model.label, fontsize=8, title_fontsize=8, loc="upper left")
        last = axes[2][2]
        mine = numbers["methods"]
        spans = [drawing.percent(entry["accuracy"], entry["accuracy_ci"]) for entry in mine.values()]
        drawing.dots(last, list(mine), {"": spans})
        last.set_xlabel("HR-LR accuracy (%), 95 % interval")
        last.tick_params(axis="y", labelsize=7)
    return Figure(
        path,
        f"Pairs of one sharp and one blurred picture through {model.name}, before (none) and after moving the blurred"
        " pictures' embeddings, on people the move was not fitted on. A map that helps pulls the two hills apart.",
    )
