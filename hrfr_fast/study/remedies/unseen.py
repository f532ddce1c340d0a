"""What of the degradations that probes are tested on no training has seen: its side, its kernel, or both together.

The kernel is seen by none, see ``plan.held_out``. The side may be drawn by training whose second views are degraded as
native low resolution is; there the kernel and the combination of both are what is new.
"""

from collections.abc import Sequence

from hrfr_fast.analysis.embedding_cache import HELD_OUT_VIEWS
from hrfr_fast.study.plan import StudyPlan, StudyRun


def unseen_part(plan: StudyPlan, labels: Sequence[str]) -> str:
    """Sentences about the runs of ``labels``, from the settings that they were trained with."""
    by_sides: dict[tuple[int, int], list[str]] = {}
    for label in labels:
        run = plan.of(label)[0]
        if run.regime.second_view:
            by_sides.setdefault(_sides(run, plan), []).append(label)
    tested, said = [view.size for view in HELD_OUT_VIEWS], []
    for (least, most), names in by_sides.items():
        drawn = [side for side in tested if least <= side <= most]
        among = f"{_pixels(drawn)} among them" if drawn else f"never {_pixels(tested)}"
        said.append(f"{', '.join(names)}: sides of {least} to {most} px in training, {among}")
    alone = [label for label in labels if not plan.of(label)[0].regime.second_view]
    if alone:
        said.append(f"{', '.join(alone)}: no degraded views at all")
    return (
        f"Probes are tested on faces of {_pixels(tested)} by a Lanczos kernel. No training here downsampled with that"
        f" kernel. {'; '.join(said)}. Where a side was among those of training, the kernel and the combination of both"
        " are what is unseen, and the probe says less."
    )


def _pixels(sides: Sequence[int]) -> str:
    return f"{' and '.join(map(str, sorted(sides)))} px"


def _sides(run: StudyRun, plan: StudyPlan) -> tuple[int, int]:
    """Least and greatest side of second views in pixels."""
    if run.regime.degradation == "native":
        source, drawn = plan.packed.splits["highres"].size, run.settings.degradation
        return round(drawn.side_min * source), round(drawn.side_max * source)
    return run.settings.sampling.degrade_min, run.settings.sampling.degrade_max
