"""Are embeddings still in the same space? The same faces through the first model and through each other one.

After fine-tuning, an old gallery is only of use with new probes if the space has not moved; and if it has moved, a
map fitted on some identities may carry the rest over.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis import maps
from hrfr_fast.analysis.finding import Figure, Finding
from hrfr_fast.analysis.intervals import interval, mean_of
from hrfr_fast.analysis.pairing import Pairs, halves, identity_pairs
from hrfr_fast.analysis.spaces import Model, Spaces
from hrfr_fast.evaluation.verification import Verification, verify
from hrfr_fast.reporting import figures as drawing

KEY = "drift"
QUESTION = "Are two models' embeddings in the same space, and does an old gallery serve new probes?"
PERMUTATIONS = 20


def linear_cka(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Linear centred kernel alignment (Kornblith et al., ICML 2019, eq. 3 with linear kernels), in [0, 1].

    Of [n, D] and [n, E], row i the same picture. Unchanged by rotation, scale and shift of either; biased upwards
    where n is not much larger than D, so read it beside :func:`cka_of_chance`.
    """
    a, b = first - first.mean(axis=0), second - second.mean(axis=0)
    a, b = a.astype(np.float64), b.astype(np.float64)
    shared = float(((a.T @ b) ** 2).sum())
    return shared / float(np.sqrt(((a.T @ a) ** 2).sum() * ((b.T @ b) ** 2).sum()))


def cka_of_chance(first: NDArray[np.floating], second: NDArray[np.floating], seed: int = 0) -> float:
    """Mean linear CKA when the second's rows are shuffled: what n pictures in D dimensions give without any kinship."""
    random = np.random.default_rng([seed, 10])
    return float(np.mean([linear_cka(first, random.permutation(second)) for _ in range(PERMUTATIONS)]))


def compare(
    old: NDArray[np.floating], new: NDArray[np.floating], identities: NDArray[np.int64], seed: int = 0
) -> tuple[dict[str, Any], dict[str, Verification], Pairs]:
    """Old and new unit embeddings [N, D] and [N, E] of the same pictures.

    Where D equals E: mean cosine, and verification of old gallery pictures against new probes, as they are and with the
    probes mapped, on identities the maps were not fitted on; beside it each model with itself, on the same pairs. Else
    there is CKA alone.
    """
    numbers: dict[str, Any] = {"cka": linear_cka(old, new), "cka_of_chance": cka_of_chance(old, new, seed)}
    fitted = halves(identities, seed)
    judged = ~fitted
    pairs = identity_pairs(identities[judged], ordered=True, seed=seed)
    if old.shape[1] != new.shape[1]:
        numbers["dimensions"] = [old.shape[1], new.shape[1]]
        return numbers, {}, pairs
    cosine = np.einsum("nd,nd->n", old.astype(np.float64), new.astype(np.float64))
    numbers["mean_cosine"] = float(cosine.mean())
    numbers["mean_cosine_ci"] = list(interval(mean_of(cosine), identities, seed=seed))
    views = {
        "old with old": (old[judged], old[judged]),
        "new with new": (new[judged], new[judged]),
        "old gallery, new probes": (old[judged], new[judged]),
    }
    for name, fit in (("Procrustes", maps.procrustes), ("linear map", maps.linear)):
        views[f"the same after {name}"] = (old[judged], fit(new[fitted], old[fitted])(new[judged]))
    results = {
        name: verify(pairs.cosines(*both), pairs.same, pairs.identities, seed=seed) for name, both in views.items()
    }
    numbers["pairs"] = len(pairs.same)
    numbers["verification"] = {
        name: {"accuracy": r.accuracy, "accuracy_ci": list(r.accuracy_ci or ()), "auc": r.auc, "eer": r.eer}
        for name, r in results.items()
    }
    return numbers, results, pairs


def analyse(spaces: Spaces, out: Path) -> Finding:
    """The first model against each of the others, with a figure each."""
    old, numbers = spaces.models[0], {}
    figures, sentences = [], []
    for new in spaces.models[1:]:
        key = f"{old.name} to {new.name}"
        embeddings = spaces.embeddings(old), spaces.embeddings(new)
        numbers[key], results, pairs = compare(*embeddings, spaces.identities, spaces.seed)
        sentences.append(_sentence(old, new, numbers[key]))
        if results:
            path = out / f"{KEY}-{old.name}-{new.name}.png"
            figures.append(_draw(old, new, numbers[key], results, pairs, path))
    return Finding(KEY, QUESTION, "\n".join(sentences), numbers, tuple(figures))


def _sentence(old: Model, new: Model, numbers: dict[str, Any]) -> str:
    cka = f"linear CKA {numbers['cka']:.2f} (chance: {numbers['cka_of_chance']:.2f})"
    if "mean_cosine" not in numbers:
        sizes = " and ".join(map(str, numbers["dimensions"]))
        return f"{old.name} to {new.name}: {cka}; of {sizes} dimensions, they cannot be compared otherwise."
    low, high = numbers["mean_cosine_ci"]
    accuracy = {name: entry["accuracy"] for name, entry in numbers["verification"].items()}
    names = list(accuracy)
    return (
        f"{old.name} to {new.name}: the same face's two embeddings have cosine {numbers['mean_cosine']:.2f}"
        f" ({low:.2f} to {high:.2f}), {cka}. An old gallery with new probes decides {accuracy[names[2]]:.1%} of pairs"
        f" rightly, {accuracy[names[3]]:.1%} after Procrustes and {accuracy[names[4]]:.1%} after a linear map;"
        f" old with old {accuracy[names[0]]:.1%}, new with new {accuracy[names[1]]:.1%}."
    )


def _draw(
    old: Model, new: Model, numbers: dict[str, Any], results: dict[str, Verification], pairs: Pairs, path: Path
) -> Figure:
    with drawing.figure(path, 1, 3, cell=(4.6, 3.8)) as axes:
        accuracy, before, after = axes[0]
        mine = numbers["verification"]
        spans = [drawing.percent(entry["accuracy"], entry["accuracy_ci"]) for entry in mine.values()]
        drawing.dots(accuracy, list(mine), {"": spans})
        accuracy.set(xlabel="accuracy (%), 95 % interval", title=f"old: {old.name}\nnew: {new.name}")
        accuracy.title.set_fontsize(10)
        for one, name in ((before, "old gallery, new probes"), (after, "the same after Procrustes")):
            scores = results[name].scores
            parts = {"one person": scores[pairs.same], "two people": scores[~pairs.same]}
            drawing.histograms(one, parts, np.linspace(-1, 1, 61))
            one.set(xlabel="cosine similarity, old against new", title=name)
            one.title.set_fontsize(10)
        before.legend(fontsize=8, loc="upper left")
    return Figure(
        path,
        f"Pictures embedded by {old.name} compared with pictures embedded by {new.name}: as they are, and after turning"
        " the new space onto the old one. Maps are fitted on half of the people and judged on the others.",
    )
