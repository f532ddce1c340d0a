"""One message for a job of several ranks, whichever of them fails; one that dies is named by those that are left.

Each rank leaves its machine and process number in the store that torchrun keeps. A rank that ends with an error says
so there first; the others, whose next exchange with it fails, then end without a word and with its exit code. A rank
that was killed has said nothing: the others see that its process is gone.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Self

from hrfr_fast.runtime.early_failures import announce_early
from hrfr_fast.runtime.errors import HrfrError, Interrupted, ReportedElsewhere
from hrfr_fast.runtime.ranks import Ranks, current_ranks, process_group
from hrfr_fast.runtime.signals import StopFlag

if TYPE_CHECKING:
    import torch
    from torch.distributed import Store

PATIENCE = 2.0  # seconds in which a killed process leaves the process table, and another's message the store
WATCHED_EVERY = 0.5
GRACE = 3.0  # seconds that the main thread has for ending by itself when another rank is gone
LOST = ("connection closed by peer", "connection reset", "gloo", "nccl", "broken pipe", "timed out", "socket")
"""What torch.distributed says, in lower case, where another rank does not answer: gloo raises a plain RuntimeError."""

_speaks = False
_met = False
"""Whether this rank has found the others, so that they know of each other's errors."""


def may_report() -> bool:
    """Whether this process prints the error it ends with: rank 0 does, and a rank that was first to fail.

    So does a rank that fails before the ranks have found each other, where rank 0 has not ended with an error itself,
    and no other rank has said so: a mistake of the command is one of all.
    """
    ranks = current_ranks()
    if _met or not ranks.distributed:
        return _speaks or ranks.is_main
    return announce_early(ranks)


def who_reports() -> str:
    """Words before the message of a rank other than 0 that fails before the ranks have found each other; else ""."""
    ranks = current_ranks()
    return f"rank {ranks.rank} of {ranks.count} on {socket.gethostname()}: " if not (ranks.is_main or _met) else ""


@contextmanager
def one_job(
    ranks: Ranks, device: "torch.device", then: Callable[[], str], *,
    stop: StopFlag | None = None, timeout_s: float = 3600,
) -> Iterator[None]:  # fmt: skip
    """The process group of ``ranks``; an error inside it is raised on one rank, on the others ReportedElsewhere.

    Args:
        device: of this rank.
        then: the sentence on what is kept and how to go on, for the message when a rank has died.
        stop: entered when the ranks have found each other; before, a signal ends this one at once.
        timeout_s: how long ranks wait for each other in one exchange.
    """
    with process_group(ranks, device, timeout_s=timeout_s) as store:
        if store is None:
            yield
            return
        global _met
        peers = Peers(store, ranks)
        _met = True
        with nullcontext() if stop is None else stop, Watch(peers, then):
            try:
                yield
                peers.wait_until_all_are_done()
            except Exception as error:
                _ignore_sigterm()
                raised = _of_the_job(error, peers, then)
                peers.keep_store()
                if raised is error:
                    raise
                raise raised from None
        peers.wait_until_all_leave()


class Peers:
    """The other ranks as the store knows them.

    Raises RuntimeError where the store cannot be reached.
    """

    def __init__(self, store: "Store", ranks: Ranks) -> None:
        self.store, self.ranks, self.place = store, ranks, _place()
        store.set(f"process/{ranks.rank}", f"{self.place}|{os.getpid()}")
        self._code: int | None = None
        self.processes: dict[int, tuple[str, int]] = {}
        for rank in range(ranks.count):
            place, _, process = store.get(f"process/{rank}").decode().rpartition("|")
            self.processes[rank] = place, int(process)

    def dead(self) -> list[int]:
        """Ranks of this machine whose process has ended; of other machines nothing is known."""
        return [rank for rank, (place, process) in self.processes.items() if place == self.place and not _runs(process)]

    def claim(self, exit_code: int) -> bool:
        """Whether this rank is the first to end with an error: then its message is the one."""
        if self._code is not None:
            return False
        try:
            first = self.store.add("failed", 1) == 1
            if first:
                self.store.set("exit code", str(exit_code))
            self._knows()
        except RuntimeError:  # the store has gone with the process that kept it
            return min(set(self.processes) - set(self.dead())) == self.ranks.rank
        return first

    def keep_store(self) -> None:
        """Give the others time to read what a rank has claimed, where the store ends with rank 0: torchrun keeps it in
        its own process, other launchers do not."""
        if not self.ranks.is_main or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return
        end, others = monotonic() + PATIENCE, set(self.processes) - {0}
        with suppress(RuntimeError):
            while others and monotonic() < end:
                others -= {rank for rank in others if self.store.check([f"knows/{rank}"])} | set(self.dead())
                sleep(0.02)

    def exit_code(self) -> int | None:
        """That of the rank which ended with an error, or None where none has said so."""
        with suppress(RuntimeError):
            if self._code is None and self.store.check(["exit code"]):
                self._code = int(self.store.get("exit code"))
                self._knows()
        return self._code

    def _knows(self) -> None:
        """Tell rank 0 that this one knows how the job ends."""
        self.store.set(f"knows/{self.ranks.rank}", "")

    def wait_until_all_are_done(self) -> None:
        """For as long as rank 0 verifies and reports, which no time limit of an exchange should cut short.

        Raises RuntimeError where another rank ends with an error, or dies.
        """
        self.store.add("done", 1)
        while self.store.add("done", 0) < self.ranks.count:
            if self.exit_code() is not None or self.dead():
                raise RuntimeError("connection closed by peer")
            sleep(0.1)

    def wait_until_all_leave(self) -> None:
        """None may end, and be taken for dead, while another still looks for it.

        In the store, not by a collective operation: gloo's threads let go of its tensors later, and where Python has
        begun to end by then they end the process by SIGABRT (one of 24 ranks at a load of 10).
        """
        with suppress(RuntimeError):  # rank 0, which may keep the store, has left: so all of them were here
            self.store.add("leaving", 1)
            while self.store.add("leaving", 0) < self.ranks.count and not self.dead():
                sleep(0.02)

    def describe(self, rank: int) -> str:
        place, process = self.processes[rank]
        return f"rank {rank} of {self.ranks.count} (process {process} on {place.partition('|')[0]})"


