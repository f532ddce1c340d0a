"""IJB-B and IJB-C in miniature: templates of several pictures and media, pairs of them, and two galleries."""

from pathlib import Path

import numpy as np
import pytest
from flat_pictures import TableEmbedder, write_picture

from hrfr_fast.evaluation.embedder import BackboneEmbedder
from hrfr_fast.evaluation.protocols import ijb_lists, protocol_at
from hrfr_fast.evaluation.protocols.evaluate import evaluate_set
from hrfr_fast.face_templates import ARCFACE
from hrfr_fast.model.backbone import BackboneSettings, build_backbone
from hrfr_fast.runtime.device import choose_compute
from hrfr_fast.runtime.errors import UsageError

metrics = pytest.importorskip("sklearn.metrics")
PEOPLE, PICTURES = 12, 96


@pytest.fixture
def faces():
    """24 templates, 101.. of 12 people, two of each; 96 pictures of them from 2 media a template; detector scores."""
    rng = np.random.default_rng(3)
    template = np.concatenate([np.arange(24), rng.integers(0, 24, PICTURES - 24)])
    return {
        "template": template, "medium": template * 2 + rng.integers(0, 2, PICTURES),
        "score": np.round(rng.random(PICTURES), 3), "table": rng.standard_normal((PICTURES, 6))
        + 1.2 * np.repeat(rng.standard_normal((PEOPLE, 6)), 2, axis=0)[template],
    }  # fmt: skip


@pytest.fixture(params=[("ijbb", "S"), ("ijbc", "G")], ids=["ijbb", "ijbc"])
def ijb(tmp_path, faces, request):
    """The folder, in which the first templates of people are enrolled, in galleries of six, and the second probes."""
    name, gallery = request.param
    root = tmp_path / name.upper()
    meta = root / "meta"
    meta.mkdir(parents=True)
    points = " ".join(f"{x + 20:.3f} {y + 20:.3f}" for x, y in ARCFACE.landmarks)
    for number in range(PICTURES):
        write_picture(root / "loose_crop" / f"{number + 1}.jpg", number, (160, 170))
    lines = {
        "face_tid_mid.txt": [f"{n + 1}.jpg {101 + faces['template'][n]} {faces['medium'][n]}" for n in range(PICTURES)],
        "name_5pts_score.txt": [f"{n + 1}.jpg {points} {faces['score'][n]}" for n in range(PICTURES)],
        "template_pair_label.txt": [
            f"{101 + first} {101 + second} {int(first // 2 == second // 2)}"
            for first in range(0, 24, 2)
            for second in range(1, 24, 2)
        ],
        "1N_probe_mixed.csv": [
            "TEMPLATE_ID,SUBJECT_ID,FILENAME",
            *(f"{102 + 2 * n},{70 + n},a.png" for n in range(12)),
        ],
    }
    for half in (0, 1):
        rows = [f"{101 + 2 * n},{70 + n},b.png" for n in range(6 * half, 6 * half + 6) for _ in range(2)]
        lines[f"1N_gallery_{gallery}{1 + half}.csv"] = ["TEMPLATE_ID,SUBJECT_ID,FILENAME", *rows]
    for file, text in lines.items():
        (meta / f"{name}_{file}").write_text("\n".join(text) + "\n")
    return root


def templates_of(faces):
    """The 24 templates: in each the mean of every medium, weighted by score, then their sum, brought to norm 1."""
    rows = faces["table"] * faces["score"][:, None]
    sums = []
    for template in range(24):
        media = np.unique(faces["medium"][faces["template"] == template])
        sums.append(sum(rows[(faces["template"] == template) & (faces["medium"] == m)].mean(axis=0) for m in media))
    return np.array(sums) / np.linalg.norm(sums, axis=1, keepdims=True)


def evaluated(root, faces):
    (test_set,) = protocol_at(None, root).read(root, None)
    return evaluate_set(TableEmbedder(faces["table"]), test_set, None, resamples=60, show_progress=False)


