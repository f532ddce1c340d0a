"""Advice names only what a run can still change, and a long run on a CPU is told while it is young."""

import re

import pytest

from hrfr_fast.regimes import REGIMES
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training import advice


@pytest.mark.parametrize(
    "changed,named,left_out",
    [
        ({"precision": "bf16"}, ["--learning-rate", "--margin", "--precision fp32"], ["--clip-gradient"]),
        ({"precision": "fp32"}, ["--learning-rate", "--warmup"], ["fp32"]),
        ({"head": "softmax"}, ["--scale"], ["--margin"]),
        ({"margin": 0.0}, ["--scale"], ["--margin"]),
        ({"clip_gradient": 0.0}, ["--clip-gradient 5"], []),
    ],
)
def test_what_may_keep_the_loss_finite(changed, named, left_out):
    told = advice.after_divergence(TrainSettings(**changed))
    assert all(flag in told for flag in named) and not any(flag in told for flag in left_out)


def test_activation_checkpointing_is_not_advised_to_a_run_that_has_it():
    assert "--activation-checkpointing" in advice.after_out_of_memory(TrainSettings())
    assert "--activation-checkpointing" not in advice.after_out_of_memory(TrainSettings(activation_checkpointing=True))


def slow(seconds=20.0, left=100_000, resumed=False, inherits=False, fastest="fp32", **changed):
    settings = TrainSettings(**{"batch_size": 64, "precision": "fp32"} | changed)
    return advice.of_a_slow_run(settings, 64, seconds, left, fastest=fastest, resumed=resumed, inherits=inherits)


def test_a_run_within_the_hour_goes_without_a_word():
    assert slow(seconds=0.1, left=30_000) is None and slow(seconds=0.2, left=30_000) is not None


def test_a_long_run_is_told_its_rate_its_memory_the_time_left_and_the_flags():
    told = slow()
    assert "3.2 images/s" in told and "about 23 days left for 100,000 steps of 64" in told
    assert re.search(r"[\d.]+ GiB of memory", told)
    assert all(flag in told for flag in ("--width 16", "--epochs", "--batch-size")) and "--precision" not in told


@pytest.mark.parametrize(
    "changed,left_out",
    [({"width": 16}, "--width"), ({"inherits": True}, "--width"), ({"resumed": True}, "--width"),
     ({"steps": 100_000}, "--epochs")],
)  # fmt: skip
def test_flags_that_change_nothing_are_not_advised(changed, left_out):
    assert left_out in slow() and left_out not in slow(**changed)


def test_a_precision_that_this_cpu_emulates_is_named():
    assert "--precision fp32" in slow(precision="bf16") and "--precision bf16" in slow(fastest="bf16")


@pytest.mark.parametrize(
    "regime,given,unused",
    [
        ("lowres32", {"lora_rank": 4, "degradation": {"blur": 0.5}, "highres_share": 0.2, "width": 8}, 3),
        ("lowres144-finetuned", {"lora_rank": 4, "tune": "lora"}, 0),
        ("crossres144", {"degradation": {"blur": 0.5}, "kernels": "box", "highres_share": 0.2}, 1),
        ("matched-views", {"degradation": {"blur": 0.5}, "kernels": "box", "highres_identities": 0.5}, 1),
        ("highlow144", {"teacher": "runs/highres144", "degrade_min": 20}, 2),
        ("remedy-distillation", {"teacher": "runs/highres144"}, 0),
    ],
)
def test_settings_that_change_nothing_are_found(regime, given, unused):
    found = advice.without_effect(TrainSettings(regime=regime, **given), REGIMES[regime], given)
    assert len(found) == unused and set(found) <= given.keys() - {"width", "tune"}
