"""Summary of one quantity over the seeds of a regime: mean, 95 % interval and spread."""

from dataclasses import dataclass

from hrfr_fast.evaluation.compare import Estimate

Interval = tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """A quantity over the seeds of a regime: mean, 95 % interval, p for the hypothesis that it is 0."""

    value: float
    interval: Interval
    by_seed: dict[str, float]
    p: float | None = None
    seed_spread: float | None = None
    """Standard deviation; None for one seed."""


def summarize(estimate: Estimate, units: int, *, rate: bool = True) -> Summary:
    """See ``Estimate.summary``."""
    values = estimate.summary(units, rate=rate)
    low, high = values["interval"]
    return Summary(**values | {"interval": (low, high)})
