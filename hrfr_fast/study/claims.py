"""The study's findings to reproduce or refute, each with a rule that the data decide, fixed before they were seen.

A claim needs three seeds; with fewer the verdict is "undecided" and ``leaning`` tells what the checkpoints at hand
would say. A regime beats another where the contrast's own verdict says so: Holm-corrected for the five fixed ones, the
interval excluding 0 for all others. "One of them loses" is one chance of error for each of them, so there p is
multiplied by their number (Bonferroni).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from hrfr_fast.analysis.alignment import CPD, LINEAR, NONE
from hrfr_fast.evaluation.bootstrap import LEVEL
from hrfr_fast.evaluation.standard_error import FEWEST_SEEDS
from hrfr_fast.regimes import TABLE
from hrfr_fast.study.space import LOW, MIXED

REPRODUCED, REFUTED, UNDECIDED = "reproduced", "refuted", "undecided"
COMPETITIVE = -0.02
UNDER_ONE = 0.01
SEPARATED = 0.75
FINETUNED = ("lowres144-finetuned", "fused-head", "fused-output", "fused-highlow")
BASE = ("lowres144", "lowres32")
POOR = (("lowres144", "highres144"), ("lowres32", "highres32"))
REMEDIES = ("crossres144",)


class FindingVerdict(NamedTuple):
    """What the numbers say, the numbers in words, and over how many seeds."""

    verdict: str
    why: str
    seeds: int


def claims_of(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each claim with its rule, verdict, leaning and reason, from what ``gather`` has put together."""
    rows = []
    for claim, rule, judge in CLAIMS:
        found = judge(results) or FindingVerdict(UNDECIDED, "the runs or analyses it needs are not in this study", 0)
        decided = found.seeds >= FEWEST_SEEDS
        rows.append(
            {
                "claim": claim, "rule": rule, "verdict": found.verdict if decided else UNDECIDED,
                "leaning": found.verdict, "why": found.why, "seeds": found.seeds,
            }
        )  # fmt: skip
    return rows


class Gap(NamedTuple):
    """Accuracy of a minus accuracy of b, with its interval and p, which is Holm's for a fixed contrast."""

    value: float
    low: float
    high: float
    p: float
    seeds: int

    def wins(self, of: int = 1) -> bool:
        """Whether a beats b, as one of so many chances to find that."""
        return self.value > 0 and self.low > 0 and self.p * of < 1 - LEVEL

    def loses(self, of: int = 1) -> bool:
        """Whether b beats a."""
        return self.value < 0 and self.high < 0 and self.p * of < 1 - LEVEL


def gap(results: Mapping[str, Any], a: str, b: str) -> Gap | None:
    """The contrast of two regimes, whichever way round it was computed; None where it is missing."""
    for one in results["contrasts"]:
        (low, high), value = one["interval"], one["difference"]
        p = one["p"] if one["p_holm"] is None else one["p_holm"]
        if (one["a"], one["b"]) == (a, b):
            return Gap(value, low, high, p, one["seeds"])
        if (one["a"], one["b"]) == (b, a):
            return Gap(-value, -high, -low, p, one["seeds"])
    return None


def _words(a: str, b: str, one: Gap) -> str:
    return f"{a} minus {b}: {round(100 * one.value, 2) + 0.0:+.2f} points ({100 * one.low:.2f} to {100 * one.high:.2f})"


def _each_above(results: Mapping[str, Any], pairs: Iterable[tuple[str, str]]) -> FindingVerdict | None:
    """Reproduced when a beats b in every pair, refuted when in some pair b beats a."""
    gaps = [(a, b, gap(results, a, b)) for a, b in pairs]
    known = [(a, b, one) for a, b, one in gaps if one]
    if len(known) < len(gaps):
        return None
    verdict = UNDECIDED
    if all(one.wins() for _, _, one in known):
        verdict = REPRODUCED
    elif any(one.loses(of=len(known)) for _, _, one in known):
        verdict = REFUTED
    return FindingVerdict(verdict, "; ".join(_words(*one) for one in known), min(one.seeds for _, _, one in known))


def _highres_poor(results: Mapping[str, Any]) -> FindingVerdict | None:
    found = _each_above(results, POOR)
    early = [label for _, label in POOR if results["regimes"].get(label, {}).get("plateau") != "reached"]
    if found is None or not early:
        return found
    why = f"{found.why}; {' and '.join(early)} ended before a plateau was seen in every seed, so cannot be called poor"
    return found._replace(why=why, verdict=UNDECIDED if found.verdict == REPRODUCED else found.verdict)


def _small_competes(results: Mapping[str, Any]) -> FindingVerdict | None:
    one = gap(results, "lowres32", "lowres144")
    if one is None:
        return None
    verdict = REPRODUCED if one.low > COMPETITIVE else REFUTED if one.high < COMPETITIVE else UNDECIDED
    return FindingVerdict(verdict, _words("lowres32", "lowres144", one), one.seeds)


def _base_beats_finetuned(results: Mapping[str, Any]) -> FindingVerdict | None:
    return _each_above(results, [(base, tuned) for tuned in FINETUNED for base in BASE])


