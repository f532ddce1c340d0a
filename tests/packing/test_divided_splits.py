"""A split in several files is the split in one: records, labels, rejections, whoever wrote it."""

import json

import numpy as np
import pytest

from hrfr_fast.format.inspect import inspect_packed
from hrfr_fast.format.reader import open_packed
from hrfr_fast.format.verify import check_packed
from hrfr_fast.packing import pack_parts
from hrfr_fast.packing.pack import pack
from hrfr_fast.runtime.errors import DamageFound, HrfrError, UsageError
from hrfr_fast.synthetic.packed import synthesize_packed

pytestmark = pytest.mark.usefixtures("no_fsync")
PAGE = 1 << 16


def run(tree, out, **settings):
    return pack(tree, out, **{"workers": 1, "show_progress": False, "page_size": PAGE, **settings})


def equal_records(one, several):
    assert one.labels.tolist() == several.labels.tolist() and one.identity_names == several.identity_names
    assert one.crc32.tolist() == several.crc32.tolist() and one.modes.tolist() == several.modes.tolist()
    records = np.arange(one.samples)
    assert (one.read(records) == several.read(records)).all()
    assert [one.payload(i).tobytes() for i in (0, one.samples - 1)] == [
        several.payload(i).tobytes() for i in (0, one.samples - 1)
    ]


def test_records_labels_and_rejections_are_those_of_one_file(tree, tmp_path):
    (tree / "lowres/l000/4.jpg").write_bytes(b"broken")
    for identity in ("l004", "l005"):  # a whole file of 10 candidates, and two labels
        for path in (tree / "lowres" / identity).iterdir():
            path.write_bytes(b"broken")
    one, divided = tmp_path / "one", tmp_path / "divided"
    run(tree, one)
    summary = run(tree, divided, shard_samples=10, workers=2)
    assert summary.lines()[0].startswith("lowres: 49 faces, 10 identities, 36 px, raw, 5 files, 11 rejected")
    assert (one / "quarantine.jsonl").read_bytes() == (divided / "quarantine.jsonl").read_bytes()
    opened, reference = open_packed(divided), open_packed(one)
    for name, split in opened.splits.items():
        equal_records(reference.splits[name], split)
    low = opened.splits["lowres"]
    assert [part.path.name for part in low.parts] == [f"lowres-0000{n}.beton" for n in (0, 1, 3, 4, 5)]
    assert low.where(20) == f"{divided}/lowres-00003.beton: record 1"
    equal_records(reference.splits["lowres"].first(4), low.first(4))
    assert inspect_packed(divided)["splits"]["lowres"]["files"] == 5
    assert check_packed(divided) == []


def test_only_a_pack_with_divided_splits_has_other_keys(tree, tmp_path):
    run(tree, tmp_path / "out")
    plain = json.loads((tmp_path / "out/manifest.json").read_bytes())
    assert plain["version"] == 1 and "shard_samples" not in plain["provenance"]["settings"]
    assert not any("files" in entry for entry in plain["splits"].values())
    run(tree, tmp_path / "out", shard_samples=1000)  # more than there are: nothing to divide, nothing to do
    assert json.loads((tmp_path / "out/manifest.json").read_bytes()) == plain
    run(tree, tmp_path / "out", shard_samples=20)
    divided = json.loads((tmp_path / "out/manifest.json").read_bytes())
    assert divided["version"] == 2 and [part["samples"] for part in divided["splits"]["lowres"]["files"]] == [20] * 3
    assert not (tmp_path / "out/lowres.beton").exists()
    assert divided["splits"]["highres"] == plain["splits"]["highres"]  # 18 candidates, fewer than 20
    assert run(tree, tmp_path / "out", shard_samples=20).nothing_to_do
    run(tree, tmp_path / "pairs", shard_samples=20, dev_identities=3)
    pairs = open_packed(tmp_path / "pairs").pairs["dev-lowres"]
    assert pairs.split.samples > 20 and len(pairs.split.parts) == 1  # pair sets stay whole


def test_a_changed_picture_and_another_division_are_packed_anew(tree, tmp_path, make_picture, make_jpeg):
    out = tmp_path / "out"
    run(tree, out, shard_samples=20)
    (tree / "lowres/l007/1.jpg").write_bytes(make_jpeg(make_picture(999, 36)))
    assert "1 changed" in run(tree, out, shard_samples=20).shards["lowres"].why
    assert run(tree, out, shard_samples=40).shards["lowres"].why == "shard_samples: 20 -> 40"
    run(tree, out)
    run(tree, tmp_path / "fresh")
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "fresh").iterdir()
    }


