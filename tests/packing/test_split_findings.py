"""Splits that are whole and wrong: exchanged colours, black pictures, copies elsewhere, labels out of step."""

import shutil

import cv2
import numpy as np
import pytest
from picture_trees import jpeg, picture

from hrfr_fast.format import manifest
from hrfr_fast.format.reader import open_packed
from hrfr_fast.format.split_findings import split_warnings
from hrfr_fast.packing import split_checks
from hrfr_fast.packing.pack import pack
from hrfr_fast.packing.sources.insightface_rec import InsightFaceRecords
from hrfr_fast.packing.sources.list_files import ListSource
from hrfr_fast.runtime.errors import UsageError

pytestmark = pytest.mark.usefixtures("no_fsync")


def run(tree, out):
    return pack(tree, out, workers=1, show_progress=False).warnings


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.ascontiguousarray(pixels[:, :, ::-1]))


def write_split(root, pictures, labels):
    for number, (pixels, label) in enumerate(zip(pictures, labels, strict=True)):
        save(root / f"p{label:04d}" / f"{number:05d}.png", pixels)


@pytest.fixture
def faces(tiny_packed):
    """Drawn faces of 36 px and their labels."""
    split = open_packed(tiny_packed).splits["lowres"]
    return split.read(np.arange(60)), split.labels[:60]


@pytest.mark.parametrize("exchanged", [False, True])
def test_exchanged_red_and_blue_are_told(faces, tmp_path, exchanged):
    pictures, labels = faces
    write_split(tmp_path / "data" / "lowres", pictures[..., ::-1] if exchanged else pictures, labels)
    warnings = run(tmp_path / "data", tmp_path / "out")
    assert ["red and blue seem to be exchanged: of " in line for line in warnings] == [True] * exchanged
    content = manifest.read(tmp_path / "out")
    assert split_warnings(content) == warnings
    assert content["splits"]["lowres"]["findings"]["coloured"] >= 55
    assert run(tmp_path / "data", tmp_path / "out") == warnings, "an unchanged pack says so again"


def test_a_black_split_is_told(faces, tmp_path):
    pictures, labels = faces
    write_split(tmp_path / "data" / "lowres", np.zeros_like(pictures), labels)
    [black, copies] = run(tmp_path / "data", tmp_path / "out")
    assert "60 of 60 pictures looked at show nothing" in black and "such as record 0" in black
    assert "equal another one of a different identity byte for byte" in copies


def test_copies_in_another_split_are_told_whatever_their_size_and_compression(tree, tmp_path):
    assert run(tree, tmp_path / "before") == []
    for number in range(3):
        pixels = picture(60 + 18 + number, 144)  # of highres_eval's first person, as the tree was made
        small = cv2.resize(pixels, (36, 36), interpolation=cv2.INTER_AREA)
        (tree / "lowres" / "l000" / f"copy {number}.jpg").write_bytes(jpeg(small))
    [line] = run(tree, tmp_path / "out")
    assert "highres_eval: 3 of 12 pictures looked at show the same as a picture of lowres" in line
    assert "evaluations on it are too optimistic" in line
    packed = open_packed(tmp_path / "out")
    here, there = packed.manifest["splits"]["highres_eval"]["findings"]["copy_examples"]["lowres"]
    shrunk = cv2.resize(packed.splits["highres_eval"].read(here)[0], (36, 36), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.astype(int) - packed.splits["lowres"].read(there)[0]).mean() < 5


def test_one_picture_under_two_identities_is_told(tree, tmp_path):
    (tree / "lowres" / "l003" / "again.jpg").write_bytes((tree / "lowres" / "l000" / "0.jpg").read_bytes())
    [line] = run(tree, tmp_path / "out")
    assert "lowres: 1 pictures equal another one of a different identity byte for byte" in line


