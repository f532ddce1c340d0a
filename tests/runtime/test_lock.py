"""One writer a directory: refused with the holder's name, free again whatever became of the holder."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import nullcontext

import pytest

from hrfr_fast.runtime import lock
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.lock import NAME, directory_lock, holder_of, on_behalf_of

HOLD = "import sys, pathlib, time; from hrfr_fast.runtime.lock import directory_lock\n" \
    "with directory_lock(pathlib.Path(sys.argv[1])):\n" \
    "    {inside}\n" \
    "    print('held', flush=True); time.sleep(60)"  # fmt: skip


def hold(directory, inside="pass"):
    """A process that holds ``directory`` and has said so."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(inside=inside), str(directory)], stdout=subprocess.PIPE, text=True
    )
    with child.stdout as said:
        assert said.readline() == "held\n"
    return child


def refuse_flock(monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture(params=["flock", "ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def system(request, monkeypatch):
    """File systems with locks and without."""
    if request.param != "flock":
        refuse_flock(monkeypatch, getattr(errno, request.param))
    return request.param


def test_a_second_holder_is_refused_and_told_who_has_it(tmp_path, system):
    child = hold(tmp_path)
    try:
        with pytest.raises(UsageError, match=rf"in use by .*process {child.pid} on .*, since \d{{4}}-") as refused:
            directory_lock(tmp_path).__enter__()
        assert str(tmp_path) in str(refused.value) and "-c" in str(refused.value)
    finally:
        child.kill()
        child.wait()
    assert (tmp_path / NAME).exists(), "killed outright it leaves its file"
    with directory_lock(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_two_threads_or_calls_of_one_process_are_two_holders(tmp_path, system):
    with directory_lock(tmp_path), pytest.raises(UsageError, match=str(os.getpid())):
        directory_lock(tmp_path).__enter__()


def test_without_locks_the_name_in_the_file_decides(tmp_path, monkeypatch):
    refuse_flock(monkeypatch, errno.ENOLCK)
    with directory_lock(tmp_path):
        holder = json.loads((tmp_path / NAME).read_text())
    cases = {
        "another machine's may still run": ({"host": "elsewhere"}, False),
        "a later process of the same number": ({"born": "1"}, True),
        "no such process": ({"pid": 2**22 + 1}, True),
    }
    for what, (change, free) in cases.items():
        (tmp_path / NAME).write_text(json.dumps(holder | change))
        if free:
            with directory_lock(tmp_path):
                pass
        else:
            with pytest.raises(UsageError, match="if it no longer runs, remove"):
                directory_lock(tmp_path).__enter__()
        assert (tmp_path / NAME).exists() != free, what
    (tmp_path / NAME).write_text("half of a na")
    with directory_lock(tmp_path):
        pass


def test_a_part_of_what_one_holder_vouches_for_is_taken_over_from_a_machine_that_is_gone(tmp_path, monkeypatch):
    refuse_flock(monkeypatch, errno.ENOLCK)
    whole, another = tmp_path / "whole", tmp_path / "another"
    part = whole / "part"
    with directory_lock(another), directory_lock(whole):
        with on_behalf_of(whole), directory_lock(part):
            holder = holder_of(part) | {"host": "elsewhere"}
        assert holder["behalf"].startswith(f"{whole}, held by process {os.getpid()} of") and not holder_of(part)
        part.mkdir(parents=True)
        (part / NAME).write_text(json.dumps(holder))
        for other in (None, another):
            with (
                on_behalf_of(other) if other else nullcontext(),
                pytest.raises(UsageError, match="on elsewhere"),
            ):
                directory_lock(part).__enter__()
        with on_behalf_of(whole), directory_lock(part):
            assert holder_of(part)["pid"] == os.getpid()
        (part / NAME).write_text(json.dumps(holder | {"host": socket.gethostname()}))
        with on_behalf_of(whole), pytest.raises(UsageError):
            directory_lock(part).__enter__()  # of this machine it is known that it runs
        (part / NAME).write_text(json.dumps(holder))
    with on_behalf_of(whole), pytest.raises(UsageError, match="on elsewhere"):
        directory_lock(part).__enter__()  # nobody holds the whole
    monkeypatch.setattr("hrfr_fast.runtime.lock.os.getpid", lambda: os.getppid())
    with directory_lock(whole), on_behalf_of(whole), pytest.raises(UsageError, match="on elsewhere"):
        directory_lock(part).__enter__()  # another process holds it, after the first was killed


def test_a_lock_that_ends_soon_is_waited_for(tmp_path, system):
    child = hold(tmp_path)
    threading.Timer(0.3, child.kill).start()
    with on_behalf_of(tmp_path, patience=30), directory_lock(tmp_path):
        assert child.wait() == -signal.SIGKILL


def test_an_error_of_the_lock_is_not_taken_for_another_holder(tmp_path, monkeypatch):
    refuse_flock(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match=NAME) as raised:
        directory_lock(tmp_path).__enter__()
    assert raised.value.errno == errno.EIO


def test_a_child_that_outlives_the_holder_does_not_hold(tmp_path):
    """Forked, or started with everything the parent has open."""
    inside = "import os, subprocess; os.fork() or (time.sleep(60), os._exit(0)); subprocess.Popen(['sleep', '60'])"
    child = hold(tmp_path / "run", inside)
    child.send_signal(signal.SIGKILL)
    child.wait()
    with directory_lock(tmp_path / "run"):
        pass


def test_what_was_created_for_the_lock_alone_is_removed(tmp_path):
    with pytest.raises(ZeroDivisionError), directory_lock(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with directory_lock(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert (tmp_path / "a" / "b" / "file").exists()


def test_a_file_that_its_holder_removes_is_not_held(tmp_path, monkeypatch):
    """Between opening the file and locking it the holder may end, and remove it: a new one is opened."""
    flock, removed = fcntl.flock, []

    def remove_first(descriptor, how):
        if not removed:
            removed.append((tmp_path / NAME).unlink())
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with directory_lock(tmp_path):
        assert removed and (tmp_path / NAME).exists()
        with pytest.raises(UsageError):
            directory_lock(tmp_path).__enter__()


def test_without_locks_the_last_of_two_that_start_at_once_has_it(tmp_path, monkeypatch):
    refuse_flock(monkeypatch, errno.ENOLCK)
    other = {"pid": 1, "host": "h", "since": "s", "command": "c", "born": ""}
    monkeypatch.setattr(time, "sleep", lambda _: (tmp_path / NAME).write_text(json.dumps(other)))
    with pytest.raises(UsageError, match="process 1 on h"):
        directory_lock(tmp_path).__enter__()
    assert lock._held == set()


WHOLE = {"pid": 1, "host": socket.gethostname(), "since": "now", "command": "c", "born": "b", "behalf": ""}
STRANGE = {
    "deep": b"[" * 60_000,
    "a long number": b'{"pid": ' + b"9" * 5000 + b"}",
    "a list": b"[1]",
    **{f"pid {pid}": json.dumps(WHOLE | {"pid": pid}).encode() for pid in ("x", None, 1.5, True, -1, 0, 2**70)},
    "no host": json.dumps(WHOLE | {"host": None}).encode(),
    "no text": b"\xff\xfe\0",
}


@pytest.mark.parametrize("content", STRANGE.values(), ids=STRANGE.keys())
def test_a_lock_file_that_is_none_of_ours_names_nobody(tmp_path, system, content):
    """It came with a folder that was copied, perhaps: nobody holds it."""
    (tmp_path / NAME).write_bytes(content)
    assert holder_of(tmp_path) == {}
    with on_behalf_of(tmp_path), directory_lock(tmp_path):
        assert holder_of(tmp_path)["pid"] == os.getpid()


def test_a_lock_that_its_last_holder_removes_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    """Without flock: whoever opened the file before holds one that nobody else can see."""
    refuse_flock(monkeypatch, errno.ENOLCK)
    waits, sleep = [], time.sleep

    def removed_while_waiting(seconds):
        if not waits:
            (tmp_path / NAME).unlink()
        waits.append(seconds)
        sleep(0)

    monkeypatch.setattr(lock.time, "sleep", removed_while_waiting)
    with directory_lock(tmp_path):
        assert holder_of(tmp_path)["pid"] == os.getpid()
    assert len(waits) == 2
