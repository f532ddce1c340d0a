import json
import os
import shutil

import cv2
import numpy as np
import pytest

from hrfr_fast.format.inspect import contact_sheet, inspect_packed
from hrfr_fast.format.reader import open_packed
from hrfr_fast.format.verify import check_packed
from hrfr_fast.packing.pack import pack
from hrfr_fast.runtime.errors import HrfrError, StrictRefusal, UsageError


def run(tree, out, **settings):
    return pack(tree, out, **{"workers": 1, "show_progress": False, **settings})


def content(out):
    """Every file of a packed directory, listings aside (they hold modification times)."""
    return {p.name: p.read_bytes() for p in out.iterdir() if not p.name.endswith(".sources.gz")}


def rejections(out):
    return [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]


def test_everything_is_packed_in_sorted_order(tree, tmp_path, make_picture):
    summary = run(tree, tmp_path / "out")
    packed = open_packed(tmp_path / "out")
    assert {n: (s.samples, s.identities, s.size) for n, s in packed.splits.items()} == {
        "lowres": (60, 12, 36),
        "highres": (18, 6, 144),
        "highres_eval": (12, 4, 144),
    }
    low = packed.splits["lowres"]
    assert low.labels.tolist() == [i // 5 for i in range(60)]
    assert low.identity_names == [f"l{i:03d}" for i in range(12)]
    for record in (0, 17, 59):
        data = np.fromfile(tree / "lowres" / f"l{record // 5:03d}" / f"{record % 5}.jpg", np.uint8)
        expected = cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1]
        assert np.abs(low.read(record)[0].astype(int) - expected).max() <= 1
    assert summary.rejected == 0 and not summary.warnings and check_packed(tmp_path / "out") == []
    assert summary.digest == packed.digest
    assert not (tmp_path / "out/.packing").exists()


def test_same_input_same_bytes_whatever_the_workers_and_the_place(tree, tmp_path):
    (tree / "lowres/l003/2.jpg").write_bytes(b"broken")
    shutil.copytree(tree, tmp_path / "elsewhere" / "data", copy_function=shutil.copyfile)
    run(tree, tmp_path / "one")
    run(tree, tmp_path / "two", workers=2)
    run(tmp_path / "elsewhere" / "data", tmp_path / "three")
    assert content(tmp_path / "one") == content(tmp_path / "two") == content(tmp_path / "three")


def test_jpeg_files_pass_through_byte_for_byte(tree, tmp_path, make_picture):
    cv2.imwrite(str(tree / "lowres/l001/9.png"), make_picture(999, 36))
    summary = run(tree, tmp_path / "out", encoding="jpeg")
    low = open_packed(tmp_path / "out").splits["lowres"]
    assert low.encoding == "jpeg" and summary.shards["lowres"].encoding == "jpeg"
    for record, path in ((0, "l000/0.jpg"), (7, "l001/2.jpg")):
        assert low.payload(record).tobytes() == (tree / "lowres" / path).read_bytes()
    assert np.abs(low.read(10)[0].astype(int) - make_picture(999, 36)[:, :, ::-1]).mean() < 3
    assert check_packed(tmp_path / "out") == []


