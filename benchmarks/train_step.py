"""Speed of training: the whole run, the same step on one constant batch, and a common eager step, side by side.

    python benchmarks/train_step.py            # under 3 minutes on 2 cores
    python benchmarks/train_step.py --quick
    python benchmarks/train_step.py --data packed --width 64 --batch-size 1024    # as on a GPU

Rounds alternate (A B A B) and medians are reported. The ceilings of the roofline, the rates of a matrix product and of
a copy, are measured in the same run. Results go to the JSON file in --out.
"""

import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.command import run  # noqa: E402
from benchmarks.record import record  # noqa: E402
from benchmarks.step_timing import free_memory, measure_ceilings, peak_bytes  # noqa: E402
from benchmarks.training_steps import (  # noqa: E402
    best_eager_steps,
    eager_steps_beside_ours,
    plain_shape,
)
from hrfr_fast.settings import TrainSettings, choices  # noqa: E402
from hrfr_fast.training.build import build  # noqa: E402
from hrfr_fast.training.timed_steps import ENDLESS, TimedSteps, constant_batch, whole_run  # noqa: E402
from hrfr_fast.training.trial import Trial  # noqa: E402

if TYPE_CHECKING:
    from benchmarks.roofline import Operation
    from hrfr_fast.training.trainer import Trainer

REGIMES = ("lowres32", "highlow144")
PEER_BATCHES = (128, 256, 512, 1024)


def measure(settings: TrainSettings, engines: tuple[str, ...], rounds: int, seconds: float) -> dict[str, Any]:
    """The result of one regime, all steps measured in turns.

    All of ours share one trainer; engines that do not work here are listed as problems.
    """
    from hrfr_fast.engines.choice import choose_engine
    from hrfr_fast.runtime.errors import HrfrError

    timed, problems = [], {}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        trainer = stack.enter_context(Trial(build(settings.replaced(out=f"{folder}/run")), show_progress=False))
        trainer.start()
        trainer.setup.backbone.train()
        trainer.setup.head.train()
        on_cuda = trainer.setup.compute.device.type == "cuda"
        peer = best_eager_steps(trainer, PEER_BATCHES if on_cuda else (trainer.setup.stream.batch_size,), seconds)
        before = free_memory(trainer.setup.compute)
        ceiling = constant_batch(trainer)
        ceiling.calibrate(seconds)
        ceiling.details["peak_bytes"] = peak_bytes(trainer.setup.compute, before)
        for name in engines:
            try:
                asked = trainer.setup.settings.replaced(engine=name)
                engine = choose_engine(asked, trainer.setup.stream, trainer.setup.compute, print)
                stack.callback(engine.close)
                steps = whole_run(trainer, engine)
                steps.calibrate(seconds)
                timed.append(steps)
            except (HrfrError, ImportError, RuntimeError) as error:
                problems[name] = str(error).splitlines()[0]
        peer = eager_steps_beside_ours(trainer, peer, seconds)
        for _ in range(rounds):
            for steps in (*timed, ceiling, *([peer] if peer.details["in_turns"] else [])):
                steps.round()
        return report(trainer, timed, ceiling, peer) | {"problems": problems}


def report(trainer: "Trainer", timed: list[TimedSteps], ceiling: TimedSteps, peer: TimedSteps) -> dict[str, Any]:
    """Rates, ratios, utilisation and share of the roofline of one regime."""
    from benchmarks.roofline import roofline_seconds, step_operations

    ceilings = measure_ceilings(trainer.setup.compute)
    batch, number = trainer.setup.stream.batch_size, trainer.setup.compute.image_dtype.itemsize
    momenta = 2 if trainer.setup.settings.optimizer.optimizer == "adamw" else 1
    operations = step_operations(
        plain_shape(trainer), trainer.setup.stream.classes, batch, activation_bytes=number, momenta=momenta
    )
    floor = batch / roofline_seconds(operations, ceilings.flops_per_second, ceilings.bytes_per_second)
    flops = sum(operation.flops for operation in operations) / batch

    def row(steps: TimedSteps) -> dict[str, Any]:
        rate = steps.images_per_second
        return {
            "name": steps.name, "batch_size": steps.batch_size, "images_per_second": rate,
            "slowest": min(steps.rates), "fastest": max(steps.rates),
            "of_constant_batch": rate / ceiling.images_per_second, "times_eager": rate / peer.images_per_second,
            "utilisation": rate * flops / ceilings.flops_per_second, "of_roofline": rate / floor, **steps.details,
        }  # fmt: skip

    return {
        "regime": trainer.setup.regime.name, "size": trainer.setup.stream.size,
        "width": trainer.setup.settings.model.width,
        "classes": trainer.setup.stream.classes, "batch_size": batch, "device": str(trainer.setup.compute),
        "compile": trainer.state.execution.compile, "graphs": trainer.state.execution.graphs,
        "ceilings": asdict(ceilings), "roofline_images_per_second": floor, "flops_per_image": flops,
        "bytes_per_image": sum(operation.bytes for operation in operations) / batch,
        "operations": [operation._asdict() for operation in operations],
        "rows": [row(steps) for steps in (*timed, ceiling, peer)],
    }  # fmt: skip