class Watch:
    """A thread that ends this process when another rank has ended with an error, or one of this machine has died, and
    the main thread does not notice.

    It waits for the device or for a collective operation then, on GPUs until nccl's timeout.
    """

    def __init__(self, peers: Peers, then: Callable[[], str]) -> None:
        self.peers, self.then = peers, then
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hrfr-ranks", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(WATCHED_EVERY):
            dead, code = self.peers.dead(), self.peers.exit_code()
            if (not dead and code is None) or self._ended.wait(GRACE):
                continue
            code = self.peers.exit_code()
            if code is None and self.peers.claim(1):
                os.write(2, f"error: {_death(self.peers, dead, self.then)}\n".encode())
            os._exit(code or 1)


def _of_the_job(error: Exception, peers: Peers, then: Callable[[], str]) -> Exception:
    """What to raise on this rank instead of ``error``, where another rank reports or has died."""
    global _speaks
    if is_lost_connection(error):
        found = _why_lost(peers, then)
        if isinstance(found, ReportedElsewhere):
            return found
        error = found or HrfrError(
            f"the connection of rank {peers.ranks.rank} to another rank was lost ({_first_line(error)}): that one has"
            f" ended, or its machine cannot be reached. {then()}"
        )
    code = error.exit_code if isinstance(error, HrfrError) else 1
    if isinstance(error, Interrupted) and not peers.ranks.is_main:
        _leave_to_rank_0(peers)
    if not peers.claim(code):
        return ReportedElsewhere(peers.exit_code() or code)
    _speaks = True
    return error


def _leave_to_rank_0(peers: Peers) -> None:
    """Let rank 0, which stops with all others, be the one that says so: it has the progress bar to end first."""
    end = monotonic() + PATIENCE
    while monotonic() < end and peers.exit_code() is None and 0 not in peers.dead():
        sleep(0.05)


def _why_lost(peers: Peers, then: Callable[[], str]) -> HrfrError | None:
    """Another rank's announcement or death, as soon as it can be seen; None after PATIENCE seconds without."""
    end = monotonic() + PATIENCE
    while monotonic() < end:
        if (code := peers.exit_code()) is not None:
            return ReportedElsewhere(code)
        if dead := peers.dead():
            sleep(0.1)  # what it said before it ended would be in the store by now
            code = peers.exit_code()
            return HrfrError(_death(peers, dead, then)) if code is None else ReportedElsewhere(code)
        sleep(0.05)
    return None


def is_lost_connection(error: Exception) -> bool:
    """Whether ``error`` is torch.distributed's for another rank that does not answer."""
    from torch import distributed

    if isinstance(error, HrfrError) or not isinstance(error, RuntimeError):
        return False
    names = ("DistError", "DistBackendError", "DistNetworkError", "DistStoreError")
    kinds = tuple(getattr(distributed, name) for name in names if hasattr(distributed, name))
    return isinstance(error, kinds) or any(words in str(error).lower() for words in LOST)


def _death(peers: Peers, dead: list[int], then: Callable[[], str]) -> str:
    who = " and ".join(map(peers.describe, dead))
    return f"{who} was killed, by a signal or for want of memory, and ended the job. {then()}"


def _place() -> str:
    """Where process numbers mean the same: host, its boot, and the container. Hosts may have one name for all."""
    found = [socket.gethostname()]
    with suppress(OSError):
        found += [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()]
        found += [os.readlink("/proc/self/ns/pid")]
    return "|".join(found)


def _ignore_sigterm() -> None:
    """torchrun sends it to all ranks as soon as one has ended: this one still has to say why."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _runs(process: int) -> bool:
    """Whether a process of this machine runs; one that has ended and is not yet waited for does not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs as another user
        return True
    with suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    return True


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
