"""TinyFace, SCface and SurvFace in miniature: the published layouts, and numbers by a few lines of NumPy."""

import signal

import numpy as np
import pytest
from flat_pictures import TableEmbedder, write_picture

from hrfr_fast.evaluation.open_set import tpir_at_fpir
from hrfr_fast.evaluation.protocols import identification_parts, protocol_at
from hrfr_fast.evaluation.protocols.evaluate import evaluate_set
from hrfr_fast.runtime.errors import HrfrError, Interrupted, UsageError

metrics = pytest.importorskip("sklearn.metrics")
savemat = pytest.importorskip("scipy.io").savemat


def write_list(path, names_key, names, ids_key, ids):
    """A list as the data sets have them: a column of cells, and a column of numbers."""
    column = np.empty((len(names), 1), object)
    column[:, 0] = names
    savemat(path, {names_key: column, ids_key: np.array(ids, np.uint16)[:, None]})


def results(place, table, protocol=None):
    """By test set: its result with a table embedder."""
    sets = protocol_at(protocol, place).read(place, None)
    return {one.name: evaluate_set(TableEmbedder(table), one, None, resamples=60, show_progress=False) for one in sets}


def values(part):
    return {measure.name: measure.value for measure in part.measures}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def tinyface(tmp_path):
    """Numbers 0..7: gallery of people 11, 11, 12, 13, 13, 13, 14, 15; 8..14: probes; 15..24: distractors."""
    root = tmp_path / "tinyface" / "Testing_Set"
    people = {"Gallery_Match": [11, 11, 12, 13, 13, 13, 14, 15], "Probe": [11, 12, 12, 13, 14, 14, 15]}
    number = 0
    for folder, keys in (("Gallery_Match", "gallery_match"), ("Probe", "probe")):
        names = [f"{person}_{place}.jpg" for place, person in enumerate(people[folder])]
        for name in names:
            write_picture(root / folder / name, number)
            number += 1
        key = keys.split("_")[0]
        write_list(root / f"{keys}_img_ID_pairs.mat", f"{key}_set", names, f"{key}_ids", people[folder])
    for place in range(10):
        write_picture(root / "Gallery_Distractor" / f"{place}.jpg", number + place)
    return tmp_path / "tinyface"


def test_tinyface_counts_distractors_and_finds_a_person_by_any_picture(tinyface):
    table = np.random.default_rng(4).standard_normal((25, 3))
    result = results(tinyface, table)["tinyface"]
    gallery_people = np.array([11, 11, 12, 13, 13, 13, 14, 15] + [-100] * 10)
    gallery = unit(table)[[*range(8), *range(15, 25)]]
    ranks, precisions = [], []
    for probe, person in zip(unit(table)[8:15], [11, 12, 12, 13, 14, 14, 15], strict=True):
        right = gallery_people[np.argsort(-(gallery @ probe))] == person
        places = np.flatnonzero(right) + 1
        ranks.append(places[0])
        found = np.arange(1, len(places) + 1)
        before = np.where(places == 1, 1, (found - 1) / np.maximum(places - 1, 1))
        precisions.append(((before + found / places) / 2).mean())
    (part,) = result.parts
    expected = {f"rank-{k}": np.mean(np.array(ranks) <= k) for k in (1, 5, 20)} | {"mAP": np.mean(precisions)}
    assert values(part) == pytest.approx(expected) and 0 < expected["rank-1"] < expected["rank-5"] < 1
    assert part.counts == {"gallery": 18, "people": 5, "probes": 7, "distractors": 10}
    assert part.interval_level == "identity" and result.notes == ()
    low, high = part.measure("rank-5").interval
    assert 0 <= low < expected["rank-5"] < high <= 1


def test_tinyface_names_missing_pictures_and_says_what_is_left_out(tinyface):
    table, root = np.eye(25), tinyface / "Testing_Set"
    (root / "Probe" / "12_1.jpg").rename(root / "Probe" / "extra.jpg")
    with pytest.raises(UsageError, match=r"Probe: 1 of 7 pictures that probe_img_ID_pairs.mat lists are missing: 12_1"):
        results(tinyface, table)
    write_picture(root / "Probe" / "12_1.jpg", 9)
    assert results(tinyface, table)["tinyface"].notes == ("1 pictures of Probe/ are in no list and were left out",)
    (root / "Probe" / "12_1.jpg").write_bytes(b"no picture")
    with pytest.raises(HrfrError, match=r"Probe/12_1.jpg: .* would be those of another test"):
        results(tinyface, table)


