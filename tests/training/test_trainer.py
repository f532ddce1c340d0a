import json
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import numpy as np
import pytest
import torch

from hrfr_fast.evaluation.evaluate import evaluate
from hrfr_fast.packing.pack import pack
from hrfr_fast.regimes import REGIMES
from hrfr_fast.runtime.errors import HrfrError, Interrupted, UsageError
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.build import build
from hrfr_fast.training.metrics import read_metrics
from hrfr_fast.training.resuming import refuse_changes, resumed_settings
from hrfr_fast.training.trainer import Trainer, train

load_file = pytest.importorskip("safetensors.torch").load_file


class StopAfter:
    """Stands in for StopFlag: becomes true when it has been looked at ``looks`` times."""

    signal_number = signal.SIGTERM

    def __init__(self, looks):
        self.looks = looks

    def __bool__(self):
        self.looks -= 1
        return self.looks <= 0


@pytest.fixture
def settings(tiny_packed, tmp_path):
    return TrainSettings(
        regime="lowres32", data=str(tiny_packed), out=str(tmp_path / "run"), steps=7, batch_size=24, width=8,
        embedding_size=32, dropout=0.2, device="cpu", eval_every=0, log_every=2, learning_rate=0.02,
    )  # fmt: skip


def weights(run):
    return load_file(run / "checkpoints" / "last.safetensors")


def test_a_resumed_run_keeps_its_settings_and_says_so(settings):
    """What changes speed alone may be given anew; else a setting asked for by name must be the run's own."""
    settings.run_directory.mkdir()
    settings.save(settings.run_directory / "settings.toml")
    given = TrainSettings(out=settings.out, steps=9, batch_size=24, log_every=3)
    refuse_changes(given, ["batch_size", "log_every"])
    with pytest.raises(UsageError, match="has steps 7, and --resume cannot change it to 9"):
        refuse_changes(given, ["batch_size", "steps"])
    with pytest.raises(UsageError, match="has dropout 0.2, and --resume cannot change it to 0.0"):
        refuse_changes(given, ["dropout"])
    going_on = resumed_settings(given)
    assert (going_on.budget.steps, going_on.logging.log_every, going_on.execution.device) == (7, 3, "cpu")
    assert resumed_settings(TrainSettings(out=settings.out, log_every=10)).logging.log_every == 10, "the default, asked"


def interrupted(settings, after):
    with Trainer(build(settings), show_progress=False) as trainer, pytest.raises(Interrupted) as stopped:
        trainer.start()
        trainer.loop(StopAfter(after))
    return stopped.value


def test_a_run_leaves_what_the_contract_names(settings):
    result = train(settings, show_progress=False)
    run = settings.run_directory
    for name in ("settings.toml", "metrics.jsonl", "results.json", "checkpoints/best.safetensors"):
        assert (run / name).stat().st_size > 0
    assert tomllib.loads((run / "settings.toml").read_text())["batch_size"] == 24
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "train"] == [2, 4, 6, 7]
    assert result.report.read_text().startswith("<!doctype html>")
    saved = json.loads((run / "results.json").read_text())["hres"]
    assert {"accuracy", "accuracy_ci", "auc", "eer", "tar_at_far", "pairs"} <= set(saved)
    again = evaluate(run, device="cpu")["hres"].to_json()
    assert again == saved, "evaluate on the saved weights gives what training measured"


