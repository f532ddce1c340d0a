"""Remedies: how they are put together, chosen, calibrated and judged, on made numbers; then a tiny study of them."""

import dataclasses
import importlib
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from hrfr_fast.deployment.records import record_pixels
from hrfr_fast.evaluation.compare import Estimate, Outcomes, holm
from hrfr_fast.evaluation.rates import resampled_rates
from hrfr_fast.evaluation.thresholds import thresholds_at_fars
from hrfr_fast.evaluation.verification import tar_at_fars
from hrfr_fast.format.reader import open_packed
from hrfr_fast.packing.pack import pack
from hrfr_fast.regimes import regime_named
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.settings import DegradationSettings
from hrfr_fast.study import execution
from hrfr_fast.study.candidates import WITH_LORA, Candidate, PublicSet, Remedies
from hrfr_fast.study.presets import PRESETS
from hrfr_fast.study.remedies import collect, judge
from hrfr_fast.study.remedies import stages as remedies_stages
from hrfr_fast.study.remedies.calibration import calibration
from hrfr_fast.study.remedies.choice import _closeness, ranking, read_choice
from hrfr_fast.study.remedies.combine import Remedy, combine, first_that_fits
from hrfr_fast.study.remedies.plan import Stages
from hrfr_fast.study.remedies.public_sets import check_public_sets, public_results, score_public_sets
from hrfr_fast.study.remedies.results import Choice, Evidence
from hrfr_fast.study.remedies.stages import match_to_native, read_known, run_stages, warn_of_another_base
from hrfr_fast.study.remedies.unseen import unseen_part
from hrfr_fast.study.report import write_study_report
from hrfr_fast.study.results import StudyResults
from hrfr_fast.study.run import planned, run_study

Image = pytest.importorskip("PIL.Image")
load_file = pytest.importorskip("safetensors.torch").load_file
protocol_evaluation = importlib.import_module("hrfr_fast.evaluation.protocols.evaluate")
pytest.importorskip("sklearn.metrics")  # of the probes, now: it sets variables of the environment

BASE = regime_named("highlow144")


def remedy(name, **settings):
    return Remedy(name, regime_named(name), settings)


def test_two_remedies_together_have_the_fields_of_both():
    found = combine(BASE, [remedy("remedy-contrast"), remedy("crossres144", head="adaface")])
    assert found.regime is not None and found.settings == {"head": "adaface"}
    one, other = regime_named("remedy-contrast"), regime_named("crossres144")
    assert (found.regime.contrast, found.regime.consistency) == (one.contrast, other.consistency)
    assert found.regime.second_view and found.regime.highres_share == other.highres_share
    assert found.regime.sources == BASE.sources and found.regime.budget == BASE.budget


def test_remedies_that_contradict_or_add_nothing_are_not_put_together():
    contrast = regime_named("remedy-contrast")
    stronger = Remedy("stronger", contrast.replaced(name="stronger", contrast=0.7), {})
    refused = combine(BASE, [remedy("remedy-contrast"), stronger])
    assert refused.regime is None and "two values of contrast: 0.2 and 0.7" in refused.why_not
    views = remedy("crossres144-views")
    assert "together are crossres144" in combine(BASE, [views, remedy("crossres144")]).why_not
    found, why = first_that_fits(BASE, [remedy("remedy-contrast"), views, stronger, remedy("crossres144")], 2)
    assert found is not None and found.parts == ("remedy-contrast", "crossres144"), "ranks 0 + 3 before 1 + 2"
    assert len(why) == 3 - 1 and all(why)


