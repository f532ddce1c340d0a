"""Threads of a process: all cores, or its share among the ranks that torchrun has started on this machine."""

import pytest

from hrfr_fast.runtime import system
from hrfr_fast.runtime.system import threads_per_rank

RANKS = {
    "one process": ({}, 16),
    "one process keeps all cores whatever OpenMP is told": ({"OMP_NUM_THREADS": "3"}, 16),
    "one rank of torchrun": ({"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, 16),
    "four ranks": ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}, 4),
    "four of eight ranks on this machine": ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, 4),
    "more ranks than cores": ({"WORLD_SIZE": "32", "LOCAL_WORLD_SIZE": "32"}, 1),
    "torchrun's own 1": ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "OMP_NUM_THREADS": "1"}, 4),
    "a user's number": ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "OMP_NUM_THREADS": "2"}, 2),
    "a number for each level": ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "OMP_NUM_THREADS": "3,1"}, 3),
}


@pytest.mark.parametrize("environment,threads", RANKS.values(), ids=RANKS)
def test_a_rank_has_its_share_of_the_cores(environment, threads, monkeypatch):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(system, "cores", lambda: 16)
    assert threads_per_rank() == threads
