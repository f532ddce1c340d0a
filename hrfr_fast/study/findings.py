"""The published findings to reproduce or refute, each with a rule that the data decide, fixed before they were seen.

A finding needs three seeds; with fewer the verdict is "undecided", and ``leaning`` says what the checkpoints at hand
show. A regime beats another where their contrast is significant: after Holm's correction for the five fixed contrasts,
with an interval that excludes 0 for all others. "One of them loses" is one chance of error for each of them, so there p
is multiplied by their number (Bonferroni).
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from hrfr_fast.analysis.alignment import CPD, LINEAR, NONE
from hrfr_fast.evaluation.bootstrap import LEVEL
from hrfr_fast.evaluation.standard_error import FEWEST_SEEDS
from hrfr_fast.regimes import TABLE
from hrfr_fast.study.results import StudyFinding, StudyResults
from hrfr_fast.study.space import LOW, MIXED, MethodResult
from hrfr_fast.study.summary import Summary

REPRODUCED, REFUTED, UNDECIDED = "reproduced", "refuted", "undecided"
COMPETITIVE = -0.02
"""Difference in accuracy above which a regime stays competitive."""
UNDER_ONE = 0.01
"""Lead in accuracy of "under 1 point"."""
SEPARATED = 0.75
"""AUC of the probe above which the resolutions lie in different regions."""
FINETUNED = ("lowres144-finetuned", "fused-head", "fused-output", "fused-highlow")
BASE = ("lowres144", "lowres32")
POOR = (("lowres144", "highres144"), ("lowres32", "highres32"))
REMEDIES = ("crossres144",)


class Decision(NamedTuple):
    """Verdict by a rule, the numbers behind it in words, and the number of seeds."""

    verdict: str
    why: str
    seeds: int


def findings_of(results: StudyResults) -> list[StudyFinding]:
    """Each published finding with its rule, verdict, leaning and reason."""
    rows = []
    for claim, rule, decide in CLAIMS:
        found = decide(results) or Decision(UNDECIDED, "the runs or analyses it needs are not in this study", 0)
        verdict = found.verdict if found.seeds >= FEWEST_SEEDS else UNDECIDED
        rows.append(StudyFinding(claim, rule, verdict, leaning=found.verdict, why=found.why, seeds=found.seeds))
    return rows


class Gap(NamedTuple):
    """Accuracy of a minus accuracy of b, with its interval and p, which is Holm-corrected for a fixed contrast."""

    value: float
    low: float
    high: float
    p: float
    seeds: int

    def wins(self, tests: int = 1) -> bool:
        """Whether a beats b, as one of so many tests (Bonferroni)."""
        return self.value > 0 and self.low > 0 and self.p * tests < 1 - LEVEL

    def loses(self, tests: int = 1) -> bool:
        """Whether b beats a."""
        return self.value < 0 and self.high < 0 and self.p * tests < 1 - LEVEL


def gap(results: StudyResults, a: str, b: str) -> Gap | None:
    """The contrast of two regimes, in whichever direction it was computed; None where it is missing."""
    for contrast in results.contrasts:
        (low, high), value = contrast.interval, contrast.difference
        p = contrast.p if contrast.p_holm is None else contrast.p_holm
        if (contrast.a, contrast.b) == (a, b):
            return Gap(value, low, high, p, contrast.seeds)
        if (contrast.a, contrast.b) == (b, a):
            return Gap(-value, -high, -low, p, contrast.seeds)
    return None


def _words(a: str, b: str, lead: Gap) -> str:
    points = f"{round(100 * lead.value, 2) + 0.0:+.2f} points ({100 * lead.low:.2f} to {100 * lead.high:.2f})"
    return f"{a} minus {b}: {points}"


def _each_above(results: StudyResults, pairs: Iterable[tuple[str, str]]) -> Decision | None:
    """Reproduced when a beats b in every pair, refuted when in some pair b beats a."""
    gaps = [(a, b, gap(results, a, b)) for a, b in pairs]
    known = [(a, b, lead) for a, b, lead in gaps if lead]
    if len(known) < len(gaps):
        return None
    verdict = UNDECIDED
    if all(lead.wins() for _, _, lead in known):
        verdict = REPRODUCED
    elif any(lead.loses(tests=len(known)) for _, _, lead in known):
        verdict = REFUTED
    return Decision(verdict, "; ".join(_words(*row) for row in known), min(lead.seeds for _, _, lead in known))


def _highres_poor(results: StudyResults) -> Decision | None:
    found = _each_above(results, POOR)
    names = [label for _, label in POOR]
    early = [name for name in names if name not in results.regimes or results.regimes[name].plateau != "reached"]
    if found is None or not early:
        return found
    why = f"{found.why}; {' and '.join(early)} ended before a plateau was seen in every seed, so cannot be called poor"
    return found._replace(why=why, verdict=UNDECIDED if found.verdict == REPRODUCED else found.verdict)


def _small_competes(results: StudyResults) -> Decision | None:
    lead = gap(results, "lowres32", "lowres144")
    if lead is None:
        return None
    verdict = REPRODUCED if lead.low > COMPETITIVE else REFUTED if lead.high < COMPETITIVE else UNDECIDED
    return Decision(verdict, _words("lowres32", "lowres144", lead), lead.seeds)


def _base_beats_finetuned(results: StudyResults) -> Decision | None:
    return _each_above(results, [(base, tuned) for tuned in FINETUNED for base in BASE])


def _mixed_is_best(results: StudyResults) -> Decision | None:
    names = [regime.name for regime in TABLE if regime.name not in (MIXED, *REMEDIES)]
    gaps = {name: lead for name in names if (lead := gap(results, MIXED, name))}
    if not gaps:
        return None
    rival = min(gaps, key=lambda name: gaps[name].value)
    lead, verdict = gaps[rival], UNDECIDED
    if any(other.loses(tests=len(gaps)) for other in gaps.values()) or lead.low > UNDER_ONE:
        verdict = REFUTED
    elif lead.value > 0 and lead.high < UNDER_ONE:
        verdict = REPRODUCED
    why = f"the best of {len(gaps)} others is {rival}; {_words(MIXED, rival, lead)}"
    return Decision(verdict, why, min(other.seeds for other in gaps.values()))


def _training_outputs_helps(results: StudyResults) -> Decision | None:
    return _each_above(results, [("fused-output", "fused-head")])


def _resolutions_apart(results: StudyResults) -> Decision | None:
    areas = results.remedy.probe_auc if results.remedy else {}
    if LOW not in areas or MIXED not in areas:
        return None
    known = {label: areas[label]["linear LR36"] for label in (LOW, MIXED)}
    low = min(area.interval[0] for area in known.values())
    high = max(area.interval[1] for area in known.values())
    verdict = REPRODUCED if low > SEPARATED else REFUTED if high < SEPARATED else UNDECIDED
    words = (
        f"{label}: AUC {area.value:.3f} ({area.interval[0]:.3f} to {area.interval[1]:.3f})"
        for label, area in known.items()
    )
    return Decision(verdict, "; ".join(words), min(len(area.by_seed) for area in known.values()))


def _methods(results: StudyResults) -> dict[str, MethodResult]:
    """highlow144's alignment methods; empty where they were not computed."""
    regimes = results.space.regimes if results.space else {}
    return regimes[MIXED].methods if MIXED in regimes else {}


