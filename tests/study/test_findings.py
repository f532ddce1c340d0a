"""The rules by which findings count as reproduced, and the remedy as a success, on results made up for each case."""

import numpy as np
import pytest

from hrfr_fast.evaluation.compare import Estimate, resample_outcomes
from hrfr_fast.study.findings import CLAIMS, findings_of
from hrfr_fast.study.remedy import RemedyResult, probe_areas, remedy_of
from hrfr_fast.study.results import ContrastResult, DataFacts, RegimeResult, StudyResults
from hrfr_fast.study.space import MethodResult, RegimeSpace, SpaceResult
from hrfr_fast.study.summary import Summary


def contrast(a, b, low, high, seeds=3, p=None, p_holm=None):
    if p is None:
        p = 0.001 if low > 0 or high < 0 else 0.5
    return ContrastResult(
        a, b, fixed=p_holm is not None, seeds=seeds, identities=100, level="identity", pairs=400,
        difference=(low + high) / 2, interval=(low, high), p=p, p_holm=p_holm, mcnemar={}, detectable=0.01,
        needed_identities=None, needed_pairs=None, needed_seeds=None, verdict="", sentence="", advice="", budgets="",
    )  # fmt: skip


def regime(label, plateau):
    return RegimeResult(
        label, "", "regime", None, 144, "", "highres", 4, 16, {"0": 4}, plateau, {"0": ""}, "", {}, pictures_seen=64
    )


def verdicts(contrasts=(), probe_auc=None, plateau="reached", space=None):
    results = StudyResults(
        hrfr_fast="", preset={}, seeds=[0, 1, 2], data=DataFacts("", "", False, {}, None),
        regimes={label: regime(label, plateau) for label in ("highres144", "highres32")}, contrasts=list(contrasts),
        findings=[], unanswered={}, claims=[], space=space, remedy=RemedyResult(probe_auc or {}, {}, "undecided"),
    )  # fmt: skip
    return {finding.claim: (finding.verdict, finding.leaning) for finding in findings_of(results)}


def of(start, **given):
    found = verdicts(**given)
    return next(value for claim, value in found.items() if claim.startswith(start))


@pytest.mark.parametrize(
    "low,high,seeds,expected",
    [
        (-0.01, 0.01, 3, ("reproduced", "reproduced")),
        (-0.01, 0.01, 2, ("undecided", "reproduced")),
        (-0.05, -0.03, 3, ("refuted", "refuted")),
        (-0.05, 0.03, 3, ("undecided", "undecided")),
    ],
)
def test_lowres32_is_competitive_within_two_points(low, high, seeds, expected):
    assert of("lowres32 stays", contrasts=[contrast("lowres32", "lowres144", low, high, seeds)]) == expected
    turned = contrast("lowres144", "lowres32", -high, -low, seeds)
    assert of("lowres32 stays", contrasts=[turned]) == expected


def test_every_part_of_a_claim_must_hold():
    poor = contrast("highres144", "lowres144", -0.2, -0.1)
    assert of("Models trained", contrasts=[poor]) == ("undecided", "undecided"), "half of it was not run"
    both = [poor, contrast("highres32", "lowres32", -0.3, -0.1)]
    assert of("Models trained", contrasts=both) == ("reproduced", "reproduced")
    assert of("Models trained", contrasts=[poor, contrast("highres32", "lowres32", 0.1, 0.2)])[0] == "refuted"
    assert of("Models trained", contrasts=[poor, contrast("highres32", "lowres32", -0.1, 0.2)])[0] == "undecided"
    assert of("Models trained", contrasts=both, plateau="not reached")[0] == "undecided", "ended early is not poor"


def test_a_fixed_contrast_is_won_only_after_holms_correction():
    gain = ("fused-output", "fused-head", 0.001, 0.03)
    assert of("Freezing", contrasts=[contrast(*gain, p=0.02, p_holm=0.04)])[0] == "reproduced"
    assert of("Freezing", contrasts=[contrast(*gain, p=0.02, p_holm=0.1)])[0] == "undecided"


def test_one_loss_of_eight_must_stand_against_eight_chances():
    tuned = ("lowres144-finetuned", "fused-head", "fused-output", "fused-highlow")
    clear = [contrast(base, one, -0.01, 0.05, p=0.2) for one in tuned for base in ("lowres144", "lowres32")]
    for p, verdict in ((0.02, "undecided"), (0.005, "refuted")):
        lost = contrast("lowres144", "lowres144-finetuned", -0.03, -0.001, p=p)
        assert of("lowres144 and lowres32 beat", contrasts=[lost, *clear[1:]])[0] == verdict


@pytest.mark.parametrize(
    "low,high,expected",
    [(-0.002, 0.008, "reproduced"), (-0.002, 0.02, "undecided"), (0.015, 0.03, "refuted"), (-0.03, -0.01, "refuted")],
)
def test_highlow144_is_best_by_under_one_point(low, high, expected):
    others = [contrast("highlow144", "lowres32", 0.1, 0.3), contrast("highlow144", "my-own", -0.3, -0.1)]
    found = of("highlow144 is best", contrasts=[contrast("highlow144", "lowres144", low, high), *others])
    assert found[0] == expected


def summary(value, low, high, seeds):
    return Summary(value, (low, high), seeds)


