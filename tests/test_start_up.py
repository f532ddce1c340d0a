"""What the start of a command costs: help comes at once, and torch is imported only where it is needed."""

import resource
import subprocess
import sys

import pytest

HELP_CPU_SECONDS = 0.5
LIBRARIES = "import pydantic, typer"  # what help cannot do without
TRIES = 3
RUN = """
import sys
from hrfr_fast.cli import main
try:
    main()
finally:
    print("torch" in sys.modules)
"""


def cpu_seconds(command):
    """User and system time of a child process, which a loaded machine changes little."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def run(*arguments):
    """Whether a command of the package has imported torch when it ends; the command must succeed."""
    command = [sys.executable, "-c", RUN, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1] == "True"


def test_help_comes_at_once():
    command = [sys.executable, "-m", "hrfr_fast", "--help"]
    cpu_seconds(command)  # writes the bytecode
    libraries = min(cpu_seconds([sys.executable, "-c", LIBRARIES]) for _ in range(TRIES))
    # On a slow or busy machine in proportion to what the libraries alone take there: 3.6 times as much was measured.
    assert min(cpu_seconds(command) for _ in range(TRIES)) < max(HELP_CPU_SECONDS, 4.5 * libraries)


@pytest.mark.parametrize("command", [(), ("pack",), ("train",), ("study",)], ids=" ".join)
def test_help_does_not_import_torch(command):
    assert not run(*command, "--help")


def test_packing_and_looking_at_packs_do_not_import_torch(tiny_tree, tmp_path):
    packed = tmp_path / "packed"
    assert not run("pack", tiny_tree, "--out", packed, "--workers", 1)
    assert not run("inspect", packed, "--sheet", tmp_path / "sheet.png")
    assert not run("check", packed)


def test_an_import_of_torch_would_be_seen(tmp_path):
    assert run("doctor", tmp_path)
