"""``check RUN``: a whole run has nothing to be told of, and each damaged file is named with what to do."""

import json
import math
import os
import shutil

import pytest
import torch

from hrfr_fast.cli.data_commands import check
from hrfr_fast.model.checkpoint import load_state, save_state
from hrfr_fast.runtime.errors import DamageFound, UsageError
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.check_run import check_run, describe_run_check
from hrfr_fast.training.trainer import train

pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def whole(tiny_packed, tmp_path_factory):
    """A run of two steps."""
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = TrainSettings(
        regime="lowres32", data=str(tiny_packed), out=str(out), steps=2, batch_size=16, width=8, embedding_size=16,
        device="cpu", log_every=1,
    )  # fmt: skip
    train(settings, show_progress=False)
    return out


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def found(run):
    return [(damage.shard, damage.what) for damage in check_run(run)]


def test_a_whole_run_has_no_damage_and_says_what_was_looked_at(run, capsys):
    check(run)
    said = capsys.readouterr().out
    assert "every checksum matches" in said and "not checked: the report" in said
    for name in ("settings.toml", "metrics.jsonl", "results.json", "last.safetensors", "best.safetensors",
                 "last.state.pt"):  # fmt: skip
        assert name in said


@pytest.mark.parametrize("name", ["last.safetensors", "best.safetensors", "last.state.pt"])
def test_one_bit_of_a_checkpoint_is_found_and_the_advice_fits(run, name):
    flip(run / "checkpoints" / name)
    ((file, what),) = found(run)
    assert file == f"checkpoints/{name}" and str(run) not in what.split(". ")[0]
    assert ("`hrfr-fast train --resume` writes it anew" in what) == (name == "last.safetensors")
    assert name == "last.safetensors" or "Take a copy of it" in what


def test_the_command_names_all_damage_and_ends_with_4(run, capsys):
    flip(run / "checkpoints/best.safetensors")
    (run / "results.json").write_text('{"pairs": ')
    with pytest.raises(DamageFound, match="2 damaged") as raised:
        check(run)
    said = capsys.readouterr().out
    assert raised.value.exit_code == 4 and "best.safetensors" in said and "results.json" in said


def test_settings_that_cannot_be_read_or_are_not_the_checkpoints_are_told(run):
    path, text = run / "settings.toml", (run / "settings.toml").read_text()
    path.write_text(text.replace("batch_size = 16", "batch_size = 32"))
    ((file, what),) = found(run)
    assert file == "settings.toml" and "batch_size 16, and now 32" in what
    path.write_text(text[:-9])
    ((file, what),) = found(run)
    assert file == "settings.toml" and "Take a copy" in what
    path.unlink()
    ((file, what),) = found(run)
    assert file == "settings.toml" and "missing" in what


def test_a_metrics_line_cut_short_by_a_kill_is_no_damage_and_others_are(run):
    path = run / "metrics.jsonl"
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"kind": "train", "st')
    assert found(run) == []
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0][:-3], *lines[1:]]))
    ((file, what),) = found(run)
    assert file == "metrics.jsonl" and "line 1 damaged" in what


def test_files_that_are_missing_or_unreadable_are_damage(run):
    (run / "checkpoints/last.safetensors").unlink()
    ((file, what),) = found(run)
    assert file == "checkpoints/last.safetensors" and "missing" in what
    os.rename(run / "results.json", run / "r")
    (run / "results.json").mkdir()
    assert [file for file, _ in found(run)] == ["checkpoints/last.safetensors", "results.json"]


def test_a_run_that_cannot_be_resumed_says_so_and_is_whole(run):
    (run / "checkpoints/last.state.pt").unlink()
    assert found(run) == [] and any("cannot be resumed" in line for line in describe_run_check(run))


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"kind": "train"}))
    with pytest.raises(UsageError, match="no run"):
        check_run(tmp_path)
    with pytest.raises(UsageError, match="manifest"):
        check(tmp_path)


def test_a_tensor_that_the_training_state_marks_as_a_folder_is_refused(tmp_path):
    """One bit of a zip's directory, which no checksum covers: torch then returns memory that nobody has written."""
    path = tmp_path / "last.state.pt"
    save_state(path, {"step": 1, "weights": torch.arange(64.0)})
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"data/0"))
    content[entry + 38] |= 0x10
    path.write_bytes(content)
    with pytest.raises(DamageFound, match="data/0 is marked as a folder"):
        load_state(path, torch.device("cpu"))


SPOILT = {
    "no dictionary": lambda state: [1],
    "no step": lambda state: {name: value for name, value in state.items() if name != "step"},
    "a step before the first": lambda state: state | {"step": -5},
    "no time of a verification": lambda state: state | {"next_eval": math.nan},
    "rows of another folder": lambda state: state | {"rows": {"file": "../../a.safetensors", "names": ["head.weight"]}},
    "no names of rows": lambda state: state | {"rows": {"file": "last.rows-2.safetensors", "names": 7}},
    "no network": lambda state: state | {"backbone": {}},
    "another network": lambda state: state | {"backbone": {name: torch.zeros(3) for name in state["backbone"]}},
    "no phase of this run": lambda state: state | {"phase": 9},
    "no optimiser": lambda state: state | {"optimizer": {"state": {}, "param_groups": []}},
    "no random numbers": lambda state: state | {"random": torch.zeros(3)},
    "no plateaus": lambda state: state | {"plateau": {"evil": 1}},
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_a_whole_file_that_is_no_state_of_this_training_is_refused_in_words(run, name):
    """Of somebody who knows the format: resuming it is no traceback, and opens no file elsewhere."""
    path = run / "checkpoints" / "last.state.pt"
    save_state(path, SPOILT[name](load_state(path, torch.device("cpu"))))
    with pytest.raises(DamageFound, match="a whole file, but not the state of"):
        train(TrainSettings(out=str(run), device="cpu"), resume=True, show_progress=False)


def test_lines_of_metrics_that_are_none_of_ours_are_left_out(run):
    good = (run / "metrics.jsonl").read_text(encoding="utf-8")
    later = '{"kind": "later", "step": 1, "samples": 1}'
    bad = ["{}", '{"kind": "train"}', '{"kind": "later", "step": 1}', "[1]", "NaN",
           '{"kind": "train", "step": 1, "samples": "many", "epoch": 0, "loss": 1, "learning_rate": 1}',
           '{"kind": ["train"], "step": 1, "samples": 1}']  # fmt: skip
    (run / "metrics.jsonl").write_text("\n".join([*bad, later, good]), encoding="utf-8")
    assert found(run) == [
        ("metrics.jsonl", "line 1, 2, 3, 4, 5, ... damaged: left out of reports; nothing else depends on it")
    ]
    train(TrainSettings(out=str(run), device="cpu"), resume=True, show_progress=False)
    kept = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["kind"] for line in kept} == {"train", "verification", "later"} and found(run) == []
