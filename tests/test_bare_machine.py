"""A machine that has what training on a GPU computes with, and nothing of what packs, draws or keeps records."""

import subprocess
import sys
from pathlib import Path

import pytest

from hrfr_fast import cli
from hrfr_fast.cli import failing
from tools.gpu_stages.runner import missing

ROOT = Path(__file__).resolve().parents[1]
LACKED = (
    "simplejpeg", "bcolz", "tomli_w", "safetensors", "tensorboard", "matplotlib", "scipy", "sklearn", "PIL", "pycpd",
    "jinja2", "psutil", "statsmodels", "nvidia.dali", "ffcv",
)  # fmt: skip
LACKING = f"import sys; sys.modules |= dict.fromkeys({LACKED}); "
IMPORT_ALL = (
    "import hrfr_fast, importlib, pkgutil; "
    "names = [m.name for m in pkgutil.walk_packages(hrfr_fast.__path__, 'hrfr_fast.') if m.name[-8:] != '__main__']; "
    "[importlib.import_module(name) for name in names]; print(len(names))"
)


def python_that_lacks(code, timeout=240):
    command = [sys.executable, "-c", LACKING + code]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=timeout, cwd=ROOT)


def test_every_module_of_the_package_can_be_imported():
    done = python_that_lacks(IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_every_gpu_test_is_collected():
    options = ["-m", "gpu", "--collect-only", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "tests"]
    done = python_that_lacks(f"import pytest; sys.exit(pytest.main({options}))")
    assert done.returncode == 0, done.stdout + done.stderr
    files = ROOT.glob("tests/**/test_*.py")
    marked = {str(path.relative_to(ROOT)) for path in files if "pytest.mark.gpu" in path.read_text(encoding="utf-8")}
    collected = {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    assert collected >= marked - {"tests/test_bare_machine.py"} and len(collected) > 5


def test_a_command_names_the_package_that_it_lacks(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    monkeypatch.setattr(sys, "argv", ["hrfr-fast", "synth", str(tmp_path / "data"), "--scale", "tiny"])
    monkeypatch.setattr(cli, "collect_seldom", lambda: None)  # it would stay so for the tests after this one
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    assert "simplejpeg is not installed" in " ".join(capsys.readouterr().err.split())
    assert "pip install tomli-w" in failing.how_to_install(ModuleNotFoundError(name="tomli_w"))


def test_here_no_test_is_skipped_for_want_of_a_dependency():
    """importorskip would hide that this environment is not whole."""
    optional = ("bcolz", "psutil", "nvidia.dali", "ffcv")
    assert missing(tuple(module for module in LACKED if module not in optional)) == []