def show(result: dict[str, Any]) -> None:
    """Print two tables: the roofline by kind of operation, and the rates."""
    from benchmarks.roofline import Operation
    from hrfr_fast.runtime.terminal import print_rows

    show_roofline([Operation(**operation) for operation in result["operations"]], result)
    rows = [
        (
            row["name"], f"{row['images_per_second']:,.0f}", f"{row['slowest']:,.0f} .. {row['fastest']:,.0f}",
            f"{row['of_constant_batch']:.1%}", f"{row['times_eager']:.2f}", f"{row['utilisation']:.1%}",
            f"{row['of_roofline']:.1%}", f"{row.get('peak_bytes', 0) / 2**20:,.0f}" if row.get("peak_bytes") else "",
        )
        for row in result["rows"]
    ]  # fmt: skip
    print_rows(
        ("", "images/s", "slowest .. fastest\nround", "% of constant\nbatch", "times\neager", "% of peak\nFLOP/s",
         "% of\nroofline", "peak\nMiB"), rows,
        title=f"{result['regime']}: {result['size']} px, width {result['width']}, {result['classes']:,} classes, "
        f"batch {result['batch_size']} on {result['device']}; compile {result['compile']}, graphs {result['graphs']}",
        right=range(1, 8),
    )  # fmt: skip
    for engine, problem in result["problems"].items():
        typer.echo(f"  NOT MEASURED: engine {engine}: {problem}")


def show_roofline(operations: "list[Operation]", result: dict[str, Any]) -> None:
    """Print GFLOP, MB and microseconds per image of each kind of operation, at the measured ceilings."""
    from benchmarks.roofline import by_kind, roofline_seconds
    from hrfr_fast.runtime.terminal import print_rows

    flops, memory = result["ceilings"]["flops_per_second"], result["ceilings"]["bytes_per_second"]
    batch, rows = result["batch_size"], []
    for kind, total in by_kind(operations).items():
        seconds = roofline_seconds((operation for operation in operations if operation.kind == kind), flops, memory)
        rows.append((kind, f"{total.flops / batch / 1e9:.3f}", f"{total.bytes / batch / 1e6:.2f}",
                     f"{seconds / batch * 1e6:.2f}"))  # fmt: skip
    print_rows(
        ("operation", "GFLOP/image", "MB/image", "us/image"), rows, right=range(1, 4),
        title=f"roofline at {flops / 1e12:,.2f} TFLOP/s and {memory / 1e9:,.0f} GB/s: "
        f"{result['roofline_images_per_second']:,.0f} images/s",
    )  # fmt: skip


def packed_faces(data: Path | None, cache: Path) -> Path:
    """The packed directory given, or a small parametric set that is made once."""
    from hrfr_fast.synthetic.packed import synthesize_packed

    if data is not None:
        return data
    packed = cache / "packed-small"
    if not (packed / "manifest.json").exists():
        synthesize_packed(packed, "small")
    return packed


def main(
    data: Annotated[Path | None, typer.Option(help="packed faces; a small parametric set if not given")] = None,
    cache: Annotated[Path, typer.Option(help="where the parametric set is kept")] = Path("benchmarks/data"),
    quick: Annotated[bool, typer.Option("--quick", help="one regime, short rounds")] = False,
    regime: Annotated[list[str] | None, typer.Option(help="only this regime; may be repeated")] = None,
    engine: Annotated[list[str] | None, typer.Option(help="only this engine; may be repeated")] = None,
    device: Annotated[str, typer.Option(help="auto | cpu | cuda")] = "auto",
    precision: Annotated[str, typer.Option(help="auto | bf16 | fp16 | fp32, of our step")] = "auto",
    compile: Annotated[str, typer.Option(help="auto | on | off; auto compiles on CUDA")] = "auto",
    graphs: Annotated[str, typer.Option(help="auto | on | off")] = "auto",
    fused_kernels: Annotated[str, typer.Option(help="auto | on | off")] = "auto",
    width: Annotated[int, typer.Option(help="0: 64 on a GPU, 16 on a CPU")] = 0,
    batch_size: Annotated[int, typer.Option(help="0: 1024 on a GPU; 64 (32 px) or 16 (144 px) on a CPU")] = 0,
    rounds: Annotated[int, typer.Option(help="rounds of each; 0: 5, 2 with --quick")] = 0,
    seconds: Annotated[float, typer.Option(help="of a round; 0: 1.5, 0.5 with --quick")] = 0.0,
    out: Annotated[Path, typer.Option(help="where train_step.json goes")] = Path("benchmarks/out"),
) -> None:
    """Measure images/s of training, side by side, against two measured ceilings."""
    from hrfr_fast.regimes import regime_named
    from hrfr_fast.runtime.device import choose_compute

    on_cuda = choose_compute(device, precision).device.type == "cuda"
    packed = packed_faces(data, cache)
    engines = tuple(engine or (name for name in choices("engine") if name != "auto"))
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for name in regime or (REGIMES[:1] if quick else REGIMES):
        size = regime_named(name).input_size
        settings = TrainSettings(
            regime=name, data=str(packed), steps=ENDLESS, device=device, precision=precision, compile=compile,
            graphs=graphs, fused_kernels=fused_kernels, width=width or (64 if on_cuda else 16),
            batch_size=batch_size or (1024 if on_cuda else 64 if size <= 64 else 16),
        )  # fmt: skip
        results.append(measure(settings, engines, rounds or (2 if quick else 5), seconds or (0.5 if quick else 1.5)))
        show(results[-1])
        (out / "train_step.json").write_text(
            json.dumps(record("train_step", results), indent=1) + "\n", encoding="utf-8"
        )
    typer.echo(f"{out}/train_step.json")


if __name__ == "__main__":
    run(main)
