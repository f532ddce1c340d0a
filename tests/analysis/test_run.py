"""The command from checkpoints to findings, on the tiny tree; and what it does when something is wrong."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from hrfr_fast.analysis import run as running
from hrfr_fast.analysis.embedding_cache import HELD_OUT, HR, LR32, LR36, EmbeddingCache, shrink_lanczos
from hrfr_fast.analysis.models import model_names, read_model
from hrfr_fast.analysis.run import QUESTIONS, IncompleteAnalysis, analyze
from hrfr_fast.format.reader import open_packed
from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.model.checkpoint import save_weights
from hrfr_fast.runtime.device import choose_compute
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.study.score import main_pairs

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("sklearn.metrics")  # of the probes, now: it sets variables of the environment


def make_run(path, packed, *, seed=0, **backbone):
    """A run directory with an untrained network; the analyses ask no more of it."""
    settings = {"input_size": 32, "width": 8, "embedding_size": 8, "dropout": 0.0} | backbone
    torch.manual_seed(seed)
    network = build_backbone(BackboneSettings(**settings)).eval()
    (path / "checkpoints").mkdir(parents=True)
    data = {"path": str(packed), "digest": open_packed(packed).digest}
    metadata = {"regime": "lowres32", "backbone": settings, "data": data}
    save_weights(path / "checkpoints" / "last.safetensors", network, torch.nn.Identity(), metadata)
    (path / "settings.toml").write_text(f"seed = {seed}\n[augment]\ndegrade = 0.0\n")
    return path


def test_of_test_sets_of_equal_size_the_first_is_shown_as_in_a_study(tiny_packed):
    packed = open_packed(tiny_packed)
    pairs = next(iter(packed.pairs.values()))
    sets = {
        name: replace(pairs, name=name, kind=kind)
        for name, kind in (("d", "development"), ("a", "test"), ("b", "test"))
    }
    packed = replace(packed, pairs=sets)
    cache = EmbeddingCache([], packed, choose_compute("cpu", "fp32"))
    assert cache.test_pairs.name == main_pairs(packed).name == "a"


@pytest.fixture(scope="module")
def runs(tiny_packed, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [
        make_run(root / "first", tiny_packed, input_size=48, embedding_size=3),
        make_run(root / "second", tiny_packed, embedding_size=3, seed=1),
    ]


def test_the_command_answers_every_question(runs, tiny_packed, tmp_path):
    out = tmp_path / "analysis"
    command = [sys.executable, "-m", "hrfr_fast", "analyze", *map(str, runs), "--out", str(out), "--device", "cpu"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    index = json.loads((out / "index.json").read_text())
    assert list(printed) == [finding["key"] for finding in index["findings"]] == list(QUESTIONS)
    assert not index["failed"] and not index["left_out"] and [m["name"] for m in index["models"]] == ["first", "second"]
    for key, finding in printed.items():
        assert json.loads((out / f"{key}.json").read_text()) == finding
        assert finding["figures"] and len(finding["answer"]) > 40, key
        for figure in finding["figures"]:
            with Image.open(out / figure["file"]) as image:
                width, height = image.size
            assert width > 400 and height > 100 and figure["caption"].endswith(".")
    gap = printed["resolution_gap"]["numbers"]
    assert gap["second"]["near_identity_control"] and not gap["first"]["near_identity_control"]
    low, high = gap["first"]["LR36"]["linear"]["auc_ci"]
    assert low <= gap["first"]["LR36"]["linear"]["auc"] <= high
    assert gap["first"][HELD_OUT.name]["trained_on"] is False
    assert 0 <= printed["sphere"]["numbers"]["first"]["occupancy"]["uniform_p"] <= 1
    assert (
        printed["sphere"]["numbers"]["first"]["occupancy_trained"]["people"]
        == open_packed(tiny_packed).splits["lowres"].identities
    )
    assert printed["alignment"]["numbers"]["first"]["methods"]["none"]["accuracy_gain"] == [0, 0, 0]
    assert printed["kernels"]["numbers"]["pairs"]["first and second"]["kinship"] == "independent"
    assert len(printed["drift"]["numbers"]["first to second"]["verification"]) == 5


def test_a_question_that_fails_hides_no_other(runs, tmp_path, monkeypatch):
    genuine = running._module

    def module(name):
        found = genuine(name)
        if name == "sphere":
            monkeypatch.setattr(found, "analyse", lambda *_: 1 / 0)
        if name == "kernels":
            monkeypatch.setattr(found, "analyse", lambda *_: (_ for _ in ()).throw(HrfrError("pycpd is needed")))
        return found

    monkeypatch.setattr(running, "_module", module)
    questions = ["sphere", "kernels", "drift"]
    with pytest.raises(
        IncompleteAnalysis, match=r"2 of 3 questions(.|\n)*sphere: a fault(.|\n)*kernels: pycpd"
    ) as raised:
        analyze(runs, tmp_path, questions=questions, device="cpu", show_progress=False)
    assert [finding.key for finding in raised.value.findings] == ["drift"] and raised.value.exit_code == 1
    assert (tmp_path / "drift.json").exists() and "ZeroDivisionError" in (tmp_path / "sphere.error.txt").read_text()
    assert set(json.loads((tmp_path / "index.json").read_text())["failed"]) == {"sphere", "kernels"}


def test_what_does_not_apply_is_left_out_unless_asked_for(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "QUESTIONS", ("kernels", "drift"))
    found = analyze(runs[:1], tmp_path, device="cpu", show_progress=False)
    assert [finding.key for finding in found] == ["kernels"]
    assert "give two runs" in json.loads((tmp_path / "index.json").read_text())["left_out"]["drift"]
    with pytest.raises(IncompleteAnalysis, match="give two runs"):
        analyze(runs[:1], tmp_path, device="cpu", questions=["drift"], show_progress=False)


def test_faces_of_low_resolution_leave_only_what_needs_none(tiny_packed):
    small = shrink_lanczos(open_packed(tiny_packed).splits["highres_eval"], np.arange(4), 36)
    packed = replace(open_packed(tiny_packed), splits={"highres_eval": small})
    asked = [name for name in QUESTIONS if running.why_not_applicable(name, [None, None], packed) is None]
    assert asked == ["kernels", "failures"]
    assert "36 px" in running.why_not_applicable("sphere", [None], packed)


def test_mistakes_are_named(runs, tmp_path):
    with pytest.raises(UsageError, match="no question is called 'colour'; there are resolution_gap"):
        analyze(runs, tmp_path, questions=["colour"])
    with pytest.raises(UsageError, match="no such checkpoint"):
        analyze([tmp_path / "none"], tmp_path)
    with pytest.raises(UsageError, match="given twice"):
        analyze([runs[0], runs[0]], tmp_path)


def test_models_go_by_their_directories(tmp_path):
    runs = [tmp_path / "a" / "seed0", tmp_path / "b" / "seed0"]
    assert model_names(runs) == ["a-seed0", "b-seed0"]
    best = tmp_path / "a" / "checkpoints" / "best.safetensors"
    assert model_names([tmp_path / "a", best]) == ["a", "a-best"]


def test_each_view_is_embedded_once_and_differs(runs, tiny_packed):
    seen = []
    model = read_model(runs[0], "first")
    cache = EmbeddingCache([model], open_packed(tiny_packed), choose_compute("cpu", "fp32"), advance=seen.append)
    views = [cache.embeddings(model, view) for view in (HR, LR36, LR32, HELD_OUT)]
    assert cache.embeddings(model, LR36) is views[1] and sum(seen) == 4 * cache.faces.samples
    assert all(np.abs(views[0] - other).max() > 1e-3 for other in views[1:])
    assert np.linalg.norm(views[3], axis=1) == pytest.approx(1, abs=1e-5)
    raw = cache.embeddings(model, raw=True)
    assert raw / np.linalg.norm(raw, axis=1, keepdims=True) == pytest.approx(views[0], abs=1e-5)


def test_the_held_out_view_is_pillows_lanczos(tiny_packed):
    split = open_packed(tiny_packed).splits["highres_eval"]
    small = shrink_lanczos(split, np.array([5, 2]), 56)
    assert small.read([1]).shape == (1, 56, 56, 3)
    original = Image.fromarray(split.read([2])[0])
    assert (small.read([1])[0] == np.asarray(original.resize((56, 56), Image.Resampling.LANCZOS))).all()
