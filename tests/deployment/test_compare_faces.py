"""Two faces: the decision at a threshold that was measured, and none where nothing was."""

import numpy as np
import pytest
import torch
from model_cases import linear_onnx, write_results, write_run

from hrfr_fast.deployment.compare_faces import FaceComparison, compare_faces
from hrfr_fast.deployment.export import export
from hrfr_fast.evaluation.embedder import BackboneEmbedder
from hrfr_fast.evaluation.onnx_embedder import OnnxFlags
from hrfr_fast.evaluation.thresholds import Threshold
from hrfr_fast.model.backbone import BackboneSettings
from hrfr_fast.runtime.errors import UsageError

cv2 = pytest.importorskip("cv2")
AT = {"far": 0.01, "threshold": 0.5, "low": 0.4, "high": 0.6, "impostors": 2000}


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    write_run(tmp_path / "run", BackboneSettings(32, 8, 16))
    generator = np.random.default_rng(0)
    for name, side in (("a.png", 32), ("b.png", 48)):
        cv2.imwrite(str(tmp_path / name), generator.integers(0, 256, (side, side, 3), dtype=np.uint8))
    return tmp_path / "run"


@pytest.mark.parametrize(
    "cosine,decision,certain", [(0.7, True, True), (0.55, True, False), (0.45, False, False), (0.1, False, True)]
)
def test_the_threshold_decides_and_its_interval_says_how_surely(cosine, decision, certain):
    found = FaceComparison(cosine, Threshold(**AT), "2,500 test pairs lfw")
    assert (found.same, found.certain) == (decision, certain)
    text = "\n".join(found.lines())
    assert ("same person at FAR 0.01" in text) == decision and ("within the threshold's interval" in text) != certain
    assert "the threshold is 0.5000 (95 % interval 0.4000 to 0.6000, from 2,500 test pairs lfw)" in text


def test_without_an_evaluation_there_is_a_similarity_and_no_decision(run):
    found = compare_faces(run, run.parent / "a.png", run.parent / "b.png", device="cpu")
    assert found.same is None and -1 <= found.cosine <= 1
    assert found.lines()[-1].startswith("no decision: the model has not been evaluated")
    assert "the second picture was resampled from 48x48 to 32x32" in found.lines()[1]


def test_a_face_is_the_same_person_as_itself_at_the_recorded_threshold(run):
    write_results(run, [AT], kind="development")
    found = compare_faces(run, run.parent / "a.png", run.parent / "a.png", device="cpu", picture=run / "two.png")
    assert found.same and abs(found.cosine - 1) < 1e-6 and found.pairs == "400 validation pairs hres"
    assert cv2.imread(str(run / "two.png")).shape[2] == 3
    assert found.to_json()["threshold"] == AT


def test_an_exported_model_knows_the_thresholds_of_its_run(run, tmp_path):
    write_results(run, [AT])
    export(run, tmp_path / "m.onnx", show_progress=False)
    pictures = (run.parent / "a.png", run.parent / "b.png")
    ours, theirs = (compare_faces(model, *pictures, device="cpu") for model in (run, tmp_path / "m.onnx"))
    assert abs(ours.cosine - theirs.cosine) < 2e-3  # a run is computed in bfloat16 where the CPU has it, the file never
    assert ours.threshold == theirs.threshold == Threshold(**AT)


def test_a_broken_model_decides_nothing(run, monkeypatch):
    write_results(run, [AT])
    monkeypatch.setattr(BackboneEmbedder, "sums", lambda self, images, **more: np.full((len(images), 16), np.nan))
    with pytest.raises(UsageError, match="run: its embeddings are not finite numbers"):
        compare_faces(run, run.parent / "a.png", run.parent / "b.png", device="cpu")


@pytest.mark.parametrize(
    "second,far,message",
    [
        ("b.png", 0.05, "--far 0.05: the model was evaluated at 0.01"),
        ("none.png", 0.01, "none.png: no such file"),
        ("run", 0.01, "run is a folder"),
        ("text.png", 0.01, "text.png: not a JPEG, PNG, WebP or BMP picture"),
        ("tiny.png", 0.01, "tiny.png: no face-sized picture: 3x3 pixels"),
    ],
)
def test_what_cannot_be_compared_is_told_in_one_line(run, second, far, message):
    write_results(run, [AT])
    (run.parent / "text.png").write_text("hello")
    cv2.imwrite(str(run.parent / "tiny.png"), np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(UsageError, match=message):
        compare_faces(run, run.parent / "a.png", run.parent / second, far=far, device="cpu")


def test_a_face_is_not_drawn_over(run):
    face = run.parent / "a.png"
    with pytest.raises(UsageError, match="is one of the two pictures"):
        compare_faces(run, face, run.parent / "b.png", picture=face, device="cpu")


def test_an_onnx_file_of_somebody_else_has_no_thresholds(run):
    linear_onnx(run.parent / "m.onnx", side=32)
    flags = OnnxFlags(normalisation="0.5")
    found = compare_faces(run.parent / "m.onnx", run.parent / "a.png", run.parent / "a.png", device="cpu", flags=flags)
    assert found.threshold is None and abs(found.cosine - 1) < 1e-6
