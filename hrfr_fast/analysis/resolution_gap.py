"""Separation of embeddings by true resolution, measured by a probe on the same pictures in two views.

The probe is a classifier (Alain & Bengio, "Understanding intermediate layers using linear classifier probes", 2016)
that predicts from an embedding whether the picture was shown in high or in low resolution. It is tested on identities
that it was not fitted on: folds are of identities, and both views of a picture are in one fold. An AUC of 0.5 means
that the embedding does not carry the resolution. :func:`probe` is also the remedy's criterion of success.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis.embedding_cache import HELD_OUT, HR, LR32, LR36, EmbeddingCache
from hrfr_fast.analysis.finding import CaptionedFigure, Finding
from hrfr_fast.analysis.intervals import (
    RESAMPLES,
    Statistic,
    auc_statistic,
    mean_statistic,
    percentile_interval,
    sample_value,
)
from hrfr_fast.analysis.models import Model
from hrfr_fast.evaluation.bootstrap import balanced_mean
from hrfr_fast.reporting import figures as drawing
from hrfr_fast.runtime.errors import UsageError

KEY = "resolution_gap"
QUESTION = "Do the embeddings separate by true resolution?"
FOLDS = 5
NEIGHBOURS = 15
KINDS = ("linear", "knn")
VERDICTS = ((0.1, "hardly"), (0.4, "partly"), (2.0, "yes"))
"""The word for an AUC nearer than each bound to 0.5, where its interval does not hold 0.5."""
MOST_SHOWN = 500  # pictures in the 2-D figures: t-SNE of 1,000 points takes seconds
MOST_SILHOUETTE = 2000  # pictures: its distances are quadratic


@dataclass(frozen=True)
class Probe:
    """The accuracy of a probe of the true resolution; 0.5 is chance.

    Intervals resample identities with the probe fixed. Arrays hold the N high-resolution views, then the N
    low-resolution ones.
    """

    auc: float
    """Probability that a low-resolution view gets more confidence than a high-resolution one of another person."""
    auc_ci: tuple[float, float] | None
    balanced_accuracy: float
    balanced_accuracy_ci: tuple[float, float] | None
    scores: NDArray[np.float64] = field(repr=False)
    """float64 [2N]: the probe's confidence in low resolution, in [0, 1]."""
    low: NDArray[np.bool_] = field(repr=False)
    """bool [2N]: the truth."""
    identities: NDArray[np.int64] = field(repr=False)
    """int64 [2N]."""

    def to_json(self) -> dict[str, Any]:
        return {
            "auc": self.auc,
            "auc_ci": list(self.auc_ci) if self.auc_ci else None,
            "balanced_accuracy": self.balanced_accuracy,
            "balanced_accuracy_ci": list(self.balanced_accuracy_ci) if self.balanced_accuracy_ci else None,
        }


