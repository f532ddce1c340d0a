"""GPU hours of `hrfr-fast study --preset remedies` at the size of the paper, computed from the roofline.

    python tools/remedies_cost.py                           # one card, half of the roofline's rate (assumed)
    python tools/remedies_cost.py --images-per-second 6000  # highlow144 as `hrfr-fast bench` measured it

Nothing here was run at this size. What a remedy adds to a step is counted as forward passes, the backward pass costing
twice as much; scoring and reports are not counted.
"""

import math
import sys
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.roofline import roofline_seconds, step_operations  # noqa: E402
from hrfr_fast.model.backbone import BackboneSettings  # noqa: E402
from hrfr_fast.regimes import Regime, regime_named  # noqa: E402
from hrfr_fast.study.candidates import Remedies  # noqa: E402
from hrfr_fast.study.cost import FORWARD  # noqa: E402
from hrfr_fast.study.plan import COUNTED_IN  # noqa: E402
from hrfr_fast.study.presets import PRESETS  # noqa: E402
from tools.scale_constants import MEASURED  # noqa: E402

FACES = {"lowres": 1_000_000, "highres": 10_000}
PEOPLE = {"lowres": 50_000, "highres": 2_500}


def roofline_rate(size: int, classes: int, batch: int) -> float:
    """Images a second of one card at the roofline, a training step of IR-SE-18 and its head."""
    operations = step_operations(BackboneSettings(input_size=size), classes, batch)
    ceilings = (MEASURED[name].value for name in ("FLOP/s of a card", "bytes/s of a card's memory"))
    return batch / roofline_seconds(operations, *ceilings)


def work_of(regime: Regime) -> float:
    """Cost of a step beside one without a second network: a second one that embeds a whole batch adds a forward pass,
    which is the most that a teacher or a moving copy of the network may cost."""
    return 1 + FORWARD * (bool(regime.contrast) + bool(regime.teacher))


def runs_of(remedies: Remedies, seeds: int) -> list[tuple[str, Regime, int]]:
    """Label, regime and number of runs of every row; the best together count as the two dearest ones."""
    rows = {remedies.base: (regime_named(remedies.base), seeds)}
    for candidate in remedies.candidates:
        rows |= {name: (regime_named(name), seeds) for name in candidate.needed()}
        for number, (label, regime) in enumerate(candidate.variants()):
            rows[label] = (regime, seeds if number == 0 else 1)
    dearest = max((regime for regime, _ in rows.values()), key=work_of)
    rows["best together"] = (dearest.replaced(contrast=1.0, teacher="highres144", second_view=True), seeds)
    return [(label, regime, count) for label, (regime, count) in rows.items()]


def main(
    roofline_share: Annotated[float, typer.Option(help="share of the roofline that a step reaches (assumed)")] = 0.5,
    images_per_second: Annotated[float, typer.Option(help="of highlow144 on one card, measured, instead")] = 0.0,
) -> None:
    """Print a row for each regime: runs, steps, images and hours of one card."""
    preset = PRESETS["remedies"]
    assert preset.remedies is not None
    hours, batch = 0.0, preset.batch_size(144)
    classes = sum(PEOPLE.values())
    rate = images_per_second or roofline_share * roofline_rate(144, classes, batch)
    typer.echo(f"one card: {rate:,.0f} images/s of highlow144 at 144 px and {classes:,} classes, {batch} a step")
    for label, regime, runs in runs_of(preset.remedies, preset.seeds):
        split = COUNTED_IN[regime.budget]
        steps = math.ceil(preset.epochs[regime.budget] * FACES[split] / batch)
        own = runs * steps * batch * work_of(regime) / rate / 3600
        hours += own
        typer.echo(f"{label:24}{runs:3} runs x {steps:,} steps, {work_of(regime):.2f} times the work: {own:6.1f} h")
    typer.echo(f"in all {hours:,.0f} hours of one card, {hours / 8:,.0f} of eight with --on ray")


if __name__ == "__main__":
    typer.run(main)
