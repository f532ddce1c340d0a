"""A disk that stalls is told of, with the file that does not answer; a slow first batch is not."""

import os
import threading
from dataclasses import replace

import pytest
from engine_cases import stream_over

from hrfr_fast.engines.resident import ResidentCPU
from hrfr_fast.engines.stalls import answers, told_when_stalled
from hrfr_fast.settings import AugmentSettings

torch = pytest.importorskip("torch")


def stalling(batches, at, released):
    """``batches``, of which number ``at`` is waited for until ``released``."""
    for number, batch in enumerate(batches):
        if number == at:
            assert released.wait(60)
        yield batch


def listen(shards, at, before=lambda split: split):
    """What is said while batch ``at`` stalls; the batches come all the same."""
    released, said = threading.Event(), []

    def say(message):
        said.append(message)
        released.set()

    split = before(shards["lowres", "raw"])
    stream = stream_over([split], 32, AugmentSettings())
    with ResidentCPU(stream, torch.uint8) as engine:
        got = list(told_when_stalled(stalling(engine.batches(0, 24 * 4), at, released), stream, 0, say, patience=0.2))
    assert [batch.start for batch in got] == [0, 24, 48, 72]
    assert not [thread for thread in threading.enumerate() if thread.name == "hrfr-stalls"]
    return said


def test_a_batch_that_does_not_come_is_told_of(shards):
    said = listen(shards, at=2)
    assert len(said) == 1 and "batch at sample 48 has been waited for" in said[0] and "can be read" in said[0]


def test_a_file_that_does_not_answer_is_named_even_for_the_first_batch(shards, tmp_path, monkeypatch):
    """A named pipe that nobody writes to stands for a mount whose server is gone: opening it waits."""
    pipe = tmp_path / "gone.beton"
    os.mkfifo(pipe)

    def moved(split):
        _ = split.labels
        monkeypatch.setattr(type(split), "place", lambda self, record: (pipe, 0))
        return replace(split)

    said = listen(shards, at=0, before=moved)
    with open(pipe, "wb", buffering=0):  # lets the waiting thread go
        pass
    assert len(said) == 1 and f"no answer from {pipe}" in said[0] and "sample 0" in said[0]


def test_an_error_is_an_answer(tmp_path):
    assert answers(tmp_path / "no such file", 0)
