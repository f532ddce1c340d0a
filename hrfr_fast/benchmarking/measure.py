"""The measurement behind ``hrfr-fast bench``: every engine and the training step, in turns, on one regime's stream."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import torch

from hrfr_fast.benchmarking.result import BenchResult, Machine, Rate
from hrfr_fast.doctor.diagnosis import diagnose
from hrfr_fast.doctor.facts import collect_facts
from hrfr_fast.engines.base import Batch, Engine
from hrfr_fast.engines.choice import choose_engine, pick_engine, situation
from hrfr_fast.format.reader import open_packed
from hrfr_fast.regimes import regime_named
from hrfr_fast.runtime.device import choose_compute, fastest_precision
from hrfr_fast.runtime.errors import HrfrError, UsageError
from hrfr_fast.runtime.progress import progress_bar
from hrfr_fast.runtime.system import cores, memory
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training import advice
from hrfr_fast.training.build import RunSetup, build
from hrfr_fast.training.speed import StepTimer, Throughput
from hrfr_fast.training.stream import fitting_regimes
from hrfr_fast.training.timed_steps import ENDLESS, TimedSteps, constant_batch, logged_step, wait
from hrfr_fast.training.trial import Trial

ROUNDS = 3
BUDGET = 36.0
"""Seconds of all measurements together, shared out among them, so that the whole takes less than a minute. A step that
takes longer than its share is still taken, to warm up, to see how long it takes, and in one round."""
AHEAD = 4
"""Batches that an engine may have made while others were measured; so many are taken, untimed, before each round."""


def bench(
    packed: str | Path = "packed",
    *,
    regime: str = "",
    width: int = 0,
    batch_size: int = 0,
    device: str = "auto",
    seconds: float = 2.0,
    settings: TrainSettings | None = None,
    show_progress: bool = True,
) -> BenchResult:
    """Rates of every engine and of the training step on packed faces, on this machine. Leaves no file behind.

    Args:
        packed: directory written by ``pack``.
        regime: what to measure; "": that of ``settings``, or without them one that fits what is packed.
        width: of the network; 0: that of ``settings``, or without them 64 on a GPU and 16 on a CPU.
        batch_size: samples a step; 0: that of ``settings``, or what ``train`` finds.
        device: auto, cpu or cuda.
        seconds: of each measurement, all its rounds together, and less where all would take more than BUDGET seconds; a
            round is one step at least.
        settings: of a run, to measure what it does.
        show_progress: draw a progress bar.

    Returns:
        Images a second of every engine, of the step on a constant batch and of the step that is fed; ``findings`` of
        ``benchmarking.findings`` says what limits a run.

    Raises:
        UsageError: no directory of packed faces, an unknown regime, one that does not fit what is packed or starts
            from another, a device that is not there.
        HrfrError: no engine works here, or a step does not fit into memory.
        DamageFound: a record that does not match its checksum.
    """
    if not seconds > 0:
        raise UsageError(f"--seconds {seconds:g}: give a time above 0")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    chosen = _settings(packed, regime, width, batch_size, device, settings)
    with ExitStack() as stack:
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hrfr-bench-"))) / "run"
        trial = stack.enter_context(Trial(build(chosen.replaced(out=str(run))), show_progress=False))
        run.mkdir()
        trial.setup.backbone.train()
        trial.setup.head.train()
        constant = constant_batch(trial)
        feeds, absent = _open_engines(trial.setup, stack)
        loaders = [_loading(name, batches, trial.setup) for name, batches in feeds.items()]
        picked, reason = _pick(trial.setup)
        fed = FedSteps(trial, feeds[picked])
        in_turns([*loaders, constant, fed.steps], seconds, _least_steps(trial.setup), show_progress)
        setup, rates = trial.setup, tuple(map(Rate.of, loaders))
        return BenchResult(
            str(packed), setup.settings, setup.stream.size, setup.stream.classes, setup.stream.epoch_length,
            _machine(setup, load), situation(setup.stream, setup.compute), rates, absent, picked, reason,
            Rate.of(constant), Rate.of(fed.steps), fed.throughput(),
        )  # fmt: skip


class FedSteps:
    """Steps of ``trial`` over batches of an engine, with the time that each waits for its batch."""

    def __init__(self, trial: Trial, batches: Iterator[Batch]) -> None:
        self.trial, self.batches = trial, batches
        self.steps = TimedSteps("fed", self._take, trial.setup.stream.batch_size, before=lambda: _drain(batches))
        self._rounds: list[Throughput] = []

    def _take(self, count: int) -> None:
        setup = self.trial.setup
        timer = StepTimer(setup.compute, setup.stream.batch_size, setup.execution.flops, setup.execution.peak)
        for batch in timer.batches(islice(self.batches, count)):
            logged_step(self.trial, batch)
            timer.step()
        with timer.blocked():
            wait(setup.compute)
        self._rounds.append(timer.read())

    def throughput(self) -> Throughput:
        """Of the round whose share of waiting is the middle one; the calls that warmed up do not count."""
        rounds = self._rounds[-len(self.steps.rates) :]
        return sorted(rounds, key=lambda one: one.waiting)[len(rounds) // 2]


def _settings(
    packed: str | Path, regime: str, width: int, batch_size: int, device: str, given: TrainSettings | None
) -> TrainSettings:
    """What is measured, every choice but the batch size made."""
    opened, chosen = open_packed(packed), given or TrainSettings()
    on_cuda = choose_compute(device, chosen.execution.precision).device.type == "cuda"
    if not regime and not given:
        regime = _fitting_regime(fitting_regimes(opened), chosen.regime, str(packed), list(opened.splits))
    changes = {"data": str(packed), "device": device, "steps": ENDLESS, "engine": "auto", "plateau": None}
    changes |= {"regime": regime} if regime else {}
    changes |= {"width": width} if width else {"width": chosen.model.width if given or on_cuda else advice.NARROW}
    changes |= {"batch_size": batch_size} if batch_size else {}
    chosen = chosen.updated(changes, "command line")
    found = regime_named(chosen.regime)
    if found.parents and not chosen.init:
        raise UsageError(
            f"regime {found.name} starts from {' and '.join(found.parents)}; measure a regime without parents, such as"
            f" {' or '.join(fitting_regimes(opened)) or 'lowres32'}: its loader and its step are the same"
        )
    return chosen


def _fitting_regime(fitting: list[str], usual: str, packed: str, splits: list[str]) -> str:
    """The regime that ``train`` takes unless told otherwise, else the first that fits."""
    if not fitting:
        raise UsageError(f"{packed}: no built-in regime is trained on {', '.join(splits)} alone; give --regime")
    return usual if usual in fitting else fitting[0]


def _pick(setup: RunSetup) -> tuple[str, str]:
    """The engine that ``auto`` takes, and why."""
    return pick_engine("auto", situation(setup.stream, setup.compute))


def _open_engines(setup: RunSetup, stack: ExitStack) -> tuple[dict[str, Iterator[Batch]], dict[str, str]]:
    """Endless batches of each engine that works here, and why each other does not. Raises HrfrError for none."""
    feeds: dict[str, Iterator[Batch]] = {}
    absent: dict[str, str] = {}
    for verdict in diagnose(collect_facts(None)).engines:
        if not verdict.works:
            absent[verdict.engine] = f"{verdict.text}; {verdict.fix}" if verdict.fix else verdict.text
            continue
        try:
            engine = _engine(verdict.engine, setup, stack)
            feeds[verdict.engine] = iter(engine.batches(0, ENDLESS * setup.stream.batch_size))
            next(feeds[verdict.engine])
        except (HrfrError, ImportError, OSError, RuntimeError) as error:
            feeds.pop(verdict.engine, None)
            if verdict.engine == setup.engine.name:
                raise
            absent[verdict.engine] = next(iter(str(error).splitlines()), type(error).__name__)
    return feeds, absent


def _engine(name: str, setup: RunSetup, stack: ExitStack) -> Engine:
    """The engine ``name``: the run's own where that is the one, or its pixels would lie in GPU memory twice.

    Raises UsageError where another one would stand in for it.
    """
    if name == setup.engine.name:
        return setup.engine
    standing_in, reason = pick_engine(name, situation(setup.stream, setup.compute))
    if standing_in != name:
        raise UsageError(reason)
    asked = setup.settings.replaced(engine=name)
    return stack.enter_context(choose_engine(asked, setup.stream, setup.compute, lambda _: None))


def _drain(batches: Iterator[Batch]) -> None:
    """Take what was made in advance."""
    for _ in islice(batches, AHEAD):
        pass


def _loading(name: str, batches: Iterator[Batch], setup: RunSetup) -> TimedSteps:
    def load(count: int) -> None:
        for _ in islice(batches, count):
            pass
        wait(setup.compute)

    return TimedSteps(name, load, setup.stream.batch_size, before=lambda: _drain(batches))


def _least_steps(setup: RunSetup) -> int:
    """One step on a CPU, where it may take seconds; on a GPU the second one still tunes."""
    return 1 if setup.compute.device.type == "cpu" else 2


def in_turns(
    measured: list[TimedSteps], seconds: float, least: int, show_progress: bool, budget: float = BUDGET
) -> None:
    """Warm all up, then rounds in turns (A B B A), so that what slows the machine down for a while slows all.

    No further round begins that would end after ``budget`` seconds by how long the last one took.
    """
    clock, each = measured[0].clock, min(seconds, budget / len(measured)) / ROUNDS
    began = clock()
    with progress_bar(show_progress) as progress:
        line = progress.add_task("measuring", total=(1 + ROUNDS) * len(measured), note="")

        def tell(steps: TimedSteps) -> TimedSteps:
            progress.update(line, advance=1, note=steps.name)
            return steps

        for steps in measured:
            tell(steps).calibrate(each, least)
        last = 0.0
        for number in range(ROUNDS):
            started = clock()
            if number and started - began + last > budget:
                break
            for steps in measured if number % 2 == 0 else measured[::-1]:
                tell(steps).round()
            last = clock() - started


def _machine(setup: RunSetup, load: float) -> Machine:
    on_cuda = setup.compute.device.type == "cuda"
    peak = torch.cuda.max_memory_reserved(setup.compute.device) if on_cuda else 0
    total = torch.cuda.get_device_properties(setup.compute.device).total_memory if on_cuda else 0
    return Machine(
        str(setup.compute), cores(), torch.get_num_threads(), load, fastest_precision(on_cuda), memory()[1], peak, total
    )  # fmt: skip
