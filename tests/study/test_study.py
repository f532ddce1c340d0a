"""A whole study of tiny runs, through the command line and as functions."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import astuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hrfr_fast.cli import app
from hrfr_fast.evaluation.verification import verify
from hrfr_fast.model.checkpoint import save_weights
from hrfr_fast.model.lineage import data_record
from hrfr_fast.packing.pack import pack
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import write_json
from hrfr_fast.runtime.lock import NAME as LOCK
from hrfr_fast.runtime.lock import directory_lock
from hrfr_fast.study import run as study_run
from hrfr_fast.study.collect import own_results
from hrfr_fast.study.compare import Dose, doses_of
from hrfr_fast.study.cost import estimates
from hrfr_fast.study.plan import make_plan
from hrfr_fast.study.presets import preset_named
from hrfr_fast.study.report import write_study_report
from hrfr_fast.study.results import StudyResults
from hrfr_fast.study.run import planned, run_study
from hrfr_fast.study.score import main_pairs, read_run_scores
from hrfr_fast.study.states import SAME, identity_of, status

PRESET = """
base = "cpu-small"
batch = {32 = 16, 144 = 8}
steps = {lowres = 4, highres = 4, finetune = 5, fused = 4, own = 4}
looks = 0
sides = [12, 0]
analysed = []
settings = {width = 8, embedding_size = 32, log_every = 1}
"""


@pytest.fixture(scope="module")
def packed(tiny_tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("study-packed") / "packed"
    pack(tiny_tree, out, workers=1, dev_identities=4, show_progress=False)
    return out


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    path = tmp_path_factory.mktemp("preset") / "brief.toml"
    path.write_text(PRESET)
    return str(path)


@pytest.fixture(scope="module")
def done(packed, preset, tmp_path_factory):
    """Two regimes, two seeds."""
    out = tmp_path_factory.mktemp("study") / "study"
    run_study(["lowres32", "highres32"], packed, out, preset=preset, device="cpu", show_progress=False)
    return out


def run_cli(packed, preset, out, *more, regimes="lowres32,highres32"):
    flags = ["--regimes", regimes, "--data", str(packed), "--out", str(out), "--preset", preset, "--device", "cpu"]
    return [sys.executable, "-m", "hrfr_fast", "study", *flags, *more]


def test_results_are_what_the_scores_say(done, packed, preset):
    results = json.loads((done / "results.json").read_text())
    plan = planned(["lowres32", "highres32"], packed, done, preset=preset)
    pairs = main_pairs(plan.packed)
    for label in ("lowres32", "highres32"):
        scores = [read_run_scores(done / "runs" / f"seed{seed}" / label).by_view["HR-HR"] for seed in (0, 1)]
        whole = [verify(one, pairs.same, pairs.identities) for one in scores]
        entry = results["regimes"][label]
        assert entry["accuracy"]["value"] == pytest.approx(np.mean([one.accuracy for one in whole]))
        assert entry["auc"]["value"] == pytest.approx(np.mean([one.auc for one in whole]))
        assert [entry["folds"][str(seed)] for seed in (0, 1)] == [one.folds for one in whole]
        low, high = entry["accuracy"]["interval"]
        assert low <= entry["accuracy"]["value"] <= high
        # Training verified the same checkpoint on the same pairs by itself.
        trained = json.loads((done / "runs" / "seed0" / label / "results.json").read_text())
        assert trained[pairs.name]["accuracy"] == pytest.approx(entry["accuracy"]["by_seed"]["0"])
        assert [row["pixels"] for row in entry["by_resolution"]] == [12, 144]
        assert {"dev-lowres", "dev-highres"} <= set(entry["other_pairs"])
        assert entry["identification"]["gallery"] == 12
    (one,) = results["contrasts"]
    assert not one["fixed"] and one["p_holm"] is None and one["seeds"] == 2
    gains = [results["regimes"][one["a"]]["accuracy"]["value"] - results["regimes"][one["b"]]["accuracy"]["value"]]
    assert one["difference"] == pytest.approx(gains[0])
    assert {claim["verdict"] for claim in results["claims"]} == {"undecided"}, "two seeds decide nothing"


def test_the_report_holds_the_numbers_and_needs_no_other_file(done):
    results, page = json.loads((done / "results.json").read_text()), (done / "report.html").read_text()
    for entry in (entry for entry in results["regimes"].values() if entry["stage"] == "regime"):
        assert f"{100 * entry['accuracy']['value']:.1f} %" in page
        assert f"{100 * entry['accuracy']['interval'][0]:.1f} to {100 * entry['accuracy']['interval'][1]:.1f}" in page
    assert "lowres32-sphere" not in page.split("<h2>The embedding space")[0], "it is no regime to compare"
    (sphere,) = results["findings"]
    assert sphere["key"] == "sphere" and "people it was trained on" in sphere["answer"]
    assert "budgets differ" not in page, "both took four steps of equal batches"
    assert "more steps may make them better" in page, "nobody watched highres32 for a plateau"
    assert results["data"]["digest"] in page and "synthetic" in page and "tests the tool" in page
    assert "http" not in page.replace("http-equiv", "") and 'src="data:image/webp' in page
    with open(done / "tables" / "verification.csv", encoding="utf-8") as file:
        rows = {row["regime"]: row for row in csv.DictReader(file)}
    assert float(rows["lowres32"]["accuracy"]) == results["regimes"]["lowres32"]["accuracy"]["value"]
    assert {"accuracy.png", "folds.png", "loss.png", "roc.png", "regime-lowres32.png"} <= set(
        os.listdir(done / "figures")
    )


def test_results_are_read_back_as_they_were_written(done):
    values = json.loads((done / "results.json").read_text())
    assert StudyResults.from_json(values).to_json() == values
    with pytest.raises(UsageError, match="not the results of a study"):
        StudyResults.from_json({"regimes": {}})


def test_finished_runs_are_reused_and_others_refused(done, packed, preset, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in done.glob("runs/*/*/checkpoints/last.safetensors")}
    run_study(["lowres32", "highres32"], packed, done, preset=preset, device="cpu", show_progress=False)
    assert before == {path: path.stat().st_mtime_ns for path in done.glob("runs/*/*/checkpoints/last.safetensors")}
    other = tmp_path / "other.toml"
    other.write_text(PRESET.replace("lowres = 4", "lowres = 5"))
    with pytest.raises(UsageError, match="steps 4, and now it is 5"):
        run_study(["lowres32"], packed, done, preset=str(other), device="cpu", show_progress=False)


PARTS_OF_RESULTS = {
    "nothing": None,
    "half": "{",
    "deep": "[" * 100_000,
    "a list": "[]",
    "no numbers": '{"hres": {}}',
    "not a number": '{"hres": {"kind": "test", "pairs": 3, "accuracy": NaN, "accuracy_ci": [0, 1]}}',
}


@pytest.mark.parametrize("name", PARTS_OF_RESULTS)
def test_results_of_a_run_that_were_copied_in_part_are_told(done, packed, preset, tmp_path, name):
    if PARTS_OF_RESULTS[name] is not None:
        (tmp_path / "results.json").write_text(PARTS_OF_RESULTS[name], encoding="utf-8")
    with pytest.raises(UsageError, match="missing or damaged"):
        own_results(SimpleNamespace(directory=tmp_path), planned(["lowres32"], packed, done, preset=preset))


def test_a_study_in_use_is_refused_and_a_run_of_it_too(done, packed, preset):
    """It holds its directory, and each run's while that is trained and judged, without waiting for itself."""
    for held in (done, next(path.parent for path in done.rglob("study-job.json"))):
        with directory_lock(held), pytest.raises(UsageError, match=f"{held} is in use by"):
            run_study(["lowres32", "highres32"], packed, done, preset=preset, device="cpu", show_progress=False)
    assert not list(done.rglob(LOCK)), "a study that is done holds nothing"


