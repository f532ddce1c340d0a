"""Which pairs fail, and which change sides between two models?"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrfr_fast.analysis.finding import Figure, Finding
from hrfr_fast.analysis.intervals import p_text
from hrfr_fast.analysis.spaces import Model, Spaces
from hrfr_fast.evaluation.compare import mcnemar
from hrfr_fast.evaluation.verification import Verification, verify
from hrfr_fast.format.reader import PairSet
from hrfr_fast.reporting import figures as drawing
from hrfr_fast.runtime.errors import UsageError

KEY = "failures"
QUESTION = "Which pairs fail, and which change sides between two models?"
SHOWN = 6  # pairs a row of a contact sheet


def hardest(result: Verification, same: bool, most: int = SHOWN) -> NDArray[np.int64]:
    """The wrongly decided pairs farthest on the wrong side, worst first; genuine ones where ``same``."""
    wrong = np.flatnonzero(~result.correct & (result.same == same))
    return wrong[np.argsort(result.scores[wrong] if same else -result.scores[wrong], kind="stable")][:most]


def margins(result: Verification) -> NDArray[np.float64]:
    """How far each pair lies on its right side of the threshold, in standard deviations of all scores, [P]."""
    beyond = (result.scores - result.threshold) / max(float(result.scores.std()), 1e-12)
    return np.where(result.same, beyond, -beyond)


def flips(first: Verification, second: Verification) -> dict[str, NDArray[np.int64]]:
    """Pairs only one of two models decides rightly, those first whose margin changes most."""
    gained = margins(second) - margins(first)
    lost, won = first.correct & ~second.correct, ~first.correct & second.correct
    return {
        "lost": np.flatnonzero(lost)[np.argsort(gained[lost], kind="stable")],
        "won": np.flatnonzero(won)[np.argsort(-gained[won], kind="stable")],
    }


def counts(result: Verification) -> dict[str, int]:
    """How many pairs were decided, and wrongly, by the thresholds of the other nine folds."""
    wrong = ~result.correct
    return {
        "pairs": result.pairs,
        "false_accepts": int((wrong & ~result.same).sum()),
        "false_rejects": int((wrong & result.same).sum()),
    }


def analyse(spaces: Spaces, out: Path) -> Finding:
    """Count failures of every model and flips from the first to each other one; a contact sheet of each."""
    pairs = spaces.test_pairs
    if pairs is None:
        raise UsageError(f"{spaces.packed.path}: there are no pairs to fail on")
    results = {
        model.name: verify(spaces.pair_scores(model, pairs), pairs.same, pairs.identities, resamples=0)
        for model in spaces.models
    }
    numbers: dict[str, Any] = {"pair_set": pairs.name, "kind": pairs.kind, "models": {}, "flips": {}}
    sentences = [f"Of {len(pairs):,} pairs ({pairs.name}, {pairs.kind}):"]
    figures = []
    for model in spaces.models:
        mine = numbers["models"][model.name] = counts(results[model.name])
        sentences.append(
            f"{model.name} takes {mine['false_accepts']} pairs of two people for one and"
            f" {mine['false_rejects']} of one for two."
        )
        figures.append(_draw_failures(model, pairs, results[model.name], out / f"{KEY}-{model.name}.png"))
    first = spaces.models[0]
    for second in spaces.models[1:]:
        both = results[first.name], results[second.name]
        changed = flips(*both)
        lost, won, p = len(changed["lost"]), len(changed["won"]), mcnemar(both[0].correct, both[1].correct)["p"]
        numbers["flips"][f"{first.name} to {second.name}"] = {
            "both_right": int((both[0].correct & both[1].correct).sum()),
            "both_wrong": int((~both[0].correct & ~both[1].correct).sum()),
            "only_first_right": lost, "only_second_right": won, "mcnemar_p": p,
        }  # fmt: skip
        sentences.append(
            f"From {first.name} to {second.name} {won} wrong decisions become right and {lost} right ones wrong"
            f" (of these two checkpoints; McNemar {p_text(p)}, which takes pairs that share people as independent;"
            " whether the regimes differ is for several seeds to say)."
        )
        figures.append(_draw_flips(first, second, pairs, both, changed, out / f"{KEY}-{first.name}-{second.name}.png"))
    return Finding(KEY, QUESTION, "\n".join(sentences), numbers, tuple(figures))


def _draw_failures(model: Model, pairs: PairSet, result: Verification, path: Path) -> Figure:
    rows = {
        "two people taken for one (false accepts)": hardest(result, same=False),
        "one person taken for two (false rejects)": hardest(result, same=True),
    }
    _sheet(path, f"{model.label}: the worst failures, threshold {result.threshold:.2f}", pairs, rows,
           lambda pair: f"cosine {result.scores[pair]:.2f}")  # fmt: skip
    return Figure(path, f"The pairs {model.name} is most wrong about, with the similarity it gave them.")


def _draw_flips(
    first: Model, second: Model, pairs: PairSet, results: tuple[Verification, Verification],
    changed: dict[str, NDArray[np.int64]], path: Path,
) -> Figure:  # fmt: skip
    rows = {
        f"right by {first.name}, wrong by {second.name}": changed["lost"][:SHOWN],
        f"wrong by {first.name}, right by {second.name}": changed["won"][:SHOWN],
    }

    def caption(pair: int) -> str:
        kind = "one person" if results[0].same[pair] else "two people"
        return f"{kind}: {results[0].scores[pair]:.2f} to {results[1].scores[pair]:.2f}"

    thresholds = " and ".join(f"{result.threshold:.2f}" for result in results)
    _sheet(path, f"{first.name} to {second.name}, thresholds {thresholds}", pairs, rows, caption)
    return Figure(
        path,
        f"Pairs on which {first.name} and {second.name} disagree, those first that moved most, with the similarity"
        " each gave them.",
    )


def _sheet(path: Path, title: str, pairs: PairSet, rows: dict[str, NDArray[np.int64]], caption: Any) -> None:
    """Rows of pairs, each two pictures side by side under its caption."""
    with drawing.figure(path, len(rows), SHOWN, cell=(2.2, 1.75)) as axes:
        for line, (text, chosen) in zip(axes, rows.items(), strict=True):
            for one in line:
                one.axis("off")
            heading = line[0].text(0, 1.3, text if len(chosen) else f"{text}: none", transform=line[0].transAxes)
            heading.set(fontsize=9, in_layout=False)  # it may run over the neighbours
            for one, pair in zip(line, chosen.tolist(), strict=False):
                one.imshow(np.concatenate(list(pairs.split.read([2 * pair, 2 * pair + 1])), axis=1))
                one.set_title(caption(pair), fontsize=8)
        axes[0][0].figure.suptitle(title, fontsize=10)
