"""Which runs of a study may start, and what each gets of a cluster."""

from pathlib import Path

import pytest

from hrfr_fast.regimes import REGIMES
from hrfr_fast.settings import TrainSettings
from hrfr_fast.study.plan import StudyRun
from hrfr_fast.study.schedule import Node, Share, share_of, startable

NAMES = ("lowres32", "lowres144", "lowres144-finetuned", "fused-head")  # the last has both of the first as parents


def runs(*seeds: int) -> list[StudyRun]:
    return [
        StudyRun(name, REGIMES[name], seed, "regime", TrainSettings(regime=name, out=str(folder(seed) / name)))
        for seed in seeds
        for name in NAMES
    ]


def folder(seed: int) -> Path:
    return Path(f"study/runs/seed{seed}")


def test_children_wait_for_parents_of_their_own_seed():
    plan = runs(0, 1)
    assert [str(run) for run in startable(plan, (), ())] == [
        "lowres32, seed 0", "lowres144, seed 0", "lowres32, seed 1", "lowres144, seed 1",
    ]  # fmt: skip
    finished, started = {folder(0) / "lowres144", folder(1) / "lowres32"}, {folder(0) / "lowres32"}
    assert [str(run) for run in startable(plan, finished, started)] == [
        "lowres144-finetuned, seed 0", "lowres144, seed 1",
    ]  # fmt: skip
    assert not startable(plan, {run.directory for run in plan}, ())


def test_every_run_is_started_once_and_after_its_parents_whatever_ends_first():
    plan, finished, started, order = runs(0, 1, 2), set(), [], []
    while len(finished) < len(plan):
        for run in startable(plan, finished, started)[: 3 - len(started)]:
            assert {run.directory.parent / parent for parent in run.regime.parents} <= finished
            started.append(run.directory)
            order.append(run.directory)
        finished.add(started.pop())  # the one that was started last
    assert len(order) == len(set(order)) == len(plan)


@pytest.mark.parametrize(
    "nodes,on_gpu,threads,share,places",
    [
        ([Node(2)], False, 0, Share(1), 2),
        ([Node(16)], False, 0, Share(4), 4),  # four runs have no parents
        ([Node(16), Node(4)], False, 0, Share(4), 5),
        ([Node(16), Node(4)], False, 8, Share(8), 2),
        ([Node(2)], False, 2, Share(2), 1),
        ([Node(64, 8)], True, 0, Share(8, 1), 8),
        ([Node(64, 8), Node(12, 4), Node(32)], True, 0, Share(3, 1), 12),
        ([Node(1, 2)], True, 0, Share(1, 1), 1),
    ],
)
def test_a_run_gets_its_share_of_the_nodes(nodes, on_gpu, threads, share, places):
    found = share_of(runs(0, 1), nodes, on_gpu=on_gpu, threads=threads)
    assert found == share and found.places(nodes) == places