def _signed(change: Summary, scale: float = 100) -> str:
    low, high = change.interval
    return f"{scale * change.value:+.2f} ({scale * low:+.2f} to {scale * high:+.2f})"


def _alignment_helps(results: StudyResults) -> Decision | None:
    methods = _methods(results)
    if not methods:
        return None
    before = methods[NONE].probe_auc.value
    verdicts, words = [], []
    for name in (CPD, LINEAR):
        gain, after = methods[name].accuracy_gain, methods[name].probe_auc.value
        low, high = gain.interval
        left = abs(after - 0.5) / abs(before - 0.5) if before != 0.5 else 1.0
        verdicts.append(REPRODUCED if low > 0 and left <= 0.5 else REFUTED if high < 0 else UNDECIDED)
        words.append(
            f"{name}: HR-LR accuracy {_signed(gain)} points, probe AUC from {before:.3f} to {after:.3f}, "
            f"{left:.0%} of the gap left"
        )
    best = REPRODUCED if REPRODUCED in verdicts else REFUTED if set(verdicts) == {REFUTED} else UNDECIDED
    return Decision(best, "; ".join(words), len(methods[NONE].probe_auc.by_seed))


def _overlap_grows(results: StudyResults) -> Decision | None:
    if results.space is None or results.space.overlap_gain is None:
        return None
    gain, regimes = results.space.overlap_gain, results.space.regimes
    low, high = gain.interval
    verdict = REPRODUCED if low > 0 else REFUTED if high < 0 else UNDECIDED
    each = ", ".join(f"{label} {regimes[label].overlap.value:.1%}" for label in (MIXED, LOW))
    why = f"overlap of HR-LR cosines: {each}, difference {_signed(gain)} points"
    return Decision(verdict, why, len(gain.by_seed))


