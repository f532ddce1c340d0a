"""The GPU check: whatever a stage does, the next one runs and the summary has its result; its stages work."""

import json
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from benchmarks.made_shards import write_noise
from tools import gpu_check
from tools.gpu_stages import parts, runner
from tools.gpu_stages.parts import PARTS, stages
from tools.gpu_stages.runner import ROOT, Stage, check

HANGS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
SAVES = (
    "import pathlib, signal, sys, time; "
    "file = open(sys.argv[1], 'a'); print('{\"rate\": 1}', file=file, flush=True); "
    'save = lambda *_: (print(\'{"saved": 1}\\n{"cut\', file=file, flush=True), sys.exit(143)); '
    "signal.signal(signal.SIGTERM, save); "
    "print('training', flush=True); time.sleep(60)"
)


def test_no_stage_stops_the_next_and_the_summary_has_all(tmp_path, capsys):
    lines = tmp_path / "lines.jsonl"
    made = [
        Stage("fine", ("-c", f"import json; json.dump([1], open({str(tmp_path / 'r.json')!r}, 'w'))"), 20,
              results=tmp_path / "r.json"),
        Stage("fails", ("-c", "print('why'); raise SystemExit(3)"), 20),
        Stage("hangs", ("-c", HANGS), 1.0),
        Stage("is stopped", ("-c", SAVES, str(lines)), 1.0, results=lines),
        Stage("needs data", ("-c", "pass"), 20, needs=(tmp_path / "manifest.json",)),
        Stage("another program", ("-c", "import sys; print(sys.argv[1])", "given"), 20, program=("env", "A=B")),
    ]  # fmt: skip
    results = check(made, tmp_path / "out", time_limit=60, grace=1.0, part="A")
    assert [(result.name, result.state) for result in results] == [
        ("fine", "done"), ("fails", "failed"),
        ("hangs", "stopped at its limit"), ("is stopped", "stopped at its limit"),
        ("needs data", "left out"), ("another program", "done"),
    ]  # fmt: skip
    assert results[0].results == [[1]] and results[1].exit_code == 3 and results[1].tail == "why"
    assert results[2].exit_code == -signal.SIGKILL and results[2].tail == "deaf"
    assert results[3].exit_code == 143 and results[3].results == [{"rate": 1}, {"saved": 1}], "whole lines alone"
    assert results[4].tail.endswith("manifest.json does not exist") and results[5].tail == "given"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert [stage["state"] for stage in summary["stages"]] == [result.state for result in results] and summary[
        "part"
    ] == "A"
    assert (tmp_path / "out" / "logs" / "is-stopped.txt").read_text(encoding="utf-8") == "training\n"


def test_stages_that_may_run_side_by_side(tmp_path, capsys):
    """Each of two waits for the other's file; the third starts when both have ended."""
    meet = "import pathlib, sys, time\nmine, other = map(pathlib.Path, sys.argv[1:])\nmine.touch()\n"
    meet += "while not other.exists(): time.sleep(0.01)\n"
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    made = [
        Stage("one", ("-c", meet, one, two), 20, beside=True), Stage("two", ("-c", meet, two, one), 20, beside=True),
        Stage("alone", ("-c", "pass"), 20),
    ]  # fmt: skip
    results = check(made, tmp_path / "out", time_limit=30, at_once=2)
    assert {result.name for result in results[:2]} == {"one", "two"} and results[2].name == "alone"
    assert all(result.state == "done" for result in results)
    Path(one).unlink(), Path(two).unlink()
    assert check(made[:1], tmp_path / "out", time_limit=1.0, grace=0.3)[0].state == "stopped at its limit"


def test_every_file_that_a_stage_runs_exists(tmp_path):
    commands = [stage.command for part in PARTS for stage in stages(part, tmp_path / "work", tmp_path / "out", True)]
    files = {word for command in commands for word in command if word.startswith(str(ROOT))}
    assert len(files) > 4 and [path for path in files if not Path(path).exists()] == []


def test_when_time_is_up_the_rest_is_named(tmp_path):
    made = [Stage("one", ("-c", "import time; time.sleep(30)"), 20), Stage("two", ("-c", "pass"), 20)]
    results = check(made, tmp_path, time_limit=1.5, grace=0.5)
    assert [result.state for result in results] == ["stopped at its limit", "no time left"]