def test_a_child_of_another_parent_is_refused(packed, preset, tmp_path):
    plan = planned(["lowres144-finetuned"], packed, tmp_path, preset=preset, seeds=1)
    parent, child = (next(run for run in plan.runs if run.label == label) for label in plan.labels)
    child.directory.mkdir(parents=True)
    said = identity_of(child, plan.packed.digest)
    write_json(child.directory / SAME, said | {"parents": {parent.label: ""}})
    assert status(child, plan.packed) == "new"
    older = {name: value for name, value in said["settings"].items() if name != "most_identities"}
    write_json(child.directory / SAME, said | {"settings": older})
    assert status(child, plan.packed) == "new", "a setting that the run's version did not have is no difference"
    write_json(child.directory / SAME, said | {"parents": {parent.label: "digest of a checkpoint that is gone"}})
    with pytest.raises(UsageError, match="another lowres144 than there is now"):
        status(child, plan.packed)


def test_a_stopped_study_continues_with_the_same_command(packed, preset, tmp_path, done):
    out = tmp_path / "study"
    slow = tmp_path / "brief.toml"
    slow.write_text(PRESET.replace("lowres = 4", "lowres = 40"))
    command = run_cli(packed, str(slow), out, "--seeds", "1", regimes="lowres32")
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics, deadline = out / "runs" / "seed0" / "lowres32" / "metrics.jsonl", time.monotonic() + 600
    while time.monotonic() < deadline and not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    _, messages = child.communicate(timeout=600)
    assert child.returncode == 143 and "continues there" in messages, messages
    assert not (out / "report.html").exists()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "continues" in again.stderr and (out / "report.html").exists()
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines() if '"train"' in line]
    assert steps == list(range(1, 41)), "every step once: nothing was trained twice"


