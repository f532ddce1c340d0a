"""Sets of known people in formats of their own: the split ``faces``, its development pairs, and what is refused."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from hrfr_fast.format import beton
from hrfr_fast.format.manifest import command, read
from hrfr_fast.format.reader import open_packed
from hrfr_fast.packing.chunks import decode_chunk
from hrfr_fast.packing.decode import Target
from hrfr_fast.packing.pack import pack
from hrfr_fast.packing.recognition import TITLES, recognise
from hrfr_fast.packing.sources.formats import open_source
from hrfr_fast.packing.sources.identity_folders import FolderSource
from hrfr_fast.packing.sources.identity_source import Selection
from hrfr_fast.packing.sources.source_candidates import SourcePairs
from hrfr_fast.runtime.errors import IncompletePack, UsageError

pytestmark = pytest.mark.usefixtures("no_fsync")


def run(source, out, **settings):
    return pack(source, out, **{"workers": 1, "show_progress": False, **settings})


@pytest.fixture
def folder(tmp_path, make_picture, make_jpeg):
    """Six people with four faces of 112 px each, in an ordinary folder."""
    for i in range(24):
        path = tmp_path / "set" / f"n{i // 4:02d}" / f"face {i % 4}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_jpeg(make_picture(i, 112)))
    return tmp_path / "set"


@pytest.fixture
def listed(folder):
    """The same faces as a list, with labels that leave gaps; the order of the lines is not that of the labels."""
    lines = [f"n{i // 4:02d}/face {i % 4}.jpg {1000 - 7 * (i // 4)}" for i in range(24)]
    path = folder.parent / "train.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_an_ordinary_folder_becomes_faces_and_its_jpeg_files_are_kept(folder, tmp_path):
    summary = run(folder, tmp_path / "out", encoding="jpeg", dev_identities=2)
    packed = open_packed(tmp_path / "out")
    faces, pairs = packed.splits["faces"], packed.pairs["dev-faces"]
    assert (faces.samples, faces.identities, faces.size, pairs.kind) == (16, 4, 112, "development")
    files = [folder / faces.identity_names[i // 4] / f"face {i % 4}.jpg" for i in range(16)]
    assert [faces.payload(i).tobytes() for i in range(16)] == [file.read_bytes() for file in files]
    held_out = {path.name for path in folder.iterdir()} - set(faces.identity_names)
    stored = {pairs.split.payload(i).tobytes() for i in range(pairs.split.samples)}
    assert stored <= {file.read_bytes() for name in held_out for file in (folder / name).iterdir()}
    assert pairs.same.sum() == 12 and len(pairs) == 24 and len(np.unique(pairs.identities)) == 2
    assert not summary.warnings and "--format folder --encoding jpeg" in command(tmp_path / "out", packed.manifest)


def test_a_list_packs_the_same_faces_and_names_people_by_their_labels(folder, listed, tmp_path):
    run(folder, tmp_path / "one")
    run(listed, tmp_path / "two", root=folder)
    one, two = (open_packed(tmp_path / name).splits["faces"] for name in ("one", "two"))
    assert two.identity_names == ["965", "972", "979", "986", "993", "1000"]
    assert two.labels.tolist() == [i // 4 for i in range(24)]  # Split.first needs this order
    same = [4 * (5 - i // 4) + i % 4 for i in range(24)]
    assert (one.read(same) == two.read(range(24))).all() and two.first(2).identity_names == ["965", "972"]


def test_development_pairs_do_not_depend_on_how_the_set_is_stored(folder, listed, tmp_path):
    """Pairs are drawn by number and records are read through the format's own readers."""
    listed.write_text(listed.read_text().replace("1000", "1").replace("993", "2"))  # no longer in opposite order
    lines = [f"n{i // 4:02d}/face {i % 4}.jpg\t{i // 4}" for i in range(24)]
    listed.write_text("\n".join(lines))
    run(folder, tmp_path / "one", dev_identities=2)
    run(listed, tmp_path / "two", dev_identities=2, root=folder)
    one, two = (open_packed(tmp_path / name) for name in ("one", "two"))
    assert one.digest == two.digest


def test_a_changed_and_an_unreadable_file_of_a_list_are_noticed(folder, listed, tmp_path, monkeypatch):
    out, opened = tmp_path / "out", os.open

    def fail(path, *rest, **more):
        if str(path).endswith("n01/face 2.jpg"):
            raise OSError(5, "Input/output error")
        return opened(path, *rest, **more)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(IncompletePack, match=r"such as set/train.txt, line 7: n01/face 2.jpg"):
        run(listed, out, root=folder)
    monkeypatch.undo()
    assert run(listed, out, root=folder).shards["faces"].why == "files can be read now that could not"
    assert run(listed, out, root=folder).nothing_to_do
    shutil.copyfile(folder / "n00/face 0.jpg", folder / "n05/face 3.jpg")
    assert run(listed, out, root=folder).shards["faces"].why == "files: 0 added, 0 removed, 1 changed"


def test_what_a_list_names_in_vain_is_counted_by_line(folder, listed, tmp_path):
    text = listed.read_text().replace("face 3.jpg 1000", "none.jpg 1000").replace("n01/face 0", "../set/n01/face 0")
    listed.write_text(f"\n{text}no label\n".replace("\nno label", "\nnolabel"))
    absolute = f"{folder}/n00/face 0.jpg 3\n"
    listed.write_text(listed.read_text() + absolute)
    summary = run(listed, tmp_path / "out", root=folder)
    assert summary.warnings == [
        f"{listed}: 2 lines cannot be used, such as line 6: ../set/n01/face 0.jpg leads out of the root; see --root",
        f"{listed}: 1 file cannot be found, such as line 5: n00/none.jpg",
        f"{listed}: 1 lines name a file again, 1 of them as another person, who then has the same face; they are packed"
        f" as they are, such as lines 2 and 27: {folder}/n00/face 0.jpg",
        "faces: 1 pictures equal another one of a different identity byte for byte, such as records 0 and 20: labels"
        " are wrong, perhaps out of step, or pictures are in two folders",
    ]
    assert summary.shards["faces"].samples == 23
    lines = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    assert [(line["file"], line.get("retry")) for line in lines] == [("set/train.txt, line 5: n00/none.jpg", None)]