def test_candidates_are_checked():
    with pytest.raises(UsageError, match="no regime is called 'nothing'"):
        Candidate(regime="nothing")
    with pytest.raises(UsageError, match="consistency needs second_view"):
        Candidate(regime="highlow144", label="mine", trials=({"consistency": 1.0},))
    with pytest.raises(UsageError, match="twice"):
        Remedies(candidates=(Candidate(regime="crossres144"), Candidate(regime="crossres144")))
    with pytest.raises(UsageError, match="best-together twice"):
        Remedies(candidates=(Candidate(regime="crossres144", label="best-together"),))
    with pytest.raises(UsageError, match="a label must be letters"):
        Candidate(regime="crossres144", label="../elsewhere")
    with pytest.raises(UsageError, match="label of its own"):
        Candidate(regime="crossres144", changes={"consistency": 2.0}).variants()
    variants = Candidate(regime="crossres144", trials=({"consistency": 2.0},)).variants()
    assert [label for label, _ in variants] == ["crossres144", "crossres144-try1"]
    assert variants[0][1] == regime_named("crossres144") and variants[1][1].consistency == 2.0
    for preset in PRESETS.values():  # every control is a candidate
        names = [one.name for one in preset.remedies.candidates] if preset.remedies else []
        assert {one.control for one in (preset.remedies.candidates if names else ())} <= {"", *names}


class MadePairs(NamedTuple):
    """What ``calibration`` reads of a pair set."""

    same: np.ndarray
    identities: np.ndarray | None
    split: SimpleNamespace = SimpleNamespace(size=144)

    def __len__(self):
        return len(self.same)


def test_one_threshold_has_the_far_that_counting_gives():
    rng = np.random.default_rng(0)
    same = np.arange(600) < 300
    people = rng.integers(0, 80, 1200).astype(np.int32)
    people[1::2][same] = people[0::2][same]
    views = {name: np.round(rng.normal(0.3 * same + shift, 0.2), 3) for name, shift in (("12", 0.2), ("144", 0.0))}
    pairs = MadePairs(same, people)
    across = {"HR-LR36": views["144"]}
    found = calibration({0: views | across, 1: views | across}, pairs, "144", far=0.05, resamples=200)
    for on, chosen in (("all", ["12", "144"]), ("sharp", ["144"])):
        scores, impostors = (np.concatenate([views[name][kind] for name in chosen]) for kind in (same | True, ~same))
        lowest = min(score for score in scores if (impostors >= score).mean() <= 0.05 + 1e-12)
        threshold = (lowest + scores[scores < lowest].max()) / 2
        for name in views:
            far, frr = found[on].far[name], found[on].frr[name]
            assert far.values == pytest.approx([(views[name][~same] >= threshold).mean()] * 2)
            assert frr.values == pytest.approx([(views[name][same] < threshold).mean()] * 2)
        spread = found[on].far["12"].values - found[on].far["144"].values
        assert found[on].spread.values == pytest.approx(np.abs(spread)) and spread[0] > 0.02, "not calibrated"
        low, high = np.quantile(found[on].far["12"].resampled[:, 0], [0.025, 0.975])
        assert low < found[on].far["12"].values[0] < high


def test_one_threshold_of_one_view_is_that_of_evaluation():
    """FRR is 1 - TAR at the same FAR, in each resample, though genuine scores lie between impostors' ones."""
    rng = np.random.default_rng(1)
    same = np.arange(400) < 200
    people = rng.integers(0, 50, 800).astype(np.int32)
    people[1::2][same] = people[0::2][same]
    scores = rng.normal(0.3 * same, 0.2)
    found = calibration({0: {"144": scores}}, MadePairs(same, people), "144", far=0.1, resamples=150)
    rates = resampled_rates(scores, same, people, fars=(0.1,), resamples=150)["0.1"]
    (threshold,) = thresholds_at_fars(scores, same, people, fars=[0.1], resamples=2)
    for on in ("all", "sharp"):
        assert found[on].frr["144"].values[0] == (scores[same] < threshold.threshold).mean()
        assert found[on].frr["144"].values[0] == pytest.approx(1 - tar_at_fars(scores, same, (0.1,))[0]["0.1"])
        assert found[on].frr["144"].resampled[:, 0] == pytest.approx(1 - rates)