def listed(tmp_path, shift=0):
    """A list of 20 people with three pictures each, the labels ``shift`` lines late."""
    paths = [f"n{number // 3:02d}/{number}.png" for number in range(60)]
    for number, path in enumerate(paths):
        save(tmp_path / path, picture(number, 12))
    labels = [number // 3 for number in range(60)]
    labels = [labels[0]] * shift + labels[: len(labels) - shift]
    return paths, labels


@pytest.mark.parametrize("shift", [0, 1])
def test_a_list_whose_labels_are_a_line_late_is_told(tmp_path, shift):
    paths, labels = listed(tmp_path, shift)
    path = tmp_path / "train.txt"
    path.write_text("".join(f"{name} {label}\n" for name, label in zip(paths, labels, strict=True)))
    warnings = ListSource(path).warnings
    assert len(warnings) == shift
    assert all("if each label belonged to the line before, 0 would: the labels seem to be out of step" in line
               for line in warnings)  # fmt: skip


@pytest.mark.parametrize("shift", [0, 1])
def test_pairs_whose_labels_are_a_line_late_are_told(tree, tmp_path, shift):
    rng = np.random.default_rng(0)
    lines, same = [], [bool(value) for value in rng.integers(0, 2, 60)]
    for number, one in enumerate(same):
        first = number % 4
        second = first if one else (first + 1) % 4
        lines.append(f"../highres_eval/e{first:03d}/0.jpg,../highres_eval/e{second:03d}/{number % 2 + 1}.jpg")
    labels = [same[0]] * shift + same[: len(same) - shift]
    folder = tree / "hres_eval_pairs"
    folder.mkdir()
    text = "".join(f"{line},{int(label)}\n" for line, label in zip(lines, labels, strict=True))
    (folder / "mine.csv").write_text(text)
    warnings = [line for line in run(tree, tmp_path / "out") if "out of step" in line]
    assert len(warnings) == shift and all("pairs-mine: in" in line and "of 60 pairs" in line for line in warnings)


def test_labels_that_are_one_number_in_two_spellings_are_told(tmp_path):
    paths, _ = listed(tmp_path)
    path = tmp_path / "train.txt"
    path.write_text("".join(f"{name} {'01' if number % 2 else '1'}\n" for number, name in enumerate(paths)))
    source = ListSource(path)
    assert source.identities == ["01", "1"]
    assert any("1 label written in several ways (01 and 1) count as" in line for line in source.warnings)


@pytest.mark.parametrize(
    "line,command",
    [("{n}\t{label}.0\t{path}\n", '{print $NF "\\t" $2}'), ("1\t{path}\t{label}\n", '{print $2 "\\t" $3}')],
)
def test_the_lists_of_mxnet_are_named_and_turned_into_ours(tmp_path, line, command):
    paths, labels = listed(tmp_path)
    path = tmp_path / "train.lst"
    lines = [
        line.format(n=n, label=label, path=name) for n, (name, label) in enumerate(zip(paths, labels, strict=True))
    ]
    path.write_text("".join(lines))
    with pytest.raises(UsageError) as refused:
        pack(path, tmp_path / "out", workers=1, show_progress=False)
    assert "MXNet's .lst" in str(refused.value) and command in str(refused.value)
    import subprocess

    script = str(refused.value).split("`")[1].replace("list.txt", str(tmp_path / "list.txt"))
    subprocess.run(["sh", "-c", script], check=True)
    source = ListSource(tmp_path / "list.txt")
    assert len(source.identities) == 20 and len(source) == 60 and not source.warnings


def test_a_record_file_whose_labels_contradict_its_identity_records_is_told(tmp_path):
    from test_insightface_rec import face, write

    pixels = jpeg(picture(1, 36))
    contents = {0: face(4, b"", 6), 1: face(0, pixels), 2: face(1, pixels), 3: face(1, pixels)}
    contents |= {4: face(1, b"", 3), 5: face(3, b"", 4)}
    source = InsightFaceRecords(write(tmp_path / "set", contents))
    assert any("1 of 3 pictures have another label than the first picture of the same identity record, such as record 2"
               in line for line in source.warnings)  # fmt: skip
    good = contents | {2: face(0, pixels)}
    assert not InsightFaceRecords(write(tmp_path / "good", good)).warnings


def test_equal_records_are_found_among_others_of_the_same_checksum(tree, tmp_path):
    """All have one checksum here, so that the bytes have to decide."""
    for number in (1, 4, 5):
        shutil.copy(tree / "lowres/l000/0.jpg", tree / f"lowres/l00{number}/copy.jpg")
    run(tree, tmp_path / "out")
    splits = open_packed(tmp_path / "out").splits
    split, other = splits["lowres"], splits["highres"]
    for one in (split, other):
        one.__dict__["crc32"] = np.full(one.samples, 7, np.uint32)
    contents = [split.payload(record).tobytes() for record in range(split.samples)]
    first = [contents.index(content) for content in contents]
    copies = [(record, before) for record, before in enumerate(first) if before != record]
    assert len(copies) >= 3 and split_checks._equal(split, split) == copies
    assert split_checks._equal(split, other) == []