@pytest.mark.parametrize("regime,after", [("lowres32", 3), ("highlow144", 2)])
def test_a_resumed_run_equals_the_uninterrupted_one(settings, tmp_path, monkeypatch, regime, after):
    # At 48 instead of 144 px: a ninth of the work, through the same code.
    monkeypatch.setitem(REGIMES, regime, REGIMES[regime].replaced(input_size=min(REGIMES[regime].input_size, 48)))
    steps = 7 if regime == "lowres32" else 3
    whole = settings.replaced(regime=regime, steps=steps, out=str(tmp_path / "whole"))
    parts = whole.replaced(out=str(tmp_path / "parts"))
    train(whole, show_progress=False)
    stopped = interrupted(parts, after)
    assert stopped.exit_code == 143 and f"--out {parts.out} --resume" in str(stopped)
    train(TrainSettings(out=parts.out, device="cpu"), resume=True, show_progress=False)
    one, other = weights(whole.run_directory), weights(parts.run_directory)
    assert all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()
    steps_logged = [m["step"] for m in read_metrics(parts.run_directory / "metrics.jsonl") if m["kind"] == "train"]
    assert steps_logged == sorted(set(steps_logged)) and steps_logged[-1] == steps


def test_stopped_while_it_is_verified_a_run_goes_on_there(settings):
    with Trainer(build(settings), show_progress=False) as trainer:
        trainer.start()
        trainer.loop(StopAfter(10**9))
        with pytest.raises(Interrupted, match="--resume"):
            trainer.finish(StopAfter(1))
    assert not (settings.run_directory / "results.json").exists()
    train(settings, resume=True, show_progress=False)
    assert (settings.run_directory / "results.json").exists()


def test_a_loss_that_is_not_finite_stops_with_the_step_and_advice(settings):
    with Trainer(build(settings), show_progress=False) as trainer:
        trainer.start()
        with torch.no_grad():
            next(trainer.setup.backbone.parameters()).fill_(float("nan"))
        with pytest.raises(HrfrError, match=r"loss is nan at step 1; no checkpoint.*learning-rate"):
            trainer.loop(StopAfter(10**9))


def test_weights_that_are_not_finite_are_neither_verified_nor_kept(settings):
    """The loss of the step that ruins them is still a number; the checkpoint before it stays."""
    with Trainer(build(settings.replaced(steps=1)), show_progress=False) as trainer:
        trainer.start()
        trainer.loop(StopAfter(10**9))
        trainer.save()
        good = weights(settings.run_directory)
        with torch.no_grad():
            next(trainer.setup.head.parameters())[-1, -1] = float("inf")
        for _ in range(2):
            with pytest.raises(HrfrError, match=r"some weights are not finite after step 1; the last good.*learning"):
                trainer.save()
    kept = weights(settings.run_directory)
    assert all(torch.equal(good[name], kept[name]) for name in good) and torch.isfinite(kept["head.weight"]).all()
    ruined = settings.replaced(out=settings.out + "-2", steps=1, learning_rate=1e38, warmup=0.0, clip_gradient=0.0)
    with pytest.raises(HrfrError, match="some weights are not finite after step 1; no checkpoint was written yet"):
        train(ruined, show_progress=False)
    assert not (ruined.run_directory / "checkpoints" / "last.safetensors").exists()


def test_training_learns(settings):
    """The loss of a small model falls well below chance level (the log of the number of identities)."""

    train(settings.replaced(steps=60, head="softmax", dropout=0.0, learning_rate=0.1, width=8), show_progress=False)
    losses = [m["loss"] for m in read_metrics(settings.run_directory / "metrics.jsonl") if m["kind"] == "train"]
    assert losses[-1] < 0.6 * losses[0]


def test_a_run_directory_in_use_is_refused(settings):
    train(settings, show_progress=False)
    with pytest.raises(UsageError, match="--resume"):
        train(settings, show_progress=False)


