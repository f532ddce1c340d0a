"""``hrfr-fast doctor``: the facts of this machine, what each engine can do with them, and fixes for what is missing."""

from pathlib import Path

from hrfr_fast.doctor.diagnosis import Diagnosis, diagnose
from hrfr_fast.doctor.facts import collect_facts
from hrfr_fast.doctor.facts import rows as rows


def examine(folder: str | Path = ".") -> Diagnosis:
    """Collect the facts of this machine and diagnose; the disk under ``folder`` is measured for a second or two.

    A folder that cannot be written to is not measured. Raises UsageError where ``folder`` is no directory.
    """
    return diagnose(collect_facts(Path(folder)))