def _drift_brings_peak(results: StudyResults) -> Decision | None:
    methods = _methods(results)
    if not methods:
        return None
    gain, sharper = methods[CPD].accuracy_gain, methods[CPD].d_prime_gain
    rises = gain.interval[0] > 0 and sharper.interval[0] > 0
    verdict = REPRODUCED if rises else REFUTED if gain.interval[1] < 0 else UNDECIDED
    why = (
        f"d' of same and different people, HR-LR: {methods[NONE].d_prime.value:.2f}, with CPD "
        f"{_signed(sharper, 1)}; accuracy {_signed(gain)} points"
    )
    return Decision(verdict, why, len(gain.by_seed))


CLAIMS: tuple[tuple[str, str, Callable[[StudyResults], Decision | None]], ...] = (
    (
        "Models trained on the high-resolution faces alone are poor",
        "reproduced if lowres144 beats highres144 and lowres32 beats highres32, both trained to their plateau in every "
        "seed; refuted if one loses",
        _highres_poor,
    ),
    (
        "lowres32 stays competitive",
        "reproduced if the interval of lowres32 minus lowres144 lies above -2 points, refuted if below",
        _small_competes,
    ),
    (
        "lowres144 and lowres32 beat every fine-tuned variant",
        "reproduced if both beat lowres144-finetuned and all three fused models; refuted if one loses",
        _base_beats_finetuned,
    ),
    (
        "highlow144 is best, by under 1 point, which may be chance",
        "reproduced if it leads and the interval of its lead over the next best (remedy aside) ends below 1 point; "
        "refuted if one beats it or it leads by more",
        _mixed_is_best,
    ),
    (
        "Freezing whole backbones is worse than training their output layers",
        "reproduced if fused-output beats fused-head, refuted if it loses",
        _training_outputs_helps,
    ),
    (
        "Networks put the two true resolutions into different regions",
        "reproduced if a linear probe tells the same faces' views apart with AUC above 0.75 in lowres144 and "
        "highlow144 (intervals above it), refuted if both lie below",
        _resolutions_apart,
    ),
    (
        "Aligning the two clouds (Coherent Point Drift or a linear map) removes much of that gap",
        "reproduced if one of the two raises HR-LR accuracy of highlow144 and leaves at most half of the distance "
        "of the probe's AUC from chance; refuted if both lower accuracy",
        _alignment_helps,
    ),
    (
        "Distances within and between people overlap more in highlow144 than in lowres144",
        "reproduced if the interval of the difference in overlap of HR-LR cosines lies above 0, refuted if below",
        _overlap_grows,
    ),
    (
        "Coherent Point Drift brings back a peak of the distances within a person",
        "reproduced if d' and HR-LR accuracy of highlow144 rise (both intervals above 0), refuted if accuracy falls",
        _drift_brings_peak,
    ),
)