def test_calibration_is_over_the_seeds_that_have_the_curve():
    """With more seeds than get the curve by resolution the others are left out, not the whole regime."""
    rng = np.random.default_rng(2)
    same = np.arange(60) < 30

    def scores(curve):
        by_view = {view: rng.normal(same, 0.5) for view in ("HR-HR", "HR-LR")}
        return SimpleNamespace(by_view=by_view, by_resolution={12: rng.normal(same, 0.5)} if curve else {})

    scored = {"base": {0: scores(True), 1: scores(True), 2: scores(False)}}
    comparison = SimpleNamespace(pairs=MadePairs(same, None), scored=scored, units=60)
    rows = collect._calibrations(comparison, ["base"], "base")["all"]["base"].rows
    assert [row.view for row in rows] == ["12", "144", "HR-LR36"] and list(rows[0].far.by_seed) == ["0", "1"]


def made(gains, spread=0.002, seeds=3, resamples=400):
    """Estimates of a base and of remedies that are ``gains`` better, label -> estimate."""
    rng = np.random.default_rng(1)
    base = 0.6 + rng.normal(0, 0.005, (resamples, seeds))
    found = {"base": Estimate(tuple(range(seeds)), np.full(seeds, 0.6), base)}
    for label, gain in gains.items():
        noise = rng.normal(0, spread, seeds)
        change = gain + noise + rng.normal(0, spread, (resamples, 1))
        found[label] = Estimate(tuple(range(seeds)), 0.6 + gain + noise, base + change)
    return found


def measured(probe, tar, accuracy, ranks=None):
    areas = {label: {"linear LR56-Lanczos": one} for label, one in made(probe).items()}
    outcomes = {label: Outcomes(np.zeros((1, 3)), one) for label, one in made(accuracy).items()}
    return judge.Measured(outcomes, made(tar), areas, ranks or {}, 200, 200)


def test_a_remedy_succeeds_where_every_part_holds_after_holm():
    found = measured(
        probe={"good": -0.1, "half": -0.1, "bad": 0.2}, tar={"good": 0.1, "half": 0.0, "bad": 0.1},
        accuracy={"good": 0.01, "half": 0.01, "bad": 0.01},
    )  # fmt: skip
    rows = judge.verdicts(found, "base", {"good": "half", "half": "", "bad": "not there"}, family=5)
    assert [row.verdict for row in rows] == ["success", "undecided", "failed"]
    assert [row.p_holm for row in rows] == holm([row.p for row in rows], 5)
    assert list(rows[0].against) == ["base", "half"] and list(rows[2].against) == ["base"]
    assert rows[2].p == 1.0, "the probe went the wrong way"
    weak = measured(probe={"r": -0.1}, tar={"r": 0.007}, accuracy={"r": 0.01})
    alone, among_many = (judge.verdicts(weak, "base", {"r": ""}, family=family)[0] for family in (1, 100))
    assert alone.verdict == "success" and among_many.verdict == "undecided", (alone.p, among_many.p_holm)
    assert 0 < rows[0].detectable[judge.TAR] < rows[0].against["base"][judge.TAR].value
    best = judge.recommended(rows, ["bad", "half", "good"])
    text = judge.statement(rows, "base", best, 200, 3, "identities")
    assert best == "good" and text.startswith("Recommended: good")
    none = judge.statement(rows[1:], "base", "", 200, 3, "identities")
    assert "failed: bad; undecided: half" in none and "smallest changes" in none and "four times out of five" in none


def test_a_base_without_a_gap_is_told():
    found = measured(probe={"r": 0.0}, tar={"r": 0.1}, accuracy={"r": 0.01})  # the base's probe: 0.6
    assert judge.without_gap(found, "base") == ""
    areas = dict(found.areas["base"])
    areas["knn LR56-Lanczos"] = Estimate((0, 1, 2), np.full(3, 0.503), areas["linear LR56-Lanczos"].resampled - 0.097)
    said = judge.without_gap(dataclasses.replace(found, areas={"base": areas}), "base")
    assert "do not decide" in said and "knn LR56-Lanczos 0.503" in said and "linear" not in said
    alone = {"knn LR56-Lanczos": areas["knn LR56-Lanczos"]}
    assert "no gap" in judge.without_gap(dataclasses.replace(found, areas={"base": alone}), "base")