def test_sigterm_saves_and_the_printed_command_resumes(settings):
    run = settings.run_directory
    command = [sys.executable, "-m", "hrfr_fast", "train", "--out", str(run)]
    flags = ["--regime", "lowres32", "--data", settings.data, "--steps", "400", "--batch-size", "24", "--width", "8"]
    child = subprocess.Popen(
        [*command, *flags, "--device", "cpu", "--log-every", "1", "--eval-every", "0"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 600
    while len(read_metrics(run / "metrics.jsonl")) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    _, messages = child.communicate(timeout=600)
    assert child.returncode == 143, messages
    assert "--resume" in messages and (run / "checkpoints" / "last.state.pt").exists()
    reached = torch.load(run / "checkpoints" / "last.state.pt", weights_only=True)["step"]
    assert 3 <= reached < 400


def test_accumulation_gives_the_gradient_of_the_mean(settings):
    """Two halves accumulated move the head as the mean of their losses would."""

    with Trainer(build(settings.replaced(accumulate=2, dropout=0.0)), show_progress=False) as trainer:
        trainer.start()
        batch = next(iter(trainer.setup.engine.batches(0, 24)))
        before = trainer.setup.head.weight.detach().clone()
        trainer.step(batch)
        moved = trainer.setup.head.weight.detach() - before
        trainer.log.losses.close({})
        [(_, losses)] = trainer.log.losses.read()
    assert torch.isfinite(moved).all() and moved.abs().max() > 0
    assert losses.shape == (1,) and np.isfinite(losses).all()


def small_run(settings, tree, name):
    pack(tree, tree.parent / "packed", workers=1, show_progress=False)
    chosen = settings.replaced(data=str(tree.parent / "packed"), out=str(tree.parent / name), steps=1)
    return train(chosen, show_progress=False)


def test_a_run_without_pairs_says_so_in_one_line(settings, tiny_tree, tmp_path, capfd):
    shutil.copytree(tiny_tree / "lowres", tmp_path / "data/lowres")
    small_run(settings, tmp_path / "data", "run")
    assert capfd.readouterr().err.count("has no pairs to verify on") == 1


def test_what_is_wrong_with_its_pairs_stands_beside_the_accuracy_of_a_run(settings, tiny_tree, tmp_path):
    """In its results and in its report: here every genuine pair is one picture twice."""
    tree = tmp_path / "data"
    for split in ("lowres", "highres_eval"):
        shutil.copytree(tiny_tree / split, tree / split)
    faces = sorted(one.relative_to(tree) for one in (tree / "highres_eval").glob("*/000.jpg"))
    genuine = [f"../{one},../{one},1" for one in faces]
    impostor = [f"../{one},../{other},0" for one, other in zip(faces, faces[1:] + faces[:1], strict=True)]
    (tree / "hres_eval_pairs").mkdir()
    (tree / "hres_eval_pairs/list.csv").write_text("\n".join([*genuine, *impostor]))
    result = small_run(settings, tree, "run")
    told = "12 of its 12 pairs labelled same show one picture twice"
    written = json.loads((tmp_path / "run/results.json").read_text())["list"]
    assert any(told in note for note in written["notes"]) and written["defects"]["identical_genuine"] == 12
    assert told in result.report.read_text()


def test_results_are_kept_where_no_picture_can_be_drawn(settings, monkeypatch, capsys):
    """A broken matplotlib costs a run its pictures, and neither its numbers nor its report."""
    from hrfr_fast.reporting import canvas

    def broken():
        raise UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "in a matplotlibrc")

    monkeypatch.setattr(canvas, "import_matplotlib", broken)
    result = train(settings, show_progress=False)
    assert result.results["hres"].verification.accuracy > 0 and result.report.exists()
    assert (settings.run_directory / "results.json").exists()
    assert "loss.png could not be drawn" in capsys.readouterr().err.replace("\n", "")


def test_no_loss_is_shown_before_one_is_read(settings):
    with Trainer(build(settings), show_progress=False) as trainer:
        trainer.log.rate = 0.1
        note = trainer.log.note(None)
    assert note == "lr 0.1000"


def test_a_long_run_says_so_once(settings, monkeypatch, capsys):

    from hrfr_fast.training import advice

    monkeypatch.setattr(advice, "LONG", 0.0)
    train(settings.replaced(width=24), show_progress=False)
    assert capsys.readouterr().err.count("this run on a CPU: ") == 1