def test_dry_run_prints_plan_and_time_and_changes_nothing(packed, preset, tmp_path):
    out = tmp_path / "study"
    printed = CliRunner().invoke(app, run_cli(packed, preset, out, "--dry-run", "--dose", regimes="highlow144")[3:])
    assert printed.exit_code == 0, printed.output
    for word in ("highlow144", "highlow144-identities25", "highlow144-share20", "minutes", "12 of 12"):
        assert word in printed.output
    assert not out.exists()


def test_a_question_about_two_models_is_not_asked_of_one(packed, tmp_path, monkeypatch):
    """It was asked and failed, and the command told its user to give two runs, which a study does not take."""
    asked = []

    def analyze(runs, out, *, questions, **more):
        asked.extend(questions)
        out.mkdir(parents=True, exist_ok=True)
        (out / "index.json").write_text('{"left_out": {}, "failed": {}}')
        return []

    monkeypatch.setattr("hrfr_fast.analysis.run.analyze", analyze)
    plan = planned(["lowres32", "highres32"], packed, tmp_path / "study", preset="cpu-small", device="cpu")
    _, unanswered = study_run._analyse(plan, False)
    assert "distances" in asked and "drift" not in asked and "one of this study's" in unanswered["drift"]


def test_a_regime_from_a_checkpoint_is_timed_however_short_its_phases(packed, preset, done, tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text(
        f'sources = ["highres"]\ninput_size = 32\nparents = ["{done}/runs/seed0/lowres32"]\n'
        '[[phases]]\ntrain = ["head"]\nshare = 0.1\n[[phases]]\ntrain = ["body", "output", "head"]\nshare = 0.9\n'
    )
    plan = planned([str(mine)], packed, tmp_path / "study", preset=preset, seeds=1, device="cpu")
    (seconds,) = estimates(plan, list(plan.runs)).values()
    assert seconds > 0


def test_the_ends_of_a_dose_are_runs_of_the_study(packed, preset, tmp_path):
    names = ["lowres144-finetuned", "lowres144-continued", "highlow144"]
    plan = planned(names, packed, tmp_path, preset=preset, seeds=1, dose=True)
    ends = [dose for dose in doses_of(plan) if dose.label in names or dose.label == "lowres144"]
    low, high = (plan.packed.splits[split].samples for split in ("lowres", "highres"))
    assert sorted(ends, key=astuple) == [
        Dose("highlow144", "highres_identities", 0.0, "lowres144"),
        Dose("highlow144", "highres_identities", 1.0, "highlow144"),
        Dose("highlow144", "highres_share", 0.0, "lowres144"),
        Dose("highlow144", "highres_share", high / (low + high), "highlow144"),
        Dose("lowres144-finetuned", "highres_identities", 0.0, "lowres144-continued"),
        Dose("lowres144-finetuned", "highres_identities", 1.0, "lowres144-finetuned"),
    ]
    dosed = {(dose.label, dose.kind, dose.dose) for dose in doses_of(plan)}
    assert ("highlow144-share20", "highres_share", 0.2) in dosed


def test_all_ten_regimes_and_controls_are_planned_parents_first(packed, preset, tmp_path):
    plan = planned(["all"], packed, tmp_path / "study", preset=preset, seeds=3)
    assert len(plan.labels) == 14 and len(plan.runs) == 40
    (sphere,) = (run for run in plan.runs if run.stage == "sphere")
    assert (sphere.label, sphere.seed, sphere.settings.model.embedding_size) == ("lowres32-sphere", 0, 3)
    for seed in range(3):
        done: set[str] = set()
        for run in (run for run in plan.runs if run.seed == seed):
            assert set(run.regime.parents) <= done
            done.add(run.label)
    steps = {run.label: run.steps for run in plan.runs}
    assert steps["lowres144"] == steps["highlow144"] == steps["crossres144"] == steps["crossres144-views"]
    assert steps["lowres144-finetuned"] == steps["lowres144-continued"]


def test_budgets_in_epochs_are_equal_steps(packed, tmp_path):
    preset = preset_named("full").replaced(batch={"32": 1024, "144": 512})
    from hrfr_fast.format.reader import open_packed

    names = ["lowres32", "highlow144", "highres144", "lowres144-finetuned", "lowres144-continued"]
    plan = make_plan(names, preset, open_packed(packed), tmp_path)
    steps = {run.label: run.steps for run in plan.runs}
    assert steps["lowres144"] == steps["highlow144"] == steps["lowres32"] > 0
    assert steps["lowres144-finetuned"] == steps["lowres144-continued"] < steps["lowres144"], "passes over highres"
    watched = next(run for run in plan.runs if run.label == "highres144").settings
    assert watched.budget.plateau == 3 and watched.logging.eval_every > 0


@pytest.mark.parametrize(
    "text,message",
    [
        ("seeds = 0", "seeds is 0; it must be greater than or equal to 1"),
        ("colour = 1", "there is no 'colour'; there are"),
        ("base = 'x'", "base is 'x'; it must be one of full"),
        ("sides = ['a']", "sides.0 is 'a'; it must be a valid integer"),
        ("batch = {abc = 32}", "batch is .*; 'abc' is no number of pixels"),
        ("looks = 'many'", "looks is 'many'; it must be a valid integer"),
    ],
)
def test_a_wrong_preset_is_refused(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        preset_named(str(path))


def test_a_report_without_test_pairs_says_so(done, tmp_path):
    results = json.loads((done / "results.json").read_text())
    bare = {name: value for name, value in results.items() if name not in ("remedy", "dose")}
    bare["regimes"] = {
        label: {key: value for key, value in entry.items() if key not in ("accuracy",)}
        for label, entry in results["regimes"].items()
    }
    bare |= {"contrasts": [], "claims": [], "data": results["data"] | {"pairs": None}}
    (tmp_path / "runs").symlink_to(done / "runs")
    assert "no test pairs" in write_study_report(tmp_path, StudyResults.from_json(bare)).read_text()


def test_the_report_escapes_what_users_name(done, tmp_path):
    values, evil = json.loads((done / "results.json").read_text()), "<script>alert(1)</script>"
    values["regimes"]["lowres32"] |= {"summary": evil, "data_note": evil}
    values["data"]["path"] = evil
    values["contrasts"][0]["sentence"] = evil
    values["unanswered"] = {evil: evil}
    (tmp_path / "runs").symlink_to(done / "runs")
    page = write_study_report(tmp_path, StudyResults.from_json(values)).read_text()
    assert "<script" not in page and page.count("&lt;script&gt;") >= 5


def test_a_run_is_reused_where_only_other_pairs_changed(packed, preset, tmp_path):
    """What its checkpoint was trained on decides, not the digest of all that is packed."""
    plan = planned(["lowres32"], packed, tmp_path, preset=preset, seeds=1)
    run = plan.runs[0]
    weights = run.directory / "checkpoints" / "last.safetensors"
    weights.parent.mkdir(parents=True)
    write_json(run.directory / SAME, identity_of(run, "before") | {"parents": {}})
    with pytest.raises(UsageError, match="made with other data"):
        status(run, plan.packed)
    data = data_record(plan.packed, ["lowres"], run.directory) | {"digest": "before"}
    save_weights(weights, torch.nn.Identity(), torch.nn.Identity(), {"data": data})
    assert status(run, plan.packed) == "new"
    save_weights(weights, torch.nn.Identity(), torch.nn.Identity(), {"data": data | {"splits": {"lowres": "other"}}})
    with pytest.raises(UsageError, match="made with other data"):
        status(run, plan.packed)
