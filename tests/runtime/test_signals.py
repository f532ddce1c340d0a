"""Two signals: the first asks, the second ends."""

import os
import signal
import time

import pytest

from hrfr_fast.runtime.signals import StopFlag


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_sets_the_flag_and_the_second_ends_with_its_exit_code(number):
    before = signal.getsignal(number)
    with StopFlag() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        assert stop and stop.signal_number == number
        with pytest.raises(SystemExit) as ended:
            os.kill(os.getpid(), number)
            time.sleep(0.1)
    assert ended.value.code == 128 + number and signal.getsignal(number) == before