def probe(
    embeddings_hr: NDArray[np.floating],
    embeddings_lr: NDArray[np.floating],
    identities: NDArray[np.int64],
    *,
    kind: str = "linear",
    tested_lr: NDArray[np.floating] | None = None,
    folds: int = FOLDS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Probe:
    """A cross-validated probe of the true resolution of embeddings.

    Args:
        embeddings_hr, embeddings_lr: [N, D], row i of both the same picture; unit rows are expected.
        identities: int64 [N].
        kind: "linear", a logistic regression on standardised embeddings, or "knn", the 15 nearest neighbours.
        tested_lr: [N, D], low-resolution views to test on in place of ``embeddings_lr``, for a probe that is fitted on
            one degradation and tested on another.
        folds: at most; never more than identities.
        resamples: of the bootstrap; 0 for no intervals.

    Raises:
        UsageError: an unknown kind, lengths that differ, or fewer than two identities.
        HrfrError: scikit-learn is not installed.
    """
    tested_lr = embeddings_lr if tested_lr is None else tested_lr
    if not len(embeddings_hr) == len(embeddings_lr) == len(tested_lr) == len(identities):
        raise UsageError("a probe needs both views of every picture, and its identity")
    count = len(identities)
    fold = folds_of(identities, folds, seed)
    low, scores = np.arange(2 * count) >= count, np.empty(2 * count)
    both_identities = np.concatenate([identities, identities])
    for number in np.unique(fold):
        inside = fold == number
        fitted = classifier(kind, int(2 * (~inside).sum()))
        both = np.concatenate([embeddings_hr[~inside], embeddings_lr[~inside]])
        fitted.fit(both, np.arange(len(both)) >= len(both) // 2)
        scores[:count][inside] = fitted.predict_proba(embeddings_hr[inside])[:, 1]
        scores[count:][inside] = fitted.predict_proba(tested_lr[inside])[:, 1]
    area, accuracy = auc_statistic(scores, low, both_identities), _balanced(scores, low)
    return Probe(
        sample_value(area, 2 * count),
        percentile_interval(area, both_identities, resamples=resamples, seed=seed) if resamples else None,
        sample_value(accuracy, 2 * count),
        percentile_interval(accuracy, both_identities, resamples=resamples, seed=seed) if resamples else None,
        scores,
        low,
        both_identities,
    )


def folds_of(identities: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """int64 [N]: the fold of each picture, whole identities together. Raises UsageError for a single identity."""
    from sklearn.model_selection import GroupKFold

    folds = min(folds, len(np.unique(identities)))
    if folds < 2:
        raise UsageError("a probe needs at least two identities")
    fold = np.empty(len(identities), np.int64)
    splitter = GroupKFold(folds, shuffle=True, random_state=seed)
    for number, (_, inside) in enumerate(splitter.split(identities, groups=identities)):
        fold[inside] = number
    return fold


def classifier(kind: str, examples: int) -> Any:
    """An unfitted probe of ``kind`` for so many examples. Raises UsageError for an unknown kind."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind == "linear":
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    if kind == "knn":
        return KNeighborsClassifier(min(NEIGHBOURS, examples), algorithm="brute")
    raise UsageError(f"no probe is called {kind!r}; there are {', '.join(KINDS)}")


def _balanced(scores: NDArray[np.float64], low: NDArray[np.bool_]) -> Statistic:
    """Mean of the two views' shares of right guesses; both views are equally many. A tie counts half."""
    right = np.where(scores == 0.5, 0.5, (scores > 0.5) == low)
    return lambda weights: balanced_mean(right, low, weights)


def same_picture_cosine(hr: NDArray[np.floating], lr: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cosine of the two views of each picture, float64 [N]; unit rows [N, D]."""
    return np.einsum("nd,nd->n", hr.astype(np.float64), lr.astype(np.float64))


def centroid_distance(hr: NDArray[np.floating], lr: NDArray[np.floating]) -> tuple[float, float]:
    """Distance of the two views' means, and the same in units of the views' own spread (root mean square)."""
    distance = float(np.linalg.norm(hr.mean(axis=0) - lr.mean(axis=0)))
    spread = np.sqrt((_scatter(hr) + _scatter(lr)) / 2)
    return distance, float(distance / max(spread, 1e-12))


def _scatter(points: NDArray[np.floating]) -> float:
    return float(((points - points.mean(axis=0)) ** 2).sum(axis=1).mean())


def silhouette(hr: NDArray[np.floating], lr: NDArray[np.floating], seed: int = 0) -> float:
    """Silhouette of the two views as clusters (Rousseeuw 1987), -1 to 1, 0: none; of 2,000 pictures at most."""
    from sklearn.metrics import silhouette_score

    chosen = np.random.default_rng([seed, 4]).permutation(len(hr))[:MOST_SILHOUETTE]
    both = np.concatenate([hr[chosen], lr[chosen]])
    return float(silhouette_score(both, np.arange(len(both)) >= len(chosen), metric="euclidean"))


def planes(hr: NDArray[np.floating], lr: NDArray[np.floating], seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """2-D positions [2n, 2] of at most 500 pictures' two views: PCA, and t-SNE (van der Maaten & Hinton 2008)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    chosen = np.random.default_rng([seed, 5]).permutation(len(hr))[:MOST_SHOWN]
    both = np.concatenate([hr[chosen], lr[chosen]])
    perplexity = min(30.0, (len(both) - 1) / 3)
    return {
        "PCA": PCA(2, random_state=seed).fit_transform(both),
        "t-SNE": TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(both),
    }


def probe_model(cache: EmbeddingCache, model: Model) -> tuple[dict[str, Any], dict[str, Probe]]:
    """All numbers of one model, and its probes by "<kind> <view>"."""
    hr, identities, seed = cache.embeddings(model), cache.identities, cache.seed
    numbers: dict[str, Any] = {"input_size": model.input_size, "near_identity_control": model.sees_no_detail}
    probes = {}
    for view in (LR36, LR32, HELD_OUT):
        lr = cache.embeddings(model, view)
        cosine = same_picture_cosine(hr, lr)
        distance, in_spreads = centroid_distance(hr, lr)
        entry: dict[str, Any] = {
            "same_picture_cosine": float(cosine.mean()),
            "same_picture_cosine_ci": list(percentile_interval(mean_statistic(cosine), identities, seed=seed)),
            "silhouette": silhouette(hr, lr, seed),
            "centroid_distance": distance,
            "centroid_distance_in_spreads": in_spreads,
        }
        for kind in KINDS:
            fitted = probes[f"{kind} {view.name}"] = probe(hr, lr, identities, kind=kind, seed=seed)
            entry[kind] = fitted.to_json()
        numbers[view.name] = entry
    for kind in KINDS:
        transferred = probe(
            hr, cache.embeddings(model, LR36), identities, kind=kind, seed=seed,
            tested_lr=cache.embeddings(model, HELD_OUT),
        )  # fmt: skip
        probes[f"{kind} {LR36.name} to {HELD_OUT.name}"] = transferred
        numbers[HELD_OUT.name][f"{kind}_fitted_on_{LR36.name}"] = transferred.to_json()
    numbers[HELD_OUT.name]["trained_on"] = model.degraded_to(HELD_OUT.size, cache.faces.size)
    return numbers, probes


def analyse(cache: EmbeddingCache, out: Path) -> Finding:
    """Answer the question for every model, with a figure a model and one of all probes."""
    numbers, figures = {}, []
    probes: dict[str, dict[str, Probe]] = {}
    for model in cache.models:
        numbers[model.name], probes[model.name] = probe_model(cache, model)
        figures.append(_draw_planes(cache, model, probes[model.name], out / f"{KEY}-{model.name}.png"))
    figures.insert(0, _draw_probes(cache, probes, out / f"{KEY}.png"))
    return Finding(KEY, QUESTION, _answer(cache, probes), numbers, tuple(figures))


def _answer(cache: EmbeddingCache, probes: dict[str, dict[str, Probe]]) -> str:
    parts = []
    for model in cache.models:
        linear = probes[model.name]["linear LR36"]
        low, high = linear.auc_ci or (linear.auc, linear.auc)
        control = "; it sees every view at that size: a near-identity control" if model.sees_no_detail else ""
        parts.append(
            f"{model.name}: {verdict_on(linear)}, a linear probe separates HR from LR36 with AUC {linear.auc:.3f}"
            f" (95 % interval {low:.3f} to {high:.3f}; 0.5 is chance{control})"
        )
    return "\n".join(f"{part}." for part in parts)


def verdict_on(tested: Probe) -> str:
    """In words, how far a probe separates the views. An AUC that is surely below 0.5 separates them, too: the people
    that the probe was tested on are separated the other way round than those that it was fitted on."""
    low, high = tested.auc_ci or (tested.auc, tested.auc)
    if low <= 0.5 <= high:
        return "not significantly"
    word = next(word for bound, word in VERDICTS if abs(tested.auc - 0.5) < bound)
    return word if tested.auc > 0.5 else f"{word}, the other way round for other people"


def _draw_probes(cache: EmbeddingCache, probes: dict[str, dict[str, Probe]], path: Path) -> CaptionedFigure:
    labels = [model.label for model in cache.models]
    shown = (LR36.name, LR32.name, HELD_OUT.name, f"{LR36.name} to {HELD_OUT.name}")
    with drawing.figure_grid(path, 1, 2, cell=(5.2, 1.6 + 0.9 * len(labels)), sharey=True) as axes:
        for panel, kind in zip(axes[0], KINDS, strict=True):
            series = {}
            for view in shown:
                tested = [probes[model.name][f"{kind} {view}"] for model in cache.models]
                series[view.replace(" to ", " probe on ")] = [(p.auc, p.auc_ci) for p in tested]
            drawing.dots(panel, labels, series)
            panel.axvline(0.5, color="grey", linewidth=0.8)
            title = {"linear": "linear probe", "knn": f"probe of {NEIGHBOURS} nearest neighbours"}[kind]
            panel.set(title=title, xlabel="AUC of the probe of true resolution")
            panel.set_xlim(min(panel.get_xlim()[0], 0.45), 1.01)
        drawing.legend_below(axes[0][0])
    return CaptionedFigure(
        path,
        "How well a classifier predicts from an embedding whether the picture was of high or of low resolution: 0.5 is"
        " chance, 1 is always right. Bars are 95 % intervals over identities; LR56-Lanczos is a degradation that the"
        " probes were not trained on, nor the models unless their settings say so.",
    )


def _draw_planes(cache: EmbeddingCache, model: Model, probes: dict[str, Probe], path: Path) -> CaptionedFigure:
    hr, lr = cache.embeddings(model, HR), cache.embeddings(model, LR36)
    with drawing.figure_grid(path, 1, 2, cell=(4.6, 4.2)) as axes:
        for panel, (name, points) in zip(axes[0], planes(hr, lr, cache.seed).items(), strict=True):
            half = len(points) // 2
            for colour, label, part in (
                (drawing.HIGH, f"{cache.faces.size} px", points[:half]),
                (drawing.LOW, f"{cache.faces.size} to 36 px and back", points[half:]),
            ):
                panel.scatter(*part.T, s=10, color=colour, alpha=0.6, linewidths=0, label=label)
            panel.set(title=f"{model.label}: {name}", xlabel=f"{name} axis 1", ylabel=f"{name} axis 2")
        drawing.legend_below(axes[0][0], title=f"linear probe AUC {probes['linear LR36'].auc:.3f}")
    return CaptionedFigure(
        path,
        f"Embeddings of {model.name}, each picture once as it is and once shrunk to 36 px and back, projected to a"
        " plane in two ways. Two separate clouds mean that embeddings depend on the resolution.",
    )
