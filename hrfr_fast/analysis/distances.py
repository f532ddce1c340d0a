"""Intra- and inter-class distances of embeddings, within and across resolutions."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis.embedding_cache import HR, LR36, EmbeddingCache, View
from hrfr_fast.analysis.finding import CaptionedFigure, Finding
from hrfr_fast.analysis.intervals import Statistic, pair_interval, sample_value
from hrfr_fast.analysis.models import Model
from hrfr_fast.analysis.pairing import IdentityPairs, identity_pairs
from hrfr_fast.reporting import figures as drawing

KEY = "distances"
QUESTION = "How far apart are two pictures of one person, and of two people, within and across resolutions?"
KINDS: dict[str, tuple[View, View]] = {"HR-HR": (HR, HR), "HR-LR": (HR, LR36), "LR-LR": (LR36, LR36)}
BINS = 60


def edges_of(values: NDArray[np.floating], bins: int = BINS) -> NDArray[np.float64]:
    """Bin edges over all values, float64 [bins + 1]."""
    return np.linspace(values.min(), max(values.max(), values.min() + 1e-9), bins + 1)


def overlap_statistic(values: NDArray[np.floating], same: NDArray[np.bool_], bins: int = BINS) -> Statistic:
    """Overlap coefficient of two histograms (Inman & Bradley 1989): the sum over bins of the smaller share.

    1: the two distributions are equal; 0: a threshold separates them. It depends on the bins of the histogram (60 here,
    over the range of all values) and is biased a little downwards where pairs are few.
    """
    from scipy.sparse import csr_array

    bin_of = np.clip(np.searchsorted(edges_of(values, bins), values, side="right") - 1, 0, bins - 1)
    rows = np.arange(len(values))
    genuine = csr_array((same.astype(np.float64), (rows, bin_of)), shape=(len(values), bins))
    impostor = csr_array(((~same).astype(np.float64), (rows, bin_of)), shape=(len(values), bins))

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        shares = [weights @ kind / np.maximum(weights @ mask, 1e-300)[:, None]
                  for kind, mask in ((genuine, same), (impostor, ~same))]  # fmt: skip
        return np.minimum(*shares).sum(axis=1)

    return statistic


def d_prime_statistic(values: NDArray[np.floating], same: NDArray[np.bool_]) -> Statistic:
    """d' = |mean difference| / root of the mean variance (Daugman, "The importance of being random", 2003)."""

    def moments(weights: NDArray[np.float64], kind: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
        part, chosen = weights[:, kind], values[kind].astype(np.float64)
        mass = np.maximum(part.sum(axis=1), 1e-300)
        mean = part @ chosen / mass
        return mean, np.maximum(part @ chosen**2 / mass - mean**2, 0)

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        (mean_a, variance_a), (mean_b, variance_b) = moments(weights, same), moments(weights, ~same)
        return np.abs(mean_a - mean_b) / np.sqrt(np.maximum((variance_a + variance_b) / 2, 1e-24))

    return statistic


def describe(values: NDArray[np.float64], pairs: IdentityPairs, seed: int = 0) -> dict[str, Any]:
    """Means, standard deviations, overlap and d' of genuine and impostor ``values`` [P], with 95 % intervals."""
    numbers: dict[str, Any] = {}
    for name, kind in (("genuine", pairs.same), ("impostor", ~pairs.same)):
        numbers[name] = {"mean": float(values[kind].mean()), "sd": float(values[kind].std())}
    for name, statistic in (
        ("overlap", overlap_statistic(values, pairs.same)),
        ("d_prime", d_prime_statistic(values, pairs.same)),
    ):
        numbers[name] = sample_value(statistic, len(values))
        numbers[f"{name}_ci"] = list(pair_interval(statistic, pairs.same, pairs.identities, seed=seed))
    return numbers


def euclidean(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of unit vectors with these cosines: sqrt(2 - 2 cos)."""
    return np.sqrt(np.maximum(2 - 2 * cosines, 0))


def analyse(cache: EmbeddingCache, out: Path) -> Finding:
    """Answer the question for every model, with a figure each."""
    # The same pairs for all three kinds: impostors drawn anew moved d' by 0.07 on their own, more than the views do.
    pairs = identity_pairs(cache.identities, ordered=True, seed=cache.seed)
    numbers: dict[str, Any] = {}
    figures, sentences = [], []
    for model in cache.models:
        cosines = {}
        entry = numbers[model.name] = {"near_identity_control": model.sees_no_detail}
        for kind, (first, second) in KINDS.items():
            cosines[kind] = pairs.cosines(cache.embeddings(model, first), cache.embeddings(model, second))
            entry[kind] = {
                "genuine_pairs": int(pairs.same.sum()),
                "impostor_pairs": int((~pairs.same).sum()),
                "cosine": describe(cosines[kind], pairs, cache.seed),
                "euclidean": describe(euclidean(cosines[kind]), pairs, cache.seed),
            }
        figures.append(_draw(model, cosines, pairs, entry, out / f"{KEY}-{model.name}.png"))
        sentences.append(_sentence(model, entry))
    return Finding(KEY, QUESTION, "\n".join(sentences), numbers, tuple(figures))


def _sentence(model: Model, numbers: dict[str, Any]) -> str:
    parts = []
    for kind in KINDS:
        value = numbers[kind]["cosine"]
        low, high = value["d_prime_ci"]
        parts.append(f"{kind} d' {value['d_prime']:.2f} ({low:.2f} to {high:.2f}), overlap {value['overlap']:.0%}")
    return f"{model.name}: same and different people are separated by {'; '.join(parts)}."


def _draw(
    model: Model, cosines: dict[str, NDArray[np.float64]], pairs: IdentityPairs, numbers: Any, path: Path
) -> CaptionedFigure:
    with drawing.figure_grid(path, 2, 3) as axes:
        for row, (metric, convert) in enumerate((("cosine", lambda c: c), ("euclidean", euclidean))):
            edges = edges_of(np.concatenate([convert(values) for values in cosines.values()]))
            for panel, (kind, values) in zip(axes[row], cosines.items(), strict=True):
                shown = {"one person": convert(values)[pairs.same], "two people": convert(values)[~pairs.same]}
                drawing.histograms(panel, shown, edges)
                entry = numbers[kind][metric]
                panel.set_title(f"{kind}: d' {entry['d_prime']:.2f}, overlap {entry['overlap']:.0%}", fontsize=10)
                panel.set_xlabel("cosine similarity" if metric == "cosine" else "Euclidean distance of unit embeddings")
        axes[0][0].legend(title=model.label, fontsize=8, title_fontsize=8, loc="upper left")
    return CaptionedFigure(
        path,
        f"How similar {model.name} finds two pictures of one person and of two people, both sharp (HR-HR), one of them"
        " shrunk to 36 px and back (HR-LR), or both (LR-LR). The less the histograms overlap, the fewer the errors.",
    )
