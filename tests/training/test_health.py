"""Losses that go wrong are told once, with their numbers; those that go as they should are not."""

import math

import numpy as np
import pytest

from hrfr_fast.training.health import LossWatch

CLASSES, STEPS = 1000, 2000
STEP = np.arange(STEPS)
NOISE = np.random.default_rng(0).normal(0, 0.2, STEPS)
GUESS = math.log(CLASSES)


def told(losses, classes=CLASSES):
    watch = LossWatch(classes, STEPS, steps_an_epoch=100)
    found = []
    for begin in range(0, STEPS, 10):
        found += watch.see(begin + 10, np.asarray(losses[begin : begin + 10], np.float32))
    return found


@pytest.mark.parametrize(
    "losses",
    [
        40 * np.exp(-STEP / 600) + NOISE,  # of a margin's s = 64, through the loss of guessing and below
        GUESS * np.exp(-STEP / 1500) + NOISE,  # a softmax that learns slowly
        np.full(STEPS, 0.4) + 0.1 * NOISE,  # fine-tuning of what is known
        np.where(STEP < 100, 40 + STEP / 10, 45 * np.exp(-(STEP - 100) / 500)) + NOISE,  # rises in the warm-up
    ],
)
def test_a_loss_that_falls_is_left_alone(losses):
    assert told(losses) == []


def test_a_loss_that_rises_again_is_told_with_its_numbers():
    [line] = told(np.where(STEP < 800, 20 * np.exp(-STEP / 400), 3 + (STEP - 800) / 50) + NOISE)
    assert "the loss has risen to" in line and "it diverges" in line and "around step 8" in line


@pytest.mark.parametrize("losses", [GUESS + 0.02 * NOISE, np.maximum(GUESS, 20 - STEP / 10.0), 42 + NOISE])
def test_a_loss_that_stands_still_is_told_with_the_loss_of_guessing(losses):
    [line] = told(losses)
    assert "the loss stands still at" in line and f"guessing among the identities gives {GUESS:.4g}" in line


def test_the_log_of_a_run_prints_the_warning_with_advice(tmp_path, capsys):
    """TrainingLog with everything around it left out but the losses."""
    from contextlib import nullcontext
    from types import SimpleNamespace

    import torch

    from hrfr_fast.settings import TrainSettings
    from hrfr_fast.training.log import TrainingLog

    state = SimpleNamespace(
        step=0, samples=0, epoch=0.0, next_eval=1.0, parallel=SimpleNamespace(mean=lambda losses: losses)
    )
    state.where = lambda: {"step": state.step, "samples": 0, "epoch": 0.0}
    throughput = SimpleNamespace(to_json=lambda: {"images_per_second": 1.0})
    timer = SimpleNamespace(read=lambda: throughput, blocked=nullcontext, last=None)
    setup = SimpleNamespace(
        run=tmp_path, stream=SimpleNamespace(classes=CLASSES, epoch_length=640.0, batch_size=64), total_steps=600,
        ranks=SimpleNamespace(is_main=True), compute=SimpleNamespace(device=torch.device("cpu")),
        settings=TrainSettings(),
    )  # fmt: skip
    log = TrainingLog(setup, state, timer, board=False)
    for step in range(600):
        log.losses.add(torch.tensor(GUESS + 0.01 * float(NOISE[step])))
        state.step += 1
        if state.step % 10 == 0:
            log.read()
    log.close()
    printed = capsys.readouterr().err
    assert printed.count("warning: the loss stands still") == 1 and "Try a lower --learning-rate" in printed