def test_a_probe_on_which_the_base_is_at_chance_does_not_decide_while_another_can():
    """A view as mild as 56 px may show the base no gap: that part of the criterion could never be met."""
    found = measured(probe={"r": -0.09}, tar={"r": 0.1}, accuracy={"r": 0.01})
    chance = Estimate((0, 1, 2), np.full(3, 0.503), found.areas["base"]["linear LR56-Lanczos"].resampled - 0.097)
    wider = {label: areas | {"knn LR12-Lanczos": chance} for label, areas in found.areas.items()}
    row = judge.verdicts(dataclasses.replace(found, areas=wider), "base", {"r": ""}, family=1)[0]
    assert row.verdict == "success" and "probe AUC, knn LR12-Lanczos" not in row.detectable
    worse = Estimate((0, 1, 2), np.full(3, 0.9), chance.resampled + 0.4)
    wider["r"] = wider["r"] | {"knn LR12-Lanczos": worse}
    row = judge.verdicts(dataclasses.replace(found, areas=wider), "base", {"r": ""}, family=1)[0]
    assert row.verdict == "failed", "a gap that opens counts"
    alone = {label: {"knn LR12-Lanczos": chance} for label in wider}
    row = judge.verdicts(dataclasses.replace(found, areas=alone), "base", {"r": ""}, family=1)[0]
    assert row.verdict == "undecided" and "probe AUC, knn LR12-Lanczos" in row.detectable


def test_a_probe_below_chance_counts_as_one_above_it():
    """The base's AUC is 0.6; 0.1 is farther from chance than that, 0.5 and 0.45 are nearer."""
    gains = {"chance": -0.1, "below": -0.15, "inverted": -0.5}
    found = measured(probe=gains, tar=dict.fromkeys(gains, 0.1), accuracy=dict.fromkeys(gains, 0.01))
    rows = {row.label: row for row in judge.verdicts(found, "base", dict.fromkeys(gains, ""), family=3)}
    assert {label: row.verdict for label, row in rows.items()} == {
        "chance": "success", "below": "success", "inverted": "failed",
    }  # fmt: skip
    change = rows["inverted"].against["base"]["probe AUC, linear LR56-Lanczos"]
    assert change.value == pytest.approx(0.9 - 0.6, abs=0.01) and rows["inverted"].p == 1.0
    upside_down = {label: {kind: flipped(area) for kind, area in areas.items()} for label, areas in found.areas.items()}
    mirrored = dataclasses.replace(found, areas=upside_down)
    assert [row.p for row in judge.verdicts(mirrored, "base", dict.fromkeys(gains, ""), family=3)] == pytest.approx(
        [row.p for row in rows.values()]
    )
    assert judge.without_gap(mirrored, "base") == "", "0.4 is a gap"


def flipped(area):
    return Estimate(area.seeds, 1 - area.values, 1 - area.resampled)


def test_the_choice_does_not_reward_a_probe_below_chance():
    rng = np.random.default_rng(3)
    people, low = np.arange(40), np.repeat([0.0, 1.0], 40)

    def of(gap):
        scores = {"linear LR56-Lanczos": gap * low + rng.normal(size=80)}
        return {seed: SimpleNamespace(probe=scores) for seed in range(2)}

    chance, apart, inverted = (float(_closeness(of(gap), people).values.mean()) for gap in (0, 3, -3))
    assert chance > 0.4 and apart < 0.05 and inverted < 0.05


def test_a_collapsed_space_or_a_loss_beyond_half_a_point_is_no_success():
    lost = measured(probe={"r": -0.1}, tar={"r": 0.1}, accuracy={"r": -0.03})
    assert judge.verdicts(lost, "base", {"r": ""}, family=1)[0].verdict == "failed"
    ranks = {"base": {str(seed): 20.0 for seed in range(3)}, "r": {"0": 20.0, "1": 20.0, "2": 9.0}}
    collapsed = measured(probe={"r": -0.1}, tar={"r": 0.1}, accuracy={"r": 0.01}, ranks=ranks)
    (row,) = judge.verdicts(collapsed, "base", {"r": ""}, family=1)
    assert row.verdict == "failed" and row.p == 1.0


