"""Begin and end of a training job, of one process or of several ranks: one lock, one decision, one message."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from hrfr_fast.runtime.device import choose_compute
from hrfr_fast.runtime.errors import UsageError
from hrfr_fast.runtime.files import remove_leftovers
from hrfr_fast.runtime.lock import directory_lock
from hrfr_fast.runtime.progress import console
from hrfr_fast.runtime.rank_failures import one_job
from hrfr_fast.runtime.ranks import Ranks, from_main
from hrfr_fast.runtime.signals import StopFlag
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.resuming import how_to_go_on
from hrfr_fast.training.state import STATE_FILE


@contextmanager
def job(ranks: Ranks, settings: TrainSettings) -> Iterator[StopFlag]:
    """The run directory, locked by rank 0, the process group of the ranks, and the flag of signals; the other ranks
    are silent.

    Raises:
        UsageError, CannotWrite: as ``directory_lock``.
        ReportedElsewhere: on all ranks but one, whatever it is that ends them.
    """
    run = settings.run_directory
    if not ranks.distributed:
        with _own(run), StopFlag() as stop:
            yield stop
        return
    device = choose_compute(settings.execution.device, settings.execution.precision).device
    stop = StopFlag(launched=True)
    together = one_job(ranks, device, lambda: how_to_go_on(run, ranks), stop=stop)
    with _silent_but_rank_0(ranks), together, _own(run) if ranks.is_main else nullcontext():
        yield stop


@contextmanager
def _own(run: Path) -> Iterator[None]:
    """The run directory, locked, without what a killed training left of files that it was writing."""
    with directory_lock(run):
        remove_leftovers(run, below=True)
        yield


def begins_or_resumes(run: Path, resume: bool, ranks: Ranks) -> bool:
    """Whether ``run`` goes on from a checkpoint: ``resume``, or torchrun has started its ranks again.

    Raises UsageError where it would begin on top of another run.
    """
    if ranks.is_main and not resume:
        holds_run = (run / "checkpoints" / STATE_FILE).exists()
        if ranks.restarts and holds_run:
            resume = True
            console.print(f"started again ({ranks.restarts}): going on from the last checkpoint of {run}")
        elif holds_run:
            raise UsageError(f"{run} holds a run already: continue it with --resume, or choose another --out")
        elif (run / "checkpoints" / "last.safetensors").exists():  # adopted, or copied without its state
            raise UsageError(f"{run} holds a checkpoint already: choose another --out")
    return bool(from_main(ranks, resume))


@contextmanager
def _silent_but_rank_0(ranks: Ranks) -> Iterator[None]:
    before, console.quiet = console.quiet, console.quiet or not ranks.is_main
    try:
        yield
    finally:
        console.quiet = before
