"""How long ``bench`` measures, on machines of any speed, by a clock that only steps move."""

import pytest

from hrfr_fast.benchmarking.measure import BUDGET, ROUNDS, in_turns
from hrfr_fast.training.timed_steps import TimedSteps


class Machine:
    """Steps of known lengths. ``first``: what the first of each takes more, as for kernels that are compiled."""

    def __init__(self, lengths, first=0.0):
        self.now, self.taken = 0.0, [0] * len(lengths)
        self.measured = [
            TimedSteps(f"step {number}", self.stepper(number, length, first), 32, clock=lambda: self.now)
            for number, length in enumerate(lengths)
        ]

    def stepper(self, number, length, first):
        def steps(count):
            self.now += count * length + (0.0 if self.taken[number] else first)
            self.taken[number] += count

        return steps


@pytest.mark.parametrize(
    "lengths,first",
    [
        ([0.001, 0.002, 0.001, 0.05, 0.06], 0.0),  # 32 px on two cores
        ([0.01, 0.03, 0.02, 1.5, 1.6], 3.0),  # 144 px
        ([0.2, 0.5, 0.4, 3.0, 3.2], 0.0),  # a busy machine
        ([0.01] * 12, 0.0),
    ],
)
def test_all_are_measured_within_the_budget(lengths, first):
    machine = Machine(lengths, first)
    in_turns(machine.measured, 2.0, 1, show_progress=False)
    assert machine.now <= BUDGET < 45, machine.now
    for steps, length in zip(machine.measured, lengths, strict=True):
        assert 1 <= len(steps.rates) <= ROUNDS and steps.images_per_second == pytest.approx(32 / length)


def test_a_step_longer_than_the_budget_is_measured_once():
    machine = Machine([100.0, 1.0])
    in_turns(machine.measured, 2.0, 1, show_progress=False)
    assert [len(steps.rates) for steps in machine.measured] == [1, 1] and machine.taken == [3, 3]


def test_seconds_are_what_a_measurement_takes_where_there_is_time():
    machine = Machine([0.01, 0.01])
    in_turns(machine.measured, 0.3, 1, show_progress=False)
    assert machine.now == pytest.approx(2 * (0.3 + 0.02)) and machine.measured[0].count == 10
