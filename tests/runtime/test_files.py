"""What the system refuses to write: told in words, and what was there before is whole."""

import errno
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from hrfr_fast.model.checkpoint import save_state
from hrfr_fast.runtime import files
from hrfr_fast.runtime.errors import CannotWrite, UsageError
from hrfr_fast.runtime.files import (
    fsync_directory,
    in_words,
    refuse_lost_directory,
    write_array,
    write_bytes,
    writing,
)


@contextmanager
def largest_file(size):
    """The system refuses to let a file of this process grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_figure(path):
    from hrfr_fast.reporting.canvas import saved_figure

    with saved_figure(path, (6.0, 4.0)) as figure:
        figure.subplots().plot(range(100))


WRITERS = {
    "bytes": lambda path: write_bytes(path, bytes(100_000)),
    "array": lambda path: write_array(path, np.zeros(100_000)),
    "checkpoint": lambda path: save_state(path, {"a": torch.zeros(100_000), "b": torch.zeros(50_000)}),
    "figure": write_figure,
}


@pytest.mark.parametrize("size", [0, 500, 2000])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_does_not_fit_is_told_and_the_earlier_file_stays(tmp_path, write, size):
    path = tmp_path / "file"
    write(path)  # imports what it needs, which may write to caches of its own
    path.write_bytes(b"earlier")
    with largest_file(size), pytest.raises(CannotWrite, match=r"file: the file is larger than the system allows"):
        write(path)
    assert [one.name for one in tmp_path.iterdir()] == ["file"] and path.read_bytes() == b"earlier"
    write(path)
    assert path.stat().st_size > size


def test_a_read_only_file_system_is_told_by_the_name_of_the_file(tmp_path, monkeypatch):
    """It refuses to delete a temporary file, too, even one that was never made."""

    def refused(path, *args, **more):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("builtins.open", refused)
    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(CannotWrite, match=r"^\S*/sheet.png: the file system is read-only;.*Nothing was changed there"):
        write_bytes(tmp_path / "sheet.png", b"x")


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EIO", "EACCES"])
def test_every_refusal_names_the_file(tmp_path, monkeypatch, name):
    def refuse(_):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(CannotWrite) as refused:
        write_bytes(tmp_path / "file", b"x")
    said = {"ENOSPC": "the disk is full", "EDQUOT": "quota", "EROFS": "read-only", "EIO": "output error"}
    assert f"{tmp_path / 'file'}: " in str(refused.value) and said.get(name, "ermission") in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_the_outermost_says_how_to_go_on(tmp_path):
    with pytest.raises(CannotWrite) as refused, writing("out", lambda: "Run it again"), writing("in", lambda: "Never"):
        raise OSError(errno.ENOSPC, "full")
    assert str(refused.value) == "in: the disk is full; make room. Run it again"
    with pytest.raises(FileNotFoundError), writing("out"):  # what reading meets, too, is left alone
        (tmp_path / "nothing").read_bytes()


@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "ENOSYS", "EBADF"])
def test_file_systems_that_cannot_sync_a_directory(tmp_path, monkeypatch, name):
    sync = os.fsync

    def of_files_only(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(getattr(errno, name), name)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files_only)
    write_bytes(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_what_a_directory_cannot_keep_is_an_error(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="I/O"):
        fsync_directory(tmp_path)


def test_no_module_syncs_or_locks_on_its_own():
    """Only the two modules that know what file systems lack."""
    package = os.path.dirname(files.__file__)
    found = subprocess.run(
        ["grep", "-rlE", r"os\.fsync|fcntl\.", package, "--include=*.py"], capture_output=True, text=True, check=True
    )
    assert {os.path.basename(line) for line in found.stdout.splitlines()} == {"files.py", "lock.py"}


def test_an_unexplained_error_says_what_was_being_done():
    assert in_words(OSError(errno.ENODEV, "No such device"), "hrfr-fast pack") == (
        "hrfr-fast pack: the system says: No such device (ENODEV)"
    )
    assert in_words(FileNotFoundError(2, "No such file", "x.csv"), "hrfr-fast pack") == "x.csv: No such file"


def test_a_deleted_working_directory_is_told(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match="working directory cannot be found"):
        refuse_lost_directory()
    done = subprocess.run(
        [sys.executable, "-m", "hrfr_fast", "doctor", str(tmp_path)], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.returncode == 2 and "cd" in done.stderr and "Traceback" not in done.stderr
