"""Runs that a signal stops after some steps, and that go on."""

import signal

import pytest

from hrfr_fast.runtime.errors import Interrupted
from hrfr_fast.training.build import build
from hrfr_fast.training.resuming import resumed_settings
from hrfr_fast.training.trainer import Trainer


class StopAfter:
    """Stands in for StopFlag: a signal after so many steps."""

    signal_number = signal.SIGTERM

    def __init__(self, steps):
        self.steps = steps

    def __bool__(self):
        self.steps -= 1
        return self.steps == 0


def run(settings, stop_after=0, resume=False):
    """``train`` without the final verification and its pictures; the trainer, for a look inside."""
    settings = resumed_settings(settings) if resume else settings
    with Trainer(build(settings), show_progress=False) as trainer:
        if resume:
            trainer.state.restore()
        trainer.start()
        if stop_after:
            with pytest.raises(Interrupted):
                trainer.loop(StopAfter(stop_after))
        else:
            trainer.loop(StopAfter(0))
            trainer.save()
    return trainer
