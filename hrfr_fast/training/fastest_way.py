"""The fastest way to execute a step on this card: tried for some seconds once, and remembered.

Eager or as one CUDA graph; by torch's layers, compiled, or with fused kernels of our own: which is fastest depends on
the card, the network, the size and the batch, and no rule knows it. So those that ``auto`` leaves open are timed on the
run's own batch, every effect undone, and the result lies in the user's cache until the card, torch, Triton, the
kernels or the step is another.
"""

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hrfr_fast.runtime.caches import cache_home, private_folder, writable
from hrfr_fast.runtime.errors import HrfrError
from hrfr_fast.runtime.files import write_json
from hrfr_fast.training.fused_kernels import switch_gpu_kernels

if TYPE_CHECKING:
    from hrfr_fast.engines.base import Batch
    from hrfr_fast.training.step import TrainStep

STEPS = 8  # of a trial, after as many to warm up as a capture takes
FOLDER = "fastest-step"


class Way(NamedTuple):
    """How a step is executed."""

    compile: str
    """on or off."""
    graphs: str
    """on or off."""
    kernels: str = "off"
    """on or off: fused kernels, which are in place of compiled ones."""

    def __str__(self) -> str:
        named = {"compiled": self.compile, "fused kernels": self.kernels, "one CUDA graph": self.graphs}
        return " and ".join(name for name, choice in named.items() if choice == "on") or "eager"


def open_ways(compile: str, graphs: str, kernels: str = "off") -> list[Way]:
    """The ways that ``auto | on | off`` leave open, the simplest first; none is compiled and has fused kernels."""
    choices = {"auto": ("off", "on"), "on": ("on",), "off": ("off",)}
    ways = [Way(*way) for way in product(choices[compile], choices[graphs], choices[kernels])]
    return [way for way in ways if (way.compile, way.kernels) != ("on", "on")]


Measure = Callable[[Way], float]
"""Seconds of a step executed in this way. It raises whatever stands in the way of that."""


class Remembered:
    """Results of earlier trials, a file each in ``folder``; None: the user's cache directory.

    Damaged files and a folder that cannot be written to are as good as none.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or _cache()

    def _file(self, key: dict[str, Any]) -> Path:
        digest = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=12).hexdigest()
        return self.folder / f"{digest}.json"

    def find(self, key: dict[str, Any], ways: Sequence[Way]) -> Way | None:
        """The fastest of ``ways`` in an earlier trial of exactly these."""
        try:
            found = json.loads(self._file(key).read_bytes())
            tried = [Way(*way) for way in found["ways"]]
            way = Way(*found["fastest"])
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return way if found["key"] == key and tried == list(ways) and way in ways else None

    def keep(self, key: dict[str, Any], ways: Sequence[Way], fastest: Way, seconds: dict[str, float]) -> None:
        """Remember a trial. ``seconds``: of a step, by way in words, for people who look."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self._file(key), {"key": key, "ways": ways, "fastest": fastest, "seconds_a_step": seconds})
        except (OSError, HrfrError):
            pass


def _cache() -> Path:
    folder = cache_home() / "hrfr-fast" / FOLDER
    return folder if writable(folder) else (private_folder() or folder) / FOLDER


def fastest_way(
    key: dict[str, Any], ways: Sequence[Way], measure: Measure, remembered: Remembered, say: Callable[[str], None]
) -> Way:
    """The fastest of ``ways``: the only one, the one of an earlier trial with this ``key``, or the one measured now.

    A way that raises is left out, and ``say`` is told why. Where all do it is the simplest: the run's own step, taken
    that way, then raises what stands in its way, and whoever takes the step knows what to say of it.
    """
    if len(ways) == 1:
        return ways[0]
    if known := remembered.find(key, ways):
        say(f"step: {known}, the fastest way in an earlier trial here (kept in {remembered.folder})")
        return known
    say(f"trying {len(ways)} ways to execute the step, once for this card, network and batch ...")
    seconds: dict[Way, float] = {}
    for way in ways:
        try:
            seconds[way] = measure(way)
        except Exception as error:  # compilers and CUDA fail in many ways; a mistake of ours shows in the plain step
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            say(f"step: {way} is left out: {reason}")
    if not seconds:
        return ways[0]
    fastest = min(seconds, key=lambda way: seconds[way])
    table = ", ".join(f"{way} {1000 * one:.3g} ms" for way, one in seconds.items())
    say(f"step: {fastest} is the fastest way ({table})")
    remembered.keep(key, ways, fastest, {str(way): one for way, one in seconds.items()})
    return fastest


def step_key(step: "TrainStep", batch: "Batch") -> dict[str, Any]:
    """What decides which way is fastest: the card, torch, and every shape and mode of the step."""
    import torch

    device = step.compute.device
    shapes = [[list(p.shape), str(p.dtype), p.requires_grad] for part in step.trained_parts for p in part.parameters()]
    modes = [[type(m).__name__, m.training] for part in step.trained_parts for m in part.modules()]
    network = hashlib.blake2b(json.dumps([shapes, modes]).encode(), digest_size=12).hexdigest()
    return {
        "card": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "triton": _triton_version(),
        "kernels": _kernels_digest(),
        "network": network,
        "batch": [list(batch.images.shape), str(batch.images.dtype)],
        "autocast": str(step.compute.autocast_dtype),
        "accumulate": step.accumulate,
        "clipped": bool(step.clip_gradient),
        "optimizer": type(step.optimizer).__name__,
        "references": type(step.references).__name__,
    }


def _kernels_digest() -> str:
    """Of the sources of the fused kernels, which change between releases, too; 24 hexadecimal digits."""
    from hrfr_fast.model import kernels

    sources = sorted(Path(kernels.__path__[0]).glob("*.py"))
    return hashlib.blake2b(b"".join(path.read_bytes() for path in sources), digest_size=12).hexdigest()


def _triton_version() -> str:
    """The compiler of kernels, which may be updated without torch; "" where there is none."""
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return ""


def timed(step: "TrainStep", batch: "Batch", clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one of ``step``'s steps on ``batch``. Weights, momenta and generators are afterwards as before."""
    from hrfr_fast.training.unchanged import unchanged

    step.prepare(batch)
    with unchanged(step.owned, step.optimizer, step.scaler, step.compute.device):
        for _ in range(2):
            step(batch, 0)
        step.wait()
        began = clock()
        for _ in range(STEPS):
            step(batch, 0)
        step.wait()
        return (clock() - began) / STEPS


def choose_way(step: "TrainStep", batch: "Batch", remembered: Remembered | None = None) -> None:
    """Settle ``compile``, ``graphs`` and ``kernels`` of ``step``, by a trial on ``batch`` where more than one is open.

    What was compiled for it is kept. ``compile`` and ``graphs`` that are ``auto`` stay so where they were chosen: one
    that fails later is gone on without.
    """
    trials: dict[Way, TrainStep] = {}

    def measure(way: Way) -> float:
        trial = step.executed(*way)
        switch(way)
        try:
            seconds = timed(trial, batch)
        finally:
            trial.release_graph()
        trials[way] = trial
        return seconds

    def switch(way: Way) -> None:
        if step.kernels == "auto":
            switch_gpu_kernels(step.owned, on=way.kernels == "on")

    ways = open_ways(step.compile, step.graphs, step.kernels)
    way = fastest_way(step_key(step, batch), ways, measure, remembered or Remembered(), step.say)
    switch(way)
    if way in trials:
        step.take_over(trials[way])
    step.compile = "off" if way.compile == "off" else step.compile
    step.graphs = "off" if way.graphs == "off" else step.graphs
    step.kernels = way.kernels
