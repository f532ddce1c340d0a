"""One run over several ranks: same samples, same weights, checkpoints for any number of ranks, one message.

BatchNorm is synchronised, so that in float32 ranks agree with one process up to the order of sums.
"""

import json
import os
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch

from hrfr_fast.regimes import regime_named
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.ranks import Ranks
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.build import build
from hrfr_fast.training.resuming import resume_command
from hrfr_fast.training.trainer import Trainer

load_file = pytest.importorskip("safetensors.torch").load_file

STEPS, BATCH = 6, 24
SETTINGS = (
    f"--regime lowres32 --steps {STEPS} --batch-size {BATCH} --width 8 --embedding-size 16 --precision fp32"
    " --device cpu --eval-every 0 --log-every 1 --learning-rate 0.01 --head adaface --ema 0.9 --sync-bn"
).split()


@pytest.fixture(scope="module")
def runs(tiny_packed, tmp_path_factory):
    """Where the runs lie, and how each ended."""
    folder = tmp_path_factory.mktemp("ranks")
    begins, goes_on = [*SETTINGS, "--data", str(tiny_packed)], ["--resume", "--data", str(tiny_packed)]
    stopped, sharded, partial = str(folder / "stopped"), ["--shard-head", "on"], ["--partial-fc", "0.5"]
    plan = [
        {"ranks": 1, "out": "one", "arguments": begins},
        {"ranks": 2, "out": "stopped", "arguments": begins, "ends": [1, signal.SIGTERM, 2]},
        {"ranks": 1, "out": "on one", "arguments": goes_on, "copy_of": stopped},
        {"ranks": 3, "out": "on three", "arguments": goes_on, "copy_of": stopped},
        {"ranks": 2, "out": "killed", "arguments": [*begins, "--save-minutes", "1e-6"], "ends": [1, signal.SIGKILL, 4]},
        {"ranks": 2, "out": "sharded", "arguments": [*begins, *sharded], "ends": [1, signal.SIGTERM, 2]},
        {"ranks": 1, "out": "sharded on one", "arguments": goes_on, "copy_of": str(folder / "sharded")},
        {"ranks": 2, "out": "sharded from whole", "arguments": [*goes_on, *sharded], "copy_of": stopped},
        {"ranks": 1, "out": "partial", "arguments": [*begins, *partial]},
        {"ranks": 2, "out": "partial stopped", "arguments": [*begins, *partial], "ends": [1, signal.SIGTERM, 2]},
        {"ranks": 3, "out": "partial on three", "arguments": goes_on, "copy_of": str(folder / "partial stopped")},
        {"ranks": 2, "out": "group", "arguments": []},
        {"ranks": 3, "out": "uneven", "arguments": [*begins, "--accumulate", "3"]},
    ]
    small = folder / "small-contrast.toml"
    regime_named("remedy-contrast").replaced(name="small-contrast", input_size=32).save(small)
    contrast = [*begins, "--regime", str(small), "--contrast-queue", "64", "--no-sync-bn"]
    plan += [
        {"ranks": 2, "out": "contrast", "arguments": contrast},
        {"ranks": 2, "out": "contrast stopped", "arguments": contrast, "ends": [1, signal.SIGTERM, 2]},
        {"ranks": 2, "out": "contrast on two", "arguments": goes_on, "copy_of": str(folder / "contrast stopped")},
    ]
    (folder / "plan.json").write_text(json.dumps([one | {"out": str(folder / one["out"])} for one in plan]))
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("rank_trainings.py")), str(folder / "plan.json")],
        env=environment, capture_output=True, text=True, timeout=1000,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, json.loads(done.stdout)


def printed(folder, name, ranks):
    return "".join(Path(folder / f"{name}.{rank}.stderr").read_text(encoding="utf-8") for rank in range(ranks))


def samples(folder, name, ranks):
    """[first sample, labels, sums of pictures] of each step, the ranks' shares one after the other."""
    each = []
    for rank in range(ranks):
        lines = Path(folder / f"{name}.{rank}.steps").read_text(encoding="utf-8").splitlines()
        each.append([json.loads(line) for line in lines])
    return [
        [shares[0][0], *(list(chain.from_iterable(share[part] for share in shares)) for part in (1, 2))]
        for shares in zip(*each, strict=True)
    ]


def weights(folder, name):
    return load_file(folder / name / "checkpoints" / "last.safetensors")


def test_a_signal_on_one_rank_stops_all_after_the_same_step_with_one_message(runs):
    folder, ended = runs
    assert ended["stopped"]["codes"] == [143, 143]
    state = torch.load(folder / "stopped" / "checkpoints" / "last.state.pt", weights_only=True)
    assert state["step"] in (3, 4)
    told = printed(folder, "stopped", 2)
    assert told.count("error:") == 1 and f"stopped at step {state['step']} of {STEPS}" in told
    assert "torchrun --nproc-per-node 2 -m hrfr_fast train" in told and "Traceback" not in told


@pytest.mark.parametrize("name,ranks", [("on one", 1), ("on three", 3)])
def test_a_run_begun_on_two_ranks_goes_on_over_others(runs, name, ranks):
    """The same samples in the same order as in one process, and the same weights up to rounding."""
    folder, ended = runs
    assert ended[name]["codes"] == [0] * ranks, printed(folder, name, ranks)
    whole, parts = samples(folder, "one", 1), samples(folder, "stopped", 2) + samples(folder, name, ranks)
    assert parts == whole and len(whole) == STEPS
    one, other = weights(folder, "one"), weights(folder, name)
    assert one.keys() == other.keys() and "head.mean" in one
    for key, value in one.items():
        loose = 0.05 if key in ("head.mean", "head.std") else 0.01
        torch.testing.assert_close(other[key], value, rtol=loose, atol=2e-3, msg=lambda text, key=key: f"{key}: {text}")


