"""Intra- and inter-class distances: how far apart are pictures of one person and of two, in and across resolutions?"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis.finding import Figure, Finding
from hrfr_fast.analysis.intervals import Statistic, at_once, pair_interval
from hrfr_fast.analysis.pairing import Pairs, identity_pairs
from hrfr_fast.analysis.spaces import HR, LR36, Model, Spaces, View
from hrfr_fast.reporting import figures as drawing

KEY = "distances"
QUESTION = "How far apart are two pictures of one person, and of two people, within and across resolutions?"
KINDS: dict[str, tuple[View, View]] = {"HR-HR": (HR, HR), "HR-LR": (HR, LR36), "LR-LR": (LR36, LR36)}
BINS = 60


def edges_of(values: NDArray[np.floating], bins: int = BINS) -> NDArray[np.float64]:
    """Bin edges over all values, float64 [bins + 1]."""
    return np.linspace(values.min(), max(values.max(), values.min() + 1e-9), bins + 1)


def overlap_of(values: NDArray[np.floating], same: NDArray[np.bool_], bins: int = BINS) -> Statistic:
    """Overlap coefficient of two histograms (Inman & Bradley 1989): the sum over bins of the smaller share.

    1: the two distributions are one; 0: a threshold separates them. Of a histogram it depends on the bins (60 here,
    over the range of all values) and lies a little below the truth where pairs are few.
    """
    from scipy.sparse import csr_array

    place = np.clip(np.searchsorted(edges_of(values, bins), values, side="right") - 1, 0, bins - 1)
    rows = np.arange(len(values))
    genuine = csr_array((same.astype(np.float64), (rows, place)), shape=(len(values), bins))
    impostor = csr_array(((~same).astype(np.float64), (rows, place)), shape=(len(values), bins))

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        shares = [weights @ kind / np.maximum(weights @ mask, 1e-300)[:, None]
                  for kind, mask in ((genuine, same), (impostor, ~same))]  # fmt: skip
        return np.minimum(*shares).sum(axis=1)

    return statistic


def d_prime_of(values: NDArray[np.floating], same: NDArray[np.bool_]) -> Statistic:
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


def describe(values: NDArray[np.float64], pairs: Pairs, seed: int = 0) -> dict[str, Any]:
    """Means, standard deviations, overlap and d' of genuine and impostor ``values`` [P], with 95 % intervals."""
    numbers: dict[str, Any] = {}
    for name, kind in (("genuine", pairs.same), ("impostor", ~pairs.same)):
        numbers[name] = {"mean": float(values[kind].mean()), "sd": float(values[kind].std())}
    for name, statistic in (("overlap", overlap_of(values, pairs.same)), ("d_prime", d_prime_of(values, pairs.same))):
        numbers[name] = at_once(statistic, len(values))
        numbers[f"{name}_ci"] = list(pair_interval(statistic, pairs.same, pairs.identities, seed=seed))
    return numbers


def euclidean(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of unit vectors with these cosines: sqrt(2 - 2 cos)."""
    return np.sqrt(np.maximum(2 - 2 * cosines, 0))


def analyse(spaces: Spaces, out: Path) -> Finding:
    """Answer the question for every model, with a figure each."""
    # The same pairs for all three kinds: impostors drawn anew moved d' by 0.07 on their own, more than the views do.
    pairs = identity_pairs(spaces.identities, ordered=True, seed=spaces.seed)
    numbers: dict[str, Any] = {}
    figures, sentences = [], []
    for model in spaces.models:
        cosines = {}
        mine = numbers[model.name] = {"near_identity_control": model.sees_no_detail}
        for kind, (first, second) in KINDS.items():
            cosines[kind] = pairs.cosines(spaces.embeddings(model, first), spaces.embeddings(model, second))
            mine[kind] = {
                "genuine_pairs": int(pairs.same.sum()),
                "impostor_pairs": int((~pairs.same).sum()),
                "cosine": describe(cosines[kind], pairs, spaces.seed),
                "euclidean": describe(euclidean(cosines[kind]), pairs, spaces.seed),
            }
        figures.append(_draw(model, cosines, pairs, mine, out / f"{KEY}-{model.name}.png"))
        sentences.append(_sentence(model, mine))
    return Finding(KEY, QUESTION, "\n".join(sentences), numbers, tuple(figures))


def _sentence(model: Model, numbers: dict[str, Any]) -> str:
    parts = []
    for kind in KINDS:
        value = numbers[kind]["cosine"]
        low, high = value["d_prime_ci"]
        parts.append(f"{kind} d' {value['d_prime']:.2f} ({low:.2f} to {high:.2f}), overlap {value['overlap']:.0%}")
    return f"{model.name}: same and different people lie apart by {'; '.join(parts)}."


def _draw(model: Model, cosines: dict[str, NDArray[np.float64]], pairs: Pairs, numbers: Any, path: Path) -> Figure:
    with drawing.figure(path, 2, 3) as axes:
        for row, (measure, convert) in enumerate((("cosine", lambda c: c), ("euclidean", euclidean))):
            edges = edges_of(np.concatenate([convert(values) for values in cosines.values()]))
            for one, (kind, values) in zip(axes[row], cosines.items(), strict=True):
                shown = {"one person": convert(values)[pairs.same], "two people": convert(values)[~pairs.same]}
                drawing.histograms(one, shown, edges)
                mine = numbers[kind][measure]
                one.set_title(f"{kind}: d' {mine['d_prime']:.2f}, overlap {mine['overlap']:.0%}", fontsize=10)
                one.set_xlabel("cosine similarity" if measure == "cosine" else "Euclidean distance of unit embeddings")
        axes[0][0].legend(title=model.label, fontsize=8, title_fontsize=8, loc="upper left")
    return Figure(
        path,
        f"How similar {model.name} finds two pictures of one person and of two people, both sharp (HR-HR), one of them"
        " shrunk to 36 px and back (HR-LR), or both (LR-LR). The less the hills overlap, the fewer the errors.",
    )
