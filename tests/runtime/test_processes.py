"""Worker processes: told where they cannot be started, gone with their parent."""

import os
import subprocess
import sys
import time
from multiprocessing import synchronize
from pathlib import Path

import pytest

from hrfr_fast.packing.pack import pack
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.runtime.processes import worker_pool
from hrfr_fast.synthetic.data_tree import synthesize
from hrfr_fast.synthetic.directory import PARTIAL


def no_semaphores(*_, **__):
    raise OSError(30, "Read-only file system")


def test_without_semaphores_one_worker_still_works(tiny_tree, tmp_path, monkeypatch):
    monkeypatch.setattr(synchronize.SemLock, "__init__", no_semaphores)
    for command in (
        lambda workers: pack(tiny_tree, tmp_path / "packed", workers=workers, show_progress=False),
        lambda workers: synthesize(tmp_path / "data", "tiny", workers=workers, show_progress=False),
    ):
        with pytest.raises(HrfrError, match=r"semaphores \(Read-only file system.*/dev/shm.*--workers 1"):
            command(2)
        command(1)


def end_worker(_):
    os._exit(1)


def test_a_worker_of_synth_that_dies_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("hrfr_fast.runtime.processes._start_worker", end_worker)
    with pytest.raises(HrfrError, match="a worker process died"):
        synthesize(tmp_path / "data", "tiny", workers=2, show_progress=False)
    monkeypatch.undo()
    synthesize(tmp_path / "data", "tiny", workers=1, show_progress=False)
    assert not (tmp_path / "data" / PARTIAL).exists()


PARENT = """
import os, time
from hrfr_fast.runtime.processes import worker_pool
if __name__ == "__main__":
    pool = worker_pool(1)
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while _runs(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(worker)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_pool_prepares_its_workers():
    with worker_pool(1, _mark) as pool:
        assert pool.submit(os.getenv, "HRFR_TEST_PREPARED").result() == "yes"


def _mark():
    os.environ["HRFR_TEST_PREPARED"] = "yes"
