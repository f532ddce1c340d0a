"""The check's own promises: whatever a stage does, the next one runs and the summary tells."""

import json
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import gpu_check
from gpu_check import ROOT, Stage, check, stages, start

HANGS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
SAVES = (
    "import pathlib, signal, sys, time; "
    "save = lambda *_: (pathlib.Path(sys.argv[1]).write_text('{\"saved\": 1}\\n'), sys.exit(143)); "
    "signal.signal(signal.SIGTERM, save); "
    "print('training', flush=True); time.sleep(60)"
)


def test_no_stage_stops_the_next_and_the_summary_tells(tmp_path, capsys):
    metrics = tmp_path / "metrics.jsonl"
    made = [
        Stage("fine", ("-c", f"import json; json.dump([1], open({str(tmp_path / 'r.json')!r}, 'w'))"), 20,
              results=tmp_path / "r.json"),
        Stage("fails", ("-c", "print('why'); raise SystemExit(3)"), 20),
        Stage("absent", ("x.py",), 20, tmp_path / "x.py"),
        Stage("hangs", ("-c", HANGS), 1.0),
        Stage("is stopped", ("-c", SAVES, str(metrics)), 1.0, metrics=metrics),
        Stage("needs data", ("-c", "print('trained')"), 20, tmp_path / "data" / "manifest.json"),
    ]  # fmt: skip
    writes = f"import pathlib; p = pathlib.Path({str(tmp_path / 'data')!r}); p.mkdir(); (p / 'manifest.json').touch()"
    outcomes = check(made, tmp_path / "out", lambda log: start(["-c", writes], log), grace=1.0)
    assert [(one.name, one.state) for one in outcomes] == [
        ("fine", "done"), ("fails", "failed"), ("absent", "missing"), ("hangs", "stopped at its limit"),
        ("is stopped", "stopped at its limit"), ("data", "done"), ("needs data", "done"),
    ]  # fmt: skip
    assert outcomes[0].results == [1] and outcomes[1].exit_code == 3 and outcomes[1].tail == "why"
    assert outcomes[3].exit_code == -signal.SIGKILL and outcomes[3].tail == "deaf"
    assert outcomes[4].exit_code == 143 and outcomes[4].results == [{"saved": 1}]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [one["state"] for one in summary["stages"]] == [one.state for one in outcomes]
    assert "===== fails" in (tmp_path / "out" / "log.txt").read_text()


def test_when_time_is_up_the_rest_is_named(tmp_path):
    made = [Stage("one", ("-c", "import time; time.sleep(30)"), 20), Stage("two", ("-c", "pass"), 20)]
    outcomes = check(made, tmp_path, None, time_limit=1.5, grace=0.5)
    assert [one.state for one in outcomes] == ["stopped at its limit", "no time left"]


def test_missing_packages_are_named_as_an_installer_knows_them(monkeypatch):
    assert "torch" not in gpu_check.missing_packages()
    monkeypatch.setattr(gpu_check, "PACKAGES", {"no_such": "no-such", "no_such.part": "no-such-part", "json": "json"})
    assert gpu_check.missing_packages() == ["no-such", "no-such-part"]


def test_limits_fit_into_nine_minutes_and_commands_are_right(tmp_path):
    """Every stage's options exist: the command line of each parses, up to its help."""
    made = stages(tmp_path / "work", tmp_path, dry=False)
    importance = [stage.name for stage in made]
    assert importance.index("GPU tests") < importance.index("epoch of lowres32") < importance.index("training step")
    assert gpu_check.TIME_LIMIT + gpu_check.GRACE < 9 * 60 + 10
    (train,) = (stage for stage in made if stage.name == "epoch of highlow144")
    command = [sys.executable, *train.command, "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert shown.returncode == 0 and "--profile" in shown.stdout