def _mixed_is_best(results: Mapping[str, Any]) -> FindingVerdict | None:
    names = [one.name for one in TABLE if one.name not in (MIXED, *REMEDIES)]
    gaps = {name: one for name in names if (one := gap(results, MIXED, name))}
    if not gaps:
        return None
    rival = min(gaps, key=lambda name: gaps[name].value)
    lead, verdict = gaps[rival], UNDECIDED
    if any(one.loses(of=len(gaps)) for one in gaps.values()) or lead.low > UNDER_ONE:
        verdict = REFUTED
    elif lead.value > 0 and lead.high < UNDER_ONE:
        verdict = REPRODUCED
    why = f"the best of {len(gaps)} others is {rival}; {_words(MIXED, rival, lead)}"
    return FindingVerdict(verdict, why, min(one.seeds for one in gaps.values()))


def _releasing_helps(results: Mapping[str, Any]) -> FindingVerdict | None:
    return _each_above(results, [("fused-output", "fused-head")])


def _resolutions_apart(results: Mapping[str, Any]) -> FindingVerdict | None:
    areas = (results.get("remedy") or {}).get("probe_auc", {})
    if LOW not in areas or MIXED not in areas:
        return None
    known = {label: areas[label]["linear LR36"] for label in (LOW, MIXED)}
    low = min(one["interval"][0] for one in known.values())
    high = max(one["interval"][1] for one in known.values())
    verdict = REPRODUCED if low > SEPARATED else REFUTED if high < SEPARATED else UNDECIDED
    words = (
        f"{label}: AUC {one['value']:.3f} ({one['interval'][0]:.3f} to {one['interval'][1]:.3f})"
        for label, one in known.items()
    )
    return FindingVerdict(verdict, "; ".join(words), min(len(one["by_seed"]) for one in known.values()))


def _space(results: Mapping[str, Any]) -> Any:
    """highlow144's methods of ``space.space_of``; None where it was not measured."""
    return results.get("space", {}).get("regimes", {}).get(MIXED, {}).get("methods")


def _signed(one: Mapping[str, Any], scale: float = 100) -> str:
    low, high = one["interval"]
    return f"{scale * one['value']:+.2f} ({scale * low:+.2f} to {scale * high:+.2f})"


def _alignment_helps(results: Mapping[str, Any]) -> FindingVerdict | None:
    methods = _space(results)
    if not methods:
        return None
    before = methods[NONE]["probe_auc"]["value"] - 0.5
    verdicts, words = [], []
    for name in (CPD, LINEAR):
        gain, after = methods[name]["accuracy_gain"], methods[name]["probe_auc"]["value"]
        low, high = gain["interval"]
        left = max(0.0, after - 0.5) / before if before > 0 else 1.0
        verdicts.append(REPRODUCED if low > 0 and left <= 0.5 else REFUTED if high < 0 else UNDECIDED)
        words.append(
            f"{name}: HR-LR accuracy {_signed(gain)} points, probe AUC from {before + 0.5:.3f} to {after:.3f}, "
            f"{left:.0%} of the gap left"
        )
    best = REPRODUCED if REPRODUCED in verdicts else REFUTED if set(verdicts) == {REFUTED} else UNDECIDED
    return FindingVerdict(best, "; ".join(words), len(methods[NONE]["probe_auc"]["by_seed"]))


def _overlap_grows(results: Mapping[str, Any]) -> FindingVerdict | None:
    gain = results.get("space", {}).get("overlap_gain")
    if not gain:
        return None
    low, high = gain["interval"]
    verdict = REPRODUCED if low > 0 else REFUTED if high < 0 else UNDECIDED
    regimes = results["space"]["regimes"]
    each = ", ".join(f"{label} {regimes[label]['overlap']['value']:.1%}" for label in (MIXED, LOW))
    why = f"overlap of HR-LR cosines: {each}, difference {_signed(gain)} points"
    return FindingVerdict(verdict, why, len(gain["by_seed"]))


def _drift_brings_peak(results: Mapping[str, Any]) -> FindingVerdict | None:
    methods = _space(results)
    if not methods:
        return None
    gain, sharper = methods[CPD]["accuracy_gain"], methods[CPD]["d_prime_gain"]
    rises = gain["interval"][0] > 0 and sharper["interval"][0] > 0
    verdict = REPRODUCED if rises else REFUTED if gain["interval"][1] < 0 else UNDECIDED
    why = (
        f"d' of same and different people, HR-LR: {methods[NONE]['d_prime']['value']:.2f}, with CPD "
        f"{_signed(sharper, 1)}; accuracy {_signed(gain)} points"
    )
    return FindingVerdict(verdict, why, len(gain["by_seed"]))


CLAIMS: tuple[tuple[str, str, Callable[[Mapping[str, Any]], FindingVerdict | None]], ...] = (
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
        "Freezing whole backbones is worse than releasing the output layers",
        "reproduced if fused-output beats fused-head, refuted if it loses",
        _releasing_helps,
    ),
    (
        "Networks put the two true resolutions into different regions",
        "reproduced if a linear probe tells the same faces' views apart with AUC above 0.75 in lowres144 and "
        "highlow144 (intervals above it), refuted if both lie below",
        _resolutions_apart,
    ),
    (
        "Aligning the two clouds (Coherent Point Drift or a linear map) removes much of that gap",
        "reproduced if one of the two raises HR-LR accuracy of highlow144 and leaves at most half of the probe's AUC "
        "above chance; refuted if both lower accuracy",
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
