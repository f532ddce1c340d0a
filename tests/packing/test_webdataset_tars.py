"""WebDataset tars: written by the library ``webdataset`` and by Python's ``tarfile``, and compared with both."""

import io
import json
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hrfr_fast.format.reader import open_packed
from hrfr_fast.packing.file_bytes import LargeFile
from hrfr_fast.packing.pack import pack
from hrfr_fast.packing.picture_files import Rejected
from hrfr_fast.packing.sources import tar_members
from hrfr_fast.packing.sources.brace_patterns import expand
from hrfr_fast.packing.sources.tar_members import members, sum_of_header
from hrfr_fast.packing.sources.tar_samples import TWICE
from hrfr_fast.packing.sources.webdataset_tars import WebDatasetTars
from hrfr_fast.runtime.errors import UsageError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def write(path: Path, contents: list[tuple[str, bytes]], format: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in contents:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def listed(source: WebDatasetTars) -> list[tuple[str, str, bytes | str]]:
    """(name, identity, picture or the reason why it is rejected) of each."""
    pictures = []
    for i, name in enumerate(source.names(range(len(source)))):
        try:
            content: bytes | str = source.read(i)
        except Rejected as error:
            content = str(error)
        pictures.append((name, source.identities[source.labels[i]], content))
    return pictures


def found(source: WebDatasetTars) -> dict[str, tuple[str, bytes | str]]:
    """(identity, picture or the reason why it is rejected) by name."""
    return {name: (identity, content) for name, identity, content in listed(source)}


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        WebDatasetTars(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def samples_of(paths: list[Path]) -> Iterator[dict[str, Any]]:
    """The samples that the library finds. Its own ``WebDataset`` leaves the last file open."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    for path in paths:
        with open(path, "rb") as stream:
            yield from group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}]))


def test_pictures_and_labels_are_those_of_webdataset(tmp_path):
    wds = pytest.importorskip("webdataset")
    pattern = str(tmp_path / "face-%02d.tar")
    with wds.ShardWriter(pattern, maxcount=5, verbose=0) as writer:
        for i in range(12):
            label = {"cls": i * 7 % 5} if i % 2 else {"json": {"label": i * 7 % 5, "size": 112}}
            picture = {("jpg", "jpeg", "png", "webp")[i % 4]: bytes([i]) * (i * 100)}
            writer.write({"__key__": f"part.{i % 2}/{i:03d}", **label, **picture})
    expected = set()
    for sample in samples_of(sorted(tmp_path.glob("*.tar"))):
        label = str(json.loads(sample["json"])["label"] if "json" in sample else int(sample["cls"]))
        picture = next(sample[ending] for ending in ("jpg", "jpeg", "png", "webp") if ending in sample)
        expected.add((sample["__key__"], label, picture))
    for given in (tmp_path, tmp_path / "face-{00..02}.tar"):
        assert WebDatasetTars.recognises(given)
        source = WebDatasetTars(given)
        pictures = found(source)
        keys = {name.split("/", 1)[1].rsplit(".", 1)[0]: content for name, content in pictures.items()}
        assert {(key, *content) for key, content in keys.items()} == expected
        assert not source.warnings and (source.labels[1:] >= source.labels[:-1]).all()
    one = WebDatasetTars(tmp_path / "face-01.tar")
    again = [reader() for reader in pickle.loads(pickle.dumps(one.readers(range(5))))]
    assert again == [picture for _, picture in found(one).values()]


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS.keys())
def test_members_are_those_of_tarfile(tmp_path, format):
    names = ["a.jpg", "d" * 80 + "/" + "n" * 90 + ".jpg", "ä/ö.cls", "x/../../y.jpg", "/etc/passwd.jpg", "e.jpg"]
    names += [] if format == tarfile.USTAR_FORMAT else ["l" * 300 + ".jpg"]
    contents = [(name, bytes([n]) * (n * 511)) for n, name in enumerate(names)]
    path = write(tmp_path / "a.tar", [*contents, ("z.jpg", b"end")], format)
    with tarfile.open(path) as tar:
        expected = [(member.name, member.offset_data, member.size) for member in tar]
    with LargeFile(path) as file:
        found = list(members(file))
    assert [(member.name, member.start, member.size) for member in found] == expected
    assert not any(member.problem for member in found)


@pytest.mark.parametrize("damage", [None, 0, 1, 3, 40, 41, 99], ids=str)
def test_headers_looked_at_together_are_those_looked_at_one_by_one(tmp_path, monkeypatch, damage):
    contents = [(f"{n:03d}" + "x" * (120 * (n == 50)) + ".jpg", bytes([n]) * (n * 37)) for n in range(100)]
    path = write(tmp_path / "a.tar", contents)
    if damage is not None:
        with tarfile.open(path) as tar:
            place = tar.getmembers()[damage].offset
        content = bytearray(path.read_bytes())
        content[place + 100 if damage % 2 else place] ^= 1  # the field of the mode, or the name
        path.write_bytes(content)
    both = []
    for few in (tar_members.FEW, 1000):
        monkeypatch.setattr(tar_members, "FEW", few)
        with LargeFile(path) as file:
            both.append(list(members(file)) if damage != 0 else refusal(path))
    assert both[0] == both[1]
    if damage is None:
        assert [(member.name, member.size) for member in both[0]] == [(name, len(data)) for name, data in contents]


def test_sizes_in_other_forms(tmp_path):
    """A pax header with a size, and GNU's binary numbers: as tarfile writes them for 8 GB and more."""
    path = tmp_path / "a.tar"
    for format, problem in ((tarfile.PAX_FORMAT, "cut off"), (tarfile.GNU_FORMAT, "cut off")):
        member = tarfile.TarInfo("big.jpg")
        member.size = 9 << 30
        path.write_bytes(member.tobuf(format) + bytes(1024))
        with LargeFile(path) as file:
            big, _ = members(file)  # the other: there is no end mark behind it
        assert big.size == 9 << 30 and problem in big.problem


LAYOUTS = {
    "label before the picture": ([("a.cls", b"3"), ("a.jpg", b"A")], {"a.jpg": ("3", b"A")}),
    "all pictures first": (
        [("a.jpg", b"A"), ("b.jpg", b"B"), ("b.cls", b"2"), ("a.cls", b"10")],
        {"b.jpg": ("2", b"B"), "a.jpg": ("10", b"A")},
    ),
    "numbers sort as numbers, names after them": (
        [("a.jpg", b"A"), ("a.cls", b"n01"), ("b.jpg", b"B"), ("b.cls", b"10\n"), ("c.JPG", b"C"), ("c.cls", b"-9")],
        {"c.JPG": ("-9", b"C"), "b.jpg": ("10", b"B"), "a.jpg": ("n01", b"A")},
    ),
    "a .json without a label beside a .cls": (
        [("a.jpg", b"A"), ("a.json", b'{"age": 3}'), ("a.cls", b"1")],
        {"a.jpg": ("1", b"A")},
    ),
    "other members": (
        [
            ("a.jpg", b"A"),
            ("a.seg.png", b"S"),
            ("a.txt", b"T"),
            ("a.cls", b"1"),
            ("__meta__.json", b"{}"),
            (".b.jpg", b""),
        ],
        {"a.jpg": ("1", b"A")},
    ),
    "the same key in another folder": (
        [("x/a.jpg", b"A"), ("x/a.cls", b"1"), ("y/a.jpg", b"B"), ("y/a.cls", b"2")],
        {"x/a.jpg": ("1", b"A"), "y/a.jpg": ("2", b"B")},
    ),
}


@pytest.mark.parametrize(("contents", "expected"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layouts(tmp_path, contents, expected):
    source = WebDatasetTars(write(tmp_path / "a.tar", contents))
    assert list(found(source).items()) == [(f"a.tar/{name}", content) for name, content in expected.items()]
    assert not source.warnings


GOOD = [("g.jpg", b"G"), ("g.cls", b"7")]
REJECTED = {
    "no label": ([("a.jpg", b"A")], "it has no label"),
    "no number": ([("a.jpg", b"A"), ("a.cls", b"\x00\x01")], "its label a.cls is neither a whole number nor a name"),
    "no JSON": ([("a.json", b"{"), ("a.jpg", b"A")], "its label a.json is not JSON"),
    "a deep JSON": ([("a.json", b"[" * 100_000), ("a.jpg", b"A")], "its label a.json is not JSON"),
    "a label of another kind": ([("a.json", b'{"label": [1]}'), ("a.jpg", b"A")], "neither a whole number nor a name"),
    "a huge label": ([("a.cls", bytes(2 << 20)), ("a.jpg", b"A")], "its label a.cls is not usable: 2,097,152 bytes"),
}


@pytest.mark.parametrize(("contents", "reason"), REJECTED.values(), ids=REJECTED.keys())
def test_a_picture_without_a_usable_label_is_rejected(tmp_path, contents, reason):
    pictures = found(WebDatasetTars(write(tmp_path / "a.tar", [*GOOD, *contents])))
    assert pictures["a.tar/g.jpg"] == ("7", b"G")
    assert reason in pictures["a.tar/a.jpg"][1]


def test_a_key_that_comes_twice(tmp_path):
    contents = [*GOOD, ("a.jpg", b"A"), ("a.cls", b"1"), ("b.jpg", b"B"), ("b.png", b"P"), ("b.cls", b"1")]
    source = WebDatasetTars(write(tmp_path / "a.tar", [*contents, ("g.jpg", b"H"), ("g.cls", b"8")]))
    assert listed(source) == [
        ("a.tar/a.jpg", "1", b"A"),
        ("a.tar/b.png", "1", TWICE),
        ("a.tar/b.jpg", "1", b"B"),
        ("a.tar/g.jpg", "7", b"G"),
        ("a.tar/g.jpg", "8", TWICE),
    ]


def test_a_pattern_is_packed(tmp_path, make_picture, make_jpeg, no_fsync):
    jpegs = [make_jpeg(make_picture(i, 112)) for i in range(6)]
    for tar in range(2):
        faces = [(f"{i}.jpg", jpegs[i]) for i in range(3 * tar, 3 * tar + 3)]
        write(tmp_path / f"{tar}.tar", [*faces, *((f"{name[0]}.cls", b"%d" % (int(name[0]) % 2)) for name, _ in faces)])
    pack(tmp_path / "{0..1}.tar", tmp_path / "out", encoding="jpeg", workers=1, show_progress=False)
    faces = open_packed(tmp_path / "out").splits["faces"]
    assert [faces.payload(i).tobytes() for i in range(6)] == [jpegs[i] for i in (0, 2, 4, 1, 3, 5)]
    assert faces.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_links_and_other_kinds(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("folder", tarfile.DIRTYPE), ("a.jpg", tarfile.SYMTYPE), ("b.jpg", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        for name, content in (("a.cls", b"1"), ("b.cls", b"1"), *GOOD):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert found(WebDatasetTars(path)) == {
        "a.tar/a.jpg": ("1", "a link"),
        "a.tar/b.jpg": ("1", "a member of kind '6'"),
        "a.tar/g.jpg": ("7", b"G"),
    }


def test_a_damaged_header_costs_one_picture(tmp_path):
    contents = [(f"{n}.{ending}", b"1") for n in range(4) for ending in ("jpg", "cls")]
    path = write(tmp_path / "a.tar", contents, tarfile.USTAR_FORMAT)
    content = bytearray(path.read_bytes())
    content[2 * 1024 + 5] ^= 1  # in the name of 1.jpg
    path.write_bytes(content)
    source = WebDatasetTars(path)
    assert list(found(source)) == ["a.tar/0.jpg", "a.tar/2.jpg", "a.tar/3.jpg"]
    assert source.warnings == [
        f"{path}: byte 2,048: a damaged tar header; the member after it may be lost;"
        " 1 labels without a picture, such as that of 1"
    ]


def test_a_cut_tar(tmp_path):
    path = write(tmp_path / "a.tar", [("a.cls", b"1"), ("a.jpg", bytes(600)), ("b.cls", b"1"), ("b.jpg", bytes(600))])
    content = path.read_bytes()
    path.write_bytes(content[: 512 * 9])  # one block into the pixels of b.jpg
    source = WebDatasetTars(path)
    pictures = found(source)
    assert pictures["a.tar/a.jpg"] == ("1", bytes(600)) and "cut off: it has 600 bytes" in pictures["a.tar/b.jpg"][1]
    assert "byte 4,608: the tar file ends here without an end mark" in source.warnings[0]
    path.write_bytes(content[: 512 * 5])
    source = WebDatasetTars(path)
    assert found(source) == {"a.tar/a.jpg": ("1", bytes(600))}
    assert source.warnings == [f"{path}: byte 2,560: the tar file ends here without an end mark: it may be cut off"]


def test_what_is_no_set_of_tars(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert not WebDatasetTars.recognises(empty) and "no .tar files in it" in refusal(empty)
    tar = write(tmp_path / "a.tar", [("a.txt", b"1")])
    assert "no pictures in it" in refusal(tar)
    assert "none of 1 pictures has a label, such as a/1.jpg" in refusal(write(tar, [("a/1.jpg", b"A")]))
    tar.write_bytes(b"GIF89a" + bytes(2000))
    assert "not a tar file: it begins with no header of one" in refusal(tar)
    tar.write_bytes(b"\x1f\x8b" + bytes(2000))
    assert "it is compressed; decompress it first" in refusal(tar)
    assert "no such tar file" in refusal(tmp_path / "b-{0..2}.tar")
    (tmp_path / "c.tar.gz").write_bytes(b"\x1f\x8b")
    assert WebDatasetTars.recognises(tmp_path / "c.tar.gz") and "decompress it first" in refusal(tmp_path / "c.tar.gz")


PATTERNS = {
    "x-{08..11}.tar": ["x-08.tar", "x-09.tar", "x-10.tar", "x-11.tar"],
    "{a,b}/{0..1}": ["a/0", "a/1", "b/0", "b/1"],
    "{2..0}": ["2", "1", "0"],
    "plain.tar": ["plain.tar"],
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern):
    assert expand(pattern) == PATTERNS[pattern]
    with pytest.raises(UsageError, match="more than 1,000,000 files"):
        expand("{0..9999999}" + pattern)


@pytest.mark.parametrize("header", [bytes(512), b"\xff" * 512, bytes(range(256)) * 2])
def test_the_checksum_of_a_header_is_a_plain_sum(header):
    assert sum_of_header(header) == sum(header) - sum(header[148:156]) + 8 * ord(" ")
