"""What could not be read is no property of a picture: it is tried again, and the pack never calls itself current."""

import errno
import json
import os
import shutil

import numpy as np
import pytest

from hrfr_fast.format.inspect import inspect_packed
from hrfr_fast.format.reader import open_packed
from hrfr_fast.format.verify import check_packed, describe_check
from hrfr_fast.packing import pack_shard
from hrfr_fast.packing.pack import pack
from hrfr_fast.runtime.errors import HrfrError, IncompletePack, Interrupted, StrictRefusal
from hrfr_fast.runtime.signals import StopFlag

bcolz = pytest.importorskip("bcolz")

pytestmark = pytest.mark.usefixtures("no_fsync")


def run(tree, out, **settings):
    return pack(tree, out, **{"workers": 1, "show_progress": False, **settings})


def retried(out):
    lines = map(json.loads, (out / "quarantine.jsonl").read_bytes().splitlines())
    return {line["file"]: line["reason"] for line in lines if line.get("retry")}


def samples(out):
    return open_packed(out).splits["lowres"].samples


@pytest.fixture
def failing(monkeypatch):
    """A dictionary: what opening a file of this name fails with."""
    errors, original = {}, os.open

    def fail(path, *rest, **more):
        number = errors.get(os.path.basename(path))
        if number:
            raise OSError(number, os.strerror(number), path)
        return original(path, *rest, **more)

    monkeypatch.setattr(os, "open", fail)
    return errors


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOENT])
def test_what_cannot_be_read_is_tried_again_until_it_can(tree, tmp_path, failing, number):
    out = tmp_path / "out"
    (tree / "lowres/l001/0.jpg").rename(tree / "lowres/l001/no.jpg")
    (tree / "lowres/l000/0.jpg").write_bytes(b"a bad picture, whoever reads it")
    failing["no.jpg"] = number
    for action in ("packed", "unchanged"):  # the second time it still cannot be read
        with pytest.raises(IncompletePack, match=r"1 file could not be read, such as lowres/l001/no.jpg") as found:
            run(tree, out)
        assert found.value.exit_code == 1 and found.value.summary.shards["lowres"].action == action
        assert "nothing to do" not in "\n".join(found.value.summary.lines())
        assert retried(out) == {"lowres/l001/no.jpg": f"cannot be read: {os.strerror(number)}"}
    assert inspect_packed(out)["splits"]["lowres"]["unreadable"] == 1 and samples(out) == 58
    assert check_packed(out) == [] and "incomplete: 1 file could" in "\n".join(describe_check(out))
    failing.clear()
    summary = run(tree, out)
    assert summary.shards["lowres"].why == "files can be read now that could not"
    assert summary.shards["highres"].action == "unchanged" and samples(out) == 59 and not retried(out)
    assert run(tree, out).nothing_to_do and summary.rejected == 1


LINKS = {"dangling": "nowhere.jpg", "loop": "0.jpg"}


@pytest.mark.parametrize("name", LINKS)
def test_a_link_that_leads_nowhere_is_tried_again(tree, tmp_path, name):
    file = tree / "lowres/l000/0.jpg"
    file.rename(tree / "lowres/l000.jpg")
    file.symlink_to(LINKS[name])
    with pytest.raises(IncompletePack):
        run(tree, tmp_path / "out", strict=True)
    file.unlink()
    (tree / "lowres/l000.jpg").rename(file)
    run(tree, tmp_path / "out", strict=True)
    assert samples(tmp_path / "out") == 60


def test_a_pair_list_naming_no_file_is_a_mistake_of_the_list_but_a_file_that_cannot_be_read_is_not(
    tree, tmp_path, failing
):
    folder, out = tree / "hres_eval_pairs", tmp_path / "out"
    folder.mkdir()
    for i in range(4):
        shutil.copy(tree / "highres_eval/e000/0.jpg", folder / f"p{i}.jpg")
    (folder / "test.csv").write_text("p0.jpg,p1.jpg,1\np2.jpg,p3.jpg,0\np2.jpg,gone.jpg,0\n")
    with pytest.raises(StrictRefusal):
        run(tree, out, strict=True)
    failing["p1.jpg"] = errno.EIO
    (folder / "p1.jpg").touch()
    with pytest.raises(IncompletePack):
        run(tree, out)
    assert list(retried(out)) == ["hres_eval_pairs/p1.jpg"] and len(open_packed(out).pairs["test"]) == 1
    failing.clear()
    run(tree, out)
    assert len(open_packed(out).pairs["test"]) == 2
    shutil.copy(folder / "p0.jpg", folder / "gone.jpg")
    run(tree, out, strict=True)
    assert len(open_packed(out).pairs["test"]) == 3


