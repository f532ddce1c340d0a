"""Paths and output in locales other than UTF-8, as a user runs the command."""

import os
import shutil
import subprocess
import sys

import pytest

ASCII = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SHOW = r"""
import sys
from hrfr_fast.runtime.locales import use_utf8
use_utf8()
print(sys.argv[1] + " \u00b7 \u00b1 \u2192 \u2026", sys.getfilesystemencoding(), ascii(sys.argv[1]))
"""


def run(*arguments, **variables):
    environment = {**os.environ, **variables}
    return subprocess.run(list(map(os.fsencode, arguments)), env=environment, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def latin1(tmp_path_factory):
    """The environment of a Latin-1 terminal, made on the spot where the system has no such locale."""
    folder = tmp_path_factory.mktemp("locales")
    if not shutil.which("localedef"):
        pytest.skip("needs localedef to make a Latin-1 locale")
    made = subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US.iso88591")], capture_output=True
    )
    if not (folder / "en_US.iso88591").exists():
        pytest.skip(f"localedef cannot make a Latin-1 locale: {made.stderr.decode(errors='replace')}")
    return {"LOCPATH": str(folder), "LC_ALL": "en_US.iso88591", "PYTHONUTF8": "0"}


def test_ascii_shows_what_it_can_and_reads_names_as_utf8():
    done = run(sys.executable, "-c", SHOW, "données", **ASCII)
    assert done.returncode == 0, done.stderr
    assert rb"donn\xe9es - +- -> ... utf-8 'donn\xe9es'" in done.stdout


def test_latin1_shows_its_own_characters(latin1):
    done = run(sys.executable, "-c", SHOW, "données", **latin1)
    assert done.returncode == 0, done.stderr
    assert b"donn\xe9es \xb7 \xb1 -> ... utf-8" in done.stdout


def test_bytes_that_are_no_text_are_shown_escaped():
    done = run(sys.executable, "-c", SHOW, b"d\xe9", PYTHONUTF8="1")
    assert done.returncode == 0, done.stderr
    assert "d\\xe9 · ± → … utf-8 'd\\udce9'".encode() in done.stdout


def test_options_of_the_interpreter_and_the_exit_code_are_kept():
    done = run(sys.executable, "-m", "hrfr_fast", "inspect", "nowhere-é", **ASCII)
    assert done.returncode == 2 and rb"nowhere-\xe9: no such directory" in done.stderr


def test_a_run_is_begun_in_one_locale_and_resumed_in_another(tiny_packed, tmp_path):
    """Data and run directory have names with accents, or that are no text at all."""
    data, out = (os.fsencode(tmp_path) + name for name in (b"/d\xe9", b"/donn\xc3\xa9es-\xe9"))
    shutil.copytree(tiny_packed, os.fsdecode(data))
    flags = ("--regime", "lowres32", "--steps", "1", "--width", "8", "--embedding-size", "16", "--batch-size", "16")
    begun = run(sys.executable, "-m", "hrfr_fast", "train", "--data", data, "--out", out, *flags, "--device", "cpu")
    assert begun.returncode == 0, begun.stderr
    resumed = run(sys.executable, "-m", "hrfr_fast", "train", "--out", out, "--resume", **ASCII)
    assert resumed.returncode == 0, resumed.stderr
    assert b"hres" in resumed.stdout and b"Traceback" not in resumed.stderr
    assert os.path.exists(out + b"/report/report.html")
