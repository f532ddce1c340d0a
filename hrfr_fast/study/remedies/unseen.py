"""What of the degradation that probes are tested on no training has seen: its side, its kernel, or both together.

The kernel is seen by none, see ``plan.held_out``. The side may be drawn by training whose second views are degraded as
native low resolution is; there the kernel and the combination of both are what is new.
"""

from collections.abc import Sequence

from hrfr_fast.analysis.embedding_cache import HELD_OUT
from hrfr_fast.study.plan import StudyPlan, StudyRun


def unseen_part(plan: StudyPlan, labels: Sequence[str]) -> str:
    """Sentences about the runs of ``labels``, from the settings that they were trained with."""
    by_sides: dict[tuple[int, int], list[str]] = {}
    for label in labels:
        run = plan.of(label)[0]
        if run.regime.second_view:
            by_sides.setdefault(_sides(run, plan), []).append(label)
    side, said = HELD_OUT.size, []
    for (least, most), names in by_sides.items():
        where = f"{', '.join(names)}: sides of {least} to {most} px in training, "
        said.append(where + (f"{side} px among them" if least <= side <= most else f"never {side} px"))
    alone = [label for label in labels if not plan.of(label)[0].regime.second_view]
    if alone:
        said.append(f"{', '.join(alone)}: no degraded views at all")
    return (
        f"Probes are tested on faces of {side} px by a Lanczos kernel. No training here downsampled with that kernel."
        f" {'; '.join(said)}. Where {side} px were among the sides, the kernel and the combination of both are what is"
        " unseen, and the probe says less."
    )


def _sides(run: StudyRun, plan: StudyPlan) -> tuple[int, int]:
    """Least and greatest side of second views in pixels."""
    if run.regime.degradation == "native":
        source, drawn = plan.packed.splits["highres"].size, run.settings.degradation
        return round(drawn.side_min * source), round(drawn.side_max * source)
    return run.settings.sampling.degrade_min, run.settings.sampling.degrade_max