def test_missing_packages_are_named_as_an_installer_knows_them(monkeypatch):
    assert runner.missing(("torch", "no_such", "no_such.part")) == ["no_such", "no_such.part"]
    monkeypatch.setitem(runner.PACKAGE_OF, "no_such", "no-such")
    assert runner.missing(("no_such",)) == ["no-such"]
    monkeypatch.setattr(gpu_check, "NEEDED", ("no_such",))
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--part", "A"])
    assert gpu_check.main() == 2


def test_every_part_fits_into_nine_minutes_and_begins_with_the_most_important(tmp_path):
    assert gpu_check.TIME_LIMIT + runner.GRACE < 9 * 60 - 20
    names = {part: [stage.name for stage in stages(part, tmp_path, tmp_path, dry=False)] for part in PARTS}
    assert names["A"][2] == "GPU tests" and names["B"][2] == "steps at 32 px"
    assert names["C"][2:] == ["epoch of lowres32", "epoch of highlow144"]


SCRIPTS = [
    (part, stage.name)
    for part in PARTS
    for stage in stages(part, ROOT, ROOT, dry=True)
    if any("gpu_stages" in argument for argument in stage.command) and stage.name != "data"
]


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check") / "packed"
    write_noise(folder, "tiny")
    return folder


@pytest.fixture
def one_thread():
    """A single thread, which is faster for so little work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def stage_of(part, name, noise, folder):
    """The stage as a dry run makes it, its data in place."""
    (folder / "packed").symlink_to(noise)
    (stage,) = (stage for stage in stages(part, folder, folder / "out", dry=True) if name in stage.name)
    return stage


@pytest.mark.parametrize("part,name", SCRIPTS)
def test_a_stage_works_on_a_cpu(part, name, noise, tmp_path, one_thread):
    """In this process, to spare the import of PyTorch, with exactly the arguments that it would be started with."""
    stage = stage_of(part, name, noise, tmp_path)
    assert import_module(stage.command[1]).main(stage.command[2:]) == 0
    found = runner.read_results(stage)
    assert found and all(line.get("holds", True) for line in found)
    assert all("left out" in line["what"] for line in found if "problem" in line)


def test_a_check_that_does_not_hold_fails_its_stage(noise, tmp_path, monkeypatch):
    stage = stage_of("A", "head", noise, tmp_path)
    head = import_module(stage.command[1])
    monkeypatch.setattr(head, "LARGEST", 0.0)
    assert head.main(stage.command[2:]) == 1
    assert [line["holds"] for line in runner.read_results(stage)] == [False, False]


def test_an_exception_is_reported_and_the_stage_goes_on(noise, tmp_path, monkeypatch):
    stage = stage_of("A", "head", noise, tmp_path)
    head, original = import_module(stage.command[1]), import_module(stage.command[1]).build_head
    monkeypatch.setattr(head, "build_head", lambda name, *shape: original({"arcface": "arc"}.get(name, name), *shape))
    assert head.main(stage.command[2:]) == 1
    broken, sound = runner.read_results(stage)
    assert not broken["holds"] and "no head is called 'arc'" in broken["problem"] and sound["holds"]


def test_the_other_stages_are_commands_that_exist(tmp_path):
    """pytest and the benchmarks, whose own tests are elsewhere: here their options are read."""
    others = [
        stage
        for part in "AB"
        for stage in stages(part, tmp_path, tmp_path, dry=True)
        if "gpu_stages" not in " ".join(stage.command)
    ]
    assert [stage.name for stage in others] == [
        "GPU tests", "compute-sanitizer", "resident kernel", "whole runs and an eager step",
    ]  # fmt: skip
    for stage in others[2:]:
        command = [sys.executable, *stage.command, "--help"]
        shown = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, cwd=ROOT)
        assert shown.returncode == 0, shown.stderr
    assert "-m" in parts.PYTEST and "faulthandler_timeout=60" in parts.PYTEST


def test_the_sanitizer_runs_tests_of_every_file_that_it_is_given():
    """Names that no test has any more select nothing, and pytest does not say so."""
    names = set(re.findall(r"\w+", parts.SANITIZED)) - {"or", "and"}
    texts = [(ROOT / "tests" / path).read_text(encoding="utf-8") for path in parts.KERNEL_TESTS]
    chosen = [{name for name in names if re.search(rf"def test_\w*{name}|\"[^\"]*{name}\"", text)} for text in texts]
    assert all(chosen) and set().union(*chosen) == names
