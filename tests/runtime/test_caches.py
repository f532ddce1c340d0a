"""Machines without a home that can be written to: every path below a file is one that cannot be made."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hrfr_fast.doctor.diagnosis import diagnose
from hrfr_fast.doctor.facts import Facts
from hrfr_fast.runtime import caches

NUMBA_IN_USE = """
import os
from pathlib import Path
from hrfr_fast.runtime import caches
writable = caches.writable
caches.writable = lambda folder: folder.name != "__pycache__" and writable(folder)  # a read-only installation
import numpy as np
from hrfr_fast.engines.jpeg_loop import _has_size  # the smallest kernel there is: all are kept in the same way
private = caches.use_writable_caches()
print(_has_size(np.zeros(20, np.uint8), 36), private, len(list(Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.nbi"))))
print(os.environ["NUMBA_CACHE_DIR"])
"""


@pytest.fixture
def no_home(tmp_path, monkeypatch):
    """An environment without caches; what the functions have cached is cleared before and after."""
    (tmp_path / "file").touch()
    for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "TRITON_CACHE_DIR", "TRITON_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever the code sets
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    remembered = (caches.use_writable_caches, caches.writable, caches.private_folder)
    for function in remembered:
        function.cache_clear()
    yield tmp_path
    for function in remembered:
        function.cache_clear()


def test_a_usual_machine_is_left_alone(no_home, monkeypatch):
    home = no_home / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    assert caches.use_writable_caches() == ()
    assert not list(home.iterdir()), "nothing is made to find that out"


def test_what_has_no_place_gets_a_private_one_and_it_is_said(no_home, monkeypatch, capsys):
    monkeypatch.setattr(caches, "__file__", str(no_home / "file" / "runtime" / "caches.py"))  # a read-only installation
    lacking = caches.use_writable_caches()
    assert lacking == ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "TRITON_CACHE_DIR")
    folder = caches.private_folder()
    assert folder and all(Path(os.environ[name]).parent == folder for name in lacking)
    assert "set NUMBA_CACHE_DIR to a directory that can be written to" in capsys.readouterr().err
    caches._remove(folder, os.getpid() + 1)
    assert folder.exists(), "a forked child leaves it"
    caches._remove(folder, os.getpid())
    assert not folder.exists()


def test_what_a_killed_process_left_is_removed_and_what_another_uses_is_not(no_home, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(no_home))
    names = caches._private_names()
    left, used = no_home / f"{names}{2**22 + 1}-abc", no_home / f"{names}{os.getppid()}-abc"
    left.mkdir()
    used.mkdir()
    folder = caches.private_folder()
    assert folder and folder.parent == no_home and used.exists() and not left.exists()
    caches._remove(folder, os.getpid())


def test_a_choice_of_the_users_that_works_is_kept_and_one_that_does_not_is_replaced(no_home, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(no_home / "numba"))
    monkeypatch.setenv("MPLCONFIGDIR", str(no_home / "file" / "matplotlib"))
    assert "NUMBA_CACHE_DIR" not in caches.use_writable_caches()
    assert os.environ["NUMBA_CACHE_DIR"] == str(no_home / "numba")
    assert os.environ["MPLCONFIGDIR"] != str(no_home / "file" / "matplotlib")


def test_a_full_disk_or_quota_is_no_place(no_home, monkeypatch):
    monkeypatch.setattr(caches, "PROBE", bytes(1))
    assert caches.writable(Path("/dev/shm")) or caches.writable(no_home)
    caches.writable.cache_clear()

    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(caches.tempfile, "TemporaryFile", lambda dir: Full())
    assert not caches.writable(no_home)


def test_compiled_steps_have_a_place_too(no_home):
    from hrfr_fast.training.compiling import use_lasting_cache

    assert use_lasting_cache().parent == caches.private_folder()


def test_a_user_without_a_name_gets_one(no_home, monkeypatch):
    import getpass

    def unknown():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setenv("LOGNAME", "")
    monkeypatch.setattr(getpass, "getuser", unknown)
    caches.use_writable_caches()
    assert os.environ["LOGNAME"] == f"uid{os.getuid()}"


def test_numba_compiles_without_a_place_of_its_own(tmp_path):
    """In a process of its own, since numba reads where its cache is when a kernel's module is imported."""
    environment = {**os.environ, "HOME": "/proc/none", "NUMBA_CACHE_DIR": "", "TMPDIR": str(tmp_path)}
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(
        [sys.executable, "-c", NUMBA_IN_USE], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    result, folder = done.stdout.splitlines()
    assert result.startswith("False ") and "NUMBA_CACHE_DIR" in result and not result.endswith(" 0")
    assert folder.startswith(str(tmp_path)) and not Path(folder).exists(), "removed at exit"


def test_the_doctor_names_the_variables():
    facts = Facts(2, 1 << 34, 1 << 34, 1 << 34, torch="2.9", threads="tbb", lost_caches=("NUMBA_CACHE_DIR",))
    fixes = diagnose(facts).fixes
    assert any("set NUMBA_CACHE_DIR" in fix for fix in fixes) and not any("reinstall" in fix for fix in fixes)