def aligned(seeds, gain=(0.02, 0.01, 0.03)):
    """A regime's space, in which both maps close the gap and change accuracy and d' by ``gain``."""
    rate, change = summary(1, 1, 1, seeds), summary(*gain, seeds)
    methods = {
        name: MethodResult(rate, change, d_prime=rate, d_prime_gain=change, probe_auc=summary(area, area, area, seeds))
        for name, area in (("none", 0.9), ("CPD affine, 32 axes", 0.6), ("linear map", 0.55))
    }
    return RegimeSpace(summary(0.4, 0.38, 0.42, seeds), {}, methods)


def test_claims_about_the_embedding_space():
    area = {"linear LR36": summary(0.9, 0.85, 0.95, {"0": 0.9, "1": 0.9, "2": 0.9})}
    auc = {"lowres144": area, "highlow144": area}
    assert of("Networks put", probe_auc=auc) == ("reproduced", "reproduced")
    assert of("Networks put", probe_auc={"lowres144": area})[0] == "undecided", "it speaks of two"
    three, one = {"0": 0.0, "1": 0.0, "2": 0.0}, {"0": 0.0}
    for seeds, verdict in ((three, "reproduced"), (one, "undecided")):
        regimes = {"highlow144": aligned(seeds), "lowres144": aligned(seeds)}
        space = SpaceResult(regimes, summary(0.1, 0.08, 0.12, seeds))
        for claim in ("Aligning", "Coherent", "Distances"):
            assert of(claim, space=space) == (verdict, "reproduced"), "one checkpoint decides nothing"
    useless = aligned(three, gain=(-0.02, -0.03, -0.01))
    for claim in ("Aligning", "Coherent"):
        assert of(claim, space=SpaceResult({"highlow144": useless}, None))[0] == "refuted"
    assert of("Distances", space=SpaceResult({}, None)) == ("undecided", "undecided")
    assert len(verdicts()) == len(CLAIMS) and set(verdicts().values()) == {("undecided", "undecided")}


def made_up(gap, tar, accuracy, ranks=None, seeds=3, people=60, pairs=400):
    """The remedy's inputs: confidence of the probe apart by ``gap`` (a regime each), TAR, accuracy, effective rank."""
    rng = np.random.default_rng(0)
    identities = np.repeat(np.arange(people), 3)
    low = np.arange(2 * len(identities)) >= len(identities)
    probes, tars, correct = {}, {}, {}
    same, cluster = np.ones(pairs, bool), np.repeat(np.arange(pairs, dtype=np.int32), 2)
    for label in gap:
        probes[label] = {seed: {"linear LR56": gap[label] * low + rng.normal(size=len(low))} for seed in range(seeds)}
        values = tar[label] + 0.005 * rng.standard_normal(seeds)
        tars[label] = Estimate(tuple(range(seeds)), values, values + 0.01 * rng.standard_normal((200, seeds)))
        correct[label] = {seed: rng.random(pairs) < accuracy[label] for seed in range(seeds)}
    found = resample_outcomes(correct, same, cluster, resamples=200)
    by_seed = {label: {str(s): rank for s in range(seeds)} for label, rank in (ranks or {}).items()}
    return remedy_of(found, tars, pairs, probes, identities, by_seed)


BETTER = {
    "gap": {"crossres144": 0.2, "highlow144": 3.0}, "tar": {"crossres144": 0.9, "highlow144": 0.5},
    "accuracy": {"crossres144": 0.97, "highlow144": 0.85},
}  # fmt: skip


def test_the_remedy_succeeds_only_when_all_hold_over_three_seeds():
    assert made_up(**BETTER).verdict == "success"
    assert made_up(**BETTER, seeds=2).verdict == "undecided"
    worse = BETTER | {"accuracy": {"crossres144": 0.6, "highlow144": 0.9}}
    assert made_up(**worse).verdict == "failed"
    assert made_up(**BETTER, ranks={"crossres144": 30.0, "highlow144": 50.0}).verdict == "success"
    assert made_up(**BETTER, ranks={"crossres144": 20.0, "highlow144": 50.0}).verdict == "failed", "collapsed"
    rows = made_up(**BETTER | {"tar": {"crossres144": 0.5, "highlow144": 0.5}})
    assert rows.verdict == "undecided" and rows.against["highlow144"]["TAR at FAR 1e-2, HR-LR"].met == "no"


def test_a_probe_that_takes_one_resolution_for_the_other_is_no_success():
    """An AUC of 0.02 tells the views apart as one of 0.98 does; a base with it has a gap that a remedy can close."""
    inverted = made_up(**BETTER | {"gap": {"crossres144": -3.0, "highlow144": 0.2}})
    row = inverted.against["highlow144"]["probe AUC, linear LR56"]
    assert (row.met, inverted.verdict) == ("opposite", "failed") and row.value > 0.3
    closed = made_up(**BETTER | {"gap": {"crossres144": 0.2, "highlow144": -3.0}})
    assert closed.verdict == "success" and closed.probe_auc["highlow144"]["linear LR56"].value < 0.05, "as it is"


def test_probe_areas_are_shares_of_rightly_ordered_views_of_different_people():
    rng = np.random.default_rng(1)
    identities = np.repeat(np.arange(20), 2)
    scores = np.round(np.repeat([0, 1], 40) + rng.normal(size=80), 1)
    area = probe_areas({"a": {0: {"linear LR36": scores}}}, identities)["a"]["linear LR36"]
    high, low = scores[:40], scores[40:]
    others = identities[:, None] != identities[None, :]
    right = (low[:, None] > high[None, :]) + 0.5 * (low[:, None] == high[None, :])
    assert area.values[0] == pytest.approx(right[others].mean())
    assert area.summary(20)["interval"][0] < area.values[0] < area.summary(20)["interval"][1]
