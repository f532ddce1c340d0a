"""A training whose disk fills up, whose data shrink, or that is not alone in its directory."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest

from hrfr_fast.format.reader import open_packed
from hrfr_fast.model import checkpoint
from hrfr_fast.runtime import lock
from hrfr_fast.runtime.errors import CannotWrite, DamageFound, UsageError
from hrfr_fast.runtime.lock import directory_lock
from hrfr_fast.settings import TrainSettings
from hrfr_fast.synthetic.packed import synthesize_packed
from hrfr_fast.training.build import build
from hrfr_fast.training.metrics import Metrics, read_metrics
from hrfr_fast.training.tensorboard import Board
from hrfr_fast.training.trainer import Trainer, train


@pytest.fixture
def settings(tiny_packed, tmp_path):
    return TrainSettings(
        regime="lowres32", data=str(tiny_packed), out=str(tmp_path / "run"), steps=4, batch_size=16, width=8,
        embedding_size=16, device="cpu", eval_every=0, log_every=1,
    )  # fmt: skip


class Never:
    signal_number = None

    def __bool__(self):
        return False


def disk_full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_at_a_later_checkpoint_leaves_the_earlier_one(settings, monkeypatch):
    run = settings.run_directory
    with Trainer(build(settings), show_progress=False) as trained:
        trained.start()
        trained.loop(Never())
        trained.save()
    kept = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    monkeypatch.setattr(os, "fsync", disk_full)  # what is written by then is not on the disk
    with pytest.raises(CannotWrite, match="disk is full") as refused:
        train(settings, resume=True, show_progress=False)
    monkeypatch.undo()
    assert "--resume" in str(refused.value) and str(run) in str(refused.value)
    assert {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()} == kept
    assert train(settings, resume=True, show_progress=False).steps == 4


def test_a_first_checkpoint_that_does_not_fit_is_told(settings, monkeypatch):
    monkeypatch.setattr(checkpoint._ErrorRecorder, "write", disk_full)
    with pytest.raises(CannotWrite, match=r"last\.state\.pt: .*No checkpoint was written yet"):
        train(settings, show_progress=False)
    monkeypatch.undo()
    assert train(settings, show_progress=False).steps == 4


@pytest.mark.parametrize("owner,name", [(Metrics, "metrics.jsonl"), (Board, "tensorboard/events")])
def test_metrics_that_cannot_be_written_name_their_file(tmp_path, monkeypatch, owner, name):
    metrics = Metrics(tmp_path, 0)
    file = metrics._file if owner is Metrics else metrics._board._file
    os.dup2(os.open("/dev/full", os.O_WRONLY), file.fileno())
    with pytest.raises(CannotWrite, match=f"{name}.*: the disk is full"):
        metrics.write("train", step=1, loss=1.0)
    with pytest.raises(CannotWrite, match="the disk is full"):
        metrics.close()


def test_tensorboard_reads_the_events_and_forgets_those_of_an_earlier_start(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for samples, steps, loss in ((0, (1, 2, 3), 5.0), (2, (3, 4), 6.0)):
        metrics = Metrics(tmp_path, samples)
        for step in steps:
            metrics.write("train", step=step, samples=step, epoch=0.0, loss=loss + step, learning_rate=0.1)
        metrics.close()
        time.sleep(1.1 if samples == 0 else 0)  # TensorBoard sorts files by their second
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(one.step, one.value) for one in events.Scalars("train/loss")] == [(1, 6), (2, 7), (3, 9), (4, 10)]
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [6, 7, 9, 10]


def test_a_second_training_in_the_directory_is_refused_and_changes_nothing(settings):
    run = settings.run_directory
    train(settings, show_progress=False)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    with directory_lock(run):
        for resume in (False, True):
            with pytest.raises(UsageError, match=f"in use by .*process {os.getpid()}"):
                train(settings.replaced(seed=1), resume=resume, show_progress=False)
        assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_mixture_of_two_trainings_is_not_resumed(settings):
    """As two at once left it before there was a lock: the settings of one, the weights of the other."""
    train(settings, show_progress=False)
    mixtures = {
        "seed 0, and now 1": {"seed": 1},
        "step 4, and now 2 in all": {"steps": 2},
    }
    for said, change in mixtures.items():
        settings.replaced(**change).save(settings.run_directory / "settings.toml")
        with pytest.raises(UsageError, match=said):
            train(settings, resume=True, show_progress=False)
    settings.save(settings.run_directory / "settings.toml")
    train(settings.replaced(log_every=3), resume=True, show_progress=False)


@pytest.fixture
def own_packed(tmp_path):
    """Packed data that a test may damage: lowres spans several pages of memory."""
    synthesize_packed(tmp_path / "packed", "tiny", workers=1, show_progress=False)
    return tmp_path / "packed"


TRAIN = """
import os, sys
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.trainer import train
{before}
train(TrainSettings(regime="lowres32", data=sys.argv[1], out=sys.argv[2], steps=100000, batch_size=16, width=8,
                    embedding_size=16, device="cpu", eval_every=0, log_every=1, engine={engine!r}), show_progress=False)
