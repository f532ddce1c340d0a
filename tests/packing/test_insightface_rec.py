"""InsightFace's .rec files: made by MXNet 1.9.1 (``rec_by_mxnet/``), and by a writer of a few lines here.

``rec_by_mxnet/`` holds six 36-px pictures of `hrfr-fast synth --scale tiny`, two of each of the labels 3, 4 and 17,
written with ``mx.recordio.MXIndexedRecordIO`` and ``pack`` in InsightFace's layout: record 0 has the labels (7, 10),
7..9 are identity records. The JPEG of record 2 has a comment with the magic number four times, so that it has several
parts; record 3 has two labels. ``mxnet.json`` has number, label, length and SHA-256 of each picture as MXNet's own
reader gives them.
"""

import hashlib
import json
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from hrfr_fast.format.reader import open_packed
from hrfr_fast.packing.file_bytes import LargeFile
from hrfr_fast.packing.pack import pack
from hrfr_fast.packing.picture_files import Rejected, Unreadable
from hrfr_fast.packing.recognition import recognise
from hrfr_fast.packing.sources.insightface_rec import InsightFaceRecords
from hrfr_fast.runtime.errors import UsageError

GOLDEN = Path(__file__).parent / "rec_by_mxnet"
MAGIC = struct.pack("<I", 0xCED7230A)


def record(content: bytes) -> bytes:
    return MAGIC + struct.pack("<I", len(content)) + content + bytes(-len(content) % 4)


def face(label: float, picture: bytes, *more: float) -> bytes:
    labels = struct.pack(f"<{len(more) + 1}f", label, *more) if more else b""
    return struct.pack("<IfQQ", len(more) + 1 if more else 0, 0 if more else label, 0, 0) + labels + picture


def write(folder: Path, contents: dict[int, bytes], index: bool = True) -> Path:
    """A .rec with these records by key, in this order, and its .idx."""
    blob, lines = b"", ""
    for key, content in contents.items():
        lines += f"{key}\t{len(blob)}\n"
        blob += record(content)
    folder.mkdir(exist_ok=True)
    (folder / "train.rec").write_bytes(blob)
    if index:
        (folder / "train.idx").write_text(lines)
    return folder


def found(source: InsightFaceRecords) -> list[tuple[str, str, bytes]]:
    """(name, identity, picture) of all."""
    names = source.names(range(len(source)))
    people = [source.identities[label] for label in source.labels]
    return [(*both, source.read(i)) for i, both in enumerate(zip(names, people, strict=True))]


@pytest.fixture
def golden(tmp_path):
    return Path(shutil.copytree(GOLDEN, tmp_path / "set"))


@pytest.mark.parametrize("given", ["", "train.rec", "train.idx"])
@pytest.mark.parametrize("indexed", [True, False])
def test_pictures_and_labels_are_those_of_mxnet(golden, given, indexed):
    if not indexed:
        if given == "train.idx":
            return
        (golden / "train.idx").unlink()
    source = InsightFaceRecords(golden / given)
    expected = json.loads((golden / "mxnet.json").read_text())
    read = [source.read(i) for i in range(6)]
    people = [float(source.identities[label]) for label in source.labels]
    digests = [hashlib.sha256(picture).hexdigest() for picture in read]
    keys = [int(name[len("train.rec[") : -1]) for name in source.names(range(6))]
    assert [list(row) for row in zip(keys, people, map(len, read), digests, strict=True)] == expected
    assert ["there is no train.idx" in line for line in source.warnings] == [] if indexed else [True]
    again = [reader() for reader in pickle.loads(pickle.dumps(source.readers([5, 1])))]
    assert again == [read[5], read[1]]


def test_recognised_by_name(golden, tmp_path):
    (golden / "lfw" / "meta").mkdir(parents=True)
    (golden / "lfw" / "meta" / "sizes").write_text("{}")  # a test set unpacked as a carray, beside it
    assert recognise(golden).format == "rec"
    assert all(InsightFaceRecords.recognises(golden / name) for name in ("", "train.rec", "train.idx"))
    assert not InsightFaceRecords.recognises(tmp_path)