REFUSED = {
    "another root": ("{list}", {}, "24 of its 24 files are not there, such as line 1: n00/face 0.jpg.*--root"),
    "no list": ("{list}", {"format": "folder"}, "not a folder .*there is a file of"),
    "a folder as a list": ("{folder}", {"format": "list"}, "cannot be read as a list.*a folder of 6 entries"),
    "no such format": ("{folder}", {"format": "zip"}, "there are tree, pairs, "),
    "a root of a folder": ("{folder}", {"root": "x"}, "--root x: it is for list files"),
    "the folder above": ("{folder}/..", {}, "not known what this is.*set looks like a folder of identities"),
    "a list as records": ("{list}", {"format": "rec"}, "train.txt: not a RecordIO file: .*expected 0a 23 d7 ce"),
    "nothing there": ("{folder}/none", {}, "no such file or directory"),
    "too many held out": ("{folder}", {"dev_identities": 4}, "at least half must be left for training"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_packed_is_refused_in_one_line(folder, listed, tmp_path, name):
    source, settings, message = REFUSED[name]
    if name == "the folder above":
        listed.unlink()
    with pytest.raises(UsageError, match=message) as refused:
        run(source.format(folder=folder, list=listed), tmp_path / "out", **settings)
    assert "\n" not in str(refused.value)


def test_each_input_is_taken_for_what_it_is(folder, listed, tree, tmp_path):
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs/lfw.csv").write_text(f"{folder}/n00/face 0.jpg,{folder}/n00/face 1.jpg,1\n")
    (folder / "labels.csv").write_text("identity,name,age\nn00,Somebody,31\n")  # about the people, no pairs
    shutil.copytree(folder, tmp_path / "only" / "faces")
    expected = {tree: "tree", tmp_path / "only": "tree", tmp_path / "pairs": "pairs", listed: "list", folder: "folder"}
    assert {path: recognise(path).format for path in expected} == expected
    assert recognise(tmp_path / "only" / "faces").format == "folder"
    with pytest.raises(UsageError, match="is a split itself: give the folder that holds it, .* or --format folder"):
        recognise(tree / "lowres")
    assert recognise(tree / "lowres", "folder").format == "folder"
    assert "left out" not in str(recognise(folder))
    (folder / "train.tar").touch()
    assert str(recognise(folder)).endswith("; left out is what looks like WebDataset tar files (--format webdataset)")
    run(tmp_path / "only", tmp_path / "out")
    assert list(read(tmp_path / "out")["splits"]) == ["faces"]
    run(tmp_path / "pairs", tmp_path / "of pairs")
    assert list(read(tmp_path / "of pairs")["pairs"]) == ["lfw"]


def test_a_pipe_is_not_read_to_recognise_it(tmp_path):
    """What is read of it there is missing afterwards."""
    reading, writing = os.pipe()
    try:
        os.write(writing, b"a.jpg 1\n")
        with pytest.raises(UsageError, match="not known what this is"):
            recognise(Path(f"/dev/fd/{reading}"))
        assert os.read(reading, 99) == b"a.jpg 1\n"
    finally:
        os.close(reading)
        os.close(writing)


def test_every_format_is_in_the_help_and_can_be_sent_to_workers(folder, listed):
    from hrfr_fast.cli.data_commands import FORMATS

    assert FORMATS.replace(" or ", ", ").split(", ") == list(TITLES)
    for source in (open_source(folder), Selection(FolderSource(folder), [1, 4])):
        readers = pickle.loads(pickle.dumps(source.readers(range(len(source)))))
        assert [reader() for reader in readers] == [source.read(i) for i in range(len(source))]
    chosen = Selection(FolderSource(folder), [1, 4])
    assert chosen.names([0, 7]) == ["n01/face 0.jpg", "n04/face 3.jpg"] and chosen.labels.tolist() == [0] * 4 + [1] * 4
    assert chosen.fingerprint != Selection(FolderSource(folder), [1, 3]).fingerprint


def test_pixels_of_a_format_are_packed_as_they_are_or_encoded(make_picture):
    """A format may hold pixels instead of files, as a raw .beton does."""
    pixels = make_picture(3, 36)
    chunk = decode_chunk([lambda: pixels, lambda: pixels[:30]], Target(36), paired=False)
    assert chunk.blob == pixels.tobytes() and chunk.modes == [beton.RAW]
    assert chunk.rejected == [(1, "wrong size: 36x30, expected 36x36 (--resize accepts it)")]
    assert decode_chunk([lambda: pixels], Target(36, encoding="jpeg"), paired=False).modes == [beton.JPEG]


def test_development_pairs_of_records_read_through_their_source(folder):
    source = open_source(folder)
    same, people = np.array([True, False]), np.array([0, 0, 0, 1], np.int32)
    pairs = SourcePairs("pairs-dev-faces", source, [0, 3, 1, 4], same, 112, people)
    assert pairs.paths(2, 4) == ["n00/face 1.jpg", "n01/face 0.jpg"]
    assert [read() for read in pairs.readers(1, 3)] == [source.read(3), source.read(1)]
    other = SourcePairs("pairs-dev-faces", source, [0, 3, 1, 5], same, 112, people)
    assert other.fingerprint != pairs.fingerprint and other.content != pairs.content