def test_damage_names_the_file_and_its_record_and_packing_mends_it(tree, tmp_path):
    out = tmp_path / "out"
    run(tree, out, shard_samples=20)
    digest, low = open_packed(out).digest, open_packed(out).splits["lowres"]
    path = out / "lowres-00001.beton"
    content = bytearray(path.read_bytes())
    content[int(low.offsets[23] - low.offsets[20]) + content.index(low.payload(20).tobytes())] ^= 1
    path.write_bytes(content)
    (damage,) = check_packed(out)
    assert str(damage) == "lowres-00001.beton: record 3: its bytes do not match its checksum"
    (out / "lowres-00002.crc32").write_bytes(b"")
    assert [found.shard for found in check_packed(out)] == ["lowres-00002.beton"]
    with pytest.raises(DamageFound, match=r"lowres-00002\.beton.*--shard-samples 20"):
        open_packed(out)
    run(tree, out, shard_samples=20)
    assert open_packed(out).digest == digest and check_packed(out) == []


def test_a_manifest_whose_files_do_not_add_up_is_refused(tree, tmp_path):
    run(tree, tmp_path / "out", shard_samples=20)
    path = tmp_path / "out/manifest.json"
    content = json.loads(path.read_bytes())
    del content["checksum"], content["splits"]["lowres"]["files"][2]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DamageFound):
        open_packed(tmp_path / "out")


def test_too_many_files_and_negative_numbers_are_refused(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("hrfr_fast.format.divided_writer.MOST_FILES", 4)
    with pytest.raises(UsageError, match=r"lowres would be 6 files, and 4 are the most; take at least 15"):
        run(tree, tmp_path / "out", shard_samples=10)
    with pytest.raises(UsageError, match="--shard-samples -1"):
        run(tree, tmp_path / "out", shard_samples=-1)
    with pytest.raises(UsageError, match="lowres would be 6 files, and 4"):
        synthesize_packed(tmp_path / "synthetic", "tiny", workers=1, show_progress=False, shard_samples=25)
    assert not (tmp_path / "synthetic").exists()


@pytest.mark.parametrize("wrong", ["journal", "fewer", "pages"])
def test_a_part_that_two_packers_wrote_to_is_packed_anew(tree, tmp_path, monkeypatch, wrong):
    """A machine that was given up may go on: its lines in the journal are not taken for the whole part."""
    out, finish = tmp_path / "out", pack_parts.finish_part

    def of_another(tables, work, key, compare=False):
        if tables.name == "lowres-00001":
            if wrong == "pages":
                with open(work / "lowres-00001.beton.partial", "r+b") as file:
                    file.truncate(PAGE)
            elif wrong == "journal":
                with open(work / "lowres-00001.rows", "r+b") as file:
                    file.write(b"x")
            else:
                lines = (work / "lowres-00001.journal").read_bytes().splitlines(keepends=True)
                (work / "lowres-00001.journal").write_bytes(lines[0])
        return finish(tables, work, key, compare=True)

    with monkeypatch.context() as patched:
        patched.setattr(pack_parts, "finish_part", of_another)
        with pytest.raises(HrfrError, match=r"lowres-00001\.beton: .*to pack this part anew"):
            run(tree, out, shard_samples=20)
    assert not (out / "manifest.json").exists()
    run(tree, out, shard_samples=20)
    run(tree, tmp_path / "fresh", shard_samples=20)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "fresh").iterdir()
    }


def test_tables_are_written_again_where_a_worker_died_after_them(tree, tmp_path, monkeypatch):
    finish = pack_parts.finish_part

    def twice(tables, work, key, compare=False):
        return finish(tables, work, key, True) and finish(tables, work, key, True)

    run(tree, tmp_path / "once", shard_samples=20)
    monkeypatch.setattr(pack_parts, "finish_part", twice)
    run(tree, tmp_path / "twice", shard_samples=20)
    assert open_packed(tmp_path / "twice").manifest == open_packed(tmp_path / "once").manifest


def test_synthetic_faces_are_packed_into_several_files(tmp_path):
    for name, most in (("one", 0), ("several", 50)):
        synthesize_packed(tmp_path / name, "tiny", workers=1, show_progress=False, shard_samples=most)
    one, several = open_packed(tmp_path / "one"), open_packed(tmp_path / "several")
    assert [part.samples for part in several.splits["lowres"].parts] == [50, 50, 44]
    for name, split in several.splits.items():
        equal_records(one.splits[name], split)
    assert check_packed(tmp_path / "several") == [] and several.pairs["hres"].identity_coverage == 1
