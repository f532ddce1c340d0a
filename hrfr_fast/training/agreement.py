"""What the ranks of a run agree on while it trains: to stop after a signal, and to save, all after the same step."""

from typing import Any, NamedTuple

from hrfr_fast.runtime.ranks import Ranks


class Asked(NamedTuple):
    """What is to be done now."""

    signal: int
    """Number of the signal that ends the run; 0: it goes on."""
    save: bool


class Agreement:
    """Exchange of wishes once a step; the answer holds what any rank wished at the call before.

    So an exchange has a whole step of time, and no rank waits for it. One rank alone is answered at once.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._sent: tuple[Any, Any] | None = None
        self._save_sent = False

    def exchange(self, signal: int, save: bool) -> Asked:
        """Tell the others this rank's wishes; to be called by all ranks after each step."""
        if not self.ranks.distributed:
            return Asked(signal, save)
        import torch
        from torch import distributed

        answer = self.last()
        self._save_sent = save and not self._save_sent  # the wish is granted one call later, and is not yet known to be
        wishes = torch.tensor([signal, int(self._save_sent)])  # in host memory: gloo, whatever the device
        self._sent = wishes, distributed.all_reduce(wishes, distributed.ReduceOp.MAX, async_op=True)
        return answer

    def last(self) -> Asked:
        """The answer that is still underway; nothing is afterwards."""
        if self._sent is None:
            return Asked(0, False)
        (wishes, work), self._sent = self._sent, None
        work.wait()
        return Asked(int(wishes[0]), bool(wishes[1]))
