"""Killed at any moment, a pack ends in the same bytes; what was packed before stays whole until the new is."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hrfr_fast.format.reader import open_packed
from hrfr_fast.format.verify import check_packed
from hrfr_fast.packing import chunks, pack, pack_shard, slow_pictures, workers
from hrfr_fast.packing.picture_files import read_file
from hrfr_fast.runtime import processes
from hrfr_fast.runtime.errors import HrfrError, Interrupted
from hrfr_fast.runtime.signals import StopFlag

PAGE = 1 << 16


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """Small chunks, an entry in the journal after every one of them, and no waiting for the disk.

    A killed process loses nothing it has written, only a power cut does, so fsync needs to be counted, not done.
    """
    monkeypatch.setattr(workers, "CHUNK_BYTES", 1 << 18)
    monkeypatch.setattr(pack_shard, "SYNC_SECONDS", 0.0)
    monkeypatch.setattr(os, "fsync", lambda _: None)


def run(tree, out, **settings):
    return pack.pack(tree, out, **{"workers": 1, "show_progress": False, "page_size": PAGE, **settings})


def content(out):
    return {p.name: p.read_bytes() for p in out.iterdir()}


def killed_at(operation: int, tree: Path, out: Path, **settings) -> bool:
    """Pack in a child that is killed outright before its ``operation``-th fsync or rename; whether it came that far."""
    child = os.fork()
    if child == 0:
        left = [operation]

        def counted(original):
            def call(*args):
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return original(*args)

            return call

        os.fsync, os.replace = counted(os.fsync), counted(os.replace)
        try:
            run(tree, out, **settings)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_killed_before_any_step_it_continues_to_the_same_bytes(tree, tmp_path):
    (tree / "lowres/l003/2.jpg").write_bytes(b"broken")
    run(tree, tmp_path / "whole")
    expected = content(tmp_path / "whole")
    operation = 0
    while killed_at(operation, tree, tmp_path / f"out{operation}"):
        out = tmp_path / f"out{operation}"
        assert not (out / "manifest.json").exists() or check_packed(out) == []
        run(tree, out)
        assert content(out) == expected, f"killed before operation {operation}"
        operation += 1
    assert operation > 40  # the loop ended because a child finished, not because none was killed


def test_divided_splits_continue_to_the_same_bytes(tree, tmp_path):
    """Killed at every seventh step; continued, and once continued as a split in one file instead."""
    for split in ("highres", "highres_eval"):
        shutil.rmtree(tree / split)
    for path in (tree / "lowres/l003").iterdir():
        path.write_bytes(b"broken")  # an identity without a picture: the labels of all files wait for each other
    run(tree, tmp_path / "whole", shard_samples=25)
    run(tree, tmp_path / "one")
    expected = content(tmp_path / "whole")
    assert {"lowres-00000.beton", "lowres-00001.beton", "lowres-00002.crc32"} < set(expected)
    operation = 0
    while killed_at(operation, tree, tmp_path / f"out{operation}", shard_samples=25):
        out = tmp_path / f"out{operation}"
        if operation == 21:
            run(tree, out)
            assert content(out) == content(tmp_path / "one")
        run(tree, out, shard_samples=25)
        assert content(out) == expected, f"killed before operation {operation}"
        operation += 7
    assert operation > 35


def test_old_output_is_old_or_new_or_refused_but_never_a_mixture(tree, tmp_path, make_picture, make_jpeg):
    out = tmp_path / "out"
    run(tree, out)
    old = open_packed(out).digest
    for path in tree.rglob("0.jpg"):
        size = 36 if "lowres" in str(path) else 144
        path.write_bytes(make_jpeg(make_picture(hash(path.name) % 1000 + 5000, size)))
    run(tree, tmp_path / "fresh")
    new, seen = open_packed(tmp_path / "fresh").digest, set()
    operation = 0
    while killed_at(operation, tree, out):
        try:
            digest = open_packed(out).digest
            assert check_packed(out) == [] and digest in (old, new)
            seen.add(digest)
        except HrfrError as error:
            assert "run the same" in str(error)
            seen.add("refused")
        operation += 1
    assert seen >= {old, "refused"}
    run(tree, out)
    assert open_packed(out).digest == new and check_packed(out) == []


def test_finished_work_is_not_done_again(tree, tmp_path, monkeypatch):
    stop = StopFlag()
    decode_chunk, count = slow_pictures.decode_chunk, [0]

    def counting(readers, *rest):
        readers = list(readers)
        count[0] += len(readers)
        if count[0] > 60:  # in the second split
            stop.signal_number = signal.SIGTERM
        return decode_chunk(readers, *rest)

    monkeypatch.setattr(slow_pictures, "decode_chunk", counting)
    with pytest.raises(Interrupted, match="run the same command again") as stopped:
        run(tree, tmp_path / "out", stop=stop)
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    done = count[0]
    count[0] = 0
    summary = run(tree, tmp_path / "out")
    assert summary.shards["lowres"].action == "finished earlier"
    assert summary.shards["highres"].action == f"continued from {done - 60} of 18"
    assert 60 < done < 78 and count[0] == 90 - done


def test_input_changed_in_between_is_packed_as_it_is_now(tree, tmp_path, make_picture, make_jpeg):
    assert killed_at(12, tree, tmp_path / "out")
    (tree / "lowres/l000/0.jpg").write_bytes(make_jpeg(make_picture(4321, 36)))
    run(tree, tmp_path / "out")
    run(tree, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_a_journal_that_lies_is_not_believed(tree, tmp_path):
    assert killed_at(12, tree, tmp_path / "out")
    journals = list((tmp_path / "out/.packing").glob("*.journal"))
    assert journals
    for journal in journals:
        journal.write_bytes(journal.read_bytes() + b"[999, 999")
        journal.with_suffix(".rows").write_bytes(b"")
    run(tree, tmp_path / "out")
    run(tree, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


SCRIPT = """
import sys
from hrfr_fast.runtime import processes
from hrfr_fast.packing import pack, pack_shard, workers
pack_shard.SYNC_SECONDS = 0.0
workers.CHUNK_BYTES = 1 << 14
if __name__ == "__main__":
    pack.pack(sys.argv[1], sys.argv[2], workers=2, show_progress=False, page_size=1 << 16)
