"""What measured rates mean, a pure function of them: what limits a run, whether auto picked well, and what to do."""

from typing import NamedTuple

from hrfr_fast.benchmarking.result import BenchResult, Rate
from hrfr_fast.runtime.system import gib
from hrfr_fast.training import advice

FASTER = 1.1
"""Another engine is faster whose median is so many times the picked one's, and whose slowest round beats the fastest of
the picked one: less than that is what busy machines do to two measurements of the same thing."""
IDLE = 0.7
"""Threads count as waiting where the step keeps a smaller share of them busy."""
LEAST_HOST, LEAST_GPU = 1 << 30, 0.05
"""Memory is short where fewer bytes are left on the host, or a smaller share of the GPU's."""


class Finding(NamedTuple):
    """One sentence, and what it is about: limit, engine, warning, fix or note."""

    kind: str
    text: str


def findings(result: BenchResult) -> list[Finding]:
    """Every sentence to print, the limit first."""
    found = [Finding("limit", _limit_in_words(result)), Finding("engine", _choice_in_words(result))]
    found += [Finding("warning", text) for text in (*_better_engines(result), *_memory(result), *_threads(result))]
    found += [Finding("fix", text) for text in _fixes(result)]
    return [*found, Finding("note", _epoch(result))]


def limit(result: BenchResult) -> str:
    """loader, memory, host, threads or step: what a run on this machine would gain most from having more of."""
    if result.speed.limit == "data":
        return "memory" if _reads_the_disk(result) else "loader"
    if result.speed.limit == "host":
        return "host"
    return "threads" if _threads_wait(result) else "step"


def faster_engines(result: BenchResult) -> list[Rate]:
    """Engines that were faster than the one that ``auto`` picks, the fastest first."""
    picked = result.engine(result.picked)
    return sorted(
        (
            rate for rate in result.engines
            if rate.images_per_second > FASTER * picked.images_per_second and rate.slowest > picked.fastest
        ),
        key=lambda rate: -rate.images_per_second,
    )  # fmt: skip


def _limit_in_words(result: BenchResult) -> str:
    what = {
        "loader": f"the loader limits: the step waits for {result.picked}",
        "memory": "memory limits: the shards do not fit, so the loader waits for the disk",
        "host": "the host limits: Python and launches are slower than the GPU",
        "threads": "the step limits, and its threads do not keep their cores busy",
        "step": "the step limits",
    }[limit(result)]
    picked = result.picked
    loader = ratio(result.engine(picked).images_per_second / result.constant.images_per_second)
    return (
        f"{what}. Fed by {picked}, training reaches {result.of_constant:.0%} of the step on one constant batch, and"
        f" waits {result.speed.waiting:.0%} of the time for batches; {picked} alone makes {loader} times as many images"
        " as the step takes."
    )


def _choice_in_words(result: BenchResult) -> str:
    alone = len(result.engines) == 1
    held = "" if faster_engines(result) else "; no other engine works here" if alone else "; none was faster here"
    return f"auto picks {result.picked} ({result.reason}){held}"


def _better_engines(result: BenchResult) -> list[str]:
    better = faster_engines(result)
    if not better:
        return []
    picked, most = result.engine(result.picked), 1 / result.of_constant - 1
    times = better[0].images_per_second / picked.images_per_second
    gain = f"a run gains {most:.0%} at most by any loader" if most > 0.005 else "a run gains nothing: the step limits"
    name = better[0].name
    return [f"{name} made batches {ratio(times)} times as fast as {result.picked}: --engine {name}; {gain}"]


def ratio(value: float) -> str:
    """A ratio with as many digits as a measurement deserves."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def _reads_the_disk(result: BenchResult) -> bool:
    kept_in_gpu = result.situation.on_cuda and result.picked == "resident"
    return result.situation.shards > result.situation.host_free and not kept_in_gpu


def _memory(result: BenchResult) -> list[str]:
    machine, here, told = result.machine, result.situation, []
    if _reads_the_disk(result):
        told.append(
            f"{gib(here.shards)} of shards exceed {gib(here.host_free)} of free memory: these rates hold for what is in"
            " memory already, and each pass reads the rest from the disk; `hrfr-fast doctor FOLDER` measures that disk"
        )
    smaller = advice.after_out_of_memory(result.settings)
    if machine.memory_available < LEAST_HOST:
        told.append(f"{gib(machine.memory_available)} of memory were left, and a machine that swaps is slow: {smaller}")
    if machine.gpu_total and machine.gpu_peak > (1 - LEAST_GPU) * machine.gpu_total:
        told.append(
            f"{gib(machine.gpu_peak)} of the GPU's {gib(machine.gpu_total)} are taken, and verification needs some,"
            f" too: {smaller}"
        )
    return told


def _threads_wait(result: BenchResult) -> bool:
    """Whether the step on a CPU leaves its threads waiting, for each other or for cores that others use."""
    machine = result.machine
    return not result.situation.on_cuda and result.constant.cores_busy < IDLE * machine.threads


def _threads(result: BenchResult) -> list[str]:
    machine, told = result.machine, []
    one = "OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 before the command"
    if machine.load > machine.cores:
        tries = f", and try {one}, which can be many times as fast there" if machine.threads > 1 else ""
        told.append(
            f"other processes use these {machine.cores} cores, too (load average {machine.load:.1f}): compare ratios"
            f" and not rates{tries}"
        )
    elif _threads_wait(result):
        told.append(
            f"the step's {machine.threads} threads kept {result.constant.cores_busy:.1f} cores busy: if this is a"
            f" container with fewer cores than it sees, set OMP_NUM_THREADS to what it may use; else try a larger"
            f" --batch-size, or {one}"
        )
    if not result.situation.on_cuda and machine.threads < machine.cores and machine.load <= machine.cores:
        told.append(f"torch computes with {machine.threads} of {machine.cores} cores: is OMP_NUM_THREADS set?")
    return told


def _fixes(result: BenchResult) -> list[str]:
    here, settings = result.situation, result.settings
    if limit(result) in ("loader", "memory"):
        better = [rate.name for rate in faster_engines(result)]
        tries = advice.of_a_slow_loader(here, better[0] if better else "", result.picked)
    else:
        tries = advice.of_a_slow_step(
            settings, on_cuda=here.on_cuda, by_host=limit(result) == "host", fastest=result.machine.fastest_precision
        )
    return [f"to be faster: {', or '.join(tries)}"]


def _epoch(result: BenchResult) -> str:
    seconds = result.faces / result.fed.images_per_second
    text = f"one epoch of {result.faces:,.0f} faces takes {advice.in_words(seconds)} at this rate"
    if not result.situation.on_cuda and result.settings.model.width == advice.NARROW:
        text += f"; measured at --width {advice.NARROW}, {advice.FASTER}, which train has unless it is told otherwise"
    return text
