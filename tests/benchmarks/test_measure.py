"""The measurement on a tiny task: every loader has a result or the reason why not."""

from benchmarks.loader_process import Round
from benchmarks.measure import LoaderProcess, TimeLimit, compare
from benchmarks.peers.base import Task
from hrfr_fast.packing.pack import pack


def test_loaders_are_measured_in_turns_or_say_why_not(tiny_tree, tmp_path):
    pack(tiny_tree, tmp_path / "packed" / "jpeg", encoding="jpeg", workers=1, show_progress=False)
    task = Task(str(tiny_tree), str(tmp_path / "packed"), str(tmp_path), "lowres32", "jpeg", 16, "uint8", "cpu", 1)
    with (
        LoaderProcess("resident", tmp_path / "log") as ours,
        LoaderProcess("stock DALI mxnet", tmp_path / "log") as peer,
    ):
        results = list(compare([ours, peer], task, rounds=2, seconds=0.01))
    assert results[0].problem == "" and results[0].rounds == 2
    assert results[0].images_per_second > 0 and results[0].peak_memory_bytes > 1e7
    assert results[0].cpu_seconds_per_1000 >= 0 and results[0].first_batch_seconds > 0
    assert "train.rec" in results[1].problem and results[1].images_per_second == 0


class Scripted:
    """A loader whose answers take known times, by a clock of its own."""

    def __init__(self, machine, name, opening, a_round, preparing=0.0):
        self.machine, self.name = machine, name
        self.times = {"prepare": preparing, "open": opening, "round": a_round}

    def ask(self, kind, *_):
        self.machine.now += self.times.get(kind, 0.0)
        return {"open": 1.0, "round": Round(100, 0.1, 0.1, 1)}.get(kind)


class Machine:
    now = 0.0

    def compare(self, times, end, tables=1, rounds=3):
        loaders = [Scripted(self, f"loader {number}", *each) for number, each in enumerate(times)]
        task, limit = Task("", "", "", "lowres32", "jpeg"), TimeLimit(end, tables, lambda: self.now)
        return list(compare(loaders, task, rounds, 0.1, limit))


def test_a_table_keeps_to_its_share_of_the_time():
    machine = Machine()
    results = machine.compare([(9.0, 1.0), (1.0, 1.0)], end=29.0, tables=2)
    assert [result.rounds for result in results] == [2, 2] and machine.now == 14.0
    assert [result.rounds for result in Machine().compare([(9.0, 1.0)], end=10.0, tables=10)] == [1]
    assert [result.rounds for result in Machine().compare([(1.0, 1.0)], end=99.0)] == [3]


def test_what_is_prepared_once_does_not_use_up_a_tables_share():
    """Kernels compiled for the first table took its share, and its peers were left out."""
    results = Machine().compare([(1.0, 1.0, 16.0), (9.0, 1.0, 4.0)], end=100.0, tables=8)
    assert [(result.rounds, result.problem) for result in results] == [(1, ""), (1, "")]


def test_what_has_not_begun_when_the_time_is_up_is_named():
    first, second = Machine().compare([(9.0, 1.0), (1.0, 1.0)], end=5.0)
    assert first.rounds == 1 and not first.problem
    assert second.rounds == 0 and "--minutes" in second.problem
    third, fourth = Machine().compare([(1.0, 1.0, 9.0), (1.0, 1.0)], end=5.0)
    assert "--minutes" in third.problem and "--minutes" in fourth.problem
