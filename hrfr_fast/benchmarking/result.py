"""What was measured on one machine: the rates of loaders and steps, and the facts that explain them."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hrfr_fast.engines.choice import Situation
from hrfr_fast.settings import TrainSettings
from hrfr_fast.training.speed import Throughput

if TYPE_CHECKING:
    from hrfr_fast.training.timed_steps import TimedSteps


@dataclass(frozen=True)
class Rate:
    """Images a second of one loader, or of the step: the median over rounds, the slowest and the fastest."""

    name: str
    images_per_second: float
    slowest: float
    fastest: float
    cores_busy: float
    """CPU seconds of the process for each second; with a GPU, of the host alone."""

    @classmethod
    def of(cls, steps: "TimedSteps") -> "Rate":
        """Of all rounds of ``steps``."""
        return cls(steps.name, steps.images_per_second, min(steps.rates), max(steps.rates), steps.cores_busy)


@dataclass(frozen=True)
class Machine:
    """What this process may use, and who else uses it."""

    device: str
    """Name, and the number format of the run."""
    cores: int
    threads: int
    """That torch computes with."""
    load: float
    """Load average of the last minute, before anything was measured; 0 where the system tells none."""
    fastest_precision: str
    memory_available: int
    """Bytes of host memory left while everything was open."""
    gpu_peak: int = 0
    """Most bytes of GPU memory that this process had reserved; 0 without a GPU."""
    gpu_total: int = 0


@dataclass(frozen=True)
class BenchResult:
    """The measurements of one regime on one packed directory.

    Attributes:
        settings: as resolved: what ``train`` would run with.
        faces: samples of an epoch, a pass over the first split.
        engines: rates of the loaders that work here.
        absent: why each other one was not measured.
        picked: the engine that ``auto`` takes, which fed the step.
        reason: why ``auto`` takes it.
        constant: the step on one batch that is already on the device.
        fed: the step fed by ``picked``.
        speed: what ``train`` says of the fed step: share of waiting, and the limit.
    """

    packed: str
    settings: TrainSettings
    size: int
    classes: int
    faces: float
    machine: Machine
    situation: Situation
    engines: tuple[Rate, ...]
    absent: dict[str, str]
    picked: str
    reason: str
    constant: Rate
    fed: Rate
    speed: Throughput

    @property
    def of_constant(self) -> float:
        """Rate of the fed step over that of the constant batch."""
        return self.fed.images_per_second / self.constant.images_per_second

    def engine(self, name: str) -> Rate:
        """The rate of the engine ``name``, one of ``engines``."""
        return next(rate for rate in self.engines if rate.name == name)

    def to_json(self) -> dict[str, Any]:
        """All fields; the settings that decide the speed in place of all settings, and ``limit`` and ``findings``."""
        from hrfr_fast.benchmarking.findings import findings, limit

        values = {key: value for key, value in asdict(self).items() if key not in ("settings", "speed")}
        used = self.settings
        values["settings"] = {
            "regime": used.regime, "width": used.model.width, "batch_size": used.sampling.batch_size,
            "precision": used.execution.precision,
        }  # fmt: skip
        return values | {
            "speed": {"limit": self.speed.limit, **self.speed.to_json()}, "of_constant": self.of_constant,
            "limit": limit(self), "findings": [finding._asdict() for finding in findings(self)],
        }  # fmt: skip