LISTS = {
    "a name that leads out": (["../../secret.jpg"], [11], "leads out of Probe/; nothing was read"),
    "an absolute name": (["/etc/passwd"], [11], "leads out of Probe/"),
    "a name with backslashes": (["..\\..\\secret.jpg"], [11], "leads out of Probe/"),
    "more names than identities": (["11_0.jpg", "12_1.jpg"], [11], "2 names in probe_set and 1 numbers in probe_ids"),
    "a name listed twice": (["11_0.jpg", "11_0.jpg"], [11, 11], "11_0.jpg more than once"),
}


@pytest.mark.parametrize("case", LISTS)
def test_lists_that_cannot_be_right_are_refused(tinyface, case):
    names, people, message = LISTS[case]
    write_picture(tinyface.parent / "secret.jpg", 1)
    write_list(tinyface / "Testing_Set" / "probe_img_ID_pairs.mat", "probe_set", names, "probe_ids", people)
    with pytest.raises(UsageError, match=message):
        results(tinyface, np.eye(25))


def test_aligned_pictures_may_lie_elsewhere_and_the_layout_is_recognised(tinyface, tmp_path):
    aligned = tmp_path / "aligned"
    aligned.mkdir()
    for folder in ("Gallery_Match", "Probe", "Gallery_Distractor"):
        (tinyface / "Testing_Set" / folder).rename(aligned / folder)
    public = protocol_at(None, tinyface)
    assert public.NAME == "tinyface"
    (test_set,) = public.read(tinyface, aligned)
    embedder = TableEmbedder(np.eye(25))
    evaluate_set(embedder, test_set, None, resamples=0, show_progress=False)
    assert sorted(embedder.seen) == list(range(25))
    with pytest.raises(UsageError, match="Gallery_Distractor: no such folder"):
        public.read(tinyface, None)


@pytest.fixture
def scface(tmp_path):
    """Numbers 0..3: mugshots of people 1..4; then 15 pictures a person, by distance, camera and person."""
    root = tmp_path / "SCface"
    for person in range(1, 5):
        write_picture(root / "mugshot_frontal_cropped_all" / f"{person:03}_frontal.JPG", person - 1)
    number = 4
    for distance in (1, 2, 3):
        for camera in range(1, 8):
            for person in range(1, 5):
                name = f"cam_{camera}/{person:03}_cam{camera}_{distance}.jpg"
                write_picture(root / f"surveillance_cameras_distance_{distance}" / name, number if camera < 6 else 99)
                number += camera < 6
    return root


def test_scface_searches_each_distance_in_the_mugshots(scface):
    table = np.random.default_rng(2).standard_normal((100, 4))
    table[4:64] += np.repeat([0.5, 1.5, 3.0], 20)[:, None] * np.tile(table[:4], (15, 1))
    result = results(scface, table)["scface"]
    for distance, part in enumerate(result.parts):
        probes = unit(table)[4 + 20 * distance : 24 + 20 * distance]
        right = (np.argmax(probes @ unit(table)[:4].T, axis=1) == np.tile(np.arange(4), 5)).mean()
        assert part.measure("rank-1").value == pytest.approx(right)
        assert part.counts == {"gallery": 4, "people": 4, "probes": 20}
    assert [part.part for part in result.parts] == ["distance 1 (4.20 m)", "distance 2 (2.60 m)", "distance 3 (1.00 m)"]
    assert result.parts[0].measure("rank-1").value < result.parts[2].measure("rank-1").value
    assert "infrared left out" in result.notes[0]


def test_scface_refuses_what_is_not_its_own(scface):
    odd = scface / "surveillance_cameras_distance_2" / "cam_1" / "001_cam1_3.jpg"
    write_picture(odd, 1)
    with pytest.raises(UsageError, match=r"cam_1: 001_cam1_3.jpg: not the names that belong here, 001_cam1_2.jpg"):
        results(scface, np.eye(100))
    odd.unlink()
    for path in (scface / "surveillance_cameras_distance_2" / "cam_4").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match="cam_4: holds no pictures"):
        results(scface, np.eye(100))