def test_an_array_that_cannot_be_read_fails_the_pack(tree, tmp_path):
    folder = tree / "hres_eval_pairs"
    folder.mkdir()
    bcolz = pytest.importorskip("bcolz")
    bcolz.carray(np.zeros((12, 3, 36, 36), np.uint8), rootdir=str(folder / "test"), mode="w", chunklen=4).flush()
    np.save(folder / "test_list.npy", np.ones(6, bool))
    block = folder / "test/data/__2.blp"
    block.rename(tmp_path / "block")
    block.symlink_to(block)
    with pytest.raises(HrfrError, match="hres_eval_pairs/test: cannot be read") as error:
        run(tree, tmp_path / "out")
    assert error.value.exit_code == 1 and not (tmp_path / "out/manifest.json").exists()
    block.unlink()
    (tmp_path / "block").rename(block)
    run(tree, tmp_path / "out")
    assert len(open_packed(tmp_path / "out").pairs["test"]) == 6


def test_a_lost_disk_does_not_replace_what_was_packed(tree, tmp_path, failing, monkeypatch):
    out = tmp_path / "out"
    run(tree, out)
    before = open_packed(out).digest
    monkeypatch.setattr(pack_shard, "UNREADABLE", 10)
    (tree / "lowres/l000/0.jpg").touch()
    failing.update({f"{i}.jpg": errno.ESTALE for i in range(1, 5)})
    with pytest.raises(HrfrError, match="of the first 60 files could not be read, such as") as error:
        run(tree, out)
    assert not isinstance(error.value, IncompletePack) and open_packed(out).digest == before
    failing.clear()
    assert run(tree, out).shards["lowres"].action == "packed" and open_packed(out).digest == before


@pytest.mark.parametrize("shard", ["lowres", "highres"])
def test_an_interrupted_pack_tries_again_too(tree, tmp_path, failing, monkeypatch, shard):
    """Whether the shard with the unreadable file was under way or finished when ``shard`` was interrupted."""
    failing["4.jpg"] = errno.EIO  # of lowres alone
    stop, fill = StopFlag(), pack_shard.fill_shard

    def stopping(writer, journal, candidates, *rest):
        if candidates.name == shard:
            stop.signal_number = 15
        fill(writer, journal, candidates, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(pack_shard, "fill_shard", stopping)
        with pytest.raises(Interrupted):
            run(tree, tmp_path / "out", stop=stop)
    failing.clear()
    assert run(tree, tmp_path / "out").shards["lowres"].action == "packed"
    assert samples(tmp_path / "out") == 60


FOLDERS = {
    "an identity's folder": "lowres/l000",
    "a split's folder": "lowres",
    "the pair lists' folder": "hres_eval_pairs",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_cannot_be_seen_is_no_absent_folder(tree, tmp_path, name):
    folder = tree / FOLDERS[name]
    shutil.rmtree(folder, ignore_errors=True)
    folder.symlink_to(tmp_path / "an unmounted disk")
    with pytest.raises(HrfrError, match=f"{folder}: cannot be .*No such file"):
        run(tree, tmp_path / "out")


def test_a_folder_that_cannot_be_listed_fails_the_pack(tree, tmp_path, monkeypatch):
    original = os.scandir

    def fail(path="."):
        folder = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else str(path)
        if folder.endswith("l002") or folder.endswith("deep"):
            raise PermissionError(13, "Permission denied", path)  # the system's own error names what it was given
        return original(path)

    monkeypatch.setattr(os, "scandir", fail)
    for wrong in ("l002", "l001/deep"):
        (tree / "lowres" / wrong).mkdir(exist_ok=True)
        with pytest.raises(HrfrError, match=f"lowres/{'l00'}.*: cannot be listed: Permission denied"):
            run(tree, tmp_path / "out")
        shutil.rmtree(tree / "lowres/l002", ignore_errors=True)
