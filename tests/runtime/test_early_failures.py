"""A rank that fails before the ranks have found each other says so, unless rank 0 ends with the same mistake."""

import pytest
from torch.distributed import TCPStore

from hrfr_fast.runtime import early_failures, rank_failures
from hrfr_fast.runtime.rank_failures import may_report, who_reports


@pytest.fixture
def agent(monkeypatch):
    """The store of a launcher, and a function that makes this process one of its three ranks."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setattr(early_failures, "EARLY", 0.3)
    monkeypatch.setattr(rank_failures, "_met", False)

    def become(rank, **more):
        names = {"RANK": rank, "WORLD_SIZE": 3, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 3, "MASTER_ADDR": "127.0.0.1"}
        names |= {"MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": "True"} | more
        for name, value in names.items():
            monkeypatch.setenv(name, str(value))

    return become


def test_the_first_rank_that_fails_alone_speaks_for_itself(agent):
    agent(2)
    assert may_report() and who_reports().startswith("rank 2 of 3 on ")
    agent(1)
    assert not may_report(), "another has"


def test_what_rank_0_says_no_other_repeats(agent):
    agent(0)
    assert may_report() and who_reports() == ""
    agent(1)
    assert not may_report()


def test_without_the_launchers_store_nobody_is_silent(agent, monkeypatch):
    agent(1, TORCHELASTIC_USE_AGENT_STORE="False")
    assert may_report()


def test_ranks_that_know_each_other_report_as_they_agree(agent, monkeypatch):
    agent(1)
    monkeypatch.setattr(rank_failures, "_met", True)
    assert not may_report() and who_reports() == ""
