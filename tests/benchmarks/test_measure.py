"""The measurement on a tiny task: every loader has a result or the reason why not."""

from benchmarks.measure import LoaderProcess, compare
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
