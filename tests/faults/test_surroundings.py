"""What is around a command fails: the disk, its rights, an input file, a worker, the clock."""

import os
import re
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest
import stopped_runs
from picture_trees import no_fsync as no_fsync
from picture_trees import tree as tree

import hrfr_fast
from hrfr_fast.format.reader import open_packed
from hrfr_fast.format.verify import check_packed
from hrfr_fast.model.sealed_files import read_header
from hrfr_fast.packing import picture_files, workers
from hrfr_fast.packing.pack import pack
from hrfr_fast.runtime.errors import IncompletePack, UsageError
from hrfr_fast.runtime.ranks import ALONE
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.job import job
from hrfr_fast.training.state import TrainState

PAGE = 1 << 16
COMMAND = [sys.executable, "-m", "hrfr_fast"]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def run(tree, out, **settings):
    return pack(tree, out, **{"workers": 1, "show_progress": False, "page_size": PAGE, **settings})


def content(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture
def mounted(tmp_path):
    """A function that mounts a file system of its own with the options given; root alone can."""
    places = []

    def mount(name, options):
        place = tmp_path / name
        place.mkdir(exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


def test_a_pack_onto_a_disk_that_fills_up_goes_on_when_there_is_room(tree, tmp_path, mounted, monkeypatch):
    """The check of free space is told of more than there is: other programs may fill a disk, too."""
    disk = mounted("disk", "size=600k")
    monkeypatch.setattr("hrfr_fast.packing.update.check_space", lambda *_: None)
    with pytest.raises(Exception, match="the disk is full; make room.*run the same command again to continue"):
        run(tree, disk / "out")
    assert not (disk / "out" / "manifest.json").exists()
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    run(tree, disk / "out")
    run(tree, tmp_path / "fresh")
    assert content(disk / "out") == content(tmp_path / "fresh")


def test_a_read_only_output_is_told(tree, mounted):
    disk = mounted("disk", "size=1m,ro")
    done = subprocess.run(
        [*COMMAND, "pack", str(tree), "--out", str(disk / "out"), "--workers", "1"],
        capture_output=True, text=True, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "read-only" in done.stderr and "Traceback" not in done.stderr


def test_a_file_that_vanishes_while_it_is_packed_is_left_out_and_said(tree, tmp_path, monkeypatch):
    before = picture_files.read_file
    gone = tree / "lowres/l003/2.jpg"

    def vanishing(path):
        gone.unlink(missing_ok=True)
        return before(path)

    with monkeypatch.context() as patch:
        patch.setattr(workers.Candidates, "in_workers", False)
        patch.setattr("hrfr_fast.packing.chunks.FileReaders.__init__", _reading_by(vanishing))
        with pytest.raises(IncompletePack, match=r"1 file could not be read, such as lowres/l003/2\.jpg"):
            run(tree, tmp_path / "out")
    assert check_packed(tmp_path / "out") == []
    run(tree, tmp_path / "out")
    run(tree, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def _reading_by(read):
    def init(self, root, paths, _read=None):
        self.root, self.paths, self.read = os.fspath(root), paths, read

    return init


SLOW = """
import sys, time
from hrfr_fast.packing import chunks, decode, pack, workers
from hrfr_fast.packing.picture_files import read_file
workers.CHUNK_BYTES = 1 << 14
def slow(path):
    time.sleep(0.2)
    return read_file(path)
def init(self, root, paths, read=None):
    self.root, self.paths, self.read = str(root), paths, slow
chunks.FileReaders.__init__ = init
if __name__ == "__main__":
    from hrfr_fast.runtime.errors import HrfrError
    try:
        pack.pack(sys.argv[1], sys.argv[2], workers=2, show_progress=False, page_size=1 << 16)
    except HrfrError as error:
        sys.exit(str(error))
"""


def test_a_worker_that_the_system_kills_is_told_and_the_next_pack_finishes(tree, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SLOW)
    packer = subprocess.Popen(
        [sys.executable, str(script), str(tree), str(tmp_path / "out")], stderr=subprocess.PIPE, text=True,
        env=ENVIRONMENT,
    )  # fmt: skip
    killed, deadline = False, time.monotonic() + 300
    while not killed and packer.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
        killed = _kill_a_worker(packer.pid) if list((tmp_path / "out/.packing").glob("*.journal")) else False
    _, said = packer.communicate(timeout=300)
    assert killed and packer.returncode == 1
    assert "a worker process of the packer died (out of memory?)" in said and "run the same command again" in said
    run(tree, tmp_path / "out")
    run(tree, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def _kill_a_worker(parent):
    """SIGKILL, as the system's out-of-memory killer sends it, to a worker of process ``parent``."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="utf-8").split():
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(int(child), signal.SIGKILL)
            return True
    return False


@pytest.mark.usefixtures("no_fsync")
def test_a_clock_that_jumps_changes_nothing(tree, tmp_path, monkeypatch):
    """Files from the future, a clock that runs backwards while it is packed, and files from before the epoch."""
    pictures = sorted(tree.rglob("*.jpg"))
    os.utime(pictures[0], (time.time() + 1e9,) * 2)
    os.utime(pictures[1], (-1e6,) * 2)
    clock = iter(range(10**9, 0, -3600))
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: float(next(clock)))
        run(tree, tmp_path / "out")
        assert run(tree, tmp_path / "out").nothing_to_do
    digest = open_packed(tmp_path / "out").digest
    os.utime(pictures[0])
    assert not run(tree, tmp_path / "out").nothing_to_do, "a file with another time is read again"
    assert open_packed(tmp_path / "out").digest == digest


def test_a_clock_that_jumps_changes_no_training(tiny_packed, tmp_path, monkeypatch):
    """Days forwards and backwards at each look: no checkpoint comes early or late, and the weights are the same. Files
    of TensorBoard keep the order in which they were begun."""
    saved = []
    save = TrainState.save
    monkeypatch.setattr(TrainState, "save", lambda state: (saved.append(state.step), save(state)))
    settings = TrainSettings(
        regime="lowres32", data=str(tiny_packed), out=str(tmp_path / "steady"), steps=6, batch_size=16, width=8,
        embedding_size=16, device="cpu", eval_every=0, log_every=1, save_minutes=5,
    )  # fmt: skip
    stopped_runs.run(settings)
    jumping = settings.replaced(out=str(tmp_path / "jumping"))
    clock = count(2 * 10**9, -86_400 * 3)
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: float(next(clock) + 10**7 * (next(clock) % 2)))
        patch.setattr(time, "time_ns", lambda: next(clock) * 10**9)
        stopped_runs.run(jumping, stop_after=3)
        stopped_runs.run(jumping, resume=True)
    assert saved == [6, 3, 6]
    first, second = (out / "checkpoints/last.safetensors" for out in (tmp_path / "steady", tmp_path / "jumping"))
    assert tensors(first) == tensors(second)
    boards = sorted((tmp_path / "jumping/tensorboard").iterdir())
    assert boards == sorted(boards, key=lambda path: path.stat().st_mtime_ns) and len(boards) == 2


def tensors(path):
    with open(path, "rb") as file:
        header = read_header(file, path)
        return header.tensors, bytes(header.read(file, 0, header.size))


def test_durations_are_never_taken_from_the_wall_clock():
    """By reading the package: it is looked at for dates that people read, and nowhere else."""
    package = Path(hrfr_fast.__file__).parent
    wall = re.compile(r"time\.time(_ns)?\(|datetime\.now\(|utcnow\(|from time import .*\btime\b")
    found = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if wall.search(path.read_text())}
    assert found == {"training/tensorboard.py", "study/remedies/choice.py"}


def test_a_second_pack_into_the_directory_is_told_who_has_it(tree, tmp_path):
    from hrfr_fast.runtime.lock import directory_lock

    with directory_lock(tmp_path / "out"), pytest.raises(UsageError, match=rf"process {os.getpid()} on .*, since \d"):
        run(tree, tmp_path / "out")


def test_what_a_kill_left_unwritten_is_deleted_by_the_next_command(tmp_path):
    """In every folder of a run; what a living process of this machine writes stays."""
    run_directory = tmp_path / "run"
    left = [run_directory / folder / f".file.{2**22 + 1}.tmp" for folder in ("", "checkpoints", "report")]
    kept = run_directory / f".file.{os.getppid()}.tmp"
    for path in (*left, kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half a checkpoint")
    with job(ALONE, TrainSettings(out=str(run_directory))):
        assert not [path for path in left if path.exists()] and kept.exists()
