"""``hrfr-fast doctor``: the facts of this machine, what each engine can do with them, and fixes for what is missing."""

from dataclasses import replace
from pathlib import Path

from hrfr_fast.doctor.diagnosis import Diagnosis, diagnose
from hrfr_fast.doctor.facts import collect_facts
from hrfr_fast.doctor.facts import rows as rows
from hrfr_fast.runtime.ranks import current_ranks


def examine(folder: str | Path = ".") -> Diagnosis:
    """Collect the facts of this machine and diagnose; the disk under ``folder`` is measured for a second or two.

    Ranks started by torchrun time together what they exchange, where torch works; all facts are those of the machine
    that a rank is on, and rank 0 alone measures a disk.

    A folder that cannot be written to is not measured. Raises UsageError where ``folder`` is no directory.
    """
    found = diagnose(collect_facts(Path(folder)))
    ranks = current_ranks()
    if not ranks.distributed or found.facts.torch_error or (found.facts.driver and not found.facts.cuda_usable):
        return found
    from hrfr_fast.doctor.exchange import measure_exchange

    return replace(found, exchange=measure_exchange(ranks))