def test_the_best_score_comes_first_and_what_is_out_does_not_come(tmp_path):
    evidence = [
        Evidence("a", {}, 1.0, 0.1, ""),
        Evidence("b", {}, 0.4, 0.9, "collapsed"),
        Evidence("c", {}, 1, 0.3, ""),
    ]
    assert ranking(evidence) == ["c", "a"]
    choice = Choice("rule", "now", "data", "base", [0], {"a 0": "digest"}, evidence, ["c", "a"], [], ["why"])
    choice.save(tmp_path / "choice.json")
    assert read_choice(tmp_path / "choice.json") == choice
    assert read_choice(tmp_path / "none.json") is None
    (tmp_path / "choice.json").write_text("{}")
    with pytest.raises(UsageError, match="cannot be read as a choice"):
        read_choice(tmp_path / "choice.json")


PRESET = """
base = "cpu-small"
seeds = 1
batch = {32 = 16, 144 = 8}
steps = {lowres = 3, highres = 3, own = 3, finetune = 3}
looks = 1
sides = [12, 0]
sphere = []
settings = {width = 8, embedding_size = 16, log_every = 1}
[remedies]
match = false
[[remedies.candidates]]
regime = "crossres144-views"
[[remedies.candidates]]
regime = "crossres144"
control = "crossres144-views"
[[remedies.candidates]]
regime = "highlow144"
label = "adaface"
settings = {head = "adaface"}
[[remedies.candidates]]
regime = "remedy-contrast"
label = "lora-contrast"
control = "crossres144-views"
summary = "highlow144, then adapters"
combines = false
settings = {head = "adaface", lora_rank = 2, lora_alpha = 8.0}
[remedies.candidates.changes]
parents = ["highlow144"]
inherit_head = true
tune = "lora"
batchnorm = "frozen"
budget = "finetune"
"""


@pytest.fixture(scope="module")
def packed(tiny_tree, tmp_path_factory):
    """Packed data with development people."""
    path = tmp_path_factory.mktemp("remedies") / "packed"
    pack(tiny_tree, path, workers=1, dev_identities=4, show_progress=False)
    return path


@pytest.fixture(scope="module")
def study(packed):
    """Packed data, preset and directory of a study of remedies; whether the choice was there whenever tests were."""
    root = packed.parent
    (root / "brief.toml").write_text(PRESET)
    scored = []
    original = execution.score_run

    def score_run(run, *arguments, **options):
        scored.append((root / "study" / "choice.json").exists())
        return original(run, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "score_run", score_run)
        run_study(
            ["all"], root / "packed", root / "study", preset=str(root / "brief.toml"), device="cpu",
            show_progress=False,
        )  # fmt: skip
    return root, scored