LAYOUTS = {
    "record 0 is a picture": ({0: face(7, b"a"), 1: face(7, b"b")}, [(0, "7", b"a"), (1, "7", b"b")]),
    "gaps in labels, any order": (
        {0: face(9, b"a"), 1: face(2, b"b"), 2: face(9, b"c")},
        [(1, "2", b"b"), (0, "9", b"a"), (2, "9", b"c")],
    ),
    "the .idx is out of order": ({5: face(0, b"a"), 3: face(0, b"b")}, [(3, "0", b"b"), (5, "0", b"a")]),
    "identity records, and records behind them": (
        {0: face(3, b"", 4), 1: face(1, b"a"), 2: face(0, b"b"), 3: face(1, b"", 2), 9: face(0, b"z")},
        [(2, "0", b"b"), (1, "1", b"a")],
    ),
    "several labels: the first counts": ({0: face(4, b"a", 0.5, 0.25)}, [(0, "4", b"a")]),
}


@pytest.mark.parametrize(("contents", "expected"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layouts(tmp_path, contents, expected):
    source = InsightFaceRecords(write(tmp_path / "set", contents))
    assert found(source) == [(f"train.rec[{key}]", person, picture) for key, person, picture in expected]


def test_labels_that_float32_does_not_hold(tmp_path):
    """2^24 and 2^24 + 1 are one float32; the identity records tell the two people apart, where there are any."""
    contents = {0: face(4, b"", 6), 1: face(2**24, b"a"), 2: face(2**24, b"b"), 3: face(2**24 + 1, b"c")}
    ranges = {4: face(1, b"", 3), 5: face(3, b"", 4)}
    source = InsightFaceRecords(write(tmp_path / "set", contents | ranges))
    assert source.labels.tolist() == [0, 0, 1] and "identity records number the people" in source.warnings[0]
    bare = {key - 1: content for key, content in contents.items() if key}
    source = InsightFaceRecords(write(tmp_path / "set", bare))
    assert source.labels.tolist() == [0, 0, 0] and "3 pictures have labels of 16,777,216 or more" in source.warnings[0]


def test_number_of_the_first_identity_record_is_rounded(tmp_path):
    """It is 2^24 + 3 and stored as 2^24 + 4: the identity record before that is no picture."""
    first = 2**24 + 3
    contents = {0: face(first, b"", first + 1), 1: face(0, b"a"), first - 1: face(0, b"b"), first: face(1, b"", first)}
    assert int(np.float32(first)) == first + 1
    assert [picture for *_, picture in found(InsightFaceRecords(write(tmp_path / "set", contents)))] == [b"a", b"b"]


def test_a_repeated_key_counts_last(tmp_path):
    folder = write(tmp_path / "set", {0: face(0, b"a"), 1: face(0, b"b"), 2: face(0, b"c")})
    with open(folder / "train.idx", "a", encoding="ascii") as file:
        file.write((folder / "train.idx").read_text().splitlines()[2].replace("2\t", "1\t") + "\n")
    source = InsightFaceRecords(folder)
    assert [picture for *_, picture in found(source)] == [b"a", b"c", b"c"]
    assert source.warnings == ["train.idx: 1 lines repeat a key, such as 1; the last line of a key counts"]


def test_announced_records_and_people_that_are_missing(tmp_path):
    folder = write(tmp_path / "set", {0: face(5, b"", 6), 1: face(0, b"a")})
    (folder / "property").write_text("85742,112,112\n")
    assert InsightFaceRecords(folder).warnings == [
        "train.rec: record 0 announces 4 pictures, 1 records with their numbers are there",
        f"{folder / 'property'}: it says 85,742 people, the records have 1 different labels",
    ]


FACES = {key: face(key // 2, bytes([key]) * (40 + key)) for key in range(8)}
"""Records of which 3 begins at byte 224 and is 76 bytes long."""

DAMAGES = {
    "magic": (224, b"\0\0\0\0", "no record begins at its place"),
    "a later part": (228, struct.pack("<I", 2 << 29 | 67), "the second or a later part of a record"),
    "too long": (228, struct.pack("<I", 68 + 1), "its length reaches into the next record"),
    "too short": (228, struct.pack("<I", 20), "too short for its header"),
    "a first part alone": (228, struct.pack("<I", 1 << 29 | 67), "the parts of the record do not fit together"),
    "labels that are not there": (232, struct.pack("<I", 2**30), "too short for its header and labels"),
    "half a label": (236, struct.pack("<f", 0.5), "its label is not a whole number"),
    "no label": (236, struct.pack("<f", np.nan), "its label is not a whole number"),
}


@pytest.mark.parametrize(("at", "damage", "reason"), DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("indexed", [True, False], ids=["indexed", "scanned"])
def test_a_damaged_record_is_rejected_with_its_number(tmp_path, indexed, at, damage, reason):
    folder = write(tmp_path / "set", FACES, indexed)
    blob = bytearray((folder / "train.rec").read_bytes())
    assert blob[224:232] == MAGIC + struct.pack("<I", 67)
    blob[at : at + 4] = damage
    (folder / "train.rec").write_bytes(blob)
    source = InsightFaceRecords(folder)
    good, rejected = [], {}
    for i, name in enumerate(source.names(range(len(source)))):
        try:
            good.append(source.read(i))
        except Rejected as error:
            rejected[name] = str(error)
    assert good == [content[24:] for key, content in FACES.items() if key != 3]
    first, *others = rejected
    assert first == "train.rec[3]" and reason in rejected[first]
    assert not others or (not indexed and reason == DAMAGES["too short"][2])  # What follows its end counts as a record.


SHARED = 2000
SHARED_PARTS = {
    "first parts alone": (MAGIC + struct.pack("<I", 1 << 29)) * SHARED,
    "one chain": MAGIC + struct.pack("<I", 1 << 29) + (MAGIC + struct.pack("<I", 2 << 29)) * SHARED,
    "first parts that end in one chain": b"".join(
        MAGIC + struct.pack("<I", 1 << 29 | 8 * (SHARED - 1 - n)) for n in range(SHARED)
    )
    + (MAGIC + struct.pack("<I", 2 << 29)) * SHARED,
}
"""Records that share their parts: 4 million parts in a file of 16 to 32 kB, if each is followed to its end."""


@pytest.mark.parametrize("indexed", [True, False], ids=["indexed", "scanned"])
@pytest.mark.parametrize("content", SHARED_PARTS.values(), ids=SHARED_PARTS.keys())
def test_parts_that_records_share_are_read_once(tmp_path, monkeypatch, indexed, content):
    looked_at = []
    for name in ("load", "at"):
        read = getattr(LargeFile, name)
        monkeypatch.setattr(LargeFile, name, lambda *given, read=read: looked_at.append(given[1]) or read(*given))
    (tmp_path / "train.rec").write_bytes(content)
    if indexed:
        firsts = content.count(struct.pack("<I", 2 << 29)) == SHARED and content.count(MAGIC) == SHARED + 1
        places = [0] * SHARED if firsts else [8 * n for n in range(SHARED)]
        (tmp_path / "train.idx").write_text("".join(f"{key}\t{place}\n" for key, place in enumerate(places)))
    assert "damaged" in refusal(tmp_path) or "cut off" in refusal(tmp_path)
    assert len(looked_at) < 10 * len(content) // 8


def refusal(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        InsightFaceRecords(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_cut_file(tmp_path):
    folder = write(tmp_path / "set", FACES)
    whole = (folder / "train.rec").read_bytes()
    (folder / "train.rec").write_bytes(whole[:-10])
    assert f"{folder / 'train.rec'}: record 7 at byte" in refusal(folder) and "cut off" in refusal(folder)
    (folder / "train.rec").write_bytes(whole[:230])
    assert "record 3 would begin at byte 224, outside" in refusal(folder)
    (folder / "train.rec").write_bytes(whole[:-10])
    (folder / "train.idx").unlink()
    source = InsightFaceRecords(folder)
    assert len([source.read(i) for i in range(7)]) == 7
    with pytest.raises(Rejected, match="the file ends before it does"):
        source.read(7)


def test_an_index_of_another_file(tmp_path):
    folder = write(tmp_path / "set", FACES)
    (folder / "train.idx").write_text("".join(f"{key}\t{key * 4 + 4}\n" for key in range(1, 9)))
    assert "records are damaged, such as record 1" in refusal(folder)


INDICES = {
    "outside": ("0\t0\n1\t9999999\n", "record 1 would begin at byte 9,999,999, outside"),
    "three numbers": ("0\t0\n1\t76\t5\n", "line 2 is '1\\t76\\t5'"),
    "words": ("0\t0\nfirst\t76\n", "line 2 is 'first\\t76'"),
    "negative": ("0\t-4\n", "line 1 is '0\\t-4'"),
    "beyond 64 bits": ("0\t99999999999999999999\n", "line 1 is"),
    "no tab": ("0 0\n", "line 1 is '0 0'"),
    "empty": ("", "the file is empty"),
    "more lines than records fit": ("0\t0\n" * 100, "more lines than"),
}


@pytest.mark.parametrize(("text", "message"), INDICES.values(), ids=INDICES.keys())
def test_a_wrong_index(tmp_path, text, message):
    folder = write(tmp_path / "set", {0: face(0, b"abcdefgh"), 1: face(0, b"a")})
    (folder / "train.idx").write_text(text)
    assert message in refusal(folder)


def test_no_file_of_records(tmp_path):
    folder = write(tmp_path / "set", FACES)
    shutil.copy(folder / "train.rec", folder / "val.rec")
    assert f"{folder}: only train.rec of its record files is packed, not val.rec" in InsightFaceRecords(folder).warnings
    (folder / "train.rec").write_bytes(b"\x89PNG" + bytes(100))
    assert "not a RecordIO file: it begins with 89 50 4e 47" in refusal(folder)
    shutil.copy(folder / "train.rec", folder / "val.rec")
    (folder / "train.rec").rename(folder / "a.rec")
    assert "several .rec files (a.rec, val.rec)" in refusal(folder)
    assert "train.rec: no such file" in refusal(folder / "train.idx")


def test_a_file_that_was_cut_meanwhile(tmp_path):
    folder = write(tmp_path / "set", FACES)
    source = InsightFaceRecords(folder)
    with open(folder / "train.rec", "r+b") as file:
        file.truncate(300)
    assert source.read(0)
    with pytest.raises(Unreadable, match="become shorter"):
        source.read(7)


def test_packed_with_a_damaged_record(golden, tmp_path, no_fsync):
    """The JPEG bytes are kept, the damaged record is in quarantine.jsonl with its number; the same with a worker."""
    source = InsightFaceRecords(golden)
    kept = [source.read(i) for i in (0, 1, 2, 3, 5)]
    place = int((golden / "train.idx").read_text().splitlines()[5].split("\t")[1])
    blob = bytearray((golden / "train.rec").read_bytes())
    blob[place : place + 4] = bytes(4)
    (golden / "train.rec").write_bytes(blob)
    for workers in (1, 2):
        out = tmp_path / f"packed-{workers}"
        pack(golden, out, encoding="jpeg", workers=workers, show_progress=False)
        faces = open_packed(out).splits["faces"]
        assert [faces.payload(i).tobytes() for i in range(faces.samples)] == kept
        assert faces.labels.tolist() == [0, 0, 1, 1, 2] and faces.identity_names == ["3", "4", "17"]
        (line,) = map(json.loads, (out / "quarantine.jsonl").read_text().splitlines())
        assert line["file"] == "set/train.rec[5]" and "no record begins at its place" in line["reason"]
