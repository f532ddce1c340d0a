"""The command as a user runs it: a whole small study step by step, exit codes, and no traceback for a mistake."""

import json
import os
import subprocess
import sys

import pytest
from model_cases import write_run

from hrfr_fast.cli import failing
from hrfr_fast.evaluation.protocols import protocol_at
from hrfr_fast.format.reader import open_packed
from hrfr_fast.model.backbone import BackboneSettings
from hrfr_fast.model.checkpoint import weights_path
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.ranks import Ranks


def hrfr(*arguments, timeout=600, **more):
    return subprocess.run(
        [sys.executable, "-m", "hrfr_fast", *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, check=False, **more,
    )  # fmt: skip


def test_the_path_of_the_readme(tmp_path):
    """synth, pack, inspect, check, train, evaluate: from nothing to an accuracy with its interval."""
    data, packed, run = tmp_path / "data", tmp_path / "packed", tmp_path / "run"
    for command in (
        ("synth", data, "--scale", "tiny"),
        ("pack", data, "--out", packed, "--dev-identities", "4"),
        ("check", packed),
        ("train", "--regime", "highlow144", "--data", packed, "--out", run, "--steps", "3", "--batch-size", "16",
         "--width", "8", "--embedding-size", "16", "--device", "cpu"),
    ):  # fmt: skip
        done = hrfr(*command)
        assert done.returncode == 0, done.stderr
    assert "report: " in done.stdout and (run / "report" / "report.html").exists()
    described = json.loads(hrfr("inspect", packed, "--json").stdout)
    assert set(described["splits"]) == {"lowres", "highres", "highres_eval"}
    result = json.loads(hrfr("evaluate", run, "--json", "--device", "cpu").stdout)
    assert {pairs["kind"] for pairs in result.values()} == {"test", "development"}


def test_damage_is_named_with_exit_code_4(tiny_packed, tmp_path):
    import shutil

    copy = tmp_path / "packed"
    shutil.copytree(tiny_packed, copy)
    split = open_packed(copy).splits["highres"]
    with open(copy / "highres.beton", "r+b") as file:
        file.seek(int(split.offsets[7]) + 100)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    done = hrfr("check", copy)
    assert done.returncode == 4 and "highres.beton" in done.stdout and "record 7" in done.stdout
    train = (
        "train",
        "--regime",
        "highres32",
        "--data",
        copy,
        "--out",
        tmp_path / "run",
        "--steps",
        "8",
        "--width",
        "8",
    )
    checked = hrfr(*train, "--batch-size", "32", "--device", "cpu", "--verify-checksums")
    assert checked.returncode == 4 and "highres.beton: record 7" in checked.stderr


@pytest.mark.parametrize(
    "arguments,code,message",
    [
        (["train", "--regime", "medres96"], 2, "medres96"),
        (["train", "--regime", "lowres32", "--data", "nowhere"], 2, "make it with `hrfr-fast pack"),
        (["pack", "nowhere"], 2, "nowhere"),
        (["evaluate", "nowhere"], 2, "no such checkpoint"),
        (["pack", ".", "--size", "lowres"], 2, "SPLIT=PIXELS"),
        (["inspect", "."], 2, "no manifest.json here"),
        (["synth", "x", "--scale", "huge"], 2, "huge"),
        (["train", "--config", "none.toml"], 2, "none.toml: cannot be read as settings: No such file or directory"),
    ],
)
def test_a_mistake_ends_in_one_message_and_its_code(tmp_path, arguments, code, message):
    done = hrfr(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir()), "nothing was left behind"


def test_what_was_given_in_the_place_of_something_else_is_told(tiny_packed, tmp_path):
    """A folder of runs, packed faces and a run each for another one, as when arguments are swapped."""
    run = tmp_path / "runs/mine"
    write_run(run, BackboneSettings(32, 8, 16), tiny_packed)
    for call, message in (
        (lambda: weights_path(tiny_packed), "packed holds packed faces: give a run directory"),
        (lambda: weights_path(tmp_path / "runs"), "there are the runs .*runs/mine: give a run directory"),
        (lambda: open_packed(run), "runs/mine is the directory of a training run, not packed faces"),
        (
            lambda: protocol_at(None, tiny_packed),
            "packed holds packed faces, and no public test set: `hrfr-fast evaluate RUN --pairs /",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            call()


HEAVY = ("torch", "numba", "nvidia.dali", "cv2", "matplotlib", "scipy")


def test_help_imports_nothing_heavy():
    code = f"""
import sys
from hrfr_fast.cli import main
sys.argv = ["hrfr-fast", "--help"]
try:
    main()
except SystemExit:
    print([module for module in {HEAVY} if module in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]"), done.stdout


def test_a_gpu_without_room_is_told_in_words(monkeypatch):
    """Outside a training step, which has advice of its own: verification, say, or another program took the memory."""
    import torch

    from hrfr_fast import cli

    def full():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand a long story")

    told = []
    monkeypatch.setattr(cli, "app", full)
    monkeypatch.setattr(cli, "collect_seldom", lambda: None)  # it would stay so for the tests after this one
    monkeypatch.setattr(cli, "fail", lambda *message: told.append(message))
    cli.main()
    assert len(told) == 1 and told[0][1] == 1
    assert "the GPU's memory is full: CUDA out of memory. Tried to allocate 2.00 GiB. See in `nvidia-smi`" in told[0][0]


def test_a_full_memory_is_told_in_words(monkeypatch):
    from hrfr_fast import cli

    def full():
        raise MemoryError("Unable to allocate 12.0 GiB for an array")

    told = []
    monkeypatch.setattr(cli, "app", full)
    monkeypatch.setattr(cli, "collect_seldom", lambda: None)  # it would stay so for the tests after this one
    monkeypatch.setattr(cli, "fail", lambda *message: told.append(message))
    cli.main()
    assert len(told) == 1 and told[0][1] == 1 and "the memory is full: Unable to allocate 12.0 GiB" in told[0][0]


def test_work_of_one_process_is_not_done_by_several(monkeypatch):
    """Two ranks that packed into one directory would only find each other's lock."""
    monkeypatch.setattr(failing, "current_ranks", lambda: Ranks(0, 2, 0, 2))
    failing.refuse_ranks("evaluate"), failing.refuse_ranks(None)
    with pytest.raises(UsageError, match="start it without torchrun"):
        failing.refuse_ranks("pack")