def test_no_test_pair_is_looked_at_before_the_choice_is_written(study):
    root, scored = study
    assert len(scored) >= 4 and all(scored)
    files = root.glob("study/runs/*/*/metrics.jsonl")
    lines = [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    assert {line["pairs_kind"] for line in lines if line["kind"] == "verification"} == {"development"}
    choice = read_choice(root / "study" / "choice.json")
    assert {one.label for one in choice.evidence} == {
        "crossres144-views", "crossres144", "adaface", "lora-contrast",
    }  # fmt: skip
    assert set(choice.ranking) <= {one.label for one in choice.evidence}


def test_the_report_of_remedies_shows_what_was_found(study, tmp_path):
    root, _ = study
    values = json.loads((root / "study" / "results.json").read_text())
    assert StudyResults.from_json(values).to_json() == values
    judged = {row["label"]: row for row in values["remedies"]["judged"]}
    assert {row["verdict"] for row in judged.values()} == {"undecided"}, "one seed decides nothing"
    assert list(judged["crossres144"]["against"]) == ["highlow144", "crossres144-views"]
    assert judged["adaface"]["cost"]["parameters"] == 1.0 and judged["adaface"]["cost"]["training_time"] > 0
    page = (root / "study" / "report.html").read_text()
    assert "never 12 and 56 px" in values["remedies"]["unseen"] and values["remedies"]["unseen"] in page
    assert values["remedies"]["statement"] in page and "It takes at least 3 seeds" in page
    assert "failures-highlow144-" in " ".join(figure["file"] for row in values["findings"] for figure in row["figures"])
    assert "Findings to reproduce" not in page and "HR-LR36" in page
    evil = "<script>alert(1)</script>"
    values["remedies"]["judged"][0] |= {"summary": evil}
    values["remedies"]["choice"]["refused"] = [evil]
    values["remedies"]["statement"] = evil
    for name in ("runs", "analysis"):
        (tmp_path / name).symlink_to(root / "study" / name)
    page = write_study_report(tmp_path, StudyResults.from_json(values)).read_text()
    assert "<script" not in page and page.count("&lt;script&gt;") >= 3


def test_the_base_tuned_by_adapters_is_a_remedy_that_is_judged(study):
    """It starts from the base of its own seed, moves weights by its adapters alone, and takes another head's matrix."""
    root, _ = study
    base, tuned = (root / "study" / "runs" / "seed0" / name for name in ("highlow144", "lora-contrast"))
    before, after = (load_file(one / "checkpoints" / "last.safetensors") for one in (base, tuned))
    assert set(after) - set(before) == {"head.mean", "head.std"}, "merged weights, and what AdaFace keeps"
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    weights = {name for name, tensor in before.items() if tensor.ndim > 1}
    assert {"head.weight"} < moved <= weights, "scales and statistics are the base's"
    row = next(
        row for row in json.loads((root / "study" / "results.json").read_text())["remedies"]["judged"]
        if row["label"] == "lora-contrast"
    )  # fmt: skip
    assert row["summary"] == "highlow144, then adapters"
    assert (row["cost"]["parameters"], row["cost"]["trained_first"]) == (1.0, ["highlow144"])
    assert list(row["against"]) == ["highlow144", "crossres144-views"] and row["native"] is not None


def test_the_preset_tunes_the_base_by_adapters_with_each_remedy(packed, tmp_path):
    stages = Stages(PRESETS["remedies"], open_packed(packed), tmp_path, (0, 1), "cpu", ("lora", "lora-distillation"))
    runs = {run.label: run for run in stages.judged({}, {}).runs}
    assert list(runs) == ["highlow144", "highres144", "lora", "lora-distillation"]
    assert {run.label for run in stages.base().runs} == {"highlow144", "highres144"}, "the teacher, too"
    tuned = runs["lora-distillation"]
    assert tuned.regime.teacher == "highres144" and tuned.regime.parents == ("highlow144",)
    assert "distillation" in tuned.regime.summary and tuned.settings.tuning.lora_rank == 8
    labels = {candidate.name for candidate in WITH_LORA}
    assert {"lora", "lora-views", "lora-matched", "lora-contrast", "lora-distillation", "lora-adaface"} == labels
    assert labels < {candidate.name for candidate in PRESETS["remedies"].remedies.candidates}


def test_public_sets_of_low_resolution_faces_are_further_columns(study, tmp_path):
    """SCface in miniature: found wrong before training, judged once, and compared person by person."""
    root, _ = study
    place = scface_of(tmp_path / "SCface", open_packed(root / "packed").splits["highres_eval"])
    sets = (PublicSet(place=str(place), protocol="scface"),)
    with pytest.raises(UsageError, match="no such file or folder"):
        check_public_sets((PublicSet(place=str(tmp_path / "none")),))
    with pytest.raises(UsageError, match="protocol"):
        PublicSet(place="x", protocol="lfw")
    check_public_sets(sets)
    plan = planned(["all"], root / "packed", root / "study", preset=str(root / "brief.toml"), device="cpu")
    labels = ["highlow144", "crossres144"]
    score_public_sets(plan, labels, sets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol_evaluation, "evaluate_protocol", None)
        score_public_sets(plan, labels, sets)  # nothing is embedded again
    (found,) = [one for one in public_results(plan, labels, "highlow144", sets) if "4.20 m" in one.name]
    assert (found.level, found.decisions, found.units) == ("identity", 8, 8)
    expected = [
        {measure.name: measure.value for part in one.parts for measure in part.measures if "4.20 m" in part.part}
        for label in labels
        for one in protocol_evaluation.evaluate_protocol(
            plan.of(label)[0].directory, place, device="cpu", show_progress=False
        ).sets.values()
    ]
    shares = [found.values[label].value for label in labels]
    assert shares == [one["rank-1"] for one in expected]
    assert found.changes["crossres144"].value == pytest.approx(shares[1] - shares[0])
    values = json.loads((root / "study" / "results.json").read_text())
    page = (root / "study" / "report.html").read_text()
    assert values["remedies"]["public"] == [] and "No public set of real low-resolution faces was given" in page
    result = StudyResults.from_json(values)
    labelled = [result.remedies.base, *(row.label for row in result.remedies.judged)]
    shown = dataclasses.replace(
        found, values=dict.fromkeys(labelled, found.values["highlow144"]),
        changes=dict.fromkeys(labelled[1:], found.changes["crossres144"]),
    )  # fmt: skip
    for name in ("runs", "analysis"):
        (tmp_path / name).symlink_to(root / "study" / name)
    result = dataclasses.replace(result, remedies=dataclasses.replace(result.remedies, public=[shown]))
    page = write_study_report(tmp_path, result).read_text()
    assert f"{found.name} (8 of 8 identities)" in page and "No public set" not in page


def scface_of(place, split):
    """SCface's layout: mugshots of eight people, and a picture of each by one camera at every distance."""
    for person in range(8):
        records = np.flatnonzero(split.labels == person)
        name, camera = f"{person + 1:03d}", 1 + person % 5
        shots = {f"mugshot_frontal_cropped_all/{name}_frontal.png": (records[0], 144)} | {
            f"surveillance_cameras_distance_{n}/cam_{camera}/{name}_cam{camera}_{n}.png": (records[-1], 24 * n)
            for n in (1, 2, 3)
        }
        for path, (record, side) in shots.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            pixels = record_pixels(split, np.array([record]), 144)[0]
            Image.fromarray(pixels).resize((side, side)).save(place / path)
    return place


def test_the_same_command_reuses_the_choice(study):
    root, _ = study
    arguments = (["all"], root / "packed", root / "study")
    before = (root / "study" / "choice.json").read_bytes()
    plan = planned(*arguments, preset=str(root / "brief.toml"), device="cpu")
    assert all((run.directory / "checkpoints" / "last.safetensors").exists() for run in plan.runs)
    assert open_packed(root / "packed").digest == json.loads(before)["data_digest"]
    with pytest.raises(UsageError, match="no remedy 'highres32'"):
        planned(["highres32"], root / "packed", root / "study", preset=str(root / "brief.toml"))
    with pytest.raises(UsageError, match="highlow144 is the base; name remedies"):
        planned(["highlow144"], root / "packed", root / "study", preset=str(root / "brief.toml"))
    with pytest.raises(UsageError, match="--dose is for a study of regimes"):
        planned(*arguments, preset=str(root / "brief.toml"), dose=True)


def test_a_study_of_remedies_needs_development_pairs(tiny_packed, tmp_path):
    (tmp_path / "brief.toml").write_text(PRESET)
    with pytest.raises(UsageError, match="no development pairs of highres"):
        run_study(["all"], tiny_packed, tmp_path / "study", preset=str(tmp_path / "brief.toml"), device="cpu")


def test_the_matched_degradation_is_that_of_native_views_alone_and_keeps_the_probes_view_unseen(
    study, monkeypatch, capsys
):
    """Its settings are written with their evidence, and the filter of the tested view is not among them."""
    root, _ = study
    matching = importlib.import_module("hrfr_fast.analysis.degradation_match")
    auc = SimpleNamespace(mean=0.6, error=0.02)
    found = SimpleNamespace(
        settings=DegradationSettings(down="lanczos:2,box,cubic:0", noise_max=7.0), searched={"matched": auc},
        held_out={"matched": auc},
    )  # fmt: skip
    monkeypatch.setattr(matching, "match_degradation", lambda *_, **__: found)
    preset = PRESETS["remedies-faces"]
    out = root / "matched"
    stages = Stages(preset, open_packed(root / "packed"), out, (0,), "cpu")
    base = root / "study" / "runs" / "seed0" / "highlow144"
    plan = SimpleNamespace(of=lambda label: [SimpleNamespace(directory=base)])
    out.mkdir()
    settings = match_to_native(stages, plan)
    assert settings["down"] == "box" and settings["noise_max"] == 7.0
    assert read_known(stages).degradation == settings
    warn_of_another_base(stages, plan)
    assert "warning" not in capsys.readouterr().err, "it was matched on these weights"
    other = root / "study" / "runs" / "seed0" / "crossres144"
    warn_of_another_base(stages, SimpleNamespace(of=lambda label: [SimpleNamespace(directory=other)]))
    said = " ".join(capsys.readouterr().err.split())
    assert "degradation.json was matched on other weights" in said and "remove it with the runs" in said
    written = json.loads((out / "degradation.json").read_text())
    (out / "degradation.json").write_text(json.dumps({name: written[name] for name in ("settings", "evidence")}))
    with pytest.raises(UsageError, match="damaged"):
        warn_of_another_base(stages, plan)
    runs = {run.label: run for run in stages.judged(settings, {}).runs}
    assert runs["matched-views"].settings.degradation.noise_max == 7.0
    assert runs["matched-views"].settings.degradation.down == "box"
    assert runs["crossres144-views"].settings.degradation == DegradationSettings()
    assert {run.settings.logging.verify_on for run in runs.values()} == {"development"}
    assert "highres144" in runs and list(runs)[0] == "highlow144", "the teacher is trained, too"
    said = unseen_part(stages.judged(settings, {}), ["highlow144", "matched-views", "crossres144-views"])
    assert "matched-views: sides of 14 to 72 px in training, 56 px among them" in said
    assert "crossres144-views: sides of 28 to 44 px in training, never 12 and 56 px" in said
    assert "highlow144: no degraded views at all" in said


def test_a_remedy_may_be_what_another_starts_from_and_each_run_is_planned_once(packed, tmp_path):
    child = tmp_path / "child.toml"
    regime_named("crossres144").replaced(name="child", parents=("crossres144-views",), tune="lora").save(child)
    candidates = (
        Candidate(regime="crossres144-views", trials=({"highres_share": 0.4},)),
        Candidate(regime=str(child), control="crossres144-views"),
    )
    preset = PRESETS["remedies-faces"].replaced(remedies=Remedies(candidates=candidates))
    stages = Stages(preset, open_packed(packed), tmp_path / "study", (0, 1), "cpu")
    for plan in (stages.judged({}, {}), stages.trials({})):
        runs = [(run.label, run.seed) for run in plan.runs]
        assert len(set(runs)) == len(runs) and ("crossres144-views", 0) in runs
    assert not stages.matches, "no remedy degrades as native low resolution is"


def test_values_of_remedies_that_come_later_are_tried_too(packed, tmp_path, monkeypatch):
    """What was found for others stays."""
    one, other = (
        Candidate(regime=name, trials=({"highres_share": 0.4},)) for name in ("crossres144-views", "crossres144")
    )
    preset = PRESETS["remedies-faces"].replaced(remedies=Remedies(candidates=(one, other)))
    stages = Stages(preset, open_packed(packed), tmp_path, (0,), "cpu", ("crossres144-views",))
    evidence = {"crossres144-views-try1": 0.2, "crossres144-try1": 0.3}
    monkeypatch.setattr(
        remedies_stages, "evidence_of",
        lambda plan, base, labels: [Evidence(label, {}, 1.0, evidence.get(label, 0.0), "") for label in labels],
    )  # fmt: skip

    class Chosen(Exception):
        """Ends the study where remedies would be chosen."""

    def choose(*_):
        raise Chosen

    monkeypatch.setattr(remedies_stages, "_choose", choose)
    tried = []
    for wanted in (("crossres144-views",), ()):
        with pytest.raises(Chosen):
            run_stages(replace(stages, wanted=wanted), lambda plan: tried.append({*plan.labels}))
    assert read_known(stages).tuned == {
        "crossres144-views": "crossres144-views-try1",
        "crossres144": "crossres144-try1",
    }
    assert ["crossres144-views-try1" in labels for labels in tried] == [False, True, True, False, False, True]
