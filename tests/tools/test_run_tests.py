"""The processes that share the tests run each of them once, and a failure in any of them is the result."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("run_tests_tool", ROOT / "tools" / "run_tests.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_folder_belongs_to_one_process(tool):
    first, second = tool.shares(2)
    assert all((ROOT / folder).is_dir() for folder in first)
    assert second[0] == "tests" and sorted(second[1:]) == sorted(f"--ignore={folder}" for folder in first)
    assert tool.shares(1) == [["tests"]]


@pytest.mark.parametrize(
    "codes,expected", [([0, 0], 0), ([0, 1], 1), ([5, 0], 0), ([5, 5], 5), ([0, -9], -9), ([2], 2)]
)
def test_the_worst_result_is_the_result(tool, codes, expected):
    assert tool.exit_code(codes) == expected


def test_both_processes_print_what_they_found(tool, tmp_path, monkeypatch, capfd):
    """On a small tree of tests of its own, of which the second process fails one."""
    for folder, body in (("training", "assert True"), ("other", "assert False, 'a fault'")):
        (tmp_path / "tests" / folder).mkdir(parents=True)
        (tmp_path / "tests" / folder / f"test_{folder}_share.py").write_text(f"def test_it():\n    {body}\n")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "FIRST", ("training",))
    assert tool.main(["-q"], cores=2) == 1
    shown = capfd.readouterr().out
    assert "1 passed" in shown and "a fault" in shown and "1 failed" in shown