"""
UNCHECKED = "from hrfr_fast.format.reader import Split; Split.refuse_shrunk = lambda self: None"


@pytest.mark.parametrize(
    "engine,before,said",
    [
        # Between batches, unless it happens to be within one.
        ("resident", "", "lowres.beton (has|cannot be read any longer: it has) become shorter while it was in use"),
        ("resident", UNCHECKED, "lowres.beton cannot be read any longer"),
        ("ffcv", UNCHECKED, "lowres.beton cannot be read any longer"),
    ],
    ids=["at any time", "within a batch", "by FFCV within a batch"],
)
def test_a_shard_that_shrinks_under_a_training_is_named(own_packed, tmp_path, engine, before, said):
    if engine == "ffcv" and find_spec("ffcv") is None:  # pytest.importorskip would import it, side effects and all
        pytest.skip("ffcv is not installed")
    run = tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, "-c", TRAIN.format(before=before, engine=engine), str(own_packed), str(run)],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    try:
        while child.poll() is None and '"step": 3' not in _text(run / "metrics.jsonl"):
            time.sleep(0.05)
        os.truncate(own_packed / "lowres.beton", 4096)
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    assert re.search(said, errors), errors
    assert child.returncode == (DamageFound.exit_code if before else 1), "1: of Python, for an exception"
    assert (run / lock.NAME).exists() == bool(before)


def _text(path):
    return path.read_text() if path.exists() else ""


def test_any_other_bus_error_goes_where_it_went_before(own_packed):
    """The handler knows the shards' maps alone."""
    code = """
import faulthandler, mmap, os, sys
import numpy as np
from importlib.util import find_spec
from pathlib import Path
from hrfr_fast.format.reader import open_packed
faulthandler.enable()
split = open_packed(sys.argv[1]).splits["lowres"]
split.read([0])
other = np.memmap(split.path, np.uint8, mode="r")
os.truncate(split.path, 4096)
other[-1]
"""
    done = subprocess.run([sys.executable, "-c", code, str(own_packed)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGBUS and done.stderr.startswith("Fatal Python error: Bus error")


def test_the_table_of_maps_has_room_again_when_data_are_gone(own_packed):
    from hrfr_fast.runtime import bus_error

    used = lambda: int((bus_error._table[:, bus_error.END] > 0).sum())  # noqa: E731
    before = used()
    split = open_packed(own_packed).splits["lowres"]
    view = split.data[10:20]
    assert used() == before + 1
    del split
    assert used() == before + 1, "a view keeps the map"
    del view
    assert used() == before


def test_evaluation_and_analysis_refuse_a_shard_that_shrank(own_packed):
    from hrfr_fast.engines.pixels import fetch

    split = open_packed(own_packed).splits["lowres"]
    fetch(split, split.labels[:2])
    os.truncate(split.path, 4096)
    with pytest.raises(DamageFound, match="has become shorter"):
        fetch(split, split.labels[:2])