def test_every_rank_goes_on_with_its_own_queue(runs):
    """The queues of both ranks hold the same people in order, and the same embeddings, whether the run was stopped or
    not: what the copies of both ranks embed with does not depend on when the model was saved."""
    folder, ended = runs
    states = []
    for name in ("contrast", "contrast on two"):
        assert ended[name]["codes"] == [0, 0], printed(folder, name, 2)
        path = folder / name / "checkpoints" / "last.state.pt"
        states.append(torch.load(path, weights_only=True)["references"])
    whole, parts = states
    labels = whole["queue_labels"]
    assert len(labels) == 128 and (labels >= 0).sum() > 100, "of both ranks, from the first step on"
    assert torch.equal(labels, parts["queue_labels"]) and not torch.equal(labels[0::2], labels[1::2])
    cosines = (whole["queue"] * parts["queue"]).sum(dim=1)[labels >= 0]
    assert cosines.min() > 1 - 1e-5, "each rank's own faces"


@pytest.mark.parametrize("name,ranks", [("sharded on one", 1), ("sharded from whole", 2), ("partial on three", 3)])
def test_rows_of_a_head_go_from_any_number_of_ranks_to_any_other(runs, name, ranks):
    """Weights, their momenta and averages: the steps after the stop are those of the run that never stopped."""
    folder, ended = runs
    assert ended[name]["codes"] == [0] * ranks, printed(folder, name, ranks)
    whole = "partial" if name.startswith("partial") else "one"
    one, other = weights(folder, whole), weights(folder, name)
    assert one.keys() == other.keys() and one["head.weight"].shape == (24, 16)
    for key, value in one.items():
        loose = 0.05 if "whole" in name and key in ("head.mean", "head.std") else 0.01
        torch.testing.assert_close(other[key], value, rtol=loose, atol=2e-3, msg=lambda text, key=key: f"{key}: {text}")
    files = sorted(path.name for path in (folder / name / "checkpoints").iterdir())
    rows = [f"last.rows-{STEPS}.safetensors"] if ranks > 1 else []
    assert files == [*rows, "last.safetensors", "last.state.pt"]


def test_rows_that_took_no_part_differ(runs):
    """Otherwise the test above would compare runs in which --partial-fc does nothing."""
    folder, _ = runs
    assert (weights(folder, "partial")["head.weight"] - weights(folder, "one")["head.weight"]).abs().max() > 1e-3


def test_the_loss_that_is_logged_is_that_of_all_ranks(runs):
    folder, _ = runs
    lines = {
        name: [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "on three")
    }
    assert [line["step"] for line in lines["on three"]] == list(range(1, STEPS + 1))
    for one, other in zip(lines["one"], lines["on three"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=2e-3)


def test_a_killed_rank_is_named_and_the_last_checkpoint_is_whole(runs):
    folder, ended = runs
    assert ended["killed"]["codes"] == [1, -signal.SIGKILL] and ended["killed"]["seconds"] < 15
    told = printed(folder, "killed", 2)
    assert told.count("error:") == 1 and "rank 1 of 2 (process" in told and "was killed" in told
    assert f"train --out {folder / 'killed'} --resume" in told.replace("'", "")
    state = torch.load(folder / "killed" / "checkpoints" / "last.state.pt", weights_only=True)
    assert 1 <= state["step"] <= 4


def test_a_users_mistake_is_told_once_and_ends_all_ranks(runs):
    folder, ended = runs
    told = printed(folder, "uneven", 3)
    assert ended["uneven"]["codes"] == [2, 2, 2] and told.count("error:") == 1 and "Traceback" not in told
    assert "a batch of 24 cannot be shared out among 3 ranks in 3 micro-batches each" in told


def test_a_group_is_left_before_the_modules_that_used_it(runs):
    """torch 2.13 then waits for ever, where the reducer of such a module is the last to refer to the group."""
    folder, ended = runs
    assert ended["group"]["codes"] == [0, 0], printed(folder, "group", 2)


def test_one_process_has_no_group_and_no_wrapper(tiny_packed, tmp_path):
    settings = TrainSettings(
        regime="lowres32",
        data=str(tiny_packed),
        out=str(tmp_path / "run"),
        steps=2,
        batch_size=8,
        width=8,
        device="cpu",
    )
    with Trainer(build(settings), show_progress=False) as trainer:
        step = trainer.state.enter_phase(0)
        assert step._forward is trainer.setup.backbone and step._loss is trainer.setup.objective
        assert not torch.distributed.is_initialized()
        assert "random_of_ranks" not in trainer.state.parallel.__dict__


def test_pairs_of_views_are_not_divided(tiny_packed, tmp_path):
    """The composition of a batch is that of one process, or is refused."""
    settings = TrainSettings(
        regime="crossres144", data=str(tiny_packed), out=str(tmp_path), steps=2, batch_size=12, width=8, device="cpu",
        highres_share=0.5,
    )  # fmt: skip
    with pytest.raises(UsageError, match="a batch of 12 with 3 pairs of views cannot be cut into 2 equal parts"):
        build(settings, Ranks(0, 2, 0, 2))


def test_the_command_that_continues_names_the_launcher(tmp_path):
    assert resume_command(tmp_path).startswith("hrfr-fast train")
    assert resume_command(tmp_path, Ranks(0, 4, 0, 4)).startswith(
        "torchrun --nproc-per-node 4 -m hrfr_fast train --out"
    )
    assert "--nnodes 2" in resume_command(tmp_path, Ranks(0, 8, 0, 4))
