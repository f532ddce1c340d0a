"""The command on tiny data: every engine has a rate or the reason why not, and nothing is left behind."""

import json

import pytest
from typer.testing import CliRunner

import hrfr_fast
from hrfr_fast.cli import app
from hrfr_fast.runtime.errors import UsageError

QUICK = ["--width", "8", "--batch-size", "16", "--seconds", "0.05", "--device", "cpu"]


@pytest.fixture
def without_ffcv(monkeypatch):
    """A machine that lacks FFCV, whose import takes seconds."""
    monkeypatch.setattr("hrfr_fast.doctor.facts._ffcv_facts", lambda: {"ffcv": ""})


def test_engines_and_steps_are_measured_and_what_is_absent_is_named(tiny_packed, tmp_path, monkeypatch, without_ffcv):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = sorted(tiny_packed.iterdir())
    done = CliRunner().invoke(app, ["bench", str(tiny_packed), "--regime", "lowres32", "--json", *QUICK])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    names = [rate["name"] for rate in found["engines"]]
    assert names[0] == found["picked"] == "resident" and set(names) | set(found["absent"]) == {
        "resident",
        "dali",
        "ffcv",
    }
    assert "is not installed" in found["absent"]["ffcv"] and "install_ffcv.sh" in found["absent"]["ffcv"]
    for rate in (*found["engines"], found["constant"], found["fed"]):
        assert 0 < rate["slowest"] <= rate["images_per_second"] <= rate["fastest"]
    assert found["settings"]["batch_size"] == 16 and found["settings"]["width"] == 8 and found["size"] == 32
    assert found["limit"] in ("loader", "memory", "threads", "step") and 0 <= found["speed"]["waiting"] <= 1
    assert {"limit", "engine", "fix", "note"} <= {finding["kind"] for finding in found["findings"]}
    assert sorted(tiny_packed.iterdir()) == before and not list(tmp_path.glob("hrfr-bench-*"))


def test_the_verb_takes_the_regime_that_train_takes_and_the_table_names_it(tiny_packed, without_ffcv, capsys):
    from hrfr_fast.cli.bench import print_bench

    result = hrfr_fast.bench(tiny_packed, width=8, batch_size=8, seconds=0.02, device="cpu", show_progress=False)
    assert result.settings.regime == "highlow144" and result.size == 144
    print_bench(result)
    shown = capsys.readouterr().out
    assert "highlow144: 144 px" in shown and "engine resident (auto)" in shown and "not measured: engine ffcv" in shown
    assert "limit: " in shown and "auto picks resident" in shown


@pytest.mark.parametrize(
    "options,said",
    [
        ({"regime": "lowres144-finetuned"}, "starts from lowres144"),
        ({"regime": "faces112"}, "not packed there"),
        ({"seconds": 0.0}, "--seconds 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(tiny_packed, options, said):
    with pytest.raises(UsageError, match=said):
        hrfr_fast.bench(tiny_packed, device="cpu", **options)