def test_templates_are_verified_and_searched(ijb, faces):
    result = evaluated(ijb, faces)
    templates = templates_of(faces)
    pairs, first, second, mean = result.parts
    scores = (templates[0::2] @ templates[1::2].T).reshape(-1)
    same = np.eye(12, dtype=bool).reshape(-1)
    assert pairs.measure("AUC").value == pytest.approx(metrics.roc_auc_score(same, scores))
    false, true, _ = metrics.roc_curve(same, scores, drop_intermediate=False)
    for far in (1e-1, 1e-2, 1e-6):
        assert pairs.measure(f"TAR@FAR {far:g}").value == pytest.approx(true[false <= far].max())
    accepted = scores[same] > np.sort(scores[~same])[::-1][13]  # 13 of 132 impostors are a FAR of 0.1
    assert pairs.decisions.measure == "TAR@FAR 0.1" and np.array_equal(pairs.decisions.correct, accepted)
    assert np.array_equal(pairs.decisions.identities, np.repeat(np.arange(12), 2))
    assert pairs.counts == {"pairs": 144, "genuine": 12, "people": 12} and len(pairs.warnings) == 5
    for half, part in enumerate((first, second)):
        own = slice(6 * half, 6 * half + 6)
        cosines = templates[1::2] @ templates[0::2][own].T
        right = np.argsort(-cosines[own], axis=1) == np.arange(6)[:, None]
        assert part.measure("rank-1").value == pytest.approx(right[:, 0].mean())
        assert part.measure("rank-5").value == pytest.approx(right[:, :5].any(axis=1).mean())
        strangers = np.delete(cosines, np.r_[own], axis=0).max(axis=1)
        accepted = right[:, 0] & (cosines[own].diagonal() > np.max(strangers))
        assert part.measure("TPIR@FPIR 0.1").value == pytest.approx(accepted.mean())
        assert part.counts == {"gallery": 6, "people": 6, "probes": 6, "unmated probes": 6}
    for name in ("rank-1", "TPIR@FPIR 0.1"):
        assert mean.measure(name).value == pytest.approx((first.measure(name).value + second.measure(name).value) / 2)
        low, high = mean.measure(name).interval
        assert 0 <= low <= mean.measure(name).value <= high <= 1
    assert result.pictures == {"112x112": PICTURES}


def test_without_1n_lists_the_genuine_pairs_say_who_is_who(ijb, faces):
    with_lists = evaluated(ijb, faces).parts[0]
    for path in (ijb / "meta").glob("*_1N_*"):
        path.unlink()
    result = evaluated(ijb, faces)
    assert [part.measures for part in result.parts] == [with_lists.measures]
    assert result.notes[0].startswith("no 1:N lists: identification is left out")


def rewritten(path, line, text):
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")


