"""A rank that fails before the ranks have found each other: nobody else would say why the job ends."""

import os
from datetime import timedelta
from time import monotonic, sleep

from hrfr_fast.runtime.ranks import Ranks

EARLY = 5.0  # seconds in which rank 0 ends with the same mistake, if it is one of all ranks


def announce_early(ranks: Ranks) -> bool:
    """Whether this rank is to report an error, as the store that torchrun keeps in its own process knows; without one
    every rank reports its own."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    try:
        from torch.distributed import PrefixStore, TCPStore

        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        agent = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=EARLY))
        store = PrefixStore(f"hrfr-fast/early/{ranks.restarts}", agent)
        if ranks.is_main:
            store.set("rank 0", "")
            return True
        end = monotonic() + EARLY
        while monotonic() < end:
            if store.check(["rank 0"]):
                return False
            sleep(0.05)
        return bool(store.add("others", 1) == 1)
    except (RuntimeError, KeyError, ValueError, ImportError):  # it cannot be reached
        return True
