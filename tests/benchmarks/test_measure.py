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

    def __init__(self, machine, name, opening, a_round):
        self.machine, self.name, self.times = machine, name, {"open": opening, "round": a_round}

    def ask(self, kind, *_):
        self.machine.now += self.times.get(kind, 0.0)
        return {"open": 1.0, "round": Round(100, 0.1, 0.1, 1)}.get(kind)


class Machine:
    now = 0.0

    def compare(self, times, share, end, rounds=3):
        loaders = [Scripted(self, f"loader {number}", *each) for number, each in enumerate(times)]
        task, limit = Task("", "", "", "lowres32", "jpeg"), TimeLimit(share, end, lambda: self.now)
        return list(compare(loaders, task, rounds, 0.1, limit))


def test_a_table_keeps_to_its_share_of_the_time():
    machine = Machine()
    results = machine.compare([(9.0, 1.0), (1.0, 1.0)], share=14.5, end=100.0)
    assert [result.rounds for result in results] == [2, 2] and machine.now == 14.0
    assert [result.rounds for result in Machine().compare([(9.0, 1.0)], share=1.0, end=100.0)] == [1]
    assert [result.rounds for result in Machine().compare([(1.0, 1.0)], share=99.0, end=100.0)] == [3]


def test_what_has_not_begun_when_the_time_is_up_is_named():
    first, second = Machine().compare([(9.0, 1.0), (1.0, 1.0)], share=5.0, end=5.0)
    assert first.rounds == 1 and not first.problem
    assert second.rounds == 0 and "--minutes" in second.problem