WRONG = {
    "a name that leads out": ("face_tid_mid.txt", 3, "../3.jpg 1 1", "name_5pts_score.txt:3: '3.jpg' where"),
    "a template that is no number": ("face_tid_mid.txt", 3, "3.jpg one 1", "face_tid_mid.txt:3: not name, template"),
    "a template too large": ("face_tid_mid.txt", 3, "3.jpg 99999999999999999999 1", "mid.txt:3: not name, template"),
    "four points": ("name_5pts_score.txt", 4, "4.jpg 1 2 3 4 5 6 7 8 0.9", "score.txt:4: not a name, five points"),
    "a score that is no number": ("name_5pts_score.txt", 4, "4.jpg" + " 1" * 10 + " nan", "score.txt:4: not a name"),
    "a word for a score": ("name_5pts_score.txt", 4, "4.jpg" + " 1" * 10 + " high", "score.txt:4: not a name and 11"),
    "a label of 2": ("template_pair_label.txt", 7, "101 102 2", "label.txt:7: not two templates and 0 or 1"),
    "half a pair": ("template_pair_label.txt", 7, "101 102", "label.txt:7: not two templates and 0 or 1"),
    "words in a pair": ("template_pair_label.txt", 7, "101 x 1", "label.txt:7: not two templates and 0 or 1"),
    "an unknown template": ("template_pair_label.txt", 7, "101 99 1", "label.txt:7: a template that no picture"),
    "a gallery without numbers": ("1N_probe_mixed.csv", 3, "a,b", "mixed.csv:3: not a template and a subject"),
    "a subject too large": ("1N_probe_mixed.csv", 3, "102,99999999999999999999", "mixed.csv:3: not a template and"),
    "a field without end": ("1N_probe_mixed.csv", 3, '102,"' + 200_000 * "9", "mixed.csv:[0-9]+: not a template and"),
    "a template of two subjects": ("1N_probe_mixed.csv", 3, "102,99", "mixed.csv:3: template 102 has two subjects"),
    "a template without pictures": ("1N_probe_mixed.csv", 3, "7,71", "mixed.csv: template 7 has no picture"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_lists_that_are_wrong_are_refused_with_their_line(ijb, faces, case, monkeypatch):
    monkeypatch.setattr(ijb_lists, "BLOCK", 40)  # so that line numbers are counted over several blocks
    file, line, text, message = WRONG[case]
    rewritten(ijb / "meta" / f"{ijb.name.lower()}_{file}", line, text)
    with pytest.raises(UsageError, match=message):
        evaluated(ijb, faces)


def test_names_that_lead_out_missing_crops_and_missing_lists_are_refused(ijb, faces):
    name, meta = ijb.name.lower(), ijb / "meta"
    (ijb / "loose_crop" / "5.jpg").unlink()
    with pytest.raises(UsageError, match="loose_crop: 1 of 96 pictures .* are missing: 5.jpg"):
        evaluated(ijb, faces)
    for file in ("face_tid_mid.txt", "name_5pts_score.txt"):
        path = meta / f"{name}_{file}"
        path.write_text(path.read_text().replace("5.jpg", "../5.jpg", 1))
    with pytest.raises(UsageError, match="leads out of loose_crop"):
        evaluated(ijb, faces)
    (meta / f"{name}_1N_probe_mixed.csv").unlink()
    with pytest.raises(UsageError, match="leads out|belong together"):
        evaluated(ijb, faces)


def test_labels_that_contradict_the_subjects_are_counted(ijb, faces):
    path = ijb / "meta" / f"{ijb.name.lower()}_template_pair_label.txt"
    rewritten(path, 2, "101 104 1")
    assert "1 pair labels contradict the subjects of their templates" in evaluated(ijb, faces).notes


def test_the_folder_that_holds_the_data_set_is_recognised(ijb, faces):
    assert ijb.name.lower() == protocol_at(None, ijb.parent).NAME


def test_a_model_without_norms_is_told_apart(ijb, faces):
    class UnitRows:
        name, size, dimension = "unit rows", 8, 6

        def __init__(self):
            table = TableEmbedder(faces["table"])
            self.embed, self.describe = table.embed, table.describe

    (test_set,) = protocol_at(None, ijb).read(ijb, None)
    result = evaluate_set(UnitRows(), test_set, None, resamples=0, show_progress=False)
    assert "embeddings of norm 1 only" in result.notes[-1]
    assert result.parts[0].measure("AUC").value != evaluated(ijb, faces).parts[0].measure("AUC").value


def test_a_backbone_gives_its_embeddings_with_and_without_their_norms():
    backbone = build_backbone(BackboneSettings(input_size=32, width=8, embedding_size=16))
    embedder = BackboneEmbedder(Path("x"), backbone, {}, choose_compute("cpu", "fp32"))
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    sums = embedder.embed_unscaled(pictures)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    assert np.abs(norms - 1).min() > 0.01
    assert np.allclose(embedder.embed(pictures), sums / norms, atol=1e-6)
