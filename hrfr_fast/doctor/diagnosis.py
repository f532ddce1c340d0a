"""Diagnosis of a machine, a pure function of its facts: what each engine can do there, and what to mend."""

from dataclasses import asdict, dataclass, field
from typing import Any

from hrfr_fast.doctor.facts import Facts
from hrfr_fast.doctor.links import Exchange
from hrfr_fast.engines.choice import RESIDENT_SHARE
from hrfr_fast.runtime.gpu_software import (
    COMPILER_FIX,
    DALI_WHEELS,
    architecture_fix,
    dali_fix,
    install_torch,
    replace_dali,
    torch_fix,
)
from hrfr_fast.runtime.system import gib

DALI_FIX = "pip install nvidia-dali-cuda120 (one wheel only: the cuda120 and cuda130 wheels own the same files)"
FFCV_FIX = "tools/install_ffcv.sh VENV, from a checkout of hrfr-fast, builds it"
LEAST_SHM = 1 << 30  # for torch DataLoaders with worker processes; our engines use none


@dataclass(frozen=True)
class Verdict:
    """What one engine can do on the machine."""

    engine: str
    works: bool
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Everything the command prints."""

    facts: Facts
    engines: list[Verdict]
    fixes: list[str] = field(default_factory=list)
    exchange: Exchange | None = None
    """Between ranks; None for a process that torchrun has not started."""

    @property
    def works(self) -> bool:
        """Whether any engine can work."""
        return any(verdict.works for verdict in self.engines)

    def to_json(self) -> dict[str, Any]:
        exchange = self.exchange.to_json() if self.exchange else None
        return {**asdict(self), "works": self.works, "exchange": exchange}


def diagnose(facts: Facts) -> Diagnosis:
    """What each engine can do with these facts, and what to mend."""
    wrong_build = (
        architecture_fix(facts.torch, facts.gpu_capability, facts.torch_architectures, facts.driver)
        if facts.torch_architectures
        else ""
    )
    gpu = bool(facts.gpus) and facts.cuda_usable and not wrong_build
    engines = [_resident(facts, gpu), _dali(facts, gpu), _ffcv(facts)]
    fixes = [f"{verdict.engine}: {verdict.fix}" for verdict in engines if verdict.fix]
    if facts.torch_error:
        fixes.insert(0, f"torch: {facts.torch_error}; {install_torch(facts.driver) or 'update the driver'}")
    elif (facts.driver or facts.gpus) and not facts.cuda_usable:
        fixes.insert(0, torch_fix(facts.torch, facts.torch_cuda, facts.driver))
    elif wrong_build:
        fixes.insert(0, wrong_build)
    if facts.lost_caches:
        fixes.append(
            "no home directory can be written to, so compiled kernels are lost at exit; set"
            f" {', '.join(facts.lost_caches)} to directories that can be written to and stay"
        )
    if facts.shm_bytes < LEAST_SHM:
        fixes.append(
            f"/dev/shm holds {gib(facts.shm_bytes)}: enough for hrfr-fast, too little for a torch DataLoader with"
            " workers beside it; in a container, start it with --shm-size=8g"
        )
    return Diagnosis(facts, engines, fixes)


def _resident(facts: Facts, gpu: bool) -> Verdict:
    broken = facts.torch_error or facts.kernel_error
    if broken:
        return Verdict("resident", False, f"cannot run: {broken}", "pip install --force-reinstall numba torch")
    if gpu:
        capacity = gib(int(RESIDENT_SHARE * facts.gpu_memory_free_bytes))
        text, fix = f"on the GPU, for training sets of up to {capacity} of raw pixels", ""
        if facts.compiler_error:
            text, fix = f"{text}; slowly, and without --compile: {facts.compiler_error}", COMPILER_FIX
        return Verdict("resident", True, text, fix)
    fix = (
        "pip install tbb (numba's own workqueue threads serve only one caller at a time)"
        if facts.threads == "workqueue"
        else ""
    )
    decoder = f"; {facts.jpeg}" if facts.jpeg else ""
    text = f"on the CPU, one kernel over {facts.cores} cores ({facts.threads} threads){decoder}"
    return Verdict("resident", True, text, fix)


def _dali(facts: Facts, gpu: bool) -> Verdict:
    if len(facts.dali) > 1:
        text = f"two wheels are installed ({', '.join(facts.dali)}) and own the same files"
        return Verdict("dali", False, text, replace_dali(list(DALI_WHEELS)))
    if not facts.dali:
        return Verdict("dali", False, "is not installed", DALI_FIX)
    if facts.dali_error:
        return Verdict("dali", False, f"cannot be imported: {facts.dali_error}", DALI_FIX)
    if facts.torch_error:
        return Verdict("dali", False, "needs torch to hand its batches to")
    wrong_wheel = dali_fix(facts.dali[0].split()[0], facts.driver) if gpu else ""
    if wrong_wheel:
        return Verdict("dali", False, "cannot use the GPU", wrong_wheel)
    where = "decodes and resamples on the GPU" if gpu else f"runs its graph on the CPU, {facts.cores} threads"
    return Verdict("dali", True, where)


def _ffcv(facts: Facts) -> Verdict:
    if not facts.ffcv:
        return Verdict("ffcv", False, "is not installed", FFCV_FIX)
    if facts.ffcv_error:
        return Verdict("ffcv", False, f"cannot be imported: {facts.ffcv_error}", FFCV_FIX)
    if facts.torch_error or facts.kernel_error:
        return Verdict("ffcv", False, "needs torch and the resampling kernel")
    if facts.threads == "workqueue":
        fix = "pip install tbb, or install OpenMP (libgomp1)"
        return Verdict("ffcv", False, "numba's workqueue threads abort when two use them at once", fix)
    return Verdict("ffcv", True, f"reads and decodes with {facts.cores} threads, the shared CPU kernel resamples")