@pytest.fixture
def survface(tmp_path):
    """Identification, 0..8: gallery of 21 x 3, 22 x 2, 23 x 4; 9..14: mated; 15..26: unmated. Verification: 0..9."""
    root = tmp_path / "QMUL-SurvFace"
    sets = {"gallery": [21] * 3 + [22] * 2 + [23] * 4, "mated_probe": [21, 21, 22, 22, 23, 23]}
    sets["unmated_probe"] = np.repeat([500, 501, 502, 503], 3).tolist()
    number, identification = 0, root / "Face_Identification_Test_Set"
    for folder, people in sets.items():
        names = [f"{person}_cam{1 + place % 3}_{place}.jpg" for place, person in enumerate(people)]
        for name in names:
            write_picture(identification / folder / name, number)
            number += 1
        if folder != "unmated_probe":
            write_list(identification / f"{folder}_img_ID_pairs.mat", f"{folder}_set", names, f"{folder}_ids", people)
    verification = root / "Face_Verification_Test_Set"
    names = [f"{place // 2}_cam1_{place}.jpg" for place in range(24)]
    for place, name in enumerate(names):
        write_picture(verification / "verification_images" / name, place)
    pairs = {"positive": [(names[2 * i], names[2 * i + 1]) for i in range(12)],
             "negative": [(names[i], names[(2 * i + 4) % 24]) for i in range(12)]}  # fmt: skip
    for kind, rows in pairs.items():
        savemat(verification / f"{kind}_pairs_names.mat", {f"{kind}_pairs_names": np.array(rows, object)})
    return root


def test_survface_searches_people_as_the_mean_of_their_pictures(survface):
    table = np.random.default_rng(5).standard_normal((27, 3))
    found = results(survface, table)
    rows = unit(table)
    gallery = unit(np.stack([rows[:3].mean(axis=0), rows[3:5].mean(axis=0), rows[5:9].mean(axis=0)]))
    own = (rows[9:15] * gallery[[0, 0, 1, 1, 2, 2]]).sum(axis=1)
    strangers = np.sort((rows[15:27] @ gallery.T).max(axis=1))[::-1]
    (part,) = found["survface identification"].parts
    for fpir in (0.3, 0.2, 0.1):
        limit = strangers[int(fpir * 12)]  # with three people every own one is among the first 20
        assert part.measure(f"TPIR20@FPIR {fpir:g}").value == pytest.approx((own > limit).mean())
    right = np.argmax(rows[9:15] @ gallery.T, axis=1) == [0, 0, 1, 1, 2, 2]
    assert part.measure("rank-1").value == pytest.approx(right.mean())
    assert part.counts == {"gallery": 3, "people": 3, "probes": 6, "unmated probes": 12}
    assert [text.split(" rests")[0] for text in part.warnings] == [f"TPIR at FPIR {fpir}" for fpir in (0.3, 0.2, 0.1)]


def test_survface_verifies_its_pairs(survface):
    table = np.random.default_rng(6).standard_normal((27, 3))
    (part,) = results(survface, table)["survface verification"].parts
    first = [*range(0, 24, 2), *range(12)]
    second = [*range(1, 24, 2), *((2 * i + 4) % 24 for i in range(12))]
    scores = (unit(table)[first] * unit(table)[second]).sum(axis=1)
    same = np.arange(24) < 12
    assert part.measure("AUC").value == pytest.approx(metrics.roc_auc_score(same, scores))
    false, true, _ = metrics.roc_curve(same, scores, drop_intermediate=False)
    for far in (0.3, 0.1, 0.01, 0.001):
        assert part.measure(f"TAR@FAR {far:g}").value == pytest.approx(true[false <= far].max())
    assert (part.interval_level, part.counts["people"]) == ("identity", 12)


def test_survface_without_names_that_say_who_is_shown(survface):
    folder = survface / "Face_Identification_Test_Set" / "unmated_probe"
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"{number}.jpg")
    (test_set, _) = protocol_at("survface", survface).read(survface, None)
    assert "each picture counts as one in the intervals" in " ".join(test_set.notes)
    assert len(np.unique(test_set.pictures.subjects)) == 3 + 12


def test_scoring_stops_after_ctrl_c(survface, monkeypatch):
    def interrupted(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return tpir_at_fpir(*arguments, **options)

    monkeypatch.setattr(identification_parts, "tpir_at_fpir", interrupted)
    with pytest.raises(Interrupted, match="stopped while scoring .resamples of the subjects") as stopped:
        results(survface, np.eye(27))
    assert stopped.value.exit_code == 130