"""


def test_workers_end_with_a_killed_packer_and_the_next_one_finishes(tree, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, str(script), str(tree), str(tmp_path / "out")]
    packer = subprocess.Popen(command, env=environment)
    children, deadline = [], time.monotonic() + 300
    while len(children) < 3 and packer.poll() is None and time.monotonic() < deadline:
        children = Path(f"/proc/{packer.pid}/task/{packer.pid}/children").read_text(encoding="utf-8").split()
    packer.kill()
    packer.wait()
    assert len(children) >= 3  # two workers and multiprocessing's resource tracker
    while any(alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(child) for child in children)
    run(tree, tmp_path / "out")
    run(tree, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_dead_worker_is_an_error_in_words(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_start_worker", exit_at_once)
    with pytest.raises(HrfrError, match="worker process of the packer died"):
        run(tree, tmp_path / "out", workers=2)
    monkeypatch.undo()
    assert run(tree, tmp_path / "out").shards["lowres"].samples == 60


def never_for_one(path: str) -> bytes:
    """As ``read_file``, on a mount that does not answer for one picture."""
    while path.endswith("l003/2.jpg") and not os.path.exists(os.path.join(os.path.dirname(path), "answer")):
        time.sleep(0.05)
    return read_file(path)


def test_a_worker_that_hangs_is_ended_and_its_picture_named(tree, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(chunks.FileReaders, "__init__", hanging_readers)
        patch.setattr(workers, "PATIENCE", 5.0)
        patch.setattr(workers, "ANSWER", 0.5)
        with pytest.raises(HrfrError, match=r"has not answered for 5 s: lowres/l003/2\.jpg cannot be read"):
            run(tree, tmp_path / "out", workers=2)
    (tree / "lowres/l003/answer").touch()
    for thread in threading.enumerate():
        if thread.name == "hrfr-patience":
            thread.join(60)
    (tree / "lowres/l003/answer").unlink()
    run(tree, tmp_path / "out")
    run(tree, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def hanging_readers(self, root, paths, read=None):
    self.root, self.paths, self.read = os.fspath(root), paths, never_for_one


def exit_at_once(_):
    os._exit(1)
