"""Records: what is kept, which one a run is compared with, and how."""

import json

import pytest

from benchmarks import record
from benchmarks.measure import Result
from hrfr_fast.runtime.errors import HrfrError


def entry(rate, cores=2, benchmark="throughput", **more):
    result = Result("resident", "lowres32", "raw", "uint8", images_per_second=rate, **more).to_json() | {
        "group": "pixels"
    }
    return {"benchmark": benchmark, "machine": {"cpu": "x", "cores": cores}, "results": [result]}


def test_a_run_is_compared_with_the_last_of_such_a_machine(tmp_path):
    history = tmp_path / "history.jsonl"
    for earlier in (entry(100.0), entry(200.0), entry(900.0, cores=16), entry(700.0, benchmark="pack")):
        record.append(earlier, history)
    new = entry(300.0)
    last = record.last_alike(new, record.read(history))
    assert last is not None
    assert list(record.ratios(new, last).values()) == [1.5]
    assert record.last_alike(entry(1.0, cores=3), record.read(history)) is None


def test_only_what_both_measured_is_compared():
    failed = entry(0.0, problem="not installed")
    assert record.ratios(entry(10.0), failed) == {} and record.ratios(failed, entry(10.0)) == {}


def test_a_damaged_history_names_the_line(tmp_path):
    (tmp_path / "history.jsonl").write_text(json.dumps(entry(1.0)) + "\n{oops\n")
    with pytest.raises(HrfrError, match="line 2"):
        record.read(tmp_path / "history.jsonl")


def test_the_best_peer_is_never_ours():
    results = [
        Result("resident", "lowres32", "raw", "uint8", images_per_second=9.0),
        Result("SPDL", "lowres32", "raw", "uint8", images_per_second=3.0),
        Result("LitData", "lowres32", "raw", "uint8", "not installed"),
    ]
    best = record.best_peer(results)
    assert best is not None and best.loader == "SPDL"
    assert record.best_peer(results[:1]) is None


def test_a_record_says_what_was_measured_where():
    made = record.record("throughput", [], rounds=3)
    assert made["machine"]["cores"] >= 1 and made["machine"]["memory_gib"] >= 1 and made["machine"]["cpu"]
    assert "torch" in made["versions"] and made["settings"] == {"rounds": 3}
    assert "node" not in made["machine"] and "host" not in made["machine"]


def test_the_plot_is_drawn(tmp_path):
    record.plot(entry(10.0), [entry(5.0)], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