def test_bad_files_are_quarantined_and_labels_stay_contiguous(tree, tmp_path, make_picture, make_jpeg):
    low = tree / "lowres"
    whole = (low / "l000/0.jpg").read_bytes()
    (low / "l000/0.jpg").write_bytes(whole[: len(whole) // 2])
    (low / "l000/1.jpg").write_bytes(b"")
    (low / "l000/2.jpg").write_bytes(make_jpeg(make_picture(1, 40)))
    (low / "l000/3.jpg").unlink()
    os.mkfifo(low / "l000/3.jpg")
    (low / "l000/4.jpg").unlink()
    os.symlink(low / "l001", low / "l000/4.jpg")  # a folder of pictures, by a picture's name
    for file in (low / "l005").iterdir():
        file.write_bytes(b"not a picture")
    (low / "l006/notes.txt").write_text("ignored")
    (low / "empty").mkdir()
    summary = run(tree, tmp_path / "out")
    packed = open_packed(tmp_path / "out").splits["lowres"]
    reasons = {line["file"]: line["reason"] for line in rejections(tmp_path / "out")}
    assert summary.rejected == len(reasons) == 9 and packed.samples == 50
    expected = ["decodable JPEG", "empty", "wrong size: 40x40", "empty"]
    for i, reason in enumerate(expected):
        assert reason in reasons[f"lowres/l000/{i}.jpg"]
    assert packed.identities == 10 and packed.labels.tolist() == [i // 5 for i in range(50)]
    assert "l000" not in packed.identity_names and "l005" not in packed.identity_names
    warnings = "\n".join(summary.warnings)
    assert "no label for 1 identity without pictures" in warnings and "every picture was rejected" in warnings
    assert "1 files are not pictures by their names, such as lowres/l006/notes.txt" in warnings
    assert "5 pictures lie in 1 folders deeper than lowres/<identity>/<picture>, such as lowres/l000/4.jpg/" in warnings


def test_strict_refuses_after_packing_the_rest(tree, tmp_path):
    (tree / "highres/h001/0.jpg").write_bytes(b"broken")
    for _ in range(2):  # the second time there is nothing to pack, and still something rejected
        with pytest.raises(StrictRefusal, match="1 input rejected"):
            run(tree, tmp_path / "out", strict=True)
    assert open_packed(tmp_path / "out").splits["highres"].samples == 17


def test_resize_accepts_other_sizes(tree, tmp_path, make_picture, make_jpeg):
    (tree / "lowres/l000/0.jpg").write_bytes(make_jpeg(make_picture(1, 50)))
    run(tree, tmp_path / "out", resize=True)
    low = open_packed(tmp_path / "out").splits["lowres"]
    assert low.samples == 60 and rejections(tmp_path / "out") == []
    assert np.abs(low.read(0)[0].astype(int) - make_picture(1, 36)).mean() < 12


def test_the_evaluation_split_may_be_small(tree, tmp_path, make_picture, make_jpeg):
    for path in (tree / "highres_eval").rglob("*.jpg"):
        path.write_bytes(make_jpeg(make_picture(len(path.parent.name), 36)))
    assert run(tree, tmp_path / "out").shards["highres_eval"].size == 36
    assert run(tree, tmp_path / "wide", sizes={"lowres": 36}).shards["lowres"].size == 36


def test_a_second_run_does_nothing_and_a_change_repacks_its_split(tree, tmp_path, make_picture, make_jpeg):
    out = tmp_path / "out"
    run(tree, out)
    before, times = content(out), {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    summary = run(tree, out)
    assert summary.nothing_to_do and content(out) == before
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == times
    (tree / "highres/h000/0.jpg").write_bytes(make_jpeg(make_picture(777, 144)))
    (tree / "highres/h000/new.jpg").write_bytes(make_jpeg(make_picture(778, 144)))
    (tree / "highres/h001/0.jpg").unlink()
    summary = run(tree, out)
    assert summary.shards["highres"].why == "files: 1 added, 1 removed, 1 changed"
    assert {n: s.action for n, s in summary.shards.items()} == {
        "lowres": "unchanged",
        "highres": "packed",
        "highres_eval": "unchanged",
    }
    assert (out / "lowres.beton").stat().st_mtime_ns == times["lowres.beton"]
    run(tree, tmp_path / "fresh")
    assert content(out) == content(tmp_path / "fresh")


def test_quarantine_of_unchanged_splits_is_kept(tree, tmp_path):
    (tree / "lowres/l000/0.jpg").write_bytes(b"broken")
    run(tree, tmp_path / "out")
    (tree / "highres/h000/0.jpg").write_bytes(b"broken too")
    run(tree, tmp_path / "out")
    assert [line["split"] for line in rejections(tmp_path / "out")] == ["lowres", "highres"]


def test_a_removed_split_leaves_no_files(tree, tmp_path):
    run(tree, tmp_path / "out")
    shutil.rmtree(tree / "highres_eval")
    run(tree, tmp_path / "out")
    assert not list((tmp_path / "out").glob("highres_eval*"))
    assert check_packed(tmp_path / "out") == []


@pytest.mark.parametrize("other", ["a set of another name", "its pairs alone"])
def test_a_pack_is_not_replaced_by_another_set(tree, tmp_path, make_picture, make_jpeg, other):
    """With the default --out two projects in one folder share it; of the first the pictures may be gone."""
    (tree / "hres_eval_pairs").mkdir()
    (tree / "hres_eval_pairs/one.csv").write_text("../highres_eval/e000/0.jpg,../highres_eval/e001/0.jpg,0\n" * 2)
    run(tree, tmp_path / "out")
    before = open_packed(tmp_path / "out").digest
    data = tree / "hres_eval_pairs"
    if other != "its pairs alone":
        data = tmp_path / "others"
        for name in ("l000", "p"):
            (data / name).mkdir(parents=True)
            (data / name / "0.jpg").write_bytes(make_jpeg(make_picture(9, 112)))
    with pytest.raises(
        UsageError, match=r"out holds another set, packed from data: lowres \(60 faces\), .*another --out"
    ):
        run(data, tmp_path / "out")
    assert open_packed(tmp_path / "out").digest == before and not (tmp_path / "out" / ".packing").exists()
    renamed = tree.rename(tree.with_name("renamed"))
    assert run(renamed, tmp_path / "out").nothing_to_do


def test_damaged_output_is_packed_again(tree, tmp_path):
    run(tree, tmp_path / "out")
    before = content(tmp_path / "out")
    (tmp_path / "out/highres.beton").write_bytes(b"")
    summary = run(tree, tmp_path / "out")
    assert summary.shards["highres"].why == "the packed files are missing or damaged"
    assert content(tmp_path / "out") == before


WRONG = {
    "identity in two splits": lambda t: shutil.copytree(t / "lowres/l003", t / "highres/l003"),
    "empty split": lambda t: [shutil.rmtree(p) for p in (t / "highres").iterdir()],
    "no split": lambda t: [shutil.rmtree(p) for p in t.iterdir()],
    "all of the wrong size": lambda t: [
        shutil.copy(t / "highres/h000/0.jpg", p) for p in (t / "lowres").rglob("*.jpg")
    ],
}


@pytest.mark.parametrize("name", WRONG)
def test_input_that_cannot_be_meant_is_refused_before_anything_changes(tree, tmp_path, name):
    out = tmp_path / "out"
    run(tree, out)
    before = content(out)
    WRONG[name](tree)
    with pytest.raises(UsageError):
        run(tree, out)
    shutil.rmtree(out / ".packing", ignore_errors=True)
    assert content(out) == before and check_packed(out) == []


@pytest.mark.parametrize(
    "settings",
    [{"encoding": "png"}, {"workers": -1}, {"dev_identities": 7}, {"sizes": {"lowres": 0}}, {"sizes": {"lowrse": 36}}],
)
def test_wrong_settings_are_usage_errors(tree, tmp_path, settings):
    with pytest.raises(UsageError):
        run(tree, tmp_path / "out", **settings)


def test_a_full_disk_is_said_and_leaves_the_old_output(tree, tmp_path, monkeypatch, make_picture, make_jpeg):
    out = tmp_path / "out"
    run(tree, out)
    before = content(out)
    (tree / "lowres/l000/new.jpg").write_bytes(make_jpeg(make_picture(5, 36)))
    usage = shutil._ntuple_diskusage(10**12, 10**12, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(HrfrError, match="GB are free"):
        run(tree, out)
    monkeypatch.undo()

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hrfr_fast.format.writer.SplitWriter.sync", no_space)
    with pytest.raises(HrfrError, match="disk is full"):
        run(tree, out)
    assert open_packed(out).splits["lowres"].samples == 60
    monkeypatch.undo()
    assert run(tree, out).shards["lowres"].samples == 61
    assert content(out).keys() == before.keys()


def test_a_second_pack_at_the_same_time_is_refused(tree, tmp_path):
    from hrfr_fast.packing import transaction

    with transaction.locked(tmp_path / "out"), pytest.raises(UsageError, match="in use"):
        run(tree, tmp_path / "out")


def test_inspect_and_the_contact_sheet(tree, tmp_path):
    run(tree, tmp_path / "out")
    found = inspect_packed(tmp_path / "out")
    assert found["splits"]["lowres"]["pictures_an_identity"] == {"min": 5, "median": 5.0, "max": 5}
    assert json.loads(json.dumps(found)) == found
    contact_sheet(tmp_path / "out", tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[1] == 16 * 96 and sheet.std() > 20
